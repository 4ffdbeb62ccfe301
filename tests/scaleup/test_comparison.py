"""Learners compared over runs and tasks: rliable's definitions, by known answers and against rliable itself."""

from __future__ import annotations

import numpy as np
import pytest

from gcoord.scaleup.comparison import (
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

SCORES = np.random.default_rng(3).gamma(2.0, 0.4, size=(7, 5))
OTHERS = np.random.default_rng(4).gamma(2.0, 0.5, size=(5, 5))


def test_aggregates_worked_by_hand() -> None:
    scores = np.array([[0.0, 1.0], [0.2, 3.0], [0.4, 0.5], [0.6, 0.7]])
    assert mean(scores) == pytest.approx(0.8)
    assert median(scores) == pytest.approx((0.3 + 1.3) / 2)
    # 0 .2 .4 .5 .6 .7 1 3 without two at each end
    assert iqm(scores) == pytest.approx((0.4 + 0.5 + 0.6 + 0.7) / 4)
    assert optimality_gap(scores) == pytest.approx(1 - (0.3 + (1 + 1 + 0.5 + 0.7) / 4) / 2)


def test_improvement_is_certain_impossible_or_even() -> None:
    low, high = np.zeros((3, 2)), np.ones((4, 2))
    assert probability_of_improvement(high, low) == 1
    assert probability_of_improvement(low, high) == 0
    assert probability_of_improvement(low, low) == 0.5


def test_improvement_is_averaged_over_tasks() -> None:
    x, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    assert probability_of_improvement(x, y) == pytest.approx((1 + 0.25) / 2)


def test_profile_falls_from_one_to_zero() -> None:
    profile = performance_profile(SCORES, np.linspace(-1, 10, 50))
    assert profile.share[0] == 1 and profile.share[-1] == 0
    assert (np.diff(profile.share) <= 0).all()
    assert (profile.low <= profile.share + 1e-12).all() and (profile.share <= profile.high + 1e-12).all()


def test_interval_has_no_width_where_runs_agree_within_tasks() -> None:
    alike = np.tile([0.1, 0.9], (6, 1))
    assert interval(mean, alike) == pytest.approx((0.5, 0.5, 0.5))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(200):
        low, high = interval(mean, rng.normal(size=(20, 3)), n=300, seed=i)[1:]
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.99


@pytest.mark.parametrize("scores", [[1.0, 2.0], [[np.nan]], [[]]])
def test_what_is_no_matrix_of_numbers_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite scores"):
        interval(mean, scores)


def test_scores_on_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="same tasks"):
        interval(probability_of_improvement, SCORES, OTHERS[:, :3])


def test_aggregates_are_rliables() -> None:
    from rliable import metrics

    assert iqm(SCORES) == pytest.approx(metrics.aggregate_iqm(SCORES))
    assert mean(SCORES) == pytest.approx(metrics.aggregate_mean(SCORES))
    assert median(SCORES) == pytest.approx(metrics.aggregate_median(SCORES))
    assert optimality_gap(SCORES) == pytest.approx(metrics.aggregate_optimality_gap(SCORES))
    assert probability_of_improvement(SCORES, OTHERS) == pytest.approx(
        metrics.probability_of_improvement(SCORES, OTHERS)
    )


@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_intervals_and_profiles_are_rliables() -> None:
    from rliable import library, metrics

    point, bounds = library.get_interval_estimates(
        {"a": SCORES}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=4000, random_state=np.random.RandomState(0)
    )
    ours = interval(iqm, SCORES, n=4000)
    assert ours.value == pytest.approx(float(point["a"][0]))
    # Both draw their own resamples: a tenth of the width is several times that noise.
    assert ours[1:] == pytest.approx(bounds["a"][:, 0], abs=0.1 * float(np.ptp(bounds["a"])))
    tau = np.linspace(0, 2, 9)
    share, _ = library.create_performance_profile({"a": SCORES}, tau, reps=50)
    assert performance_profile(SCORES, tau, n=50).share == pytest.approx(share["a"])
