"""Means and intervals over runs and their episodes.

Deep Reinforcement Learning at the Edge of the Statistical Precipice, https://arxiv.org/abs/2108.13264: the unit that is
resampled is the run, because episodes of one run share its weights and say nothing about the next training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Statistic = Callable[[Values], Values]

# Resampled values held at once, so that an interval over many episodes does not fill the memory.
BLOCK = 2_000_000


class Interval(NamedTuple):
    """A value and the interval around it."""

    value: float
    low: float
    high: float


def mean(values: Values) -> Values:
    """Mean over the last axis."""
    return values.mean(axis=-1)


def iqm(values: Values) -> Values:
    """Interquartile mean over the last axis: the mean of what is left without the lowest and the highest quarter.

    As `scipy.stats.trim_mean(values, 0.25)`: of n values, floor(n / 4) are cut at each end.
    """
    n = values.shape[-1]
    cut = n // 4
    kept = np.partition(values, [cut, n - cut - 1], axis=-1)[..., cut : n - cut]
    return kept.mean(axis=-1)


def interval(
    values_by_run: Sequence[ArrayLike],
    statistic: Statistic = mean,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic over all episodes of all runs.

    Arguments:
        values_by_run: one list of episode values per run.
        statistic: of the pooled episodes, over the last axis: `mean`, `iqm`.
        level: of the interval.
        n: resamples.
        seed: of the resampling's own stream.

    Several runs: whole runs are drawn with replacement. One run: its episodes are, and the interval then tells nothing
    about other training runs; whoever prints it has to say so. One episode of one run: an interval without width.

    Raises ValueError when there is no value, or one is not finite.
    """
    return stratified_interval([values_by_run], statistic, level, n, seed)


def stratified_interval(
    values_by_task: Sequence[Sequence[ArrayLike]],
    statistic: Statistic = mean,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """As `interval`, over the episodes of all runs of several tasks, `values_by_task[task][run]`.

    The runs of a task are drawn among the runs of that task only, so that every task keeps its share.
    """
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"expected a level between 0 and 1 and at least one resample (got level={level}, n={n})")
    tasks = [[_checked(values) for values in runs] for runs in values_by_task]
    if not tasks or not all(tasks):
        raise ValueError("expected at least one run of every task (got none)")
    value = float(statistic(np.concatenate([values for runs in tasks for values in runs])))
    rng = np.random.default_rng(seed)
    block = max(BLOCK // sum(len(values) for runs in tasks for values in runs), 1)
    resampled = np.concatenate([_resample(tasks, statistic, min(block, n - done), rng) for done in range(0, n, block)])
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _checked(values: ArrayLike) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected a list of at least one finite episode value per run (got {values!r})")
    return array


def _resample(tasks: list[list[Values]], statistic: Statistic, n: int, rng: np.random.Generator) -> Values:
    """The statistic of n resamples, [n]."""
    drawn: list[list[Values]] = []  # [task][resample]
    for runs in tasks:
        if len(runs) == 1:
            drawn.append(list(rng.choice(runs[0], size=(n, len(runs[0])))))
        elif len({len(values) for values in runs}) == 1:
            drawn.append(list(np.stack(runs)[rng.integers(len(runs), size=(n, len(runs)))].reshape(n, -1)))
        else:
            draws = rng.integers(len(runs), size=(n, len(runs)))
            drawn.append([np.concatenate([runs[run] for run in draw]) for draw in draws])
    pooled = drawn[0] if len(drawn) == 1 else [np.concatenate(parts) for parts in zip(*drawn, strict=True)]
    if len({len(values) for values in pooled}) == 1:
        return statistic(np.stack(pooled))
    return np.array([statistic(values) for values in pooled])
