"""Promises of evaluation: what a run's policy does is what is told, under the conditions that are told."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gcoord
from gcoord.command import run_command
from gcoord.data.tallies import Keys
from gcoord.evaluate import evaluate
from gcoord.evaluate import validate as validate_evaluation
from gcoord.graph import Auto, Lossy, Radius
from gcoord.scaleup.cells import Cell
from gcoord.scaleup.jobs import Job, do_all
from gcoord.scaleup.protocol import Sweep, latest, open_run
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


def open_sweep(run_folder, **options):
    run = open_run(run_folder, torch.device("cpu"))
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


# Whole sweeps

ALL = ["modes=[zero_shot,fine_tuned,scratch]", "fine_tune.frames=60", "scratch.frames=80", "evaluations=2"]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder of two seeds of one method."""
    folder = tmp_path_factory.mktemp("seeds")
    for seed in (0, 1):
        assert go("env=native/meet", f"seed={seed}", f"run_dir={folder}/{seed}") == 0
    return folder


def rows_of(folder):
    """Results by what they are told apart by."""
    rows = read_csv(folder / "results.csv")
    return {(row.mode, row.train_n_agents, row.n_agents, row.metric): row for row in rows}


def test_one_command_gives_every_mode_at_every_size_and_does_nothing_twice(seeds, tmp_path, capfd):
    options = [f"run={seeds}", "n_agents=[4,6]", "train_sizes=[2,4]", *ALL, f"out={tmp_path}"]
    assert judge(*options) == 0
    rows = rows_of(tmp_path)
    have = {(mode, train, n) for mode, train, n, _ in rows}
    assert have == {
        *((mode, "", n) for mode in ("random", "scripted") for n in (4, 6)),
        *(("zero_shot", train, n) for train in ("2", "4") for n in (4, 6)),
        ("fine_tuned", "4", 6),  # at 4 it would be no transfer
        ("scratch", "4", 4),
        ("scratch", "6", 6),
    }
    assert all(row.seeds == (1 if mode == "scripted" else 2) for (mode, *_), row in rows.items())
    for (mode, _, _, metric), row in rows.items():
        assert mode in ("random", "scripted") or metric not in ("messages", "agent_steps") or row.value > 0
    # Frames and agent steps both: the small run's 4 agents, then 6 of them.
    small = [json.loads((seeds / seed / "summary.json").read_text()) for seed in "01"]
    tuned = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/fine_tuned-*/summary.json"))]
    assert all(one["agent_steps"] == 6 * one["frames"] and one["frames"] >= 60 for one in tuned)
    frames, steps = ([a[name] + b[name] for a, b in zip(small, tuned)] for name in ("frames", "agent_steps"))
    row = rows["fine_tuned", "4", 6, "agent_steps"]
    assert row.value == sum(steps) / 2 and row.frames == max(frames)
    assert rows["fine_tuned", "4", 6, "frames_at_size"].value == sum(one["frames"] for one in tuned) / 2
    with (tmp_path / "curves.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["mode"], line["n_agents"], line["seed"]) for line in lines} == {
        *(("scratch", n, seed) for n in "46" for seed in "01"), *(("fine_tuned", "6", seed) for seed in "01"),
    }  # fmt: skip
    assert "0" in {line["frames"] for line in lines} and {row.metric for row in read_csv(tmp_path / "times.csv")}
    kept = {path: path.stat().st_mtime_ns for path in [*tmp_path.glob("cells/*"), *tmp_path.glob("runs/*/policy.json")]}
    first = (tmp_path / "results.csv").read_text()
    capfd.readouterr()
    assert judge(*options) == 0
    assert "[1/" not in capfd.readouterr().out
    assert (tmp_path / "results.csv").read_text() == first
    assert judge(*options, "episodes=6") == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "other episodes are other cells, beside the first"
    assert len(list(tmp_path.glob("cells/*"))) == 2 * len([path for path in kept if path.parent.name == "cells"])
    assert len(list(tmp_path.glob("runs/*"))) == len([path for path in kept if path.name == "policy.json"])


def test_a_cell_is_used_again_only_for_the_same_weights(runs, tmp_path):
    sweep, _ = open_sweep(runs / "none", folder=tmp_path)
    (job,) = sweep.plan([4], ["zero_shot"])
    assert isinstance(job.work, Cell) and not job.is_done
    do_all([job], 1, lambda text: None)
    assert job.is_done
    path = job.work.path(tmp_path / "cells")
    content = json.loads(path.read_text())
    content["configuration"]["policy"] = "another"
    path.write_text(json.dumps(content))
    assert not job.is_done
    path.write_text(path.read_text()[:100])
    assert not job.is_done, "a torn file is none"


