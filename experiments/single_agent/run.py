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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from experiments.cells import METRIC, Cell, groups, kept, replaced, scores, work  # noqa: E402
from gcoord.scaleup.comparison import interval, iqm  # noqa: E402
from gcoord.scaleup.report import Row, write_csv  # noqa: E402

SEEDS = (0, 1, 2, 3, 4)
CARTPOLE, PENDULUM = "gym/cartpole", "gym/pendulum"
LEVEL = {CARTPOLE: {"dqn": 475, "ppo": 475, "a2c": 475, "reinforce": 400}, PENDULUM: dict.fromkeys(("ddpg", "td3", "sac", "ppo"), -200)}

# An MLP for the one agent, no processes for a world that steps in microseconds, and the best of some ten evaluations.
COMMON = (
    "model=mlp",
    "model.encoder.layers=2",
    "env.workers=0",
    "device=cpu",
    "threads=1",
    "log.tensorboard=false",
    "evaluation.episodes=20",
    "evaluation.num_envs=20",
)
REPLAYED = ("num_envs=4", "source.steps=2", "source.updates=2", "source.bursts=50", "source.batch=256", "source.warmup=1000")
CONTINUOUS = (*REPLAYED, "frames=16000", "evaluation.frames=1600", "checkpoint_frames=4000", "algo.gamma=0.98", "algo.epsilon_frames=10000")
SETTINGS: dict[tuple[str, str], tuple[str, ...]] = {
    (CARTPOLE, "dqn"): (
        "frames=40000", "evaluation.frames=4000", "checkpoint_frames=20000", "num_envs=8", "source.steps=2",
        "source.updates=2", "source.bursts=50", "source.batch=128", "source.warmup=1000", "algo.double=true",
        "algo.lr=1e-3", "algo.tau=0.05", "algo.epsilon_frames=10000", "algo.epsilon_end=0.04",
    ),
    (CARTPOLE, "ppo"): (
        "frames=30000", "evaluation.frames=3000", "checkpoint_frames=10000", "num_envs=8", "source.steps=128",
        "source.epochs=6", "source.minibatch=256", "algo.gamma=0.98", "algo.lr=1e-3",
    ),
    (CARTPOLE, "a2c"): (
        "frames=150000", "evaluation.frames=15000", "checkpoint_frames=50000", "num_envs=16", "source.steps=8",
        "algo.gamma=0.99", "algo.lam=0.95", "algo.lr=2e-3",
    ),
    (CARTPOLE, "reinforce"): (
        "frames=300000", "evaluation.frames=30000", "checkpoint_frames=100000", "num_envs=16", "algo.gamma=0.99",
        "algo.lr=5e-3",
    ),
    (PENDULUM, "ddpg"): CONTINUOUS,
    (PENDULUM, "td3"): CONTINUOUS,
    (PENDULUM, "sac"): CONTINUOUS,
    (PENDULUM, "ppo"): (
        "frames=80000", "evaluation.frames=8000", "checkpoint_frames=20000", "num_envs=16", "source.steps=100",
        "source.epochs=10", "source.minibatch=400", "algo.gamma=0.9", "algo.lam=0.95", "algo.lr=1e-3",
    ),
}  # fmt: skip


def cells(worlds: list[str], algos: list[str] | None, seeds: list[int]) -> list[Cell]:
    """One seed of everything before the next."""
    return [
        Cell(world, algo, seed, (*COMMON, *options))
        for seed in seeds
        for (world, algo), options in SETTINGS.items()
        if world in worlds and (algos is None or algo in algos)
    ]


def page(rows: Path) -> None:
    """results.csv, curves.png and README.md's table, of the cells that are there."""
    done = kept(rows)
    results, lines = [], ["| world | algorithm | known level | IQM | worst seed | seeds | frames | processor s a run |", "|---|---|---|---|---|---|---|---|"]
    failed = []
    for (world, algo), members in groups(done).items():
        value, low, high = interval(iqm, scores(members))
        level = LEVEL[world][algo]
        values = scores(members)[:, 0]
        failed += [f"{algo} on {world}, seed {one['seed']} ({v:.0f})" for one, v in zip(members, values, strict=True) if v < level]
        seconds = [one["processor_seconds"] for one in members if one["processor_seconds"]]
        frames = max(one["frames"] for one in members)
        mark = "reached" if value >= level else "**missed**"
        lines.append(
            f"| {world} | {algo} | {level} | {value:.0f} [{low:.0f}, {high:.0f}] {mark} | {min(values):.0f} | {len(members)} "
            f"| {frames:,} | {np.mean(seconds):.0f} (at most {max(seconds):.0f}) |"
        )
        episodes = sum(one["episodes"] for one in members)
        results.append(Row(world, "none", "1", 1, algo, "scratch", "", METRIC, value, low, high, episodes, len(members), frames))
    for world in dict.fromkeys(one["world"] for one in done):
        random = [one["random"][METRIC] for one in done if one["world"] == world]
        value, low, high = interval(iqm, np.array(random)[:, None])
        results.append(Row(world, "none", "", 1, "random", "random", "", METRIC, value, low, high, 20 * len(random), len(random), 0))
    write_csv(results, HERE / "results.csv")
    lines += ["", f"Of {len(done)} runs, below their level: {'; '.join(failed) or 'none'}."]
    replaced(HERE / "README.md", "table", lines)
    curves(done, HERE / "curves.png")


def curves(done: list[dict], path: Path) -> None:
    """IQM of the periodic evaluations, each seed thin beside it."""
    names = [world for world in LEVEL if any(one["world"] == world for one in done)]
    figure, axes = plt.subplots(1, max(len(names), 1), figsize=(5.5 * max(len(names), 1), 4), layout="constrained", squeeze=False)
    for ax, world in zip(axes[0], names, strict=False):
        for place, ((_, algo), members) in enumerate((key, m) for key, m in groups(done).items() if key[0] == world):
            for one in members:
                ax.plot(*zip(*one["curve"], strict=True), color=f"C{place}", linewidth=0.6, alpha=0.4)
            grid = np.linspace(max(one["curve"][0][0] for one in members), min(one["curve"][-1][0] for one in members), 20)
            lines = np.array([np.interp(grid, *np.array(one["curve"]).T) for one in members])
            ax.plot(grid, [iqm(lines[:, i, None]) for i in range(len(grid))], color=f"C{place}", label=f"{algo}, {len(members)} seeds")
        ax.set(title=world, xlabel="frames", ylabel="greedy return, 20 episodes")
        for level in sorted(set(LEVEL[world].values())):
            ax.axhline(level, color="0.4", linestyle="--", linewidth=0.8)
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
