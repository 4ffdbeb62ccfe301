"""From what a team senses to features of its agents: rounds of messages on the graph, or an MLP for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.claims import Claims
from gcoord.models.kernels import RelationKernel
from gcoord.models.messages import heard, read
from gcoord.models.relay import Relay
from gcoord.models.senses import mlp, orthogonal, sense


class GraphEncoder(nn.Module):
    """Senses, then rounds of messages; the features of all rounds are concatenated, as in DGN
    (https://arxiv.org/abs/1810.09202).

        h^0 = sense(own),   h^l = kernel_l(h^(l-1), graph, [h^(l-1), entity features]),   h = [h^0, ..., h^rounds]

    Entities are encoded once and heard in every round, and hear nothing. An agent's features depend on what is within
    `rounds` hops of it.

    Arguments:
        own_dim: what an agent senses, O or (C, H, W).
        dim: features of a round.
        rounds: rounds of messages, 0 for none.
        heads: attention heads of a kernel.
        entity_dim: features of an entity, 0 where there are none.
        edge_dim: features of `graph.edge` that the kernels read, 0 for none.
        kernel: called with `(dim, heads, edge_dim)`.
        layers: linear maps of the mlp senses.
        orthogonal_init: orthogonal weights of gain sqrt 2 and zero biases instead of torch's own.
        relay: features that fellows tell of each entity that they hear as well, in every round, 0 for none (see
            `gcoord.models.relay.Relay`): for tasks that have to be shared out.
        claims: matchings of agents and entities agreed before the first round, 0 for none (see
            `gcoord.models.claims.Claims`): for tasks of which each wants one agent.
        claim_rounds: exchanges of messages for that.

    Shapes: own [*, N, O or C, H, W], entities [*, M, entity_dim] -> h [*, N, out_dim], out_dim = dim (rounds + 1); with
    `return_attention` also a list of each round's weights [*, H, N, K + 1]. Rows of dead agents are zeros; dead agents
    and absent entities are never read.
    """

    def __init__(
        self,
        own_dim: int | tuple[int, ...],
        dim: int = 64,
        rounds: int = 2,
        heads: int = 8,
        entity_dim: int = 0,
        edge_dim: int = 0,
        kernel: Callable[..., nn.Module] = RelationKernel,
        layers: int = 2,
        orthogonal_init: bool = False,
        relay: int = 0,
        claims: int = 0,
        claim_rounds: int = 8,
    ) -> None:
        super().__init__()
        if rounds < 0:
            raise ValueError(f"expected rounds to be 0 or more (got {rounds})")
        if relay < 0 or (relay and not entity_dim):
            raise ValueError(f"expected relay to be 0 or more, and 0 in a world without entities (got {relay})")
        if claims < 0 or (claims and not entity_dim):
            raise ValueError(f"expected claims to be 0 or more, and 0 in a world without entities (got {claims})")
        self.entity_dim = entity_dim
        self.out_dim = dim * (rounds + 1)
        exchanges = claim_rounds if claims else 0
        # Features that a message carries, in each round.
        self.carried = [0] * exchanges + [dim] * rounds
        # And of each entity that its sender hears.
        self.carried_of_entities = [claims] * exchanges + [relay] * rounds
        self.sense = sense(own_dim, dim, layers)
        self.sense_entity = mlp(entity_dim, dim, layers) if entity_dim else None
        self.claims = Claims(dim, claims, edge_dim, claim_rounds) if claims else None
        edge_dim += claims
        self.kernels = nn.ModuleList(kernel(dim=dim, heads=heads, edge_dim=edge_dim + relay) for _ in range(rounds))
        self.relays = nn.ModuleList(Relay(dim, relay, edge_dim) for _ in range(rounds if relay else 0))
        if orthogonal_init:
            orthogonal(self)

    def forward(
        self, own: Tensor, graph: AgentGraph, entities: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        alive, present = _split(graph)
        x = _living(self.sense(_living(own, alive)), alive)
        entities = _check_entities(entities, graph, self.entity_dim)
        others = None
        if self.sense_entity is not None and entities is not None:
            others = self.sense_entity(_living(entities, present))
        if self.claims is not None:
            things = x.new_zeros(*x.shape[:-2], 0, x.shape[-1]) if others is None else others
            x, graph = self.claims.onto(x, things, graph)
            x = _living(x, alive)
        features, attention = [x], []
        relays: Iterable[Any] = self.relays or [None] * len(self.kernels)
        for kernel, relay in zip(self.kernels, relays, strict=True):
            senders = None if others is None else torch.cat([x, others], -2)
            x = kernel(x, graph if relay is None else relay.onto(x, graph), senders, return_attention)
            if return_attention:
                x, weights = x
                attention.append(weights)
            features.append(x)
        h = torch.cat(features, -1)
        return (h, attention) if return_attention else h


class MLPEncoder(nn.Module):
    """An MLP with the same information as one round of messages, bound to a number of neighbours: what message passing
    is compared with.

    It sees what its agent senses, and of the `slots` nearest agents and `entity_slots` nearest entities that it hears
    their own features, the edge's features and whether there is one. Nearest is by the last edge feature; agents at
    exactly the same distance are taken in the order of their slots. Without edge features nothing tells neighbours
    apart, and it sees the mean over those it hears. Images are sensed first. Nothing passes further than one hop.

    Arguments as in `GraphEncoder`, and:
        slots: neighbours seen.
        entity_slots: entities seen.

    Shapes: as in `GraphEncoder`, with out_dim = dim and an empty list for attention.
    """

    def __init__(
        self,
        own_dim: int | tuple[int, ...],
        dim: int = 64,
        entity_dim: int = 0,
        edge_dim: int = 0,
        slots: int = 3,
        entity_slots: int = 3,
        layers: int = 3,
        orthogonal_init: bool = False,
    ) -> None:
        super().__init__()
        if slots < 0 or entity_slots < 0:
            raise ValueError(f"expected slots to be 0 or more (got {slots} and {entity_slots})")
        self.entity_dim, self.edge_dim = entity_dim, edge_dim
        self.slots, self.entity_slots = (slots, entity_slots) if edge_dim else (1, 1)
        self.out_dim = dim
        shape = (own_dim,) if isinstance(own_dim, int) else tuple(own_dim)
        self.sense = sense(shape, dim) if len(shape) == 3 else None
        width = dim if self.sense is not None else shape[0]
        self.carried = [width]
        total = width + self.slots * (width + edge_dim + 1)
        if entity_dim:
            total += self.entity_slots * (entity_dim + edge_dim + 1)
        self.mlp = mlp(total, dim, layers)
        # What others' features pass on their way; tests of communication lay something else.
        self.wire = nn.Identity()
        if orthogonal_init:
            orthogonal(self)

    def forward(
        self, own: Tensor, graph: AgentGraph, entities: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        alive, present = _split(graph)
        x = _living(own, alive)
        x = x if self.sense is None else self.sense(x)
        *batch, n, _ = x.shape
        rows = x.reshape(-1, n, x.shape[-1])
        seen = [rows, *self._nearest(self.wire(rows), graph, 0, self.slots)]
        entities = _check_entities(entities, graph, self.entity_dim)
        if entities is not None:
            things = _living(entities, present).reshape(len(rows), -1, self.entity_dim)
            seen += self._nearest(things, graph, n, self.entity_slots)
        elif self.entity_dim:
            seen.append(rows.new_zeros(*rows.shape[:2], self.entity_slots * (self.entity_dim + self.edge_dim + 1)))
        h = _living(self.mlp(torch.cat(seen, -1).view(*batch, n, -1)), alive)
        return (h, []) if return_attention else h

    def _nearest(self, table: Tensor, graph: AgentGraph, first: int, slots: int) -> list[Tensor]:
        """What each agent knows of the senders numbered from `first` on, whose features are table [B, S, D]."""
        mask = graph.mask.reshape(len(table), *graph.mask.shape[-2:])
        index = torch.arange(mask.shape[-1], device=mask.device) if graph.index is None else graph.index
        index = index.expand(graph.mask.shape).reshape(mask.shape) - first
        mask = mask & (index >= 0) & (index < table.shape[1])
        if not self.edge_dim:
            return _mean(table, mask, index)
        if graph.edge is None or graph.edge.shape[-1] != self.edge_dim:
            given = "none" if graph.edge is None else graph.edge.shape[-1]
            raise ValueError(f"expected a graph with {self.edge_dim} edge features (got {given})")
        edge = heard(mask, None, graph.edge.reshape(*mask.shape, -1).to(table.dtype), False).edge
        assert edge is not None
        distance = torch.where(mask, edge[..., -1], torch.inf)
        order = torch.sort(distance, dim=-1, stable=True).indices[..., :slots]  # [B, N, <= slots]
        there = mask.gather(-1, order).unsqueeze(-1)
        at = torch.where(there, index.gather(-1, order).unsqueeze(-1), 0)
        batch = torch.arange(len(table), device=table.device)[:, None, None]
        features = torch.cat([table[batch, at.squeeze(-1)], _take(edge, order), there.to(table.dtype)], -1)
        features = torch.where(there, features, features.new_zeros(()))
        missing = slots - order.shape[-1]
        return [torch.nn.functional.pad(features, (0, 0, 0, missing)).flatten(-2)]


def _take(edge: Tensor, order: Tensor) -> Tensor:
    """Slots `order` [B, N, k] of edge [B, N, K, E]."""
    return edge.gather(2, order.unsqueeze(-1).expand(-1, -1, -1, edge.shape[-1]))


def _mean(table: Tensor, mask: Tensor, index: Tensor) -> list[Tensor]:
    """Mean of table [B, S, D] over who is heard, and whether anybody is."""
    hears = mask.new_zeros(*mask.shape[:2], table.shape[1] + 1)
    hears = hears.scatter_(-1, torch.where(mask, index, table.shape[1]), True)[..., :-1].to(table.dtype)
    count = hears.sum(-1, keepdim=True)
    return [hears @ table / count.clamp(min=1), (count > 0).to(table.dtype)]


def _split(graph: AgentGraph) -> tuple[Tensor | None, Tensor | None]:
    """Which agents are alive [*, N] and which entities present [*, M]; None where all are."""
    present = graph.present
    if present is None:
        return None, None
    n = graph.mask.shape[-2]
    return present[..., :n], present[..., n:]


def _living(x: Tensor, alive: Tensor | None) -> Tensor:
    """x [*, N, ...], zeros in slots that must not be read."""
    return x if alive is None else read(x, alive)


def _check_entities(entities: Tensor | None, graph: AgentGraph, entity_dim: int) -> Tensor | None:
    """Entities that the graph knows, None where it knows none; raises ValueError where they do not fit the encoder."""
    if not graph.n_entities:
        return None
    if not entity_dim:
        raise ValueError(f"expected entity_dim of at least 1 for a graph with {graph.n_entities} entities (got 0)")
    shape = (graph.n_entities, entity_dim)
    if entities is None or tuple(entities.shape[-2:]) != shape:
        given = "none" if entities is None else tuple(entities.shape[-2:])
        raise ValueError(f"expected entities of shape {shape} for this graph (got {given})")
    return entities
