"""Promises of a run while it trains: precision, and one trainer a folder."""

from __future__ import annotations

import pytest
import torch

import gcoord
from gcoord import run as runs
from gcoord.command import run_command

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
    runs.fit(run, folder)
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
    assert abs(kl) < 1e-6
    policy = gcoord.load(tmp_path / "mixed")
    assert all(not p.is_floating_point() or p.dtype == torch.float32 for p in policy.agent.parameters())
    seen = gcoord.make_env("native/meet", n_agents=7, num_envs=3).reset(0)
    judged = run.learner.agent.eval()(seen)[1].h
    assert torch.equal(policy.agent(seen)[1].h, judged)
    assert not torch.equal(run.learner.agent.train()(seen)[1].h, judged), "train mode alone is mixed"


@pytest.mark.parametrize("model", ["mean", "additive", "edge", "conv", "mlp"])
def test_every_encoder_learns_in_bfloat16(tmp_path, model):
    losses, kl, _ = two_updates(tmp_path / "r", "bf16-mixed", "mappo", f"model={model}")
    assert all(abs(value) < 10 for one in losses for value in one.values())
    assert abs(kl) < 1e-6
