"""DGN's battle and jungle: the rules by hand, bodies replaced, and the figures that scripts are known to reach."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gcoord.envs import check_team_env

pytest.importorskip("magent2")

from gcoord.envs import magent_dgn
from gcoord.envs.magent import by_script

WORLDS: dict[str, Any] = {"battle": magent_dgn.dgn_battle, "jungle": magent_dgn.dgn_jungle}
STAY, RIGHT, ATTACK_RIGHT, ATTACK_LEFT = 2, 3, 7, 6


@pytest.mark.parametrize("view", ["channels", "dgn"])
@pytest.mark.parametrize("task", WORLDS)
def test_both_tasks_keep_every_promise_at_three_sizes(task: str, view: str) -> None:
    check_team_env(partial(WORLDS[task], max_steps=9, workers=0, view=view), n_agents=[3, 20, 50], num_envs=2, steps=14)


def test_deaths_and_returns_keep_every_promise() -> None:
    # Who stands among enemies for 40 steps dies now and then.
    check_team_env(magent_dgn.dgn_battle(n_agents=12, num_envs=2, max_steps=40, workers=0), steps=60)


def staged(task: str, ours: list[tuple[int, int]], others: list[tuple[int, int]]) -> Any:
    """A task's own world with everybody where they are put, (column, row)."""
    world = magent_dgn.make(
        task, side=30, opponents="random", n=len(ours), others=len(others), view="channels", steps=300
    )
    world.populate = lambda: [
        world.grid.add_agents(handle, method="custom", pos=pos)
        for handle, pos in zip(world.handles, (ours, others), strict=True)
    ]
    n, own = len(ours), world.layout.own
    world.bind(
        {
            "action": np.full(n, STAY),
            "own": np.zeros((n, *own), np.float32),
            "alive": np.zeros(n, bool),
            "position": np.zeros((n, 2), np.float32),
            "reward": np.zeros(n, np.float32),
        }
    )
    if world.opponents is not None:
        world.opponents.act = lambda squad: np.full(squad.n, 6)
    world.reset(0)
    return world


def act(world: Any, *action: int) -> list[float]:
    world.row["action"][:] = action
    world.step()
    return [round(float(reward), 4) for reward in world.row["reward"]]


def test_battles_rewards_and_health_are_the_papers() -> None:
    world = staged("battle", [(5, 5), (20, 20)], [(6, 5), (28, 28)])
    assert world.row["own"][0, 4, 5, 6] == 1 and world.row["own"][0, 5, 5, 6] == 1
    # A hit pays 5 - 0.01, a miss costs 0.01, standing costs nothing.
    assert act(world, ATTACK_RIGHT, ATTACK_RIGHT) == [4.99, -0.01]
    assert act(world, STAY, STAY) == [0, 0]
    for health in (0.5, 0.25, 0.0):
        assert act(world, ATTACK_RIGHT, STAY) == [4.99, 0]
        assert world.row["own"][0, 5, 5, 6] == health
    # An enemy of health 0 lives, and is gone from what the paper's network reads.
    assert world.row["own"][0, 4, 5, 6] == 1
    assert act(world, ATTACK_RIGHT, STAY) == [4.99, 0]
    assert world.metrics["kills"] == 1 and world.metrics["deaths"] == 0
    assert world.theirs.seen is not world.ours.seen and world.grid.get_num(world.handles[1]) == 2


