"""Who takes which entity, agreed by messages: attention whose shares add up over entities and over agents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph

# Claims are learnt in units of which ten make one thing twenty thousand times as dear as another.
_SCALE = 10.0
# What is claimed by less than that is claimed by nobody.
_NOBODY = 1e-6


class Claims(nn.Module):
    """Sinkhorn's matching between agents and the entities that they hear, one exchange of messages a round:

        s_ie = 10 w relu(U h_i + V e_ie + Z f_e + b)       how much agent i wants entity e over an edge e_ie,
        p_ie <- softmax of s_ie over the entities that i hears
        p_ie <- p_ie / (d_ie + sum over i and the j in N(i) that hear e of p_je),  then over all that i hears to one

    the last line `rounds` times, in each of which an agent tells its p of every entity that it hears. Where agents and
    entities are as many, and all hear all, d = 0 and p tends to the doubly stochastic matrix nearest to s, for large s
    to the assignment of the largest total: who gives way finds the next best. Where i hears more entities than agents
    (itself one of them), d_ie are the claims of as many more that want all alike, whom i makes up for itself, so that
    some may be left over; of fewer entities each is shared by several. Nothing depends on the numbers of either. Doubly
    stochastic attention is https://arxiv.org/abs/2110.11773, its sharp limit https://arxiv.org/abs/1802.08665; that
    columns are added up by messages, of those heard, and d, are ours.

    Arguments:
        in_dim: features of an agent, h_i, and of an entity, f_e.
        heads: matchings, each of its own s, H.
        edge_dim: features of `graph.edge`, 0 for none.
        rounds: exchanges; more come nearer to the matching, and may be set on a trained policy.
        hidden: features of the layer between.

    Shapes: h [*, N, in_dim], things [*, M, in_dim] -> p [*, N, H, M], zeros for what is not heard.
    """

    def __init__(self, in_dim: int, heads: int, edge_dim: int = 0, rounds: int = 8, hidden: int = 32) -> None:
        super().__init__()
        if heads < 1 or rounds < 0:
            raise ValueError(f"expected claims of 1 head or more and 0 rounds or more (got {heads} and {rounds})")
        self.heads, self.edge_dim, self.rounds = heads, edge_dim, rounds
        self.who = nn.Linear(in_dim, hidden)
        self.what = nn.Linear(in_dim, hidden, bias=False)
        self.way = nn.Linear(edge_dim, hidden, bias=False) if edge_dim else None
        self.want = nn.Linear(hidden, heads, bias=False)
        self.take = nn.Sequential(nn.Linear(in_dim + heads * (in_dim + edge_dim), in_dim), nn.ReLU())
        self.settle = nn.Linear(in_dim, in_dim)
        # What others' messages pass on their way; tests of communication lay something else.
        self.wire = nn.Identity()

    def forward(self, h: Tensor, things: Tensor, graph: AgentGraph) -> Tensor:
        full = graph.to_dense()
        n = full.mask.shape[-2]
        heard = full.mask[..., n:]
        wanted = self.who(h).unsqueeze(-2) + self.what(things).unsqueeze(-3)
        if self.way is not None:
            wanted = wanted + self.way(_ways(full).to(h.dtype))
        score = _SCALE * self.want(F.relu(wanted)).float().movedim(-1, -2)  # [*, N, H, M]
        fellows, present = full.mask[..., :n].to(score.dtype), heard.unsqueeze(-2).to(score.dtype)
        # Those made up stand behind the heads, how many they are beside them.
        left_over = (heard.sum(-1) - full.mask[..., :n].sum(-1) - 1).clamp(min=0).to(score.dtype)[..., None, None]
        absent, least = ~heard.unsqueeze(-2), torch.finfo(score.dtype).min / 2
        log_p = torch.cat([score, torch.zeros_like(score)], -2).masked_fill(absent, least).log_softmax(-1)
        for _ in range(self.rounds):
            p, more = (log_p.exp() * present).chunk(2, -2)
            # What arrives disturbed may be below 0.
            others = (fellows @ self.wire(p.flatten(-2))).view_as(p).clamp(min=0)
            claimed = (p + others + left_over * more + _NOBODY).log()
            log_p = (log_p - torch.cat([claimed, claimed], -2)).masked_fill(absent, least).log_softmax(-1)
        return (log_p.exp() * present)[..., : self.heads, :].to(h.dtype)

    def onto(self, h: Tensor, things: Tensor, graph: AgentGraph) -> tuple[Tensor, AgentGraph]:
        """Features of agents who know what is theirs, and the graph whose edges have the claims behind their own
        features."""
        p = self.forward(h, things, graph)
        mine = [p @ things.unsqueeze(-3)]
        if self.way is not None:
            mine.append(p @ _ways(graph.to_dense()).to(h.dtype))
        h = h + self.settle(self.take(torch.cat([h, *[x.flatten(-2) for x in mine]], -1)))
        told = in_slots(p.transpose(-1, -2), graph)
        return h, graph.with_edge(told if graph.edge is None else torch.cat([graph.edge.to(told.dtype), told], -1))


def _ways(full: AgentGraph) -> Tensor:
    """Edge features of entities, [*, N, M, E], zeros where one is not heard, whatever stands there."""
    assert full.edge is not None
    n = full.mask.shape[-2]
    return torch.where(full.mask[..., n:].unsqueeze(-1), full.edge[..., n:, :], 0.0)


def in_slots(of_entities: Tensor, graph: AgentGraph) -> Tensor:
    """Features [*, N, M, D] of entities in the slots [*, N, K, D] of a graph, zeros in those of agents."""
    n = graph.mask.shape[-2]
    if not graph.n_entities:
        return of_entities.new_zeros(*graph.mask.shape, of_entities.shape[-1])
    if graph.index is None:
        return F.pad(of_entities, (0, 0, n, 0))
    is_thing = (graph.mask & (graph.index >= n)).unsqueeze(-1)
    at = torch.where(is_thing, graph.index.unsqueeze(-1) - n, 0)
    return of_entities.gather(-2, at.expand(*graph.index.shape, of_entities.shape[-1])) * is_thing
