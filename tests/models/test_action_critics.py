"""Promises of critics of actions: what may reach an agent's value, and what may not, at any team size."""

import pytest
import torch

from gcoord.models.action_critics import Local, Team

SIZES = [1, 2, 3, 5, 40]
DIM, CODE, K = 6, 3, 2


def team(n, dead=()):
    h, others, own = torch.randn(4, n, DIM), torch.randn(4, n, CODE), torch.randn(K, 4, n, CODE)
    alive = torch.ones(4, n, dtype=torch.bool)
    for i in dead:
        alive[:, i] = False
        h[:, i] = 0.0
    return h, alive, own, others


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_the_replayed_action_of_oneself_has_no_influence_and_that_of_the_others_has(n):
    critic = Team(DIM, CODE)
    h, alive, own, others = team(n)
    before = critic(h, alive, own, others)
    for i in range(n):
        changed = others.clone()
        changed[:, i] = torch.randn(4, CODE)
        after = critic(h, alive, own, changed)
        assert torch.equal(after[:, :, i], before[:, :, i])
        rest = [j for j in range(n) if j != i]
        assert (after[:, :, rest] != before[:, :, rest]).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_value_sends_a_gradient_to_the_own_row_of_what_was_done(n):
    critic = Team(DIM, CODE)
    h, alive, own, others = team(n)
    others.requires_grad_(True)
    for i in range(n):
        (gradient,) = torch.autograd.grad(critic(h, alive, own, others)[:, :, i].sum(), others)
        assert (gradient[:, i] == 0).all()
        assert (gradient[:, [j for j in range(n) if j != i]] != 0).any(-1).all()


@pytest.mark.parametrize("make", [Local, Team])
@pytest.mark.parametrize("n", SIZES)
def test_values_move_with_their_agents(make, n):
    critic = make(DIM, CODE)
    h, alive, own, others = team(n)
    order = torch.randperm(n)
    moved = critic(h[:, order], alive[:, order], own[:, :, order], others[:, order])
    assert (moved - critic(h, alive, own, others)[:, :, order]).abs().max() < 1e-5


@pytest.mark.parametrize("make", [Local, Team])
def test_the_dead_are_not_read_and_more_of_them_change_nothing(make):
    critic = make(DIM, CODE)
    h, alive, own, others = team(4, dead=[1, 3])
    q = critic(h, alive, own, others)
    others[:, [1, 3]] = float("nan")
    living = [0, 2]
    assert torch.equal(critic(h, alive, own, others)[:, :, living], q[:, :, living])
    few = critic(h[:, living], alive[:, living], own[:, :, living], others[:, living])
    torch.testing.assert_close(few, q[:, :, living], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [Local, Team])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_proposals_together_are_judged_as_one_by_one(make, n):
    critic = make(DIM, CODE)
    h, alive, own, others = team(n)
    together = critic(h, alive, own, others)
    for k in range(K):
        torch.testing.assert_close(critic(h, alive, own[k : k + 1], others)[0], together[k], rtol=1e-5, atol=1e-5)


def test_a_local_critic_does_not_read_the_others():
    critic = Local(DIM, CODE)
    h, alive, own, others = team(3)
    before = critic(h, alive, own, others)
    h[:, 1] += 1.0
    after = critic(h, alive, own, torch.randn_like(others))
    assert torch.equal(after[:, :, [0, 2]], before[:, :, [0, 2]]) and (after[:, :, 1] != before[:, :, 1]).all()
