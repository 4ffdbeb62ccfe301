"""Promises of the policy-gradient learner."""

from functools import partial

import pytest
import torch

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.sources import Replayed, Rollouts, columns_of, flat
from gcoord.graph import Auto, Lossy
from gcoord.learners.policy_gradient import PolicyGradient
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.critics import Assessed, Central, Local
from gcoord.models.memory import GRU
from gcoord.trajectory import Step, Trajectory, learns, observe


def make(critic=Central, topology=None, memory=None, n_agents=4, num_envs=6, steps=12, env=None, **options):
    torch.manual_seed(0)
    world = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=num_envs, **(env or {}))
    body = partial(
        Body, world.spec, topology or Auto(2), partial(GraphEncoder, dim=16, heads=2), memory=memory, normalise=False
    )
    learner = PolicyGradient(world.spec, body, critic, **options)
    source = Rollouts(learner, [Collector(world, 3)], steps=steps, epochs=2, minibatch=24)
    return learner, source


@pytest.mark.parametrize("topology", [Auto(2), Lossy(Auto(2), 0.5)], ids=["nearest", "lossy"])
@pytest.mark.parametrize("memory", [None, partial(GRU, dim=8)], ids=["reactive", "recurrent"])
@pytest.mark.parametrize("env", [{"continuous": False}, {"continuous": True}, {"deaths": 0.1}], ids=str)
def test_before_the_first_update_the_ratio_is_one_and_the_loss_is_minus_the_mean_advantage(topology, memory, env):
    learner, source = make(topology=topology, memory=memory, env=env, normalise_advantage=False)
    trajectory = learner.prepare(source.collect(12)[0])
    batch = trajectory if memory else flat(trajectory)
    losses = learner.losses(batch)
    figures = learner.take_figures()
    mask = learns(batch.steps)
    assert figures["clip_fraction"] == 0
    assert abs(figures["approx_kl"]) < 1e-6
    torch.testing.assert_close(losses["policy"], -batch.advantage[mask].mean(), rtol=1e-4, atol=1e-5)


def test_a_lossy_graph_that_is_redrawn_would_be_noticed():
    learner, source = make(topology=Lossy(Auto(2), 0.5))
    batch = flat(learner.prepare(source.collect(12)[0]))
    batch.steps.key = batch.steps.key + 1
    with torch.no_grad():
        for parameter in learner.agent.parameters():
            parameter.mul_(3)
    learner.losses(batch)
    assert learner.take_figures()["approx_kl"] > 1e-6


@pytest.mark.parametrize("critic", [Local, Central])
def test_actor_loss_leaves_critic_gradients_unchanged_and_the_other_way_round(critic):
    learner, source = make(critic=critic, entropy=0.01)
    losses = learner.losses(flat(learner.prepare(source.collect(12)[0])))
    (losses["policy"] + losses["entropy"]).backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in learner.critic.parameters())
    before = [None if p.grad is None else p.grad.clone() for p in learner.agent.parameters()]
    losses["value"].backward()
    for p, grad in zip(learner.agent.parameters(), before, strict=True):
        assert (p.grad is None) == (grad is None)
        assert grad is None or torch.equal(p.grad, grad)
    assert any(p.grad is not None and p.grad.any() for p in learner.critic.parameters())


def gradients(learner, batch):
    learner.zero_grad()
    losses = learner.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def test_garbage_in_dead_slots_changes_no_bit_of_losses_or_gradients():
    learner, source = make(env={"deaths": 0.2}, steps=15)
    raw = source.collect(15)[0]
    assert (~raw.steps.seen.alive).any()
    dirty = raw.clone()
    for part in (dirty.steps.seen, dirty.last):
        part.own[~part.alive] = float("nan")
        part.position[~part.alive] = float("inf")
    dead = ~dirty.steps.seen.alive
    dirty.steps.reward[dead] = float("nan")
    dirty.steps.log_prob[dead] = float("nan")
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    clean_gradients = gradients(learner, flat(learner.prepare(raw)))
    learner.load_state_dict(state)
    dirty_gradients = gradients(learner, flat(learner.prepare(dirty)))
    assert clean_gradients.keys() == dirty_gradients.keys()
    for name, gradient in clean_gradients.items():
        assert gradient.isfinite().all(), name
        assert torch.equal(gradient, dirty_gradients[name]), name


def test_gradients_are_clipped_per_group():
    learner, source = make(value_weight=1e6, max_grad_norm=0.5)
    optimizer = learner.configure_optimizers()
    batch = flat(learner.prepare(source.collect(12)[0]))
    gradients(learner, batch)
    actor_before = torch.stack([p.grad.norm() for p in learner.agent.parameters()]).norm()
    learner.configure_gradient_clipping(optimizer)
    norms = {
        group["name"]: float(torch.stack([p.grad.norm() for p in group["params"]]).norm())
        for group in optimizer.param_groups
    }
    assert norms["critic"] == pytest.approx(0.5, rel=1e-3)
    assert norms["actor"] == pytest.approx(min(float(actor_before), 0.5), rel=1e-3)


def test_each_round_makes_epochs_times_minibatches_updates_on_rows_of_the_current_policy():
    _, source = make(steps=12)
    batches = list(source)
    assert len(batches) == len(source) == 2 * 3
    rows = [batch.steps.batch_size.numel() for batch in batches]
    assert sum(rows) == 2 * 12 * 6
    seen = torch.cat([batch.steps.key.flatten() for batch in batches[:3]])
    assert len(seen.unique()) == len(seen)


