"""Pictures beside the report: methods compared, training by test size, communication under test, fine-tuning."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcoord.checkpoint import whole_file
from gcoord.scaleup import comparison
from gcoord.scaleup.curves import Curve
from gcoord.scaleup.finished import Finished, by_task
from gcoord.scaleup.matches import Standing
from gcoord.scaleup.page import base_condition, words
from gcoord.scaleup.report import COLORS, NAMES, Row, _label

MARKERS = "os^Dv*PX"


def compared(runs: Sequence[Finished], found: Standing, metric: str, path: Path) -> None:
    """Learning curves of every task (IQM over runs and its interval), final scores, who beats whom, and, over several
    tasks, performance profiles."""
    tasks = by_task(runs)
    looks = {method: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, method in enumerate(found.methods)}
    across = min(len(tasks), 3)
    down = math.ceil(len(tasks) / across)
    with _figure(path, (4.6 * max(across, 2 + bool(found.overall)), 3.4 * (down + 1) + 0.5)) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=[down, 1.1])
        axes = list(upper.subplots(down, across, squeeze=False).flat)
        for ax, (task, methods) in zip(axes, tasks.items(), strict=False):
            _curves(ax, task, methods, metric, found, looks)
        for ax in axes[len(tasks) :]:
            ax.set_axis_off()
        panels: list[Callable[[Any], None]] = [lambda ax: _scores(ax, found, metric, looks)]
        if len(found.methods) > 1:
            panels.append(lambda ax: _duels(ax, found))
        if found.overall:
            panels.append(lambda ax: _profiles(ax, found, looks))
        for ax, panel in zip(lower.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel(ax)
        handles, labels = axes[0].get_legend_handles_labels()
        for ax in axes[1 : len(tasks)]:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                if label not in labels:
                    handles.append(handle)
                    labels.append(label)
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=max(1, 110 // (max(map(len, labels)) + 8)),
            fontsize=9,
            frameon=False,
        )


def curve_of(members: Sequence[Finished], metric: str) -> tuple[Any, Any, Any, Any, str]:
    """frames, IQM, low, high of the runs' curves, and which curve it is: greedy evaluation where every run has one,
    else training. Curves are read at 60 points of the frames that all have."""
    told, curves = "greedy evaluation", [run.curve(f"evaluation_{metric}") for run in members]
    if not all(len(frames) > 1 for frames, _ in curves):
        told, curves = "training", [run.curve(metric) for run in members]
    curves = [(frames, values) for frames, values in curves if len(frames)]
    if not curves:
        return np.array([]), np.array([]), np.array([]), np.array([]), told
    grid = np.linspace(max(f[0] for f, _ in curves), min(f[-1] for f, _ in curves), 60)
    read = np.array([np.interp(grid, frames, values) for frames, values in curves])  # [runs, points]
    bounds = np.array([comparison.interval(comparison.iqm, read[:, i : i + 1], n=500) for i in range(len(grid))])
    return grid, bounds[:, 0], bounds[:, 1], bounds[:, 2], told


def _curves(
    ax: Any,
    task: str,
    methods: Mapping[str, Sequence[Finished]],
    metric: str,
    found: Standing,
    looks: Mapping[str, Any],
) -> None:
    kinds = set()
    for method, members in methods.items():
        frames, middle, low, high, told = curve_of(members, metric)
        if not len(frames):
            continue
        kinds.add(told)
        color, marker = looks[method]
        ax.plot(frames, middle, color=color, marker=marker, markevery=12, markersize=5, linewidth=1.7, label=method)
        if len(members) > 1:
            ax.fill_between(frames, low, high, color=color, alpha=0.16, linewidth=0)
    ax.axhline(found.random[task], color="0.5", linestyle=":", linewidth=1.4, label="random play")
    ax.set_title(task, fontsize=10)
    _frames(ax)
    ax.set_ylabel(f"{words(metric)}\n{', '.join(sorted(kinds))}, IQM over runs", fontsize=9)
    _plain(ax)


def _scores(ax: Any, found: Standing, metric: str, looks: Mapping[str, Any]) -> None:
    places: list[int] = []
    names: list[str] = []
    for task in reversed(found.tasks):
        for method in reversed(found.methods):
            interval = found.means.get((task, method))
            if interval is None:
                continue
            at, (color, marker) = len(places), looks[method]
            ax.plot([interval.low, interval.high], [at, at], color=color, linewidth=2)
            ax.plot(interval.value, at, color=color, marker=marker, markersize=7)
            runs = found.scores[task][method]
            ax.plot(runs, [at + 0.22] * len(runs), color=color, marker="|", linestyle="none", alpha=0.7)
            places.append(at)
            names.append(method if len(found.tasks) == 1 else f"{task.partition(',')[0]}\n{method}")
    ax.set_yticks(places, names, fontsize=8)
    ax.set_ylim(-0.6, len(places) - 0.3)
    ax.set_xlabel(f"{words(metric)} in each run's test, mean and 95 %")
    _plain(ax, "x")


def _duels(ax: Any, found: Standing) -> None:
    names = found.methods
    share = np.full((len(names), len(names)), np.nan)
    for (one, other), chance in found.improvement.items():
        share[names.index(one), names.index(other)] = chance.value
    ax.imshow(share, vmin=0, vmax=1, cmap="PuOr_r", aspect="auto")
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            if (one, other) in found.improvement:
                chance = found.improvement[one, other]
                text = f"{chance.value:.2f}\n{chance.low:.2f}, {chance.high:.2f}"
                dark = abs(chance.value - 0.5) > 0.35
                ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    told = [textwrap.fill(name, 18) for name in names]
    ax.set_xticks(
        range(len(names)),
        told,
        fontsize=8,
        rotation=20 if len(names) > 2 else 0,
        ha="right" if len(names) > 2 else "center",
    )
    ax.set_yticks(range(len(names)), told, fontsize=8)
    ax.set_title("probability that the row improves on the column", fontsize=9)


def _profiles(ax: Any, found: Standing, looks: Mapping[str, Any]) -> None:
    every = np.concatenate([scores.ravel() for scores in found.normalised.values()])
    taus = np.linspace(min(0.0, float(every.min())), 1.0, 81)
    for method, scores in found.normalised.items():
        profile = comparison.performance_profile(scores, taus, n=500)
        color, marker = looks[method]
        ax.plot(taus, profile.share, color=color, marker=marker, markevery=16, markersize=5, linewidth=1.7)
        ax.fill_between(taus, profile.low, profile.high, color=color, alpha=0.14, linewidth=0)
    ax.set_xlabel("normalised score (0 random, 1 best run)")
    ax.set_ylabel("share of runs above")
    _plain(ax)


def matrix(rows: Sequence[Row], path: Path, metric: str = "return_per_agent") -> bool:
    """Training by test size, one panel a method; whether there was anything to draw (several training sizes)."""
    base = base_condition(rows)
    zero = [row for row in rows if (row.mode, row.metric, row.condition) == ("zero_shot", metric, base)]
    sorts = {method: {row.train_n_agents for row in zero if row.method == method} for method in _methods(zero)}
    zero = [row for row in zero if len(sorts[row.method]) > 1]
    trained = sorted(
        {row.train_n_agents for row in zero}, key=lambda text: (text.count("+"), [int(n) for n in text.split("+")])
    )
    if len(trained) < 2:
        return False
    methods = _methods(zero)
    sizes = sorted({row.n_agents for row in zero})
    values = [row.value for row in zero if math.isfinite(row.value)]
    with _figure(path, (1.2 * len(sizes) * len(methods) + 2.2, 0.65 * len(trained) + 1.7)) as figure:
        for ax, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
            cells = {(row.train_n_agents, row.n_agents): row for row in zero if row.method == method}
            table = np.array([[cells[t, n].value if (t, n) in cells else np.nan for n in sizes] for t in trained])
            ax.imshow(table, cmap="Blues", vmin=min(values), vmax=max(values) + 1e-9, aspect="auto")
            for (train, size), row in cells.items():
                dark = row.value > (min(values) + 2 * max(values)) / 3
                text = f"{row.value:.3g}\n{row.ci_low:.3g}, {row.ci_high:.3g}"
                place = sizes.index(size), trained.index(train)
                ax.text(*place, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
            ax.set_xticks(range(len(sizes)), list(map(str, sizes)))
            ax.set_yticks(range(len(trained)), trained)
            ax.set(xlabel="played at", ylabel="trained on", title=f"{method}: {words(metric)}")
            ax.title.set_fontsize(9)
    return True


def communication(rows: Sequence[Row], path: Path, metric: str = "return_per_agent") -> bool:
    """Every condition by team size, one panel a policy; whether there was anything to draw."""
    base = base_condition(rows)
    shown = [row for row in rows if row.metric == metric and row.mode not in ("random", "scripted")]
    labels = {_label(_undisturbed(row)): row for row in shown if row.condition != base}
    if not labels:
        return False
    with _figure(path, (5.2 * min(len(labels), 3), 3.8 * math.ceil(len(labels) / 3))) as figure:
        axes = list(figure.subplots(math.ceil(len(labels) / 3), min(len(labels), 3), squeeze=False).flat)
        for ax, (label, like) in zip(axes, labels.items(), strict=False):
            of = [row for row in shown if _same(row, like)]
            for i, condition in enumerate(dict.fromkeys(row.condition for row in [*of])):
                curve = sorted((row for row in of if row.condition == condition), key=lambda row: row.n_agents)
                color = "black" if condition == base else COLORS[i % len(COLORS)]
                told = "undisturbed" if condition == base else condition
                sizes, values = [row.n_agents for row in curve], [row.value for row in curve]
                ax.plot(sizes, values, color=color, marker=MARKERS[i % len(MARKERS)], label=told, linewidth=1.6)
                ax.fill_between(
                    sizes, [row.ci_low for row in curve], [row.ci_high for row in curve], color=color, alpha=0.12
                )
            ax.set_xscale("log", base=2)
            every = sorted({row.n_agents for row in of})
            ax.set_xticks(every, list(map(str, every)))
            ax.minorticks_off()
            ax.set(xlabel="agents in the team", ylabel=words(metric), title=label)
            ax.title.set_fontsize(9)
            ax.legend(fontsize=8, frameon=False)
            _plain(ax)
        for ax in axes[len(labels) :]:
            ax.set_axis_off()
    return True


def tuning(curves: Sequence[Curve], path: Path, metric: str = "return_per_agent") -> bool:
    """Fine-tuning curves and those from scratch, one panel a size; whether there was anything to draw."""
    sizes = sorted({curve.n_agents for curve in curves if curve.mode == "fine_tuned"})
    if not sizes:
        return False
    shown = [curve for curve in curves if curve.n_agents in sizes]
    looks = {name: i for i, name in enumerate(dict.fromkeys(_trained(curve) for curve in shown))}
    across, down = min(len(sizes), 3), math.ceil(len(sizes) / 3)
    with _figure(path, (max(4.4 * across, 5.5), 3.4 * down + 0.25 * len(looks))) as figure:
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for ax, n in zip(axes, sizes, strict=False):
            for curve in (one for one in shown if one.n_agents == n):
                place = looks[_trained(curve)]
                color, line = COLORS[place % len(COLORS)], "--" if curve.mode == "scratch" else "-"
                marker = MARKERS[place % len(MARKERS)]
                ax.plot(
                    curve.frames,
                    curve.value,
                    color=color,
                    linestyle=line,
                    marker=marker,
                    markersize=4,
                    label=_trained(curve),
                )
                if curve.low is not None and curve.high is not None:
                    ax.fill_between(curve.frames, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
            _frames(ax)
            ax.set(xlabel="frames trained at this size", ylabel=words(metric), title=f"{n} agents")
            _plain(ax)
        for ax in axes[len(sizes) :]:
            ax.set_axis_off()
        of_label = {name: one for ax in axes for one, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        handles = [of_label[name] for name in looks]
        figure.legend(handles, list(looks), loc="outside lower center", fontsize=8, frameon=False)
    return True


def _trained(curve: Curve) -> str:
    """How a training is called."""
    told = f"{curve.method}, {NAMES[curve.mode]}"
    return told + (f" from {curve.train_n_agents}" if curve.mode != "scratch" else "")


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _frames(ax: Any) -> None:
    """Frames in thousands and millions."""
    ax.set_xlabel("frames")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M" if x >= 1e6 else f"{x / 1e3:g} k" if x else "0")


def _same(row: Row, like: Row) -> bool:
    return (row.method, row.mode, row.train_n_agents) == (like.method, like.mode, like.train_n_agents)


def _undisturbed(row: Row) -> Row:
    return dataclasses.replace(row, condition="")


def _plain(ax: Any, grid: str = "y") -> None:
    ax.grid(axis=grid, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


class _figure:
    """A figure that is written whole when it is done."""

    def __init__(self, path: Path, size: tuple[float, float]) -> None:
        self.path, self.size = path, size

    def __enter__(self) -> Any:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=self.size, dpi=130, layout="constrained")
        FigureCanvasAgg(self.figure)
        return self.figure

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            with whole_file(self.path) as aside:
                self.figure.savefig(aside, format="png")
