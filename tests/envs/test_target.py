"""native/target is InforMARL's navigation: its physics, its rewards, its figures."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gcoord.envs import check_team_env
from gcoord.envs.native.points import draw_apart
from gcoord.envs.native.target import CARDS, Target
from gcoord.spec import Continuous, Discrete

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "continuous": {"continuous": True},
    "arena": {"density": "arena"},
    "team": {"reward": "team", "obstacles": 0},
}
PUSHES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], dtype=np.float64)


def play(env: Target, policy: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return per agent and metrics, as episodes reduce them, of each team's first episode."""
    seen = env.reset(seed)
    figures = {"return": torch.zeros(env.spec.num_envs), "collisions": torch.zeros(env.spec.num_envs)}
    for _ in range(env.spec.max_steps or 0):
        seen, outcome = env.step(policy(seen))
        figures["return"] += outcome.reward.mean(-1)
        figures["collisions"] += outcome.metrics["collisions"]
    return figures | {name: outcome.metrics[name] for name in ("success", "all_arrived", "time")}


def by_chance(env: Target) -> Any:
    generator = torch.Generator().manual_seed(1)
    return lambda seen: torch.randint(5, seen.alive.shape, generator=generator)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_target_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    check_team_env(partial(Target, max_steps=6, **options), n_agents=(1, *CARDS["native/target"].sizes))


class Original:
    """The published rules for one team, in loops and float64 (multiagent/core.py, navigation_graph.py of the paper)."""

    def __init__(self, position: Any, goal: Any, obstacle: Any) -> None:
        self.position, self.goal, self.obstacle = (x.double().numpy() for x in (position, goal, obstacle))
        self.velocity = np.zeros_like(self.position)

    def step(self, action: Any) -> np.ndarray:
        n = len(self.position)
        force = 5.0 * PUSHES[action]
        bodies = np.concatenate([self.position, self.obstacle])
        for i in range(n):
            for j in range(len(bodies)):
                if i != j:
                    gap = self.position[i] - bodies[j]
                    distance = np.sqrt((gap**2).sum())
                    overlap = np.logaddexp(0, -(distance - 0.1) / 1e-3) * 1e-3
                    force[i] += 100.0 * gap / distance * overlap
        for i in range(n):
            velocity = self.velocity[i] * 0.75 + force[i] * 0.1
            speed = np.sqrt((velocity**2).sum())
            self.velocity[i] = velocity / speed * 2 if speed > 2 else velocity
            self.position[i] += self.velocity[i] * 0.1
        reward = np.zeros(n)
        for i in range(n):
            distance = np.linalg.norm(self.position[i] - self.goal[i])
            reward[i] = 5.0 if distance < 0.1 else -distance
            for j in range(n):
                if j != i and np.linalg.norm(self.position[i] - self.position[j]) < 0.1:
                    reward[i] -= 5.0
            if any(np.linalg.norm(self.position[i] - obstacle) < 0.1 for obstacle in self.obstacle):
                reward[i] -= 5.0
        return reward


@pytest.mark.parametrize("n", [1, 3, 15])
def test_the_same_actions_lead_where_the_published_rules_lead(n: int) -> None:
    # Contact is stiff: float32 and float64 part by up to 1e-4 in 25 steps; a touch at the very edge may differ.
    env, mine = Target(n, num_envs=6, density="arena"), 0.0
    seen = env.reset(0)
    start = copy.deepcopy(env.state_dict()["state"])
    peers = [Original(*(start[name][b] for name in ("position", "goal", "obstacle"))) for b in range(6)]
    generator = torch.Generator().manual_seed(0)
    differ = 0
    for _ in range(25):
        # Scripted half of the time, so that agents meet obstacles and one another around their goals.
        chance = torch.rand(6, n, generator=generator) < 0.5
        action = torch.where(chance, torch.randint(5, (6, n), generator=generator), env.scripted(seen))
        seen, outcome = env.step(action)
        for b, peer in enumerate(peers):
            expected = peer.step(action[b].numpy())
            np.testing.assert_allclose(seen.position[b], peer.position, atol=1e-3)
            np.testing.assert_allclose(seen.own[b, :, :2], peer.velocity, atol=1e-2)
            differ += int((np.abs(outcome.reward[b].numpy() - expected) > 1e-2).sum())
        mine += outcome.metrics["collisions"].sum().item()
    assert differ <= 0.002 * 25 * 6 * n
    assert mine > 0


def test_script_and_chance_reach_the_figures_measured_in_the_authors_world() -> None:
    """ANCHORS of the world: 100 episodes, standard errors 0.9 to 1.6 (return) and about 0.05 (collisions)."""
    scripted = {3: (72.0, 0.40), 7: (71.1, 0.71), 10: (69.1, 0.89), 15: (64.6, 1.31)}
    luck = {3: (-27.9, 0.44), 7: (-29.9, 0.55), 10: (-31.4, 0.73), 15: (-33.4, 0.92)}
    for n in scripted:
        env = Target(n, num_envs=400, density="arena")
        for policy, (reward, collisions) in ((env.scripted, scripted[n]), (by_chance(env), luck[n])):
            figures = play(env, policy)
            assert figures["return"].mean().item() == pytest.approx(reward, abs=3.0)
            assert figures["collisions"].mean().item() == pytest.approx(collisions, abs=0.12)
            if policy == env.scripted:
                assert figures["all_arrived"].mean() > 0.99
                assert 0.3 < figures["time"].mean() < 0.45
            else:
                assert figures["success"].mean() < 0.1 and figures["all_arrived"].mean() < 0.01


