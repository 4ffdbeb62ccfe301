"""Learners of one agent against the levels that are known: `python experiments/single_agent/run.py`.

Trains what has no file in rows/ yet (CartPole-v1: dqn, ppo, a2c, reinforce; Pendulum-v1: ddpg, td3, sac, ppo; five
seeds), then writes results.csv, curves.png and the table in README.md from all files. Stop it and start it again as you
like, also twice at the same time. `--seeds 0 1`, `--algos dqn` and `--worlds gym/cartpole` do a part; `--only-page`
trains nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from experiments.cells import METRIC, Cell, groups, kept, replaced, scores, seconds, work  # noqa: E402
from gcoord.scaleup.comparison import interval, iqm  # noqa: E402
from gcoord.scaleup.report import Row, write_csv  # noqa: E402

SEEDS = (0, 1, 2, 3, 4)
CARTPOLE, PENDULUM = "gym/cartpole", "gym/pendulum"
LEVEL = {
    CARTPOLE: {"dqn": 475, "ppo": 475, "a2c": 475, "reinforce": 400},
    PENDULUM: {"ddpg": -200, "td3": -200, "sac": -200, "ppo": -200},
}

# An MLP for the one agent, no processes for a world that steps in microseconds, and the best of ten evaluations.
COMMON = (
    "model=mlp model.encoder.layers=2 env.workers=0 device=cpu threads=1 log.tensorboard=false "
    "evaluation.episodes=20 evaluation.num_envs=20"
)
POINTS = (
    "source.warmup=1000 algo.epsilon_frames=10000 num_envs=4 source.steps=2 source.updates=2 source.bursts=50 "
    "source.batch=256 algo.gamma=0.98"
)
# Frames, and what else is set.
SETTINGS: dict[tuple[str, str], tuple[int, str]] = {
    # Angles are a twentieth of what places are: normalised they are told apart, without 300 to 450 is the end.
    (CARTPOLE, "dqn"): (
        24_000,
        "num_envs=8 source.steps=8 source.updates=16 source.bursts=10 source.batch=32 source.length=20 "
        "source.warmup=1000 model.normalise=true algo.n_step=20 algo.double=true algo.lr=1e-3 algo.lr_frames=24000 "
        "algo.lr_end=0.1 algo.tau=0.05 algo.epsilon_frames=15000",
    ),
    (CARTPOLE, "ppo"): (
        45_000,
        "num_envs=8 source.steps=128 source.epochs=6 source.minibatch=256 algo.gamma=0.98 algo.lr=1e-3",
    ),
    (CARTPOLE, "a2c"): (80_000, "num_envs=16 source.steps=8 algo.gamma=0.99 algo.lam=0.95 algo.lr=2e-3"),
    (CARTPOLE, "reinforce"): (200_000, "num_envs=16 algo.gamma=0.99 algo.lr=5e-3"),
    (PENDULUM, "ddpg"): (16_000, POINTS),
    (PENDULUM, "td3"): (16_000, POINTS),
    (PENDULUM, "sac"): (16_000, POINTS),
    (PENDULUM, "ppo"): (
        150_000,
        "num_envs=16 source.steps=100 source.epochs=10 source.minibatch=400 algo.gamma=0.95 algo.lam=0.95 algo.lr=1e-3 "
        "algo.lr_frames=150000 algo.lr_end=0.05 algo.clip_value=false",
    ),
}


def cells(worlds: list[str], algos: list[str] | None, seeds: list[int]) -> list[Cell]:
    """One seed of everything before the next."""
    return [
        Cell(world, algo, seed, options(*told))
        for seed in seeds
        for (world, algo), told in SETTINGS.items()
        if world in worlds and (algos is None or algo in algos)
    ]


def options(frames: int, more: str) -> tuple[str, ...]:
    when = (f"frames={frames}", f"evaluation.frames={frames // 10}", f"checkpoint_frames={frames // 4}")
    return (*COMMON.split(), *when, *more.split())


def page(rows: Path) -> None:
    """results.csv, curves.png and README.md's table, of the cells that are there."""
    done = kept(rows)
    lines = [
        "| world | algorithm | known level | IQM | lowest | seeds | frames | processor s a run |",
        "|" + "---|" * 8,
    ]
    results, below = [], []
    for (world, algo), members in groups(done).items():
        value, low, high = interval(iqm, scores(members))
        level = LEVEL[world][algo]
        values = scores(members)[:, 0]
        missed = zip(members, values, strict=True)
        below += [f"{algo} on {world}, seed {one['seed']} ({v:.0f})" for one, v in missed if v < level]
        frames = max(one["frames"] for one in members)
        mark = "" if value >= level else ", **missed**"
        lines.append(
            f"| {world} | {algo} | {level} | {value:.0f} [{low:.0f}, {high:.0f}]{mark} | {min(values):.0f} "
            f"| {len(members)} | {frames:,} | {seconds(members)} |"
        )
        counts = (sum(one["episodes"] for one in members), len(members), frames)
        results.append(Row(world, "none", "1", 1, algo, "scratch", "", METRIC, value, low, high, *counts))
    for world in dict.fromkeys(one["world"] for one in done):
        random = np.array([[one["random"][METRIC]] for one in done if one["world"] == world])
        counts = (20 * len(random), len(random), 0)
        results.append(Row(world, "none", "", 1, "random", "random", "", METRIC, *interval(iqm, random), *counts))
    write_csv(results, HERE / "results.csv")
    lines += ["", f"Of {len(done)} runs, below their level: {'; '.join(below) or 'none'}."]
    replaced(HERE / "README.md", "table", lines)
    curves(done, HERE / "curves.png")


def curves(done: list[dict[str, Any]], path: Path) -> None:
    """IQM of the periodic evaluations, each seed thin beside it."""
    figure, axes = plt.subplots(1, len(LEVEL), figsize=(11, 4), layout="constrained")
    for ax, world in zip(axes, LEVEL, strict=True):
        for place, algo in enumerate(LEVEL[world]):
            members = groups(done).get((world, algo), [])
            color, lines = f"C{place}", [np.array(one["curve"]).T for one in members]
            for frames, values in lines:
                ax.plot(frames, values, color=color, linewidth=0.6, alpha=0.4)
            if lines:
                grid = np.linspace(max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines), 20)
                joint = np.array([np.interp(grid, *line) for line in lines])
                middle = [iqm(joint[:, [i]]) for i in range(len(grid))]
                ax.plot(grid, middle, color=color, label=f"{algo}, {len(lines)} seeds")
        for level in set(LEVEL[world].values()):
            ax.axhline(level, color="0.4", linestyle="--", linewidth=0.8)
        ax.set(title=world, xlabel="frames", ylabel="greedy return, 20 episodes", xscale="log")
        ax.legend()
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(LEVEL), choices=list(LEVEL))
    parser.add_argument("--algos", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--runs", type=Path, default=HERE.parents[1] / "runs" / "single_agent", help="run folders")
    parser.add_argument("--rows", type=Path, default=HERE / "rows", help="one file a cell")
    parser.add_argument("--only-page", action="store_true")
    given = parser.parse_args()
    if not given.only_page:
        for cell, how in work(cells(given.worlds, given.algos, given.seeds), given.rows, given.runs):
            print(f"{cell.name}: {how}", flush=True)
    page(given.rows)


if __name__ == "__main__":
    main()
