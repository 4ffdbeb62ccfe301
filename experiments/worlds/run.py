"""Learning seen in every world: `python experiments/worlds/run.py [world ...]` trains, judges and draws what lacks.

A cell is a world with its method and a seed: one plain `python -m gcoord.train` with the overrides of `WORLDS`, in a
folder of its own under `--runs`. A finished cell is not trained again, one that was stopped goes on from where it was
saved. Once all seeds of a world are there, `python -m gcoord.evaluate` plays their best policies on fresh seeds beside
the random policy and the script at the same team size. Whatever is there by then is written: `results.csv`,
`curves.csv` (the training curves, in the same schema), `curves.png`, and the table in `README.md`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from experiments import folders  # noqa: E402
from gcoord.scaleup.report import Row, read_csv, write_csv  # noqa: E402
from gcoord.scaleup.statistics import interval  # noqa: E402

METRIC = "return_per_agent"
POINTS = 40  # of a curve
EXPLORING = "while training"  # condition of the curves' rows: actions are sampled, or partly random
MARKS = ("<!-- table -->", "<!-- end of table -->")
PPO = "algo.gamma=0.99 algo.lam=0.95"


@dataclass(frozen=True)
class World:
    """How a world is learnt: overrides of `gcoord.train`; in how many episodes, so many at a time, it is judged; and
    its name for `env=` where it is called otherwise here."""

    options: str
    episodes: int = 100
    at_once: int = 50
    env: str | None = None


WORLDS = {
    "native/target": World("algo=mappo n_agents=3 frames=90000 evaluation.frames=30000"),
    # Lengths are in pixels, and who walks has to remember which wall it came from, as has who values it.
    "native/prison": World(
        "algo=mappo memory=gru algo.critic_memory=true model.normalise=true model.length=300 model.encoder.rounds=1 "
        f"n_agents=2 frames=250000 source.steps=151 source.minibatch=2416 evaluation.frames=50000 {PPO}"
    ),
    "native/skirmish": World(f"algo=mappo n_agents=3 frames=120000 evaluation.frames=40000 algo.entropy=0.01 {PPO}"),
    # Rays mostly meet nothing, so that what they meet is little until it is normalised; thrust costs, also at random.
    "native/waterworld": World(
        "algo=mappo model.normalise=true algo.head.std=0.6 algo.lr=1e-3 n_agents=2 frames=220000 source.epochs=4 "
        "source.minibatch=1600 evaluation.frames=55000",
        episodes=32,
        at_once=32,
    ),
    # The greedy policy gets stuck where sampling goes on: a tenth of the actions are drawn when it is judged.
    "native/mapf": World(
        "env.view=vector env.available=true algo=mappo model.normalise=true model.length=5 n_agents=4 frames=150000 "
        "source.epochs=4 algo.gamma=0.98 algo.lam=0.93 algo.entropy=0.005 algo.lr_frames=150000 "
        "evaluation.frames=37500 evaluation.epsilon=0.1"
    ),
    # What is sensed are ways in the plane: numbers of routers would have to be learnt by heart.
    "native/routing": World(
        "env.density=arena env.view=ways topology=given algo=mappo model.normalise=true n_agents=20 num_envs=16 "
        "frames=20000 source.steps=50 source.minibatch=100 source.epochs=4 evaluation.frames=5000",
        episodes=32,
        at_once=16,
    ),
    "complex_speaker_listener": World(
        "env.scenario=experiments.complex_speaker_listener.scenario:Scenario env.continuous=false algo=mappo "
        "topology=complete model.encoder.dim=32 model.encoder.heads=4 n_agents=4 num_envs=64 frames=100000 "
        "source.steps=25 source.minibatch=256 source.epochs=4 algo.entropy=0.005 evaluation.frames=50000",
        env="vmas/custom",
    ),
    # Half of one's own reward would be how far the other goes astray: the team's pays for one's own way twice as much.
    "mpe/simple_reference": World(
        "env.workers=0 env.local_ratio=0 algo=mappo model=edge model.normalise=true topology=complete num_envs=64 "
        "frames=300000 source.steps=25 source.minibatch=400 source.epochs=4 algo.lr=1e-3 algo.gamma=0.9 "
        "evaluation.frames=100000"
    ),
    # Where attacks cost something, not to attack is learnt first, and then nothing else.
    "magent/battle": World(
        "env.workers=0 env.max_cycles=200 env.attack_penalty=0 algo=mappo model.length=6 model.encoder.rounds=1 "
        "n_agents=6 num_envs=16 frames=30000 source.steps=64 source.minibatch=256 source.epochs=3 algo.entropy=0.01 "
        "evaluation.frames=10000",
        episodes=32,
        at_once=16,
    ),
    # Judged by samples, as it learns: the mode of a policy that is still this undecided stands there shooting.
    "butterfly/knights_archers_zombies": World(
        "env.workers=0 algo=mappo model=edge topology=complete model.length=4 model.encoder.dim=32 "
        "model.encoder.rounds=1 n_agents=4 num_envs=32 frames=40000 source.steps=64 source.minibatch=256 "
        f"source.epochs=4 algo.lr=1e-3 algo.entropy=0.005 evaluation.frames=20000 evaluation.epsilon=1 {PPO}",
        episodes=32,
        at_once=16,
    ),
    "butterfly/pistonball": World(
        "env.workers=0 env.view=vector algo=mappo n_agents=8 num_envs=8 frames=14000 source.steps=125 "
        f"source.minibatch=500 evaluation.frames=3500 {PPO}",
        episodes=32,
        at_once=8,
    ),
    "sisl/multiwalker": World(
        "env.workers=0 algo=mappo model.encoder.rounds=1 model.normalise=true algo.clip_value=false algo.lr=5e-4 "
        "n_agents=3 num_envs=16 frames=50000 source.steps=128 source.minibatch=512 source.epochs=6 "
        f"evaluation.frames=17000 {PPO}",
        episodes=16,
        at_once=8,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run: a world and a seed, and its folder."""

    world: str
    seed: int
    folder: Path

    @property
    def is_finished(self) -> bool:
        return folders.is_finished(self.folder)

    def train(self, seconds: float | None) -> None:
        """Trains it to its end, or goes on where a checkpoint is; stops with one after so many seconds."""
        plan = WORLDS[self.world]
        judged = f"evaluation.episodes={plan.at_once} evaluation.num_envs={plan.at_once}"
        options = (
            f"env={plan.env or self.world} seed={self.seed} {judged} log.tensorboard=false device=cpu {plan.options}"
        )
        folders.train(self.folder, options, seconds)


