"""native/meet keeps what it promises: it is what every learner's test runs on."""

from __future__ import annotations

import copy
import time
from functools import partial
from typing import Any

import pytest
import torch

from gcoord.envs import check_team_env
from gcoord.envs.native.meet import Meet
from gcoord.spec import Continuous, Discrete

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "continuous": {"continuous": True},
    "team reward": {"reward": "team"},
    "two kinds": {"kinds": 2},
    "mixed": {"kinds": 2, "continuous": "mixed"},
    "posts": {"entities": 3},
    "deaths": {"deaths": 0.1},
    "rejoins": {"deaths": 0.3, "rejoins": True},
    "walls": {"available": True},
    "everything": {"kinds": 2, "entities": 2, "deaths": 0.1, "rejoins": True, "available": True, "reward": "team"},
}


def play(env: Meet, policy: Any, seed: int = 0) -> tuple[float, float]:
    """Mean return per agent and success over one episode of each team."""
    seen = env.reset(seed)
    going = torch.ones(env.spec.num_envs, dtype=torch.bool)
    total, success = torch.zeros(2, env.spec.num_envs)
    while going.any():
        seen, outcome = env.step(policy(seen))
        total += outcome.reward.mean(-1) * going
        success = torch.where(going, outcome.metrics["success"], success)
        going = going & ~(outcome.terminated | outcome.truncated)
    return total.mean().item(), success.mean().item()


def random_policy(env: Meet) -> Any:
    generator = torch.Generator().manual_seed(0)
    shape = (env.spec.num_envs, env.spec.n_agents)

    def act(seen: Any) -> torch.Tensor:
        if env.spec.discrete:
            chances = torch.ones(*shape, env.spec.n_actions) if seen.available is None else seen.available + 1e-9
            return torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view(shape)
        return torch.rand(*shape, env.spec.n_actions, generator=generator) * 0.4 - 0.2

    return act


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_meet_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    check_team_env(partial(Meet, max_steps=6, **options), n_agents=(1, 2, 5))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_script_solves_what_chance_does_not(options: dict[str, Any]) -> None:
    env = Meet(num_envs=256, **options)
    scripted, success = play(env, env.scripted)
    by_chance, luck = play(env, random_policy(env))
    assert luck < 0.1 and by_chance < 0.15
    assert scripted > 0.45
    assert success > (0.6 if env.spec.rejoins or options.get("deaths") else 0.999)


def test_those_who_do_not_know_need_to_be_told() -> None:
    env = Meet(num_envs=512, continuous=True)

    def deaf(seen: Any) -> torch.Tensor:
        knows = seen.own[..., 2:3]
        return ((seen.own[..., 3:] - seen.own[..., :2]) * knows).clamp(-0.2, 0.2)

    _, success = play(env, deaf)
    known = env.reset(0).own[..., 2].mean().item()
    assert 0.4 < known < 0.6
    assert success < known + 0.05


def test_returns_are_the_distance_gained() -> None:
    env = Meet(num_envs=64, n_agents=3, continuous=True, max_steps=1000)
    seen = env.reset(3)
    state = env.state_dict()["state"]
    before = torch.linalg.vector_norm(seen.position - state["goal"].unsqueeze(1), dim=-1)
    total = torch.zeros(64, 3)
    for _ in range(4):
        seen, outcome = env.step(torch.full((64, 3, 2), 0.03))
        total += outcome.reward
    assert not outcome.terminated.any()
    after = torch.linalg.vector_norm(seen.position - state["goal"].unsqueeze(1), dim=-1)
    torch.testing.assert_close(total, before - after)


def test_team_reward_is_the_mean_of_the_living() -> None:
    own, team = (Meet(num_envs=32, reward=rule, deaths=0.3, seed=5) for rule in ("own", "team"))
    seen, _ = own.reset(1), team.reset(1)
    for _ in range(4):
        alive = seen.alive
        action = own.scripted(seen)
        seen, mine = own.step(action)
        _, ours = team.step(action)
        mean = (mine.reward * alive).sum(-1) / alive.sum(-1).clamp(min=1)
        torch.testing.assert_close(ours.reward, mean.unsqueeze(-1).expand(-1, 4) * mine.valid.unsqueeze(-1))


def test_the_dead_stay_dead_unless_they_may_rejoin() -> None:
    for rejoins in (False, True):
        env = Meet(num_envs=128, n_agents=6, deaths=0.2, rejoins=rejoins)
        alive, back = env.reset(0).alive, 0
        for _ in range(12):
            seen, outcome = env.step(torch.zeros(128, 6, dtype=torch.long))
            back += int((seen.alive & ~alive & outcome.valid.unsqueeze(-1)).sum())
            assert (outcome.reward[~alive & outcome.valid.unsqueeze(-1)] == 0).all()
            alive = seen.alive
        assert (back > 0) == rejoins


def test_actions_and_kinds_are_as_asked() -> None:
    assert Meet().spec.actions == (Discrete(5),)
    assert Meet(continuous=True).spec.actions == (Continuous((-0.2, -0.2), (0.2, 0.2)),)
    two = Meet(kinds=2).spec
    assert two.actions == (Discrete(5), Discrete(9)) and two.available
    mixed = Meet(kinds=2, continuous="mixed")
    assert [type(action) for action in mixed.spec.actions] == [Discrete, Continuous]
    seen = mixed.reset(0)
    action = torch.zeros(32, 4, mixed.spec.n_actions)
    action[:, ::2, 0] = 3  # walkers: up
    action[:, 1::2, 1] = -0.1  # runners: down
    after, _ = mixed.step(action)
    moved = (after.position - seen.position)[..., 1]
    inside = (seen.position.abs() < 0.75).all(-1)
    torch.testing.assert_close(moved[:, ::2][inside[:, ::2]], torch.full_like(moved[:, ::2], 0.2)[inside[:, ::2]])
    torch.testing.assert_close(moved[:, 1::2][inside[:, 1::2]], torch.full_like(moved[:, 1::2], -0.1)[inside[:, 1::2]])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_saved_world_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    env = Meet(num_envs=16, max_steps=5, **options)
    seen = env.reset(3)
    for _ in range(4):
        seen, _ = env.step(env.scripted(seen))
    other = Meet(num_envs=16, max_steps=5, seed=9, **options)
    other.load_state_dict(copy.deepcopy(env.state_dict()))
    for _ in range(12):
        action = env.scripted(seen)
        seen, mine = env.step(action)
        same, theirs = other.step(action)
        assert (seen == same).all()
        assert torch.equal(mine.reward, theirs.reward) and torch.equal(mine.valid, theirs.valid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": 3}, "kinds to be 1 or 2"),
        ({"continuous": "mixed"}, "mixed with 2 kinds"),
        ({"continuous": "maybe"}, "continuous to be auto"),
        ({"reward": "mixed"}, "reward to be own or team"),
        ({"deaths": 1.5}, "deaths to be a probability"),
        ({"n_agents": 0}, "at least one team and one agent"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Meet(**options)
    assert "\n" not in str(caught.value)


def test_a_step_costs_no_more_than_a_few_dozen_operations() -> None:
    env = Meet(num_envs=64)
    env.reset(0)
    action = torch.zeros(64, 4, dtype=torch.long)
    best = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        env.step(action)
        best = min(best, time.perf_counter() - start)
    assert best < 2e-3
