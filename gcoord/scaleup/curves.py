"""Curves of the trainings of a sweep, from the lines of its curves.csv: means over runs with their intervals."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcoord.scaleup import comparison

KEY = ("world", "density", "train_n_agents", "n_agents", "method", "mode", "condition")


@dataclass(frozen=True)
class Curve:
    """Greedy evaluations along the trainings of one policy at one size: frames trained there, the mean over runs and
    its interval (None where there is one run)."""

    world: str
    density: str
    train_n_agents: str
    n_agents: int
    method: str
    mode: str
    condition: str
    frames: NDArray[Any]
    value: NDArray[Any]
    low: NDArray[Any] | None
    high: NDArray[Any] | None
    runs: int


def curves(lines: Sequence[Mapping[str, Any]], metric: str = "return_per_agent") -> list[Curve]:
    """The curves of one figure. Runs are read at the first one's frames, as far as all of them go."""
    found: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        if line["metric"] == metric:
            runs = found.setdefault(tuple(str(line[name]) for name in KEY), {})
            runs.setdefault(str(line["seed"]), []).append((float(line["frames"]), float(line["value"])))
    told = []
    for key, of_runs in found.items():
        points = [np.array(sorted(run)).T for run in of_runs.values()]
        end = min(frames[-1] for frames, _ in points)
        grid = points[0][0][points[0][0] <= end]
        values = np.array([np.interp(grid, frames, value) for frames, value in points])  # [runs, points]
        low = high = None
        if len(values) > 1:
            bounds = [comparison.interval(comparison.mean, values[:, i : i + 1]) for i in range(len(grid))]
            low, high = (np.array([getattr(one, end) for one in bounds]) for end in ("low", "high"))
        named: dict[str, Any] = dict(zip(KEY, key, strict=True))
        named["n_agents"] = int(named["n_agents"])
        told.append(Curve(**named, frames=grid, value=values.mean(0), low=low, high=high, runs=len(values)))
    return told


def read_curves(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The lines of curves.csv; none where there is no such file."""
    if not Path(path).is_file():
        return []
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))
