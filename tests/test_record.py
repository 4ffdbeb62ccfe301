"""Promises of recording and learning from it, as typed: the clone of a script, resumed, at another size; refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import gcoord
from gcoord import run as runs
from gcoord.command import run_command
from gcoord.data.dataset import Dataset, read_manifest
from gcoord.record import main, validate
from gcoord.train import train
from gcoord.train import validate as validate_train

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "offline.md").read_text()
QUIET = ["log.tensorboard=false", "evaluation.episodes=50", "evaluation.num_envs=50"]
SMALL = ["env=native/meet", "model.encoder.dim=32", "model.encoder.heads=2"]


def record(*options: str) -> int:
    return run_command("record", main, list(options), validate=validate)


def learn(*options: str) -> int:
    return run_command("train", train, [*SMALL, *QUIET, *options], validate=validate_train)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "script"
    assert record("env=native/meet", "policy=scripted", "n_agents=[4,2]", "episodes=150", f"out={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def clone(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bc"
    options = ["algo=bc", f"dataset={data}", "n_agents=4", "frames=130000", "evaluation.frames=0", "algo.lr=3e-3"]
    assert learn(*options, f"run_dir={folder}") == 0
    return folder


def test_the_clone_of_a_script_comes_near_its_return(data, clone):
    summary = json.loads((clone / "summary.json").read_text())
    scripted = next(s for s in Dataset(data).shards if s.n_agents == 4).entry["figures"]
    trained = summary["test"]["4"]["trained"]
    assert scripted["success"] > 0.95 and trained["success"] > 0.7
    assert trained["return_per_agent"] > 0.9 * scripted["return_per_agent"]
    assert summary["frames"] >= 130_000 and summary["agent_steps"] == 4 * summary["frames"]


def test_another_of_a_worlds_scripts_is_recorded_by_its_name(tmp_path, capfd):
    options = ["env=native/spread", "policy=scripted", "n_agents=3", "episodes=100"]
    for script in ("scripted", "assigned"):
        assert record(*options, f"script={script}", f"out={tmp_path / script}") == 0
    plain, planned = (Dataset(tmp_path / script).shards[0].entry for script in ("scripted", "assigned"))
    assert planned["figures"]["success"] > 0.85 > plain["figures"]["success"]
    assert planned["policy"]["script"] == "assigned" and "script" not in plain["policy"]
    capfd.readouterr()
    assert record(*options, "script=guessed", f"out={tmp_path / 'none'}") == 2
    assert "expected a world with a script `guessed` for policy=scripted (got native/spread)" in capfd.readouterr().err


def test_what_was_cloned_at_four_acts_at_sixteen(clone):
    policy = gcoord.load(clone)
    env = gcoord.make_env("native/meet", n_agents=16, num_envs=100)
    from gcoord.data.playing import acts, play, random_actions

    def returns(act):
        return play(env, act, None, 100, 5)["return_per_agent"].mean().item()

    assert returns(acts(policy.agent)) > 0.3 > 0.1 > returns(random_actions(env.spec, 0))


def test_a_run_is_recorded_by_its_own_policy_and_added_to_what_is_there(clone, capfd):
    folder = clone / "data"
    assert record(f"run={clone}", "episodes=20") == 0
    assert record(f"run={clone}", "episodes=10", "policy=noisy", "epsilon=0.5", "n_agents=3", "greedy=false") == 0
    shards = read_manifest(folder)["shards"]
    assert [(s["episodes"], s["spec"]["n_agents"], s["seed"]) for s in shards] == [(20, 4, 0), (10, 3, 1)]
    described = json.loads((clone / "policy.json").read_text())["sha256"]
    assert shards[0]["policy"]["sha256"] == described and shards[0]["policy"]["run"] == str(clone)
    assert [s["policy"]["policy"] for s in shards] == ["trained", "noisy"]
    assert [s["policy"]["epsilon"] for s in shards] == [0.0, 0.5] and shards[1]["policy"]["greedy"] is False
    assert f"algo=bc dataset={folder}" in capfd.readouterr().out
    assert shards[0]["figures"]["return_per_agent"] > 0.6


def test_a_resumed_clone_is_the_one_that_was_not_interrupted(data, tmp_path):
    options = ["algo=bc_vae", f"dataset={data}", "source.updates=6", "source.minibatch=16", "evaluation.frames=0"]
    few = ["evaluation.episodes=2", "memory=gru", "checkpoint_frames=1"]
    assert learn(*options, *few, "frames=600", f"run_dir={tmp_path / 'whole'}") == 0
    assert learn(*options, *few, "frames=200", f"run_dir={tmp_path / 'halves'}") == 0
    # Anything may be recorded in between.
    assert record("env=native/meet", "policy=random", "n_agents=4", "episodes=3", f"out={data}") == 0
    assert run_command("train", train, [f"resume={tmp_path / 'halves'}", "frames=600"]) == 0
    whole, halves = (gcoord.load(tmp_path / name).agent.state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_a_run_learns_every_recorded_size_unless_told_otherwise_and_continuous_actions_are_found_out(tmp_path):
    options = ["env=native/meet", "env.continuous=true", "policy=random", "n_agents=[2,3]", "episodes=5"]
    assert record(*options, f"out={tmp_path / 'd'}") == 0
    cfgs = []
    typed = [*SMALL, *QUIET, "algo=bc", f"dataset={tmp_path / 'd'}", "evaluation.frames=0", "source.updates=2"]
    assert run_command("train", lambda cfg, job: cfgs.append(cfg), typed) == 0
    run = runs.build(cfgs[0])
    assert run.sizes == [2, 3] and run.spec.continuous
    assert run.judge(3).spec.continuous
    batch = next(iter(run.source))
    assert batch.steps.action.shape[-1] == 2
    run.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["policy=scripted"], "expected run=<folder>, or env=<world>"),
        (["env=native/meet"], "expected run=<folder>, or policy=scripted, random or noisy"),
        (["env=native/meet", "policy=trained"], "expected run=<folder>, or policy="),
        (["env=native/meet", "policy=best"], "got policy=best"),
        (["env=native/meet", "policy=random", "epsilon=0.1"], "expected policy=noisy"),
        (["env=native/meet", "policy=noisy", "epsilon=2"], "expected epsilon to be a number from 0 to 1"),
        (["env=native/meet", "policy=random", "episodes=0"], "expected episodes to be a positive"),
        (["env=native/meet", "policy=random", "n_agents=none"], "expected n_agents"),
        (["env=vmas/simple", "policy=scripted"], "expected a world with a script"),
        (["run=nowhere"], "expected a run folder"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_one_line_and_nothing_is_made(options, message, tmp_path, capfd):
    assert record(*options, f"out={tmp_path / 'new'}") == 2
    error = capfd.readouterr().err
    assert message in error and error.strip().count("\n") == 0 and not (tmp_path / "new").exists()


def test_a_seed_is_recorded_once(tmp_path, capfd):
    options = ["env=native/meet", "policy=random", "episodes=2", f"out={tmp_path / 'd'}"]
    assert record(*options, "seed=3") == 0 and record(*options) == 0
    assert [entry["seed"] for entry in read_manifest(tmp_path / "d")["shards"]] == [3, 0]
    assert record(*options, "seed=3") == 2
    assert "expected a seed that was not recorded yet (got 3)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["algo=bc"], "expected a value for dataset"),
        (["algo=bc", "dataset=nowhere"], "expected a dataset with nowhere/manifest.json (got none)"),
        (["algo=mappo", "dataset=nowhere"], "expected a key of the configuration (got 'dataset')"),
        (["algo=bc", "source=replay"], "expected source=offline dataset=<folder> for Imitation"),
    ],
)
def test_learning_without_data_is_refused_in_one_line(options, message, tmp_path, capfd):
    assert learn(*options, f"run_dir={tmp_path / 'r'}") == 2
    error = capfd.readouterr().err
    assert message in error and error.strip().count("\n") == 0 and not (tmp_path / "r").exists()


def test_the_pages_commands_and_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python -m gcoord\.(\w+) (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE)
    assert [name for name, _ in commands] == ["record"] * 2 + ["train"] * 6
    for name, typed in commands:
        options = [option.strip("'") for option in typed.split()]
        if name == "record":
            assert record(*options, "episodes=10", "num_envs=5") == 0
        else:
            online = ["source.warmup=20", "source.bursts=1", "source.batch=8", "num_envs=4"]
            quick = ["frames=60", "source.updates=2", "evaluation.frames=0"]
            quick += online if "init_from" in typed else ["source.minibatch=16"]
            assert run_command("train", train, [*options, *quick, *QUIET, "evaluation.episodes=2"]) == 0
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(block, "offline.md", "exec"), names)
    assert names["batch"].steps.batch_size == torch.Size([5, 32]) and names["frames"] > 0
