"""All multi-agent algorithms on four worlds at equal frames: `python experiments/catalogue/run.py`.

Trains what has no file in rows/ yet, one seed of every cell before the next, then writes results.csv and README.md's
tables from all files. Stop it and start it again as you like, also twice at the same time. `--seeds 0 1 2`,
`--algos qmix mappo` and `--worlds native/spread` do a part; `--times 10` takes ten times the frames (rows-x10/, its own
page); `--only-page` trains nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import gcoord  # noqa: E402
from experiments.cells import (  # noqa: E402
    EPISODES,
    SEED,
    TEAMS,
    Cell,
    figures,
    groups,
    kept,
    replaced,
    scores,
    seconds,
    work,
)
from gcoord.checkpoint import whole_file  # noqa: E402
from gcoord.data.playing import random_actions  # noqa: E402
from gcoord.scaleup.comparison import interval, iqm  # noqa: E402
from gcoord.scaleup.protocol import scripted  # noqa: E402
from gcoord.scaleup.report import Row, write_csv  # noqa: E402

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class World:
    """frames of every run, size of the team, what is set for all algorithms, what is shown beside the return, and what
    values and actor-critics learn from their replay after every five steps of all teams."""

    frames: int
    size: int
    options: str
    second: str
    values: str = "source.batch=256 source.updates=3"
    actors: str = "source.batch=128 source.updates=2"


WORLDS = {
    "native/spread": World(40_000, 3, "algo.gamma=0.95", "success"),
    "native/target": World(24_000, 3, "algo.gamma=0.95", "success"),
    # What is sensed are ways in the plane: numbers of routers would have to be learnt by heart.
    # Every row holds 20 agents, hence fewer of them; with half as many frames actor-critics need more updates of each.
    "native/routing": World(
        20_000,
        20,
        "env.view=ways topology=given algo.gamma=0.98 model.normalise=true",
        "throughput",
        "source.batch=64 source.updates=3",
        "source.batch=64 source.updates=6",
    ),
    "native/skirmish": World(40_000, 3, "algo.gamma=0.99", "success"),
}

# How each family is trained; no mixer and no critic is there at execution.
REPLAYED = "num_envs=16 source.steps=5 source.bursts=25 source.warmup=2000 algo.tau=0.05 algo.lr=1e-3"
VALUES, ACTORS = REPLAYED + " {values}", REPLAYED + " {actors}"
ROLLOUTS = "num_envs=32 source.steps=25 source.epochs=8 source.minibatch=400 algo.entropy=0.01 algo.lr=1e-3"
# One pass over fresh data, as published, left COMA between -25 and -62 on native/spread: its critic has to lead.
COUNTERFACTUAL = (
    "num_envs=16 source.steps=20 source.epochs=4 algo.clip=0.2 algo.entropy=0.01 algo.lr=3e-3 +algo.lr_of.actor=5e-4"
)
ONE, TWO = "one round", "two rounds"


@dataclass(frozen=True)
class Algo:
    """How it is trained, what it learns with besides its policy, and what an agent must hear while it acts."""

    options: str
    learns_with: str
    hears: str = ONE


ALGOS = {
    "iql": Algo(VALUES, "nothing"),
    "vdn": Algo(VALUES, "a mixer"),
    "qmix": Algo(VALUES, "a mixer"),
    "qmix_paper": Algo(VALUES, "a mixer of N"),
    "qtran": Algo(VALUES, "a mixer"),
    "qatten": Algo(VALUES, "a mixer"),
    "qplex": Algo(VALUES, "a mixer"),
    "shaq": Algo(VALUES, "a mixer"),
    "dgn": Algo(VALUES, "nothing", TWO),
    "dgn_r": Algo(VALUES, "nothing", TWO),
    "dgn_m": Algo(VALUES, "nothing", TWO),
    "roma": Algo(VALUES, "a mixer"),
    "ippo": Algo(ROLLOUTS, "own critic"),
    "mappo": Algo(ROLLOUTS, "a central critic"),
    "coma": Algo(COUNTERFACTUAL, "a central critic"),
    "belief_ppo": Algo(ROLLOUTS, "own critic", f"{ONE}, and beliefs of whom it hears"),
    "iddpg": Algo(ACTORS, "own critic"),
    "maddpg": Algo(ACTORS, "a central critic"),
    "isac": Algo(ACTORS, "own critics"),
    "masac": Algo(ACTORS, "central critics"),
}


def cells(worlds: list[str], algos: list[str], seeds: list[int], times: int) -> list[Cell]:
    """One seed of everything before the next."""
    return [cell(world, algo, seed, times) for seed in seeds for algo in algos for world in worlds]


def cell(name: str, algo: str, seed: int, times: int) -> Cell:
    world, made = WORLDS[name], ALGOS[algo]
    frames = world.frames * times
    options = [
        f"n_agents={world.size} device=cpu threads=1 log.tensorboard=false frames={frames}",
        f"checkpoint_frames={frames // 4} evaluation.frames={frames // 4}",
        "evaluation.episodes=20 evaluation.num_envs=20",
        f"model.encoder.rounds={2 if made.hears is TWO else 1}",
        world.options,
        made.options.format(values=world.values, actors=world.actors),
    ]
    # Those with a temperature explore by themselves.
    if made.options in (VALUES, ACTORS) and algo not in ("isac", "masac"):
        options.append(f"algo.epsilon_frames={frames // 2}")
    return Cell(name, algo, seed, tuple(" ".join(options).split()))


def references(worlds: list[str], seeds: list[int], rows: Path) -> None:
    """Random and scripted teams, in the episodes that the trained ones are tested in."""
    rows.mkdir(parents=True, exist_ok=True)
    for name in worlds:
        size = WORLDS[name].size
        for seed in seeds:
            for algo in ("random", "script"):
                path = rows / f"{name.replace('/', '-')}-{algo}-{seed}.json"
                if path.exists():
                    continue
                env = gcoord.make_env(name, n_agents=size, num_envs=TEAMS, seed=SEED)
                act = scripted(env) if algo == "script" else random_actions(env.spec, SEED + seed)
                told: dict[str, Any] = {"world": name, "density": env.spec.density, "n_agents": size, "algo": algo}
                told |= {"seed": seed, "frames": 0, "episodes": EPISODES, "trained": figures(env, act, None, seed)}
                with whole_file(path) as aside:
                    aside.write_text(json.dumps(told) + "\n")


def page(rows: Path, results: Path, readme: Path) -> None:
    """results.csv and the tables of the page, of the cells that are there."""
    found = groups(kept(rows))
    tidy = []
    for (world, algo), members in found.items():
        first = members[0]
        mode = {"random": "random", "script": "scripted"}.get(algo, "scratch")
        sizes = (str(first["n_agents"]) if mode == "scratch" else "", first["n_agents"])
        for metric in first["trained"]:
            value, low, high = interval(iqm, scores(members, metric))
            counts = (sum(one["episodes"] for one in members), len(members), max(one["frames"] for one in members))
            tidy.append(Row(world, first["density"], *sizes, algo, mode, "", metric, value, low, high, *counts))
    write_csv(tidy, results)
    for world in WORLDS:
        if (world, "random") in found:
            replaced(readme, world, table(world, found))


def table(world: str, found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """One world's table, and which cells lack what."""
    second = WORLDS[world].second
    _, _, chance = interval(iqm, scores(found[world, "random"]))
    lines = [
        f"| algorithm | learns with | hears while acting | return per agent | {second} | seeds | processor s a run |",
        "|" + "---|" * 7,
    ]
    for algo in ("random", "script", *ALGOS):
        members = found.get((world, algo), [])
        if not members:
            continue
        value, low, high = interval(iqm, scores(members))
        width = f" [{low:.4g}, {high:.4g}]" if len(members) > 1 else ""
        mark = "" if algo in ("random", "script") or low > chance else " (not above random)"
        made = ALGOS.get(algo)
        lines.append(
            f"| {algo} | {made.learns_with if made else ''} | {made.hears if made else ''} | {value:.4g}{width}{mark} "
            f"| {iqm(scores(members, second)):.3g} | {len(members)} | {seconds(members)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--algos", nargs="+", default=list(ALGOS), choices=list(ALGOS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--times", type=int, default=1, help="times the frames")
    parser.add_argument("--runs", type=Path, default=HERE.parents[1] / "runs" / "catalogue", help="run folders")
    parser.add_argument("--only-page", action="store_true")
    given = parser.parse_args()
    more = "" if given.times == 1 else f"-x{given.times}"
    rows, runs = HERE / f"rows{more}", given.runs.with_name(f"{given.runs.name}{more}")
    if not given.only_page:
        references(given.worlds, given.seeds, rows)
        wanted = cells(given.worlds, given.algos, given.seeds, given.times)
        for one, how in work(wanted, rows, runs):
            print(f"{one.name}: {how}", flush=True)
    readme = HERE / f"README{more}.md"
    if not readme.exists():
        readme.write_text("\n".join(f"## {world}\n\n<!-- {world} -->\n<!-- /{world} -->\n" for world in WORLDS))
    page(rows, HERE / f"results{more}.csv", readme)


if __name__ == "__main__":
    main()
