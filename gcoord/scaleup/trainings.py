"""Trains what a sweep compares with: from scratch at a size, fine-tuned to it, or small at another small size."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from gcoord import conf
from gcoord import run as runs
from gcoord.callbacks import Figures, write_json
from gcoord.checkpoint import STATE_FILE
from gcoord.fitting import fit
from gcoord.policy import DESCRIPTION
from gcoord.run_folder import is_finished, read_config
from gcoord.scaleup.cells import digest, slug
from gcoord.warm_start import initialise

START = "start.json"
# What a run is called, where it lies and what it logs do not change what is learnt.
ASIDE = ("run_dir", "resume", "device", "threads", "log", "checkpoint_frames", "init_from")


@dataclass(frozen=True)
class Training:
    """A run to be trained in a folder of the sweep.

    Arguments:
        folder: of the run.
        cfg: its whole configuration.
        names: the chosen options by group, which name the method.
    """

    folder: str
    cfg: dict[str, Any]
    names: dict[str, str]

    @property
    def words(self) -> str:
        """What is trained, for whoever watches."""
        sizes = "+".join(map(str, conf.team_sizes(self.cfg["n_agents"])))
        how = "fine-tuning" if self.cfg["init_from"] else "training"
        method = f"{self.names.get('algo', '')} {self.names.get('model', '')}".strip()
        return f"{how} {method} ({self.cfg['seed']}) at {sizes} agents, {self.cfg['frames']:,} frames"

    def is_finished(self) -> bool:
        return is_finished(Path(self.folder))

    def perform(self) -> None:
        """Trains to the end; what was begun before is gone on with."""
        folder = Path(self.folder)
        if self.is_finished():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "config.yaml").exists() and not (folder / "checkpoints" / "last" / STATE_FILE).exists():
            # Killed before its first checkpoint: there is nothing to go on with.
            shutil.rmtree(folder)
            folder.mkdir()
        with (folder / "training.log").open("a") as log:
            console = Console(file=log, width=120)
            run = runs.resume(folder) if (folder / "config.yaml").exists() else self._begin(folder)
            try:
                fit(run, folder, console)
            finally:
                run.close()

    def _begin(self, folder: Path) -> runs.Run:
        cfg = OmegaConf.create(self.cfg)
        assert isinstance(cfg, DictConfig)
        run = runs.build(cfg)
        try:
            run.names = dict(self.names)
            if cfg.init_from is not None:
                initialise(run, Path(cfg.init_from))
            # Before the first step: where the curve begins.
            agent = run.learner.agent.eval()
            figures = run.judged(run.sizes[0], runs.EVALUATION_SEED + cfg.seed, agent)
            agent.train()
            write_json(folder / START, figures)
            runs.seed_all(cfg.seed)
        except BaseException:
            run.close()
            raise
        return run


def training(
    root: Path,
    cfg: DictConfig,
    names: Mapping[str, str],
    size: int,
    frames: int,
    changes: Mapping[str, Any],
    evaluations: int,
    init_from: Path | None = None,
) -> Training:
    """The training of a run's configuration at one size.

    Arguments:
        root: folder of the sweep's runs; the run's own is named by what it is, and by its configuration.
        cfg, names: of the run that is followed, its seed too.
        frames: environment steps. evaluations: along the way, for the curve.
        changes: to the configuration, nested as it is.
        init_from: the run that is fine-tuned; None: from scratch.

    Raises ValueError, in one line, for changes that the parts do not take.
    """
    node = OmegaConf.merge(cfg, dict(changes))
    assert isinstance(node, DictConfig)
    conf.check(node)
    OmegaConf.set_struct(node, False)
    node.pop("evolution", None)
    node.n_agents, node.frames = size, frames
    node.resume, node.curriculum = None, None
    node.init_from = None if init_from is None else str(init_from.resolve())
    if init_from is None:
        node.fine_tune = {"train": "all", "near": None}
    node.evaluation.frames = max(frames // evaluations, 1)
    node.checkpoint_frames = max(min(int(node.checkpoint_frames), frames // 5), 1)
    node.log = {**node.log, "tensorboard": False, "wandb": False, "mlflow": False}
    node.run_dir = None
    plain = conf.plain(node)
    weights = None
    if init_from is not None:
        weights = json.loads((init_from / DESCRIPTION).read_text())["sha256"]
    identity = digest([{name: value for name, value in plain.items() if name not in ASIDE}, weights])
    method = slug(f"{names.get('algo', 'run')} {names.get('model', '')}".strip())
    kind = "scratch" if init_from is None else f"fine_tuned-from{slug('+'.join(map(str, sizes_of(init_from))))}"
    return Training(str(root / f"{kind}-{method}-s{plain['seed']}-n{size}-{identity}"), plain, dict(names))


def sizes_of(folder: Path) -> list[int]:
    """Team sizes a run was trained on."""
    return list(json.loads((folder / DESCRIPTION).read_text())["trained_on"])


@dataclass(frozen=True)
class Spent:
    """What went into a policy: environment steps and agent steps, those of the run it was taken from too; `here` and
    `seconds` are the run's own."""

    frames: int
    agent_steps: int
    here: int
    seconds: float


def spent(folder: Path) -> Spent:
    """What a run, and those it began from, were trained for."""
    summary = json.loads((folder / "summary.json").read_text())
    frames, agent_steps = int(summary["frames"]), int(summary["agent_steps"])
    before = read_config(folder).get("init_from")
    first = Spent(0, 0, 0, 0.0)
    if before is not None and (Path(before) / "summary.json").is_file():
        first = spent(Path(before))
    total = first.frames + frames, first.agent_steps + agent_steps
    return Spent(*total, frames, sum(taken for taken, _ in rounds(folder)))


def rounds(folder: Path) -> list[tuple[float, dict[str, str]]]:
    """Each round of a run: seconds it took, and its line of metrics.csv."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    done, found = 0, []
    for line in lines:
        frames, rate = int(float(line["frames"])), float(line.get("frames_per_second") or 0)
        found.append(((frames - done) / rate if rate else 0.0, line))
        done = frames
    return found


def curve(folder: Path) -> list[tuple[int, Figures]]:
    """Greedy evaluations along a training of the sweep: (frames, figures), the first before any step."""
    path = folder / START
    points: list[tuple[int, Figures]] = [(0, json.loads(path.read_text()))] if path.is_file() else []
    head = "evaluation_"
    for _, line in rounds(folder):
        judged = {name: text for name, text in line.items() if name.startswith(head) and text}
        figures = {name.removeprefix(head): float(text) for name, text in judged.items()}
        if figures:
            points.append((int(float(line["frames"])), figures))
    return points
