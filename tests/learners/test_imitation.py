"""Promises of imitation: known likelihoods, what is masked changes nothing, two ways of acting are both learnt."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import gcoord
from gcoord.data.dataset import Dataset, append, begin_shard
from gcoord.data.playing import random_actions
from gcoord.data.recording import record
from gcoord.data.windows import Windows
from gcoord.graph import Auto, Complete
from gcoord.learners.imitation import Imitation
from gcoord.models import GraphEncoder, MLPEncoder
from gcoord.models.agent import Body
from gcoord.models.kinds import policy_head
from gcoord.models.latent import LatentHead
from gcoord.models.memory import GRU
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Step, Trajectory, learns, observe, played


def recorded(folder, episodes=6, **options):
    """A batch of windows [5, 16] of random teams in native/meet, and their spec."""
    env = gcoord.make_env("native/meet", n_agents=3, num_envs=3, max_steps=6, **options)
    writer = begin_shard(folder)
    record(env, random_actions(env.spec, 0), None, episodes, 0, writer)
    append(folder, writer, "native/meet", {}, {"spec": env.spec.to_dict(), "episodes": episodes})
    windows = Windows(Dataset(folder).shards)
    batch, _ = windows.read(*windows.draw(16, torch.Generator().manual_seed(0)), 5)
    return batch, env.spec


def learner_of(spec, head=policy_head, memory=None, **options):
    torch.manual_seed(0)
    body = partial(Body, spec, Auto(2), partial(GraphEncoder, dim=16, heads=2), memory=memory)
    return Imitation(spec, body, head, **options)


KINDS = [
    {},
    {"continuous": True},
    {"kinds": 2, "deaths": 0.1},
    {"kinds": 2, "continuous": "mixed", "deaths": 0.1, "rejoins": True},
]


def test_an_undecided_policy_costs_the_logarithm_of_what_is_available(tmp_path):
    batch, spec = recorded(tmp_path, available=True)
    learner = learner_of(spec, partial(policy_head, gain=1e-8))
    legal = batch.steps.seen.available.sum(-1).double().log()[learns(batch.steps)].mean()
    assert learner.losses(batch)["nll"].item() == pytest.approx(legal.item(), abs=1e-4)
    assert learner.take_figures()["nll"] == pytest.approx(legal.item(), abs=1e-4)


def broken(batch):
    """The same batch with garbage where nothing may be read: dead agents, and rows that are not valid."""
    batch = batch.clone()
    dead = ~batch.steps.seen.alive
    off = ~learns(batch.steps)
    batch.steps.seen.own[dead] = float("nan")
    batch.steps.seen.kind[dead] = 77
    batch.steps.action[off] = batch.steps.action[off] + 1000 if batch.steps.action.dtype == torch.long else torch.nan
    return batch


@pytest.mark.parametrize("memory", [None, GRU])
@pytest.mark.parametrize("head", [policy_head, LatentHead])
@pytest.mark.parametrize("options", KINDS)
def test_the_dead_and_rows_that_are_not_valid_change_no_bit_and_every_kind_of_action_is_learnt(
    tmp_path, options, head, memory
):
    batch, spec = recorded(tmp_path, **options)
    learner = learner_of(spec, head, memory)
    results = []
    # Where a row is not valid the action is masked by its row, but a number must still be one that exists.
    for one in (batch, broken(batch)):
        one.steps.action = torch.where(
            (learns(one.steps).view(*learns(one.steps).shape, *(1,) * (one.steps.action.dim() - 3))),
            one.steps.action,
            torch.zeros((), dtype=one.steps.action.dtype),
        )
        torch.manual_seed(1)
        learner.zero_grad()
        losses = learner.losses(one)
        torch.stack(list(losses.values())).sum().backward()
        grads = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
        results.append(([x.item() for x in losses.values()], grads))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert all(math.isfinite(x) for x in results[0][0]) and any(g.abs().max() > 0 for g in results[0][1])
    figures = learner.take_figures()
    assert ("accuracy" in figures) == (not spec.continuous) and ("action_error" in figures) == (not spec.discrete)


def test_accuracy_and_error_are_those_of_the_most_likely_action(tmp_path):
    batch, spec = recorded(tmp_path, kinds=2, continuous="mixed")
    learner = learner_of(spec)
    learner.losses(batch)
    choice, _ = learner.agent.unroll(batch.steps.seen, key=batch.steps.key)
    mode, action, mask = choice.mode(), played(batch.steps), learns(batch.steps)
    first = batch.steps.seen.kind == 0
    same = (mode[..., 0] == action[..., 0])[mask & first].float().mean()
    apart = (((mode - action)[..., :2] / 0.2) ** 2).mean(-1)[mask & ~first].mean().sqrt()
    figures = learner.take_figures()
    assert figures["accuracy"] == pytest.approx(same.item()) and figures["action_error"] == pytest.approx(apart.item())


# Two ways of acting: everybody to the left or everybody to the right, nothing in between


SPEC = TeamSpec(64, 2, (1,), (Continuous((-1.0,), (1.0,)),))


def two_ways(count=64):
    side = torch.where(torch.rand(1, count, 2, 1) < 0.5, -0.6, 0.6) + 0.03 * torch.randn(1, count, 2, 1)
    flag = torch.zeros(1, count, dtype=torch.bool)
    seen = observe(torch.ones(1, count, 2, 1))
    steps = Step(seen, side, torch.zeros(1, count, 2), flag, flag, ~flag, flag.long(), batch_size=[1, count])
    return Trajectory(steps=steps, last=seen[0], last_key=flag[0].long(), batch_size=[])


def cloned(head, updates=500):
    torch.manual_seed(0)
    body = partial(Body, SPEC, Complete(), partial(MLPEncoder, dim=16))
    learner = Imitation(SPEC, body, head, lr=3e-3)
    optimizer = learner.configure_optimizers()
    for _ in range(updates):
        optimizer.zero_grad()
        torch.stack(list(learner.losses(two_ways()).values())).sum().backward()
        optimizer.step()
    return learner.agent


def test_a_latent_learns_both_ways_where_one_normal_would_cover_the_middle():
    middle = {}
    for name, head in (("normal", policy_head), ("latent", partial(LatentHead, latent=2))):
        choice, _ = cloned(head)(observe(torch.ones(500, 2, 1)))
        action = choice.sample()
        middle[name] = (action.abs() < 0.35).float().mean().item()
        assert 0.3 < (action > 0).float().mean().item() < 0.7
    assert middle["latent"] < 0.12 < 0.2 < middle["normal"]


def test_the_latents_bound_lies_below_the_likelihood_and_closes_in_with_more_draws():
    agent = cloned(partial(LatentHead, latent=1), updates=300)
    agent.head.weight = 1.0
    seen = observe(torch.ones(64, 2, 1))
    action = two_ways().steps.action[0]
    with torch.no_grad():
        choice, _ = agent(seen)
        # The exact likelihood: z on a grid, by the trapezium rule.
        grid = torch.linspace(-8, 8, 4001)
        each = torch.stack([choice.given(z.expand(64, 2, 1)).log_prob(action) for z in grid])
        weight = (-0.5 * grid**2 - 0.5 * math.log(2 * math.pi)).view(-1, 1, 1) + math.log(16 / 4000)
        exact = (each + weight).logsumexp(0).mean()
        elbo = -torch.stack([sum(choice.bound(action).values()).mean() for _ in range(200)]).mean()
        told = {}
        for draws in (1, 64):
            agent.head.draws = draws
            told[draws] = torch.stack([choice.log_prob(action).mean() for _ in range(200)]).mean()
    assert elbo < exact and told[1].item() == pytest.approx(elbo.item(), abs=0.1)
    assert told[1] < told[64] < exact + 0.01 and told[64].item() == pytest.approx(exact.item(), abs=0.1)


def test_what_a_latent_cannot_say_in_closed_form_is_refused():
    choice = LatentHead(TeamSpec(1, 2, (1,), (Discrete(3),)), 4)(
        torch.zeros(1, 2, 4), seen=observe(torch.ones(1, 2, 1))
    )
    for ask in (choice.entropy, lambda: choice.kl(choice)):
        with pytest.raises(ValueError, match="closed form"):
            ask()
    with pytest.raises(ValueError, match="at least 1"):
        LatentHead(TeamSpec(1, 2, (1,), (Discrete(3),)), 4, latent=0)
