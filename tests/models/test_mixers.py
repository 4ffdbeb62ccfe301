"""Mixers and the team's pooled feature: the papers' known answers, monotone, greedy-consistent, at any team size."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from gcoord.models.heads import greedy
from gcoord.models.mixers import Each, Mixer, Monotonic, Sum, Utilities
from gcoord.models.pool import team_pool

SIZES = [1, 2, 3, 5, 40]
DIM = 8
GAME = torch.tensor([[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]], dtype=torch.float64)
nan = float("nan")

MIXERS = {
    "each": Each,
    "sum": Sum,
    "mean": lambda: Sum("mean"),
    "monotonic": lambda: Monotonic(DIM),
    "monotonic_mean": lambda: Monotonic(DIM, reduce="mean"),
}
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


def on_game(q: Tensor, h: Tensor | None = None) -> Utilities:
    """Both agents' tables q [2, A] at all A x A joint actions."""
    actions = torch.cartesian_prod(torch.arange(q.shape[1]), torch.arange(q.shape[1]))
    count = len(actions)
    return Utilities(
        q=q.expand(count, *q.shape),
        action=actions,
        h=torch.zeros(count, 2, DIM, dtype=q.dtype) if h is None else h.expand(count, 2, DIM),
        alive=torch.ones(count, 2, dtype=torch.bool),
    )


# Known answers


def fitted(mixer: Mixer, targets: Tensor) -> Tensor:
    """The tables [2, 3] of the exact least-squares fit through a mixer that is linear in them."""
    columns = [mixer(on_game(basis.view(2, 3))).total.flatten() for basis in torch.eye(6, dtype=torch.float64)]
    solution = torch.linalg.lstsq(torch.stack(columns, 1), targets.unsqueeze(1), driver="gelsd").solution
    return solution.view(2, 3)


def test_vdn_fits_the_one_step_game_as_in_closed_form():
    mixer = Sum()
    total = mixer(on_game(fitted(mixer, GAME.flatten()))).total.view(3, 3)
    expected = torch.tensor([-56.0, -44.0, -32.0], dtype=torch.float64) / 9  # -6.222, -4.889, -3.556
    torch.testing.assert_close(torch.stack([total[0, 0], total[0, 1], total[1, 1]]), expected)


def test_independent_learners_fit_the_mean_over_the_others_actions():
    q = fitted(Each(), GAME.flatten().repeat_interleave(2))
    expected = torch.tensor([[-16 / 3, -4, -4]] * 2, dtype=torch.float64)
    torch.testing.assert_close(q, expected)


def test_vdns_gradient_to_every_chosen_value_is_equal_and_zero_elsewhere():
    utilities = random_utilities(6, 5)
    q = utilities.q.requires_grad_()
    Sum()(utilities).total.sum().backward()
    expected = nn.functional.one_hot(utilities.action, 4) * utilities.alive.unsqueeze(-1)
    assert torch.equal(q.grad, expected.double())


def test_the_mean_is_the_sum_over_the_number_of_the_living():
    utilities = random_utilities(20, 5)
    count = utilities.alive.sum(-1).clamp(min=1)
    torch.testing.assert_close(Sum("mean")(utilities).total, Sum()(utilities).total / count)
    chosen = utilities.q.gather(-1, utilities.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(Sum()(utilities).total, (chosen * utilities.alive).sum(-1))


def second_stage(mixer: Mixer, steps: int) -> Tensor:
    """Values that a mixer learns for the greedy joint action in the two-step game's second stages 2A and 2B."""
    payoff = torch.tensor([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])  # [stage, a, b]
    q = nn.Parameter(torch.zeros(2, 2, 2))  # [stage, agent, action]
    h = torch.zeros(2, 2, DIM)
    h[0, :, 0] = h[1, :, 1] = 1.0
    optimiser = torch.optim.Adam([q, *mixer.parameters()], lr=0.02)
    for _ in range(steps):
        loss = sum((mixer(on_game(q[s], h[s])).total - payoff[s].flatten()).square().sum() for s in range(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return torch.stack([mixer.target(on_game(q[s], h[s]))[0] for s in range(2)]).detach()


def test_qmix_reaches_eight_in_the_two_step_game_where_vdn_takes_seven():
    qmix, vdn = second_stage(Monotonic(DIM), 500), second_stage(Sum(), 500)
    torch.testing.assert_close(qmix, torch.tensor([7.0, 8.0]), rtol=0, atol=0.2)
    torch.testing.assert_close(vdn, torch.tensor([7.0, 6.5]), rtol=0, atol=0.2)
    assert qmix.argmax() == 1 and vdn.argmax() == 0


# Promises


@pytest.mark.parametrize("n", [*SIZES, 7])
@pytest.mark.parametrize("make", [Sum, lambda: Monotonic(DIM), lambda: Monotonic(DIM, reduce="mean")])
def test_monotone_mixers_never_fall_when_a_value_rises(make, n):
    mixer = make().double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter))  # not only the weights that a new mixer has
    utilities = random_utilities(200, n)
    q = utilities.q.requires_grad_()
    mixer(utilities).total.sum().backward()
    assert q.grad.min() >= 0
    assert q.grad.max() > 0


@pytest.mark.parametrize(("n", "actions"), list(itertools.product([1, 2, 3], [2, 3])))
@pytest.mark.parametrize("make", [Sum, lambda: Monotonic(DIM), lambda: Monotonic(DIM, reduce="mean")])
def test_everyones_greedy_action_is_the_teams_best(make, n, actions):
    mixer = make().double()
    for _ in range(20):
        utilities = random_utilities(1, n, actions)
        available = torch.rand(1, n, actions) < 0.7
        available[..., 0] |= ~available.any(-1)
        utilities = Utilities(utilities.q, utilities.action, utilities.h, utilities.alive, available)
        totals = [
            mixer(utilities.at(torch.tensor([joint]))).total
            for joint in itertools.product(range(actions), repeat=n)
            if available[0].gather(-1, torch.tensor(joint).unsqueeze(-1)).all()
        ]
        torch.testing.assert_close(torch.stack(totals).max(), mixer.target(utilities)[0])


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
    clean_weights = [p.grad.clone() for p in mixer.parameters()]
    mixer.zero_grad()
    dirty = mixer(Utilities(dirty_q, action, dirty_h, utilities.alive)).total
    dirty.square().sum().backward()
    assert torch.equal(dirty, total)
    assert torch.equal(dirty_q.grad, q.grad)
    assert (h.grad is None and dirty_h.grad is None) or torch.equal(dirty_h.grad, h.grad)
    assert all(torch.equal(p.grad, clean) for p, clean in zip(mixer.parameters(), clean_weights, strict=True))

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


def test_unknown_reductions_are_refused():
    for make in (Sum, lambda reduce: Monotonic(DIM, reduce=reduce)):
        with pytest.raises(ValueError, match="expected reduce to be 'sum' or 'mean'"):
            make("max")


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
