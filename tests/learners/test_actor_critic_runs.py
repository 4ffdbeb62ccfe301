"""Promises of actor-critic runs: any kinds of action, several sizes, on from 3 agents to 9, and the toy is learnt."""

import json

import pytest

import gcoord
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.train import train, validate

TOY = [
    "env=native/meet",
    "num_envs=8",
    "model.encoder.dim=16",
    "model.encoder.heads=2",
    "evaluation.episodes=8",
    "evaluation.frames=0",
    "log.tensorboard=false",
]
SHORT = ["source.warmup=64", "source.bursts=1", "source.updates=2", "source.batch=8", "source.capacity=4000"]


def go(*overrides):
    return run_command("train", train, list(overrides), validate=validate)


@pytest.mark.parametrize("algo, memory", [("td3", "none"), ("isac", "gru"), ("maddpg", "gru"), ("masac", "none")])
def test_kinds_that_choose_numbers_and_kinds_that_move_freely_learn_in_one_team(tmp_path, algo, memory):
    world = ["env.continuous=mixed", "env.kinds=2", "env.deaths=0.05", "env.entities=3", "env.available=true"]
    assert go(*TOY, *SHORT, *world, f"algo={algo}", f"memory={memory}", "frames=100", f"run_dir={tmp_path}/r") == 0
    seen = gcoord.make_env("native/meet", 6, continuous="mixed", kinds=2, entities=3, available=True).reset(0)
    policy = gcoord.load(tmp_path / "r")
    policy.reset(1, 6)
    assert policy.act(seen).shape == (1, 6, 5)


@pytest.mark.parametrize("algo", ["maddpg", "masac"])
def test_critics_of_teams_train_at_several_sizes_at_once(tmp_path, algo):
    options = [*TOY, *SHORT, f"algo={algo}", "env.continuous=true", "n_agents=[2,4,8]", "frames=200"]
    assert go(*options, f"run_dir={tmp_path}/r") == 0
    assert gcoord.load(tmp_path / "r").act(gcoord.make_env("native/meet", 16, continuous=True).reset(0)).shape[1] == 16


def test_maddpg_trained_at_three_goes_on_at_nine_with_its_own_critic(tmp_path):
    options = [*TOY, *SHORT, "algo=maddpg", "env.continuous=true", "frames=100"]
    assert go(*options, "n_agents=3", f"run_dir={tmp_path}/small") == 0
    assert go(*options, "n_agents=9", f"init_from={tmp_path}/small", "algo.lr=1e-12", f"run_dir={tmp_path}/big") == 0
    small, big = (
        load_state(tmp_path / name / "checkpoints" / "last")["learner"]["module"] for name in ("small", "big")
    )
    assert small.keys() == big.keys()
    assert all((small[name] - big[name]).abs().max() < 1e-6 for name in small if name.startswith(("agent", "critics")))


QUICK = [("maddpg", "true"), ("masac", "false")]
LEARNS = [("ddpg", "true"), ("iddpg", "false"), ("td3", "true"), ("sac", "true"), ("isac", "false")]
LEARNS += [("maddpg", "true"), ("maddpg", "false"), ("masac", "true"), ("masac", "false")]


@pytest.mark.parametrize(
    "algo, continuous", [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.full) for pair in LEARNS]
)
def test_learning_the_toy_beats_random_clearly(tmp_path, algo, continuous):
    options = [f"algo={algo}", f"env.continuous={continuous}", "frames=8000", "algo.gamma=0.9"]
    judged = ["evaluation.episodes=64", "evaluation.num_envs=64"]
    assert go(*TOY, *options, *judged, f"run_dir={tmp_path}/r") == 0
    test = json.loads((tmp_path / "r" / "summary.json").read_text())["test"]["4"]
    assert test["trained"]["return_per_agent"] > test["random"]["return_per_agent"] + 0.25
