"""Which parts matter for teams that grow: `python experiments/ablation/run.py [part ...]`.

One thing at a time is changed in a plain MAPPO that learns a world in small teams: the kernel, sums for means, how many
rounds of messages, how many neighbours, the sizes trained on, what is left out while training. Every variant is trained
with the same frames and three seeds, then played at larger teams it has never seen. What is finished is not done
again, what was stopped goes on. Writes `results.csv`, `parts.png` and the tables of `README.md`.
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
from experiments.cells import number, replaced  # noqa: E402
from gcoord.scaleup.report import Row, read_csv, write_csv  # noqa: E402

METRIC = "return_per_agent"


@dataclass(frozen=True)
class World:
    """What all variants share; the size trained on and those played at."""

    options: str
    size: int
    sizes: tuple[int, ...]
    frames: int


WORLDS = {
    "native/target": World("algo=mappo", 3, (3, 12, 24), 60_000),
    "native/spread": World("algo=mappo algo.gamma=0.95 algo.lr=1e-3 source.steps=25", 3, (3, 6, 12), 120_000),
}
PLAIN = "plain"
# By name: what it changes, in the words of the tables, and how.
PARTS = {
    PLAIN: ("relation kernel, 2 rounds, all sizes one", ""),
    "mean": ("mean of neighbours for attention", "model=mean"),
    "sum": ("sum of neighbours for attention", "model=mean model.encoder.kernel.aggregation=sum"),
    "additive": ("additive attention (GATv2)", "model=additive"),
    "edge": ("messages from pairs, mean", "model=edge"),
    "gated": ("a gate on each edge", "model=gated"),
    "mlp": ("an MLP told the same neighbours", "model=mlp"),
    "rounds-1": ("1 round", "model.encoder.rounds=1"),
    "rounds-3": ("3 rounds", "model.encoder.rounds=3"),
    "k-1": ("1 neighbour heard", "topology=nearest topology.k=1"),
    "k-6": ("6 neighbours heard", "topology=nearest topology.k=6"),
    "sizes": ("trained on 2, 3 and 4", "n_agents=[2,3,4]"),
    "drop-agents": ("a fifth of the agents unheard", "dropout.agents=0.2"),
    "drop-messages": ("a fifth of the messages lost", "dropout.messages=0.2"),
}


def study(name: str, part: str, seeds: Sequence[int], runs: Path) -> None:
    """A variant in a world: trained with every seed, then played."""
    world = WORLDS[name]
    judged = f"evaluation.frames={world.frames // 4} evaluation.episodes=50 evaluation.num_envs=50"
    shared = f"env={name} n_agents={world.size} {world.options} {judged} log.tensorboard=false device=cpu"
    trained = [runs / name / part / str(seed) for seed in seeds]
    for seed, folder in zip(seeds, trained, strict=True):
        folders.train(folder, f"{shared} {PARTS[part][1]} seed={seed}", frames=world.frames)
    folders.sweep(trained, world.sizes, runs / name / part / "scale", "episodes=100", "device=cpu", "processes=1")


def gather(runs: Path) -> list[Row]:
    """Rows of what was played now and, of the rest, those of before; variants by their names."""
    before = read_csv(HERE / "results.csv") if (HERE / "results.csv").exists() else []
    rows: dict[tuple[object, ...], Row] = {}
    for name in WORLDS:
        for part in PARTS:
            path = runs / name / part / "scale" / "results.csv"
            found = [named(row, part) for row in read_csv(path)] if path.exists() else []
            for row in found or [row for row in before if row.world == name and row.method in (part, row.mode)]:
                # Random play and the script stand in every sweep.
                rows.setdefault((row.world, row.method, row.n_agents, row.metric), row)
    return list(rows.values())


def named(row: Row, part: str) -> Row:
    """The row with the name of its variant."""
    return dataclasses.replace(row, method=row.mode if row.mode in ("random", "scripted") else part)


def table(rows: Sequence[Row], world: str) -> list[str]:
    """Return per agent by size, variant by variant."""
    sizes = WORLDS[world].sizes
    here = {(row.method, row.n_agents): row for row in rows if (row.world, row.metric) == (world, METRIC)}
    lines = [f"| variant | {' | '.join(map(str, sizes))} |", "|---|" + "---|" * len(sizes)]
    for method in ("random", "scripted", *PARTS):
        if (method, sizes[0]) in here:
            told = PARTS[method][0] if method in PARTS else f"{method} play"
            lines.append(f"| {told} | {' | '.join(number(here[method, n], '.1f') for n in sizes)} |")
    return lines


def draw(rows: Sequence[Row]) -> None:
    """parts.png: a panel a world and size, variants below each other, the plain one's interval as a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    worlds = list(dict.fromkeys(row.world for row in rows))
    figure = Figure(figsize=(11, 4.2 * len(worlds)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for line, world in zip(figure.subplots(len(worlds), 3, squeeze=False, sharey="row"), worlds, strict=True):
        for ax, n in zip(line, WORLDS[world].sizes, strict=True):
            here = {row.method: row for row in rows if (row.world, row.n_agents, row.metric) == (world, n, METRIC)}
            names = [part for part in PARTS if part in here]
            for place, part in enumerate(names):
                row = here[part]
                ax.plot([row.ci_low, row.ci_high], [place, place], color="C0", linewidth=2)
                ax.plot(row.value, place, "o", color="C0", markersize=5)
            if PLAIN in here:
                ax.axvspan(here[PLAIN].ci_low, here[PLAIN].ci_high, color="C0", alpha=0.12, linewidth=0)
            if "scripted" in here:
                ax.axvline(here["scripted"].value, color="black", linestyle="--", linewidth=1.2)
            ax.set_yticks(range(len(names)), [PARTS[part][0] for part in names], fontsize=8)
            ax.invert_yaxis() if ax is line[0] else None
            ax.set_title(f"{world}, {n} agents", fontsize=9)
            ax.set_xlabel("return per agent (dashed: script)", fontsize=8)
            ax.grid(axis="x", alpha=0.3)
    figure.savefig(HERE / "parts.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="variants; none: all")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args()
    for one in given.worlds:
        for variant in given.parts or PARTS:
            study(one, variant, given.seeds, given.runs.resolve())
            found = gather(given.runs.resolve())
            write_csv(found, HERE / "results.csv")
            draw(found)
            replaced(HERE / "README.md", one, table(found, one))
