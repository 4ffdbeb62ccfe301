"""Communication under test: the same policy where what agents hear of each other is changed, and nothing else.

A condition is text, such as `cut=0.5` or `delay=1+noise=0.1`:

    none         nothing
    cut=p        every message is lost with probability p, each on its own
    delay=d      what is heard was sent d steps before, the place it was sent from too; before that, nothing
    shuffle      every message comes from another living agent than it seems to (place and distance stay the sender's)
    noise=s      messages, and the places they tell, are off by s of their size (root mean square)
    leave=p      a share p of the agents neither hear nor are heard from some step in the first half of the episode on
    join=p       ... until some step in the first half of the episode
    k=n, r=x     n nearest are heard; nobody further away than x is
    mute         words that a world carries (`gcoord.scaleup.speech`) are not heard; the graph's messages are

What an agent senses itself stays (but for words under `mute`), entities are sensed and not said, and actions are the
policy's own. Everything is drawn from the steps' keys, so that an episode can be played again.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph, geometry
from gcoord.models.agent import Agent, Body, Features
from gcoord.scaleup.speech import Speech, muted
from gcoord.scaleup.wires import PLACE, Wire, bits, from_copies, lay, normal, swapped, uniform
from gcoord.trajectory import Observation

CUT, LOT, WHEN = 24, 25, 26
LIMIT = 100  # steps that an episode without a limit is taken to have


@dataclass(frozen=True)
class Condition:
    """What is changed; see the module's table. Raises ValueError for shares that are none."""

    cut: float = 0.0
    delay: int = 0
    shuffle: bool = False
    noise: float = 0.0
    leave: float = 0.0
    join: float = 0.0
    k: int | None = None
    r: float | None = None
    mute: bool = False

    def __post_init__(self) -> None:
        for name in ("cut", "leave", "join"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} between 0 and 1 (got {getattr(self, name)!r})")
        for name, least in (("noise", 0.0), ("delay", 0), ("k", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"expected {name} of at least {least} (got {value!r})")
        if self.r is not None and not 0 < self.r < math.inf:
            raise ValueError(f"expected r above 0 (got {self.r!r})")
        if self.leave and self.join:
            raise ValueError("expected leave or join, not both (got both)")

    @property
    def nothing(self) -> bool:
        return self == Condition()


def canonical(text: str) -> str:
    """A condition's text as it stands in results; `cut:0.5` is the same as `cut=0.5`, which Hydra wants in quotes."""
    return str(text).replace(" ", "").replace(":", "=")


def parse(text: str) -> Condition:
    """A condition from its text. Raises ValueError, in one line, for what is none."""
    fields = {field.name: field.type for field in dataclasses.fields(Condition)}
    values: dict[str, Any] = {}
    for word in canonical(text).split("+"):
        name, given, number = word.partition("=")
        if name == "none" and not given:
            continue
        if name not in fields or (fields[name] == "bool") == bool(given) or name in values:
            told = ", ".join(one if fields[one] == "bool" else f"{one}=" for one in fields)
            raise ValueError(f"expected conditions of {told} or none, joined by + (got {text!r})")
        try:
            whole = "int" in str(fields[name])
            values[name] = True if not given else int(number) if whole else float(number)
        except ValueError as error:
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"expected {name} to be {kind} (got {number!r} in {text!r})") from error
    return Condition(**values)


def agent_under(
    text: str,
    agent: Agent,
    max_steps: int | None = None,
    speech: Speech | None = None,
    n_entities: int | None = None,
) -> Agent:
    """The agent under a condition: called and asked as the agent itself, which stays as it is.

    Its memory (`agent.body.initial`) also holds the step of the episode and what was said before; whoever plays clears
    it at the start of an episode, as any memory. `max_steps` is the episode's limit, of which `leave` and `join` draw
    their step; `speech` says where words are heard, for `mute`; `n_entities` how many things the world has, of which
    messages may tell (None: as many as where the agent was trained). Raises ValueError where the policy has no such
    messages, or the world no words.
    """
    condition = parse(text)
    if condition.nothing:
        return agent
    if condition.mute and speech is None:
        raise ValueError(f"expected a world whose agents say words for {text} (got none)")
    changed = copy.deepcopy(agent)
    changed.body = Disturbed(changed.body, condition, max_steps or LIMIT, text, speech, n_entities)  # type: ignore[assignment]
    return changed


