from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gcoord.envs import TeamEnv, check_team_env
from gcoord.envs.copies import episode_seed
from gcoord.envs.sisl import make_pursuit, pursuit

pytest.importorskip("pettingzoo.sisl")


def raw_pursuit(**kwargs: Any) -> Any:
    from pettingzoo.sisl import pursuit_v5

    return pursuit_v5.parallel_env(**kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"density": "arena", "shared_reward": False}, {"surround": False}])
def test_pursuit_keeps_every_promise(kwargs: dict[str, Any]) -> None:
    check_team_env(partial(pursuit, max_cycles=8, workers=0, **kwargs), n_agents=[1, 4, 9], num_envs=2)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"n_pursuers": 3, "x_size": 7, "y_size": 9, "n_evaders": 4, "shared_reward": False},
        {"n_pursuers": 12, "x_size": 10, "y_size": 9, "n_evaders": 5, "surround": False},
        {"n_pursuers": 24, "x_size": 14, "y_size": 12, "n_evaders": 10, "shared_reward": False, "obs_range": 5},
    ],
)
def test_the_quicker_pursuit_is_the_worlds_own_bit_for_bit(kwargs: dict[str, Any]) -> None:
    ours, theirs = make_pursuit(**kwargs), raw_pursuit(**kwargs)
    rng, gone = np.random.default_rng(0), 0
    for seed in range(2):
        seen, raw_seen = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        while ours.agents and ours.unwrapped.env.frames < 60:
            for name in ours.agents:
                np.testing.assert_array_equal(seen[name], raw_seen[name])
            action = {name: int(rng.integers(5)) for name in ours.agents}
            seen, reward, ended, cut, _ = ours.step(action)
            raw_seen, raw_reward, raw_ended, raw_cut, _ = theirs.step(action)
            assert (dict(reward), ended, cut) == (dict(raw_reward), raw_ended, raw_cut)
        np.testing.assert_array_equal(ours.unwrapped.env.evaders_gone, theirs.unwrapped.env.evaders_gone)
        gone += int(ours.unwrapped.env.evaders_gone.sum())
    assert gone > 0 or "n_pursuers" not in kwargs or kwargs["n_pursuers"] == 3


def test_pursuit_is_the_raw_world_with_channels_first_and_positions_in_cells() -> None:
    env = pursuit(n_agents=8, workers=0, num_envs=1)
    raw = raw_pursuit()
    seen = env.reset(5)
    raw_seen, _ = raw.reset(seed=int(episode_seed(env._seed, 0, 0)))
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        for i, name in enumerate(raw.possible_agents):
            np.testing.assert_array_equal(seen.own[0, i].numpy(), raw_seen[name].transpose(2, 0, 1))
            assert seen.position[0, i].tolist() == raw.unwrapped.env.pursuers[i].current_position().tolist()
        action = torch.randint(5, (1, 8), generator=generator)
        raw_seen, raw_reward, *_ = raw.step(dict(zip(raw.possible_agents, action[0].tolist(), strict=True)))
        seen, outcome = env.step(action)
        np.testing.assert_allclose(outcome.reward[0].numpy(), list(raw_reward.values()), rtol=1e-6)


def test_density_grows_the_map_and_the_quarry_or_leaves_them() -> None:
    def sizes(n: int | None, density: str) -> tuple[int, int]:
        env = pursuit(n_agents=n, density=density, workers=0)  # type: ignore[arg-type]
        world = env._backend.copies[0].env.unwrapped.env  # type: ignore[union-attr]
        return world.x_size, world.n_evaders

    assert sizes(None, "fixed") == sizes(8, "fixed") == (16, 30)
    assert sizes(32, "fixed") == (32, 120) and sizes(4, "fixed") == (11, 15)
    assert sizes(32, "arena") == (16, 30)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_agents": 0}, r"expected 1 to 128 agents in sisl/pursuit \(got 0\)"),
        ({"n_agents": 129}, r"expected 1 to 128 agents"),
        ({"n_agents": 70, "density": "arena"}, r"expected at most 57 pursuers and evaders each on 16 x 16 cells"),
        ({"density": "dense"}, r"expected density to be fixed or arena \(got 'dense'\)"),
        ({"continuous": True}, r"expected continuous=false or auto"),
    ],
)
def test_what_pursuit_cannot_be_is_refused_before_the_world_hangs(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pursuit(workers=0, **kwargs)


def test_the_largest_teams_find_room() -> None:
    for n in (1, 2, 3, 64, 128):
        pursuit(n_agents=n, workers=0).reset(0)
    pursuit(n_agents=57, density="arena", workers=0, num_envs=20).reset(0)


def figures(env: TeamEnv, scripted: bool) -> tuple[float, float]:
    """Return per agent and share of evaders caught, of one episode in each team."""
    seen = env.reset(0)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(env.spec.num_envs)
    while True:
        shape = (env.spec.num_envs, env.spec.n_agents)
        action = env.scripted(seen) if scripted else torch.randint(5, shape, generator=generator)  # type: ignore[attr-defined]
        seen, outcome = env.step(action)
        total += outcome.reward.mean(-1)
        if (outcome.terminated | outcome.truncated).all():
            return total.mean().item(), outcome.metrics["success"].mean().item()


def test_the_script_catches_many_and_random_steps_none_to_speak_of() -> None:
    env = pursuit(num_envs=3, max_cycles=100, workers=0)
    scripted, random = figures(env, True), figures(env, False)
    assert scripted[0] > random[0] + 3 and scripted[1] > random[1] + 0.1