def test_places_are_distributed_as_when_each_is_drawn_until_it_is_free() -> None:
    # 14 discs in a square of 1.2: a crowd, where another rule would show. Mean distance to the nearest other.
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    avoid = torch.zeros(400, 1, 2)
    ours = draw_apart(14, 0.6, 0.2, avoid, 0.3, generator)
    gaps = (ours.unsqueeze(1) - ours.unsqueeze(2)).norm(dim=-1) + 9 * torch.eye(14)
    assert gaps.min() >= 0.2 - 1e-6 and ours.norm(dim=-1).min() >= 0.3 - 1e-6 and ours.abs().max() <= 0.6
    nearest = []
    for _ in range(200):
        placed: list[np.ndarray] = []
        while len(placed) < 14:
            place = rng.uniform(-0.6, 0.6, 2)
            if np.linalg.norm(place) >= 0.3 and all(np.linalg.norm(place - other) >= 0.2 for other in placed):
                placed.append(place)
        apart = np.linalg.norm(np.stack(placed)[:, None] - np.stack(placed), axis=-1) + 9 * np.eye(14)
        nearest.append(apart.min(1).mean())
    mine = gaps.min(1).values.mean(1)
    error = np.sqrt(np.var(nearest, ddof=1) / 200 + mine.var().item() / 400)
    assert abs(np.mean(nearest) - mine.mean().item()) < 4 * error


@pytest.mark.parametrize(("density", "n", "half"), [("arena", 15, 1.0), ("fixed", 12, 2.0)])
def test_everything_starts_apart_and_goals_lie_further_in(density: Any, n: int, half: float) -> None:
    env = Target(n, num_envs=200, density=density)
    seen = env.reset(0)
    m = n if density == "fixed" else 3
    assert seen.entities.shape == (200, n + m, 2)
    goal, obstacle = seen.entity_position.split([n, m], dim=1)
    torch.testing.assert_close(seen.position + seen.own[..., 4:], goal)
    assert (seen.own[..., :2] == 0).all() and torch.equal(seen.own[..., 2:4], seen.position)
    assert 0.9 * half < seen.position.abs().max() <= half
    assert 0.75 * half < seen.entity_position.abs().max() <= 0.8 * half
    for places in (seen.position, goal):
        assert torch.cdist(places, places).add(torch.eye(n)).min() >= 0.1 - 1e-4
        assert torch.cdist(places, obstacle).min() >= 0.1 - 1e-4
    assert (seen.entities[:, :n, 0] == 1).all() and (seen.entities[:, n:, 1] == 1).all()
    assert (seen.entities.sum(-1) == 1).all()
    assert env.spec.max_steps == (25 if density == "arena" else 50)


def test_the_team_reward_is_the_mean_of_the_own() -> None:
    own, team = (Target(5, num_envs=16, reward=rule, seed=2) for rule in ("own", "team"))
    seen, _ = own.reset(1), team.reset(1)
    for _ in range(40):
        action = own.scripted(seen)
        seen, mine = own.step(action)
        _, ours = team.step(action)
        torch.testing.assert_close(ours.reward, mine.reward.mean(-1, keepdim=True).expand(-1, 5))


def test_a_fine_is_paid_for_every_touch_and_changes_nothing_else() -> None:
    kept = {fine: Target(n_agents=15, num_envs=64, density="arena", fine=fine) for fine in (0.0, 5.0, 20.0)}
    figures = {fine: play(env, by_chance(env)) for fine, env in kept.items()}
    assert figures[0.0]["collisions"].min() > 0
    assert all(torch.equal(figures[0.0]["collisions"], one["collisions"]) for one in figures.values())
    free, usual, dear = (figure["return"] for figure in figures.values())
    torch.testing.assert_close(dear - free, 4 * (usual - free))
    assert (usual < free).all()


def test_actions_are_as_asked() -> None:
    assert Target().spec.actions == (Discrete(5),)
    assert Target(continuous=True).spec.actions == (Continuous((-1.0, -1.0), (1.0, 1.0)),)
    numbered, pushed = Target(num_envs=8, seed=3), Target(num_envs=8, seed=3, continuous=True)
    a, b = numbered.reset(0), pushed.reset(0)
    for _ in range(10):
        a, one = numbered.step(numbered.scripted(a))
        b, other = pushed.step(pushed.scripted(b))
        assert torch.equal(one.reward, other.reward)


def test_a_thousand_agents_share_a_world() -> None:
    env = Target(1000, num_envs=1)
    seen = env.reset(0)
    assert seen.entities.shape == (1, 2000, 2)
    for _ in range(3):
        seen, outcome = env.step(env.scripted(seen))
    assert outcome.reward.shape == (1, 1000) and outcome.reward.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 0}, "at least one agent"),
        ({"n_agents": 200, "density": "arena"}, r"at most \d+ agents among 3 obstacles"),
        ({"n_agents": 3, "obstacles": 1000}, "at most 0 agents"),
        ({"density": "loose"}, "density to be fixed or arena"),
        ({"continuous": "maybe"}, "continuous to be auto, true or false"),
        ({"obstacles": -1}, "no obstacles or some"),
        ({"reward": "mixed"}, "reward to be own or team"),
        ({"fine": -1.0}, "expected a fine of at least 0"),
        ({"max_steps": 0}, "at least one step"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Target(**options)
    assert "\n" not in str(caught.value)


def test_as_many_as_are_let_in_find_room() -> None:
    with pytest.raises(ValueError) as caught:
        Target(10_000, density="arena")
    most = int(str(caught.value).split("at most ")[1].split()[0])
    assert Target(most, num_envs=4, density="arena").reset(0).alive.shape == (4, most)
    assert f"room for {most} agents" in CARDS["native/target"].arena
