"""Worlds at eight times the team: `python experiments/worlds_at_scale/run.py [world ...]`.

Of each world, trains small teams and, from scratch, teams of eight times their size, three seeds each, one plain
`python -m gcoord.train` a run in a folder under `--runs`; then plays both with `python -m gcoord.evaluate`, beside
random play and the world's script. What is finished is not done again, what was stopped goes on. Writes `results.csv`,
`scale.png` and the table of `README.md` from all worlds that are there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments import folders  # noqa: E402
from experiments.cells import number, replaced  # noqa: E402
from gcoord.scaleup.report import Row, plot, read_csv, write_csv  # noqa: E402

METRIC = "return_per_agent"
PPO = "algo.gamma=0.99 algo.lam=0.95"


@dataclass(frozen=True)
class World:
    """Options of `gcoord.train`; team sizes, the first trained on and the last trained from scratch as well;
    environment steps of both; changes of the large training; and episodes to play, so many at a time."""

    options: str
    sizes: tuple[int, ...]
    frames: int
    large_frames: int
    large: str = ""
    episodes: int = 100
    at_once: int = 50


WORLDS = {
    "native/target": World("algo=mappo", (3, 6, 12, 24), 90_000, 20_000, "num_envs=32"),
    "native/routing": World(
        "env.view=ways topology=given algo=mappo model.normalise=true num_envs=16 source.steps=50 source.minibatch=100 "
        "source.epochs=4",
        (20, 40, 80, 160),
        20_000,
        6_000,
        "num_envs=8 source.minibatch=50",
        episodes=16,
        at_once=8,
    ),
    "vmas/navigation": World("algo=mappo", (4, 8, 16, 32), 100_000, 50_000, "num_envs=32"),
    "magent/battle": World(
        "env.workers=0 env.max_cycles=200 env.attack_penalty=0 algo=mappo model.length=6 model.encoder.rounds=1 "
        "num_envs=16 source.steps=64 source.minibatch=256 source.epochs=3 algo.entropy=0.01",
        (6, 12, 24, 48),
        30_000,
        10_000,
        episodes=32,
        at_once=16,
    ),
    "native/waterworld": World(
        "algo=mappo model.normalise=true algo.head.std=0.6 algo.lr=1e-3 source.epochs=4 source.minibatch=1600",
        (2, 4, 8, 16),
        220_000,
        60_000,
        "num_envs=32",
        episodes=32,
        at_once=32,
    ),
    "native/prison": World(
        "algo=mappo memory=gru algo.critic_memory=true model.normalise=true model.length=300 model.encoder.rounds=1 "
        f"source.steps=151 source.minibatch=2416 {PPO}",
        (2, 4, 8, 16),
        250_000,
        100_000,
        "num_envs=32",
        episodes=32,
        at_once=32,
    ),
}


def run_of(name: str, large: bool, seed: int, runs: Path) -> Path:
    """A training, at the small or at the large size; its folder."""
    world = WORLDS[name]
    size, frames = (world.sizes[-1], world.large_frames) if large else (world.sizes[0], world.frames)
    folder = runs / name / ("large" if large else "small") / str(seed)
    judged = f"evaluation.episodes={world.at_once} evaluation.num_envs={world.at_once} evaluation.frames={frames // 4}"
    options = f"env={name} {world.options} {world.large if large else ''} n_agents={size} frames={frames} {judged}"
    folders.train(folder, f"{options} seed={seed} log.tensorboard=false device=cpu")
    return folder


def study(name: str, seeds: Sequence[int], runs: Path) -> None:
    """All of a world."""
    world = WORLDS[name]
    small, large = ([run_of(name, big, seed, runs) for seed in seeds] for big in (False, True))
    judged = f"episodes={world.episodes} num_envs={world.at_once} device=cpu processes=1"
    scratch = f"scratch.runs=[{folders.listed(large)}]"
    folders.sweep(small, world.sizes, runs / name / "scale", *judged.split(), scratch)


def gather(runs: Path) -> list[Row]:
    """Rows of the worlds that were played now and, of the others, those of before."""
    before = read_csv(HERE / "results.csv") if (HERE / "results.csv").exists() else []
    rows: list[Row] = []
    for name in WORLDS:
        path = runs / name / "scale" / "results.csv"
        rows += read_csv(path) if path.exists() else [row for row in before if row.world == name]
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """A line a world, at its largest team."""
    lines = [
        "| world | trained on | played at | random | script | from scratch | zero-shot | rho | share of the script |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row.world for row in rows):
        size = max(row.n_agents for row in rows if row.world == name)
        here = {(row.mode, row.metric): row for row in rows if (row.world, row.n_agents) == (name, size)}
        modes = ("random", "scripted", "scratch", "zero_shot")
        figures = [number(here.get((mode, METRIC))) for mode in modes]
        figures += [number(here.get(("zero_shot", metric))) for metric in ("retention", "retention_of_script")]
        trained = here["zero_shot", METRIC].train_n_agents
        lines.append(f"| {name} | {trained} | {size} | {' | '.join(figures)} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", choices=[*WORLDS, []], help="names as env= takes them; none: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/worlds_at_scale"))
    given = parser.parse_args()
    for one in given.worlds or WORLDS:
        study(one, given.seeds, given.runs.resolve())
        found = gather(given.runs.resolve())
        write_csv(found, HERE / "results.csv")
        plot(found, HERE / "scale.png", [METRIC])
        replaced(HERE / "README.md", "table", table(found))
