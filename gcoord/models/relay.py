"""What fellows tell of the entities that they and their hearer both sense: who is nearer, who goes there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.claims import in_slots


class Relay(nn.Module):
    """Features of the ways to entities, from what those whom an agent hears know of the same entities:

        m_je = sigmoid(W relu(U h_j + V e_je + b) + c)   where agent j hears entity e over an edge with features e_je,
        r_ie = s_ie / (1 + s_ie),   s_ie = sum over j in N(i) that hear e of m_je

    Messages tell an agent where its fellows stand and what they sense, mixed into one feature for all entities; sharing
    out tasks asks who else is near *this* one. So a message carries D more numbers for each entity that its sender
    hears. r is 0 where nobody else claims the entity and stays below 1 whatever the team. The form is our own.

    Arguments:
        in_dim: features of an agent, h_j.
        dim: features that are told of each entity, D.
        edge_dim: features of `graph.edge`, 0 for none.
        hidden: features of the layer between.

    Shapes: h [*, N, in_dim] -> [*, N, K, dim], in the graph's slots; zeros for agents and for what is not heard. A list
    is laid out over all senders on the way: memory grows with N (N + M).
    """

    def __init__(self, in_dim: int, dim: int, edge_dim: int = 0, hidden: int = 32) -> None:
        super().__init__()
        if dim < 1 or hidden < 1:
            raise ValueError(f"expected a relay of at least 1 feature (got dim={dim} and hidden={hidden})")
        self.dim = dim
        self.know = nn.Linear(in_dim, hidden)
        self.way = nn.Linear(edge_dim, hidden, bias=False) if edge_dim else None
        self.tell = nn.Linear(hidden, dim)
        # What others' messages pass on their way; tests of communication lay something else.
        self.wire = nn.Identity()

    def forward(self, h: Tensor, graph: AgentGraph) -> Tensor:
        if not graph.n_entities:
            return h.new_zeros(*graph.mask.shape, self.dim)
        full = graph.to_dense()
        n, n_entities = full.mask.shape[-2], graph.n_entities
        hears, things = full.mask[..., :n], full.mask[..., n:].unsqueeze(-1)
        known = self.know(h).unsqueeze(-2).expand(*h.shape[:-1], n_entities, -1)
        if self.way is not None and full.edge is not None:
            # What is not heard may be anything.
            known = known + self.way(torch.where(things, full.edge[..., n:, :], 0.0).to(h.dtype))
        told = torch.sigmoid(self.tell(F.relu(known))) * things
        claims = hears.to(told.dtype) @ self.wire(told.flatten(-2))
        claims = claims.unflatten(-1, (n_entities, self.dim)) * things
        claims = claims / (1 + claims)
        return in_slots(claims, graph)

    def onto(self, h: Tensor, graph: AgentGraph) -> AgentGraph:
        """The graph whose edges have what is told behind their own features, where these are read."""
        told = self.forward(h, graph)
        if self.way is None or graph.edge is None:
            return graph.with_edge(told)
        return graph.with_edge(torch.cat([graph.edge.to(told.dtype), told], -1))
