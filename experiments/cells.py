"""Cells of a study: runs of `gcoord.train`, each kept as one small JSON file that is committed.

A cell that has its file is not run again (unless its options have changed since), one that was cut short goes on from
its checkpoint, and several processes of the same command share the cells among them.
"""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gcoord
from gcoord import conf
from gcoord.checkpoint import whole_file
from gcoord.command import run_command
from gcoord.data.playing import Act, acts, play
from gcoord.envs.team import TeamEnv
from gcoord.run_folder import read_config
from gcoord.scaleup.report import Row
from gcoord.train import train, validate

METRIC = "return_per_agent"
STOPPED = "stopped"
# Episodes that neither training nor the choice of the best checkpoint has seen.
EPISODES, TEAMS, SEED = 100, 50, 30_000_001


@dataclass(frozen=True)
class Cell:
    """One training: an algorithm in a world with a seed, and the options of `gcoord.train` besides."""

    world: str
    algo: str
    seed: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.world.replace('/', '-')}-{self.algo}-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        return [f"env={self.world}", f"algo={self.algo}", f"seed={self.seed}", *self.options]


def work(cells: Iterable[Cell], rows: Path, runs: Path) -> Iterator[tuple[Cell, str]]:
    """Trains what has no file in `rows` yet, run folders in `runs`; yields every cell tried and how it went. Ctrl-C or
    a termination saves the cell at work and ends it all."""
    rows.mkdir(parents=True, exist_ok=True)
    runs.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        with claimed(runs / f"{cell.name}.lock") as mine:
            if mine and not is_kept(cell, rows / f"{cell.name}.json"):
                how = run(cell, rows, runs / cell.name)
                yield cell, how
                if how == STOPPED:
                    return


def is_kept(cell: Cell, path: Path) -> bool:
    """Whether there is a file of this cell with these options."""
    return path.exists() and sorted(json.loads(path.read_text())["options"]) == sorted(cell.options)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process has the file to itself; the system lets go of it when the process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def run(cell: Cell, rows: Path, folder: Path) -> str:
    """Runs one cell to its end and writes its file: done, stopped, or failed (why stands above)."""
    told = folder.with_name(f"{cell.name}.options")
    options = " ".join(cell.overrides)
    resumed = (folder / "checkpoints" / "last").exists() and told.exists() and told.read_text() == options
    overrides = [*cell.overrides, f"run_dir={folder}"]
    if resumed:
        overrides = [f"resume={folder}"]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        told.write_text(options)
    began = time.process_time()
    code = run_command("train", train, overrides, validate=validate)
    if code:
        return STOPPED if code == 130 else "failed"
    spent = None if resumed else round(time.process_time() - began, 1)
    with whole_file(rows / f"{cell.name}.json") as aside:
        aside.write_text(json.dumps(record(cell, folder, spent)) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return "done" if spent is None else f"done in {spent} processor seconds"


def record(cell: Cell, folder: Path, spent: float | None) -> dict[str, Any]:
    """What is kept of a finished run: fresh greedy episodes of the best checkpoint, random ones, and the curve of the
    evaluations by which the best was chosen; processor seconds of training (None of a run that was cut short)."""
    summary = json.loads((folder / "summary.json").read_text())
    (size, tested), *_ = summary["test"].items()
    with (folder / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    name = f"evaluation_{METRIC}"
    policy = gcoord.load(folder)
    return {
        "world": cell.world,
        "density": policy.spec.density,
        "n_agents": int(size),
        "algo": cell.algo,
        "seed": cell.seed,
        "options": list(cell.options),
        "frames": summary["frames"],
        "updates": summary["updates"],
        "processor_seconds": spent,
        "episodes": EPISODES,
        "trained": judged(folder, cell.seed),
        "random": tested["random"],
        "curve": [[int(line["frames"]), round(float(line[name]), 4)] for line in lines if line.get(name)],
    }


def judged(folder: Path, seed: int) -> dict[str, float]:
    """Mean figures of fresh greedy episodes of a run's policy."""
    policy, cfg = gcoord.load(folder), read_config(folder)
    size, count = policy.spec.n_agents, min(EPISODES, TEAMS)
    node = cfg.env.copy()
    if "continuous" in node:
        node.continuous = not policy.spec.discrete
    env = conf.build(node, n_agents=size, num_envs=count, device="cpu", seed=SEED)
    memory = policy.agent.body.initial((count,), size)
    torch.manual_seed(SEED + seed)
    return figures(env, acts(policy.agent, epsilon=cfg.evaluation.epsilon), memory, seed)


def figures(env: TeamEnv, act: Act, memory: torch.Tensor | None, seed: int) -> dict[str, float]:
    """Mean figures of the fresh episodes that belong to a seed; closes the world."""
    try:
        values = play(env, act, memory, EPISODES, SEED + seed)
    finally:
        env.close()
    return {name: round(float(value.double().mean()), 4) for name, value in values.items()}


def kept(rows: Path) -> list[dict[str, Any]]:
    """All cells that have their file, by name."""
    return [json.loads(path.read_text()) for path in sorted(rows.glob("*.json"))]


def groups(cells: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Cells by world and algorithm, seeds in order."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in sorted(cells, key=lambda one: (one["world"], one["algo"], one["seed"])):
        found.setdefault((cell["world"], cell["algo"]), []).append(cell)
    return found


def scores(members: list[dict[str, Any]], metric: str = METRIC) -> np.ndarray:
    """A figure of each seed, as [runs, tasks] of one task."""
    return np.array([[one["trained"][metric]] for one in members])


def seconds(members: list[dict[str, Any]]) -> str:
    """Processor seconds of the longest run that was not cut short, in words."""
    spent = [one["processor_seconds"] for one in members if one.get("processor_seconds")]
    return f"{max(spent):.0f}" if spent else ""


def number(row: Row | None, form: str = ".3g", absent: str = "") -> str:
    """A value with its interval, as a table's cell."""
    return absent if row is None else f"{row.value:{form}} [{row.ci_low:{form}}, {row.ci_high:{form}}]"


def replaced(path: Path, name: str, lines: list[str]) -> None:
    """Puts lines between the page's marks `<!-- name -->` and `<!-- /name -->`."""
    text = path.read_text()
    before, _, rest = text.partition(f"<!-- {name} -->\n")
    _, found, after = rest.partition(f"<!-- /{name} -->")
    if not found:
        raise ValueError(f"expected the marks <!-- {name} --> and <!-- /{name} --> in {path} (got none)")
    with whole_file(path) as aside:
        aside.write_text("\n".join([f"{before}<!-- {name} -->", *lines, f"<!-- /{name} -->{after}"]))
