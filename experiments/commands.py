"""gcoord's commands as studies run them: what is there is not made again, what was cut short goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def gcoord(command: str, *options: str) -> None:
    """Runs one of gcoord's commands; ends with it where it fails or is stopped."""
    print(f"python -m gcoord.{command} {' '.join(options)}", flush=True)
    code = subprocess.call([sys.executable, "-m", f"gcoord.{command}", *options], cwd=ROOT)
    if code:
        sys.exit(code)


def recorded(folder: Path, kinds: Sequence[str], *options: str) -> Path:
    """A dataset with a recording of each kind; one that was cut short is begun anew."""
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for kind in kinds:
            gcoord("record", *options, *kind.split(), f"out={folder}")
        (folder / "whole").touch()
    return folder


def trained(folder: Path, *options: str) -> Path:
    """A run, unless it is there; one that was stopped goes on."""
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else {}
    if summary.get("status") == "finished":
        return folder
    if (folder / "checkpoints" / "last").exists():
        gcoord("train", f"resume={folder}")
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
    gcoord("train", *options, f"run_dir={folder}")
    return folder
