"""Promises of divergences: known values, no gradient to who is not meant, what cannot be measured is refused."""

from __future__ import annotations

import math

import pytest
import torch

from gcoord.learners.contrast import Contrast
from gcoord.learners.divergences import KL, MMD, Wasserstein
from gcoord.models.heads import CategoricalChoice, TanhNormalChoice
from gcoord.models.kinds import MixedChoice
from gcoord.models.latent import LatentHead
from gcoord.models.points import PointChoice
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import observe

NUMBERS = TeamSpec(1, 1, (1,), (Discrete(2),))
BOX = TeamSpec(1, 1, (1,), (Continuous((-1.0,), (1.0,)),))
MIXED = TeamSpec(1, 2, (1,), (Discrete(2), Continuous((-1.0,), (1.0,))), ("a", "b"), ("own",) * 2)


def numbers(*probs, rows=1):
    return CategoricalChoice(torch.tensor(probs).log().expand(1, rows, -1))


def normal(mean, std, rows=1):
    """One component, far from where tanh bends where mean and std are small."""
    mean, std = torch.full((1, rows, 1), float(mean)), torch.full((1, rows, 1), float(std))
    return TanhNormalChoice(mean, std.log(), torch.tensor([-1.0]), torch.tensor([1.0]))


def seen(rows=1):
    return observe(torch.ones(1, rows, 1))


def of(divergence, policy, behaviour):
    return divergence(policy, behaviour, torch.zeros(1, 1, 4), seen()).item()


def test_kl_of_numbers_and_of_normals_is_the_known_one():
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert of(KL(NUMBERS, 4), numbers(0.5, 0.5), numbers(0.25, 0.75)) == pytest.approx(expected)
    assert of(KL(BOX, 4), normal(0, 1), normal(1, 2)) == pytest.approx(math.log(2) + (1 + 1) / 8 - 0.5)


def test_mmd_is_that_worked_by_hand():
    x, y = torch.tensor([0.0, 1.0]).view(2, 1, 1), torch.tensor([0.0]).view(1, 1, 1)
    e = math.exp(-1)
    assert MMD(BOX, 4, sigma=0.5).squared(x, y).item() == pytest.approx((2 + 2 * e) / 4 - (1 + e) + 1)
    plane = torch.tensor([[0.0, 0.0], [1.0, 2.0]]).unsqueeze(1)
    one = torch.zeros(1, 1, 2)
    for kernel, near in (("laplacian", math.exp(-3 / 4)), ("gaussian", math.exp(-5 / 4))):
        squared = MMD(BOX, 4, kernel=kernel, sigma=2.0).squared(plane, one).item()
        assert squared == pytest.approx((2 + 2 * near) / 4 - (1 + near) + 1)
    apart = math.hypot(0.5 - 0.2, 0.5 - 0.8)
    assert of(MMD(NUMBERS, 4), numbers(0.5, 0.5), numbers(0.2, 0.8)) == pytest.approx(apart, abs=2e-3)


def test_mmd_of_the_same_is_nothing_and_its_slope_there_is_finite():
    mmd = MMD(BOX, 4)
    x = torch.randn(5, 3, 2, requires_grad=True)
    assert mmd.squared(x, x).abs().max() < 1e-6
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    apart = MMD(NUMBERS, 4)(CategoricalChoice(logits), numbers(0.5, 0.5), torch.zeros(1, 1, 4), seen())
    apart.sum().backward()
    assert apart.item() == pytest.approx(0, abs=1e-6) and logits.grad.isfinite().all()


def test_two_sets_of_samples_of_one_normal_are_as_far_apart_as_is_known():
    levels = [MMD(BOX, 4).null_level(n) for n in (1, 2, 6)]
    assert levels == pytest.approx([0.14, 0.20, 0.33], abs=0.015)


def test_the_null_level_that_is_logged_is_that_of_the_behaviour():
    mmd, rows = MMD(BOX, 4), 4000
    torch.manual_seed(0)
    told = mmd.figures(normal(0.3, 1.0, rows), torch.ones(1, rows, dtype=torch.bool))["null_level"].item()
    assert told == pytest.approx(mmd.null_level(1), abs=0.01)
    assert MMD(NUMBERS, 4).figures(numbers(0.5, 0.5), torch.ones(1, 1, dtype=torch.bool)) == {}


def test_wasserstein_of_numbers_and_of_normals_is_the_known_one():
    assert of(Wasserstein(NUMBERS, 4), numbers(0.5, 0.5), numbers(0.2, 0.8)) == pytest.approx(0.3)
    assert of(Wasserstein(BOX, 4), normal(0, 1), normal(3, 2)) == pytest.approx(math.sqrt(10), abs=2e-3)


