"""Promises of a run while it trains: precision, and one trainer a folder."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import gcoord
from gcoord import run as runs
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.fitting import fit
from gcoord.lock import FolderLock
from gcoord.train import train, validate

TOY = ["env=native/meet", "num_envs=8", "model.encoder.dim=16", "frames=80", "evaluation.frames=0"]
QUIET = ["evaluation.episodes=8", "log.tensorboard=false"]
SOURCES = {
    "mappo": ["source.steps=10", "source.epochs=1", "source.minibatch=40"],
    "qmix": ["source.warmup=64", "source.bursts=1", "source.updates=2", "source.batch=8", "source.capacity=4000"],
}


def built(*overrides: str) -> runs.Run:
    """The run that the command line would train."""
    cfgs = []
    assert run_command("train", lambda cfg, job: cfgs.append(cfg), [*TOY, *QUIET, *overrides]) == 0
    return runs.build(cfgs[0])


# Step sizes


@pytest.mark.parametrize("algo", SOURCES)
def test_step_sizes_fall_evenly_over_their_frames_and_go_on_where_they_were_after_a_resume(tmp_path, algo):
    fall = ["algo.lr=0.01", "algo.lr_frames=320", "algo.lr_end=0.25", "+algo.lr_of.actor=0.02", "frames=240"]
    run = built(*SOURCES[algo], f"algo={algo}", *fall)
    fit(run, tmp_path / "r")
    run.close()
    again = runs.resume(tmp_path / "r", frames=480)
    fit(again, tmp_path / "r")
    again.close()
    with open(tmp_path / "r" / "metrics.csv", newline="") as file:
        told = {int(row["frames"]): float(row["lr"]) for row in csv.DictReader(file)}
    assert len(told) >= 4 and max(told) >= 480
    assert told == {n: pytest.approx(0.02 * (1 - 0.75 * min(n / 320, 1)), rel=1e-5) for n in told}
    groups = load_state(tmp_path / "r" / "checkpoints" / "last")["optimizer"]["param_groups"]
    assert {group["name"]: group["lr"] for group in groups} == {
        group["name"]: pytest.approx(0.005 if group["name"] == "actor" else 0.0025) for group in groups
    }


@pytest.mark.parametrize("wrong", ["algo.lr_frames=0", "algo.lr_end=1.5"])
def test_a_fall_of_step_sizes_that_makes_no_sense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"expected {wrong.split('.')[1].split('=')[0]} "):
        built(*SOURCES["mappo"], "algo=mappo", "algo.lr_frames=10", wrong)


# Precision


def two_updates(folder, precision, algo, *overrides):
    """Losses of the first two updates, the ratio's distance from one at the first, and the run."""
    run = built(*SOURCES[algo], f"algo={algo}", f"precision={precision}", *overrides)
    seen, losses, figures = [], run.learner.losses, {}

    def recording(batch):
        told = losses(batch)
        seen.append({name: value.item() for name, value in told.items()})
        figures.setdefault("kl", float(run.learner._sums.get("approx_kl", torch.zeros(()))))
        return told

    run.learner.losses = recording
    fit(run, folder)
    run.close()
    return seen[:2], figures["kl"], run


@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize("algo", SOURCES)
def test_bfloat16_losses_are_those_of_float32_to_its_precision_and_the_saved_policy_is_float32(tmp_path, algo, memory):
    options = [algo, f"memory={memory}"]
    full, _, _ = two_updates(tmp_path / "full", "32-true", *options)
    mixed, kl, run = two_updates(tmp_path / "mixed", "bf16-mixed", *options)
    assert len(mixed) == 2 and mixed != full, "bfloat16 was not used"
    for ours, exact in zip(mixed, full, strict=True):
        assert ours == pytest.approx(exact, rel=0.05, abs=2e-3)
    # The collector computes as the learner does.
    assert abs(kl) < 1e-9
    policy = gcoord.load(tmp_path / "mixed")
    assert all(not p.is_floating_point() or p.dtype == torch.float32 for p in policy.agent.parameters())
    seen = gcoord.make_env("native/meet", n_agents=7, num_envs=3).reset(0)
    with runs.judging(run.learner.agent):
        judged = run.learner.agent(seen)[1].h
    assert torch.equal(policy.agent(seen)[1].h, judged)
    for mode in (run.learner.agent.eval(), run.learner.agent.train()):
        assert not torch.equal(mode(seen)[1].h, judged), "only who judges computes in full"


@pytest.mark.parametrize("model", ["mean", "additive", "edge", "conv", "mlp"])
def test_every_encoder_learns_in_bfloat16(tmp_path, model):
    losses, kl, _ = two_updates(tmp_path / "r", "bf16-mixed", "mappo", f"model={model}")
    assert all(abs(value) < 10 for one in losses for value in one.values())
    assert abs(kl) < 1e-6


# One trainer a folder


def go(*overrides: str) -> int:
    return run_command("train", train, list(overrides), validate=validate)


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "metrics.csv"}


def test_a_folder_that_is_trained_in_is_refused_in_one_line_until_its_process_is_gone(tmp_path, capfd):
    folder = tmp_path / "r"
    options = [*TOY, *QUIET, *SOURCES["mappo"], "checkpoint_frames=80", f"run_dir={folder}"]
    command = [sys.executable, "-m", "gcoord.train", *options, "frames=100000000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 90
        while not (folder / "checkpoints" / "last" / "state.json").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        capfd.readouterr()
        # Stopped, so that whatever changes in the folder now is the second trainer's doing.
        process.send_signal(signal.SIGSTOP)
        before = files_of(folder)
        assert go(f"resume={folder}", "frames=200000000") == 2
        error = capfd.readouterr().err
        assert f"expected a run folder that nobody trains in (got {folder}, held by process {process.pid}" in error
        assert error.strip().count("\n") == 0
        assert go(*options) == 2
        assert "go on with it by resume=" in capfd.readouterr().err
        assert files_of(folder) == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    saved = load_state(folder / "checkpoints" / "last")["learner"]["counters"]["frames"]
    assert go(f"resume={folder}", f"frames={saved + 80}") == 0


def test_two_runs_that_choose_the_same_new_folder_do_not_both_train_in_it(tmp_path):
    first, second = built(*SOURCES["mappo"]), built(*SOURCES["mappo"])
    fit(first, tmp_path / "r")
    with pytest.raises(ValueError, match="expected a run folder that nobody trains in") as error:
        fit(second, tmp_path / "r")
    assert "\n" not in str(error.value)
    first.close()
    with pytest.raises(ValueError, match="expected a run_dir without a run"):
        fit(second, tmp_path / "r")
    second.close()


def test_a_lock_goes_when_it_is_released_and_when_resuming_is_refused(tmp_path):
    folder = tmp_path / "r"
    assert go(*TOY, *QUIET, *SOURCES["mappo"], f"run_dir={folder}") == 0
    lock = FolderLock(folder)
    with pytest.raises(ValueError, match=f"held by process {os.getpid()} "):
        runs.resume(folder, frames=10**6)
    lock.release()
    for _ in range(2):
        with pytest.raises(ValueError, match="expected frames above"):
            runs.resume(folder)
    FolderLock(folder).release()
