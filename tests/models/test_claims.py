"""Who takes what: claims tend to the assignment of least total cost, by messages alone, in any team."""

from __future__ import annotations

import itertools

import pytest
import torch

from gcoord.graph import AgentGraph
from gcoord.models.claims import Claims
from gcoord.models.encoder import GraphEncoder


def by_distance(rounds: int, sharp: float = 4.0) -> Claims:
    """Claims that want an entity by -10 sharp x distance, where distance is the only edge feature; h is not read."""
    claims = Claims(in_dim=2, heads=1, edge_dim=1, rounds=rounds, hidden=1)
    with torch.no_grad():
        for parameter in claims.parameters():
            parameter.zero_()
        assert claims.way is not None
        claims.way.weight.fill_(1.0)
        claims.want.weight.fill_(-sharp)
    return claims


def complete(distance: torch.Tensor) -> AgentGraph:
    """Agents hear everybody; distance [*, N, M] of things, 0 between agents."""
    *batch, n, m = distance.shape
    mask = torch.cat([~torch.eye(n, dtype=torch.bool), torch.ones(n, m, dtype=torch.bool)], -1)
    edge = torch.cat([torch.zeros(*batch, n, n), distance], -1).unsqueeze(-1)
    return AgentGraph(mask=mask.expand(*batch, n, n + m).clone(), edge=edge, n_entities=m, batch_size=batch)


def told(claims: Claims, graph: AgentGraph) -> torch.Tensor:
    n, m = graph.mask.shape[-2], graph.n_entities
    shape = tuple(graph.batch_size)
    return claims(torch.zeros(*shape, n, 2), torch.zeros(*shape, m, 2), graph)[..., 0, :]


def test_without_an_exchange_everybody_claims_what_is_nearest_to_itself() -> None:
    distance = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.3, 0.8], [0.7, 0.9, 0.4]])
    p = told(by_distance(rounds=0), complete(distance))
    torch.testing.assert_close(p, (-40 * distance).softmax(-1))


@pytest.mark.parametrize("n", [3, 4, 6])
def test_after_many_exchanges_each_has_its_own_and_the_total_way_is_the_least(n: int) -> None:
    distance = torch.rand(20, n, n, generator=torch.Generator().manual_seed(n))
    chosen = told(by_distance(rounds=300), complete(distance)).argmax(-1)
    orders = torch.tensor(list(itertools.permutations(range(n))))
    totals = distance[:, torch.arange(n), orders].sum(-1)  # [20, n!]
    total = distance.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).sum(-1)
    assert (chosen.sort(-1).values == torch.arange(n)).all(-1).float().mean() >= 0.9
    assert ((total - totals.amin(-1)).abs() < 0.02).float().mean() >= 0.9


def test_claims_of_a_crowd_add_up_to_one_over_agents_and_over_things() -> None:
    p = told(by_distance(rounds=200, sharp=0.5), complete(torch.rand(30, 30)))
    torch.testing.assert_close(p.sum(-1), torch.ones(30), rtol=0, atol=1e-5)
    torch.testing.assert_close(p.sum(-2), torch.ones(30), rtol=0, atol=1e-2)


def test_those_who_are_not_heard_are_not_given_way_to_and_what_is_not_heard_is_not_claimed() -> None:
    distance = torch.tensor([[0.2, 0.5], [0.1, 0.5]])
    graph = complete(distance)
    graph.mask[0, 1] = False  # the first does not hear the second, who is nearer
    p = told(by_distance(rounds=20), graph)
    assert p[0, 0] > 0.9
    assert told(by_distance(rounds=20), complete(distance))[0, 1] > 0.8
    graph.mask[1, 2] = False  # the second does not hear the first thing
    p = told(by_distance(rounds=20), graph)
    assert p[1, 0] == 0 and p[1, 1] == 1
    graph.mask[1, 3] = False  # nor the second
    assert torch.equal(told(by_distance(rounds=20), graph)[1], torch.zeros(2))


def test_what_is_claimed_does_not_depend_on_the_slots() -> None:
    torch.manual_seed(0)
    encoder = GraphEncoder(2, dim=8, rounds=1, heads=2, entity_dim=1, edge_dim=1, claims=2, claim_rounds=4).double()
    own, things, distance = torch.randn(5, 2).double(), torch.randn(4, 1).double(), torch.rand(5, 4).double()
    agents, entities = torch.randperm(5), torch.randperm(4)
    h = encoder(own, complete(distance), things)
    again = encoder(own[agents], complete(distance[agents][:, entities]), things[entities])
    assert (again - h[agents]).abs().max() < 1e-6  # matchings are computed in single precision


def test_lists_and_masks_agree_and_a_world_without_things_is_no_matter() -> None:
    torch.manual_seed(0)
    encoder = GraphEncoder(2, dim=8, rounds=1, heads=2, entity_dim=1, edge_dim=1, claims=2, claim_rounds=4)
    own, things, graph = torch.randn(5, 2), torch.randn(4, 1), complete(torch.rand(5, 4))
    torch.testing.assert_close(encoder(own, graph.to_lists(), things), encoder(own, graph, things))
    alone = AgentGraph(mask=~torch.eye(5, dtype=torch.bool), edge=torch.zeros(5, 5, 1), batch_size=[])
    assert encoder(own, alone).isfinite().all()


def test_garbage_in_dead_slots_and_unheard_edges_leaves_no_trace() -> None:
    torch.manual_seed(0)
    encoder = GraphEncoder(2, dim=8, rounds=1, heads=2, entity_dim=1, edge_dim=1, claims=2, claim_rounds=4)
    own, things, graph = torch.randn(3, 2), torch.randn(4, 1), complete(torch.rand(3, 4))
    graph.mask[0, 4] = False
    clean = encoder(own, graph, things)
    graph.edge[0, 4] = float("nan")
    torch.testing.assert_close(encoder(own, graph, things), clean, rtol=0, atol=0)
    clean.sum().backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in encoder.parameters())


def test_claims_in_a_world_without_entities_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="expected claims to be 0 or more, and 0 in a world without entities"):
        GraphEncoder(4, claims=2)
    with pytest.raises(ValueError, match="expected claims of 1 head or more"):
        Claims(2, 0)
