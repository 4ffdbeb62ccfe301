"""Learning curves over seeds with intervals, beside the random policy.

`python experiments/curves.py <results.csv> <out.png> <run> [<run> ...]`, where `results.csv` is what `gcoord.evaluate`
wrote for these runs: its random rows at the training size are the band.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from gcoord.scaleup.report import read_csv
from gcoord.scaleup.statistics import interval

METRIC = "return_per_agent"


def curve(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and mean training return of a run, round by round."""
    with open(run / "metrics.csv", newline="") as file:
        rows = [(float(r["frames"]), float(r[METRIC])) for r in csv.DictReader(file) if r.get(METRIC)]
    frames, values = np.array(rows).T
    return frames, values


def main(results: Path, out: Path, runs: list[Path]) -> None:
    curves = [curve(run) for run in runs]
    last = min(frames[-1] for frames, _ in curves)
    grid = np.linspace(max(frames[0] for frames, _ in curves), last, 40)
    # Each point is the mean over the rounds around it, so that single episodes do not hide the curve; where episodes
    # are long, rounds without any end are bridged.
    width = max((grid[1] - grid[0]) * 1.5, *(np.diff(frames).max() for frames, _ in curves))
    smooth = np.array(
        [[values[np.abs(frames - x) <= width].mean() for x in grid] for frames, values in curves]
    )  # [seeds, points]
    bands = np.array([interval([np.array([v]) for v in smooth[:, i]]) for i in range(len(grid))])
    rows = [row for row in read_csv(results) if row.mode == "random" and row.metric == METRIC]
    random = min(rows, key=lambda row: row.n_agents)
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ax.fill_between(grid, bands[:, 1], bands[:, 2], alpha=0.25, color="C0")
    ax.plot(grid, bands[:, 0], color="C0", label=f"training, {len(runs)} seeds")
    ax.axhspan(random.ci_low, random.ci_high, color="0.6", alpha=0.5)
    ax.axhline(random.value, color="0.4", linestyle="--", label="random policy")
    ax.set(xlabel="frames", ylabel=METRIC.replace("_", " "), title=f"{random.world}, {random.n_agents} agents")
    ax.legend()
    ax.grid(alpha=0.3)
    figure.savefig(out, dpi=120)
    above = bands[-1, 1] > random.ci_high
    print(f"last point {bands[-1, 0]:.2f} [{bands[-1, 1]:.2f}, {bands[-1, 2]:.2f}], random {random.value:.2f} "
          f"[{random.ci_low:.2f}, {random.ci_high:.2f}]: {'above' if above else 'not above'}")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(run) for run in sys.argv[3:]])
