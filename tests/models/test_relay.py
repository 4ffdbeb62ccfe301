"""What is told of entities: claims of those who are heard, counted without regard to the team's size."""

from __future__ import annotations

import pytest
import torch

from gcoord.graph import AgentGraph
from gcoord.models.encoder import GraphEncoder
from gcoord.models.relay import Relay


def claims_by_distance(scale: float) -> Relay:
    """A relay that tells sigmoid(-scale x distance), where distance is the only edge feature; h is not read."""
    relay = Relay(in_dim=2, dim=1, edge_dim=1, hidden=1)
    with torch.no_grad():
        for parameter in relay.parameters():
            parameter.zero_()
        assert relay.way is not None
        relay.way.weight.fill_(1.0)
        relay.tell.weight.fill_(-scale)
    return relay


def complete(distance: torch.Tensor) -> AgentGraph:
    """Agents hear everybody; distance [N, M] of things, 0 between agents."""
    n, m = distance.shape
    mask = torch.cat([~torch.eye(n, dtype=torch.bool), torch.ones(n, m, dtype=torch.bool)], -1)
    edge = torch.cat([torch.zeros(n, n), distance], -1).unsqueeze(-1)
    return AgentGraph(mask=mask, edge=edge, n_entities=m, batch_size=[])


def test_an_agent_is_told_the_sum_of_the_others_claims_saturated_and_not_its_own() -> None:
    distance = torch.tensor([[0.0, 2.0], [1.0, 3.0], [4.0, 0.5]])
    relay = claims_by_distance(1.0)
    told = relay(torch.zeros(3, 2), complete(distance))[..., 3:, 0]
    claim = torch.sigmoid(-distance)
    others = claim.sum(0) - claim
    torch.testing.assert_close(told, others / (1 + others))


def test_who_is_not_heard_or_does_not_hear_the_thing_claims_nothing() -> None:
    graph = complete(torch.zeros(3, 2))
    graph.mask[0, 1] = False  # the first does not hear the second
    graph.mask[2, 3] = False  # the third does not hear the first thing
    told = claims_by_distance(1.0)(torch.zeros(3, 2), graph)[..., 3:, 0]
    one, two = 0.5 / 1.5, 1.0 / 2.0
    torch.testing.assert_close(told, torch.tensor([[0.0, one], [one, two], [0.0, two]]))


@pytest.mark.parametrize("n", [2, 10, 200])
def test_it_stays_below_one_in_any_team(n: int) -> None:
    told = Relay(in_dim=2, dim=3, edge_dim=1)(torch.randn(n, 2), complete(torch.rand(n, 4)))
    assert told.shape == (n, n + 4, 3) and (told >= 0).all() and (told < 1).all()


def test_far_fellows_tell_nothing_so_a_larger_team_around_changes_nothing() -> None:
    near, far = torch.rand(3, 2), torch.full((40, 2), 1e3)
    relay, h = claims_by_distance(1.0), torch.zeros(43, 2)
    small = relay(h[:3], complete(near))[:, 3:]
    large = relay(h, complete(torch.cat([near, far])))[:3, 43:]
    torch.testing.assert_close(large, small)


def test_lists_and_masks_are_told_the_same_and_a_world_without_things_nothing() -> None:
    graph = complete(torch.rand(5, 3))
    relay, h = Relay(in_dim=2, dim=2, edge_dim=1), torch.randn(5, 2)
    lists = graph.to_lists()
    assert lists.index is not None
    dense, listed = relay(h, graph), relay(h, lists)
    at = lists.index.unsqueeze(-1).expand_as(listed)
    torch.testing.assert_close(listed, dense.gather(-2, at))
    none = AgentGraph(mask=~torch.eye(5, dtype=torch.bool), batch_size=[])
    assert torch.equal(relay(h, none), torch.zeros(5, 5, 2))


def test_a_relay_in_a_world_without_entities_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="expected relay to be 0 or more, and 0 in a world without entities"):
        GraphEncoder(4, relay=2)
    with pytest.raises(ValueError, match="expected a relay of at least 1 feature"):
        Relay(2, 0)
