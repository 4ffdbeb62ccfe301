"""native/spread is mpe2's simple_spread, for any number of agents and landmarks at once."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gcoord.envs import check_team_env
from gcoord.envs.native.assignment import assign
from gcoord.envs.native.points import contacts, gap_to_nearest
from gcoord.envs.native.spread import CARDS, Spread
from gcoord.spec import Continuous, Discrete

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "continuous": {"continuous": True},
    "arena": {"density": "arena"},
    "team": {"local_ratio": 0.0, "landmarks": 4},
    "own": {"local_ratio": 1.0, "landmarks": 1, "terminate_on_success": True},
}


def play(env: Spread, policy: Any, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per agent and final success of each team's first episode."""
    seen, total = env.reset(seed), torch.zeros(env.spec.num_envs)
    for _ in range(env.spec.max_steps or 0):
        seen, outcome = env.step(policy(seen))
        total += outcome.reward.mean(-1)
    assert outcome.truncated.all()
    return total, outcome.metrics["success"]


def by_chance(env: Spread) -> Any:
    generator = torch.Generator().manual_seed(1)
    return lambda seen: torch.randint(5, seen.alive.shape, generator=generator)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_spread_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    check_team_env(partial(Spread, max_steps=6, **options), n_agents=(1, *CARDS["native/spread"].sizes))


def original(n: int, continuous: bool = False, seed: int = 0) -> Any:
    mpe = pytest.importorskip("mpe2.simple_spread_v3")
    world = mpe.parallel_env(N=n, continuous_actions=continuous)
    world.reset(seed=seed)
    return world


def moved_to(env: Spread, peer: Any) -> None:
    """Puts the first team where mpe2's agents and landmarks stand."""
    env.reset(0)
    state = copy.deepcopy(env.state_dict())
    world = peer.unwrapped.world
    for name, things in (("position", world.agents), ("landmark", world.landmarks)):
        state["state"][name][0] = torch.tensor(np.stack([thing.state.p_pos for thing in things]))
    state["state"]["contact"] = contacts(state["state"]["position"], state["state"]["position"], 0.3)[0]
    env.load_state_dict(state)


@pytest.mark.parametrize("continuous", [False, True], ids=["numbered", "continuous"])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_the_same_actions_lead_where_they_lead_in_mpe2(n: int, continuous: bool) -> None:
    # Eight agents of radius 0.15 in a square of 2 touch all the time, which is where physics could differ. Contact is
    # stiff: float32 and mpe2's float64 part by up to 1e-4 in 25 steps.
    touched = 0.0
    for seed in range(3):
        peer, env = original(n, continuous, seed), Spread(n, num_envs=2, density="arena", continuous=continuous)
        moved_to(env, peer)
        rng = np.random.default_rng(seed)
        for t in range(25):
            action = rng.random((n, 5), dtype=np.float32) if continuous else rng.integers(5, size=n)
            _, rewards, _, truncations, _ = peer.step({f"agent_{i}": action[i] for i in range(n)})
            seen, outcome = env.step(torch.tensor(action).expand(2, *action.shape))
            place = np.stack([agent.state.p_pos for agent in peer.unwrapped.world.agents])
            speed = np.stack([agent.state.p_vel for agent in peer.unwrapped.world.agents])
            np.testing.assert_allclose(seen.position[0], place, atol=1e-3)
            np.testing.assert_allclose(seen.own[0], speed, atol=1e-2)
            expected = [rewards[f"agent_{i}"] for i in range(n)]
            np.testing.assert_allclose(outcome.reward[0], expected, atol=1e-2)
            touched += outcome.metrics["collisions"][0].item()
            assert outcome.truncated[0].item() == all(truncations.values()) == (t == 24)
    assert touched > 0 or n < 8


def test_returns_are_distributed_as_in_mpe2() -> None:
    # 60 episodes a side: means may differ by four standard errors of their difference (one false alarm in 16,000).
    peer, returns, generator = original(3), [], np.random.default_rng(0)
    for episode in range(60):
        peer.reset(seed=episode)
        total = 0.0
        for _ in range(25):
            _, rewards, _, _, _ = peer.step({agent: int(generator.integers(5)) for agent in peer.agents})
            total += sum(rewards.values()) / 3
        returns.append(total)
    env = Spread(num_envs=1000, density="arena")
    ours, _ = play(env, by_chance(env))
    theirs = np.array(returns)
    error = np.sqrt(theirs.var(ddof=1) / 60 + ours.var().item() / 1000)
    assert abs(theirs.mean() - ours.mean().item()) < 4 * error
    assert 0.6 < theirs.std() / ours.std().item() < 1.5


def test_script_and_planner_reach_the_figures_measured_on_mpe2() -> None:
    """ANCHORS of the world: landmarks occupied at 3 to 6 agents, 25 steps, 100 episodes of mpe2 (s.e. 0.02)."""
    figures = {3: (0.94, 0.77, 0.01), 4: (0.89, 0.68, 0.02), 5: (0.86, 0.67, 0.02), 6: (0.85, 0.62, 0.01)}
    for n, (central, claims, luck) in figures.items():
        env = Spread(n, num_envs=300, density="arena")
        landmark: list[torch.Tensor] = []

        def planned(seen: Any, env: Spread = env, landmark: list[torch.Tensor] = landmark) -> torch.Tensor:
            landmark.append(landmark[0] if landmark else env.matched(seen))
            return env.towards(seen, landmark[0])

        _, at_start = play(env, planned)
        _, each_step = play(env, env.assigned)
        _, claimed = play(env, env.scripted)
        _, chance = play(env, by_chance(env))
        assert at_start.mean().item() == pytest.approx(central, abs=0.05)
        assert each_step.mean() > at_start.mean() - 0.01
        assert claimed.mean().item() == pytest.approx(claims, abs=0.06)
        assert chance.mean().item() == pytest.approx(luck, abs=0.015)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 5), (3, 6), (6, 3)])
