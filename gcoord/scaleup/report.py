"""Results of a sweep over team sizes: tidy rows, their files, a table for the terminal and a picture."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gcoord.checkpoint import whole_file

Mode = Literal["zero_shot", "fine_tuned", "scratch", "random", "scripted"]
MODES: tuple[Mode, ...] = get_args(Mode)
ORDER: tuple[Mode, ...] = ("random", "scripted", "zero_shot", "fine_tuned", "scratch")
NAMES: dict[str, str] = {
    "zero_shot": "zero-shot",
    "fine_tuned": "fine-tuned",
    "scratch": "from scratch",
    "random": "random",
    "scripted": "scripted",
}
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
ROUNDING = 1e-5  # what single precision may differ by, relatively, and nobody should see


@dataclass(frozen=True)
class Row:
    """One figure of one policy at one team size; the schema of every results file.

    world, density (`fixed`, `arena`, `none`); train_n_agents: sizes trained on, as `4` or `2+4` (empty: untrained);
    n_agents: size played; method: how the policy is called; mode; condition: what was changed at evaluation (empty:
    nothing); metric; value with its interval ci_low to ci_high; episodes and seeds (runs) behind it; frames:
    environment steps trained for. Raises ValueError for an unknown mode.
    """

    world: str
    density: str
    train_n_agents: str
    n_agents: int
    method: str
    mode: str
    condition: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    episodes: int
    seeds: int
    frames: int

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"expected mode among {', '.join(MODES)} (got {self.mode!r})")


FIELDS: dict[str, Callable[[str], Any]] = {
    field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in dataclasses.fields(Row)
}


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write rows as CSV with a header, whole or not at all; numbers keep every digit."""
    with whole_file(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows([getattr(row, name) for name in FIELDS] for row in rows)


def read_csv(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of `write_csv`; raises ValueError naming the file and line that is none."""
    with Path(path).open(newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if header != list(FIELDS):
            raise ValueError(f"expected {path} to begin with {','.join(FIELDS)} (got {','.join(header)!r})")
        rows = []
        for line in lines:
            try:
                values = {name: of(text) for (name, of), text in zip(FIELDS.items(), line, strict=True)}
                rows.append(Row(**values))
            except ValueError as error:
                raise ValueError(f"expected a results row in {path}, line {lines.line_num} (got: {error})") from error
    return rows


def write_json(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write rows as a JSON list of objects, whole or not at all; figures that are no numbers become null."""
    plain = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in map(dataclasses.asdict, rows)
    ]
    with whole_file(path) as aside, aside.open("w") as file:
        json.dump(plain, file, indent=1, allow_nan=False)
        file.write("\n")


def normalised(value: float, random: Row, scratch: Row) -> float | None:
    """Where `value` lies between random play (0) and a policy trained from scratch at that size (1).

    None where the interval of scratch does not lie above that of random play: nothing was learnt to be compared with.
    """
    if not scratch.ci_low > random.ci_high:
        return None
    return (value - random.value) / (scratch.value - random.value)


def table(rows: Sequence[Row], metrics: Sequence[str] | None = None) -> Group:
    """What to print in a terminal: for each world and metric, every policy by team size, intervals below the values.

    Arguments:
        rows: of any worlds and densities; these are never put into one table.
        metrics: to show; None: return per agent and success where they are there, then what else the world reports.

    Where a policy from scratch is there, the first metric comes once more, normalised (see `normalised`), unless rows
    of `retention` say so.
    """
    parts: list[Table | Text] = []
    for (world, density), members in _groups(rows, "world", "density").items():
        sizes = _sizes(members)
        shown = _metrics(members, metrics)
        sheet = Table(
            title=_title(world, density),
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        sheet.add_column("agents", no_wrap=True)
        for n in sizes:
            sheet.add_column(str(n), justify="right")
        for metric in shown:
            sheet.add_row(Text(_words(metric), style="bold"))
            here = [row for row in members if row.metric == metric]
            decimals = _decimals(here)
            for label, cells in _by_label(here).items():
                sheet.add_row(_two_lines(label), *(_with_interval(cells.get(n), decimals) for n in sizes))
            sheet.add_section()
        # What is kept of it has rows of its own where a sweep has stated it.
        kept = "retention" in shown
        scores = {} if kept else _scores(members, shown[0])
        if scores:
            sheet.add_row(Text(f"{_words(shown[0])},\nnormalised", style="bold"))
            for label, of_size in scores.items():
                sheet.add_row(_two_lines(label), *(f"{of_size[n]:.2f}" if n in of_size else "" for n in sizes))
        parts += [sheet, Text(_note(members, bool(scores), kept), style="dim")]
    return Group(*parts)


def plot(rows: Sequence[Row], path: str | os.PathLike[str], metrics: Sequence[str] | None = None) -> None:
    """Draw every policy over team sizes as a PNG: one panel a metric, three a line, each world under its own title.

    Bands are intervals. Policies from scratch are another policy at each size, so they are points with bars; a dotted
    line marks the sizes that were trained on.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = _groups(rows, "world", "density")
    if not groups:
        raise ValueError("expected at least one results row to draw (got none)")
    shown = {key: _metrics(members, metrics) for key, members in groups.items()}
    across = min(max(map(len, shown.values())), 3)
    down = {key: math.ceil(len(names) / across) for key, names in shown.items()}
    looks = _looks(rows)
    columns = max(int(4.4 * across * 12 / (max(map(len, looks)) + 6)), 1)  # about 12 letters an inch, and the handle
    columns = min(columns, len(looks))
    legend = 0.25 * math.ceil(len(looks) / columns) + 0.2
    figure = Figure(figsize=(4.4 * across, 3.3 * sum(down.values()) + legend), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=list(down.values()))[:, 0]
    for part, (key, members) in zip(parts, groups.items(), strict=True):
        part.suptitle(_title(*key), fontsize=11)
        axes = list(part.subplots(down[key], across, squeeze=False).flat)
        for ax, metric in zip(axes, shown[key], strict=False):
            _panel(ax, [row for row in members if row.metric == metric], _words(metric), looks)
        for ax in axes[len(shown[key]) :]:
            ax.set_axis_off()
    handles = {
        label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    ordered = [label for label in looks if label in handles]
    figure.legend(
        [handles[label] for label in ordered],
        ordered,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    with whole_file(path) as aside:
        figure.savefig(aside, format="png")


def _panel(ax: Any, rows: Sequence[Row], title: str, looks: dict[str, dict[str, Any]]) -> None:
    """One metric over team sizes."""
    every = _sizes(rows)
    for place, (label, look) in enumerate(looks.items()):
        curve = [row for row in rows if _label(row) == label and math.isfinite(row.value)]
        if not curve:
            continue
        # With one size there is nothing to be read across, so policies stand side by side.
        aside = 2 ** (0.1 * (place - (len(looks) - 1) / 2)) if len(every) == 1 else 1
        sizes = [row.n_agents * aside for row in curve]
        values, lows, highs = ([getattr(row, name) for row in curve] for name in ("value", "ci_low", "ci_high"))
        if curve[0].mode == "scratch" or len(curve) == 1:
            down = [max(v - low, 0.0) for v, low in zip(values, lows, strict=True)]
            up = [max(high - v, 0.0) for v, high in zip(values, highs, strict=True)]
            ax.errorbar(sizes, values, yerr=[down, up], label=label, capsize=3, **{**look, "linestyle": "none"})
        else:
            ax.plot(sizes, values, label=label, **look)
            ax.fill_between(sizes, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
    trained = sorted({int(n) for row in rows if row.mode == "zero_shot" for n in row.train_n_agents.split("+") if n})
    for n in trained:
        ax.axvline(n, color="0.55", linewidth=1, linestyle=(0, (1, 2)), zorder=0)
    if trained:
        text = f"trained on {', '.join(map(str, trained))}"
        ax.set_title(text, fontsize=8, color="0.4", loc="left" if trained[0] <= every[len(every) // 2] else "right")
    ax.set_xscale("log", base=2)
    ax.set_xticks(every, [str(n) for n in every], rotation=45 if len(every) > 8 else 0)
    if len(every) == 1:
        ax.set_xlim(every[0] / 2, every[0] * 2)
    ax.minorticks_off()
    ax.set_xlabel("agents in the team")
    ax.set_ylabel(title)
    if all(row.ci_low >= 0 and row.ci_high <= 1 for row in rows):
        ax.set_ylim(-0.03, 1.03)
    elif bounds := [v for row in rows for v in (row.value, row.ci_low, row.ci_high) if math.isfinite(v)]:
        low, high = min(bounds), max(bounds)
        if high - low <= ROUNDING * max(abs(low), abs(high)):  # one value at all sizes: its last digits are no rise
            ax.set_ylim(low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _looks(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How each policy is drawn, by its label: a colour for each method, a line and a marker for each mode."""
    methods = list(dict.fromkeys(row.method for row in rows if row.mode not in ("random", "scripted")))
    looks = {}
    for members in _groups(rows, "mode").values():
        for row in members:
            color = {"random": "0.5", "scripted": "black"}.get(row.mode)
            looks[_label(row)] = {
                "color": color or COLORS[methods.index(row.method) % len(COLORS)],
                "markerfacecolor": "white" if row.mode == "scratch" else None,
                "linestyle": {"random": ":", "scripted": "--", "fine_tuned": "-."}.get(row.mode, "-"),
                "marker": {"random": "x", "scripted": "s", "fine_tuned": "^", "scratch": "D"}.get(row.mode, "o"),
                "markersize": 4 if row.mode in ("random", "scripted") else 5,
                "linewidth": 1.6,
            }
    return looks


def _scores(rows: Sequence[Row], metric: str) -> dict[str, dict[int, float]]:
    """The normalised scores of trained and scripted policies, by label and size, where they are defined."""
    scores: dict[str, dict[int, float]] = {}
    for row in rows:
        beside = {other.mode: other for other in rows if (other.n_agents, other.metric) == (row.n_agents, metric)}
        if row.metric == metric and row.mode not in ("random", "scratch") and {"random", "scratch"} <= beside.keys():
            score = normalised(row.value, beside["random"], beside["scratch"])
            if score is not None:
                scores.setdefault(_label(row), {})[row.n_agents] = score
    return scores


def _note(rows: Sequence[Row], scores: bool, kept: bool) -> str:
    """What the values, the intervals and the scores rest on."""
    runs = sorted({row.seeds for row in rows})
    episodes = sorted({row.episodes // row.seeds for row in rows})
    over = "runs" if runs[0] > 1 else "episodes" if runs[-1] == 1 else "runs, or over episodes where there is one run"
    note = f"{_span(runs)} run{'s' if runs[-1] > 1 else ''} of {_span(episodes)} episodes; below each value its "
    note += f"95 % bootstrap interval over {over}"
    if runs[0] == 1:
        note += " (which tells nothing about another training run)"
    if scores:
        note += ". Normalised: 0 is random play, 1 is training from scratch at that size, stated where the two part"
    if kept:
        note += ". Retention: 0 is random play, 1 is training from scratch at that size, or the script"
    return note + "."


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _groups(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some fields, policies in the order in which they are shown."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (ORDER.index(row.mode), row.n_agents)):  # type: ignore[arg-type]
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return groups


def _metrics(rows: Sequence[Row], wanted: Sequence[str] | None) -> list[str]:
    present = list(dict.fromkeys(row.metric for row in rows))
    if wanted is not None:
        if missing := [metric for metric in wanted if metric not in present]:
            raise ValueError(f"expected metrics among {', '.join(present)} (got {', '.join(missing)})")
        return list(wanted)
    first = [metric for metric in ("return_per_agent", "success") if metric in present]
    rest = [metric for metric in present if metric not in first]
    # The team's return is the return per agent times the number of agents, and hides the others on one scale.
    return first + [metric for metric in rest if metric != "return" or "return_per_agent" not in first]


def _by_label(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """Rows of one metric by policy and team size."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(_label(row), {})[row.n_agents] = row
    return found


def _sizes(rows: Sequence[Row]) -> list[int]:
    return sorted({row.n_agents for row in rows})


def _label(row: Row) -> str:
    """How a policy is called in tables and pictures."""
    if row.mode in ("random", "scripted"):
        label = NAMES[row.mode]
    elif row.mode == "zero_shot":
        label = f"{row.method}, zero-shot from {row.train_n_agents}"
    elif row.mode == "fine_tuned":
        label = f"{row.method}, fine-tuned from {row.train_n_agents}"
    else:
        label = f"{row.method}, from scratch"
    return f"{label}, {row.condition}" if row.condition else label


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _title(world: str, density: str) -> str:
    how = {"fixed": ", the arena grows with the team", "arena": ", the arena stays the same"}
    return f"{world}{how.get(density, '')}"


def _two_lines(label: str) -> str:
    """A policy's name as wide as a table beside four sizes allows."""
    first, _, rest = label.partition(", ")
    return f"  {first},\n  {rest}" if rest else f"  {first}"


def _decimals(rows: Sequence[Row]) -> int:
    """As many as leave two or three digits of the largest value."""
    largest = max((abs(row.value) for row in rows if math.isfinite(row.value)), default=1.0)
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 0.2 else 4


def _with_interval(row: Row | None, decimals: int) -> Text:
    if row is None:
        return Text("")
    if math.isnan(row.ci_low):
        return Text(f"{row.value:.{decimals}f}")
    interval = f"{row.ci_low:.{decimals}f}, {row.ci_high:.{decimals}f}"
    return Text.assemble(f"{row.value:.{decimals}f}", (f"\n{interval}", "dim"))
