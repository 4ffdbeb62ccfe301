from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import learn, learn_by_command

import gcoord
from gcoord.data.playing import play, random_actions
from gcoord.envs import check_team_env
from gcoord.envs.butterfly import cooperative_pong, pistonball
from gcoord.envs.copies import episode_seed
from gcoord.envs.zombies import knights_archers_zombies
from gcoord.spec import Continuous, Discrete

pytest.importorskip("pettingzoo.butterfly")


def raw(name: str, **kwargs: Any) -> Any:
    import pettingzoo.butterfly as family

    return getattr(family, name).parallel_env(**kwargs)


def seen_by_supersuit(env: Any) -> Any:
    import supersuit

    return supersuit.frame_stack_v2(supersuit.resize_v1(supersuit.color_reduction_v0(env), 84, 84), 4)


# Every promise


@pytest.mark.parametrize("kwargs", [{"max_cycles": 2}, {"max_cycles": 6, "view": "vector", "continuous": False}])
def test_pistonball_keeps_every_promise(kwargs: dict[str, Any]) -> None:
    check_team_env(partial(pistonball, workers=0, **kwargs), n_agents=[4, 7, 20], num_envs=2)


@pytest.mark.parametrize("kwargs", [{"max_cycles": 5}, {"max_cycles": 60, "view": "vector"}])
def test_cooperative_pong_keeps_every_promise(kwargs: dict[str, Any]) -> None:
    # Every episode starts with the same picture: only where the ball flies differs.
    check_team_env(partial(cooperative_pong, workers=0, **kwargs), n_agents=[2], num_envs=2, stochastic=False)


@pytest.mark.parametrize(
    "kwargs", [{"max_cycles": 90, "spawn_delay": 2}, {"max_cycles": 6, "view": "image"}, {"n_knights": 0}]
)
def test_knights_archers_zombies_keep_every_promise(kwargs: dict[str, Any]) -> None:
    # Every episode starts with the same places and no zombie.
    factory = partial(knights_archers_zombies, workers=0, **kwargs)
    check_team_env(
        factory, n_agents=[1, 4, 16], num_envs=2, stochastic=False, steps=30 if "n_knights" in kwargs else None
    )


def test_seeds_differ_once_something_moves() -> None:
    for env in (cooperative_pong(num_envs=2, view="vector", workers=0), knights_archers_zombies(num_envs=2, workers=0)):
        env.reset(0)
        still = torch.full((2, env.spec.n_agents), 0 if env.spec.n_agents == 2 else 5)
        for _ in range(25):
            seen, _ = env.step(still)
        assert not torch.equal(seen.entity_position[0], seen.entity_position[1])


# The worlds' own


@pytest.mark.parametrize(
    ("factory", "name", "kwargs", "same"),
    [
        (pistonball, "pistonball_v6", {"continuous": False}, {"n_pistons": 5, "render_mode": "rgb_array"}),
        (cooperative_pong, "cooperative_pong_v6", {}, {"render_mode": "rgb_array"}),
        (knights_archers_zombies, "knights_archers_zombies_v11", {"spawn_delay": 3}, {"obs_method": "image"}),
    ],
)
def test_pictures_are_supersuits_of_the_raw_world(factory: Any, name: str, kwargs: Any, same: Any) -> None:
    n = same.get("n_pistons")
    env = factory(n_agents=n, view="image", workers=0, **kwargs)
    theirs = seen_by_supersuit(raw(name, **kwargs, **same))
    seen = env.reset(2)
    raw_seen, _ = theirs.reset(seed=episode_seed(env._seed, 0, 0))
    act = random_actions(env.spec, 0)
    for _ in range(12):
        for i, agent in enumerate(theirs.possible_agents):
            apart = np.abs(seen.own[0, i].numpy().astype(int) - raw_seen[agent].transpose(2, 0, 1))
            assert apart.max() <= 1 and (apart > 0).mean() < 5e-3
        action = act(seen, None, torch.zeros(1))[0]
        raw_seen, raw_reward, *_ = theirs.step(dict(zip(theirs.possible_agents, action[0].tolist(), strict=True)))
        seen, outcome = env.step(action)
        if factory is not knights_archers_zombies:
            np.testing.assert_allclose(outcome.reward[0].numpy(), list(raw_reward.values()), rtol=1e-5, atol=1e-6)


def test_pistons_and_ball_stand_where_the_simulator_has_them() -> None:
    env = pistonball(n_agents=6, view="vector", workers=0)
    seen = env.reset(0)
    world = env._backend.copies[0].env.unwrapped  # type: ignore[union-attr]
    for up in (1.0, -1.0, 0.3):
        assert (seen.position[0] * 40).numpy() == pytest.approx(np.array([p.position for p in world.pistonList]))
        assert (seen.entity_position[0, 0] * 40).tolist() == pytest.approx(list(world.ball.position), rel=1e-5)
        assert (seen.entities[0, 0, :2] * 40 * 20).tolist() == pytest.approx(list(world.ball.velocity), rel=1e-5)
        assert ((seen.own >= 0) & (seen.own <= 1)).all()
        before, seen = seen, env.step(torch.full((1, 6, 1), up))[0]
        moved = (seen.own - before.own)[..., 0] * 64
        inside = (seen.own[..., 0] > 0) & (seen.own[..., 0] < 1)
        torch.testing.assert_close(moved[inside], torch.full_like(moved[inside], 4 * up), atol=1e-4, rtol=0)


