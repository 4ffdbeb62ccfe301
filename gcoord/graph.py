"""Who hears whom: graphs of a team, derived from where agents stand, in batches and on the tensors' device.

Symbols: `[*]` any leading dimensions, G their product, N agent slots, M entities, K neighbour slots, P coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from tensordict import TensorClass
from torch import Tensor

from gcoord.edges import geometry
from gcoord.hashing import edge_hash
from gcoord.neighbours import nearest
from gcoord.planes import Planes, audible, squared_between, within_kth

__all__ = ["AgentGraph", "Complete", "Given", "Lossy", "Nearest", "Radius", "Topology", "geometry"]

Ties = Literal["admit", "key"]


class AgentGraph(TensorClass["nocast"]):  # type: ignore[misc]
    """Receivers and the senders they hear; batch size `[*]`.

    index [*, N, K] long: receiver i hears in slot k sender `index[i, k]`; None: dense, all senders in order, K = N + M.
    mask [*, N, K] bool: whether slot k is heard. edge [*, N, K, E]: features of each message's way.
    present [*, N + M] bool: senders that may be read at all (None: all); the rows of others may hold anything.
    dropped [*] long: edges that a limit left out (None: no limit).
    n_entities: M. Senders are the N agents, then the M entities; nobody hears oneself.
    """

    mask: Tensor
    index: Tensor | None = None
    edge: Tensor | None = None
    present: Tensor | None = None
    dropped: Tensor | None = None
    n_entities: int = 0

    def hears(self) -> Tensor:
        """[*, N, N + M] bool: whether receiver i (row) hears sender j (column)."""
        if self.index is None:
            return self.mask
        return self._scatter(self.mask)

    def degree(self) -> Tensor:
        """[*, N] long: how many senders each receiver hears."""
        return self.mask.sum(-1)

    def edge_index(self) -> Tensor:
        """[2, edges] long: PyG's COO, source -> target, in the order of `mask` (so `edge[mask]` are its edge features).

        Each graph's N + M nodes are numbered together: node j of the g-th graph is `g * (N + M) + j`.
        """
        n_agents = self.mask.shape[-2]
        graph, receiver, slot = self.mask.reshape(-1, *self.mask.shape[-2:]).nonzero().unbind(-1)
        sender = slot
        if self.index is not None:
            sender = self.index.reshape(-1, *self.index.shape[-2:])[graph, receiver, slot]
        first = graph * (n_agents + self.n_entities)
        return torch.stack([first + sender, first + receiver])

    def with_edge(self, edge: Tensor | None) -> AgentGraph:
        """The same graph with edge features [*, N, K, E] (None: without)."""
        if edge is not None and edge.shape[:-1] != self.mask.shape:
            raise ValueError(f"expected edge features of shape {(*self.mask.shape, 'E')} (got {tuple(edge.shape)})")
        return self._with(self.mask, self.index, edge)

    def among(self, alive: Tensor, entity_present: Tensor | None = None) -> AgentGraph:
        """The same graph without those who are gone: nobody new hears or is heard; edge features are dropped.

        alive [*, N] bool, entity_present [*, M] bool (None: as they were).
        """
        present = alive
        if self.n_entities:
            entities = entity_present
            if entities is None:
                entities = (
                    alive.new_ones(*alive.shape[:-1], self.n_entities)
                    if self.present is None
                    else self.present[..., alive.shape[-1] :]
                )
            present = torch.cat([alive, entities], -1)
        heard = present.unsqueeze(-2)
        if self.index is not None:
            heard = heard.expand(*self.mask.shape[:-1], -1).gather(-1, self.index)
        return AgentGraph(
            mask=self.mask & alive.unsqueeze(-1) & heard,
            index=self.index,
            present=present,
            dropped=self.dropped,
            n_entities=self.n_entities,
            batch_size=self.batch_size,
        )

    def to_dense(self) -> AgentGraph:
        """The same graph with one slot per sender; K = N + M."""
        if self.index is None:
            return self
        edge = None
        if self.edge is not None:
            width = self.mask.shape[-2] + self.n_entities
            edge = self.edge.new_zeros(*self.mask.shape[:-1], width + 1, self.edge.shape[-1])
            index = self._index_or(width).unsqueeze(-1).expand_as(self.edge)
            edge = edge.scatter(-2, index, self.edge)[..., :width, :]
        return self._with(self.hears(), None, edge)

    def to_lists(self) -> AgentGraph:
        """The same graph with K the largest degree (at least 1), heard senders first; reads K on the host."""
        if self.index is not None:
            return self
        width = max(1, int(self.degree().amax())) if self.mask.numel() else 1
        return self._listed(width)

    def first(self, k: int) -> AgentGraph:
        """A dense graph as lists of the first k senders by number that each hears; `dropped` counts the others."""
        graph = self._listed(min(k, self.mask.shape[-1]))
        graph.dropped = (self.degree() - k).clamp(min=0).sum(-1)
        return graph

    def _listed(self, width: int) -> AgentGraph:
        mask, index = self.mask.to(torch.uint8).sort(dim=-1, descending=True, stable=True)
        mask, index = mask[..., :width].bool(), index[..., :width]
        edge = self.edge
        if edge is not None:
            edge = edge.gather(-2, index.unsqueeze(-1).expand(*index.shape, edge.shape[-1]))
        return self._with(mask, index, edge)

    def _with(self, mask: Tensor, index: Tensor | None, edge: Tensor | None) -> AgentGraph:
        return AgentGraph(
            mask=mask,
            index=index,
            edge=edge,
            present=self.present,
            dropped=self.dropped,
            n_entities=self.n_entities,
            batch_size=self.batch_size,
        )

    def _index_or(self, elsewhere: int) -> Tensor:
        assert self.index is not None
        return torch.where(self.mask, self.index, elsewhere)

    def _scatter(self, value: Tensor) -> Tensor:
        """[*, N, K] in list order -> [*, N, N + M]; unheard slots are thrown into a column that is cut off."""
        width = self.mask.shape[-2] + self.n_entities
        out = value.new_zeros(*value.shape[:-1], width + 1)
        return out.scatter(-1, self._index_or(width), value)[..., :width]


class Topology(Protocol):
    """Decides who hears whom: alive [*, N] bool, position [*, N, P], entity_present [*, M] bool, entity_position
    [*, M, P], hears [*, N, N + M] bool (the world's own graph), key [*] long -> AgentGraph of batch size [*].

    M is taken from whichever of entity_present, entity_position and hears is given. The dead neither hear nor are
    heard, entities that are not present are not heard, and what stands in their slots is never read.
    """

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph: ...


@dataclass(frozen=True)
class Complete:
    """Everybody hears everybody else and every entity; needs no positions."""

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph:
        present = _present(alive, entity_present, entity_position, hears)
        planes = Planes(alive.shape[:-1], present.shape[-1])
        return _graph(alive, present, planes.back(audible(planes(alive), planes(present))))


@dataclass(frozen=True)
class Given:
    """The graph that the world itself reports in `hears`.

    Arguments:
        k: None: a dense mask. Else lists of the first k senders by number that each hears, for worlds in which nobody
            hears more: many times as fast in large teams. `dropped` counts the edges left out.
    """

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None:
            _check_count("k", self.k, 1)

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph:
        if hears is None:
            raise ValueError("expected `hears` [*, N, N + M] from the world for topology Given (got None)")
        present = _present(alive, entity_present, entity_position, hears)
        planes = Planes(alive.shape[:-1], present.shape[-1])
        heard = planes.back(audible(planes(alive), planes(present)))
        if hears.shape != heard.shape:
            raise ValueError(f"expected `hears` of shape {tuple(heard.shape)} (got {tuple(hears.shape)})")
        graph = _graph(alive, present, heard & hears)
        return graph if self.k is None else graph.first(self.k)


@dataclass(frozen=True)
class Nearest:
    """Everybody hears the k nearest living agents and, chosen separately, the nearest entities.

    Arguments:
        k: agents heard, at least 1; fewer where fewer live.
        ties: `admit` hears all who stand at the k-th distance (the list grows, and the graph is equivariant under
            any renumbering of agents); `key` breaks such ties by a hash of the step's key, never by slot.
        entity_k: entities heard, None: k.
        dense_up_to: senders (N + M) up to which the graph is a dense mask; beyond it is lists of K = k + entity_k.
        cells_from: senders from which neighbours are looked up in sorted strips rather than among all pairs.
    Raises ValueError where positions or a needed key are missing.
    """

    k: int
    ties: Ties = "admit"
    entity_k: int | None = None
    dense_up_to: int = 32
    cells_from: int = 512

    def __post_init__(self) -> None:
        _check_count("k", self.k, 1)
        if self.entity_k is not None:
            _check_count("entity_k", self.entity_k, 0)
        _check_ties(self.ties)

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph:
        present = _present(alive, entity_present, entity_position, hears)
        n_agents, n_senders = alive.shape[-1], present.shape[-1]
        entity_k = self.k if self.entity_k is None else self.entity_k
        position, entity_position = _positions("Nearest", alive, present, position, entity_position, entity_k > 0)
        key = _tie_key("Nearest", self.ties, key)
        if n_senders > self.dense_up_to:
            return _lists(alive, present, position, entity_position, key, (self.k, entity_k), None, self.cells_from)
        planes = Planes(alive.shape[:-1], n_senders)
        mask = audible(planes(alive), planes(present))
        key = None if key is None else key.reshape(-1)
        if self.k < n_agents - 1 or entity_k < n_senders - n_agents:
            where = planes(position)
        if self.k < n_agents - 1:
            agents = mask[:, :n_agents]
            agents &= within_kth(squared_between(where, where), agents, self.k, key)
        if entity_k < n_senders - n_agents:
            entities = mask[:, n_agents:]
            if entity_position is None:
                entities.fill_(False)
            else:
                squared = squared_between(where, planes(entity_position))
                entities &= within_kth(squared, entities, entity_k, key, first=n_agents)
        return _graph(alive, present, planes.back(mask))


@dataclass(frozen=True)
class Radius:
    """Everybody hears the living agents and the entities that stand within `r`.

    Arguments:
        r: distance in the world's units, above 0; who stands at exactly r is heard.
        limit: None hears all of them (a dense mask); else lists of the `limit` nearest agents, and `dropped` counts
            the edges left out.
        ties: what happens at the limit's distance, as in `Nearest`.
        entity_limit: as `limit`, for entities; None: limit.
        cells_from: senders from which neighbours are looked up in sorted strips rather than among all pairs.
    Raises ValueError where positions or a needed key are missing.
    """

    r: float
    limit: int | None = None
    ties: Ties = "admit"
    entity_limit: int | None = None
    cells_from: int = 512

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int | float) or not 0 < self.r < math.inf:
            raise ValueError(f"expected a radius r > 0 (got {self.r!r})")
        if self.limit is not None:
            _check_count("limit", self.limit, 1)
        if self.entity_limit is not None:
            _check_count("entity_limit", self.entity_limit, 0)
            if self.limit is None:
                raise ValueError(f"expected `limit` along with entity_limit (got entity_limit={self.entity_limit})")
        _check_ties(self.ties)

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph:
        present = _present(alive, entity_present, entity_position, hears)
        position, entity_position = _positions("Radius", alive, present, position, entity_position, True)
        if self.limit is not None:
            key = _tie_key("Radius", self.ties, key)
            limits = (self.limit, self.limit if self.entity_limit is None else self.entity_limit)
            return _lists(alive, present, position, entity_position, key, limits, self.r, self.cells_from)
        senders = position if entity_position is None else torch.cat([position, entity_position], -2)
        planes = Planes(alive.shape[:-1], present.shape[-1])
        squared_r = torch.full((), self.r, dtype=position.dtype, device=position.device).square()
        near = squared_between(planes(position), planes(senders)) <= squared_r
        return _graph(alive, present, planes.back(near.logical_and_(audible(planes(alive), planes(present)))))


@dataclass(frozen=True)
class Auto:
    """What fits the world: its own graph where it reports one, the nearest where agents have positions, else all.

    Arguments: as of `Nearest`.
    """

    k: int = 3
    ties: Ties = "admit"
    entity_k: int | None = None

    def __post_init__(self) -> None:
        Nearest(self.k, self.ties, self.entity_k)

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph:
        chosen: Topology = Nearest(self.k, self.ties, self.entity_k)
        if hears is not None:
            chosen = Given()
        elif position is None:
            chosen = Complete()
        return chosen(alive, position, entity_present, entity_position, hears, key)


@dataclass(frozen=True)
class Lossy:
    """`topology` with every edge lost with probability `drop`, each on its own.

    Whether an edge is lost is a hash of (key, receiver, sender), so the same step's key gives the same graph again, on
    any device and in any layout. Raises ValueError where the key is missing.
    """

    topology: Topology
    drop: float

    def __post_init__(self) -> None:
        if isinstance(self.drop, bool) or not isinstance(self.drop, int | float) or not 0 <= self.drop <= 1:
            raise ValueError(f"expected drop between 0 and 1 (got {self.drop!r})")

    def __call__(
        self,
        alive: Tensor,
        position: Tensor | None = None,
        entity_present: Tensor | None = None,
        entity_position: Tensor | None = None,
        hears: Tensor | None = None,
        key: Tensor | None = None,
    ) -> AgentGraph:
        if key is None:
            raise ValueError("expected the step's key [*] for topology Lossy (got None)")
        graph = self.topology(alive, position, entity_present, entity_position, hears, key)
        receiver = torch.arange(alive.shape[-1], device=alive.device).unsqueeze(-1)
        sender = graph.index
        if sender is None:
            sender = torch.arange(graph.mask.shape[-1], device=alive.device)
        kept = edge_hash(key[..., None, None], receiver, sender, salt=1) >= round(self.drop * 2**53)
        return graph._with(graph.mask & kept, graph.index, graph.edge)


def _graph(alive: Tensor, present: Tensor, mask: Tensor) -> AgentGraph:
    return AgentGraph(
        mask=mask, present=present, n_entities=present.shape[-1] - alive.shape[-1], batch_size=alive.shape[:-1]
    )


def _lists(
    alive: Tensor,
    present: Tensor,
    position: Tensor,
    entity_position: Tensor | None,
    key: Tensor | None,
    limits: tuple[int, int],
    r: float | None,
    cells_from: int,
) -> AgentGraph:
    """Nearest agents, then nearest entities, as lists."""
    n_agents = alive.shape[-1]
    index, mask, dropped = nearest(position, alive, None, alive, limits[0], r, key, cells_from)
    if entity_position is not None and limits[1]:
        entities = nearest(
            position, alive, entity_position, present[..., n_agents:], limits[1], r, key, cells_from, first=n_agents
        )
        index = torch.cat([index, entities[0]], -1)
        mask = torch.cat([mask, entities[1]], -1)
        dropped = dropped + entities[2]
    return AgentGraph(
        mask=mask,
        index=index,
        present=present,
        dropped=dropped if r is not None else None,
        n_entities=present.shape[-1] - n_agents,
        batch_size=alive.shape[:-1],
    )


def _present(
    alive: Tensor, entity_present: Tensor | None, entity_position: Tensor | None, hears: Tensor | None
) -> Tensor:
    """[*, N + M] bool: who may be heard at all."""
    if entity_present is None:
        if entity_position is not None:
            n_entities = entity_position.shape[-2]
        else:
            n_entities = hears.shape[-1] - alive.shape[-1] if hears is not None else 0
        if n_entities == 0:
            return alive
        entity_present = alive.new_ones(()).expand(*alive.shape[:-1], n_entities)
    elif entity_position is not None and entity_position.shape[:-1] != entity_present.shape:
        raise ValueError(
            f"expected entity_present and entity_position of the same entities "
            f"(got {tuple(entity_present.shape)} and {tuple(entity_position.shape)})"
        )
    return torch.cat([alive, entity_present], -1)


def _positions(
    name: str,
    alive: Tensor,
    present: Tensor,
    position: Tensor | None,
    entity_position: Tensor | None,
    entities_heard: bool,
) -> tuple[Tensor, Tensor | None]:
    """Detached positions, once it is sure that those needed are there."""
    if position is None:
        raise ValueError(f"expected positions [*, N, P] for topology {name} (got None); Complete needs none")
    if position.shape[:-1] != alive.shape:
        raise ValueError(f"expected positions of {tuple(alive.shape)} agents (got {tuple(position.shape)})")
    if present.shape[-1] == alive.shape[-1] or not entities_heard:
        return position.detach(), None
    if entity_position is None:
        raise ValueError(f"expected entity_position [*, M, P] for topology {name} (got None); Complete needs none")
    return position.detach(), entity_position.detach()


def _tie_key(name: str, ties: Ties, key: Tensor | None) -> Tensor | None:
    if ties == "admit":
        return None
    if key is None:
        raise ValueError(f"expected the step's key [*] for topology {name} with ties='key' (got None)")
    return key


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"expected {name} to be a whole number of at least {least} (got {value!r})")


def _check_ties(ties: str) -> None:
    if ties not in ("admit", "key"):
        raise ValueError(f"expected ties to be 'admit' or 'key' (got {ties!r})")
