"""Heads: distributions are what they say, masks are exact, and stored actions keep their log-probability."""

from __future__ import annotations

import math

import pytest
import torch

from gcoord.models.heads import (
    Categorical,
    CategoricalChoice,
    QHead,
    TanhNormal,
    TanhNormalChoice,
    _hermite,
    epsilon_greedy,
    greedy,
)

SIZES = [1, 2, 3, 5, 40]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def box(mean: float, std: float, low: float = -1.0, high: float = 1.0) -> TanhNormalChoice:
    """One agent, one component, double precision."""
    numbers = [torch.tensor([x], dtype=torch.float64) for x in (mean, math.log(std), low, high)]
    return TanhNormalChoice(numbers[0].expand(1, 1, 1), *numbers[1:])


# Categorical


def test_unavailable_actions_have_probability_exactly_zero():
    available = torch.tensor([[[True, False, True, False]]])
    choice = CategoricalChoice(torch.tensor([[[1.0, 50.0, 2.0, -3.0]]]), available)
    share = 1 / (1 + math.e)
    torch.testing.assert_close(choice.probs, torch.tensor([[[share, 0.0, 1 - share, 0.0]]]))
    assert (choice.probs[~available] == 0).all()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    torch.testing.assert_close(choice.entropy(), torch.tensor([[entropy]]))
    assert choice.mode().item() == 2


def test_the_size_of_logits_is_the_mean_square_of_what_is_available():
    available = torch.tensor([[True, False, True, False], [False] * 4])
    size = CategoricalChoice(torch.tensor([[1.0, 50.0, 2.0, -3.0], [1.0, 2.0, 3.0, 4.0]]), available).size()
    assert size.tolist() == [2.5, 0.0]


