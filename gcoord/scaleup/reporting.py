"""Everything that lies beside results.csv for people: report.html and its pictures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gcoord.envs.cards import Card
from gcoord.envs.team import TeamEnv
from gcoord.models.agent import Agent
from gcoord.scaleup import pictures
from gcoord.scaleup.curves import curves
from gcoord.scaleup.facts import facts
from gcoord.scaleup.film import scenes
from gcoord.scaleup.page import write_page
from gcoord.scaleup.replay import replay
from gcoord.scaleup.report import Row

ROWS = 200  # steps of an episode that a replay shows at most


def write_report(
    folder: Path,
    rows: Sequence[Row],
    lines: Sequence[Mapping[str, Any]] = (),
    replays: Sequence[Any] = (),
    runs: Sequence[Path] = (),
    failures: Sequence[str] = (),
    grows: str = "",
    seconds: float | None = None,
) -> list[str]:
    """Writes report.html and, where there is something to draw, matrix.png, tuning.png and communication.png;
    gives their names.

    Arguments:
        rows: of a sweep. lines: of its curves.csv. replays: of `episode`.
        runs: folders behind it. failures: what came to nothing, in words. grows: how the world grows.
        seconds: the sweep took.
    """
    told = facts(rows, runs, grows, seconds)
    if failures:
        told["Parts of the sweep that failed"] = "; ".join(failures)
    trained = curves(lines)
    write_page(folder / "report.html", rows, replays, told, curves=trained)
    drawn = {
        "matrix.png": pictures.matrix(rows, folder / "matrix.png"),
        "tuning.png": pictures.tuning(trained, folder / "tuning.png"),
        "communication.png": pictures.communication(rows, folder / "communication.png"),
    }
    return ["report.html", *(name for name, there in drawn.items() if there)]


def episode(make: Callable[[], TeamEnv], agent: Agent, seed: int, method: str) -> Any:
    """The replay of a greedy episode in the world that `make` gives, which is closed again."""
    env = make()
    try:
        shots = list(scenes(env, agent, seed, ROWS))
        told = replay(shots, env.spec.n_agents, env.spec.kinds)
        limit = env.spec.max_steps
    finally:
        env.close()
    told["title"] = f"{told['n']} agents"
    told["of"] = f"{method}, worlds of seed {seed}"
    if len(shots) == ROWS and (limit is None or limit >= ROWS):
        told["of"] += f"; the first {ROWS} steps"
    return told


def how_it_grows(env: DictConfig, world: str) -> str:
    """What a world's card says of how it grows with the team, nothing where it has no card."""
    module = importlib.import_module(str(env.get("_target_")).rpartition(".")[0])
    card = getattr(module, "CARDS", {}).get(world)
    return card.arena if isinstance(card, Card) else ""