@pytest.mark.parametrize("make", [KL, MMD, Wasserstein])
def test_in_mixed_teams_every_kind_is_measured_by_what_it_chooses(make):
    which = torch.tensor([[True, False]])
    policy = MixedChoice(numbers(0.5, 0.5, rows=2), normal(0, 1, rows=2), which)
    behaviour = MixedChoice(numbers(0.2, 0.8, rows=2), normal(3, 2, rows=2), which)
    divergence, h = make(MIXED, 4), torch.zeros(1, 2, 4)
    torch.manual_seed(0)
    both = divergence(policy, behaviour, h, seen(2))[0]
    torch.manual_seed(0)
    point = divergence(policy.points, behaviour.points, h, seen(2))[0, 1]
    torch.testing.assert_close(
        both, torch.stack([divergence(policy.numbers, behaviour.numbers, h, seen(2))[0, 0], point])
    )


def trained(contrast, policy, behaviour, updates=400, rows=64):
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(contrast.parameters(), lr=3e-3)
    h, mask = torch.zeros(1, rows, 4), torch.ones(1, rows, dtype=torch.bool)
    for _ in range(updates):
        optimizer.zero_grad()
        losses = contrast.losses(policy, behaviour, h, seen(rows), mask)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return torch.stack([contrast(policy, behaviour, h, seen(rows)).mean() for _ in range(20)]).mean().item()


def test_the_dual_of_kl_finds_the_known_one():
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    found = trained(Contrast(NUMBERS, 4), numbers(0.5, 0.5, rows=64), numbers(0.25, 0.75, rows=64))
    assert found == pytest.approx(expected, rel=0.05)
    found = trained(Contrast(BOX, 4), normal(0.3, 0.3, rows=64), normal(0, 0.3, rows=64))
    assert found == pytest.approx(0.5, rel=0.3)


def test_the_dual_of_wasserstein_finds_the_known_one():
    found = trained(Contrast(NUMBERS, 4, form="wasserstein"), numbers(0.5, 0.5, rows=64), numbers(0.2, 0.8, rows=64))
    # Every number is sqrt(2) from every other.
    assert found == pytest.approx(0.3 * math.sqrt(2), rel=0.15)
    found = trained(Contrast(BOX, 4, form="wasserstein"), normal(0.3, 0.05, rows=64), normal(0, 0.05, rows=64))
    assert found == pytest.approx(math.tanh(0.3), rel=0.15)


@pytest.mark.parametrize("form", ["kl", "wasserstein"])
def test_a_dual_leads_the_policy_and_is_trained_by_its_own_loss_alone(form):
    contrast, rows = Contrast(BOX, 4, form=form), 8
    means = [torch.zeros(1, rows, 1, requires_grad=True) for _ in range(2)]
    policy, behaviour = (
        TanhNormalChoice(mean, torch.zeros(1, rows, 1), torch.tensor([-1.0]), torch.tensor([1.0])) for mean in means
    )
    h, mask = torch.zeros(1, rows, 4), torch.ones(1, rows, dtype=torch.bool)
    contrast(policy, behaviour, h, seen(rows)).sum().backward()
    assert means[0].grad.abs().min() > 0 and all(p.grad is None for p in contrast.parameters())
    means[0].grad = means[1].grad = None
    torch.stack(list(contrast.losses(policy, behaviour, h, seen(rows), mask).values())).sum().backward()
    assert all(mean.grad is None for mean in means) and all(p.grad is not None for p in contrast.judge.own.parameters())


def test_what_needs_samples_alone_also_measures_a_latent_and_the_others_refuse_it_in_one_line():
    torch.manual_seed(0)
    for spec, policy in ((NUMBERS, numbers(0.5, 0.5)), (BOX, normal(0, 1))):
        behaviour = LatentHead(spec, 4)(torch.zeros(1, 1, 4), seen=seen())
        for divergence in (MMD(spec, 4), Contrast(spec, 4), Contrast(spec, 4, form="wasserstein")):
            assert math.isfinite(of(divergence, policy, behaviour))
        with pytest.raises(ValueError, match=r"^expected policy and behaviour .*divergence=mmd"):
            of(KL(spec, 4), policy, behaviour)
    with pytest.raises(ValueError, match="expected a normal"):
        of(Wasserstein(BOX, 4), normal(0, 1), behaviour)
    point = PointChoice(torch.zeros(1, 1, 1), torch.tensor([-1.0]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="expected a normal"):
        of(MMD(BOX, 4), point, normal(0, 1))


@pytest.mark.parametrize(
    "make", [lambda: MMD(BOX, 4, kernel="cosine"), lambda: MMD(BOX, 4, sigma=0.0), lambda: Contrast(BOX, 4, form="tv")]
)
def test_bad_input_gets_one_line(make):
    with pytest.raises(ValueError, match=r"^expected .* \(got .*\)$"):
        make()
