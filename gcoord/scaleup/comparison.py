"""Comparing learners over runs and tasks by the definitions of rliable.

Deep Reinforcement Learning at the Edge of the Statistical Precipice, https://arxiv.org/abs/2108.13264. Scores are
[runs, tasks]: one normalised figure of every finished training (a run's mean over its episodes) on every task. Runs are
what is resampled, within each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcoord.scaleup.statistics import Interval, Values
from gcoord.scaleup.statistics import iqm as trimmed_mean

Statistic = Callable[..., Values]


def mean(scores: Values) -> Values:
    """Mean over tasks of the mean over runs, [*, runs, tasks] -> [*]."""
    return scores.mean(axis=(-2, -1))


def median(scores: Values) -> Values:
    """Median over tasks of the mean over runs, [*, runs, tasks] -> [*]."""
    return np.median(scores.mean(axis=-2), axis=-1)  # type: ignore[no-any-return]


def iqm(scores: Values) -> Values:
    """Interquartile mean over all runs of all tasks (section 4.3), [*, runs, tasks] -> [*]."""
    return trimmed_mean(scores.reshape(*scores.shape[:-2], -1))


def optimality_gap(scores: Values, gamma: float = 1.0) -> Values:
    """How far scores fall short of gamma on average (section 4.3), [*, runs, tasks] -> [*]; what is beyond it does not
    make up for what is below."""
    return gamma - mean(np.minimum(scores, gamma))


def probability_of_improvement(x: Values, y: Values) -> Values:
    """P(X > Y), ties counted half, averaged over tasks: the Mann-Whitney U statistic (appendix A.4).

    x [*, runs of x, tasks], y [*, runs of y, tasks] -> [*].
    """
    over, under = x[..., :, None, :], y[..., None, :, :]
    return ((over > under) + 0.5 * (over == under)).mean(axis=(-3, -2, -1))  # type: ignore[no-any-return]


def interval(
    statistic: Statistic,
    *scores: ArrayLike,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of one or more score matrices with its stratified bootstrap interval (percentiles).

    Arguments:
        statistic: of as many matrices as are given, over their last two axes: `iqm`, `probability_of_improvement`.
        scores: [runs, tasks] each; the numbers of runs may differ. Each is resampled on its own.
        level: of the interval. n: resamples. seed: of the resampling's own stream.

    Raises ValueError for what is no matrix of finite numbers, or for matrices of other tasks.
    """
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"expected a level between 0 and 1 and at least one resample (got level={level}, n={n})")
    checked = _checked(scores)
    rng = np.random.default_rng(seed)
    drawn = [resampled(one, n, rng) for one in checked]
    low, high = np.quantile(statistic(*drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*checked)), float(low), float(high))


def resampled(scores: Values, n: int, rng: np.random.Generator) -> Values:
    """n resamples of scores [runs, tasks] -> [n, runs, tasks]: the runs of every task drawn anew, with replacement."""
    runs, tasks = scores.shape
    draws = rng.integers(runs, size=(n, runs, tasks))
    return scores[draws, np.arange(tasks)]  # type: ignore[no-any-return]


class Profile(NamedTuple):
    """Share of runs above each score `tau`, and the interval around it: all [len(tau)]."""

    tau: Values
    share: Values
    low: Values
    high: Values


def performance_profile(
    scores: ArrayLike, tau: ArrayLike, level: float = 0.95, n: int = 2000, seed: int = 0
) -> Profile:
    """Which share of runs scores above each tau (section 4.2), averaged over tasks, with pointwise intervals."""
    matrix = _checked([scores])[0]
    taus = np.asarray(tau, dtype=np.float64)
    if taus.ndim != 1 or not taus.size or not np.isfinite(taus).all():
        raise ValueError(f"expected a list of finite scores for tau (got {tau!r})")
    drawn = resampled(matrix, n, np.random.default_rng(seed))
    ends = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.array([np.quantile((drawn > t).mean(axis=(-2, -1)), ends) for t in taus])
    return Profile(taus, np.array([(matrix > t).mean() for t in taus]), bounds[:, 0], bounds[:, 1])


def _checked(scores: Sequence[ArrayLike]) -> list[Values]:
    matrices: list[NDArray[np.float64]] = [np.asarray(one, dtype=np.float64) for one in scores]
    for matrix in matrices:
        if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
            raise ValueError(f"expected finite scores of shape [runs, tasks] (got shape {matrix.shape})")
    if len({matrix.shape[1] for matrix in matrices}) > 1:
        raise ValueError(f"expected scores on the same tasks (got {[matrix.shape[1] for matrix in matrices]} of them)")
    return matrices
