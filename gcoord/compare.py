"""Puts finished runs side by side: `python -m gcoord.compare 'runs=[runs/a,runs/b]'`, also by pattern, `runs/*`.

Runs whose configurations agree but for the seed are the seeds of one method. Scores are those of each run's own test
(its best policy, greedy, on seeds that no choice was based on), statistics rliable's (`gcoord.scaleup.comparison`).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gcoord import conf
from gcoord.checkpoint import whole_file
from gcoord.command import Job, run_command
from gcoord.run import pick_device
from gcoord.scaleup import comparison, marl_eval
from gcoord.scaleup.comparison import Interval
from gcoord.scaleup.finished import Finished, by_task, find, read
from gcoord.scaleup.matches import Standing, standings
from gcoord.scaleup.pictures import compared
from gcoord.scaleup.report import Row, write_csv


def compare(cfg: DictConfig, job: Job) -> None:
    """Prints the table, writes compare.csv, improvement.csv, compare.png and, where asked for, marl_eval.json."""
    console = Console()
    runs, left_out = opened(cfg)
    folder = Path(cfg.out)
    found = standings(runs, cfg.metric)
    content = marl_eval.content(runs, lambda run: marl_eval.absolute(run, cfg.device)) if cfg.marl_eval else None
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(rows(runs), folder / "compare.csv")
    write_improvement(found, folder / "improvement.csv")
    compared(runs, found, cfg.metric, folder / "compare.png")
    written = ["compare.csv", "improvement.csv", "compare.png"]
    if content is not None:
        with whole_file(folder / "marl_eval.json") as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")
        written.append("marl_eval.json")
    console.print(table(found, cfg.metric))
    for line in left_out:
        console.print(f"left out, not finished: {line}", highlight=False, soft_wrap=True)
    console.print(f"{folder}/{', '.join(written)}", highlight=False, soft_wrap=True)


def validate(cfg: DictConfig, job: Job) -> None:
    """All that `compare` would refuse, without playing."""
    runs, _ = opened(cfg)
    if cfg.marl_eval:
        marl_eval.content(runs, lambda run: {name: [0.0] for name in run.metrics()})


def opened(cfg: DictConfig) -> tuple[list[Finished], list[str]]:
    """The runs a configuration names. Raises ValueError, in one line, where none has finished or reports the metric."""
    pick_device(cfg.device)
    named = [cfg.runs] if isinstance(cfg.runs, str) else [str(one) for one in conf.plain(cfg.runs)]
    runs, left_out = read(find(named))
    if not runs:
        raise ValueError(f"expected at least one finished run (got {', '.join(left_out) or 'none'})")
    for run in runs:
        if cfg.metric not in run.metrics():
            raise ValueError(f"expected a metric of {run.folder}: {', '.join(run.metrics())} (got {cfg.metric!r})")
    return runs, left_out


def rows(runs: Sequence[Finished]) -> list[Row]:
    """Every method on every task in the schema of results: means over runs with their intervals, every figure."""
    found = []
    for methods in by_task(runs).values():
        for method, members in methods.items():
            found += _rows(members, method, "scratch", "trained")
        # Random play of a task is the same whoever was trained: one of the methods' runs tell it.
        found += _rows(next(iter(methods.values())), "random", "random", "random")
    return found


def _rows(members: Sequence[Finished], method: str, mode: str, who: str) -> list[Row]:
    first = members[0]
    found = []
    for size in first.summary["sizes"]:
        for metric in first.metrics():
            values = [run.summary["test"][str(size)][who][metric] for run in members]
            interval = comparison.interval(comparison.mean, np.array(values)[:, None])
            found.append(
                Row(
                    world=first.world,
                    density=str(first.cfg.env.get("density", "none")),
                    train_n_agents=first.sizes if who == "trained" else "",
                    n_agents=size,
                    method=method,
                    mode=mode if first.sizes == str(size) or who == "random" else "zero_shot",
                    condition="",
                    metric=metric,
                    value=interval.value,
                    ci_low=interval.low,
                    ci_high=interval.high,
                    episodes=len(members) * int(first.cfg.evaluation.episodes),
                    seeds=len(members),
                    frames=max(int(run.summary["frames"]) for run in members) if who == "trained" else 0,
                )
            )
    return found


def write_improvement(found: Standing, path: Path) -> None:
    """Writes P(row's run scores above column's) of all pairs, with intervals."""
    with whole_file(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "over", "tasks", "probability", "ci_low", "ci_high"])
        for (one, other), chance in found.improvement.items():
            writer.writerow([one, other, len(found.shared(one, other)), *chance])


def table(found: Standing, metric: str) -> Group:
    """What to print: each method's mean on each task, and over tasks where there are several; then who beats whom."""
    sheet = Table(
        title=f"{metric.replace('_', ' ')}, by run", title_justify="left", title_style="bold", box=SIMPLE_HEAD
    )
    sheet.add_column("method")
    sheet.add_column("runs", justify="right")
    for task in found.tasks:
        sheet.add_column(f"{task}\n[dim]mean, below IQM[/dim]", justify="right")
    if found.overall:
        sheet.add_column("over tasks\n[dim]normalised IQM[/dim]", justify="right")
    for method in found.methods:
        runs = sorted({len(scores[method]) for scores in found.scores.values() if method in scores})
        cells: list[Any] = [method, str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"]
        for task in found.tasks:
            both = found.means.get((task, method)), found.iqms.get((task, method))
            cells.append(Text("\n").join(map(_told, both)))
        if found.overall:
            cells.append(_told(found.overall.get(method)))
        sheet.add_row(*cells)
    sheet.add_row("random", "", *(Text(f"{found.random[task]:.3g}") for task in found.tasks))
    parts: list[Any] = [sheet]
    if len(found.methods) > 1:
        duel = Table(
            title="probability that a run of the row scores above one of the column",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
        )
        duel.add_column("")
        for method in found.methods:
            duel.add_column(method, justify="right")
        for one in found.methods:
            duel.add_row(one, *(_told(found.improvement.get((one, other))) for other in found.methods))
        parts.append(duel)
    return Group(*parts, Text(note(found), style="dim"))


def note(found: Standing) -> str:
    """What values and intervals rest on."""
    told = "Intervals: 95 % stratified bootstrap over runs; IQM: mean without the lowest and highest quarter of runs."
    if any(len(runs) == 1 for scores in found.scores.values() for runs in scores.values()):
        told += " A single run has no interval."
    if found.overall:
        told += " Normalised: 0 is random play of the task, 1 its best run of any method."
    if found.not_normalised:
        told += f" Not normalised, as no run is above random play: {', '.join(found.not_normalised)}."
    return told


def _told(interval: Interval | None) -> Text:
    if interval is None:
        return Text("")
    if not interval.low < interval.high:
        return Text(f"{interval.value:.3g}")
    return Text.assemble(f"{interval.value:.3g} ", (f"[{interval.low:.3g}, {interval.high:.3g}]", "dim"))


if __name__ == "__main__":
    sys.exit(run_command("compare", compare, validate=validate))
