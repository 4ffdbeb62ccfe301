"""Promises of drop-out: the shares asked for, by node or by message, while learning and never after."""

from __future__ import annotations

import json

import pytest
import torch

import gcoord
from gcoord import run as runs
from gcoord.command import run_command
from gcoord.graph import Complete, Nearest
from gcoord.models.dropout import DropOut
from gcoord.run_folder import read_config
from gcoord.train import train, validate

TOY = ["env=native/meet", "num_envs=8", "model.encoder.dim=16", "evaluation.episodes=8", "log.tensorboard=false"]
SHORT = ["source.steps=10", "source.epochs=1", "source.minibatch=40", "frames=100"]


def graph(rows=400, n=5, m=3, topology=None):
    alive, there = torch.ones(rows, n, dtype=torch.bool), torch.ones(rows, m, dtype=torch.bool)
    made = (topology or Complete())(alive, torch.rand(rows, n, 2), there, torch.rand(rows, m, 2))
    return made, torch.arange(rows) * 7 + 3


def test_who_is_left_out_is_heard_by_nobody_and_still_hears():
    whole, key = graph()
    hears = DropOut(agents=0.3)(whole, key).hears()
    for j in range(5):
        others = [i for i in range(5) if i != j]
        heard = hears[:, others, j]
        assert (heard.all(-1) | ~heard.any(-1)).all()
        assert abs(float(heard[:, 0].float().mean()) - 0.7) < 0.07
    assert hears[..., 5:].all(), "things are another share"
    assert hears.any(-1).all(), "everybody goes on hearing"


def test_things_and_messages_have_shares_of_their_own():
    whole, key = graph()
    hears = DropOut(entities=0.4)(whole, key).hears()
    assert torch.equal(hears[..., :5], whole.hears()[..., :5])
    things = hears[..., 5:]
    assert (things == things[:, :1]).all() and abs(float(things.float().mean()) - 0.6) < 0.05
    messages = DropOut(messages=0.25)(whole, key).hears()[whole.hears()]
    assert abs(float(messages.float().mean()) - 0.75) < 0.02
    assert not DropOut() and DropOut(messages=0.1)


def test_lists_and_dense_graphs_lose_the_same_and_other_rows_something_else():
    whole, key = graph()
    drop = DropOut(agents=0.3, entities=0.2, messages=0.1)
    assert torch.equal(drop(whole, key).hears(), drop(whole.to_lists(), key).hears())
    assert torch.equal(drop(whole, key).hears(), drop(whole, key).hears())
    assert not torch.equal(drop(whole, key).hears(), drop(whole, key + 1).hears())


def run_of(tmp_path, *options):
    assert run_command("train", train, [*TOY, *SHORT, *options, f"run_dir={tmp_path}/r"], validate=validate) == 0
    return tmp_path / "r"


def test_the_learner_sees_whom_the_collector_left_out_so_the_first_ratio_is_one(tmp_path):
    cfg = read_config(run_of(tmp_path, "dropout.agents=0.4", "dropout.messages=0.2"))
    run = runs.build(cfg)
    batch = next(iter(run.source))
    assert batch.steps.seen.alive.any()
    run.learner.losses(batch)
    figures = run.learner.take_figures()
    assert abs(figures["approx_kl"]) < 1e-6 and figures["clip_fraction"] == 0
    assert 0.3 * 3 < figures["mean_degree"] < 0.65 * 3
    run.close()


@pytest.mark.parametrize("algo", ["qmix", "masac"])
def test_replayed_teams_are_thinned_out_too(tmp_path, algo):
    small = ["source.warmup=64", "source.bursts=1", "source.updates=2", "source.batch=8", "source.capacity=4000"]
    options = [*TOY, "frames=100", f"algo={algo}", "dropout.agents=1.0", *small, f"run_dir={tmp_path}/r"]
    assert run_command("train", train, options, validate=validate) == 0
    header, *lines = (tmp_path / "r" / "metrics.csv").read_text().splitlines()
    degrees = [dict(zip(header.split(","), line.split(","), strict=True))["mean_degree"] for line in lines]
    assert {float(degree) for degree in degrees} == {0.0}


def test_judged_and_saved_policies_leave_nobody_out(tmp_path):
    folder = run_of(tmp_path, "dropout.agents=1.0", "evaluation.frames=100")
    policy = gcoord.load(folder)
    env = gcoord.make_env("native/meet", n_agents=4, num_envs=8)
    assert (policy.agent.body.graph(env.reset(0)).degree() == 3).all()
    run = runs.build(read_config(folder))
    heard = []
    hook = run.learner.agent.body.register_forward_hook(lambda *args: heard.append(args[-1].graph.degree()))
    run.judged(4, 0, run.learner.agent)
    assert all((degree == 3).all() for degree in heard)
    hook.remove()
    assert run.learner.agent.body.dropout is not None, "learning goes on with it"
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    run.close()


@pytest.mark.parametrize("override", ["dropout.agents=1.5", "dropout.messages=-0.1", "dropout.entities=some"])
def test_what_is_no_share_is_refused_in_one_line(tmp_path, capfd, override):
    assert run_command("train", train, [*TOY, *SHORT, override, f"run_dir={tmp_path}/r"], validate=validate) == 2
    error = capfd.readouterr().err.strip()
    assert f"expected {override.partition('=')[0]}" in error and "\n" not in error


def test_neighbours_by_distance_are_thinned_not_replaced():
    whole, key = graph(topology=Nearest(2))
    thinned = DropOut(agents=0.5)(whole, key).hears()
    assert not (thinned & ~whole.hears()).any()
