"""DGN's routing: trained with 20 packets, run with 20, 40 and 60. `python experiments/dgn_routing/run.py`.

Trains every method of `METHODS` with every seed on the published network, one plain `python -m gcoord.train` a run in
a folder under `--runs`; then plays the policies with `python -m gcoord.evaluate` there and, those of the first method,
on other networks, beside random play, shortest paths, quickest ways, and a script that looks at loads (`scripted`,
`fastest` and `detouring` of `native/routing`). A finished run is not trained again, one that was stopped goes on from
its checkpoint, and games that were played are there. Writes `results.csv`, `scale.png` and the tables of `README.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from experiments import folders  # noqa: E402
from experiments.cells import replaced  # noqa: E402
from gcoord import make_env  # noqa: E402
from gcoord.data.playing import Act, play  # noqa: E402
from gcoord.scaleup.report import Row, write_csv  # noqa: E402
from gcoord.scaleup.statistics import interval  # noqa: E402
from gcoord.trajectory import Observation  # noqa: E402

SIZES = (20, 40, 60)
STEPS, LONG = 300, 1000  # of a game, and of one in which the network fills
PUBLISHED = 476  # the seed whose network the published figures are of
NETWORKS = (PUBLISHED, 1, 2, 3, 4)
EPISODES = 32  # a run and size
SEED = 1000  # of the games; the i-th run of a method meets those of SEED + i
TRAIN = (
    "env=native/routing env.density=arena env.view=tables n_agents=20 num_envs=32 topology=given topology.k=3 "
    "model.normalise=true model.encoder.dim=32 model.encoder.heads=4 algo=mappo algo.gamma=0.96 algo.lam=0.8 "
    "algo.entropy=0.05 source.steps=50 source.epochs=5 source.minibatch=100 evaluation.frames=20000 "
    "evaluation.episodes=32 evaluation.num_envs=32 log.tensorboard=false device=cpu"
)
METHODS = {
    "mappo relation": "model=relation model.encoder.rounds=1",
    "mappo mean": "model=mean model.encoder.rounds=1",
    "mappo alone": "model=relation model.encoder.rounds=0",
}
MEASURES = ("reward", "delay", "throughput")
# https://arxiv.org/abs/1810.09202: reward, delay, throughput.
PAPER: dict[str, dict[int, tuple[float | None, ...]]] = {
    "shortest paths, published": {20: (None, 8.7, 2.30), 40: (None, 13.7, 2.91), 60: (None, 14.7, 4.08)},
    "DGN, published": {20: (1.23, 8.0, 2.50), 40: (0.86, 9.8, 4.08), 60: (0.73, 12.6, 4.76)},
}
SCRIPTS = {
    "script": "shortest paths",
    "fastest": "quickest ways, whatever the loads",
    "detouring": "script that looks at loads",
}


def train(method: str, seed: int, frames: int, folder: Path) -> None:
    """A run, unless it is there; one that was stopped, or had fewer frames, goes on."""
    folders.train(folder, f"{TRAIN} env.network={PUBLISHED} {METHODS[method]} seed={seed}", frames=frames)


def judge(method: str, network: int, runs: Sequence[Path], out: Path) -> list[Row]:
    """Greedy games of a method's runs on a network, with messages and without."""
    conditions = "none,cut:1" if method != "mappo alone" and network == PUBLISHED else ""
    rows = folders.sweep(
        runs,
        SIZES,
        out,
        f"episodes={EPISODES}",
        f"num_envs={EPISODES}",
        f"seed={SEED}",
        "device=cpu",
        "processes=1",
        f"+env.network={network}",
        f"conditions=[{conditions}]",
    )
    return [
        dataclasses.replace(
            row,
            method=row.method if row.mode in ("random", "scripted") else method,
            condition=condition_of(network, row.condition),
        )
        for row in rows
    ]


def condition_of(network: int, changed: str = "") -> str:
    """Of a row: the network, which a sweep names only where it is not the one trained on, and what else was changed."""
    others = [word for word in changed.split() if word != f"env.network={network}"]
    return " ".join([f"network={network}", *others])


def script(network: int, name: str, runs: int, steps: int = STEPS) -> list[Row]:
    """A script of the world, `scripted` or `detouring`, in the games that the runs of a method meet."""
    condition = condition_of(network, "" if steps == STEPS else f"steps={steps}")
    rows = []
    for n in SIZES:
        options = {"density": "arena", "network": network, "view": "tables", "max_steps": steps}
        env: Any = make_env("native/routing", n_agents=n, num_envs=EPISODES, **options)
        games = [play(env, acting(getattr(env, name)), None, EPISODES, SEED + i) for i in range(runs)]
        for metric in games[0]:
            found = interval([torch.cat([game[metric] for game in games]).double().numpy()])
            method = "script" if name == "scripted" else name
            fields = ("native/routing", "arena", "", n, method, "scripted", condition, metric)
            rows.append(Row(*fields, *found, EPISODES * runs, 1, 0))
    return rows


