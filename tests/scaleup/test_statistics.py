"""Promises of the statistics: known answers, runs as the unit, honest coverage, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from gcoord.scaleup import statistics
from gcoord.scaleup.statistics import interval, iqm, mean, stratified_interval


def test_iqm_by_hand():
    assert iqm(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert iqm(np.array([5.0])) == 5.0 and iqm(np.array([1.0, 2.0, 9.0])) == 4.0
    assert iqm(np.array([9.0, 1.0, 3.0, -50.0, 2.0])) == 2.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 11, 100])
def test_iqm_cuts_a_quarter_rounded_down_at_each_end(n):
    values = np.random.default_rng(n).standard_cauchy((6, n))
    np.testing.assert_allclose(iqm(values), np.sort(values)[:, n // 4 : n - n // 4].mean(axis=-1), rtol=1e-12)
    assert mean(values).shape == (6,)


def test_two_runs_by_hand():
    # Drawing 2 of 2 runs gives their mean 0 in a quarter, 5 in half and 10 in a quarter of all cases.
    assert interval([[0.0] * 3, [10.0] * 3]) == (5.0, 0.0, 10.0)
    assert interval([[0.0] * 3, [10.0] * 3], level=0.4) == (5.0, 5.0, 5.0)


def test_runs_are_resampled_and_not_their_episodes():
    rng = np.random.default_rng(0)
    runs = rng.normal(0, 5, (5, 1)) + rng.normal(0, 0.01, (5, 1000))
    low, high = interval(runs)[1:]
    assert high - low > 2
    # runs that agree to the last episode leave nothing to resample, however much their episodes differ
    episodes = rng.normal(size=100)
    assert interval([episodes] * 4) == pytest.approx((episodes.mean(),) * 3)


def test_one_run_is_resampled_by_its_episodes():
    values = np.random.default_rng(1).normal(3, 2, 400)
    value, low, high = interval([values])
    half = 1.96 * values.std() / 20
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.02)
    assert interval([[7.0]]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(("shape", "lowest"), [((1, 40), 0.92), ((20, 5), 0.90)])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_intervals_cover_the_truth_about_as_often_as_they_say(shape, lowest, statistic):
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(400):
        values = rng.normal(1, 1, shape)
        if shape[0] > 1:
            values += rng.normal(0, 1, (shape[0], 1))
        _, low, high = interval(values, statistic, n=400, seed=trial)
        hits += low <= 1 <= high
    assert lowest - 0.015 < hits / 400 < 0.98


def test_a_higher_level_is_wider_and_a_seed_repeats_itself():
    values = np.random.default_rng(3).normal(size=(6, 20))
    widths = [np.ptp(interval(values, iqm, level=level)[1:]) for level in (0.5, 0.8, 0.95, 0.99)]
    assert widths == sorted(widths) and widths[0] < widths[-1]
    np.random.seed(0)  # noqa: NPY002 - the global stream must not matter
    first = interval(values, iqm, seed=7)
    assert first == interval(values, iqm, seed=7) and first != interval(values, iqm, seed=8)


def test_runs_of_different_length_pool_their_episodes():
    value, low, high = interval([[0.0], [6.0, 6.0, 6.0]])
    assert (value, low, high) == (4.5, 0.0, 6.0)


def test_blocks_change_nothing_but_memory(monkeypatch):
    values = np.random.default_rng(4).normal(size=(4, 30))
    whole = interval(values, n=1000)
    monkeypatch.setattr(statistics, "BLOCK", 120 * 7)
    assert interval(values, n=1000) == whole


def test_tasks_keep_their_share():
    rng = np.random.default_rng(5)
    easy, hard = rng.normal(100, 0.1, (8, 10)), rng.normal(0, 0.1, (8, 10))
    value, low, high = stratified_interval([easy, hard])
    assert value == pytest.approx(50, abs=0.1) and high - low < 0.2
    low, high = interval([*easy, *hard])[1:]
    assert high - low > 30


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []], [[float("nan")]], [[[1.0]]], [[1.0, float("inf")]]])
def test_values_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match=r"^expected .*\(got .*\)$"):
        interval(values)
