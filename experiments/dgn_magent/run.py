"""DGN's jungle and battle: learnt with 20, run with 20 and more. `python experiments/dgn_magent/run.py`.

For every task: `python -m gcoord.record` keeps games in which the world's script acts, and for every seed `algo=bc`
learns them and `algo=mappo` goes on from there by the world's own reward. Then `python -m gcoord.evaluate` plays both
beside random play and the script. What is there is not made again. Writes `results.csv` and the tables of `README.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments import folders  # noqa: E402
from experiments.cells import replaced  # noqa: E402
from gcoord.scaleup.report import Row, write_csv  # noqa: E402

LEARNT, SEED = 20, 1000
# Published: reward and attacks on fellows, or kills, deaths and their ratio; https://arxiv.org/abs/1810.09202.
PAPER = {
    "jungle": {
        "DGN, published": {
            20: {"reward": 0.70, "attacks_on_fellows": 0.91},
            50: {"reward": 0.67, "attacks_on_fellows": 0.91},
        },
        "mean field, published": {
            20: {"reward": 0.62, "attacks_on_fellows": 2.74},
            50: {"reward": 0.57, "attacks_on_fellows": 3.13},
        },
    },
    "battle": {
        "DGN, published, its own enemy": {20: {"reward": 0.91, "kills": 220, "deaths": 97, "kill_death_ratio": 2.27}},
        "mean field, published, its own enemy": {
            20: {"reward": 0.70, "kills": 193, "deaths": 92, "kill_death_ratio": 2.09}
        },
    },
}


@dataclass(frozen=True)
class Task:
    """A task: what is recorded, how it is learnt, method by method, what is measured, and at which sizes."""

    games: str
    methods: dict[str, str]
    measures: tuple[str, ...]
    sizes: tuple[int, ...]
    density: str
    episodes: int
    sampled: tuple[float, ...]  # shares of the actions, where it is judged


MODEL = "topology=nearest topology.k=3 model.length=5 model.encoder.rounds=1"
JUDGED = (
    "evaluation.frames=8000 evaluation.episodes=16 evaluation.num_envs=16 log.tensorboard=false threads=1 device=cpu"
)
CLONE = "algo=bc source.minibatch=64 algo.lr=1e-3 algo.lr_end=0.02"
TASKS = {
    "jungle": Task(
        games="+env.max_steps=60 episodes=96",
        methods={
            "bc": f"{CLONE} frames=24000 algo.lr_frames=24000 evaluation.epsilon=1",
        },
        measures=("reward", "attacks_on_fellows"),
        sizes=(20, 50),
        density="arena",
        episodes=16,
        # Who always does what seems best stands still before those in its way.
        sampled=(1.0, 0.3),
    ),
    "battle": Task(
        games="+env.max_steps=100 episodes=32",
        methods={
            "bc": f"{CLONE} frames=16000 algo.lr_frames=16000 evaluation.epsilon=1",
            "mappo": "algo=mappo num_envs=16 source.steps=30 source.minibatch=120 source.epochs=2 algo.lr=3e-4 "
            "algo.lr_end=0.05 algo.entropy=0.003 frames=15000 algo.lr_frames=15000 evaluation.epsilon=1",
        },
        measures=("reward", "kills", "deaths", "kill_death_ratio"),
        sizes=(20, 40),
        density="fixed",
        episodes=16,
        sampled=(0.1,),
    ),
}
NAMES = {"bc": "cloned from the script", "mappo": "cloned, then mappo"}


def learn(name: str, seeds: Sequence[int], folder: Path) -> None:
    """Games, clones and practised policies of a task."""
    task = TASKS[name]
    env = f"env=magent/dgn_{name}"
    games = folders.record(
        folder / "games",
        [task.games],
        f"{env} +env.density={task.density} n_agents={LEARNT} num_envs=16 policy=scripted",
    )
    shared = f"{env} env.density={task.density} env.workers=0 n_agents={LEARNT} {MODEL} {JUDGED}"
    for method, options in task.methods.items():
        for seed in seeds:
            start = f"dataset={games}" if method == "bc" else f"init_from={folder / 'bc' / str(seed)}"
            folders.train(folder / method / str(seed), f"{shared} {options} {start} seed={seed}")


def judge(name: str, method: str, runs: Sequence[Path], sampled: float, out: Path) -> list[Row]:
    """Games of a method's runs, a share of the actions sampled, and those of random play and the script."""
    task = TASKS[name]
    options = f"episodes={task.episodes} num_envs={task.episodes} epsilon={sampled} seed={SEED} device=cpu processes=1"
    return [
        row if row.mode in ("random", "scripted") else dataclasses.replace(row, method=method)
        for row in folders.sweep(runs, task.sizes, out, *options.split())
    ]


def gather(tasks: Sequence[str], seeds: Sequence[int], runs: Path) -> list[Row]:
    """All rows, of the runs that are there; random play and the script stand in every sweep."""
    rows: dict[tuple[str, ...], Row] = {}
    for name in tasks:
        for method in TASKS[name].methods:
            trained = [runs / name / method / str(seed) for seed in seeds]
            trained = [folder for folder in trained if folders.is_finished(folder)]
            for sampled in TASKS[name].sampled if trained else ():
                for row in judge(name, method, trained, sampled, runs / name / "judged" / f"{method}-{sampled}"):
                    rows.setdefault((row.world, label(row), str(row.n_agents), row.metric), row)
    return list(rows.values())


def label(row: Row) -> str:
    """How a row of the tables is called."""
    if row.mode in ("random", "scripted"):
        return row.mode
    return f"{NAMES[row.method]}, {float(row.condition.partition('=')[2]):.0%} sampled"


def table(rows: Sequence[Row], name: str) -> list[str]:
    """Every figure of a task at every size, with its interval."""
    task = TASKS[name]
    columns = [(n, metric) for n in task.sizes for metric in task.measures]
    heads = [f"{metric.replace('_', ' ')}, {n}" for n, metric in columns]
    lines = [f"| {name} | {' | '.join(heads)} |", "|---|" + "---|" * len(columns)]
    for paper, figures in PAPER[name].items():
        cells = [figures.get(n, {}).get(metric) for n, metric in columns]
        lines.append(f"| {paper} | {' | '.join('-' if x is None else f'{x:g}' for x in cells)} |")
    found: dict[str, dict[tuple[int, str], Row]] = {}
    for row in rows:
        if row.world == f"magent/dgn_{name}":
            found.setdefault(label(row), {})[row.n_agents, row.metric] = row
    for name_of, cells_of in found.items():
        lines.append(f"| {name_of} | {' | '.join(number(cells_of[column]) for column in columns)} |")
    return lines


def number(row: Row) -> str:
    digits = 0 if abs(row.value) >= 10 else 2
    return f"{row.value:.{digits}f} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"


def write(rows: list[Row]) -> None:
    write_csv(rows, HERE / "results.csv")
    for name in TASKS:
        replaced(HERE / "README.md", name, table(rows, name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/dgn_magent"))
    given = parser.parse_args()
    runs = given.runs.resolve()
    for task in given.tasks:
        learn(task, given.seeds, runs / task)
    write(gather(given.tasks, given.seeds, runs))