def acting(chooses: Callable[[Observation], Tensor]) -> Act:
    """A script as `play` asks for it."""
    return lambda seen, memory, key: (chooses(seen), memory)


def with_reward(rows: list[Row], steps: int = STEPS) -> list[Row]:
    """Adds the published measure, the mean reward of a packet and step."""
    returns = [row for row in rows if row.metric == "return_per_agent"]
    numbers = [{name: getattr(row, name) / steps for name in ("value", "ci_low", "ci_high")} for row in returns]
    return rows + [dataclasses.replace(row, metric="reward", **number) for row, number in zip(returns, numbers)]


def gather(runs: Path, methods: Sequence[str], networks: Sequence[int], seeds: Sequence[int]) -> list[Row]:
    """All rows; other networks are for the first method, what its parts are worth is asked where it was trained."""
    rows: dict[tuple[str, ...], Row] = {}
    for network in networks:
        found = [row for name in ("fastest", "detouring") for row in with_reward(script(network, name, len(seeds)))]
        if network == PUBLISHED:
            found += with_reward(script(network, "scripted", len(seeds), LONG), LONG)
        for method in methods if network == PUBLISHED else methods[:1]:
            name = method.replace(" ", "-")
            trained = [runs / name / str(seed) for seed in seeds]
            found += with_reward(judge(method, network, trained, runs / "judged" / f"{name}-{network}"))
        for row in found:
            # Random play and shortest paths stand in every sweep.
            rows.setdefault((row.method, row.mode, row.condition, str(row.n_agents), row.metric), row)
    return list(rows.values())


def label(row: Row) -> str:
    """How a row of the tables is called."""
    learnt = f"{row.method}, {row.frames / 1000:.0f},000 frames with 20"
    name = row.mode if row.mode == "random" else SCRIPTS.get(row.method, learnt)
    changed = row.condition.partition(" ")[2]
    return name + {"": "", "cut=1": ", messages cut"}.get(changed, f", games of {changed.partition('=')[2]} steps")


def table(rows: Sequence[Row], network: int) -> list[str]:
    """Reward / delay / throughput over sizes, with half of each interval's width."""
    lines = [f"| network {network} | {' | '.join(map(str, SIZES))} |", "|---|" + "---|" * len(SIZES)]
    if network == PUBLISHED:
        for name, figures in PAPER.items():
            cells = [" / ".join("-" if x is None else f"{x:g}" for x in figures[n]) for n in SIZES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, of_size in by_label(rows, network).items():
        cells = [" / ".join(number(of_size[n][metric]) for metric in MEASURES) for n in SIZES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def by_label(rows: Sequence[Row], network: int) -> dict[str, dict[int, dict[str, Row]]]:
    """Rows of a network: label, size, metric."""
    found: dict[str, dict[int, dict[str, Row]]] = {}
    for row in rows:
        if row.condition.split(" ")[0] == condition_of(network):
            found.setdefault(label(row), {}).setdefault(row.n_agents, {})[row.metric] = row
    return found


def number(row: Row) -> str:
    digits = 1 if row.metric == "delay" else 2
    return f"{row.value:.{digits}f} ± {max((row.ci_high - row.ci_low) / 2, 0.5 * 10**-digits):.{digits}f}"


def draw(rows: Sequence[Row]) -> None:
    """scale.png: a panel a measure, on the published network; bands are intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for k, (ax, metric) in enumerate(zip(figure.subplots(1, len(MEASURES)), MEASURES)):
        labelled = by_label([row for row in rows if row.condition == condition_of(PUBLISHED)], PUBLISHED)
        for place, name in enumerate(name for name in labelled if name != "random"):
            cells = [labelled[name][n][metric] for n in SIZES]
            ax.plot(SIZES, [row.value for row in cells], f"C{place}o-", markersize=4, label=name)
            ax.fill_between(
                SIZES, [row.ci_low for row in cells], [row.ci_high for row in cells], color=f"C{place}", alpha=0.2
            )
        ax.plot(SIZES, [PAPER["DGN, published"][n][k] for n in SIZES], "k*", markersize=9, label="DGN, published")
        ax.set_xticks(SIZES)
        ax.set_xlabel("packets (trained on 20)")
        ax.set_ylabel(metric)
        ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(HERE / "scale.png")


def write(rows: list[Row]) -> None:
    write_csv(rows, HERE / "results.csv")
    networks = list(dict.fromkeys(int(row.condition.split(" ")[0].partition("=")[2]) for row in rows))
    replaced(HERE / "README.md", "published network", table(rows, PUBLISHED))
    others = [line for network in networks if network != PUBLISHED for line in ["", *table(rows, network)]]
    replaced(HERE / "README.md", "other networks", others)
    draw(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--networks", type=int, nargs="+", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=80_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/dgn_routing"))
    given = parser.parse_args()
    folder = given.runs.resolve()
    for one in given.methods:
        for number_of in given.seeds:
            train(one, number_of, given.frames, folder / one.replace(" ", "-") / str(number_of))
    write(gather(folder, given.methods, given.networks, given.seeds))
