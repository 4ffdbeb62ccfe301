"""Run folders of a study: trained by plain commands, gone on with where they were stopped, swept over team sizes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gcoord.scaleup.report import Row, read_csv

ROOT = Path(__file__).resolve().parent.parent


def gcoord(command: str, *options: str, seconds: float | None = None) -> None:
    """Runs one of gcoord's commands, for so many seconds at most; exits where it fails or was stopped."""
    print(f"python -m gcoord.{command} {' '.join(options)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", f"gcoord.{command}", *options], cwd=ROOT)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it finishes its round and saves
        code = process.wait()
    if code:
        sys.exit(code)


def is_finished(folder: Path, frames: int = 0) -> bool:
    """Whether a run was trained to its end, and for so many frames at least."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() else {}
    return summary.get("status") == "finished" and summary["frames"] >= frames


def train(folder: Path, options: str, seconds: float | None = None, frames: int | None = None) -> Path:
    """A run, unless it is finished; one that was stopped, or had fewer than `frames`, goes on. Its folder."""
    wanted = [] if frames is None else [f"frames={frames}"]
    if is_finished(folder, frames or 0):
        return folder
    if (folder / "checkpoints" / "last").exists():
        gcoord("train", f"resume={folder}", *wanted, seconds=seconds)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
        gcoord("train", f"run_dir={folder}", *options.split(), *wanted, seconds=seconds)
    return folder


def record(folder: Path, kinds: Sequence[str], options: str) -> Path:
    """A dataset with a recording of each kind, unless it is whole; one that was cut short is begun anew. Its folder."""
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for kind in kinds:
            gcoord("record", *options.split(), *kind.split(), f"out={folder}")
        (folder / "whole").touch()
    return folder


def sweep(folders: Sequence[Path], sizes: Sequence[int], out: Path, *options: str) -> list[Row]:
    """Rows of `gcoord.evaluate` for these runs at these sizes."""
    gcoord("evaluate", f"run=[{listed(folders)}]", f"n_agents=[{listed(sizes)}]", f"out={out}", *options)
    return read_csv(out / "results.csv")


def listed(things: Sequence[object]) -> str:
    """As the command line takes a list's items."""
    return ",".join(map(str, things))
