"""Promises of evaluation: what a run's policy does is what is told, under the conditions that are told."""

from __future__ import annotations

import pytest
import torch

import gcoord
from gcoord.command import run_command
from gcoord.data.collect import Keys
from gcoord.evaluate import evaluate
from gcoord.evaluate import validate as validate_evaluation
from gcoord.graph import Auto, Lossy, Radius
from gcoord.scaleup.protocol import Sweep, open_run
from gcoord.scaleup.report import read_csv
from gcoord.train import train, validate

TOY = ["num_envs=8", "model.encoder.dim=16", "evaluation.episodes=8", "evaluation.frames=0", "log.tensorboard=false"]
SHORT = ["source.steps=10", "source.epochs=1", "source.minibatch=40", "frames=100"]


def go(*overrides: str) -> int:
    return run_command("train", train, [*TOY, *SHORT, *overrides], validate=validate)


def judge(*overrides: str) -> int:
    return run_command("evaluate", evaluate, ["episodes=4", "processes=1", *overrides], validate=validate_evaluation)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A reactive and a recurrent run."""
    folder = tmp_path_factory.mktemp("runs")
    for memory in ("none", "gru"):
        assert go("env=native/meet", f"memory={memory}", f"run_dir={folder / memory}") == 0
    return folder


def open_sweep(folder, **options):
    run = open_run(folder, torch.device("cpu"))
    return Sweep([run], episodes=6, num_envs=3, seed=50, say=lambda text: None, **options), run


@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize("size", [4, 9])
def test_evaluation_gives_what_the_loaded_policy_gives_step_by_step(runs, memory, size):
    sweep, _ = open_sweep(runs / memory, env={"deaths": 0.05})
    ((_, played),) = sweep.at(size, ["zero_shot"])
    told = played.values["return"]
    policy = gcoord.load(runs / memory)
    assert policy.recurrent == (memory == "gru")
    env = gcoord.make_env("native/meet", n_agents=size, num_envs=3, deaths=0.05)
    seen, keys = env.reset(50), Keys(50, 3)
    policy.reset(3, size)
    returns, running = [[], [], []], torch.zeros(3)
    while any(len(one) < 2 for one in returns):
        alive = seen.alive
        seen, outcome = env.step(policy.act(seen, key=keys.take("cpu")))
        policy.reset(where=~outcome.valid)
        running = running + torch.where(alive & outcome.valid.unsqueeze(-1), outcome.reward, 0.0).sum(-1)
        for team in (outcome.terminated | outcome.truncated).nonzero().flatten().tolist():
            returns[team].append(float(running[team]))
            running[team] = 0
    by_hand = sorted(value for one in returns for value in one[:2])
    assert sorted(told) == pytest.approx(by_hand, abs=1e-5)


CHANGES = {
    "nothing": ([], ""),
    "a value that is as it was": (["+env.max_steps=20"], ""),
    "density, which has a column": (["env.density=null"], ""),
    "the world": (["+env.max_steps=7", "+env.deaths=0.1"], "env.max_steps=7 env.deaths=0.1"),
    "neighbours": (["+topology.k=1"], "topology.k=1"),
    "loss": (["+topology.drop=0.3", "+topology.k=2"], "topology.drop=0.3 topology.k=2"),
    "another": (["topology=radius", "topology.r=0.5"], "topology=Radius topology.r=0.5"),
    "both": (["+topology.k=1", "+env.max_steps=7"], "env.max_steps=7 topology.k=1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_row_tells_what_was_changed(runs, tmp_path, name):
    overrides, condition = CHANGES[name]
    assert judge(f"run={runs}/none", "n_agents=[4]", f"out={tmp_path}", *overrides) == 0
    rows = read_csv(tmp_path / "results.csv")
    assert {row.condition for row in rows} == {condition}
    assert {row.mode for row in rows} == {"zero_shot", "random", "scripted"}
    if "max_steps=7" in condition:
        assert all(row.value <= 7 for row in rows if row.metric == "length")


def test_a_changed_topology_is_the_one_the_policy_hears_by(runs):
    def topology(changes):
        return open_sweep(runs / "none", topology=changes)[1].policy.agent.body

    seen, key = gcoord.make_env("native/meet", n_agents=8, num_envs=16).reset(0), Keys(0, 16).take("cpu")
    assert topology(None).topology == Auto(3)
    assert topology({"k": 2}).topology == Auto(2)
    assert topology({"drop": 0.5, "k": 2}).topology == Lossy(Auto(2), 0.5)
    assert topology({"_target_": "gcoord.graph.Radius", "r": 0.5}).topology == Radius(0.5)
    assert (topology({"k": 2}).graph(seen, key).degree() == 2).all()
    assert (topology({"drop": 1.0}).graph(seen, key).degree() == 0).all()
    lost = topology({"drop": 0.5}).graph(seen, key).degree().float().mean()
    assert abs(lost - 1.5) < 0.3


BAD = {
    "+env.max_steps=many": "expected env.max_steps to be a whole number (got 'many')",
    "+env.maxsteps=3": "did you mean 'max_steps'",
    "+topology.k=two": "expected topology.k to be a whole number (got 'two')",
    "+topology.k=0": "expected k to be a whole number of at least 1 (got 0)",
    "+topology.r=0.5": "expected an argument of gcoord.graph.Auto",
    "+topology.drop=2": "expected drop between 0 and 1 (got 2)",
    "+topology.drop=much": "expected topology.drop to be a number",
    "topology=nothing": "expected topology to be one of",
}


@pytest.mark.parametrize("override", BAD)
def test_changes_that_cannot_be_are_refused_in_one_line_and_nothing_is_written(runs, tmp_path, capfd, override):
    assert judge(f"run={runs}/none", "n_agents=[4]", f"out={tmp_path}/out", override) == 2
    error = capfd.readouterr().err.strip()
    assert BAD[override] in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_a_world_of_one_team_size_is_judged_there_and_refused_elsewhere_in_one_line(tmp_path, capfd):
    folder = tmp_path / "r"
    assert go("env=vmas/give_way", "env.max_steps=10", f"run_dir={folder}") == 0
    assert "'n_agents=[2]'" in capfd.readouterr().out.replace("\n", ""), "the next line offers what the world takes"
    assert judge(f"run={folder}") == 2
    error = capfd.readouterr().err.strip()
    assert "expected vmas/give_way with its own team size 2 (got n_agents=4)" in error and "\n" not in error
    assert not (folder / "scale").exists()
    assert judge(f"run={folder}", "n_agents=2") == 0
    assert {row.n_agents for row in read_csv(folder / "scale" / "results.csv")} == {2}