def test_dying_costs_two_and_the_slot_is_dead_for_one_observation_while_its_successor_stays_put() -> None:
    world = staged("battle", [(5, 5), (20, 20)], [(6, 5), (28, 28)])
    attack_left = 13 + 3
    steps = 0
    while world.row["alive"].all():
        world.opponents.act = lambda squad: np.array([attack_left, 6])
        # Its last deed is a hit, which pays; to die costs 2 in place of the hit's 0.01.
        reward = act(world, ATTACK_RIGHT if steps == 7 else STAY, STAY)
        steps += 1
        assert steps < 20
    # 12 - 2 k + 0.4 (k - 1) falls below 0 with the eighth hit.
    assert steps == 8 and reward == [3.0, 0] and world.metrics["deaths"] == 1
    assert world.row["alive"].tolist() == [False, True] and not world.row["own"][0].any()
    world.opponents.act = lambda squad: np.full(2, 6)
    born = world.grid.get_pos(world.handles[0]), world.grid.get_agent_id(world.handles[0])
    act(world, RIGHT, STAY)
    assert world.row["alive"].all() and world.metrics["deaths"] == 0
    places = {int(i): place.tolist() for i, place in zip(born[1], born[0], strict=True)}
    successor = max(places)
    assert world.row["position"][0].tolist() == places[successor] and world.row["position"][1].tolist() == [20, 20]
    # From now on it does as it is told.
    column = world.row["position"][0, 0]
    act(world, RIGHT if column < 28 else RIGHT - 2, STAY)
    assert abs(world.row["position"][0, 0] - column) == 1


def test_slots_follow_the_engines_numbers_through_many_deaths() -> None:
    env = magent_dgn.dgn_battle(num_envs=1, workers=0)
    seen, deaths = env.reset(0), 0.0
    world = env._backend.copies[0].env  # type: ignore[union-attr]
    before: dict[int, int] = {}
    for _ in range(200):
        seen, outcome = env.step(env.scripted(seen))
        deaths += float(outcome.metrics["deaths"])
        handle = world.handles[0]
        ids, places = world.grid.get_agent_id(handle).tolist(), world.grid.get_pos(handle).tolist()
        slots = world.ours._slots[0].tolist()
        assert sorted(slots) == list(range(20)) and len(places) == 20
        # Who was here before has the same slot, and stands where the slot says.
        now = dict(zip(ids, slots, strict=True))
        assert all(now[i] == before[i] for i in now.keys() & before.keys())
        for slot, place in zip(slots, places, strict=True):
            if seen.alive[0, slot]:
                assert seen.position[0, slot].tolist() == place
        before = now
    assert deaths > 30


def test_jungles_rewards_and_attacks_on_fellows_are_the_papers() -> None:
    world = staged("jungle", [(5, 5), (6, 5), (10, 10)], [(11, 10)])
    assert act(world, STAY, STAY, ATTACK_RIGHT) == [0, 0, 0.99]
    assert world.metrics["attacks_on_fellows"] == 0
    # The first hits the second, who misses; then both hit each other.
    assert act(world, ATTACK_RIGHT, ATTACK_RIGHT, STAY) == [1.99, -4.01, 0]
    assert world.metrics["attacks_on_fellows"] == pytest.approx(1 / 3)
    assert act(world, ATTACK_RIGHT, ATTACK_LEFT, ATTACK_LEFT) == [-2.01, -2.01, -0.01]
    assert world.metrics["attacks_on_fellows"] == pytest.approx(2 / 3)
    assert world.metrics["reward"] == pytest.approx(-4.03 / 3)


@pytest.mark.parametrize(("task", "channel"), [("battle", 5), ("jungle", 4)])
def test_the_papers_view_is_one_channel_less_another_and_where_one_stands(task: str, channel: int) -> None:
    channels, numbers = (WORLDS[task](num_envs=2, workers=0, view=view) for view in ("channels", "dgn"))
    seen, other = channels.reset(3), numbers.reset(3)
    for _ in range(30):
        flat = (seen.own[:, :, 1] - seen.own[:, :, channel]).flatten(2)
        torch.testing.assert_close(
            other.own, torch.cat([flat, seen.position.flip(-1) / 30], -1) * seen.alive[..., None]
        )
        action = channels.scripted(seen)
        seen, other = channels.step(action)[0], numbers.step(action)[0]
    assert not hasattr(numbers, "scripted") and numbers.spec.own == (123,)


