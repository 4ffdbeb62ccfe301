"""Promises of every mixer and of the team's pooled feature: monotone, greedy-consistent, the same at any team size."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gcoord.models.heads import greedy
from gcoord.models.mixers import (
    Attentive,
    Duplex,
    Each,
    Joint,
    Mixer,
    Monotonic,
    Shapley,
    Sum,
    Utilities,
)
from gcoord.models.pool import team_pool

SIZES = [1, 2, 3, 5, 40]
DIM = 8
nan = float("nan")

MIXERS = {
    "each": Each,
    "sum": Sum,
    "mean": lambda: Sum("mean"),
    "monotonic": lambda: Monotonic(DIM),
    "monotonic_mean": lambda: Monotonic(DIM, reduce="mean"),
    "attentive": lambda: Attentive(DIM),
    "duplex": lambda: Duplex(DIM, n_actions=4),
    "duplex_mean": lambda: Duplex(DIM, reduce="mean"),
    "shapley": lambda: Shapley(DIM),
    "shapley_mean": lambda: Shapley(DIM, reduce="mean"),
    "joint": lambda: Joint(DIM),
    "joint_mean": lambda: Joint(DIM, n_actions=4, reduce="mean"),
}
MONOTONE = {name: MIXERS[name] for name in ("sum", "mean", "monotonic", "monotonic_mean", "attentive")}
CONSISTENT = {**MONOTONE, **{name: MIXERS[name] for name in ("duplex", "duplex_mean")}}
every_mixer = pytest.mark.parametrize("make", MIXERS.values(), ids=MIXERS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_utilities(teams: int, n: int, actions: int = 4, dead: float = 0.3) -> Utilities:
    return Utilities(
        q=torch.randn(teams, n, actions, dtype=torch.float64) * 3,
        action=torch.randint(actions, (teams, n)),
        h=torch.randn(teams, n, DIM, dtype=torch.float64),
        alive=torch.rand(teams, n) >= dead,
    )


def shake(mixer: Mixer) -> Mixer:
    """Other weights than a new mixer has."""
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter))
    return mixer


def gradients(mixer: Mixer) -> list[Tensor]:
    return [p.grad.clone() for p in mixer.parameters() if p.grad is not None]


# Promises


@pytest.mark.parametrize("n", [*SIZES, 7])
@pytest.mark.parametrize("make", MONOTONE.values(), ids=MONOTONE)
def test_monotone_mixers_never_fall_when_a_value_rises(make, n):
    mixer = make().double()
    shake(mixer)
    utilities = random_utilities(200, n)
    q = utilities.q.requires_grad_()
    mixer(utilities).total.sum().backward()
    assert q.grad.min() >= 0
    assert q.grad.max() > 0


@pytest.mark.parametrize(("n", "actions"), list(itertools.product([1, 2, 3], [2, 3])))
@pytest.mark.parametrize("make", CONSISTENT.values(), ids=CONSISTENT)
def test_everyones_greedy_action_is_the_teams_best(make, n, actions):
    joint = torch.tensor(list(itertools.product(range(actions), repeat=n)))  # [A^N, N]
    mixer = make().double()
    for _ in range(20):
        shake(mixer)
        one = random_utilities(1, n, actions)
        available = torch.rand(1, n, actions) < 0.7
        available[..., 0] |= ~available.any(-1)
        every = (x.expand(len(joint), *x.shape[1:]) for x in (one.q, one.h, one.alive, available))
        q, h, alive, legal = every
        totals = mixer(Utilities(q, joint, h, alive, legal)).total
        allowed = legal.gather(-1, joint.unsqueeze(-1)).squeeze(-1).all(-1)
        utilities = Utilities(one.q, one.action, one.h, one.alive, available)
        torch.testing.assert_close(totals[allowed].max(), mixer.target(utilities)[0])


def test_qmixs_weights_depend_on_the_agent_and_on_the_team():
    mixer = Monotonic(DIM).double()
    utilities = random_utilities(1, 3, dead=0.0)
    q = utilities.q.requires_grad_()
    mixer(utilities).total.sum().backward()
    gradients = q.grad.sum(-1).flatten()
    assert gradients.unique().numel() == 3
    assert (gradients > 0).all()


def test_gradients_reach_the_node_features():
    utilities = random_utilities(4, 5)
    h = utilities.h.requires_grad_()
    Monotonic(DIM).double()(utilities).total.sum().backward()
    assert (h.grad[utilities.alive].abs().amax(-1) > 0).all()
    assert (h.grad[~utilities.alive] == 0).all()


def test_the_target_is_the_mixer_at_the_greedy_or_at_the_given_action():
    mixer = Monotonic(DIM).double()
    utilities = random_utilities(6, 4)
    best = greedy(utilities.q)
    assert torch.equal(mixer.target(utilities), mixer(utilities.at(best)).total)
    other = torch.randint(4, (6, 4))
    assert torch.equal(mixer.target(utilities, other), mixer(utilities.at(other)).total)
    assert mixer.losses(utilities, mixer(utilities), best) == {}


@every_mixer
@pytest.mark.parametrize("n", SIZES)
def test_order_padding_and_garbage_change_nothing(make, n):
    mixer = make().double()
    utilities = random_utilities(5, n)
    q, h = utilities.q.clone().requires_grad_(), utilities.h.clone().requires_grad_()
    total = mixer(Utilities(q, utilities.action, h, utilities.alive)).total
    assert total.shape == ((5, n) if mixer.per_agent else (5,))
    total.square().sum().backward()

    order = torch.randperm(n)
    turned = Utilities(*(x[:, order] for x in (q, utilities.action, h, utilities.alive)))
    expected = total[:, order] if mixer.per_agent else total
    torch.testing.assert_close(mixer(turned).total, expected, rtol=1e-12, atol=1e-12)

    dead = ~utilities.alive
    action = utilities.action.masked_fill(dead, -7)
    dirty_q = utilities.q.masked_fill(dead.unsqueeze(-1), nan).requires_grad_()
    dirty_h = utilities.h.masked_fill(dead.unsqueeze(-1), nan).requires_grad_()
    clean_weights = gradients(mixer)
    mixer.zero_grad()
    dirty = mixer(Utilities(dirty_q, action, dirty_h, utilities.alive)).total
    dirty.square().sum().backward()
    assert torch.equal(dirty, total)
    for mine, clean in ((dirty_q.grad, q.grad), (dirty_h.grad, h.grad)):
        assert (mine is None and clean is None) or torch.equal(mine, clean)
    assert q.grad is not None or h.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(gradients(mixer), clean_weights, strict=True))

    padded = Utilities(
        torch.cat([q, torch.randn(5, 3, 4)], 1),
        torch.cat([utilities.action, torch.zeros(5, 3, dtype=torch.long)], 1),
        torch.cat([h, torch.randn(5, 3, DIM)], 1),
        torch.cat([utilities.alive, torch.zeros(5, 3, dtype=torch.bool)], 1),
    )
    more = mixer(padded).total
    torch.testing.assert_close(more[:, :n] if mixer.per_agent else more, total, rtol=1e-12, atol=1e-12)


@every_mixer
def test_a_team_of_the_dead_is_worth_no_nan(make):
    mixer = make().double()
    utilities = random_utilities(3, 4, dead=2.0)
    assert mixer(utilities).total.isfinite().all()


@every_mixer
def test_time_and_teams_may_both_lead(make):
    mixer = make().double()
    utilities = random_utilities(6, 4)
    split = Utilities(*(x.unflatten(0, (2, 3)) for x in (utilities.q, utilities.action, utilities.h, utilities.alive)))
    torch.testing.assert_close(mixer(split).total.flatten(0, 1), mixer(utilities).total)


@every_mixer
def test_the_same_weights_mix_a_thousand_agents(make):
    mixer = make().double()
    small = mixer(random_utilities(2, 4)).total
    large = mixer(random_utilities(2, 1000)).total
    assert small.isfinite().all() and large.isfinite().all()
    assert large.shape == ((2, 1000) if mixer.per_agent else (2,))


@every_mixer
def test_teams_of_different_size_in_one_batch_are_worth_what_each_is_alone(make):
    mixer = shake(make().double())
    sizes, width = [1, 2, 5, 3], 5
    teams = [random_utilities(1, n, dead=0.0) for n in sizes]

    def padded(field: str) -> Tensor:
        rows = [getattr(team, field)[0] for team in teams]
        return torch.stack([torch.cat([x, torch.ones(width - len(x), *x.shape[1:]).to(x)]) for x in rows])

    alive = torch.arange(width) < torch.tensor(sizes).unsqueeze(-1)
    together = mixer(Utilities(padded("q"), padded("action"), padded("h"), alive)).total
    for team, total, n in zip(teams, together, sizes, strict=True):
        total = total[:n] if mixer.per_agent else total
        torch.testing.assert_close(total, mixer(team).total[0], rtol=1e-12, atol=1e-12)


@every_mixer
def test_the_same_row_gives_the_same_bits_again(make):
    mixer, utilities, key = make(), random_utilities(6, 5), torch.arange(6)
    utilities = Utilities(utilities.q.float(), utilities.action, utilities.h.float(), utilities.alive)
    torch.manual_seed(1)
    first = mixer(utilities, key).total
    torch.manual_seed(2)
    assert torch.equal(mixer(utilities, key).total, first)


@pytest.mark.parametrize("make", [Sum, Monotonic, Duplex, Shapley, Joint])
def test_unknown_reductions_are_refused(make):
    with pytest.raises(ValueError, match="expected reduce to be 'sum' or 'mean'"):
        make(dim=DIM, reduce="max")


@pytest.mark.parametrize("make", [Duplex, Joint])
def test_more_actions_than_a_mixer_was_made_for_are_refused(make):
    with pytest.raises(ValueError, match=r"expected at most n_actions=3 actions \(got 4\)"):
        make(DIM, n_actions=3).double()(random_utilities(2, 3))


# The pooled feature


@pytest.mark.parametrize("n", SIZES)
def test_the_team_feature_is_mean_and_maximum_over_the_living(n):
    h = torch.randn(6, n, DIM) - 5  # all negative: a maximum over zeros would show
    alive = torch.rand(6, n) < 0.6
    alive[0] = False
    g = team_pool(h, alive)
    for team in range(6):
        living = h[team][alive[team]]
        expected = torch.zeros(2 * DIM) if len(living) == 0 else torch.cat([living.mean(0), living.amax(0)])
        torch.testing.assert_close(g[team], expected)


def test_the_team_feature_never_reads_the_dead():
    h, alive = torch.randn(6, 5, DIM), torch.rand(6, 5) < 0.5
    results = []
    for garbage in (0.0, nan, float("inf")):
        x = h.masked_fill(~alive.unsqueeze(-1), garbage).requires_grad_()
        g = team_pool(x, alive)
        g.square().sum().backward()
        results.append((g, x.grad))
    for g, gradient in results[1:]:
        assert torch.equal(g, results[0][0]) and torch.equal(gradient, results[0][1])
