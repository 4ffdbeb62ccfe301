"""Training cut to a few updates, for tests of worlds: in this process, or as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gcoord.callbacks import MetricsFile
from gcoord.command import run_command
from gcoord.train import train, validate

SMALL = [
    "num_envs=2",
    "model.encoder.dim=16",
    "evaluation.frames=0",
    "evaluation.episodes=2",
    "evaluation.num_envs=2",
    "log.tensorboard=false",
    "env.workers=0",
]
ON_POLICY = ["source.steps=6", "source.epochs=1", "source.minibatch=6", "frames=24"]
OFF_POLICY = [
    "source.warmup=16",
    "source.bursts=1",
    "source.updates=2",
    "source.batch=4",
    "source.steps=2",
    "source.capacity=40",
    "frames=24",
]


def options(folder: Path, env: str, algo: str, *more: str) -> list[str]:
    source = ON_POLICY if algo in ("mappo", "ippo") else OFF_POLICY
    return [f"env={env}", f"algo={algo}", f"run_dir={folder}/r", *SMALL, *source, *more]


def learn(folder: Path, env: str, algo: str, *more: str) -> Path:
    """Two updates or more in this process; the run's folder."""
    assert run_command("train", train, options(folder, env, algo, *more), validate=validate) == 0
    assert float(MetricsFile(folder / "r", frames=10**12)._read()[-1]["updates"]) >= 2
    return folder / "r"


def learn_by_command(folder: Path, env: str, algo: str, *more: str) -> Path:
    """The same as a user starts it; nothing but the run's own lines may be said."""
    command = [sys.executable, "-W", "default", "-m", "gcoord.train", *options(folder, env, algo, *more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ.copy(), check=False)
    assert done.returncode == 0, done.stderr
    for package in ("pettingzoo", "gymnasium", "pygame", "ale_py", "supersuit"):
        assert f"{package}/" not in done.stderr, done.stderr
    return folder / "r"
