"""From the cells of a sweep to its figures: intervals over runs, what is kept of what could be learnt, curves."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gcoord.checkpoint import whole_file
from gcoord.scaleup import comparison
from gcoord.scaleup.cells import Cell, Played
from gcoord.scaleup.jobs import Job
from gcoord.scaleup.report import Row
from gcoord.scaleup.statistics import Interval, Values
from gcoord.scaleup.trainings import Spent, curve, spent

MAIN = "return_per_agent"
# What a clock has measured is another figure each time: it has a file of its own.
CLOCKED = ("act_ms", "training_seconds")
CURVE_FIELDS = [
    *("world", "density", "train_n_agents", "n_agents", "method", "mode", "condition"),
    *("seed", "frames", "agent_steps", "metric", "value"),
]


class Key(NamedTuple):
    """What rows of results are told apart by."""

    mode: str
    method: str
    train_n_agents: str
    n_agents: int
    condition: str


@dataclass
class Group:
    """The runs of one policy at one size: what was played, and, of trained ones, what went into them and their
    curve."""

    key: Key
    cells: list[Cell] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    curves: list[list[tuple[int, dict[str, float]]]] = field(default_factory=list)

    def values(self, metric: str) -> list[list[float]]:
        return [one.values[metric] for one in self.played]

    def scores(self, metric: str) -> Values:
        """[runs, 1]: the mean of each run; of a single run, its episodes."""
        return scores(self.values(metric))

    @property
    def world(self) -> tuple[str, str]:
        return self.played[0].world, self.played[0].density

    @property
    def steps_at_size(self) -> int:
        """Agents that an environment step counts for."""
        return self.played[0].n_agents

    def row(self, metric: str, interval: Interval) -> Row:
        world, density = self.world
        episodes = sum(len(values) for values in self.values(next(iter(self.played[0].values))))
        frames = max((one.frames for one in self.spent), default=0)
        mode, method, train, size, condition = self.key
        return Row(
            world, density, train, size, method, mode, condition, metric, *interval, episodes, len(self.played), frames
        )


@dataclass
class Results:
    """All that a sweep says: rows of the results' schema, those of measured times apart, points of the training curves,
    and what is not stated, why."""

    rows: list[Row]
    times: list[Row]
    curves: list[dict[str, str | int | float]]
    notes: list[str]


def scores(by_run: Sequence[ArrayLike]) -> Values:
    """[runs, 1]: each run's mean over its episodes; of a single run its episodes, each for itself."""
    if len(by_run) == 1:
        return np.asarray(by_run[0], dtype=np.float64)[:, None]
    return np.array([[np.mean(np.asarray(values, dtype=np.float64))] for values in by_run])


def results(jobs: Sequence[Job]) -> Results:
    """The figures of all cells that have been played."""
    groups = grouped(jobs)
    rows: list[Row] = []
    for group in groups:
        names = dict.fromkeys(name for one in group.played for name in one.values)
        rows += [group.row(name, comparison.interval(comparison.mean, group.scores(name))) for name in names]
        rows += _costs(group)
    notes: list[str] = []
    for group in groups:
        if group.key.mode in ("zero_shot", "fine_tuned"):
            kept, why = retentions(group, groups)
            rows += kept
            notes += why
        if group.key.mode in ("fine_tuned", "scratch"):
            gained, why = learning(group, groups)
            rows += gained
            notes += why
    times = [row for row in rows if row.metric in CLOCKED]
    rows = [row for row in rows if row.metric not in CLOCKED]
    return Results(rows, times, [point for group in groups for point in points(group)], notes)


