"""What a result rests on: seeds, episodes, frames, hardware, versions, failed runs, how the world grew."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import torch

from gcoord.scaleup.report import NAMES, Row

PACKAGES = ("gcoord", "torch", "tensordict", "lightning", "numpy", "vmas", "pettingzoo", "mpe2", "magent2")
DENSITY = {
    "fixed": "fixed: the arena grows with the team, so that agents are as crowded at every size",
    "arena": "arena: the arena stays the same, so that larger teams are more crowded",
    "none": "none: the world has no arena to grow",
}


def facts(
    rows: Sequence[Row], runs: Sequence[Path] = (), grows: str = "", seconds: float | None = None
) -> dict[str, str]:
    """The honesty block: a dict of headings and lines, in the order in which they are shown.

    Arguments:
        rows: of the sweep.
        runs: folders of the runs behind it, those that failed among them.
        grows: how the world grows with the team, in its card's words.
        seconds: the sweep took.
    """
    told: dict[str, str] = {}
    trained = [row for row in rows if row.mode not in ("random", "scripted")]
    seeds = sorted({(row.method, NAMES[row.mode], row.train_n_agents, row.seeds) for row in trained})
    told["Training runs (seeds)"] = (
        "\n".join(f"{method}, {mode}, trained on {size}: {n}" for method, mode, size, n in seeds) or "none"
    )
    one = [f"{method}, {mode}" for method, mode, _, n in seeds if n == 1]
    told["Intervals"] = "95 % percentile bootstrap over training runs; over episodes where there is one run" + (
        f". One run only, which tells nothing about another training: {', '.join(dict.fromkeys(one))}" if one else ""
    )
    told["Episodes"] = _spread(row.episodes // max(row.seeds, 1) for row in rows) + " of each run at each size, greedy"
    told["Frames trained"] = (
        "\n".join(
            f"{method}, {NAMES[mode]} {size}: {_number(frames)}"
            for method, mode, size, frames in sorted(
                {(row.method, row.mode, row.train_n_agents, row.frames) for row in _last(trained)}
            )
        )
        or "none"
    )
    densities = sorted({row.density for row in rows})
    told["Density rule"] = "; ".join(DENSITY.get(density, density) for density in densities)
    if grows:
        told["How the world grows"] = grows
    if changed := sorted({row.condition for row in rows} - {""}):
        told["Changed at evaluation"] = "; ".join(changed)
    told["Runs that failed"] = failed(runs)
    told["Hardware"] = hardware()
    told["Versions"] = versions()
    if seconds is not None:
        told["Time of the sweep"] = f"{seconds:.0f} s"
    return told


def failed(runs: Sequence[Path]) -> str:
    """Which of the runs did not finish, by their summary.json."""
    bad = []
    for run in dict.fromkeys(map(Path, runs)):
        try:
            status = json.loads((run / "summary.json").read_text()).get("status", "without a status")
        except (OSError, ValueError):
            status = "without a summary"
        if status != "finished":
            bad.append(f"{run.name} ({status})")
    known = len(set(map(Path, runs)))
    return f"{len(bad)} of {known}" + (f": {', '.join(bad)}" if bad else "") if known else "not known"


def hardware() -> str:
    """Processor, cores that may be used, memory, CUDA devices."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [name, f"{cores} cores", platform.system()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.insert(2, f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory")
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(parts)


def versions() -> str:
    """Python and the installed packages that results depend on."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _last(rows: Sequence[Row]) -> list[Row]:
    """Of points of one fine-tuning curve, the last."""
    best: dict[tuple[str, str, str, int], Row] = {}
    for row in rows:
        key = (row.method, row.mode, row.train_n_agents, row.n_agents)
        if key not in best or row.frames > best[key].frames:
            best[key] = row
    return list(best.values())


def _spread(numbers: Iterable[int]) -> str:
    values = sorted(set(numbers))
    return "none" if not values else str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _number(n: int) -> str:
    return f"{n:,}".replace(",", " ")
