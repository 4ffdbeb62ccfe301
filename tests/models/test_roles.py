"""ROMA's roles: Gaussian identities, roles that follow from what is sensed alone, losses that mean what they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gcoord.graph import AgentGraph, Complete
from gcoord.models.agent import Features
from gcoord.models.roles import Gaussian, RoleQ
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Observation, observe

SPEC = TeamSpec(1, 3, (4,), (Discrete(5),))
DIM = 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def normals(*shape):
    return Gaussian(torch.randn(*shape).double(), torch.rand(*shape).double() + 0.1)


def features(own, h=None, alive=None, **fields) -> tuple[Features, Observation]:
    seen = observe(own, alive=alive, **fields)
    h = torch.randn(*own.shape[:2], DIM) if h is None else h
    return Features(h, Complete()(seen.alive)), seen


def test_entropy_plus_divergence_is_the_cross_entropy_in_closed_form():
    p, q = normals(7, 3), normals(7, 3)
    torch.testing.assert_close(p.entropy() + p.kl(q), p.cross_entropy(q))
    torch.testing.assert_close(p.kl(p), torch.zeros(7).double())
    assert (p.kl(q) > 0).all()
    torch.testing.assert_close(p.cross_entropy(p), p.entropy())
    a, b = (torch.distributions.Normal(x.mean, x.variance.sqrt()) for x in (p, q))
    torch.testing.assert_close(p.entropy(), a.entropy().sum(-1))
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(a, b).sum(-1))
    torch.testing.assert_close(p.log_prob(q.mean), a.log_prob(q.mean))
    drawn = a.sample((200_000,))
    torch.testing.assert_close(-q.log_prob(drawn).sum(-1).mean(0), p.cross_entropy(q), atol=0.1, rtol=0.01)


def test_agents_that_sense_the_same_have_the_same_distribution_of_roles():
    head = RoleQ(SPEC, DIM)
    own = torch.randn(2, 3, 4)
    own[1, 2] = own[0, 0]
    _, seen = features(own)
    roles = head.roles(seen)
    assert torch.equal(roles.mean[1, 2], roles.mean[0, 0])
    assert torch.equal(roles.variance[1, 2], roles.variance[0, 0])
    assert not torch.equal(roles.mean[0, 1], roles.mean[0, 0])


def test_a_role_does_not_depend_on_the_others_nor_on_the_team_size_nor_on_the_batch():
    head = RoleQ(SPEC, DIM)  # a norm over the batch would fail here
    own = torch.randn(5, 9, 4)
    all_of = head.roles(features(own)[1]).mean
    one = head.roles(features(own[2:3, 4:5])[1]).mean
    torch.testing.assert_close(all_of[2, 4], one[0, 0])
    assert not any(isinstance(part, nn.BatchNorm1d) for part in head.modules())
    assert any(isinstance(part, nn.LayerNorm) for part in head.modules())


def test_variances_never_fall_below_the_floor():
    head = RoleQ(SPEC, DIM, floor=0.002)
    nn.init.constant_(head.prior[-1].bias, -1e4)
    assert torch.equal(head.roles(features(torch.randn(1, 3, 4))[1]).variance, torch.full((1, 3, 3), 0.002))
    assert RoleQ(SPEC, DIM).roles(features(torch.randn(1, 3, 4))[1]).variance.min() > 0.002


def test_the_role_makes_the_last_layer():
    head = RoleQ(SPEC, DIM).eval()
    found, seen = features(torch.randn(2, 3, 4))
    q = head(found.h, seen=seen)
    decoded = head.decode(head.roles(seen).mean)
    weight, bias = head.weight(decoded).view(2, 3, 5, DIM), head.bias(decoded)
    torch.testing.assert_close(q, torch.einsum("bnad,bnd->bna", weight, found.h) + bias)
    doubled = head(2 * found.h, seen=seen) - bias
    torch.testing.assert_close(doubled, 2 * (q - bias))


def test_roles_are_means_when_acting_and_drawn_by_the_rows_key_when_learning():
    head = RoleQ(SPEC, DIM)
    found, seen = features(torch.randn(1, 3, 4).expand(4000, 3, 4))
    key = torch.arange(4000)
    head.eval()
    assert torch.equal(head._draw(head.roles(seen), key), head.roles(seen).mean)
    head.train()
    roles = head.roles(seen)
    drawn = head._draw(roles, key)
    assert torch.equal(drawn, head._draw(roles, key))
    assert not torch.equal(drawn[0], head._draw(roles, key + 1)[0])
    torch.testing.assert_close(drawn.mean(0), roles.mean[0], atol=0.08, rtol=0)
    torch.testing.assert_close(drawn.var(0), roles.variance[0], atol=0.08, rtol=0.1)
    assert head(found.h, seen=seen, key=key).isfinite().all()


def test_identifiability_is_the_divergence_by_default_and_the_cross_entropy_by_choice():
    found, seen = features(torch.randn(2, 3, 4))
    for shrink in (False, True):
        head = RoleQ(SPEC, DIM, identify=2.0, shrink=shrink)
        p, q = head.roles(seen), head.inferred(seen, found.h)
        expected = p.cross_entropy(q) if shrink else p.kl(q)
        torch.testing.assert_close(head.losses(found, seen)["identify"], 2.0 * expected)


def test_identifiability_trains_both_encoders_and_leaves_memory_alone():
    head = RoleQ(SPEC, DIM)
    found, seen = features(torch.randn(2, 3, 4))
    found.h.requires_grad_()
    head.losses(found, seen)["identify"].sum().backward()
    assert found.h.grad is None
    assert all(p.grad.abs().sum() > 0 for part in (head.prior, head.posterior) for p in part.parameters())


def test_diversity_is_the_mean_over_whom_an_agent_hears_in_either_layout():
    head = RoleQ(SPEC, DIM, diversify=1.0).eval()
    own, h = torch.randn(1, 3, 4), torch.randn(1, 3, DIM)
    seen = observe(own)
    mask = torch.tensor([[[False, True, True], [True, False, False], [False, False, False]]])
    dense = Features(h, AgentGraph(mask=mask, batch_size=[1]))
    index = torch.tensor([[[1, 2], [0, 0], [0, 0]]])
    listed = Features(
        h, AgentGraph(mask=torch.tensor([[[True, True], [True, False], [False, False]]]), index=index, batch_size=[1])
    )
    found = head.losses(dense, seen)["diversify"]
    torch.testing.assert_close(head.losses(listed, seen)["diversify"], found)
    roles, inferred = head.roles(seen), head.inferred(seen, h)

    def pair(i, j):
        hidden = head.apart_own(roles.mean[0, i]) + head.apart_other(roles.mean[0, j])
        apart = head.apart(nn.functional.leaky_relu(hidden)).abs().squeeze()
        told = Gaussian(inferred.mean[0, j], inferred.variance[0, j]).log_prob(roles.mean[0, i])
        return apart - ((13.9 + told.clamp(min=-13.9)).mean() / 100 + apart).clamp(max=0.18)

    expected = torch.stack([(pair(0, 1) + pair(0, 2)) / 2, pair(1, 0), torch.zeros(())])
    torch.testing.assert_close(found[0], expected)


def test_dead_slots_are_never_read():
    head = RoleQ(SPEC, DIM)
    own, h = torch.randn(4, 3, 4), torch.randn(4, 3, DIM)
    alive = torch.tensor([[True, True, False]]).expand(4, 3)
    h = torch.where(alive.unsqueeze(-1), h, 0.0)
    results = []
    for garbage in (0.0, float("nan")):
        head.zero_grad()
        found, seen = features(own.masked_fill(~alive.unsqueeze(-1), garbage), h, alive)
        q = head(found.h, seen=seen, key=torch.arange(4))
        losses = head.losses(found, seen, torch.arange(4))
        (q[alive].sum() + sum(x[alive].sum() for x in losses.values())).backward()
        results.append((q[alive], [p.grad.clone() for p in head.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_kinds_have_their_own_actions_and_continuous_ones_are_refused():
    spec = TeamSpec(1, 3, (4,), (Discrete(2), Discrete(5)), kinds=("a", "b"), reward=("own", "own"))
    head = RoleQ(spec, DIM)
    kind = torch.tensor([[0, 1, 0]])
    found, seen = features(torch.randn(1, 3, 4), kind=kind)
    assert head(found.h, kind=kind, seen=seen).shape == (1, 3, 5)
    assert head.legal(None, kind)[0].sum(-1).tolist() == [2, 5, 2]
    with pytest.raises(ValueError, match="expected discrete actions"):
        RoleQ(TeamSpec(1, 3, (4,), (Continuous((-1.0,), (1.0,)),)), DIM)
    with pytest.raises(ValueError, match="expected the observation"):
        head(found.h, kind=kind)
