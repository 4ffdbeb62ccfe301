"""From what a team sees to what it does: topology, encoder and memory make a `Body`, a head makes it an `Agent`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph, geometry
from gcoord.models.dropout import DropOut
from gcoord.models.heads import Choice, epsilon_greedy
from gcoord.models.heads import greedy as best
from gcoord.models.normaliser import RunningNorm
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation

Topology = Callable[..., AgentGraph]


@dataclass
class Features:
    """h [*, N, D] of every agent (zeros for the dead), the graph they came by, memory [*, N, Dm] after the last row
    (None without memory), and each round's attention [*, H, N, K + 1] where it was asked for."""

    h: Tensor
    graph: AgentGraph
    memory: Tensor | None = None
    attention: list[Tensor] | None = None


class Body(nn.Module):
    """Derives the graph, passes messages along it and remembers.

    Arguments:
        spec: sizes of what is seen.
        topology: `(alive, position, entity_present, entity_position, hears, key) -> AgentGraph`.
        encoder: called with `own_dim`, `entity_dim` and `edge_dim`; gives an nn.Module
            `(own, graph, entities) -> [*, N, out_dim]`.
        memory: called with the encoder's `out_dim`; gives a recurrent module (see `gcoord.models.memory.GRU`), or None.
        edges: give the encoder relative position and distance of each sender, where agents have positions.
        length: unit of length of those edge features, in the world's units.
        normalise: standardise `own` by running statistics of living agents (vector observations only).

    `dropout` (or None) is set by who trains: who is left out of every graph, for the collector as for the learner; who
    evaluates takes it away. `mixed` (bfloat16, or None) is too: the encoder then computes in it under autocast, for the
    collector as for the learner, so that both see the same policy; all else is as the weights are.
    """

    mixed: torch.dtype | None = None
    dropout: DropOut | None = None

    def __init__(
        self,
        spec: TeamSpec,
        topology: Topology,
        encoder: Callable[..., nn.Module],
        memory: Callable[..., nn.Module] | None = None,
        edges: bool = True,
        length: float = 1.0,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if normalise and len(spec.own) != 1:
            raise ValueError(f"expected vector observations to normalise (got {spec.own}); set model.normalise=false")
        self.spec, self.topology = spec, topology
        self.n_kinds = len(spec.kinds)
        self.names_kinds = self.n_kinds > 1 and len(spec.own) == 1
        own_dim = spec.own[0] + self.n_kinds * self.names_kinds if len(spec.own) == 1 else spec.own
        self.edge_dim = spec.position_dim + 1 if edges and spec.position_dim else 0
        self.length = length
        self.normaliser = RunningNorm(spec.own) if normalise else None
        self.encoder: Any = encoder(own_dim=own_dim, entity_dim=spec.entity_dim, edge_dim=self.edge_dim)
        self.memory: Any = memory(self.encoder.out_dim) if memory is not None else None
        self.out_dim = cast(int, (self.memory or self.encoder).out_dim)

    def graph(self, seen: Observation, key: Tensor | None = None) -> AgentGraph:
        """The graph of an observation, with edge features where the encoder reads them."""
        graph = self.bare_graph(seen, key)
        if self.dropout is not None:
            graph = self.dropout(graph, key)
        return self.with_geometry(graph, seen)

    def bare_graph(self, seen: Observation, key: Tensor | None = None) -> AgentGraph:
        """Who hears whom by the topology alone: nobody is left out, and edges have no features."""
        return self.topology(
            seen.alive,
            position=seen.position,
            entity_present=seen.entity_present,
            entity_position=seen.entity_position,
            hears=seen.hears,
            key=key,
        )

    def with_geometry(self, graph: AgentGraph, seen: Observation) -> AgentGraph:
        """`graph` with the edge features of `seen`: who hears whom is kept, where they stand is new."""
        if not self.edge_dim or seen.position is None:
            return graph
        return graph.with_edge(geometry(graph, seen.position, seen.entity_position, length=self.length))

    def initial(self, batch_size: tuple[int, ...], n_agents: int, device: Any = None) -> Tensor | None:
        """Memory before the first observation: zeros [*, N, Dm], or None without memory."""
        if self.memory is None:
            return None
        return cast(Tensor, self.memory.initial(*batch_size, n_agents, device=device))

    @torch.no_grad()
    def attends(self, spec: TeamSpec, n_entities: int = 1) -> bool:
        """Whether the encoder gives attention weights: asked on one team of two that sees nothing."""
        m = n_entities if spec.entity_dim else 0
        ones = torch.ones(1, 2 + m, dtype=torch.bool)
        seen = Observation(
            own=torch.zeros(1, 2, *spec.own),
            alive=ones[:, :2],
            kind=ones[:, :2].long() * 0,
            position=torch.zeros(1, 2, spec.position_dim) if spec.position_dim else None,
            entities=torch.zeros(1, m, spec.entity_dim) if m else None,
            entity_position=torch.zeros(1, m, spec.position_dim) if m and spec.position_dim else None,
            entity_present=ones[:, 2:] if m else None,
            hears=ones.unsqueeze(1).expand(1, 2, -1) if spec.hears else None,
            batch_size=[1],
        )
        return bool(self.forward(seen, key=torch.zeros(1, dtype=torch.long), attention=True).attention)

    def _encode(self, seen: Observation, graph: AgentGraph, attention: bool) -> tuple[Tensor, list[Tensor] | None]:
        own = seen.own
        if self.normaliser is not None:
            own = self.normaliser.forward(torch.where(seen.alive.unsqueeze(-1), own, own.new_zeros(())))
        if self.names_kinds:
            kind = torch.where(seen.alive, seen.kind, 0)
            own = torch.cat([own, F.one_hot(kind, self.n_kinds).to(own.dtype)], -1)
        if self.mixed is None:
            out = self.encoder(own, graph, seen.entities, return_attention=attention)
            return out if attention else (out, None)
        with torch.autocast(own.device.type, self.mixed):
            out = self.encoder(own, graph, seen.entities, return_attention=attention)
        h, weights = out if attention else (out, None)
        return h.float(), None if weights is None else [weight.float() for weight in weights]

    def forward(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        attention: bool = False,
    ) -> Features:
        """One row: seen [*], memory [*, N, Dm] -> Features. `graph` None: derive it from `seen` and `key`."""
        graph = self.graph(seen, key) if graph is None else graph
        h, weights = self._encode(seen, graph, attention)
        if self.memory is not None:
            if memory is None:
                memory = self.initial(tuple(seen.batch_size), h.shape[-2], h.device)
            h, memory = self.memory.step(h, memory, seen.alive)
        return Features(h, graph, memory, weights)

    def unroll(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        resets: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        attention: bool = False,
    ) -> Features:
        """Rows in order: seen [T, B], memory [B, N, Dm] before the first, resets [T, B] -> Features of [T, B]."""
        if self.memory is None:
            return self.forward(seen, None, graph, key, attention)
        graph = self.graph(seen, key) if graph is None else graph
        x, weights = self._encode(seen, graph, attention)
        if memory is None:
            memory = self.initial(tuple(seen.batch_size[1:]), x.shape[-2], x.device)
        if resets is None:
            resets = torch.zeros(seen.batch_size, dtype=torch.bool, device=x.device)
        h, memory = self.memory.unroll(x, memory, resets, seen.alive)
        return Features(h, graph, memory, weights)

    def follow(
        self,
        before: Features,
        seen: Observation,
        resets: Tensor,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        attention: bool = False,
    ) -> Features:
        """One row after each row of an unroll: seen [T, B] follows `before` [T, B], whose features are its memory."""
        graph = self.graph(seen, key) if graph is None else graph
        h, weights = self._encode(seen, graph, attention)
        if self.memory is not None:
            memory = torch.where(resets[..., None, None], before.h.new_zeros(()), before.h)
            h, memory = self.memory.step(h, memory, seen.alive)
        return Features(h, graph, None, weights)


@dataclass
class Acted:
    """What `Agent.act` gives: action [*, N] or [*, N, A], its log probability [*, N] (None where a head has none), and
    memory after it."""

    action: Tensor
    log_prob: Tensor | None
    memory: Tensor | None


class Agent(nn.Module):
    """A body and a head: the whole of a trained policy.

    `head` is called with the body's `out_dim`; it gives `(h, available=, kind=) -> Choice`, or action values
    q [*, N, A] and then says by `legal(available, kind)` what may be chosen.
    """

    def __init__(self, body: Body, head: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.body = body
        self.head: Any = head(body.out_dim)

    def read(self, features: Features, seen: Observation, key: Tensor | None = None) -> Choice | Tensor:
        """What the head says of features of `seen`: a Choice, or q [*, N, A]. A head with `reads_seen` is also given
        the observation and the rows' keys, one with `reads_graph` who hears whom."""
        more: dict[str, Any] = {"seen": seen, "key": key} if getattr(self.head, "reads_seen", False) else {}
        if getattr(self.head, "reads_graph", False):
            more["graph"] = features.graph
        return cast(Choice | Tensor, self.head(features.h, available=seen.available, kind=seen.kind, **more))

    def legal(self, seen: Observation) -> Tensor | None:
        """[*, N, A] bool: what may be chosen (None: everything), for heads of action values."""
        return cast(Tensor | None, self.head.legal(seen.available, seen.kind))

    def forward(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
    ) -> tuple[Choice | Tensor, Features]:
        """seen [*] -> (Choice over [*, N] or q [*, N, A], Features)."""
        features = self.body(seen, memory, graph, key)
        return self.read(features, seen, key), features

    def unroll(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        resets: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        attention: bool = False,
    ) -> tuple[Choice | Tensor, Features]:
        """seen [T, B] in order -> (Choice over [T, B, N] or q [T, B, N, A], Features)."""
        features = self.body.unroll(seen, memory, resets, graph, key, attention)
        return self.read(features, seen, key), features

    @torch.no_grad()
    def act(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        key: Tensor | None = None,
        greedy: bool = False,
        epsilon: float = 0.0,
    ) -> Acted:
        """Chooses: the mode or best action if greedy, else a sample, or the best by action values; where an agent's lot
        is below `epsilon`, it acts at random by action values, and samples where it would else take the mode. A choice
        that is no mode explores by `epsilon` as it says itself (`Choice.explore`)."""
        read, features = self(seen, memory, key=key)
        if isinstance(read, Tensor):
            legal = self.legal(seen)
            action = best(read, legal) if greedy and not epsilon else epsilon_greedy(read, epsilon, legal)
            return Acted(action, None, features.memory)
        if greedy:
            action = read.mode()
            if epsilon:
                explores = torch.rand(seen.alive.shape, device=action.device) < epsilon
                explores = explores.view(*explores.shape, *(1,) * (action.dim() - explores.dim()))
                action = torch.where(explores, read.sample(), action)
            return Acted(action, None, features.memory)
        if epsilon:
            return Acted(read.explore(epsilon), None, features.memory)
        action = read.sample()
        return Acted(action, read.log_prob(action), features.memory)
