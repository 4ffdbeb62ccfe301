"""Targets of the Q-learner by hand: further ahead, double, weighed, and what it tells the source."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gcoord.graph import Complete
from gcoord.learners.terms import surprise
from gcoord.learners.value import QLearner
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.mixers import Each, MonotonicOfN, Sum
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Observation, Step, Trajectory

GAMMA = 0.5


def rows(reward, terminated=(), truncated=(), alive=None, n=1):
    """One team over len(reward) rows; rows after an end are spent on the reset. reward [T] or [T, N]."""
    reward = torch.tensor(reward, dtype=torch.float32).view(len(reward), 1, -1).expand(-1, -1, n).clone()
    count = len(reward)
    ends = torch.zeros(2, count, 1, dtype=torch.bool)
    ends[0, list(terminated)] = True
    ends[1, list(truncated)] = True
    valid = torch.ones(count, 1, dtype=torch.bool)
    for row in (*terminated, *truncated):
        valid[row + 1 : row + 2] = False
    living = torch.ones(count + 1, 1, n, dtype=torch.bool) if alive is None else torch.tensor(alive).view(-1, 1, n)
    seen = Observation(
        own=torch.zeros(count + 1, 1, n, 2),
        alive=living,
        kind=torch.zeros(count + 1, 1, n, dtype=torch.long),
        batch_size=[count + 1, 1],
    )
    steps = Step(
        seen=seen[:-1],
        action=torch.zeros(count, 1, n, dtype=torch.long),
        reward=reward,
        terminated=ends[0],
        truncated=ends[1],
        valid=valid,
        key=torch.zeros(count, 1, dtype=torch.long),
        batch_size=[count, 1],
    )
    return Trajectory(steps=steps, last=seen[-1], last_key=torch.zeros(1, dtype=torch.long), batch_size=[])


def make(mixer=Each, n=1, reward="own", **options):
    torch.manual_seed(0)
    spec = TeamSpec(1, n, (2,), (Discrete(3),), reward=(reward,))
    body = partial(Body, spec, Complete(), partial(GraphEncoder, dim=8, heads=2))
    return QLearner(spec, body, mixer, gamma=GAMMA, **options)


def targets(learner, batch, future):
    """y given what every next row is worth."""
    future = torch.tensor(future, dtype=torch.float32).view(len(future), 1, -1)
    if not learner.mixer.per_agent:
        future = future.squeeze(-1)
    return learner._targets(batch, batch.seen, future).flatten().tolist()


@pytest.mark.parametrize("mixer", [Each, Sum])
def test_n_steps_are_rewards_and_then_a_value_and_fewer_where_the_window_ends(mixer):
    learner, batch = make(mixer, n_step=2), rows([1.0, 2, 3])
    # y0 = 1 + 2/2 + 20/4, y1 = 2 + 3/2 + 40/4, y2 = 3 + 40/2
    assert targets(learner, batch, [10.0, 20, 40]) == pytest.approx([7.0, 13.5, 23.0])
    assert targets(make(mixer), batch, [10.0, 20, 40]) == pytest.approx([6.0, 12.0, 23.0])


@pytest.mark.parametrize("mixer", [Each, Sum])
def test_n_steps_are_cut_where_an_episode_ends_and_bootstrap_if_it_was_truncated(mixer):
    ended = rows([1.0, 2, 9, 4], terminated=[1])
    # y0 = 1 + 2/2, y1 = 2; row 2 is spent on the reset; y3 = 4 + 40/2
    found = targets(make(mixer, n_step=3), ended, [10.0, 20, 30, 40])
    assert [found[i] for i in (0, 1, 3)] == pytest.approx([2.0, 2.0, 24.0])
    cut = rows([1.0, 2, 9, 4], truncated=[1])
    # y0 = 1 + 2/2 + 20/4, y1 = 2 + 20/2
    found = targets(make(mixer, n_step=3), cut, [10.0, 20, 30, 40])
    assert [found[i] for i in (0, 1, 3)] == pytest.approx([7.0, 12.0, 24.0])


@pytest.mark.parametrize("mixer", [Each, Sum])
def test_lambda_returns_mix_all_looks_ahead_and_are_cut_where_an_episode_ends(mixer):
    learner = make(mixer, lam=0.5)
    # G2 = 3 + 40/2 = 23, G1 = 2 + (20/2 + 23/2) / 2 = 12.75, G0 = 1 + (10/2 + 12.75/2) / 2
    assert targets(learner, rows([1.0, 2, 3]), [10.0, 20, 40]) == pytest.approx([6.6875, 12.75, 23.0])
    # G1 = 2 (terminated), G0 = 1 + (10/2 + 2/2) / 2
    found = targets(learner, rows([1.0, 2, 9, 4], terminated=[1]), [10.0, 20, 30, 40])
    assert [found[i] for i in (0, 1, 3)] == pytest.approx([4.0, 2.0, 24.0])
    # G1 = 2 + 20/2 (truncated), G0 = 1 + (10/2 + 12/2) / 2
    found = targets(learner, rows([1.0, 2, 9, 4], truncated=[1]), [10.0, 20, 30, 40])
    assert [found[i] for i in (0, 1, 3)] == pytest.approx([6.5, 12.0, 24.0])


def test_the_dead_earn_on_only_where_the_reward_is_the_teams():
    alive = [[True, True], [True, False], [True, False]]
    future = [[10.0, 7], [20, 7]]
    own = targets(make(n=2, n_step=2), rows([1.0, 2], alive=alive, n=2), future)
    assert own[:3] == pytest.approx([1 + 2 / 2 + 20 / 4, 1.0, 2 + 20 / 2])
    team = targets(make(n=2, n_step=2, reward="team"), rows([1.0, 2], alive=alive, n=2), future)
    assert team[:3] == pytest.approx([7.0, 7.0, 12.0])


def test_lambda_one_over_a_whole_episode_is_its_discounted_return():
    learner, batch = make(lam=1.0), rows([1.0, 2, 4, 8], terminated=[3])
    assert targets(learner, batch, [99.0] * 4) == pytest.approx([4.0, 6.0, 8.0, 8.0])


def test_targets_by_hand_are_those_of_the_loss():
    learner, batch = make(n_step=2, double=False), rows([1.0, 2, 3])
    for agent, values in ((learner.agent, [0.0, 1, 2]), (learner.target_agent, [5.0, 6, 4])):
        for parameter in agent.head.parameters():
            parameter.data.zero_()
        agent.head.advantage.bias.data.copy_(torch.tensor(values))
    y = [1 + 2 / 2 + 6 / 4, 2 + 3 / 2 + 6 / 4, 3 + 6 / 2]  # the target network's best, and the action taken is worth 0
    assert learner.losses(batch)["td"].item() == pytest.approx(sum(x * x for x in y) / 3)


def test_double_q_learning_chooses_online_and_values_by_the_target():
    loss = {}
    for double in (False, True):
        learner, batch = make(double=double), rows([1.0])
        for agent, values in ((learner.agent, [0.0, 1, 2]), (learner.target_agent, [5.0, 6, 4])):
            for parameter in agent.head.parameters():
                parameter.data.zero_()
            agent.head.advantage.bias.data.copy_(torch.tensor(values))
        loss[double] = learner.losses(batch)["td"].item()
    assert loss[False] == pytest.approx((1 + 6 / 2) ** 2) and loss[True] == pytest.approx((1 + 4 / 2) ** 2)


@pytest.mark.parametrize("mixer", [Each, Sum])
def test_windows_count_by_their_weights(mixer):
    learner = make(mixer, n=2)
    one, two = rows([1.0], n=2), rows([3.0], n=2)
    alone = [learner.losses(batch)["td"].item() for batch in (one, two)]
    both = Trajectory(
        steps=torch.cat([one.steps, two.steps], 1),
        last=torch.cat([one.last, two.last]),
        last_key=torch.zeros(2, dtype=torch.long),
        weight=torch.tensor([0.25, 1.0]),
        batch_size=[],
    )
    expected = (0.25 * alone[0] + alone[1]) / 2
    assert learner.losses(both)["td"].item() == pytest.approx(expected)


def test_the_source_is_told_of_each_window_the_largest_and_the_mean_error():
    error = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert surprise(error, mask).tolist() == pytest.approx([0.9 * 3 + 0.1 * 2, 0.9 * 4 + 0.1 * 4])
    agents = torch.tensor([[[1.0, 3.0]], [[5.0, 9.0]]])  # [T = 2, B = 1, N = 2]
    living = torch.tensor([[[True, True]], [[True, False]]])
    assert surprise(agents, living).tolist() == pytest.approx([0.9 * 5 + 0.1 * (2 + 5) / 2])
    learner = make(n=2)
    learner.losses(rows([1.0, 2.0], n=2))
    assert learner.td_error.shape == (1,) and not learner.td_error.requires_grad


def test_epsilon_falls_by_the_same_factor_every_frame():
    learner = make(epsilon_start=0.6, epsilon_end=0.006, epsilon_frames=200, epsilon_decay="exponential")
    found = []
    for frames in (0, 100, 200, 999):
        learner.frames = frames
        found.append(learner.epsilon)
    assert found == pytest.approx([0.6, 0.06, 0.006, 0.006])


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"n_step": 0}, "expected n_step of at least 1"),
        ({"n_step": 2, "lam": 0.5}, "expected n_step of at least 1, or lam beside n_step=1"),
        ({"lam": 1.5}, "expected lam between 0 and 1"),
        ({"epsilon_decay": "cubic"}, "expected epsilon_decay to be linear or exponential"),
        ({"epsilon_decay": "exponential", "epsilon_end": 0.0}, "above 0 for an exponential decay"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(wrong, told):
    with pytest.raises(ValueError, match=told) as error:
        make(**wrong)
    assert "\n" not in str(error.value)


def test_a_mixer_bound_to_a_team_size_says_so():
    assert make(MonotonicOfN, n=3).fixed_n == 3
    assert make(Sum, n=3).fixed_n is None