def test_slayers_see_the_raw_rows_and_are_paid_at_once() -> None:
    kwargs = {"spawn_delay": 3, "max_zombies": 12, "max_arrows": 6, "max_cycles": 250}
    env = knights_archers_zombies(n_agents=5, workers=0, **kwargs)
    theirs = raw("knights_archers_zombies_v11", num_archers=3, num_knights=2, obs_method="vector-masked", **kwargs)
    names = theirs.possible_agents
    seen = env.reset(1)
    raw_seen, _ = theirs.reset(seed=episode_seed(env._seed, 0, 0))
    ours, raws, died = [], [], 0
    while True:
        for i, name in enumerate(names):
            assert seen.alive[0, i].item() == (name in theirs.agents)
            if name not in theirs.agents:
                continue
            rows = raw_seen[name]
            torch.testing.assert_close(seen.own[0, i], torch.from_numpy(rows[0, -4:]).float())
            middle = theirs.unwrapped.agent_map[name].rect.center
            assert (seen.position[0, i] * 100).tolist() == pytest.approx(middle)
            # Rows: oneself, the team, swords, arrows, zombies; columns: zombie, archer, knight, sword, arrow, self.
            things = rows[1 + len(names) :]
            np.testing.assert_allclose(seen.entities[0, :, :3], things[:, [3, 4, 0]])
            np.testing.assert_allclose(seen.entities[0, :, 3:], things[:, -2:], atol=1e-6)
            np.testing.assert_array_equal(seen.entity_present[0], things[:, :6].any(1))
        action = env.scripted(seen) if len(ours) % 3 else torch.full((1, 5), 5)
        given = {name: int(action[0, i]) for i, name in enumerate(names) if name in theirs.agents}
        raw_seen, raw_reward, ended, *_ = theirs.step(given)
        seen, outcome = env.step(action)
        ours.append(outcome.reward[0].numpy())
        raws.append(np.array([raw_reward.get(name, 0) for name in names]))
        died += sum(ended.values())
        if outcome.terminated | outcome.truncated:
            break
    paid, late = np.array(ours), np.array(raws)
    assert paid.sum() > 10 and died > 1
    np.testing.assert_array_equal(paid[:, 0], late[:, 0])
    # The others are paid one step later by the raw world, unless they are dead by then or the episode is over.
    for i in range(1, 5):
        differ = np.flatnonzero(paid[:-1, i] != late[1:, i])
        assert len(differ) <= 1 and late[0, i] == 0


def test_every_zombie_that_is_gone_was_slain_once_by_the_dead_too() -> None:
    env = knights_archers_zombies(n_agents=12, num_envs=4, workers=0, spawn_delay=2, max_zombies=60, max_cycles=150)
    act, seen = random_actions(env.spec, 1), env.reset(4)
    before: list[set[Any]] = [set()] * 4
    slain_by_the_dead = 0.0
    for _ in range(150):
        seen, outcome = env.step(act(seen, None, torch.zeros(4))[0])
        kills, own = outcome.metrics["kills"], outcome.reward.sum(-1)
        for b, copy in enumerate(env._backend.copies):  # type: ignore[union-attr]
            now = set(copy.env.unwrapped.zombie_list.sprites())
            if outcome.valid[b]:
                assert kills[b] == len(before[b] - now) and kills[b] >= own[b]
            before[b] = now
        slain_by_the_dead += float((kills - own).sum())
    assert slain_by_the_dead > 0


def test_a_reset_in_the_middle_leaves_nothing_behind() -> None:
    env = knights_archers_zombies(workers=0)
    env.reset(3)
    still = torch.full((1, 4), 5)
    first = [env.step(still)[0].entity_present.sum().item() for _ in range(30)]
    env.reset(3)
    for _ in range(7):
        env.step(still)
    env.reset(3)
    assert [env.step(still)[0].entity_present.sum().item() for _ in range(30)] == first and first[-1] == 1


# Sizes, kinds, densities, actions


def test_both_kinds_are_known_in_every_team() -> None:
    for n, kinds in ((1, [0]), (2, [0, 1]), (5, [0, 0, 0, 1, 1])):
        env = knights_archers_zombies(n_agents=n, workers=0)
        assert env.spec.kinds == ("archer", "knight") and env.reset().kind[0].tolist() == kinds
    assert knights_archers_zombies(n_agents=4, n_knights=3, workers=0).reset().kind[0].tolist() == [0, 1, 1, 1]
    assert cooperative_pong(workers=0).reset().kind[0].tolist() == [0, 1]