def judge(world: str, cells: list[Cell], out: Path) -> None:
    """results.csv of a world's cells, all seeds together, at the team size they were trained on, unless it is there."""
    if (out / "results.csv").exists() and seeds_of(read_csv(out / "results.csv")) == len(cells):
        return
    plan = WORLDS[world]
    size = json.loads((cells[0].folder / "summary.json").read_text())["sizes"][0]
    episodes = f"episodes={plan.episodes} num_envs={plan.at_once}"
    folders.sweep([cell.folder for cell in cells], [size], out, *episodes.split(), "device=cpu")


def curve(cells: list[Cell], like: Row) -> list[Row]:
    """The return while training at `POINTS` frames: mean and interval over seeds, in rows like the trained policy's."""
    runs = []
    for cell in cells:
        with open(cell.folder / "metrics.csv", newline="") as file:
            rounds = [(float(r["frames"]), float(r[METRIC])) for r in csv.DictReader(file) if r.get(METRIC)]
        # As many stretches as points, each with its mean; rounds in which no episode ended are bridged.
        parts = np.array_split(np.array(rounds), min(POINTS, len(rounds)))
        runs.append(np.array([part.mean(axis=0) for part in parts]).T)
    first, last = max(frames[0] for frames, _ in runs), min(frames[-1] for frames, _ in runs)
    rows = []
    for x in np.linspace(first, last, POINTS):
        values = [np.interp(x, *run) for run in runs]
        value, low, high = interval([np.array([v]) for v in values])
        fields = {"value": value, "ci_low": low, "ci_high": high, "frames": round(x), "condition": EXPLORING}
        rows.append(Row(**{**vars(like), **fields, "episodes": 0, "seeds": len(runs)}))
    return rows


def main(worlds: list[str], seeds: list[int], runs: Path, train: bool, seconds: float | None) -> None:
    until = None if seconds is None else time.monotonic() + seconds
    for world in worlds if train else []:
        for cell in (Cell(world, seed, runs / world / str(seed)) for seed in seeds):
            if not cell.is_finished:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    sys.exit(130)
                cell.train(left)
        judge(world, finished(world, runs), runs / world)
        gather(runs)
    gather(runs)


def seeds_of(rows: list[Row]) -> int:
    """Of how many runs the trained policy's rows are."""
    return max(row.seeds for row in rows if row.mode == "zero_shot")