def test_frames_are_environment_steps_without_reset_rows():
    learner, source = make(steps=60)
    trajectory = source.collect(60)[0]
    valid = int(trajectory.steps.valid.sum())
    assert 0 < valid < 60 * 6
    assert learner.frames == valid
    assert learner.agent_steps == valid * 4


def test_recurrent_batches_are_whole_sequences_that_give_the_log_probs_of_the_collector():
    learner, source = make(memory=partial(GRU, dim=8), steps=40)
    trajectory = source.collect(40)[0]
    assert (~trajectory.steps.valid).any()
    part = columns_of(learner.prepare(trajectory), torch.tensor([4, 1]))
    learner.losses(part)
    assert abs(learner.take_figures()["approx_kl"]) < 1e-6


@pytest.mark.parametrize("remembers", [False, True])
def test_a_critic_with_memory_and_no_other_values_a_row_by_those_before_it(remembers):
    learner, source = make(memory=partial(GRU, dim=8), steps=8, critic_memory=remembers)
    trajectory = source.collect(8)[0]
    assert trajectory.steps.valid.all()
    critic = learner.critic
    before = learner.prepare(trajectory.clone()).value
    # What the learner regresses on returns is what the rollout was assessed with.
    torch.testing.assert_close(critic.predict(trajectory.steps), before)
    trajectory.steps.seen.own[0] += 1.0
    after = critic.predict(trajectory.steps)
    assert (after[0] - before[0]).abs().max() > 1e-4
    assert ((after[1:] - before[1:]).abs().max() > 1e-4) == remembers


def test_a_critic_cannot_be_given_the_memory_that_the_actor_lacks():
    with pytest.raises(ValueError, match=r"expected memory=gru .* for algo.critic_memory=true"):
        make(critic_memory=True)


class Told(torch.nn.Module):
    """A critic that reads what everybody is worth off the first feature; a team with dead members is worth 100."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def assess(self, trajectory, agent, members):
        seen = trajectory.seen
        whole = seen.alive.all(-1)
        team = None if members is None else torch.where(whole, float("nan"), 100.0)
        return Assessed(seen.own[..., 0], team, None)


@pytest.mark.parametrize("reward", ["team", "own"])
def test_what_a_dead_agent_did_is_worth_the_pooled_team_only_where_the_reward_is_the_teams(reward):
    learner, _ = make(
        critic=Told, n_agents=2, num_envs=1, env={"reward": reward}, gamma=1.0, lam=0.5,
        normalise_value=False, normalise_advantage=False,
    )  # fmt: skip
    width = learner.spec.own[0]
    value = torch.tensor([[10.0, 4.0], [20.0, 6.0], [30.0, float("nan")], [99.0, float("nan")]])
    own = torch.cat([value.view(4, 1, 2, 1), torch.zeros(4, 1, 2, width - 1)], -1)
    alive = torch.tensor([[[True, True]], [[True, True]], [[True, False]], [[True, False]]])
    seen = observe(own, alive, position=torch.zeros(4, 1, 2, 2))
    flag = torch.zeros(3, 1, dtype=torch.bool)
    steps = Step(
        seen=seen[:3],
        action=torch.zeros(3, 1, 2, dtype=torch.long),
        reward=torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, float("nan")]]]),
        terminated=torch.tensor([[False], [False], [True]]),
        truncated=flag,
        valid=~flag,
        key=torch.arange(3).view(3, 1),
        log_prob=torch.zeros(3, 1, 2),
        batch_size=[3, 1],
    )
    trajectory = Trajectory(steps=steps, last=seen[3], last_key=torch.tensor([3]), batch_size=[])
    advantage = learner.prepare(trajectory).advantage[:, 0, 1]
    if reward == "team":
        # 1 + 6 - 4 = 3; 2 + 100 - 6 = 96; dead: 3 - 100 = -97 (by the mean over the living it would be 3 - 30)
        expected = [3 + 0.5 * (96 - 0.5 * 97), 96 - 0.5 * 97, 0]
    else:
        # 1 + 6 - 4 = 3; dying: 2 - 6 = -4
        expected = [3 - 0.5 * 4, -4, 0]
    torch.testing.assert_close(advantage, torch.tensor(expected))


def test_two_agents_are_learnt_from_like_any_other_number():
    for n_agents in (1, 2, 3, 5, 40):
        learner, source = make(n_agents=n_agents, num_envs=2, steps=4)
        gradient = gradients(learner, flat(learner.prepare(source.collect(4)[0])))
        assert all(g.isfinite().all() for g in gradient.values())


def test_observation_statistics_are_learnt_once_a_round_and_the_ratio_stays_one():
    learner, source = make(steps=12)
    world = source.collectors[0].env
    body = partial(Body, world.spec, Auto(2), partial(GraphEncoder, dim=16, heads=2), normalise=True)
    learner = PolicyGradient(world.spec, body, Central)
    source = Rollouts(learner, [Collector(world, 3)], steps=12, epochs=1, minibatch=72)
    for round_number in range(3):
        first = next(iter(source))
        learner.losses(first)
        assert abs(learner.take_figures()["approx_kl"]) < 1e-6
        source.end_round()
        assert learner.agent.body.normaliser.count > round_number
        assert learner.critic.body.normaliser.count > round_number


def test_a_source_of_the_other_kind_is_refused():
    learner, source = make()
    with pytest.raises(ValueError, match="expected source=rollouts for PolicyGradient"):
        Replayed(learner, source.collectors)