def test_zombies_grow_with_the_team_or_do_not() -> None:
    def world(n: int, density: str) -> tuple[int, int, int]:
        env = knights_archers_zombies(n_agents=n, density=density, workers=0)  # type: ignore[arg-type]
        base = env._backend.copies[0].env.unwrapped  # type: ignore[union-attr]
        return base.max_zombies, base.max_arrows, base.zombie_spawn_interval.step_interval

    assert world(4, "fixed") == world(4, "arena") == world(16, "arena") == (10, 10, 20)
    assert world(16, "fixed") == (40, 40, 5) and world(1, "fixed") == (3, 3, 80)


def test_pistons_move_in_a_box_or_by_three_numbers() -> None:
    assert pistonball(workers=0).spec.actions == (Continuous((-1.0,), (1.0,)),)
    assert pistonball(workers=0, continuous=False).spec.actions == (Discrete(3),)


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        (pistonball, {"n_agents": 3}, r"expected 4 to 40 agents in butterfly/pistonball \(got 3\)"),
        (pistonball, {"n_agents": 41}, r"expected 4 to 40 agents"),
        (pistonball, {"density": "arena"}, "expected density=fixed in butterfly/pistonball"),
        (pistonball, {"view": "ram"}, r"expected view to be image or vector \(got 'ram'\)"),
        (cooperative_pong, {"n_agents": 3}, "expected 2 agents in butterfly/cooperative_pong"),
        (knights_archers_zombies, {"n_agents": 65}, "expected 1 to 64 agents"),
        (knights_archers_zombies, {"n_knights": 5}, r"expected 0 to 4 of 4 agents to be knights"),
        (knights_archers_zombies, {"density": "none"}, "expected density to be fixed or arena"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(factory: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        factory(workers=0, **kwargs)
    assert "\n" not in str(error.value)


# Scripts


def figures(env: Any, scripted: bool, episodes: int = 4) -> dict[str, float]:
    act = (lambda seen, memory, key: (env.scripted(seen), memory)) if scripted else random_actions(env.spec, 0)
    return {name: float(value.mean()) for name, value in play(env, act, None, episodes, 0).items()}


@pytest.mark.parametrize("kwargs", [{"view": "vector"}, {}, {"continuous": False}])
def test_the_ramp_brings_the_ball_home(kwargs: dict[str, Any]) -> None:
    assert figures(pistonball(n_agents=10, num_envs=2, workers=0, **kwargs), True)["success"] == 1


@pytest.mark.parametrize("view", ["vector", "image"])
def test_paddles_that_follow_the_ball_do_not_lose_it(view: Any) -> None:
    env = cooperative_pong(num_envs=2, workers=0, view=view, max_cycles=200)
    assert figures(env, True, 2)["success"] == 1
    assert figures(cooperative_pong(num_envs=5, workers=0, view="vector"), False)["success"] == 0


def test_the_slayers_script_beats_random_by_far() -> None:
    scripted, random = (
        figures(knights_archers_zombies(num_envs=2, workers=0, max_cycles=400), s, 2) for s in (True, False)
    )
    assert scripted["kills"] > random["kills"] + 6 and scripted["length"] == 400


# Training


@pytest.mark.parametrize(
    ("env", "algo", "more"),
    [
        ("pistonball", "mappo", ["n_agents=5", "env.max_cycles=4"]),
        ("pistonball", "qmix", ["n_agents=5", "env.max_cycles=4", "env.view=vector"]),
        ("cooperative_pong", "ippo", ["env.max_cycles=5"]),
        ("cooperative_pong", "iql", ["env.max_cycles=5"]),
        ("knights_archers_zombies", "mappo", ["env.max_cycles=10"]),
        ("knights_archers_zombies", "qmix", ["env.max_cycles=10"]),
        ("knights_archers_zombies", "iql", ["env.max_cycles=5", "env.view=image"]),
    ],
)
def test_it_trains_and_its_policy_acts_in_a_larger_team(tmp_path: Path, env: str, algo: str, more: list[str]) -> None:
    folder = learn(tmp_path, f"butterfly/{env}", algo, *more)
    size = {"pistonball": 20, "cooperative_pong": 2, "knights_archers_zombies": 16}[env]
    options: dict[str, Any] = {"view": "vector"} if "env.view=vector" in more else {}
    options |= {"view": "image"} if "env.view=image" in more else {}
    options |= {"continuous": False} if env == "pistonball" and algo == "qmix" else {}
    world = gcoord.make_env(f"butterfly/{env}", size, workers=0, **options)
    assert gcoord.load(folder).act(world.reset(0)).shape[:2] == (1, size)


def test_it_trains_from_the_command_line_with_frames_stored_once(tmp_path: Path) -> None:
    more = ["n_agents=4", "env.max_cycles=4", "env.workers=2"]
    learn_by_command(tmp_path, "butterfly/pistonball", "iql", *more)
