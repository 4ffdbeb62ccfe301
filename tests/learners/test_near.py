"""Promises of fine-tuning: near what the policy was, less and less, and where asked only in the heads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from gcoord import run as runs
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.learners.near import Near, apart
from gcoord.models.heads import CategoricalChoice, TanhNormalChoice
from gcoord.models.points import PointChoice
from gcoord.run_folder import read_config
from gcoord.train import train, validate
from gcoord.warm_start import initialise

TOY = ["env=native/meet", "num_envs=8", "model.encoder.dim=16", "model.encoder.heads=2", "evaluation.episodes=8"]
TOY += ["evaluation.frames=0", "log.tensorboard=false"]
ON = ["source.steps=10", "source.epochs=2", "source.minibatch=40"]
OFF = ["source.warmup=64", "source.bursts=1", "source.updates=2", "source.batch=8", "source.capacity=4000"]
ALGOS = {
    "ppo": ["algo=ppo", "memory=gru", *ON],
    "mappo_box": ["algo=mappo", "env.continuous=true", "model.normalise=true", *ON],
    "coma": ["algo=coma", *ON],
    "qmix": ["algo=qmix", "memory=gru", *OFF],
    "iddpg_mixed": ["algo=iddpg", "env.continuous=mixed", "env.kinds=2", *OFF],
    "masac": ["algo=masac", "memory=gru", *OFF],
}


def go(*overrides):
    return run_command("train", train, [*TOY, *overrides], validate=validate)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of every kind at 3 agents."""
    folder = tmp_path_factory.mktemp("small")
    for name, options in ALGOS.items():
        assert go(*options, "n_agents=3", "frames=200", f"run_dir={folder}/{name}") == 0
    return folder


def built(folder, algo, **tuning):
    """The run of a small one's configuration at 5 agents, begun from its weights."""
    cfg = read_config(folder / algo)
    cfg.n_agents, cfg.init_from = 5, str(folder / algo)
    cfg.fine_tune = OmegaConf.merge(cfg.fine_tune, tuning)
    run = runs.build(cfg)
    initialise(run, folder / algo)
    return run


def first_batch(run):
    return next(iter(run.source))


@pytest.mark.parametrize("algo", ALGOS)
def test_at_first_nothing_is_between_a_policy_and_what_it_was_and_a_step_away_something_is(small, algo):
    run = built(small, algo, near={"weight": 1.0, "temperature": 0.1})
    learner = run.learner
    learner.updates = 1
    batch = first_batch(run)
    for step in range(2):
        learner.losses(batch)
        between = learner.near.divergence(learner.chosen, batch)
        assert between.shape == batch.steps.reward.shape
        if step == 0:
            assert between.abs().max() < 1e-6
            with torch.no_grad():
                for part in learner.agent.head.parameters():
                    part.add_(0.3 * torch.randn_like(part))
    assert float(learner.near.loss(learner.chosen, batch).detach()) > 1e-3
    assert all(not part.requires_grad for part in learner.near.agent.parameters())
    run.close()


@pytest.mark.parametrize("algo", ALGOS)
def test_heads_alone_learn_where_they_are_asked_to(small, tmp_path, algo):
    more = [*ALGOS[algo], "n_agents=5", "frames=300", f"init_from={small}/{algo}", "algo.lr=0.01"]
    assert go(*more, "fine_tune.train=heads", f"run_dir={tmp_path}/r") == 0
    before = load_state(small / algo / "checkpoints" / "last")["learner"]["module"]
    after = load_state(tmp_path / "r" / "checkpoints" / "last")["learner"]["module"]
    changed = {name for name in before if (before[name] != after[name]).any() and not name.startswith("value_norm.")}
    # Bodies, their normalisers and memories too, are as they were; the policy's head is not.
    assert any(name.startswith("agent.head.") for name in changed)
    # Targets follow the online ones, wherever those stay.
    online = {name for name in changed if not name.startswith("target_")}
    assert not [name for name in online if ".body." in name or name.startswith("critic_bodies")]


@pytest.mark.parametrize("algo", ["ppo", "qmix", "masac"])
def test_held_near_a_policy_changes_less_than_left_alone(small, tmp_path, algo):
    moved = {}
    for weight in (0.0, 300.0):
        more = [*ALGOS[algo], "n_agents=5", "frames=600", f"init_from={small}/{algo}", "algo.lr=0.003"]
        folder = tmp_path / str(weight)
        assert go(*more, f"fine_tune.near.weight={weight}", "fine_tune.near.frames=100000", f"run_dir={folder}") == 0
        run = built(small, algo, near={"weight": 1.0, "temperature": 0.1})
        run.learner.updates = 1
        run.learner.load_state_dict(load_state(folder / "checkpoints" / "last")["learner"]["module"])
        batch = first_batch(run)
        run.learner.losses(batch)
        moved[weight] = float(run.learner.near.loss(run.learner.chosen, batch).detach())
        run.close()
    assert moved[300.0] < 0.5 * moved[0.0]


