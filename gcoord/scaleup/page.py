"""`scale/report.html`: one file that holds a whole study and opens in a browser without a network.

Python puts the rows in order; `page.js` draws them, `replay.js` plays the episodes. Nothing is fetched, which the
page's own content policy enforces.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from gcoord.checkpoint import whole_file
from gcoord.scaleup.curves import Curve
from gcoord.scaleup.facts import DENSITY
from gcoord.scaleup.report import ORDER, Row, _metrics
from gcoord.scaleup.report import _label as label_of

# What is measured in what, on axes; figures of a world's own are in its own units.
UNITS = {
    **dict.fromkeys(("return", "return_per_agent", "return_worst_agent", "jump_start", "curve_area"), "reward"),
    "success": "share",
    "edges_dropped": "edges per agent and step",
    "length": "steps",
    "retention": "0 random, 1 from scratch",
    "retention_of_script": "0 random, 1 scripted",
    "frames_to_90": "frames",
    "frames_at_size": "frames",
    "agent_steps": "agent steps",
    "act_ms": "ms per step of a team",
    "act_mb": "MB per team",
    "training_seconds": "s",
    "messages": "per agent and step",
    "message_bytes": "bytes per agent and step",
    "neighbours": "agents heard",
    "entities_heard": "entities",
    "speech_information": "bits",
    "speech_bits": "bits",
    "speech_symbols": "words",
    "speech_share": "share",
}
WORDS = {
    "return_worst_agent": "return of the worst agent",
    "retention": "retention: share of what scratch learns there",
    "retention_of_script": "retention: share of what the script does",
    "act_ms": "time to act",
    "act_mb": "memory to act",
    "messages": "messages heard",
    "message_bytes": "bytes heard",
    "neighbours": "neighbours heard",
    "edges_dropped": "edges dropped by a limit",
    "frames_at_size": "frames trained at this size",
    "curve_area": "area under the curve (mean of it)",
    "frames_to_90": "frames to 90 % of scratch",
    "speech_information": "what words tell",
    "speech_share": "share of it that words tell",
    "speech_bits": "entropy of words said",
    "speech_symbols": "words in use",
}
COST = (
    *("act_ms", "act_mb", "messages", "message_bytes", "neighbours", "entities_heard", "edges_dropped"),
    *("training_seconds", "frames_at_size", "agent_steps"),
)
SPEECH = "speech_"
PARTS = ("page.css", "charts.js", "page.js", "replay.js")


def write_page(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    replays: Sequence[Any] = (),
    facts: Mapping[str, str] | None = None,
    title: str | None = None,
    curves: Sequence[Curve] = (),
) -> None:
    """Write the report, whole or not at all.

    Arguments:
        rows: of any worlds; each world and density is a choice at the head of the page.
        replays: of `gcoord.scaleup.replay.replay`, with a `title` of each.
        facts: the honesty block, of `gcoord.scaleup.facts.facts`.
        title: None: the worlds' names.
        curves: of trainings at the larger sizes, fine-tuned and from scratch.

    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("expected at least one results row for a report (got none)")
    worlds = list(dict.fromkeys(row.world for row in rows))
    content = {
        "groups": [group(members, curves) for members in _by_world(rows)],
        "replays": list(replays),
        "facts": [[name, text] for name, text in (facts or {}).items()],
    }
    text = files("gcoord.scaleup").joinpath("page.html").read_text()
    parts = {name: files("gcoord.scaleup").joinpath(name).read_text() for name in PARTS}
    # A closing tag within a string would end the script.
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    fill = {"title": escape(title or ", ".join(worlds)), **parts, "data": data}
    for name, value in fill.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    with whole_file(path) as aside:
        Path(aside).write_text(text)


