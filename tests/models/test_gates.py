"""Promises of the gated kernel: open it is DGN's, a closed gate is a cut edge, and gates learn whom not to hear."""

from __future__ import annotations

import torch
from torch import nn

from gcoord.graph import AgentGraph
from gcoord.models import GatedKernel, RelationKernel
from gcoord.models.messages import Heard, heard

DIM, EDGE = 16, 3


def team(n: int = 6, batch: int = 4) -> AgentGraph:
    mask = torch.rand(batch, n, n) < 0.6
    mask &= ~torch.eye(n, dtype=torch.bool)
    return AgentGraph(mask=mask, edge=torch.randn(batch, n, n, EDGE), batch_size=[batch])


def pair(openness: float) -> tuple[GatedKernel, RelationKernel]:
    gated, plain = GatedKernel(DIM, 4, EDGE, openness=openness), RelationKernel(DIM, 4, EDGE)
    missing = gated.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(name.startswith("gate.") for name in missing.missing_keys)
    return gated, plain


def test_with_every_gate_open_it_is_the_relation_kernel_by_the_same_weights() -> None:
    gated, plain = pair(openness=40.0)
    x, graph = torch.randn(4, 6, DIM), team()
    assert (gated(x, graph) - plain(x, graph)).abs().max() < 1e-6
    weights = gated(x, graph, return_attention=True)[1] - plain(x, graph, return_attention=True)[1]
    assert weights.abs().max() < 1e-6


def test_a_closed_gate_is_as_if_the_edge_were_cut() -> None:
    gated, plain = pair(openness=0.0)
    # The gate reads the edge's first feature alone, and shuts where that is above 0.
    for layer in (gated.gate.receiver, gated.gate.sender, gated.gate.edge):
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(gated.gate.receiver.bias)
    with torch.no_grad():
        gated.gate.edge.weight[0, 0] = 1.0
        gated.gate.score.weight[0, 0] = -1e4
        gated.gate.score.bias.fill_(40.0)
    x, graph = torch.randn(4, 6, DIM), team()
    cut = graph.with_edge(graph.edge)
    cut.mask = graph.mask & ~(graph.edge[..., 0] > 0)
    assert (cut.mask != graph.mask).any()
    assert (gated(x, graph) - plain(x, cut)).abs().max() < 1e-5


def test_at_first_all_gates_are_open_alike() -> None:
    gated, _ = pair(openness=3.0)
    hidden = gated.gate(torch.randn(2, 5, DIM), torch.randn(2, 5, DIM), slots(team(5, 2)))
    assert torch.allclose(hidden.exp(), torch.sigmoid(torch.tensor(3.0)).expand_as(hidden))


def slots(graph: AgentGraph) -> Heard:
    return heard(graph.mask, None, graph.edge, True)


def test_gates_learn_to_turn_off_who_misleads() -> None:
    """Everybody is to repeat its own number; what others say is noise, marked by the edge."""
    kernel = GatedKernel(DIM, 4, EDGE)
    read = nn.Linear(DIM, DIM)
    optimiser = torch.optim.Adam([*kernel.parameters(), *read.parameters()], lr=1e-2)
    for _ in range(150):
        x, graph = torch.randn(8, 6, DIM), team(batch=8)
        x[:, 3:] *= 5
        graph.edge[..., 0] = (torch.arange(6) >= 3).float()
        loss = (read(kernel(x, graph)) - x)[:, :3].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    openness = torch.exp(kernel.gate(x, x, slots(graph)))
    liars = (graph.mask & (torch.arange(6) >= 3))[:, :3]
    assert openness[:, :3][liars].mean() < 0.3
