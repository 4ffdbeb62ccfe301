"""How methods stand beside each other over tasks: means, IQM, who improves on whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gcoord.scaleup import comparison
from gcoord.scaleup.comparison import Interval
from gcoord.scaleup.finished import Finished, by_task
from gcoord.scaleup.statistics import Values


@dataclass
class Standing:
    """What is known of every method.

    scores[task][method] [runs]; random[task]: random play's mean; means and iqms by (task, method); overall: IQM of
    normalised scores over the tasks that every method was run on, by method (empty with one task); normalised[method]
    [runs, tasks]; improvement[(one, other)]: P(one > other), averaged over the tasks that both were run on;
    not_normalised: tasks without a run above random play.
    """

    scores: dict[str, dict[str, Values]]
    random: dict[str, float]
    means: dict[tuple[str, str], Interval] = field(default_factory=dict)
    iqms: dict[tuple[str, str], Interval] = field(default_factory=dict)
    normalised: dict[str, Values] = field(default_factory=dict)
    overall: dict[str, Interval] = field(default_factory=dict)
    improvement: dict[tuple[str, str], Interval] = field(default_factory=dict)
    not_normalised: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        return list(self.scores)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for scores in self.scores.values() for method in scores))

    def shared(self, one: str, other: str) -> list[str]:
        """Tasks that both were run on."""
        return [task for task, scores in self.scores.items() if one in scores and other in scores]


def standings(runs: Sequence[Finished], metric: str) -> Standing:
    """The standing of all methods by one figure of their tests. Raises ValueError without a run."""
    if not runs:
        raise ValueError("expected at least one finished run (got none)")
    tasks = by_task(runs)
    found = Standing(
        {
            task: {
                method: np.array([run.score("trained", metric) for run in members]) for method, members in of.items()
            }
            for task, of in tasks.items()
        },
        {
            task: float(np.mean([run.score("random", metric) for members in of.values() for run in members]))
            for task, of in tasks.items()
        },
    )
    for task, scores in found.scores.items():
        for method, values in scores.items():
            found.means[task, method] = comparison.interval(comparison.mean, values[:, None])
            found.iqms[task, method] = comparison.interval(comparison.iqm, values[:, None])
    for one in found.methods:
        for other in found.methods:
            if one != other and (shared := found.shared(one, other)):
                found.improvement[one, other] = improvement(
                    [found.scores[task][one] for task in shared], [found.scores[task][other] for task in shared]
                )
    _normalise(found)
    return found


def improvement(one: Sequence[Values], other: Sequence[Values]) -> Interval:
    """P(one > other) by task, averaged, with its stratified bootstrap; tasks may have other numbers of runs."""
    if len({len(values) for values in one}) == 1 and len({len(values) for values in other}) == 1:
        return comparison.interval(comparison.probability_of_improvement, np.stack(one, 1), np.stack(other, 1))
    # Of tasks with more runs, the first as many as all have.
    a, b = min(map(len, one)), min(map(len, other))
    return comparison.interval(
        comparison.probability_of_improvement,
        np.stack([values[:a] for values in one], 1),
        np.stack([values[:b] for values in other], 1),
    )


def _normalise(found: Standing) -> None:
    """Scores between random play of the task (0) and its best run (1), of methods that were run on all tasks."""
    best = {task: max(float(values.max()) for values in scores.values()) for task, scores in found.scores.items()}
    found.not_normalised = [task for task in found.tasks if not best[task] > found.random[task]]
    kept = [task for task in found.tasks if task not in found.not_normalised]
    for method in found.methods:
        if not kept or any(method not in found.scores[task] for task in kept):
            continue
        runs = min(len(found.scores[task][method]) for task in kept)
        columns = [
            (found.scores[task][method][:runs] - found.random[task]) / (best[task] - found.random[task])
            for task in kept
        ]
        found.normalised[method] = np.stack(columns, 1)
    if len(kept) > 1:
        found.overall = {
            method: comparison.interval(comparison.iqm, scores) for method, scores in found.normalised.items()
        }