def finished(world: str, runs: Path) -> list[Cell]:
    """The cells of a world that are trained to their end, by seed."""
    cells = [Cell(world, int(path.name), path) for path in (runs / world).glob("[0-9]*")]
    return sorted((cell for cell in cells if cell.is_finished), key=lambda cell: cell.seed)


def gather(runs: Path) -> None:
    """Everything that is written, from the worlds judged under `runs` and, of others, what was written before."""
    results, curves = (
        [row for row in read_csv(path) if row.world in WORLDS] if path.exists() else []
        for path in (HERE / "results.csv", HERE / "curves.csv")
    )
    for world in WORLDS:
        if (path := runs / world / "results.csv").exists():
            fresh = [dataclasses.replace(row, world=world) for row in read_csv(path)]
            results = [row for row in results if row.world != world] + fresh
            (like,) = [row for row in fresh if row.mode == "zero_shot" and row.metric == METRIC]
            curves = [row for row in curves if row.world != world] + curve(finished(world, runs), like)
    order = list(WORLDS)
    results.sort(key=lambda row: order.index(row.world))
    curves.sort(key=lambda row: order.index(row.world))
    write_csv(results, HERE / "results.csv")
    write_csv(curves, HERE / "curves.csv")
    draw(results, curves)
    page = HERE / "README.md"
    text = page.read_text() if page.exists() else "\n".join(MARKS)
    before, rest = text.split(MARKS[0])
    page.write_text(before + MARKS[0] + "\n" + table(results) + MARKS[1] + rest.split(MARKS[1])[1])


def table(results: list[Row]) -> str:
    """The returns as a Markdown table."""
    lines = ["| world | agents | method | frames | random | trained | scripted |", "|---|---|---|---|---|---|---|"]
    for world in dict.fromkeys(row.world for row in results):
        rows = {row.mode: row for row in results if row.world == world and row.metric == METRIC}
        trained, script = rows["zero_shot"], rows.get("scripted")
        figures = [number(rows["random"]), number(trained), number(script) if script else ""]
        lines.append(
            f"| {world} | {trained.n_agents} | {trained.method} | {trained.frames:,} | {' | '.join(figures)} |"
        )
    return "\n".join(lines) + "\n"


def number(row: Row) -> str:
    """A value with its interval, to three digits."""
    return f"{row.value:.3g} [{row.ci_low:.3g}, {row.ci_high:.3g}]"


def draw(results: list[Row], curves: list[Row]) -> None:
    """curves.png: a panel a world, the interval over seeds as a band, random and script as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    worlds = list(dict.fromkeys(row.world for row in curves))
    across = min(len(worlds), 4)
    down = -(-len(worlds) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(3.6 * across, 2.7 * down + 0.4), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(worlds) :]:
        ax.set_axis_off()
    for ax, world in zip(axes.flat, worlds, strict=False):
        rows = [row for row in curves if row.world == world]
        frames = [row.frames / 1000 for row in rows]
        ax.fill_between(
            frames, [r.ci_low for r in rows], [r.ci_high for r in rows], alpha=0.25, color="C0", linewidth=0
        )
        ax.plot(frames, [row.value for row in rows], color="C0", label="while training")
        figures = {row.mode: row for row in results if row.world == world and row.metric == METRIC}
        best = figures["zero_shot"]
        ax.errorbar(
            [frames[-1] * 1.04],
            [best.value],
            yerr=[[best.value - best.ci_low], [best.ci_high - best.value]],
            fmt="o",
            color="C3",
            markersize=4,
            capsize=3,
            label="best policy, greedy, fresh seeds",
        )
        for mode, color, style in (("random", "0.4", ":"), ("scripted", "black", "--")):
            if mode in figures:
                ax.axhline(figures[mode].value, color=color, linestyle=style, linewidth=1.4, label=mode)
        seeds = f"{rows[0].seeds} seed{'s' if rows[0].seeds > 1 else ''}"
        ax.set_title(f"{world}\n{best.n_agents} agents, {best.method}, {seeds}", fontsize=9)
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
        ax.set_xlabel("thousand frames", fontsize=8)
    figure.supylabel("return per agent", fontsize=10)
    handles = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=across, frameon=False, fontsize=9)
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", choices=[*WORLDS, []], help="names as env= takes them; none: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/worlds"))
    parser.add_argument("--draw", action="store_true", help="train nothing, write from what is there")
    parser.add_argument(
        "--seconds", type=float, help="stop, with a checkpoint, after so many; the same command goes on"
    )
    given = parser.parse_args()
    main(given.worlds or list(WORLDS), given.seeds, given.runs.resolve(), not given.draw, given.seconds)
