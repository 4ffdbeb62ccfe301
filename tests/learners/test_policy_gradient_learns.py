"""COMA's gradient points the right way: it learns a toy within a hundred updates."""

import json
from pathlib import Path

from gcoord.command import run_command
from gcoord.train import train, validate

TOY = """
    env=native/meet env.continuous=false algo=coma algo.gamma=0.9 num_envs=8 source.steps=10 frames=8000 device=cpu
    model.encoder.dim=16 model.encoder.heads=2 evaluation.frames=0 evaluation.episodes=64 evaluation.num_envs=64
    log.tensorboard=false
"""


def test_coma_learns_the_toy(tmp_path: Path) -> None:
    assert run_command("train", train, [*TOY.split(), f"run_dir={tmp_path}/r"], validate=validate) == 0
    test = json.loads((tmp_path / "r" / "summary.json").read_text())["test"]["4"]
    assert test["trained"]["return_per_agent"] > test["random"]["return_per_agent"] + 0.15