def group(rows: Sequence[Row], curves: Sequence[Curve] = ()) -> dict[str, Any]:
    """One world at one density, as the page's script reads it."""
    ordered = sorted(rows, key=lambda row: (ORDER.index(row.mode), row.n_agents, row.frames))  # type: ignore[arg-type]
    metrics = _metrics(ordered, None)
    base = base_condition(ordered)
    conditions = [base, *(text for text in dict.fromkeys(row.condition for row in ordered) if text != base)]
    series: dict[tuple[str, ...], dict[str, Any]] = {}
    # Each set of weights has a colour: a method trained on other sizes is another one.
    tones = list(dict.fromkeys((row.method, row.train_n_agents) for row in ordered if row.mode == "zero_shot"))
    methods = [method for method, _ in tones]
    methods += [row.method for row in ordered if row.mode in ("fine_tuned", "scratch") and row.method not in methods]
    cells = []
    for row in ordered:
        if row.metric not in metrics:
            continue
        key = (row.method, row.mode, "" if row.mode == "scratch" else row.train_n_agents)
        if key not in series:
            plain = label_of(dataclasses.replace(row, condition=""))
            sort = (row.method, row.train_n_agents)
            own = row.mode in ("zero_shot", "fine_tuned") and sort in tones
            tone = tones.index(sort) if own else methods.index(row.method) if row.method in methods else -1
            series[key] = {"label": plain, "method": row.method, "mode": row.mode, "trained": key[2], "tone": tone}
        place = [list(series).index(key), row.n_agents, metrics.index(row.metric), conditions.index(row.condition)]
        cells.append([*place, *map(_number, (row.value, row.ci_low, row.ci_high)), row.episodes, row.seeds, row.frames])
    trained = sorted({int(n) for row in ordered if row.mode == "zero_shot" for n in row.train_n_agents.split("+") if n})
    return {
        "world": ordered[0].world,
        "density": DENSITY.get(ordered[0].density, ordered[0].density),
        "metrics": [
            {"name": name, "words": words(name), "unit": UNITS.get(name, ""), "kind": kind(name)} for name in metrics
        ],
        "conditions": [_told(text, base) for text in conditions],
        "base": base,
        "series": list(series.values()),
        "trained": trained,
        "rows": cells,
        "curves": [told for curve in curves if (told := _curve(curve, ordered[0], base, list(series)))],
    }


def _curve(curve: Curve, like: Row, base: str, series: list[tuple[str, ...]]) -> dict[str, Any] | None:
    """A curve as the page's script reads it: which policy, its size, and points [frames, value, low, high]; None for
    another world's, or a policy that has no row."""
    key = (curve.method, curve.mode, "" if curve.mode == "scratch" else curve.train_n_agents)
    if (curve.world, curve.density, curve.condition) != (like.world, like.density, base) or key not in series:
        return None
    bounds = (curve.value if end is None else end for end in (curve.low, curve.high))
    columns = [curve.frames.tolist(), *([_number(v) for v in values] for values in (curve.value, *bounds))]
    return {
        "series": series.index(key),
        "n": curve.n_agents,
        "runs": curve.runs,
        "points": list(zip(*columns, strict=True)),
    }


def kind(metric: str) -> str:
    """Which section of the page a metric belongs to."""
    return "cost" if metric in COST else "speech" if metric.startswith(SPEECH) else "result"


def base_condition(rows: Sequence[Row]) -> str:
    """The condition that others are compared with: what random and scripted play met, else the shortest."""
    anchors = [row.condition for row in rows if row.mode in ("random", "scripted")]
    return min(anchors or [row.condition for row in rows], key=len)


def words(metric: str) -> str:
    """A figure's name as people say it."""
    return WORDS.get(metric, metric.replace("_", " "))


def _told(condition: str, base: str) -> str:
    """A condition by what it adds to the base."""
    if condition == base:
        return "undisturbed"
    extra = [word for word in condition.split(" ") if word not in base.split(" ")]
    return " ".join(extra) or condition


def _by_world(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.world, row.density), []).append(row)
    return list(groups.values())


def _number(value: float) -> float | None:
    """Six digits are more than an interval has; what is no number is null."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
