"""Promises of learning from recorded teams, as typed: divergences by name, several sizes, resumed, then online."""

from __future__ import annotations

import math

import pytest
import torch

import gcoord
from gcoord.callbacks import MetricsFile
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.conf import options_of
from gcoord.record import main as record
from gcoord.train import train, validate

SMALL = ["env=native/meet", "model.encoder.dim=16", "model.encoder.heads=2", "log.tensorboard=false"]
FEW = ["source.updates=3", "source.minibatch=24", "evaluation.frames=0", "evaluation.episodes=2"]
MIXED = ["env.kinds=2", "env.continuous=mixed", "env.deaths=0.05"]


def learn(*options: str) -> int:
    return run_command("train", train, [*SMALL, *options], validate=validate)


def recorded(folder, *world):
    options = ["env=native/meet", "policy=random", "n_agents=[2,3]", "episodes=6", "num_envs=3", *world]
    assert run_command("record", record, [*options, f"out={folder}"]) == 0
    return f"dataset={folder}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("recorded") / "random")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("recorded") / "mixed", *MIXED)


@pytest.mark.parametrize("divergence", options_of("divergence"))
def test_every_divergence_holds_kinds_that_number_and_kinds_that_move_at_several_sizes(tmp_path, mixed, divergence):
    options = ["algo=brac", f"divergence={divergence}", mixed, "algo.clone_updates=1", "memory=gru", *MIXED, *FEW]
    assert learn(*options, "frames=200", f"run_dir={tmp_path}/r") == 0
    last = MetricsFile(tmp_path / "r", frames=10**12)._read()[-1]
    assert math.isfinite(float(last["behaviour_divergence"])) and float(last["behaviour_weight"]) == pytest.approx(0.1)
    assert gcoord.load(tmp_path / "r").trained_on == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["algo=bear", "divergence=kl"], "expected policy and behaviour to have heads of one kind"),
        (["algo=bear", "divergence=wasserstein"], "expected a"),
        (["algo=brac", "divergence=js"], "expected divergence to be"),
        (["algo=brac", "algo.penalties.behaviour.weight=-1"], "expected weight and threshold of at least 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line_and_nothing_is_made(tmp_path, mixed, capfd, options, message):
    assert learn(*options, mixed, *MIXED, f"run_dir={tmp_path}/r") == 2
    error = capfd.readouterr().err
    assert message in error and error.strip().count("\n") == 0 and not (tmp_path / "r").exists()


def test_offline_runs_are_judged_in_the_world_and_keep_the_best(tmp_path, data):
    often = ["source.updates=3", "source.minibatch=24", "evaluation.frames=70", "evaluation.episodes=4"]
    assert learn("algo=bc", data, *often, "frames=300", f"run_dir={tmp_path}/r") == 0
    rows = MetricsFile(tmp_path / "r", frames=10**12)._read()
    judged = [float(row["evaluation_return_per_agent"]) for row in rows if row.get("evaluation_return_per_agent")]
    assert len(judged) >= 2 and all(math.isfinite(x) for x in judged)
    assert (tmp_path / "r" / "checkpoints" / "best" / "state.json").is_file()


@pytest.mark.parametrize("algo", ["brac", "bear"])
def test_a_resumed_run_is_the_one_that_was_not_interrupted(tmp_path, data, algo):
    warm = ["algo.match_updates=2"] if algo == "bear" else ["algo.clone_updates=2"]
    options = [f"algo={algo}", data, *warm, *FEW, "memory=gru", "checkpoint_frames=1"]
    assert learn(*options, "frames=500", f"run_dir={tmp_path}/whole") == 0
    assert learn(*options, "frames=100", f"run_dir={tmp_path}/halves") == 0
    assert run_command("train", train, [f"resume={tmp_path}/halves", "frames=500"]) == 0
    whole, halves = (
        load_state(tmp_path / n / "checkpoints" / "last")["learner"]["module"] for n in ("whole", "halves")
    )
    assert set(whole) == set(halves) and all(torch.equal(whole[name], halves[name]) for name in whole)


def weights(folder, part):
    state = load_state(folder / "checkpoints" / "last")["learner"]["module"]
    return {name: x for name, x in state.items() if name.split(".")[0] == part}


def close(a, b):
    return set(a) == set(b) and all(torch.allclose(a[name].float(), b[name].float(), atol=1e-6) for name in a)


ONLINE = ["evaluation.frames=0", "evaluation.episodes=2", "num_envs=4", "algo.lr=1e-12", "n_agents=5"]


def test_a_clone_goes_on_learning_online_at_another_size(tmp_path, data, capfd):
    assert learn("algo=bc", data, *FEW, "frames=100", f"run_dir={tmp_path}/clone") == 0
    options = ["algo=mappo", *ONLINE, "source.steps=5", "source.minibatch=20", "frames=20"]
    capfd.readouterr()
    assert learn(*options, f"init_from={tmp_path}/clone", f"run_dir={tmp_path}/online") == 0
    assert "the agent alone is taken over, critic begins anew" in capfd.readouterr().out
    assert close(weights(tmp_path / "clone", "agent"), weights(tmp_path / "online", "agent"))
    assert gcoord.load(tmp_path / "online").trained_on == [5]


def test_what_was_learnt_offline_goes_on_online_with_its_critics_and_without_its_penalty(tmp_path, data, capfd):
    assert learn("algo=brac", data, *FEW, "algo.clone_updates=1", "frames=200", f"run_dir={tmp_path}/offline") == 0
    replay = ["source.warmup=20", "source.bursts=1", "source.updates=1", "source.batch=8", "source.capacity=1000"]
    options = ["algo=isac", "algo.target_policy=true", *ONLINE, *replay, "algo.tau=0", "frames=40"]
    capfd.readouterr()
    assert learn(*options, f"init_from={tmp_path}/offline", f"run_dir={tmp_path}/online") == 0
    assert "agent and critic_bodies and critics are taken over, temperature begins anew" in capfd.readouterr().out
    for part in ("agent", "critics", "critic_bodies", "target_critics", "target_agent"):
        assert close(weights(tmp_path / "offline", part), weights(tmp_path / "online", part)), part


def test_a_clone_of_small_teams_holds_the_learner_of_large_ones_and_is_not_learnt_further(tmp_path, data, capfd):
    assert learn("algo=bc", data, *FEW, "frames=100", f"run_dir={tmp_path}/clone") == 0
    replay = ["source.warmup=20", "source.bursts=1", "source.updates=4", "source.batch=8", "source.capacity=1000"]
    options = ["algo=coordinate", *ONLINE[:3], "n_agents=9", *replay, "frames=60"]
    assert learn(*options, f"run_dir={tmp_path}/none") == 2
    assert "expected init_from=<a run>" in capfd.readouterr().err and not (tmp_path / "none").exists()
    assert learn(*options, f"init_from={tmp_path}/clone", f"run_dir={tmp_path}/large") == 0
    ours, theirs = weights(tmp_path / "clone", "agent"), weights(tmp_path / "large", "penalties")
    assert all(torch.equal(theirs[f"penalties.behaviour.{name}"], value) for name, value in ours.items())
    assert not close(ours, weights(tmp_path / "large", "agent"))
