"""Every value algorithm improves on a toy within seconds, and goes on at another team size with its own mixer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import gcoord
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.conf import build, fill, options_of
from gcoord.data.collect import Collector
from gcoord.data.playing import acts, play, random_actions
from gcoord.data.sources import Replayed
from gcoord.graph import Complete
from gcoord.models import GraphEncoder, MeanKernel
from gcoord.models.agent import Body
from gcoord.train import train, validate

ROOT = Path(__file__).resolve().parents[2]
OF_VALUES = "gcoord.learners.value.QLearner"


def node(name):
    from omegaconf import OmegaConf

    return OmegaConf.load(ROOT / "conf" / "algo" / f"{name}.yaml").get("algo", {})


VALUES = [name for name in options_of("algo") if node(name).get("_target_") == OF_VALUES]
# How far each gets in how many updates; random earns nothing, going straight to the point 0.8.
UPDATES = {"qtran": 400}


def test_all_value_algorithms_are_here():
    promised = "dqn iql vdn qmix qmix_paper qtran qatten qplex shaq dgn dgn_r dgn_m roma"
    assert set(promised.split()) <= set(VALUES)


def team(name, n_agents=2, num_envs=32, seed=0):
    world = gcoord.make_env(
        "native/meet", n_agents=n_agents, num_envs=num_envs, continuous=False, reward="team", seed=seed, max_steps=12
    )
    kernel = {"kernel": MeanKernel} if name == "dgn_m" else {}
    body = partial(Body, world.spec, Complete(), partial(GraphEncoder, dim=32, heads=2, rounds=1, **kernel))
    return world, body


@pytest.mark.parametrize("name", VALUES)
def test_every_value_algorithm_improves_on_the_toy(name):
    torch.manual_seed(0)
    world, body = team(name)
    options = {"gamma": 0.8, "lr": 3e-3, "tau": 0.05, "epsilon_frames": 4000}
    learner = build(fill(node(name)))(spec=world.spec, body=body, **options)
    bursts = UPDATES.get(name, 150) // 2
    source = Replayed(
        learner, [Collector(world, 1)], capacity=20_000, batch=128, steps=2, updates=2, bursts=bursts, warmup=1000
    )
    optimizer = learner.configure_optimizers()
    for batch in source:
        optimizer.zero_grad()
        torch.stack(list(learner.losses(batch).values())).sum().backward()
        learner.configure_gradient_clipping(optimizer)
        optimizer.step()
        learner.on_train_batch_end(None, batch, 0)
    learner.agent.eval()
    judge, _ = team(name, num_envs=200)
    trained = play(judge, acts(learner.agent), None, 200, seed=5)["return"].mean()
    random = play(judge, random_actions(judge.spec, 0), None, 200, seed=5)["return"].mean()
    assert trained > random + 0.35


SMALL = [
    "env=native/meet", "num_envs=8", "model.encoder.dim=16", "source.warmup=64", "source.bursts=1", "source.updates=3",
    "source.capacity=4000", "source.batch=8", "evaluation.frames=0", "evaluation.episodes=8", "log.tensorboard=false",
]  # fmt: skip


def go(*options):
    return run_command("train", train, [*SMALL, *options], validate=validate)


def networks(folder):
    return load_state(folder / "checkpoints" / "last")["learner"]["module"]


@pytest.mark.parametrize("name", ["qmix", "qtran", "qatten", "qplex", "shaq", "roma"])
def test_trained_with_three_a_team_of_nine_goes_on_with_its_own_mixer(tmp_path, name):
    three, nine = tmp_path / "three", tmp_path / "nine"
    assert go(f"algo={name}", "n_agents=3", "frames=100", f"run_dir={three}") == 0
    still = ["frames=1", "algo.lr=1e-12", "algo.tau=0.0"]
    assert go(f"algo={name}", "n_agents=9", *still, f"init_from={three}", f"run_dir={nine}") == 0
    before, after = networks(three), networks(nine)
    assert any(name.startswith("mixer.") for name in before) and before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, atol=1e-6, rtol=0)
    learnt = tmp_path / "learnt"
    assert go(f"algo={name}", "n_agents=9", "frames=200", f"init_from={three}", f"run_dir={learnt}") == 0
    moved = networks(learnt)
    assert any(not torch.equal(moved[key], before[key]) for key in before if key.startswith("mixer."))
    assert gcoord.load(learnt).trained_on == [9]


def test_the_papers_qmix_refuses_other_sizes_in_one_line_and_its_agent_goes_on_with_another_mixer(tmp_path, capfd):
    three = tmp_path / "three"
    assert go("algo=qmix_paper", "n_agents=[2,4,8]", f"run_dir={tmp_path}/several") == 2
    error = capfd.readouterr().err.strip()
    assert "expected n_agents=2 alone" in error and "(got n_agents=[2, 4, 8])" in error and "\n" not in error
    assert go("algo=qmix_paper", "n_agents=3", "frames=100", f"run_dir={three}") == 0
    assert go("algo=qmix_paper", "n_agents=9", f"init_from={three}", f"run_dir={tmp_path}/other") == 2
    error = capfd.readouterr().err.strip()
    assert "expected n_agents=3, the team size to which a part of" in error and "\n" not in error
    assert not (tmp_path / "several").exists() and not (tmp_path / "other").exists()
    still = ["frames=1", "algo.lr=1e-12"]
    assert go("algo=qmix", "n_agents=9", *still, f"init_from={three}", f"run_dir={tmp_path}/nine") == 0
    assert "the agent alone is taken over, mixer begins anew" in capfd.readouterr().out.replace("\n", "")
    before, after = networks(three), networks(tmp_path / "nine")
    for key in before:
        if key.startswith("agent."):
            torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=0)
    policy = gcoord.load(three)
    assert policy.act(gcoord.make_env("native/meet", 7).reset(0)).shape == (1, 7), "the policy itself takes any size"


PAIRS = [
    ("relation", "gru", "qplex", ["env.deaths=0.1"]),
    ("mean", "none", "shaq", ["env.kinds=2"]),
    ("additive", "gru", "roma", ["env.entities=2"]),
    ("edge", "none", "qtran", ["env.deaths=0.1"]),
    ("conv", "gru", "qatten", ["env.kinds=2"]),
    ("mlp", "none", "qplex", ["env.entities=2"]),
    ("mlp", "gru", "shaq", ["env.deaths=0.1"]),
    ("relation", "none", "roma", ["env.kinds=2", "env.deaths=0.1"]),
    ("conv", "none", "dgn_r", ["env.available=true"]),
    ("edge", "gru", "qmix", ["env.available=true"]),
    ("mean", "gru", "qtran", ["env.kinds=2"]),
]


@pytest.mark.parametrize("model, memory, algo, world", PAIRS)
def test_every_value_algorithm_takes_several_sizes_any_encoder_and_memory(tmp_path, model, memory, algo, world):
    heads = ["model.encoder.heads=2"] if model != "mlp" else []
    parts = [f"model={model}", f"memory={memory}", f"algo={algo}", "n_agents=[2,4,8]", *heads, *world]
    assert go(*parts, "frames=300", "source.capacity=12000", f"run_dir={tmp_path}/r") == 0
    assert gcoord.load(tmp_path / "r").trained_on == [2, 4, 8]


@pytest.mark.parametrize(
    "options",
    [
        ["source=prioritised", "algo.n_step=3"],
        ["source.episodes=true", "memory=gru", "algo.lam=0.8"],
        ["source.burn_in=4", "memory=gru", "source=prioritised"],
    ],
    ids=" ".join,
)
def test_ways_of_replaying_train_and_resume_exactly(tmp_path, options):
    parts = ["algo=qmix", *options, "env.max_steps=8", "env.deaths=0.1"]
    assert go(*parts, "frames=700", "checkpoint_frames=100", f"run_dir={tmp_path}/whole") == 0
    assert go(*parts, "frames=350", "checkpoint_frames=100", f"run_dir={tmp_path}/parts") == 0
    assert run_command("train", train, [f"resume={tmp_path}/parts", "frames=700"], validate=validate) == 0
    whole, resumed = networks(tmp_path / "whole"), networks(tmp_path / "parts")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
