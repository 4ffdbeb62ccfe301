"""Known answers of REINFORCE, A2C, COMA and Belief-PPO."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.episodes import WholeEpisodes
from gcoord.graph import AgentGraph, Complete, Nearest
from gcoord.learners.policy_gradient import PolicyGradient
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body, Features
from gcoord.models.beliefs import BeliefPolicy
from gcoord.models.counterfactual import Counterfactual
from gcoord.models.critics import Local, NoCritic
from gcoord.models.heads import CategoricalChoice
from gcoord.models.memory import GRU
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import learns, observe

SIZES = [1, 2, 3, 5, 40]


def body_of(spec: TeamSpec, memory: object = None) -> Body:
    return Body(spec, Nearest(2, dense_up_to=64), partial(GraphEncoder, dim=16, heads=2), memory=memory)


def make(critic: object, memory: object = None, num_envs: int = 6, **options: object) -> tuple:
    torch.manual_seed(0)
    env = gcoord.make_env("native/meet", n_agents=4, num_envs=num_envs)
    learner = PolicyGradient(env.spec, partial(body_of, env.spec, memory=memory), critic, **options)
    return learner, Collector(env, 3)


def critic_of(n_agents: int, dead: int = 0) -> tuple[Counterfactual, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(n_agents)
    spec = TeamSpec(3, n_agents, (5,), (Discrete(4),), position_dim=2)
    critic = Counterfactual(body_of(spec)).double()
    alive = torch.ones(3, n_agents, dtype=torch.bool)
    alive[:, n_agents - dead :] = False
    h = torch.randn(3, n_agents, critic.body.out_dim, dtype=torch.float64)
    return critic, h, torch.randint(4, (3, n_agents)), alive


# REINFORCE and A2C


def test_without_a_critic_the_advantage_is_what_was_still_earned() -> None:
    learner, collector = make(NoCritic, lam=1.0, gamma=1.0, clip=None, normalise_advantage=False)
    source = WholeEpisodes(learner, [collector])
    list(source)
    trajectory = source._fresh[0]
    steps = trajectory.steps
    reward = torch.where(learns(steps), steps.reward, 0.0)
    expected = reward.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(trajectory.advantage, torch.where(learns(steps), expected, 0.0))


@pytest.mark.parametrize("memory", [None, partial(GRU, dim=8)], ids=["reactive", "recurrent"])
def test_every_team_is_learnt_from_for_one_whole_episode(memory: object) -> None:
    learner, collector = make(NoCritic, memory, lam=1.0, clip=None)
    source = WholeEpisodes(learner, [collector], steps=7)
    for _ in range(3):
        batches = list(source)
        steps = source._fresh[0].steps
        ends = steps.terminated | steps.truncated
        assert (ends.sum(0) == 1).all()
        assert (steps.valid == (ends.flip(0).cumsum(0).flip(0) > 0)).all(), "valid from the start to the one end"
        assert len(batches) == len(source) == 1
        counted = batches[0].steps.valid.sum()
        assert int(counted) == int(steps.valid.sum())
    assert learner.frames >= int(steps.valid.sum())


def test_an_endless_world_is_refused_and_not_waited_for() -> None:
    learner, collector = make(NoCritic, clip=None)
    with pytest.raises(RuntimeError, match="expected episodes of"):
        list(WholeEpisodes(learner, [collector], steps=2, limit=4))


def test_without_a_clip_the_gradient_is_that_of_log_pi_times_the_advantage() -> None:
    learner, collector = make(Local, clip=None, normalise_advantage=False)
    trajectory = learner.prepare(collector.collect(learner.agent, 8, log_prob=True))
    steps, mask = trajectory.steps, learns(trajectory.steps)
    choice, _ = learner.agent.unroll(steps.seen, key=steps.key)
    expected = -(choice.log_prob(steps.action) * trajectory.advantage)[mask].mean()
    torch.testing.assert_close(learner.losses(trajectory)["policy"], expected)


# COMA


@pytest.mark.parametrize("n_agents", SIZES)
def test_an_agents_own_action_does_not_reach_its_counterfactual_values(n_agents: int) -> None:
    critic, h, action, alive = critic_of(n_agents)
    before = critic(h, action, alive)
    for i in {0, n_agents - 1}:
        other = action.clone()
        other[:, i] = (other[:, i] + 1) % 4
        after = critic(h, other, alive)
        assert torch.equal(before[:, i], after[:, i])
        if n_agents > 1:
            others = [j for j in range(n_agents) if j != i]
            assert (before[:, others] != after[:, others]).any()


@pytest.mark.parametrize("n_agents", SIZES)
def test_counterfactual_values_move_with_the_agents_and_the_dead_are_not_read(n_agents: int) -> None:
    critic, h, action, alive = critic_of(n_agents, dead=n_agents // 3)
    order = torch.randperm(n_agents)
    moved = critic(h[:, order], action[:, order], alive[:, order])
    assert (moved - critic(h, action, alive)[:, order]).abs().max() < 1e-10
    garbage = torch.where(alive.unsqueeze(-1), h, torch.nan)
    wrong = torch.where(alive, action, 99)
    living = alive.unsqueeze(-1)
    assert torch.equal(
        torch.where(living, critic(garbage, wrong, alive), 0), torch.where(living, critic(h, action, alive), 0)
    )


def test_the_counterfactual_advantage_has_mean_zero_and_leaves_the_gradient_as_it_was() -> None:
    critic, h, _, alive = critic_of(2)
    h, alive = h[:1], alive[:1]
    logits = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    with_q, with_advantage = 0.0, 0.0
    for a in range(4):
        for b in range(4):
            action = torch.tensor([[a, b]])
            choice = CategoricalChoice(logits)
            log_prob = choice.log_prob(action)
            joint = log_prob.sum().exp().detach()
            q = critic(h, action, alive).detach()
            taken = q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
            baseline = (choice.probs.detach() * q).sum(-1)
            assert (choice.probs.detach() * (q - baseline.unsqueeze(-1))).sum(-1).abs().max() < 1e-12
            with_q = with_q + joint * (log_prob * taken).sum()
            with_advantage = with_advantage + joint * (log_prob * (taken - baseline)).sum()
    grads = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (with_q, with_advantage)]
    torch.testing.assert_close(*grads)
    assert grads[0].abs().max() > 1e-4


def test_coma_learns_from_its_own_values_of_what_was_done() -> None:
    learner, collector = make(Counterfactual, clip=None, lam=0.8, normalise_advantage=False, normalise_value=False)
    trajectory = learner.prepare(collector.collect(learner.agent, 10, log_prob=True))
    steps, mask = trajectory.steps, learns(trajectory.steps)
    predicted = learner.critic.predict(steps)
    torch.testing.assert_close(predicted[mask], trajectory.value[mask])
    h = learner.critic.body.unroll(steps.seen, key=steps.key).h
    q = learner.critic(h, steps.action, steps.seen.alive)
    choice, _ = learner.agent.unroll(steps.seen, key=steps.key)
    expected = predicted - (choice.probs * q).sum(-1)
    torch.testing.assert_close(trajectory.advantage[mask], expected[mask])


def test_coma_refuses_boxes_of_actions_in_one_line() -> None:
    env = gcoord.make_env("native/meet", continuous=True)
    with pytest.raises(ValueError, match="expected discrete actions"):
        Counterfactual(body_of(env.spec))


# Belief-PPO


def believed(scripted: bool, steps: int = 400) -> float:
    """The cross-entropy that beliefs reach where h_j says what j does, or where j acts at random."""
    torch.manual_seed(0)
    spec = TeamSpec(64, 4, (5,), (Discrete(3),))
    head = BeliefPolicy(spec, 6, weight=1.0, beta=1e-4)
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    alive = torch.ones(64, 4, dtype=torch.bool)
    graph, own = Complete()(alive), torch.zeros(64, 4, 5)
    values = []
    for _ in range(steps):
        action = torch.randint(3, (64, 4))
        h = torch.randn(64, 4, 6)
        if scripted:
            h[..., :3] = nn.functional.one_hot(action, 3).float()
        loss = head.losses(Features(h, graph), observe(own), None, action)["belief"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    return sum(values[-50:]) / 50


def test_a_scripted_neighbour_is_foreseen() -> None:
    assert believed(scripted=True) < 0.05


def test_of_a_neighbour_that_acts_at_random_nothing_is_foreseen() -> None:
    assert believed(scripted=False) == pytest.approx(math.log(3), abs=0.02)


@pytest.mark.parametrize("n_agents", SIZES)
def test_beliefs_move_with_the_agents_at_any_team_size(n_agents: int) -> None:
    torch.manual_seed(0)
    spec = TeamSpec(2, n_agents, (5,), (Discrete(3),))
    head = BeliefPolicy(spec, 6).double()
    nn.init.normal_(head.own.logits.weight)
    alive = torch.rand(2, n_agents) < 0.8
    h, order = torch.randn(2, n_agents, 6, dtype=torch.float64), torch.randperm(n_agents)
    graph: AgentGraph = Complete()(alive)
    logits = head(h, graph=graph).logits
    moved = head(h[:, order], graph=Complete()(alive[:, order])).logits
    mask = alive.unsqueeze(-1)
    assert torch.where(mask[:, order], moved - logits[:, order], 0).abs().max() < 1e-10
    garbage = torch.where(mask, h, 1e9)
    assert torch.equal(torch.where(mask, head(garbage, graph=graph).logits, 0), torch.where(mask, logits, 0))


def test_whom_an_agent_hears_changes_what_it_does() -> None:
    torch.manual_seed(0)
    spec = TeamSpec(1, 3, (5,), (Discrete(3),))
    head = BeliefPolicy(spec, 6)
    nn.init.normal_(head.own.logits.weight)
    h = torch.randn(1, 3, 6)
    logits = head(h, graph=Complete()(torch.ones(1, 3, dtype=torch.bool))).logits
    h[:, 2] += 1.0
    assert (head(h, graph=Complete()(torch.ones(1, 3, dtype=torch.bool))).logits[:, 0] != logits[:, 0]).any()
    alone = Complete()(torch.tensor([[True, False, False]]))
    h[:, 1:] = 0
    assert head(h, graph=alone).logits[:, 0].isfinite().all()
