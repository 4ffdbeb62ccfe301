"""Advantages and targets, every number worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gcoord.returns import gae, n_step, td_lambda

nan = float("nan")


def row(*values: float) -> Tensor:
    """[T, 1, 1]: one agent's numbers over time."""
    return torch.tensor(values).view(-1, 1, 1)


def agents(*per_agent: list[float]) -> Tensor:
    """[T, 1, N]: each agent's numbers over time."""
    return torch.tensor(per_agent).T.unsqueeze(1)


def flags(text: str) -> Tensor:
    """[T, 1] bool from a string of 0 and 1."""
    return torch.tensor([mark == "1" for mark in text]).unsqueeze(1)


def lives(*texts: str) -> Tensor:
    """[T + 1, 1, N] bool, one string per agent."""
    return torch.stack([flags(text)[:, 0] for text in texts], -1).unsqueeze(1)


def close(x: Tensor, *values: float) -> None:
    torch.testing.assert_close(x.flatten(), torch.tensor(values, dtype=x.dtype), rtol=1e-6, atol=1e-6)


def random_case(agents: int, dead: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(agents)
    time, teams = 7, 5
    terminated = torch.rand(time, teams, generator=generator) < 0.15
    truncated = torch.rand(time, teams, generator=generator) < 0.15
    valid = ~torch.cat([torch.zeros(1, teams, dtype=torch.bool), (terminated | truncated)[:-1]])
    alive = torch.rand(time + 1, teams, agents, generator=generator) < (0.7 if dead else 2.0)
    return {
        "reward": torch.randn(time, teams, agents, generator=generator, dtype=torch.float64),
        "value": torch.randn(time + 1, teams, agents, generator=generator, dtype=torch.float64),
        "alive": alive,
        "terminated": terminated & valid,
        "truncated": truncated & valid,
        "valid": valid,
    }


TARGETS = {
    "gae": lambda **case: gae(**case, gamma=0.9, lam=0.8)[0],
    "td_lambda": lambda **case: td_lambda(**case, gamma=0.9, lam=0.8),
    "n_step": lambda **case: n_step(**case, gamma=0.9, n=3),
}


def test_three_rewards_of_one_give_three_two_one():
    advantage, returns = gae(
        row(1, 1, 1), row(0, 0, 0, 0), None, flags("001"), flags("000"), flags("111"), gamma=1.0, lam=1.0
    )
    close(advantage, 3, 2, 1)
    close(returns, 3, 2, 1)


def test_without_an_end_the_last_value_is_bootstrapped():
    advantage, returns = gae(
        row(1, 1, 1), row(2, 2, 2, 5), None, flags("000"), flags("000"), flags("111"), gamma=0.5, lam=1.0
    )
    # 1 + .5 * 1 + .25 * 1 + .125 * 5 = 2.375; 1 + .5 + .25 * 5 = 2.75; 1 + .5 * 5 = 3.5
    close(returns, 2.375, 2.75, 3.5)
    close(advantage, 0.375, 0.75, 1.5)


EPISODES = {"reward": row(1, 2, nan, 3, 4), "value": row(10, 20, 30, 40, 50, 60), "valid": flags("11011")}


def test_truncation_bootstraps_with_the_true_last_observation_and_cuts():
    advantage, returns = gae(
        alive=None, terminated=flags("00001"), truncated=flags("01000"), gamma=0.5, lam=0.5, **EPISODES
    )
    # deltas: 1 + 10 - 10 = 1; 2 + 15 - 20 = -3 and cut; reset row; 3 + 25 - 40 = -12; 4 - 50 = -46
    close(advantage, 1 - 0.25 * 3, -3, 0, -12 - 0.25 * 46, -46)
    close(returns, 10.25, 17, 0, 16.5, 4)


def test_termination_does_not_bootstrap_and_cuts():
    advantage, _ = gae(alive=None, terminated=flags("01001"), truncated=flags("00000"), gamma=0.5, lam=0.5, **EPISODES)
    close(advantage, 1 - 0.25 * 18, -18, 0, -23.5, -46)


def test_invalid_rows_contribute_nothing_and_carry_nothing_even_where_no_end_is_marked():
    case = {"reward": row(1, nan, 3), "value": row(10, 20, 30, 40), "alive": None, "valid": flags("101")}
    ends = {"terminated": flags("000"), "truncated": flags("000")}
    advantage, _ = gae(**case, **ends, gamma=0.5, lam=0.5)
    # 1 + 10 - 10 = 1, and nothing of what follows; 3 + 20 - 30 = -7
    close(advantage, 1, 0, -7)
    # 1 + .5 * 20: the invalid row is worth its value, and no more; 3 + .5 * 40
    close(n_step(**case, **ends, gamma=0.5, n=3), 11, 0, 23)


def test_own_reward_ends_with_the_agent():
    alive = lives("1111", "1100")
    reward = agents([1, 1, 1], [1, 2, nan])
    value = agents([0, 0, 0, 7], [5, 6, nan, nan])
    advantage, returns = gae(
        reward, value, alive, flags("000"), flags("001"), flags("111"), gamma=1.0, lam=1.0, shared=False
    )
    close(advantage[..., 0], 10, 9, 8)
    # 1 + 2 = 3 against 5; 2 against 6
    close(advantage[..., 1], -2, -4, 0)
    close(returns[..., 1], 3, 2, 0)


TEAM = {
    "reward": agents([1, 2, 3], [1, 2, 3], [1, 2, nan]),
    "value": agents([10, 20, 30, 99], [0, 5, 10, 99], [4, 6, nan, nan]),
    "alive": lives("1111", "1111", "1100"),
    "terminated": flags("001"),
    "truncated": flags("000"),
    "valid": flags("111"),
    "shared": True,
}


def test_team_reward_goes_on_after_a_death():
    _, returns = gae(**TEAM, gamma=1.0, lam=1.0)
    close(returns[..., 2], 6, 5, 0)
    close(returns[..., 0], 6, 5, 3)


def test_a_dead_agent_is_worth_the_mean_over_the_living_and_its_trace_follows_the_team():
    advantage, _ = gae(**TEAM, gamma=1.0, lam=0.5)
    # The team is worth (30 + 10) / 2 = 20 at row 2. Deltas of the third agent: 1 + 6 - 4 = 3; 2 + 20 - 6 = 16;
    # dead: the team's, 3 + 0 - 20 = -17, which is the mean of its living members' -27 and -7.
    close(advantage[..., 2], 3 + 0.5 * (16 - 0.5 * 17), 16 - 0.5 * 17, 0)
    # The first agent's are its own: 1 + 20 - 10 = 11; 2 + 30 - 20 = 12; 3 - 30 = -27.
    close(advantage[..., 0], 11 + 0.5 * (12 - 0.5 * 27), 12 - 0.5 * 27, -27)


def test_a_dead_agent_is_worth_the_pooled_value_where_a_central_critic_gives_one():
    pooled = torch.tensor([nan, nan, 100.0, nan]).unsqueeze(1)
    advantage, _ = gae(**TEAM, gamma=1.0, lam=0.5, team_value=pooled)
    # 1 + 6 - 4 = 3; 2 + 100 - 6 = 96; dead: 3 - 100 = -97
    close(advantage[..., 2], 3 + 0.5 * (96 - 0.5 * 97), 96 - 0.5 * 97, 0)


REJOIN = {
    "reward": agents([1, 3, 4], [1, nan, 4]),
    "value": agents([0, 10, 0, 0], [4, nan, 8, 16]),
    "alive": lives("1111", "1011"),
    "terminated": flags("000"),
    "truncated": flags("000"),
    "valid": flags("111"),
}


def test_on_return_a_shared_trace_ends_with_the_returned_agents_value():
    advantage, _ = gae(**REJOIN, gamma=1.0, lam=1.0, shared=True)
    # 1 + 10 - 4 = 7; dead: 3 + 8 - 10 = 1, and no further; returned: 4 + 16 - 8 = 12
    close(advantage[..., 1], 8, 0, 12)


def test_on_return_an_own_trace_has_long_ended():
    advantage, _ = gae(**REJOIN, gamma=1.0, lam=1.0, shared=False)
    close(advantage[..., 1], 1 - 4, 0, 12)


def test_some_agents_may_share_while_others_earn_their_own():
    case = {**TEAM, "shared": torch.tensor([True, False, True])}
    advantage, _ = gae(**case, gamma=1.0, lam=0.5)
    # The team is the first agent alone at row 2: worth 30.
    close(advantage[..., 2], 3 + 0.5 * (26 - 0.5 * 27), 26 - 0.5 * 27, 0)
    case = {**TEAM, "shared": torch.tensor([[True, True, False]])}
    advantage, _ = gae(**case, gamma=1.0, lam=0.5)
    close(advantage[..., 2], 3 + 0.5 * (2 - 6), 2 - 6, 0)


def test_when_the_whole_team_is_dead_nothing_follows():
    advantage, _ = gae(
        agents([1, nan], [1, nan]), agents([2, nan, nan], [3, nan, nan]), lives("100", "100"),
        flags("00"), flags("00"), flags("11"), gamma=1.0, lam=1.0, shared=True,
    )  # fmt: skip
    close(advantage, 1 - 2, 1 - 3, 0, 0)


def test_when_the_whole_team_is_dead_nothing_follows_whatever_a_critic_says_of_it():
    advantage, _ = gae(
        agents([1, nan], [1, nan]), agents([2, nan, nan], [3, nan, nan]), lives("100", "100"), flags("00"), flags("00"),
        flags("11"), gamma=1.0, lam=1.0, shared=True, team_value=torch.tensor([nan, 7.0, 7.0]).unsqueeze(1),
    )  # fmt: skip
    close(advantage, 1 - 2, 1 - 3, 0, 0)


def test_n_step_targets_by_hand():
    case = {**EPISODES, "alive": None, "terminated": flags("00001"), "truncated": flags("01000"), "gamma": 0.5}
    # One step: 1 + 10; 2 + 15 (truncated: the last observation's value); 0; 3 + 25; 4.
    close(n_step(**case, n=1), 11, 17, 0, 28, 4)
    # Two: 1 + .5 * 17; cut; 0; 3 + .5 * 4; 4.
    close(n_step(**case, n=2), 9.5, 17, 0, 5, 4)


def test_n_step_uses_the_rows_there_are():
    rows = {"reward": row(1, 1, 1), "value": row(9, 9, 9, 8), "alive": None}
    ends = {"terminated": flags("000"), "truncated": flags("000"), "valid": flags("111")}
    target = n_step(**rows, **ends, gamma=0.5, n=2)
    close(target, 1 + 0.5 + 0.25 * 9, 1 + 0.5 + 0.25 * 8, 1 + 0.5 * 8)


def test_n_step_targets_of_the_dead():
    own = {**TEAM, "shared": False}
    close(n_step(**own, gamma=1.0, n=3)[..., 2], 3, 2, 0)
    close(n_step(**TEAM, gamma=1.0, n=3)[..., 2], 6, 5, 0)
    close(n_step(**TEAM, gamma=1.0, n=1)[..., 2], 1 + 6, 2 + 20, 0)


@pytest.mark.parametrize("shared", [False, True])
def test_the_lambda_return_is_the_weighted_mean_of_all_n_step_returns(shared):
    case = {**random_case(3), "shared": shared}
    time, lam = case["reward"].shape[0], 0.7
    steps = [n_step(**case, gamma=0.9, n=n) for n in range(1, time + 1)]
    weighted = sum((1 - lam) * lam**n * target for n, target in enumerate(steps[:-1])) + lam ** (time - 1) * steps[-1]
    torch.testing.assert_close(td_lambda(**case, gamma=0.9, lam=lam), weighted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(td_lambda(**case, gamma=0.9, lam=1.0), steps[-1])
    torch.testing.assert_close(td_lambda(**case, gamma=0.9, lam=0.0), steps[0])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
def test_garbage_padding_and_order_change_nothing(target, shared, n):
    case = {**random_case(n), "shared": shared}
    plain = target(**case)
    assert plain.isfinite().all()
    assert (plain[~(case["alive"][:-1] & case["valid"].unsqueeze(-1))] == 0).all()

    unread = ~(case["alive"][:-1] & case["valid"].unsqueeze(-1))
    reward, value = case["reward"].clone(), case["value"].clone()
    reward[unread] = nan
    value[~case["alive"]] = nan
    assert torch.equal(target(**{**case, "reward": reward, "value": value}), plain)

    def pad(x: Tensor) -> Tensor:
        filler = torch.zeros_like(x) if x.dtype == torch.bool else torch.full_like(x, 1e6)
        return torch.cat([x, filler], -1)

    padded = {**case, **{name: pad(case[name]) for name in ("reward", "value", "alive")}}
    torch.testing.assert_close(target(**padded)[..., :n], plain, rtol=1e-12, atol=1e-12)

    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    turned = {**case, **{name: case[name][..., order] for name in ("reward", "value", "alive")}}
    torch.testing.assert_close(target(**turned), plain[..., order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_teams_own_numbers_need_no_agent_dimension(target):
    case = random_case(1, dead=False)
    team = {name: x[..., 0] if x.dim() == 3 else x for name, x in case.items()} | {"alive": None}
    torch.testing.assert_close(target(**team), target(**case)[..., 0])


def test_targets_carry_no_gradient():
    case = random_case(2)
    case["value"].requires_grad_()
    assert not gae(**case)[0].requires_grad
    assert not n_step(**case, n=2).requires_grad


def test_values_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match="expected value to have one row more than reward"):
        gae(row(1, 1), row(1, 1), None, flags("00"), flags("00"), flags("11"))
    with pytest.raises(ValueError, match="expected n to be at least 1"):
        n_step(row(1, 1), row(1, 1, 1), None, flags("00"), flags("00"), flags("11"), n=0)
