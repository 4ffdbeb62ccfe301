"""Matrix games whose answers are known, by training on all joint actions, and the two-step game."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from gcoord.graph import Complete
from gcoord.learners.value import QLearner
from gcoord.models import MLPEncoder
from gcoord.models.agent import Body
from gcoord.models.mixers import Duplex, Each, Joint, Monotonic, Sum
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Step, Trajectory, observe

VALLEY = torch.tensor([[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]])
PEAKS = torch.tensor([[8.0, -12, -12], [-12, 6, 0], [-12, 0, 6]])
SAFE, RISKY = torch.full((2, 2), 7.0), torch.tensor([[0.0, 1], [1, 8]])


def rows_of(own: Tensor, after: Tensor, joint: Tensor, reward: Tensor, ends: Tensor) -> tuple[TeamSpec, Trajectory]:
    """One row of every team: own and after [B, 2, O], joint [B, 2], reward and ends [B]."""
    count = len(joint)
    spec = TeamSpec(count, 2, own.shape[-1:], (Discrete(int(joint.max()) + 1),), reward=("team",))
    no = torch.zeros(1, count, dtype=torch.bool)
    steps = Step(
        seen=observe(own).unsqueeze(0),
        action=joint.unsqueeze(0),
        reward=reward.view(1, count, 1).expand(1, count, 2).clone(),
        terminated=ends.unsqueeze(0),
        truncated=no,
        valid=~no,
        key=torch.arange(count).unsqueeze(0),
        batch_size=[1, count],
    )
    return spec, Trajectory(
        steps=steps, last=observe(after), last_key=torch.zeros(count, dtype=torch.long), batch_size=[]
    )


def one_step(payoff: Tensor) -> tuple[TeamSpec, Trajectory]:
    """Every joint action once; agents tell themselves apart by what they own."""
    joint = torch.cartesian_prod(*[torch.arange(len(payoff))] * 2)
    own = torch.eye(2).expand(len(joint), 2, 2)
    return rows_of(own, own, joint, payoff[joint[:, 0], joint[:, 1]], torch.ones(len(joint), dtype=torch.bool))


def two_steps() -> tuple[TeamSpec, Trajectory]:
    """QMIX's game: in state 0 the first agent's action leads to the safe or the risky state, which pay and end."""
    joint = torch.cartesian_prod(*[torch.arange(2)] * 2)
    own = torch.cat(
        [torch.eye(3).repeat_interleave(4, 0).unsqueeze(1).expand(12, 2, 3), torch.eye(2).expand(12, 2, 2)], -1
    )
    every = joint.repeat(3, 1)
    after = torch.where((torch.arange(12) < 4)[:, None, None], own[4 + 4 * every[:, 0]], own)
    reward = torch.cat([torch.zeros(4), SAFE.flatten(), RISKY.flatten()])
    return rows_of(own, after, every, reward, torch.arange(12) >= 4)


def some_of(batch: Trajectory, count: int) -> Trajectory:
    """So many of a batch's windows, drawn evenly."""
    drawn = torch.randint(len(batch.last_key), (count,))
    return Trajectory(
        steps=batch.steps[:, drawn], last=batch.last[drawn], last_key=batch.last_key[drawn], batch_size=[]
    )


def learn(
    game: tuple[TeamSpec, Trajectory],
    mixer,
    updates: int,
    lr: float,
    windows: int | None = None,
    start: tuple[float, ...] | None = None,
    **options,
) -> tuple[QLearner, Tensor]:
    """A learner after so many updates on the whole game or on `windows` drawn from it, and its values q [B, 2, A].

    start: the values that all agents begin with.
    """
    torch.manual_seed(0)
    spec, batch = game
    learner = QLearner(spec, partial(Body, spec, Complete(), partial(MLPEncoder, dim=32)), mixer, lr=lr, **options)
    if start is not None:
        torch.nn.init.zeros_(learner.agent.head.advantage.weight)
        learner.agent.head.advantage.bias.data.copy_(torch.tensor(start))
    optimizer = learner.configure_optimizers()
    for update in range(updates):
        if update == updates * 3 // 4:
            for group in optimizer.param_groups:
                group["lr"] = lr / 10
        optimizer.zero_grad()
        part = batch if windows is None else some_of(batch, windows)
        torch.stack(list(learner.losses(part).values())).sum().backward()
        optimizer.step()
        learner.on_train_batch_end(None, batch, 0)
    q, _ = learner.agent(batch.steps.seen[0])
    return learner, q.detach()


def test_iql_learns_the_mean_over_the_others_actions():
    _, q = learn(one_step(VALLEY), Each, 1500, 3e-3)
    torch.testing.assert_close(q[0], torch.tensor([-5.333, -4.0, -4.0]).expand(2, 3), atol=0.05, rtol=0)


def test_vdn_learns_the_closed_form_sum():
    _, q = learn(one_step(VALLEY), Sum, 1500, 3e-3)
    total = q[0, 0].unsqueeze(1) + q[0, 1].unsqueeze(0)
    assert total[0, 0].item() == pytest.approx(-6.222, abs=0.05)
    assert total[0, 1].item() == pytest.approx(-4.889, abs=0.05)
    assert total[1, 1].item() == pytest.approx(-3.556, abs=0.05)


def paid(payoff: Tensor, q: Tensor) -> float:
    """What everyone's own best action pays."""
    first, second = q[0].argmax(-1)
    return payoff[first, second].item()


@pytest.mark.parametrize("payoff", [VALLEY, PEAKS], ids=["valley", "peaks"])
def test_qtran_picks_the_best_joint_action(payoff):
    _, q = learn(one_step(payoff), Joint, 400, 5e-3)
    assert paid(payoff, q) == 8


def test_qplex_picks_the_best_joint_action_in_the_valley():
    # Drawn windows: with the whole game in every batch it stops where two actions are worth the same.
    _, q = learn(one_step(VALLEY), Duplex, 700, 3e-3, windows=3, lr_of={"mixer": 3e-2})
    assert paid(VALLEY, q) == 8


def test_qplex_keeps_to_the_best_joint_action_of_the_game_with_three_peaks():
    _, q = learn(one_step(PEAKS), Duplex, 500, 3e-3, start=(4.0, 0.0, 0.0), lr_of={"mixer": 1e-2})
    assert paid(PEAKS, q) == 8


def test_qmix_picks_at_most_six_of_the_game_with_three_peaks():
    _, q = learn(one_step(PEAKS), Monotonic, 400, 5e-3)
    assert paid(PEAKS, q) <= 6


@pytest.mark.parametrize("mixer, earns", [(Monotonic, 8), (Sum, 7)], ids=["qmix", "vdn"])
def test_in_the_two_step_game_qmix_earns_eight_and_vdn_seven(mixer, earns):
    _, q = learn(two_steps(), mixer, 1000, 4e-3, gamma=1.0, tau=0.1)
    state = 1 + q[0, 0].argmax()
    first, second = q[4 * state].argmax(-1)
    assert (SAFE, RISKY)[state - 1][first, second] == earns