def test_density_grows_the_map_and_the_others_or_leaves_them() -> None:
    def form(task: str, n: int, density: str) -> tuple[int, int]:
        env = WORLDS[task](n_agents=n, density=density, workers=0)
        world = env._backend.copies[0].env
        return world.world_side, world.counts[1]

    assert form("battle", 20, "fixed") == form("battle", 20, "arena") == form("jungle", 50, "arena") == (30, 12)
    assert form("jungle", 80, "fixed") == (60, 48) and form("battle", 5, "fixed") == (15, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 0}, r"expected n_agents from 1 to 2000 in magent/dgn_battle, density=fixed \(got 0\)"),
        ({"n_agents": 400, "density": "arena"}, r"expected n_agents from 1 to 380 .* density=arena \(got 400\)"),
        ({"density": "dense"}, r"expected density to be fixed or arena in magent/dgn_battle \(got 'dense'\)"),
        ({"view": "far"}, r"expected view to be channels or dgn"),
        ({"opponents": "runs/x"}, r"expected opponents to be script or random"),
        ({"continuous": True}, r"expected continuous=false or auto"),
    ],
)
def test_what_a_task_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        magent_dgn.dgn_battle(workers=0, **options)


def test_the_smallest_and_the_largest_teams_are_made_and_stepped() -> None:
    for task, make in WORLDS.items():
        for options in ({"n_agents": 1}, {"n_agents": 2}, {"n_agents": 380, "density": "arena"}, {"n_agents": 2000}):
            env = make(workers=0, **options)
            seen = env.reset(0)
            for _ in range(3):
                seen, _ = env.step(torch.zeros(1, env.spec.n_agents, dtype=torch.long))
            assert seen.alive.any(), task


def played(env: Any, act: Any) -> dict[str, Tensor]:
    """Figures [B] of one game of every team, reduced as the spec says."""
    seen, rows = env.reset(0), []
    for _ in range(env.spec.max_steps):
        seen, outcome = env.step(act(seen))
        rows.append(outcome.metrics.clone())
    assert outcome.truncated.all()
    steps = torch.stack(rows)
    ways = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "last": lambda x: x[-1]}
    return {name: ways[rule](steps[name]) for name, rule in env.spec.metrics.items()}


def close(values: Tensor, known: float, error: float) -> None:
    """Within three standard errors of the known figure's (`error`) and ours together."""
    ours = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - known) < 3 * (error**2 + ours**2) ** 0.5, (float(values.mean()), ours)


def test_battles_script_and_random_reach_the_known_figures() -> None:
    # Known, from 30 games in which successors act at once: reward 0.88 +- 0.02, kills 219 +- 6, deaths 116 +- 4, 1.89.
    env = magent_dgn.dgn_battle(num_envs=12, workers=0)
    script = played(env, env.scripted)
    close(script["reward"], 0.88, 0.02)
    close(script["kills"], 219, 6)
    close(script["deaths"], 116, 4)
    assert 1.6 < float(script["kills"].sum() / script["deaths"].sum()) < 2.2
    random = played(env, lambda seen: torch.randint(9, seen.alive.shape))
    close(random["reward"], 0.02, 0.005)
    close(random["deaths"], 218, 4)
    close(random["kills"], 18, 1)


@pytest.mark.parametrize(
    ("n", "seats", "plain", "random", "attacks"), [(20, 0.90, 0.73, -0.02, 1.34), (50, 0.77, None, -0.05, 3.26)]
)
def test_jungles_scripts_and_random_reach_the_known_figures(
    n: int, seats: float, plain: float | None, random: float, attacks: float
) -> None:
    env = magent_dgn.dgn_jungle(n_agents=n, density="arena", num_envs=10, workers=0)
    by_seats = played(env, env.scripted)
    close(by_seats["reward"], seats, 0.01)
    assert by_seats["attacks_on_fellows"].sum() == 0
    simple = partial(by_script, magent_dgn.PLAIN, (magent_dgn.OURS,), True, env.spec)
    by_plain = played(env, simple)["reward"]
    assert float(by_plain.mean()) < float(by_seats["reward"].mean()) - 0.1
    if plain is not None:
        close(by_plain, plain, 0.01)
    by_chance = played(env, lambda seen: torch.randint(9, seen.alive.shape))
    close(by_chance["reward"], random, 0.005)
    close(by_chance["attacks_on_fellows"], attacks, 0.1)
