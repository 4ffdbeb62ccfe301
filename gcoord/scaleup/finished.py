"""Finished runs read from their folders and put into groups: which are seeds of one method, and on what task."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from gcoord import conf
from gcoord.run_folder import read_config

# What may differ between the seeds of one method.
ASIDE = ("seed", "run_dir", "resume", "device", "threads", "checkpoint_frames", "log", "evaluation", "num_envs")
SCORE = "return_per_agent"
MARK = " #"


@dataclass
class Finished:
    """A finished run: its folder, configuration, what summary.json says, and how it is called in tables."""

    folder: Path
    cfg: DictConfig
    summary: dict[str, Any]
    method: str = field(default="")

    @property
    def world(self) -> str:
        return str(self.summary["world"])

    @property
    def sizes(self) -> str:
        """Team sizes it was trained on, as `4` or `2+4+8`."""
        return "+".join(map(str, self.summary["sizes"]))

    @property
    def task(self) -> str:
        """World and team sizes; runs are compared within a task."""
        return f"{self.world}, {self.sizes} agents"

    @property
    def seed(self) -> int:
        return int(self.cfg.seed)

    def score(self, who: str = "trained", metric: str = SCORE) -> float:
        """A mean over the test episodes of all its sizes, of the trained or the random policy."""
        return float(np.mean([of_size[who][metric] for of_size in self.summary["test"].values()]))

    def metrics(self) -> list[str]:
        """Figures that its test reports."""
        return list(next(iter(self.summary["test"].values()))["trained"])

    def curve(self, metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Frames and values of a column of metrics.csv, where it has one."""
        path = self.folder / "metrics.csv"
        with path.open(newline="") as file:
            rows = [(row["frames"], row[metric]) for row in csv.DictReader(file) if row.get(metric)]
        points = np.array([(float(frames), float(value)) for frames, value in rows]).reshape(-1, 2)
        return points[:, 0], points[:, 1]


def find(patterns: Iterable[str]) -> list[Path]:
    """Run folders that are named, or that a pattern such as `runs/*` matches; folders without a run are passed over
    where a pattern matched them. Raises ValueError for what names none."""
    found: list[Path] = []
    for pattern in patterns:
        if glob.has_magic(pattern):
            matches = [Path(one) for one in sorted(glob.glob(pattern)) if (Path(one) / "config.yaml").is_file()]
            if not matches:
                raise ValueError(f"expected run folders that match {pattern} (got none)")
            found += matches
        elif Path(pattern).is_dir():
            found.append(Path(pattern))
        else:
            raise ValueError(f"expected a run folder (got {pattern}, which is not there)")
    return list(dict.fromkeys(found))


def read(folders: Sequence[Path]) -> tuple[list[Finished], list[str]]:
    """Finished runs with their names, and what is to be said of each of the others.

    Two runs are seeds of one method where their configurations agree but for the seed and what has no bearing on what
    is learnt; where algorithm and model agree but other settings do not, those settings are part of the name. Raises
    ValueError for a folder that holds no run, or two runs of one method, task and seed.
    """
    runs, left_out = [], []
    for folder in folders:
        cfg = read_config(folder)
        try:
            summary = json.loads((folder / "summary.json").read_text())
            status = summary["status"]
        except (OSError, ValueError, KeyError):
            status = "without a summary"
        if status != "finished":
            left_out.append(f"{folder} ({status})")
            continue
        runs.append(Finished(folder, cfg, summary))
    name(runs)
    taken: dict[tuple[str, str, int], Path] = {}
    for run in runs:
        key = (run.method, run.task, run.seed)
        if key in taken:
            raise ValueError(
                f"expected one run of each method, task and seed (got {taken[key]} and {run.folder}: {run.method}, "
                f"{run.task}, seed {run.seed})"
            )
        taken[key] = run.folder
    return runs, left_out


def name(runs: Sequence[Finished]) -> None:
    """Gives every run the name of its method: algorithm and model, and the settings in which namesakes differ."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        names = run.summary.get("names", {})
        parts = [names.get("algo", "run"), names.get("model", "")]
        parts += [names["memory"]] if names.get("memory", "none") != "none" else []
        groups.setdefault(" ".join(part for part in parts if part), []).append(run)
    for plain, members in groups.items():
        settings = [flat(run.cfg) for run in members]
        differing = [key for key in settings[0] if len({repr(one.get(key)) for one in settings}) > 1]
        differing += [key for one in settings for key in one if key not in settings[0] and key not in differing]
        # Worlds and sizes are told by the task, and what only one world has by its name.
        differing = [key for key in dict.fromkeys(differing) if not key.startswith("env.") or _same_world(members)]
        differing = [key for key in differing if key != "n_agents"]
        for run, one in zip(members, settings, strict=True):
            words = [f"{key.rpartition('.')[2]}={_told(one.get(key), key, settings)}" for key in differing]
            run.method = " ".join([plain, *words]).replace(",", ";")


def flat(cfg: DictConfig) -> dict[str, Any]:
    """What a run's learning depends on, by dotted key."""
    found: dict[str, Any] = {}

    def walk(node: Any, above: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{above}.{key}" if above else str(key))
        else:
            found[above] = node

    walk({key: value for key, value in conf.plain(cfg).items() if key not in ASIDE}, "")
    if found.get("init_from") is not None:
        found["init_from"] = origin(Path(found["init_from"]))
    return found


def origin(folder: Path) -> str:
    """What a run began from, the same for all seeds of one method: algorithm, model and sizes, and a checksum of its
    settings behind a mark; the folder itself where there is no finished run to read any more."""
    try:
        names, sizes = (json.loads((folder / "summary.json").read_text())[key] for key in ("names", "sizes"))
        settings = flat(read_config(folder))
    except (OSError, ValueError, KeyError):
        return str(folder)
    told = f"{names.get('algo', 'run')} {names.get('model', '')} of {'+'.join(map(str, sizes))}"
    return f"{told}{MARK}{hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:6]}"


def _told(value: Any, key: str, settings: Sequence[dict[str, Any]]) -> Any:
    """A setting in words; where a run began from is told by its checksum only where its name is not enough."""
    if key != "init_from" or value is None:
        return value
    name = value.partition(MARK)[0]
    others = {one[key] for one in settings if one.get(key) is not None and one[key].partition(MARK)[0] == name}
    return name if len(others) == 1 else value


def _same_world(runs: Sequence[Finished]) -> bool:
    return len({run.world for run in runs}) == 1


def by_task(runs: Sequence[Finished]) -> dict[str, dict[str, list[Finished]]]:
    """Runs by task, then by method, seeds in order."""
    tasks: dict[str, dict[str, list[Finished]]] = {}
    for run in sorted(runs, key=lambda run: (run.task, run.method, run.seed)):
        tasks.setdefault(run.task, {}).setdefault(run.method, []).append(run)
    return tasks
