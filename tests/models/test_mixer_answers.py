"""Known answers of mixers: closed forms, exact fits, and what each paper promises of its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from gcoord.models.heads import greedy
from gcoord.models.mixers import (
    Attentive,
    Duplex,
    Each,
    Joint,
    Mixed,
    Mixer,
    Monotonic,
    MonotonicOfN,
    Shapley,
    Sum,
    Utilities,
)
from gcoord.models.pool import team_pool

DIM = 8
GAME = torch.tensor([[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]], dtype=torch.float64)
PEAKS = torch.tensor([[8.0, -12, -12], [-12, 6, 0], [-12, 0, 6]], dtype=torch.float64)
nan = float("nan")


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


# What a monotone mixer can represent


def best_monotone_fits(game: Tensor) -> list[tuple[float, float, tuple[int, int]]]:
    """Squared error, payoff of the pick and the pick itself, of the best fit for every order of both agents' actions.

    Exact: an isotonic fit at a cell is the maximum over upper sets with it of the minimum over lower sets with it of
    the mean over both (https://doi.org/10.1214/aoms/1177728423).
    """
    cells = list(itertools.product(range(3), repeat=2))
    upper = [
        torch.tensor([column >= cut[row] for row, column in cells])
        for cut in itertools.product(range(4), repeat=3)
        if cut[0] >= cut[1] >= cut[2]
    ]
    sets = torch.stack(upper)  # [20, 9]
    meets = (sets.unsqueeze(1) & ~sets.unsqueeze(0)).double()  # upper and lower sets, [20, 20, 9]
    results = []
    for rows, columns in itertools.product(itertools.permutations(range(3)), repeat=2):
        payoff = game[list(rows)][:, list(columns)].flatten()
        mean = (meets @ payoff) / meets.sum(-1).clamp(min=1)
        fit = []
        for cell in range(9):
            inside = meets[..., cell] > 0
            lowest = torch.where(inside, mean, torch.inf).amin(1)
            fit.append(torch.where(inside.any(1), lowest, -torch.inf).amax())
        error = (torch.stack(fit) - payoff).square().sum().item()
        results.append((error, payoff[-1].item(), (rows[-1], columns[-1])))
    return results


def test_the_best_monotone_fit_of_the_game_with_three_peaks_never_picks_eight():
    fits = best_monotone_fits(PEAKS)
    error, payoff, _ = min(fits)
    assert error == pytest.approx(344) and payoff <= 6
    assert min(error for error, _, pick in fits if pick == (0, 0)) == pytest.approx(486)
    assert all(payoff <= 6 for error, payoff, _ in fits if error < 486 - 1e-6)


# Each mixer's own


def test_qattens_gradients_sum_to_its_heads_weights_at_every_size():
    mixer = shake(Attentive(DIM, heads=3).double())
    sums = []
    for n in (1, 3, 40):
        utilities = random_utilities(7, n, dead=0.0)
        h = utilities.h[:, :1].expand(-1, n, -1)  # the same pooled feature whatever the size
        q = utilities.q.requires_grad_()
        mixed = mixer(Utilities(q, utilities.action, h, utilities.alive))
        mixed.total.sum().backward()
        weights = mixer.weight(team_pool(h, utilities.alive)).abs().sum(-1)
        torch.testing.assert_close(q.grad.sum((-2, -1)), weights)
        torch.testing.assert_close(mixed.terms["shares"].sum(-2), torch.ones(7, 3).double())
        sums.append(q.grad.sum())
    assert (torch.stack(sums) > 0).all()


def test_qplexs_advantage_is_exactly_zero_at_the_greedy_joint_action_and_negative_elsewhere():
    mixer = shake(Duplex(DIM))
    utilities = random_utilities(300, 4)
    utilities = Utilities(utilities.q.float(), utilities.action, utilities.h.float(), utilities.alive)
    at_best = mixer(utilities.at_greedy())
    assert torch.equal(at_best.terms["advantage"], torch.zeros(300, 4))
    elsewhere = mixer(utilities)
    differs = (utilities.action != greedy(utilities.q)) & utilities.alive
    assert (elsewhere.terms["advantage"][differs] < 0).all() and differs.any()
    assert (elsewhere.terms["weight"][utilities.alive] > 0).all()


def test_qplexs_gradient_to_values_passes_by_the_sum_alone():
    mixer = shake(Duplex(DIM).double())
    utilities = random_utilities(6, 3, dead=0.0)
    q = utilities.q.requires_grad_()
    mixer(utilities).total.sum().backward()
    weight = (
        nn.functional.elu(mixer.transform(utilities.h, team_pool(utilities.h, utilities.alive))[..., 0]) + 1 + 1e-10
    )
    expected = nn.functional.one_hot(utilities.action, 4) * weight.unsqueeze(-1)
    torch.testing.assert_close(q.grad, expected)


def test_shaq_is_the_plain_sum_where_all_are_greedy_and_as_a_target():
    mixer = shake(Shapley(DIM).double())
    utilities = random_utilities(50, 5)
    best = utilities.at_greedy()
    assert torch.equal(mixer(best).total, Sum()(best).total)
    assert torch.equal(mixer.target(utilities), Sum()(best).total)
    assert torch.equal(mixer.target(utilities, utilities.action), Sum()(utilities).total)


def test_shaq_without_alpha_is_vdn_and_weighs_explored_actions_more_with_it():
    mixer = Shapley(DIM).double()
    utilities = random_utilities(50, 5)
    for last in (mixer.second[-1], mixer.value[-1]):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    assert torch.equal(mixer(utilities).total, Sum()(utilities).total)
    mixed = shake(mixer)(utilities)
    explored = utilities.action != greedy(utilities.q)
    chosen = utilities.chosen()
    torch.testing.assert_close(mixed.total, ((1 + mixed.terms["alpha"] * explored) * chosen).sum(-1))
    assert (mixed.terms["alpha"] >= 0).all()


def test_shaqs_coalitions_are_those_before_an_agent_in_even_random_orders():
    mixer, n, draws = Shapley(DIM, samples=2000).double(), 3, 2000
    q = torch.tensor([[1.0, 0], [10, 0], [100, 0]], dtype=torch.float64)
    utilities = Utilities(q.expand(1, n, 2), torch.zeros(1, n).long(), torch.zeros(1, n, DIM), torch.ones(1, n).bool())
    before = mixer._coalitions(utilities, utilities.chosen(), torch.tensor([7]))[0]  # [S, N]
    values, counts = before[:, 0].unique(return_counts=True)
    # Before the first agent stand nobody, one of the others or both: 1/3, 1/6 each, 1/3 of all orders.
    torch.testing.assert_close(values, torch.tensor([0.0, 10, 55, 100]).double())
    torch.testing.assert_close(counts / draws, torch.tensor([1 / 3, 1 / 6, 1 / 3, 1 / 6]), atol=0.04, rtol=0)
    other = mixer._coalitions(utilities, utilities.chosen(), torch.tensor([8]))[0]
    assert (before != other).any()


def test_qtrans_gradients_stop_at_the_joint_value_and_not_at_v():
    mixer = shake(Joint(DIM).double())
    utilities = random_utilities(9, 3)
    q = utilities.q.requires_grad_()
    mixed = mixer(utilities)
    extra = mixer.losses(utilities, mixed, mixed.total)
    assert extra["opt"].shape == extra["nopt"].shape == (9,) and (extra["nopt"] > 0).any()
    sum(loss.sum() for loss in extra.values()).backward()
    assert all(p.grad is None for part in (mixer.joint, mixer.encode) for p in part.parameters())
    assert all(p.grad.abs().sum() > 0 for p in mixer.value.parameters()) and q.grad.abs().sum() > 0
    q.grad = None
    mixed.total.sum().backward()
    assert q.grad is None and all(p.grad is not None for p in mixer.joint.parameters())


def test_qtran_has_no_loss_at_the_hand_solution_of_the_one_step_game():
    class Table(Joint):
        """Q_jt is the game's payoff and V is 0."""

        def forward(self, utilities, key=None):
            total = GAME[utilities.action[..., 0], utilities.action[..., 1]]
            return Mixed(total, {"value": torch.zeros_like(total)})

    q = torch.tensor([[4.0, 0, 0], [4, 0, 0]], dtype=torch.float64)
    mixer, utilities = Table(DIM), on_game(q)
    extra = mixer.losses(utilities, mixer(utilities), GAME.flatten())
    assert torch.equal(extra["opt"], torch.zeros(9)) and torch.equal(extra["nopt"], torch.zeros(9))
    worse = mixer.losses(on_game(q + 1), mixer(on_game(q + 1)), GAME.flatten())
    assert (worse["opt"] == 4).all() and torch.equal(worse["nopt"], torch.zeros(9))  # opt: (5 + 5 - 8)^2
    low = mixer.losses(on_game(q - 1), mixer(on_game(q - 1)), GAME.flatten())
    assert low["nopt"].view(3, 3)[1, 1] == 4 and low["nopt"].view(3, 3)[0, 1] == 0


def test_the_papers_qmix_mixes_its_own_size_alone():
    mixer = shake(MonotonicOfN(DIM, n_agents=3).double())
    utilities = random_utilities(200, 3)
    q = utilities.q.requires_grad_()
    mixer(utilities).total.sum().backward()
    assert q.grad.min() >= 0 and q.grad.max() > 0 and mixer.fixed_n == 3
    dirty = Utilities(
        q, utilities.action, utilities.h.masked_fill(~utilities.alive.unsqueeze(-1), nan), utilities.alive
    )
    assert torch.equal(mixer(dirty).total, mixer(utilities).total)
    for n in (2, 4):
        with pytest.raises(ValueError, match=rf"expected teams of 3, to which this mixer is bound \(got {n} agents\)"):
            mixer(random_utilities(2, n))