def grouped(jobs: Sequence[Job]) -> list[Group]:
    """Played cells, the runs of one policy together, in the order of the plan."""
    groups: dict[Key, Group] = {}
    for job in jobs:
        cell = job.work
        if not isinstance(cell, Cell) or (played := cell.load(Path(job.folder))) is None:
            continue
        # A world whose teams come in steps may have another size than was asked for.
        train = cell.train_n_agents if cell.mode != "scratch" else str(played.n_agents)
        key = Key(cell.mode, cell.method, train, played.n_agents, cell.condition)
        group = groups.setdefault(key, Group(key))
        group.cells.append(cell)
        group.played.append(played)
        if cell.run:
            group.spent.append(spent(Path(cell.run)))
            # A zero-shot policy was not trained at this size.
            group.curves.append([] if cell.mode == "zero_shot" else curve(Path(cell.run)))
    return list(groups.values())


def _costs(group: Group) -> list[Row]:
    """What acting costs, and what went into the policy: agent steps, environment steps at this size, seconds."""
    rows = []
    for name in dict.fromkeys(name for one in group.played for name in one.costs):
        of_runs = scores([one.costs[name] for one in group.played if name in one.costs])
        rows.append(group.row(name, comparison.interval(comparison.mean, of_runs)))
    if group.spent:
        known: dict[str, list[float]] = {
            "agent_steps": [one.agent_steps for one in group.spent],
            "frames_at_size": [0 if group.key.mode == "zero_shot" else one.here for one in group.spent],
            "training_seconds": [one.seconds for one in group.spent],
        }
        for name, values in known.items():
            rows.append(group.row(name, comparison.interval(comparison.mean, np.array(values)[:, None])))
    return rows


def over_runs(values: Sequence[float]) -> Interval:
    """The mean of one figure a run, with an interval where there are several runs; of one there is none."""
    if len(values) == 1:
        return Interval(float(values[0]), float("nan"), float("nan"))
    return comparison.interval(comparison.mean, np.asarray(values, dtype=np.float64)[:, None])


def _beside(group: Group, groups: Sequence[Group], mode: str) -> Group | None:
    """The anchor at the same size and under the same condition; scratch of the same method."""
    for other in groups:
        same = other.key.n_agents == group.key.n_agents and other.key.condition == group.key.condition
        if other.key.mode == mode and same and (mode != "scratch" or other.key.method == group.key.method):
            return other
    return None


def share(value: Values, low: Values, high: Values) -> Values:
    """Where `value` lies between random play (0) and what is held against (1), each [*, runs, 1] -> [*]."""
    mean = comparison.mean
    return (mean(value) - mean(low)) / (mean(high) - mean(low))


def retentions(group: Group, groups: Sequence[Group]) -> tuple[list[Row], list[str]]:
    """retention, rho(N) = (policy - random) / (scratch - random), and retention_of_script, the same against the script;
    each only where the interval of what it is held against lies above random play's. Else why not."""
    rows, notes = [], []
    random = _beside(group, groups, "random")
    if random is None:
        return [], []
    floor = random.scores(MAIN)
    low = comparison.interval(comparison.mean, floor)
    for metric, mode, name in (
        ("retention", "scratch", f"{group.key.method} from scratch"),
        ("retention_of_script", "scripted", "the script"),
    ):
        against = _beside(group, groups, mode)
        if against is None:
            continue
        high = comparison.interval(comparison.mean, against.scores(MAIN))
        if not high.low > low.high:
            notes.append(
                f"{metric} of {called(group.key)} is not stated: the interval of {name} [{high.low:.3g}, "
                f"{high.high:.3g}] does not lie above that of random play [{low.low:.3g}, {low.high:.3g}]"
            )
            continue
        found = comparison.interval(share, group.scores(MAIN), floor, against.scores(MAIN))
        rows.append(group.row(metric, found))
    return rows, notes