def test_masked_choices_have_finite_gradients():
    logits = torch.randn(5, 3, 4, requires_grad=True)
    available = torch.rand(5, 3, 4) < 0.4  # some rows have nothing available
    choice = CategoricalChoice(logits, available)
    other = CategoricalChoice(torch.randn(5, 3, 4), available)
    (choice.log_prob(choice.sample()) + choice.entropy() + choice.kl(other)).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~available] == 0).all()
    assert (logits.grad[available] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_where_nothing_is_available_the_choice_is_defined_and_harmless(dtype):
    choice = CategoricalChoice(torch.randn(2, 3, 4, dtype=dtype), torch.zeros(2, 3, 4, dtype=torch.bool))
    assert (choice.sample() == 0).all()
    assert (choice.mode() == 0).all()
    for number in (choice.log_prob(torch.zeros(2, 3, dtype=torch.long)), choice.entropy(), choice.kl(choice)):
        assert number.isfinite().all()


def test_samples_have_the_probabilities_and_are_always_available():
    available = torch.tensor([True, True, False, True])
    choice = CategoricalChoice(torch.tensor([0.0, 1.0, 9.0, 2.0]).expand(200, 200, 4), available.expand(200, 200, 4))
    counts = choice.sample().flatten().bincount(minlength=4) / 40_000
    assert counts[2] == 0
    torch.testing.assert_close(counts, choice.probs[0, 0], rtol=0, atol=0.01)


def test_categorical_kl_by_hand():
    first, second = (CategoricalChoice(torch.tensor(p).log().view(1, 1, 2)) for p in ([0.5, 0.5], [0.9, 0.1]))
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    torch.testing.assert_close(first.kl(second), torch.tensor([[expected]]))
    torch.testing.assert_close(first.kl(first), torch.zeros(1, 1))


def test_a_choice_first_read_without_gradient_still_has_one():
    head = Categorical(8, 3)
    choice = head(torch.randn(2, 4, 8))
    with torch.no_grad():
        choice.log_prob(torch.zeros(2, 4, dtype=torch.long))
    choice.entropy().sum().backward()
    assert head.logits.weight.grad is not None


def test_a_new_policy_is_close_to_uniform():
    choice = Categorical(64, 6)(torch.randn(32, 4, 64))
    assert (choice.probs - 1 / 6).abs().max() < 0.02


# TanhNormal


@pytest.mark.parametrize("std", [0.05, 0.7, 2.0])
@pytest.mark.parametrize("mean", [-5.0, 0.0, 0.4, 5.0])
def test_samples_lie_within_the_bounds_with_finite_log_prob_and_gradient(mean, std):
    low, high = torch.tensor([-0.1, 100.0, -2.0]), torch.tensor([0.2, 101.0, -0.8])
    means = torch.full((50, 4, 3), mean, requires_grad=True)
    log_std = torch.full((3,), math.log(std), requires_grad=True)
    choice = TanhNormalChoice(means, log_std, low, high)
    action = choice.sample()
    assert ((action >= low) & (action <= high)).all()
    assert ((choice.mode() >= low) & (choice.mode() <= high)).all()
    far = TanhNormalChoice(means + 20, log_std, low, high)
    assert (far.sample() <= high).all() and (far.mode() <= high).all()
    for extreme in (action, low.expand_as(action), high.expand_as(action)):
        assert choice.log_prob(extreme).isfinite().all()
        choice.log_prob(extreme).sum().backward(retain_graph=True)
    choice.entropy().sum().backward()
    assert means.grad.isfinite().all() and log_std.grad.isfinite().all()


@pytest.mark.parametrize(("mean", "std", "low", "high"), [(0.0, 1.0, -1.0, 1.0), (0.8, 0.3, -2.0, 5.0)])
def test_the_density_integrates_to_one_and_has_the_entropy_that_is_reported(mean, std, low, high):
    choice = box(mean, std, low, high)
    edges = torch.linspace(low, high, 400_001, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    log_density = choice.log_prob(middles.view(-1, 1, 1)).flatten()
    width = (high - low) / 400_000
    assert abs((log_density.exp() * width).sum().item() - 1) < 1e-4
    entropy = -(log_density.exp() * log_density * width).sum().item()
    assert abs(choice.entropy().item() - entropy) < 2e-3


def test_log_prob_is_torchs_own_transformed_normal():
    low, high = torch.tensor([-2.0, 0.0], dtype=torch.float64), torch.tensor([2.0, 3.0], dtype=torch.float64)
    mean, log_std = torch.randn(6, 4, 2, dtype=torch.float64), torch.randn(6, 4, 2, dtype=torch.float64) * 0.2
    choice = TanhNormalChoice(mean, log_std, low, high)
    peer = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()),
        [
            torch.distributions.TanhTransform(),
            torch.distributions.AffineTransform((low + high) / 2, (high - low) / 2),
        ],
    )
    action = choice.sample()
    torch.testing.assert_close(choice.log_prob(action), peer.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_a_stored_action_keeps_its_log_prob_also_where_tanh_is_saturated():
    head = TanhNormal(16, 3, low=[-1, 0, 5], high=[1, 10, 5.5])
    with torch.no_grad():
        head.mean.weight.mul_(500)  # means up to the limit
    h = torch.randn(200, 4, 16)
    choice = head(h)
    action = choice.sample()
    squashed = (action - head.low) / (head.high - head.low) * 2 - 1
    assert (squashed.abs() > 1 - 1e-6).any(), "no saturated action was drawn"
    ratio = (head(h.clone()).log_prob(action.clone()) - choice.log_prob(action)).exp()
    assert (ratio - 1).abs().max() < 1e-6


def test_samples_are_distributed_as_the_density_says():
    choice = box(0.5, 0.8)
    draws = TanhNormalChoice(choice.mean.expand(100_000, 1, 1), choice.log_std, choice.low, choice.high).sample()
    grid = torch.linspace(-0.99, 0.99, 9, dtype=torch.float64)
    empirical = (draws.flatten().unsqueeze(-1) <= grid).double().mean(0)
    exact = torch.distributions.Normal(0.5, 0.8).cdf(torch.atanh(grid))
    assert (empirical - exact).abs().max() < 0.01


@pytest.mark.parametrize("mean", [0.0, 1.0, 4.0])
@pytest.mark.parametrize(("std", "error"), [(0.05, 1e-3), (1.0, 1e-3), (2.0, 0.03)])
def test_entropy_is_close_to_the_mean_of_minus_log_prob(mean, std, error):
    fine = box(mean, std)
    fine.NODES = 200
    assert abs(box(mean, std).entropy().item() - fine.entropy().item()) < error
    draws = mean + std * torch.randn(200_000, dtype=torch.float64)
    log_slope = 2 * (math.log(2) - draws - torch.nn.functional.softplus(-2 * draws))
    estimate = 0.5 * math.log(2 * math.pi * math.e) + math.log(std) + log_slope.mean().item()
    assert abs(fine.entropy().item() - estimate) < 0.02


def test_entropy_computed_first_without_autograd_can_be_trained_on_later():
    head = TanhNormal(4, 2).double()
    _hermite.cache_clear()
    with torch.inference_mode():
        head(torch.randn(3, 2, 4, dtype=torch.float64)).entropy()
    head(torch.randn(3, 2, 4, dtype=torch.float64)).entropy().sum().backward()
    assert head.raw_std.grad.abs().min() > 0


def test_normal_kl_by_hand():
    # log(2 / 1) + (1 + 3^2) / (2 * 4) - 1 / 2
    assert abs(box(0.0, 1.0).kl(box(3.0, 2.0)).item() - (math.log(2) + 10 / 8 - 0.5)) < 1e-12
    assert box(0.3, 0.5).kl(box(0.3, 0.5)).item() == 0


@pytest.mark.parametrize("state_std", [False, True])
def test_deviations_start_where_asked_and_stay_in_their_range(state_std):
    head = TanhNormal(8, 2, std=0.5, std_range=(0.1, 0.9), state_std=state_std, gain=1e-6)
    h = torch.randn(3, 4, 8)
    torch.testing.assert_close(head(h).log_std.exp().expand(3, 4, 2), torch.full((3, 4, 2), 0.5))
    for push, bound in ((50.0, 0.9), (-50.0, 0.1)):
        with torch.no_grad():
            head.raw_std.fill_(push)
        torch.testing.assert_close(head(h).log_std.exp().expand(3, 4, 2), torch.full((3, 4, 2), bound))


def test_means_stay_where_tanh_has_a_slope():
    head = TanhNormal(8, 2, gain=1000.0, limit=5.0)
    h = torch.randn(30, 4, 8)
    mean = head(h).mean
    assert 4.9 < mean.abs().max() <= 5
    assert (mean * head.mean(h) >= 0).all()


def test_impossible_deviations_are_refused():
    with pytest.raises(ValueError, match="expected 0 < smallest < std < largest"):
        TanhNormal(8, 2, std=3.0)


# Both


@pytest.mark.parametrize("head", [Categorical(16, 5), TanhNormal(16, 2), TanhNormal(16, 2, state_std=True)])
@pytest.mark.parametrize("n", SIZES)
def test_policy_heads_treat_every_agent_alike_at_any_team_size(head, n):
    h = torch.randn(3, n, 16)
    action = head(h).sample()
    order = torch.randperm(n)
    for number in (lambda h, a: head(h).log_prob(a), lambda h, a: head(h).entropy()):
        torch.testing.assert_close(number(h[:, order], action[:, order]), number(h, action)[:, order])
        one_by_one = torch.cat([number(h[:, i : i + 1], action[:, i : i + 1]) for i in range(n)], 1)
        torch.testing.assert_close(number(h, action), one_by_one)


@pytest.mark.parametrize("head", [Categorical(16, 5), TanhNormal(16, 2)])
def test_bfloat16_features_give_log_probs_in_float32(head):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        choice = head(torch.randn(3, 4, 16))
        log_prob = choice.log_prob(choice.sample())
    assert log_prob.dtype == torch.float32 and log_prob.isfinite().all()


@pytest.mark.parametrize("head", [Categorical(16, 5), TanhNormal(16, 2)])
def test_a_generator_makes_samples_reproducible(head):
    choice = head(torch.randn(3, 4, 16))
    first, second = (choice.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


# Q


@pytest.mark.parametrize("n", SIZES)
def test_dueling_advantages_have_mean_zero(n):
    head = QHead(16, 5, dueling=True)
    h = torch.randn(2, n, 16)
    torch.testing.assert_close(head(h).mean(-1, keepdim=True), head.value(h))
    torch.testing.assert_close(head(h) - head.value(h), head.advantage(h) - head.advantage(h).mean(-1, keepdim=True))


def test_greedy_reads_available_actions_only():
    q = torch.tensor([[3.0, float("nan"), 9.0], [-5.0, -4.0, -3.0], [1.0, 2.0, 3.0]])
    available = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    assert greedy(q, available).tolist() == [0, 1, 0]
    assert greedy(q[1:]).tolist() == [2, 2]


def test_epsilon_greedy_explores_as_often_as_asked_among_what_is_available():
    q = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(200, 200, 4)
    available = torch.tensor([True, True, True, False]).expand(200, 200, 4)
    action = epsilon_greedy(q, torch.tensor(0.3), available)
    share = action.flatten().bincount(minlength=4) / action.numel()
    torch.testing.assert_close(share, torch.tensor([0.1, 0.1, 0.8, 0.0]), rtol=0, atol=0.01)
    assert torch.equal(epsilon_greedy(q, 0.0, available), greedy(q, available))
    per_agent = torch.tensor([0.0, 1.0]).repeat(100).expand(200, 200)
    action = epsilon_greedy(q, per_agent, available)
    assert (action[:, ::2] == 2).all()
    assert (action[:, 1::2] != 2).float().mean() > 0.6
