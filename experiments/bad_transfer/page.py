"""results.csv, tuned.png and the table of README.md from the sweeps of run.sh: `python .../page.py runs/.../scale`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments.cells import number, replaced  # noqa: E402
from gcoord.scaleup.curves import curves, read_curves  # noqa: E402
from gcoord.scaleup.pictures import tuning  # noqa: E402
from gcoord.scaleup.report import Row, read_csv, write_csv  # noqa: E402

METRIC = "return_per_agent"
# Sweeps by folder: what the small policy was, and how it went on.
NAMES = {
    "plain": "right",
    "gated_near": "right, gates and annealed closeness",
    "turned_plain": "turned round",
    "turned_near": "turned round, annealed closeness",
    "turned_gated": "turned round, gates",
    "turned_gated_near": "turned round, gates and annealed closeness",
}
SCRATCH = {"plain": "relation kernel", "gated_near": "gated kernel"}


def named(row: Row, folder: str) -> Row:
    """The row with the name that its method has here."""
    if row.mode in ("random", "scripted"):
        return row
    return dataclasses.replace(row, method=SCRATCH[folder] if row.mode == "scratch" else NAMES[folder])


def rows_of(scale: Path) -> list[Row]:
    """Rows of all sweeps, random and scripted play once."""
    played = [folder for folder in NAMES if (scale / folder / "results.csv").exists()]
    rows = [named(row, folder) for folder in played for row in read_csv(scale / folder / "results.csv")]
    return list({(row.method, row.mode, row.n_agents, row.condition, row.metric): row for row in rows}.values())


def table(rows: list[Row]) -> list[str]:
    """One line a method: as it was, as it ended, and its curve."""

    def told(method: str, mode: str, metric: str, form: str = ".1f") -> str:
        for row in rows:
            if (row.method, row.mode, row.metric) == (method, mode, metric):
                return number(row, form)
        return "not reached" if metric == "frames_to_90" else ""

    lines = ["| what goes on at 12 agents | before | after | mean of its curve | frames to 90 % of scratch |"]
    lines.append("|---|---|---|---|---|")
    for mode in ("random", "scripted"):
        known = [row.method for row in rows if (row.mode, row.metric) == (mode, METRIC)]
        lines += [f"| {mode} play | {told(method, mode, METRIC)} | | | |" for method in known]
    trained = [(f"from scratch, {name}", name, "scratch") for name in SCRATCH.values()]
    known = {row.method for row in rows}
    for title, name, mode in [*trained, *((name, name, "fine_tuned") for name in NAMES.values() if name in known)]:
        figures = [told(name, "zero_shot", METRIC), told(name, mode, METRIC), told(name, mode, "curve_area")]
        lines.append(f"| {title} | {' | '.join(figures)} | {told(name, mode, 'frames_to_90', ',.0f')} |")
    return lines


def drawn(scale: Path, path: Path) -> None:
    """All curves in one picture."""
    lines = []
    for folder in NAMES:
        for line in read_curves(scale / folder / "curves.csv"):
            if line["n_agents"] == "12":
                is_scratch = line["mode"] == "scratch"
                lines.append({**line, "method": SCRATCH[folder] if is_scratch else NAMES[folder]})
    tuning(curves(lines, METRIC), path, METRIC)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", type=Path)
    scale = parser.parse_args().scale
    found = rows_of(scale)
    write_csv(found, HERE / "results.csv")
    drawn(scale, HERE / "tuned.png")
    replaced(HERE / "README.md", "table", table(found))
