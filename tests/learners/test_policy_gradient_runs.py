"""Runs of policy gradients: on from 3 agents to 9 with the critic that was learnt."""

from __future__ import annotations

import pytest
import torch

import gcoord
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.train import train, validate

TOY = [
    "env=native/meet", "num_envs=4", "model.encoder.dim=16", "model.encoder.heads=2", "source.steps=5",
    "evaluation.frames=0", "evaluation.episodes=4", "log.tensorboard=false",
]  # fmt: skip


def go(*options):
    return run_command("train", train, [*TOY, *options], validate=validate)


def networks(folder):
    return load_state(folder / "checkpoints" / "last")["learner"]["module"]


@pytest.mark.parametrize("algo", ["mappo", "coma"])
def test_trained_with_three_a_team_of_nine_acts_and_goes_on_with_its_own_critic(tmp_path, algo):
    three, nine, learnt = (tmp_path / name for name in ("three", "nine", "learnt"))
    assert go(f"algo={algo}", "n_agents=3", "frames=40", f"run_dir={three}") == 0
    acted = gcoord.load(three).act(gcoord.make_env("native/meet", 9).reset(0))
    assert acted.shape == (1, 9)
    options = [f"algo={algo}", "n_agents=9", "frames=40", f"init_from={three}"]
    assert go(*options, "algo.lr=1e-12", f"run_dir={nine}") == 0
    assert go(*options, f"run_dir={learnt}") == 0
    before, after, moved = map(networks, (three, nine, learnt))
    kept = [name for name in before if name.startswith(("agent.", "critic."))]
    assert before.keys() == after.keys() and {name.split(".")[0] for name in kept} == {"agent", "critic"}
    for name in kept:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    assert any(not torch.equal(moved[name], before[name]) for name in kept if name.startswith("critic."))
