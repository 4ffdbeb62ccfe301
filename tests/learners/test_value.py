"""Promises of the Q-learner: targets by hand, DGN's graph and regulariser."""

from functools import partial

import pytest
import torch

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.sources import Replayed
from gcoord.graph import Auto
from gcoord.learners.terms import drift
from gcoord.learners.value import QLearner
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.memory import GRU
from gcoord.models.mixers import Each, Monotonic, Sum


def make(mixer=Each, memory=None, topology=None, n_agents=4, env=None, length=None, **options):
    torch.manual_seed(0)
    world = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=4, continuous=False, **(env or {}))
    encoder = partial(GraphEncoder, dim=16, heads=2)
    body = partial(Body, world.spec, topology or Auto(2), encoder, memory=memory)
    learner = QLearner(world.spec, body, mixer, **options)
    source = Replayed(
        learner, [Collector(world, 1)], capacity=2000, batch=16, length=length, steps=4, updates=2, bursts=2, warmup=200
    )
    return learner, source


def constant_q(learner, value: float) -> None:
    """Makes online and target values a constant."""
    for agent in (learner.agent, learner.target_agent):
        for parameter in agent.head.parameters():
            parameter.data.zero_()
        agent.head.advantage.bias.data.fill_(value)


@pytest.mark.parametrize("deaths", [0.0, 0.15])
def test_the_target_is_reward_plus_what_the_living_may_expect(deaths):
    learner, source = make(gamma=0.5, env={"deaths": deaths, "reward": "own"}, length=3)
    constant_q(learner, 2.0)
    batch = next(iter(source))
    loss = learner.losses(batch)["td"]
    steps, seen = batch.steps, batch.seen
    goes_on = (~steps.terminated).unsqueeze(-1) & seen.alive[1:]
    y = steps.reward + 0.5 * 2.0 * goes_on
    mask = steps.seen.alive & steps.valid.unsqueeze(-1)
    assert loss.item() == pytest.approx(((y - 2.0)[mask] ** 2).mean().item(), rel=1e-4)


def test_with_the_teams_reward_the_dead_expect_what_the_living_do():
    learner, source = make(gamma=0.5, env={"deaths": 0.15, "reward": "team"}, length=2)
    constant_q(learner, 2.0)
    batch = next(iter(source))
    steps, seen = batch.steps, batch.seen
    mask = steps.seen.alive & steps.valid.unsqueeze(-1)
    assert (mask & ~seen.alive[1:]).any()
    goes_on = (~steps.terminated & seen.alive[1:].any(-1)).unsqueeze(-1)
    y = (steps.reward + 0.5 * 2.0 * goes_on)[mask]
    assert learner.losses(batch)["td"].item() == pytest.approx(((y - 2.0) ** 2).mean().item(), rel=1e-4)


def test_dgn_keeps_the_graph_of_t_at_the_next_step():
    learner, source = make(keep_graph=True)
    batch = next(iter(source))
    seen, order = batch.seen, torch.zeros(batch.seen.batch_size, dtype=torch.bool)
    now, then = learner._both(learner.agent, seen, None, order, batch.keys_of_seen, False, None)
    alive = seen.alive[1:]
    kept = now.graph.hears() & alive.unsqueeze(-1) & alive.unsqueeze(-2)
    own = learner.agent.body.graph(seen[1:]).hears()
    assert (kept != own).any(), "the batch must contain a graph that changes"
    assert torch.equal(then.graph.hears(), kept)
    expected = learner.agent.body(seen[1:], graph=learner.agent.body.with_geometry(now.graph.among(alive), seen[1:]))
    torch.testing.assert_close(then.h, expected.h)


def test_drift_is_the_divergence_of_attention_now_from_attention_next_and_the_latter_is_detached():
    learner, source = make(keep_graph=True, drift=1.0)
    batch = next(iter(source))
    loss = learner.losses(batch)["drift"]
    seen, order = batch.seen, torch.zeros(batch.seen.batch_size, dtype=torch.bool)
    now, then = learner._both(learner.agent, seen, None, order, batch.keys_of_seen, True, None)
    p, q = now.attention[-1], then.attention[-1]
    by_hand = torch.where(p > 0, p * (p / q.clamp(min=1e-8)).log(), 0.0).sum(-1).mean(-2)
    mask = seen.alive[:-1] & seen.alive[1:] & batch.steps.valid.unsqueeze(-1)
    torch.testing.assert_close(loss, by_hand[mask].mean(), rtol=1e-4, atol=1e-7)
    assert loss > 0
    gradient = torch.autograd.grad(drift(now, then, mask), [p, q], allow_unused=True)
    assert gradient[0] is not None and gradient[1] is None


@pytest.mark.parametrize("mixer", [Each, Sum, partial(Monotonic, embed=8)])
@pytest.mark.parametrize("memory", [None, partial(GRU, dim=8)], ids=["reactive", "recurrent"])
@pytest.mark.parametrize("keep_graph", [False, True])
def test_garbage_in_dead_slots_changes_no_bit(mixer, memory, keep_graph):
    learner, source = make(mixer=mixer, memory=memory, keep_graph=keep_graph, env={"deaths": 0.2}, length=4)
    batch = next(iter(source))
    assert (~batch.steps.seen.alive).any()
    dirty = batch.clone()
    for part in (dirty.steps.seen, dirty.last):
        part.own[~part.alive] = float("nan")
        part.position[~part.alive] = float("nan")
    dirty.steps.reward[~dirty.steps.seen.alive] = float("nan")

    def gradients(of):
        learner.zero_grad()
        torch.stack(list(learner.losses(of).values())).sum().backward()
        return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}

    clean, with_garbage = gradients(batch), gradients(dirty)
    assert clean.keys() == with_garbage.keys() and clean
    for name, gradient in clean.items():
        assert gradient.isfinite().all(), name
        assert torch.equal(gradient, with_garbage[name]), name


def test_epsilon_falls_linearly_over_frames():
    learner, _ = make(epsilon_start=1.0, epsilon_end=0.2, epsilon_frames=100)
    values = []
    for frames in (0, 50, 100, 1000):
        learner.frames = frames
        values.append(learner.epsilon)
    assert values == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("tau, every", [(0.25, None), (0.01, 2)])
def test_target_networks_follow(tau, every):
    learner, _ = make(tau=tau, target_every=every)
    online, target = next(learner.agent.parameters()), next(learner.target_agent.parameters())
    before = target.clone()
    online.data.add_(1.0)
    learner.on_train_batch_end(None, None, 0)
    torch.testing.assert_close(target, before + (tau if every is None else 0.0))
    learner.on_train_batch_end(None, None, 1)
    if every == 2:
        torch.testing.assert_close(target, online)


def test_continuous_actions_are_refused_in_one_line():
    world = gcoord.make_env("native/meet", n_agents=3, continuous=True)
    with pytest.raises(ValueError, match="expected discrete actions") as error:
        QLearner(world.spec, partial(Body, world.spec, Auto(), partial(GraphEncoder, dim=16, heads=2)))
    assert "\n" not in str(error.value)