def test_the_weight_falls_to_nothing_in_a_straight_line():
    near = Near(torch.nn.Linear(1, 1), run_frames=1000, weight=2.0)
    assert [near.weight_at(frames) for frames in (0, 250, 500, 900)] == [2.0, 1.0, 0.0, 0.0]
    assert Near(torch.nn.Linear(1, 1), 1000, weight=2.0, frames=1000).weight_at(750) == 0.5


def test_a_resumed_run_stays_near_what_it_began_from_though_that_is_gone(small, tmp_path):
    shutil.copytree(small / "ppo", tmp_path / "small")
    options = [*ALGOS["ppo"], "n_agents=5", f"init_from={tmp_path}/small", "checkpoint_frames=80"]
    options += ["fine_tune.near.weight=1"]
    assert go(*options, "frames=400", "fine_tune.near.frames=800", f"run_dir={tmp_path}/r") == 0
    shutil.rmtree(tmp_path / "small")
    run = runs.resume(tmp_path / "r", frames=800)
    kept = load_state(small / "ppo" / "checkpoints" / "last")["learner"]["module"]
    now = run.learner.near.agent.state_dict()
    assert all(torch.equal(now[name], kept[f"agent.{name}"]) for name in now)
    run.close()


def test_known_divergences():
    logits = torch.tensor([[[0.0, 0.0]]])
    other = CategoricalChoice(torch.tensor([[[1.0, 3.0]]]).log())
    assert apart(CategoricalChoice(logits), other).item() == pytest.approx(0.5 * torch.tensor([2.0, 2 / 3]).log().sum())
    low, high = -torch.ones(2), torch.ones(2)
    near, far = (TanhNormalChoice(torch.full((1, 1, 2), mean), torch.zeros(2), low, high) for mean in (0.0, 1.0))
    assert apart(near, far).item() == pytest.approx(1.0)
    one, two = (PointChoice(torch.full((1, 1, 2), at), low, high) for at in (0.5, -0.5))
    assert apart(one, two).item() == pytest.approx(1.0)


def test_gates_can_be_put_into_a_policy_that_had_none_and_begin_open(small, tmp_path, capfd):
    options = [*ALGOS["coma"], "model=gated", "n_agents=5", "frames=1", "algo.lr=1e-12", f"init_from={small}/coma"]
    assert go(*options, f"run_dir={tmp_path}/r") == 0
    assert "gates begin open" in capfd.readouterr().out
    state = load_state(tmp_path / "r" / "checkpoints" / "last")["learner"]["module"]
    before = load_state(small / "coma" / "checkpoints" / "last")["learner"]["module"]
    assert all((state[name] - before[name]).abs().max() < 1e-6 for name in before if name.startswith("agent."))
    assert any(".gate." in name for name in state) and not any(".gate." in name for name in before)


BAD = {
    "fine_tune.train=heads": "expected init_from=<run> along with fine_tune (got none)",
    "fine_tune.near.weight=1": "expected init_from=<run> along with fine_tune (got none)",
    "fine_tune.train=body": "expected fine_tune.train to be all or heads (got 'body')",
    "fine_tune.near.weight=much": "expected fine_tune.near.weight to be a number (got 'much')",
}


@pytest.mark.parametrize("override", BAD)
def test_fine_tuning_that_cannot_be_is_refused_in_one_line(tmp_path, capfd, override):
    assert go(*ALGOS["ppo"], override, f"run_dir={tmp_path}/r") == 2
    error = capfd.readouterr().err.strip()
    assert BAD[override] in error and "\n" not in error
    assert not (tmp_path / "r").exists()


def test_a_negative_weight_is_refused(small, tmp_path, capfd):
    options = [*ALGOS["ppo"], f"init_from={small}/ppo", "fine_tune.near.weight=-1", f"run_dir={tmp_path}/r"]
    assert go(*options) == 2
    assert "expected fine_tune.near with a weight of at least 0" in capfd.readouterr().err


def test_the_divergence_is_logged(small, tmp_path):
    options = [*ALGOS["ppo"], "n_agents=5", "frames=200", f"init_from={small}/ppo", "fine_tune.near.weight=1"]
    assert go(*options, f"run_dir={tmp_path}/r") == 0
    header, first, *_ = (tmp_path / "r" / "metrics.csv").read_text().splitlines()
    logged = dict(zip(header.split(","), first.split(","), strict=True))
    assert {"divergence", "loss_near"} <= logged.keys()
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "finished"