def rewired(topology: Any, condition: Condition) -> Any:
    """The topology with another k or r, also within another topology. Raises ValueError for one without k."""
    named = {field.name for field in dataclasses.fields(topology)} if dataclasses.is_dataclass(topology) else set()
    changes = {name: getattr(condition, name) for name in ("k", "r") if getattr(condition, name) is not None}
    own = {name: value for name, value in changes.items() if name in named}
    if "topology" in named:
        return dataclasses.replace(topology, topology=rewired(topology.topology, condition))
    if "k" in changes and "k" not in named:
        raise ValueError(f"expected a topology of the k nearest for k={condition.k} (got {topology!r})")
    return dataclasses.replace(topology, **own) if own else topology


class Disturbed(nn.Module):
    """A body that hears under a condition; all else is the body's.

    Memory [*, N, W] holds, in this order, the body's own, the step of the episode (1), whether the agent is among those
    who leave or join (1) and at which step (1), and of the last d steps what each agent sent in each round, where it
    stood and whether it lived.
    """

    def __init__(
        self,
        body: Body,
        condition: Condition,
        max_steps: int,
        text: str,
        speech: Speech | None = None,
        n_entities: int | None = None,
    ) -> None:
        super().__init__()
        self.body, self.condition = body, condition
        self.speech = speech if condition.mute else None
        self.middle = max(max_steps // 2, 1)
        body.topology = rewired(body.topology, condition)
        self.wire = Wire(condition.noise)
        self.widths: list[int] = []
        if condition.delay or condition.shuffle or condition.noise:
            lay(body.encoder, self.wire, text)
        if condition.delay:
            # How wide a round's messages are is known once they have been sent.
            device = next(body.parameters()).device
            body.to("cpu").attends(body.spec, body.spec.n_entities if n_entities is None else n_entities)
            body.to(device)
            self.widths = [x.shape[-1] for x in self.wire.sent]
        self.place = body.spec.position_dim
        self.kept = sum(self.widths) + self.place + 1 if condition.delay else 0
        own = body.initial((), 1)
        self.own = 0 if own is None else own.shape[-1]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("body"), name)

    @property
    def memory(self) -> Any:
        """The body's memory, or, as there is something to be remembered, this."""
        return self.body.memory or self

    def initial(self, batch_size: tuple[int, ...], n_agents: int, device: Any = None) -> Tensor:
        """Memory before the first observation: zeros [*, N, W]."""
        width = self.own + 3 + self.condition.delay * self.kept
        return torch.zeros(*batch_size, n_agents, width, device=device)

    def forward(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        attention: bool = False,
    ) -> Features:
        """As `Body.forward`; `graph`, where it is given, is disturbed as well. Raises ValueError without keys."""
        if key is None:
            raise ValueError("expected the step's key [*] for a condition of communication (got None)")
        if memory is None:
            memory = self.initial(tuple(seen.batch_size), seen.alive.shape[-1], seen.own.device)
        if self.speech is not None:
            seen = muted(seen, self.speech)
        own, state, queue = memory.split([self.own, 3, memory.shape[-1] - self.own - 3], -1)
        state = self.lots(state, key)
        late = queue[..., : self.kept] if self.condition.delay else None
        if graph is None:
            graph = self.body.bare_graph(seen, key)
        graph = self.cut(graph, seen, key, state, late)
        graph = graph.with_edge(self.edges(graph, seen, key, late))
        wire = self.wire
        wire.key, wire.sent = key, []
        wire.order = swapped(key, seen.alive) if self.condition.shuffle else None
        wire.late = list(late[..., : sum(self.widths)].split(self.widths, -1)) if late is not None else None
        features = self.body.forward(seen, own if self.own else None, graph, key, attention)
        kept = [state + state.new_tensor([1.0, 0.0, 0.0]), queue[..., self.kept :]]
        if self.condition.delay:
            said = [x.reshape(*seen.alive.shape, -1) for x in wire.sent]
            said += [seen.position] if self.place and seen.position is not None else []
            told = torch.cat([*said, seen.alive.unsqueeze(-1).to(state.dtype)], -1)
            kept.append(torch.where(seen.alive.unsqueeze(-1), told, 0.0))
        remembered = [] if features.memory is None else [features.memory]
        features.memory = torch.cat([*remembered, *kept], -1)
        return features

    def lots(self, state: Tensor, key: Tensor) -> Tensor:
        """state [*, N, 3] of step, whether among those chosen, and at which step; drawn on the first step."""
        share = self.condition.leave or self.condition.join
        n = state.shape[-2]
        if not share or n == 0:
            return state
        rank = uniform(key, n, LOT).argsort(-1).argsort(-1)
        chosen = rank < max(1, math.floor(share * n + 0.5))
        when = 1 + torch.floor(uniform(key, n, WHEN) * self.middle)
        first = torch.stack([state[..., 0], chosen.to(state.dtype), when.to(state.dtype)], -1)
        return torch.where(state[..., :1] == 0, first, state)

    def silent(self, state: Tensor) -> Tensor | None:
        """[*, N] bool: who neither hears nor is heard now."""
        if not self.condition.leave and not self.condition.join:
            return None
        step, chosen, when = state.unbind(-1)
        return (chosen > 0) & ((step >= when) if self.condition.leave else (step < when))

    def cut(self, graph: AgentGraph, seen: Observation, key: Tensor, state: Tensor, late: Tensor | None) -> AgentGraph:
        """The graph without the messages between agents that are not heard."""
        n = seen.alive.shape[-1]
        receiver = torch.arange(n, device=seen.alive.device).unsqueeze(-1)
        sender = graph.index
        if sender is None:
            sender = torch.arange(graph.mask.shape[-1], device=seen.alive.device).expand(graph.mask.shape)
        between = sender < n
        agent = torch.where(between, sender, 0)

        def of_sender(x: Tensor) -> Tensor:
            return x.unsqueeze(-2).expand(*graph.mask.shape[:-1], n).gather(-1, agent)

        heard = graph.mask
        if self.condition.cut:
            kept = bits(key[..., None, None], receiver, sender, CUT) >= round(self.condition.cut * 2**53)
            heard = heard & (kept | ~between)
        silent = self.silent(state)
        if silent is not None:
            heard = heard & ~(between & (of_sender(silent) | silent.unsqueeze(-1)))
        if late is not None:
            heard = heard & (of_sender(late[..., -1] > 0) | ~between)
        if self.condition.r is not None:
            if seen.position is None:
                raise ValueError(f"expected agents with positions for r={self.condition.r} (got none)")
            far = (seen.position.unsqueeze(-2) - seen.position.unsqueeze(-3)).norm(dim=-1) > self.condition.r
            heard = heard & ~(between & far.gather(-1, agent))
        return AgentGraph(
            mask=heard,
            index=graph.index,
            present=graph.present,
            dropped=graph.dropped,
            n_entities=graph.n_entities,
            batch_size=graph.batch_size,
        )

    def edges(self, graph: AgentGraph, seen: Observation, key: Tensor, late: Tensor | None) -> Tensor | None:
        """Edge features by the places that are told: late and noisy ones of agents, those of entities as they are."""
        if not self.body.edge_dim or seen.position is None:
            return None
        n, length = seen.alive.shape[-1], self.body.length
        told = seen.position
        if late is not None:
            told = late[..., sum(self.widths) : -1]
        places = told if seen.entity_position is None else torch.cat([told, seen.entity_position], -2)
        edge = geometry(from_copies(graph), seen.position, places, length=length)
        if graph.index is None:
            edge = edge[..., n:, :]
        if not self.condition.noise:
            return edge
        way, distance = edge[..., :-1], edge[..., -1:]
        sender = torch.arange(graph.mask.shape[-1], device=key.device) if graph.index is None else graph.index
        receiver = torch.arange(n, device=key.device).unsqueeze(-1)
        drawn = torch.stack(
            [normal(key[..., None, None], receiver * 2 + 1, sender * 8 + p, PLACE) for p in range(way.shape[-1])], -1
        ).to(way.dtype)
        off = way + self.condition.noise * drawn * distance / way.shape[-1] ** 0.5
        noisy = torch.cat([off, off.norm(dim=-1, keepdim=True)], -1)
        return torch.where((sender < n).unsqueeze(-1).expand_as(edge), noisy, edge)
