from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gcoord.envs import check_team_env
from gcoord.envs.copies import episode_seed
from gcoord.envs.multiwalker import multiwalker
from gcoord.spec import Continuous, Discrete

pytest.importorskip("Box2D")


def raw_multiwalker(**kwargs: Any) -> Any:
    from pettingzoo.sisl import multiwalker_v9

    return multiwalker_v9.parallel_env(**kwargs)


DEATHS = {"terminate_on_fall": False}


@pytest.mark.parametrize(
    ("kwargs", "sizes"),
    [({"max_cycles": 6}, [1, 3, 8]), ({"max_cycles": 4, "density": "arena", "continuous": False}, [2, 5])],
)
def test_multiwalker_keeps_every_promise(kwargs: dict[str, Any], sizes: list[int]) -> None:
    check_team_env(partial(multiwalker, workers=0, **kwargs), n_agents=sizes, num_envs=2)


@pytest.mark.parametrize("remove", [True, False])
def test_it_keeps_them_with_deaths_too(remove: bool) -> None:
    fall = {**DEATHS, "remove_on_fall": remove, "shared_reward": False, "max_cycles": 90}
    check_team_env(partial(multiwalker, workers=0, **fall), n_agents=[4], num_envs=2, steps=120)


@pytest.mark.parametrize(
    ("n", "kwargs"),
    [(3, {}), (3, {"shared_reward": False}), (5, {}), (4, DEATHS), (4, DEATHS | {"shared_reward": False})],
)
def test_it_is_the_raw_world_in_lengths_of_three_walkers_packages(n: int, kwargs: dict[str, Any]) -> None:
    # The noise is that of three walkers in our units; without any, both draw the same.
    quiet = {"position_noise": 0.0, "angle_noise": 0.0, **kwargs}
    env = multiwalker(n, density="arena", workers=0, **quiet)
    raw = raw_multiwalker(n_walkers=n, **quiet)
    seen, raw_seen = env.reset(3), raw.reset(seed=episode_seed(env._seed, 0, 0))[0]
    generator = torch.Generator().manual_seed(1)
    walkers, deaths = raw.unwrapped.env.walkers, 0
    while raw.agents:
        alive = [name in raw.agents for name in raw.possible_agents]
        assert seen.alive[0].tolist() == alive
        for i, name in enumerate(raw.possible_agents):
            if alive[i]:
                expected = raw_seen[name].copy()
                expected[24:30] *= n / 3
                np.testing.assert_allclose(seen.own[0, i], expected, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(seen.position[0, i], walkers[i].hull.position, rtol=1e-6)
        action = torch.rand(1, n, 4, generator=generator) * 2 - 1
        before = list(raw.agents)
        given = {name: action[0, i].numpy() for i, name in enumerate(raw.possible_agents) if name in before}
        raw_seen, raw_reward, ended, _, _ = raw.step(given)
        seen, outcome = env.step(action)
        for i, name in enumerate(raw.possible_agents):
            if name in before:
                assert outcome.reward[0, i].item() == pytest.approx(raw_reward[name], rel=1e-4, abs=1e-4)
        walkers = raw.unwrapped.env.walkers
        deaths += sum(ended[name] for name in before)
        if raw.agents:
            assert not outcome.terminated
    # What is out of time terminates in the raw world.
    out_of_time = raw.unwrapped.env.frames == 500
    assert outcome.truncated == out_of_time and outcome.terminated != out_of_time
    assert deaths == n


def test_a_fall_is_paid_once_where_asked() -> None:
    def after_the_first_fall(falls: str) -> float:
        env = multiwalker(3, workers=0, falls=falls, **DEATHS)  # type: ignore[arg-type]
        env.reset(0)
        generator = torch.Generator().manual_seed(0)
        fell = 0
        for _ in range(400):
            seen, outcome = env.step(torch.rand(1, 3, 4, generator=generator) * 2 - 1)
            assert not outcome.terminated, "expected a step with one fallen"
            if fell:
                return outcome.reward[0, seen.alive[0]][0].item()
            fell = int((~seen.alive).sum())
        raise AssertionError("nobody fell")

    assert after_the_first_fall("every_step") < -30 and abs(after_the_first_fall("once")) < 5


def test_time_is_up_by_truncation() -> None:
    env = multiwalker(workers=0, max_cycles=3)
    env.reset(0)
    for _ in range(3):
        outcome = env.step(torch.zeros(1, 3, 4))[1]
    assert outcome.truncated and not outcome.terminated


def test_the_way_to_go_is_the_same_for_every_team_and_ends_on_the_ground() -> None:
    def ground(n: int | None, density: str) -> tuple[float, float]:
        """Steps of the package's way, and from the first walker at its end to the border of the ground."""
        env = multiwalker(n, density=density, workers=0)  # type: ignore[arg-type]
        env.reset(0)
        outer = env._backend.copies[0].env  # type: ignore[union-attr]
        world, step = outer.env, 14 / 30
        goal = world.terrain_length - 10
        first = goal + (world.walkers[-1].hull.position.x - outer.start) / step
        return goal - outer.start / step, world.terrain_x[-1] / step + 1 - first

    assert ground(None, "fixed") == ground(3, "arena")
    assert ground(3, "fixed") == pytest.approx((170, 0), abs=1e-3)
    for n in (1, 2, 6, 20):
        way, room = ground(n, "fixed")
        assert way == pytest.approx(170, abs=1e-3) and room >= -1e-3
    assert ground(6, "arena")[1] < -10


def test_actions_are_torques_or_a_grid_of_them() -> None:
    assert multiwalker(workers=0).spec.actions == (Continuous((-1.0,) * 4, (1.0,) * 4),)
    env = multiwalker(workers=0, continuous=False)
    assert env.spec.actions == (Discrete(81),)
    # The last torque's values come first: number 5 is (-1, -1, 0, 1).
    box = multiwalker(workers=0)
    for one in (env, box):
        one.reset(0)
    seen = env.step(torch.full((1, 3), 5))[0]
    expected = box.step(torch.tensor([-1.0, -1, 0, 1]).expand(1, 3, 4))[0]
    assert torch.equal(seen.own, expected.own)
    assert multiwalker(workers=0, continuous=False, bins=2).spec.actions == (Discrete(16),)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_agents": 41}, r"expected 1 to 40 agents in sisl/multiwalker \(got 41\)"),
        ({"density": "dense"}, "expected density to be fixed or arena"),
        ({"n_agents": 20, "density": "arena"}, "expected terrain_length of at least 220"),
        ({"falls": "never"}, "expected falls to be every_step or once"),
        ({"continuous": False, "bins": 9}, "expected 2 bins or more, and at most 1,000 actions"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiwalker(workers=0, **kwargs)