def learning(group: Group, groups: Sequence[Group]) -> tuple[list[Row], list[str]]:
    """What the curve of a training at this size says, one figure a run (Taylor and Stone 2009,
    https://www.jmlr.org/papers/v10/taylor09a.html).

    curve_area: the mean of the curve over its frames. jump_start: where fine-tuning begins above where training from
    scratch does. frames_to_90: environment steps at this size until the curve first reaches random play + 0.9 of what
    scratch gained over it (the best of its own curve, mean over runs); stated where every run got there.
    """
    curves = [[(frames, figures[MAIN]) for frames, figures in one] for one in group.curves if one]
    if not curves or len(curves) < len(group.curves):
        return [], []
    rows = [group.row("curve_area", over_runs([area(one) for one in curves]))]
    notes: list[str] = []
    scratch, random = _beside(group, groups, "scratch"), _beside(group, groups, "random")
    if scratch is None or random is None or not all(scratch.curves):
        return rows, notes
    starts = [one[0][1][MAIN] for one in scratch.curves if one[0][0] == 0]
    if group.key.mode == "fine_tuned" and starts and all(one[0][0] == 0 for one in curves):
        here = [one[0][1] for one in curves]
        rows.append(group.row("jump_start", _difference(here, starts)))
    low, high = (
        comparison.interval(comparison.mean, random.scores(MAIN)),
        comparison.interval(comparison.mean, scratch.scores(MAIN)),
    )
    if not high.low > low.high:
        notes.append(
            f"frames_to_90 of {called(group.key)} is not stated: {scratch.key.method} from scratch does not lie above "
            "random play"
        )
        return rows, notes
    best = float(np.mean([max(figures[MAIN] for _, figures in one) for one in scratch.curves]))
    goal = low.value + 0.9 * (best - low.value)
    reached = [next((frames for frames, value in one if value >= goal), None) for one in curves]
    there = [frames for frames in reached if frames is not None]
    if len(there) == len(curves):
        rows.append(group.row("frames_to_90", over_runs(there)))
    else:
        notes.append(
            f"frames_to_90 of {called(group.key)} is not stated: {len(there)} of {len(curves)} runs reached {goal:.3g}"
        )
    return rows, notes


def _difference(here: Sequence[float], there: Sequence[float]) -> Interval:
    if min(len(here), len(there)) == 1:
        return Interval(float(np.mean(here) - np.mean(there)), float("nan"), float("nan"))

    def difference(a: Values, b: Values) -> Values:
        return comparison.mean(a) - comparison.mean(b)

    return comparison.interval(difference, np.array(here)[:, None], np.array(there)[:, None])


def area(curve: Sequence[tuple[int, float]]) -> float:
    """The mean of a curve over its frames, by trapezoids; of a single point, its value."""
    frames, values = np.array(curve, dtype=np.float64).T
    width = frames[-1] - frames[0]
    between = (values[1:] + values[:-1]) / 2
    return float((between * np.diff(frames)).sum() / width) if width else float(values[-1])


def points(group: Group) -> list[dict[str, str | int | float]]:
    """The lines of curves.csv: every figure of every greedy evaluation along the trainings at this size."""
    world, density = group.world
    key = group.key
    lines: list[dict[str, str | int | float]] = []
    for cell, one in zip(group.cells, group.curves, strict=False):
        for frames, figures in one:
            for metric, value in figures.items():
                named = (world, density, key.train_n_agents, key.n_agents, key.method, key.mode, key.condition)
                line = (*named, cell.index, frames, frames * group.steps_at_size, metric, value)
                lines.append(dict(zip(CURVE_FIELDS, line, strict=True)))
    return lines


def write_curves(curves: Sequence[dict[str, str | int | float]], path: str | os.PathLike[str]) -> None:
    """Writes curves.csv, whole or not at all."""
    with whole_file(path) as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, CURVE_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curves)


def called(key: Key) -> str:
    """A policy and its size in words."""
    how = f"{key.mode.replace('_', '-')} from {key.train_n_agents}" if key.mode != "scratch" else "from scratch"
    return f"{key.method} {how} at {key.n_agents} agents{f', {key.condition}' if key.condition else ''}"
