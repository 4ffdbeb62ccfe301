"""Leaving out, at random and only while learning, some of those who are heard."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcoord.graph import AgentGraph
from gcoord.hashing import edge_hash

# Streams of their own beside those of ties, Lossy and roles.
NODES, MESSAGES = 4, 5


@dataclass(frozen=True)
class DropOut:
    """Thins out a graph row by row: an agent or entity that is left out is heard by nobody, a lost message by one.

    So that a policy trained on few does not come to count on exactly those few. Everybody still acts and learns. What
    is left out is a hash of the row's key, so learner and collector see the same graph; evaluation and the saved policy
    leave nothing out (`Lossy` is the topology that loses messages there too).

    Arguments:
        agents: share of agents that nobody hears in a row.
        entities: share of entities.
        messages: share of what is left, each on its own.

    Raises ValueError for what is no share, and where the row's key [*] is missing.
    """

    agents: float = 0.0
    entities: float = 0.0
    messages: float = 0.0

    def __post_init__(self) -> None:
        for name in ("agents", "entities", "messages"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"expected dropout.{name} from 0 to 1 (got {share})")

    def __bool__(self) -> bool:
        """Whether anything is ever left out."""
        return max(self.agents, self.entities, self.messages) > 0

    def __call__(self, graph: AgentGraph, key: Tensor | None) -> AgentGraph:
        if key is None:
            raise ValueError("expected the rows' keys [*] for drop-out (got None)")
        n = graph.mask.shape[-2]
        device = graph.mask.device
        width = n + graph.n_entities
        nodes = torch.arange(width, device=device)
        share = torch.where(nodes < n, _bar(self.agents), _bar(self.entities))
        there = edge_hash(key[..., None], torch.zeros_like(nodes), nodes, salt=NODES) >= share  # [*, N + M]
        there = there.unsqueeze(-2)
        if graph.index is not None:
            there = there.expand(*graph.mask.shape[:-1], width).gather(-1, graph.index)
        sender = nodes if graph.index is None else graph.index
        receiver = torch.arange(n, device=device).unsqueeze(-1)
        kept = edge_hash(key[..., None, None], receiver, sender, salt=MESSAGES) >= _bar(self.messages)
        return graph._with(graph.mask & there & kept, graph.index, graph.edge)


def _bar(share: float) -> int:
    """Hashes of 53 bits below this are left out."""
    return round(share * 2**53)
