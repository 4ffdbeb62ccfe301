"""Spread: learnt in teams of 3, run at 3 to 24. `python experiments/spread/run.py`.

`python -m gcoord.record` keeps games of 3 in which the world's planner acts (`assigned`, which sees all); for every
seed `algo=bc` learns them. Then `python -m gcoord.evaluate` plays what was learnt, with messages and without, beside
random play and the claiming script; the planner, and policies that are given more exchanges of claims, are played here.
What is there is not made again. Writes `results.csv`, `scale.png` and the tables of `README.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from experiments import folders  # noqa: E402
from experiments.cells import replaced  # noqa: E402
from gcoord import load, make_env  # noqa: E402
from gcoord.data.playing import Act, acts, play  # noqa: E402
from gcoord.data.tallies import Keys  # noqa: E402
from gcoord.scaleup.playing import scripted  # noqa: E402
from gcoord.scaleup.report import Row, write_csv  # noqa: E402
from gcoord.scaleup.statistics import interval  # noqa: E402

LEARNT = 3
SIZES = {"arena": (3, 4, 5, 6, 12, 24), "fixed": (12, 24)}
EPISODES, SEED = {"arena": 300, "fixed": 100}, 1000
PATIENCE, PATIENT = 40, 60  # exchanges of claims, of those who are given more, and their episodes
RADII = (0.1, 0.2, 0.3, 0.5)  # at which the published code counts
WORLD = "env=native/spread env.density=arena"
MODEL = "topology=complete model.encoder.claims=2 model.encoder.claim_rounds=12 model.encoder.rounds=1"
JUDGED = "evaluation.episodes=200 evaluation.num_envs=200 log.tensorboard=false threads=1 device=cpu"
CLONE = "algo=bc source.minibatch=256 algo.lr=2e-3 algo.lr_end=0.02 evaluation.frames=150000"
# What is recorded: the planner, and the planner with a share of random actions, so that mistakes are met.
GAMES = ("policy=scripted", "policy=noisy epsilon=0.15")
# Published: landmarks occupied, https://arxiv.org/abs/2301.05334.
PAPER = {
    "TransfQMix, published, trained on 3": {3: 0.98, 4: 0.88, 5: 0.80, 6: 0.75},
    "TransfQMix, published, trained on 4": {3: 0.96, 4: 0.93, 5: 0.90, 6: 0.86},
}
NAMES = {"bc": "learnt with 3", "random": "random", "script": "claiming script", "assigned": "planner that sees all"}


def judge(density: str, runs: Sequence[Path], out: Path) -> list[Row]:
    """Greedy games of the runs, with messages and without."""
    episodes = EPISODES[density]
    options = f"episodes={episodes} num_envs={episodes} seed={SEED} processes=1 device=cpu env.density={density}"
    conditions = "conditions=[none,cut:1]" if density == "arena" else "conditions=[]"
    rows = folders.sweep(runs, SIZES[density], out, *options.split(), conditions)
    return [row if row.mode in ("random", "scripted") else dataclasses.replace(row, method="bc") for row in rows]


def rows_of(density: str, n: int, who: dict[str, Any], games: Sequence[dict[str, Tensor]]) -> list[Row]:
    """The figures of games that were played here, a dictionary a run."""
    given = {"world": "native/spread", "density": density, "n_agents": n}
    given |= {"train_n_agents": "", "condition": "", "frames": 0}
    rows = []
    for metric in games[0]:
        values = [game[metric].double().numpy() for game in games]
        found = interval(values if who["mode"] == "zero_shot" else [np.concatenate(values)])
        counts = {"episodes": sum(map(len, values)), "seeds": len(games) if who["mode"] == "zero_shot" else 1}
        numbers = dict(zip(("value", "ci_low", "ci_high"), found, strict=True))
        rows.append(Row(**{**given, **who, "metric": metric, **numbers, **counts}))
    return rows


def planner(density: str, seeds: int) -> list[Row]:
    """The planner in the games that the runs of a method meet."""
    rows, episodes = [], EPISODES[density]
    for n in SIZES[density]:
        env = make_env("native/spread", n_agents=n, num_envs=episodes, density=density)
        games = [play(env, scripted(env, "assigned"), None, episodes, SEED + i) for i in range(seeds)]
        rows += rows_of(density, n, {"method": "assigned", "mode": "scripted"}, games)
    return rows


def patient(density: str, trained: Sequence[Path], frames: int) -> list[Row]:
    """The runs with more exchanges of claims than they learnt with, where there are many to agree."""
    rows = []
    for n in (size for size in SIZES[density] if size >= 6):
        env = make_env("native/spread", n_agents=n, num_envs=PATIENT, density=density)
        games = []
        for i, folder in enumerate(trained):
            agent = load(folder).agent
            agent.body.encoder.claims.rounds = PATIENCE
            games.append(play(env, acts(agent), None, PATIENT, SEED + i))
        who = {"method": "bc", "mode": "zero_shot", "train_n_agents": str(LEARNT), "frames": frames}
        rows += rows_of(density, n, {**who, "condition": f"claim_rounds={PATIENCE}"}, games)
    return rows


def radii(trained: Sequence[Path], frames: int) -> list[Row]:
    """Landmarks with an agent within so much at the end, in the same square: of the planner, the script and runs."""
    rows = []
    for n in PAPER["TransfQMix, published, trained on 3"]:
        env: Any = make_env("native/spread", n_agents=n, num_envs=EPISODES["arena"], density="arena")
        for name in ("assigned", "scripted"):
            who = {"method": "script" if name == "scripted" else name, "mode": "scripted"}
            rows += rows_of("arena", n, who, [ends(env, scripted(env, name), SEED + i) for i in range(len(trained))])
        who = {"method": "bc", "mode": "zero_shot", "train_n_agents": str(LEARNT), "frames": frames}
        rows += rows_of("arena", n, who, [ends(env, acts(load(f).agent), SEED + i) for i, f in enumerate(trained)])
    return rows


@torch.no_grad()
def ends(env: Any, act: Act, seed: int) -> dict[str, Tensor]:
    """One episode of every team: the share of landmarks occupied at its end, by radius."""
    seen, keys = env.reset(seed), Keys(seed, env.spec.num_envs)
    for _ in range(env.spec.max_steps):
        seen, _ = env.step(act(seen, None, keys.take("cpu"))[0])
    gap = (seen.entity_position.unsqueeze(2) - seen.position.unsqueeze(1)).norm(dim=-1).amin(-1)
    return {f"within_{radius}": (gap < radius).float().mean(-1) for radius in RADII}


def gather(runs: Path, seeds: Sequence[int]) -> list[Row]:
    """All rows."""
    trained = [runs / "bc" / str(seed) for seed in seeds]
    rows = []
    for density in SIZES:
        rows += judge(density, trained, runs / "judged" / density)
        frames = max(row.frames for row in rows)
        rows += planner(density, len(seeds)) + patient(density, trained, frames)
    return rows + radii(trained, frames)


def label(row: Row) -> str:
    """How a row of the tables is called."""
    name = NAMES[row.method]
    if "claim_rounds" in row.condition:
        return f"{name}, {PATIENCE} exchanges"
    return f"{name}, messages cut" if "cut" in row.condition else name


def table(rows: Sequence[Row], metric: str) -> list[str]:
    """A figure over sizes, with its interval."""
    sizes = [(density, n) for density, numbers in SIZES.items() for n in numbers]
    heads = [f"{n}" if density == "arena" else f"{n}, square grown" for density, n in sizes]
    lines = [f"| {metric} | {' | '.join(heads)} |", "|---|" + "---|" * len(sizes)]
    if metric == "success":
        for name, figures in PAPER.items():
            lines.append(f"| {name} | {' | '.join(f'{figures[n]:.2f}' if n in figures else '-' for _, n in sizes)} |")
    named: dict[str, dict[tuple[str, int], Row]] = {}
    for row in rows:
        if row.metric == metric:
            named.setdefault(label(row), {})[row.density, row.n_agents] = row
    for name, cells in named.items():
        lines.append(f"| {name} | {' | '.join(number(cells.get(size)) for size in sizes)} |")
    return lines


def radius_table(rows: Sequence[Row]) -> list[str]:
    """Landmarks occupied in the same square, by what counts as that."""
    sizes = list(PAPER["TransfQMix, published, trained on 3"])
    lines = [f"| within | {' | '.join(map(str, sizes))} |", "|---|" + "---|" * len(sizes)]
    cells: dict[tuple[float, str], dict[int, float]] = {}
    for row in rows:
        if row.metric.startswith("within_"):
            cells.setdefault((float(row.metric[7:]), label(row)), {})[row.n_agents] = row.value
    for (radius, name), of_size in sorted(cells.items(), key=lambda cell: cell[0][0]):
        lines.append(f"| {radius}: {name} | {' | '.join(f'{of_size[n]:.2f}' for n in sizes)} |")
    return lines


def number(row: Row | None) -> str:
    if row is None:
        return "-"
    digits = 1 if abs(row.value) >= 10 else 2
    return f"{row.value:.{digits}f} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"


def draw(rows: Sequence[Row]) -> None:
    """scale.png: landmarks occupied over sizes; bands are intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, width_ratios=(3, 2))
    names = list(dict.fromkeys(label(row) for row in rows if row.mode != "random"))
    for ax, density in zip(panels, SIZES):
        for place, name in enumerate(names):
            cells = {r.n_agents: r for r in rows if (r.density, r.metric, label(r)) == (density, "success", name)}
            if not cells:
                continue
            at = sorted(cells)
            ax.plot(at, [cells[n].value for n in at], f"C{place}o-", markersize=4, label=name)
            bounds = [[getattr(cells[n], end) for n in at] for end in ("ci_low", "ci_high")]
            ax.fill_between(at, *bounds, color=f"C{place}", alpha=0.2)
        if density == "arena":
            figures = PAPER["TransfQMix, published, trained on 4"]
            ax.plot(list(figures), list(figures.values()), "k*", markersize=8, label="TransfQMix, published (4)")
            legend = ax.get_legend_handles_labels()
        ax.set_title("the same square" if density == "arena" else "square and time grow with the team")
        ax.set_xticks(SIZES[density])
        ax.set_xlabel(f"agents (learnt with {LEARNT})")
        ax.set_ylabel("landmarks occupied")
        ax.set_ylim(0, 1)
        ax.grid(alpha=0.3)
    figure.legend(*legend, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(HERE / "scale.png")


def write(rows: list[Row]) -> None:
    write_csv(rows, HERE / "results.csv")
    for metric in ("success", "return_per_agent", "collisions"):
        replaced(HERE / "README.md", metric, table(rows, metric))
    replaced(HERE / "README.md", "within", radius_table(rows))
    draw(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=1500, help="recorded of each kind")
    parser.add_argument("--frames", type=int, default=600_000, help="rows learnt from")
    parser.add_argument("--runs", type=Path, default=Path("runs/spread_claims"))
    given = parser.parse_args()
    folder = given.runs.resolve()
    games = folders.record(
        folder / "games",
        GAMES,
        "env=native/spread +env.density=arena script=assigned num_envs=300 "
        f"n_agents={LEARNT} episodes={given.episodes}",
    )
    shared = f"{WORLD} {CLONE} {MODEL} {JUDGED} n_agents={LEARNT} frames={given.frames} algo.lr_frames={given.frames}"
    for seed in given.seeds:
        folders.train(folder / "bc" / str(seed), f"{shared} dataset={games} seed={seed}")
    write(gather(folder, given.seeds))