def test_shared_out_among_processes_it_gives_the_same_figures(seeds, tmp_path):
    options = [f"run={seeds}", "n_agents=[3,4]", "modes=[zero_shot,scratch]", "scratch.frames=60", "evaluations=1"]
    assert judge(*options, f"out={tmp_path}/one") == 0
    assert judge(*options, f"out={tmp_path}/two", "processes=2") == 0
    assert (tmp_path / "one" / "results.csv").read_text() == (tmp_path / "two" / "results.csv").read_text()
    assert (tmp_path / "one" / "curves.csv").read_text() == (tmp_path / "two" / "curves.csv").read_text()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


def test_killed_with_signal_nine_a_sweep_goes_on_and_leaves_no_orphans(seeds, tmp_path):
    options = [f"run={seeds}", "n_agents=[3,4]", "modes=[zero_shot,fine_tuned]", "fine_tune.frames=1500", "episodes=4"]
    options += ["+fine_tune.changes.checkpoint_frames=80", "processes=2"]
    command = [sys.executable, "-m", "gcoord.evaluate", *options, f"out={tmp_path}/a"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        wait_for(lambda: list(tmp_path.glob("a/runs/*/checkpoints/last")) or process.poll() is not None, 120)
        assert process.poll() is None
        workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert len(workers) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(map(is_alive, workers)), 10)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("a/cells/*.json")}
    begun = set(tmp_path.glob("a/runs/*"))
    assert judge(*options[:-1], f"out={tmp_path}/a") == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and set(tmp_path.glob("a/runs/*")) >= begun
    assert judge(*options[:-1], f"out={tmp_path}/whole") == 0
    assert (tmp_path / "a" / "results.csv").read_text() == (tmp_path / "whole" / "results.csv").read_text()


def test_a_job_that_fails_is_named_and_the_others_are_done(runs, tmp_path):
    sweep, _ = open_sweep(runs / "none", folder=tmp_path)
    (good,) = sweep.plan([4], ["zero_shot"])
    bad = Job(Cell(**{**vars(good.work), "env": {**good.work.env, "deaths": 7.0}}), good.folder)
    for processes in (1, 2):
        (failure,) = do_all([bad, good], processes, lambda text: None)
        assert "expected" in failure.reason and "\n" not in failure.reason and good.is_done
        good.work.path(tmp_path / "cells").unlink()


def test_a_run_that_is_what_training_from_scratch_would_be_is_taken_for_it(seeds, tmp_path):
    options = [f"run={seeds}", "n_agents=[4]", "modes=[zero_shot,scratch]", "scratch.frames=100", f"out={tmp_path}"]
    assert judge(*options) == 0
    assert not (tmp_path / "runs").exists()
    rows = rows_of(tmp_path)
    assert rows["scratch", "4", 4, "return"].value == rows["zero_shot", "4", 4, "return"].value


REFUSED = {
    "modes=[magic]": "expected modes among zero_shot, fine_tuned, scratch, random, scripted (got magic)",
    "modes=[scratch]": "expected scratch.frames=<environment steps> or scratch.runs for the mode scratch (got none)",
    "modes=[fine_tuned]": "expected fine_tune.frames=<environment steps> for the mode fine_tuned (got none)",
    "scratch.frames=0": "expected scratch.frames to be a positive whole number (got 0)",
    "fine_tune.frames=few": "expected fine_tune.frames to be a positive whole number (got 'few')",
    "fine_tune.train=some": "expected fine_tune.train to be all or heads (got 'some')",
    "processes=0": "expected processes to be a positive whole number (got 0)",
    "train_sizes=[0]": "expected train_sizes to be a positive whole number or a list of them (got [0])",
    "run=[here,here]": "expected at least one run, each once",
}


@pytest.mark.parametrize("override", REFUSED)
def test_sweeps_that_cannot_be_are_refused_in_one_line_and_nothing_is_written(runs, tmp_path, capfd, override):
    assert judge(f"run={runs}/none", "n_agents=[4]", f"out={tmp_path}/out", override) == 2
    error = capfd.readouterr().err.strip()
    assert REFUSED[override] in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_what_a_training_of_the_sweep_does_not_take_is_refused_before_it_begins(runs, tmp_path, capfd):
    options = [f"run={runs}/none", "n_agents=[4]", "modes=[scratch]", "scratch.frames=100", f"out={tmp_path}/out"]
    assert judge(*options, "+scratch.changes.algo.lr=fast") == 2
    assert "expected algo.lr to be a number (got 'fast')" in capfd.readouterr().err
    assert judge(*options, "+scratch.changes.algo.learning_rate=1") == 2
    assert "learning_rate" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_latest_run_is_none_that_a_sweep_or_an_evolution_trained(tmp_path):
    for place, when in (("a", 3), ("b", 5), ("a/scale/runs/tuned", 7), ("e/generations/0-n2/one", 9)):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text('{"status": "finished"}')
        os.utime(folder / "summary.json", (when, when))
    (tmp_path / "a" / "scale" / "cells").mkdir()
    assert latest(tmp_path) == tmp_path / "b"