def test_assignments_are_the_best_of_all(shape: tuple[int, int]) -> None:
    n, m = shape
    cost = torch.rand(20, n, m, generator=torch.Generator().manual_seed(0))
    cost[0] = 1.0
    found = assign(cost)
    assert ((found >= 0).sum(1) == min(n, m)).all()
    small = cost if n <= m else cost.transpose(1, 2)
    for b in range(20):
        chosen = [(i, int(j)) for i, j in enumerate(found[b]) if j >= 0]
        assert len({j for _, j in chosen}) == min(n, m)
        best = min(
            sum(small[b, i, j].item() for i, j in enumerate(columns))
            for columns in itertools.permutations(range(max(n, m)), min(n, m))
        )
        assert sum(cost[b, i, j].item() for i, j in chosen) == pytest.approx(best, abs=1e-5)


def test_assignments_agree_with_scipy_at_forty() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    cost = torch.rand(4, 40, 40, generator=torch.Generator().manual_seed(0))
    for b, found in enumerate(assign(cost)):
        rows, columns = optimize.linear_sum_assignment(cost[b])
        assert cost[b][torch.arange(40), found].sum().item() == pytest.approx(cost[b][rows, columns].sum().item())


def test_landmarks_may_be_more_or_fewer_than_agents() -> None:
    for landmarks in (1, 5):
        env = Spread(3, num_envs=100, landmarks=landmarks, density="arena")
        assert env.reset(0).entities.shape == (100, landmarks, 1)
        _, occupied = play(env, env.assigned)
        assert occupied.mean() > 0.9 * min(3 / landmarks, 1)


def test_a_policy_of_mpe_simple_spread_acts_here() -> None:
    pytest.importorskip("mpe2")
    from gcoord.envs.mpe import simple_spread

    for continuous in ("auto", True):
        peer = simple_spread(n_agents=4, num_envs=1, workers=0, continuous=continuous)
        try:
            mine = Spread(4, num_envs=1, continuous=continuous).spec
            assert mine.sizes_any() == peer.spec.sizes_any()
            assert (mine.max_steps, mine.density, mine.metrics) == (
                peer.spec.max_steps,
                peer.spec.density,
                peer.spec.metrics,
            )
        finally:
            peer.close()


def test_actions_are_as_asked() -> None:
    assert Spread().spec.actions == (Discrete(5),)
    assert Spread(continuous=True).spec.actions == (Continuous((0.0,) * 5, (1.0,) * 5),)


def test_the_arena_grows_with_the_team_unless_it_is_told_not_to() -> None:
    for density, half, steps in (("fixed", 2.0, 50), ("arena", 1.0, 25)):
        env = Spread(12, num_envs=64, density=density)
        seen = env.reset(0)
        assert half * 0.95 < seen.position.abs().max() <= half
        assert half * 0.95 < seen.entity_position.abs().max() <= half
        assert env.spec.max_steps == steps


def test_a_thousand_agents_share_a_world() -> None:
    env = Spread(1000, num_envs=1)
    seen = env.reset(0)
    for _ in range(3):
        seen, outcome = env.step(env.scripted(seen))
    assert outcome.reward.shape == (1, 1000) and outcome.reward.isfinite().all()


def test_contacts_in_parts_are_contacts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0)) * 2
    places[0, 1] = places[0, 0]
    whole, gaps = contacts(places, places, 0.3), gap_to_nearest(places, places[:, :7])
    assert whole[0].isfinite().all() and (whole[1] > 1).any()
    monkeypatch.setattr("gcoord.envs.native.points.PAIRS_AT_ONCE", 500)
    for once, parts in zip((*whole, gaps), (*contacts(places, places, 0.3), gap_to_nearest(places, places[:, :7]))):
        assert torch.equal(once, parts)


def test_an_episode_may_end_with_success() -> None:
    env = Spread(1, num_envs=256, density="arena", terminate_on_success=True)
    seen, ended = env.reset(0), 0
    for _ in range(25):
        seen, outcome = env.step(env.scripted(seen))
        ended += int(outcome.terminated.sum())
        assert torch.equal(outcome.terminated, outcome.valid & (outcome.metrics["success"] == 1))
    assert ended >= 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 0}, "at least one agent"),
        ({"density": "loose"}, "density to be fixed or arena"),
        ({"continuous": "maybe"}, "continuous to be auto, true or false"),
        ({"landmarks": 0}, "at least one landmark"),
        ({"local_ratio": 2.0}, "local_ratio between 0 and 1"),
        ({"max_steps": 0}, "at least one step"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Spread(**options)
    assert "\n" not in str(caught.value)


def test_states_of_other_shapes_and_bad_costs_are_refused() -> None:
    env = Spread(4, num_envs=2)
    env.reset(0)
    with pytest.raises(ValueError, match="the state of 2 teams of 3"):
        Spread(3, num_envs=2).load_state_dict(env.state_dict())
    with pytest.raises(ValueError, match="finite costs"):
        assign(torch.full((1, 2, 2), torch.inf))
    with pytest.raises(RuntimeError, match="reset"):
        Spread().step(torch.zeros(32, 3, dtype=torch.long))
