from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gcoord.envs import TeamEnv, check_team_env
from gcoord.envs.copies import episode_seed
from gcoord.envs.mpe import simple_spread
from gcoord.spec import Continuous, Discrete

pytest.importorskip("mpe2")


def raw_spread(**kwargs: Any) -> Any:
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(**kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"continuous": True, "density": "arena"}, {"terminate_on_success": True}])
def test_simple_spread_keeps_every_promise(kwargs: dict[str, Any]) -> None:
    check_team_env(partial(simple_spread, max_cycles=8, workers=0, **kwargs), n_agents=[1, 3, 6], num_envs=2)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_it_is_the_raw_world_seen_without_what_grows_with_the_team(n: int, continuous: bool) -> None:
    env = simple_spread(n_agents=n, density="arena", continuous=continuous, workers=0, local_ratio=0.3)
    raw = raw_spread(N=n, continuous_actions=continuous, local_ratio=0.3)
    seen = env.reset(3)
    raw_seen, _ = raw.reset(seed=episode_seed(env._seed, 0, 0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(24):
        for i, name in enumerate(raw.possible_agents):
            # Raw: velocity, position, landmarks relative to oneself, others, messages.
            expected = torch.from_numpy(raw_seen[name])
            torch.testing.assert_close(seen.own[0, i], expected[:2])
            torch.testing.assert_close(seen.position[0, i], expected[2:4])
            ways = (seen.entity_position[0] - seen.position[0, i]).flatten()
            torch.testing.assert_close(ways, expected[4 : 4 + 2 * n], atol=1e-6, rtol=1e-5)
        shape = (1, n, 5) if continuous else (1, n)
        action = torch.rand(shape, generator=generator) if continuous else torch.randint(5, shape, generator=generator)
        given = action[0].numpy() if continuous else action[0].tolist()
        raw_seen, raw_reward, *_ = raw.step(dict(zip(raw.possible_agents, given, strict=True)))
        seen, outcome = env.step(action)
        np.testing.assert_allclose(outcome.reward[0].numpy(), list(raw_reward.values()), rtol=1e-5, atol=1e-6)


def test_actions_are_five_or_a_box_of_five() -> None:
    assert simple_spread(workers=0).spec.actions == (Discrete(5),)
    assert simple_spread(workers=0, continuous=False).spec.actions == (Discrete(5),)
    assert simple_spread(workers=0, continuous=True).spec.actions == (Continuous((0.0,) * 5, (1.0,) * 5),)


@pytest.mark.parametrize(("ratio", "rule"), [(0.0, "team"), (0.5, "mixed"), (1.0, "own")])
def test_the_rule_of_reward_follows_from_the_local_ratio(ratio: float, rule: str) -> None:
    env = simple_spread(workers=0, local_ratio=ratio)
    assert env.spec.reward == (rule,)
    env.reset()
    reward = env.step(torch.ones(1, 3, dtype=torch.long))[1].reward
    assert (reward == reward[:, :1]).all() or rule != "team"


def test_density_grows_the_square_and_the_time_or_leaves_them() -> None:
    def reach(n: int | None, density: str) -> tuple[float, int | None]:
        env = simple_spread(n_agents=n, density=density, workers=0, num_envs=20)  # type: ignore[arg-type]
        seen = env.reset()
        assert env.spec.n_entities == env.spec.n_agents
        return max(seen.position.abs().max().item(), seen.entity_position.abs().max().item()), env.spec.max_steps

    assert reach(None, "fixed")[1] == reach(3, "arena")[1] == reach(12, "arena")[1] == 25
    near, far = reach(12, "arena")[0], reach(12, "fixed")[0]
    assert 0.9 < near <= 1 and 1.8 < far <= 2 and reach(12, "fixed")[1] == 50


def figures(env: TeamEnv, scripted: bool) -> tuple[float, float]:
    """Return per agent and share of landmarks occupied, over one episode of every team."""
    seen = env.reset(1)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(env.spec.num_envs)
    while True:
        shape = (env.spec.num_envs, env.spec.n_agents)
        action = env.scripted(seen) if scripted else torch.randint(5, shape, generator=generator)  # type: ignore[attr-defined]
        seen, outcome = env.step(action)
        total += outcome.reward.mean(-1)
        if outcome.truncated.all():
            return total.mean().item(), outcome.metrics["success"].mean().item()


def test_random_and_scripted_figures_are_the_measured_ones() -> None:
    env = simple_spread(num_envs=100, workers=0, density="arena")
    total, success = figures(env, scripted=False)
    assert total == pytest.approx(-27.2, abs=3) and success < 0.04
    total, success = figures(env, scripted=True)
    assert total > -12 and success > 0.7


def test_the_script_works_on_boxes_too() -> None:
    assert figures(simple_spread(num_envs=30, workers=0, continuous=True, density="arena"), scripted=True)[1] > 0.6


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_agents": 0}, "expected at least one agent"),
        ({"density": "dense"}, "expected density to be fixed or arena"),
        ({"local_ratio": 2.0}, "expected local_ratio between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simple_spread(workers=0, **kwargs)
