"""MPE beyond simple_spread: the raw worlds' own numbers, in views that do not grow, and scripts that solve them."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import gcoord
from gcoord.envs import TeamEnv, check_team_env
from gcoord.envs.copies import episode_seed
from gcoord.envs.mpe_fixed import CARDS as FIXED
from gcoord.envs.mpe_sides import CARDS as SIDES
from gcoord.spec import Continuous, Discrete

pytest.importorskip("mpe2")

VERSIONS = {"mpe/simple_speaker_listener": 4}


def raw_world(name: str, **kwargs: Any) -> Any:
    version = VERSIONS.get(name, 3)
    return importlib.import_module(f"mpe2.{name.removeprefix('mpe/')}_v{version}").parallel_env(**kwargs)


def make(name: str, n_agents: int | None = None, **kwargs: Any) -> Any:
    return gcoord.make_env(name, n_agents, **{"workers": 0, **kwargs})


def drawn(spec: Any, seen: Any, generator: torch.Generator) -> torch.Tensor:
    """Random actions, boxes' within their bounds."""
    if not spec.discrete:
        return torch.rand(seen.kind.shape + (spec.n_actions,), generator=generator)
    sizes = torch.tensor([action.n for action in spec.actions])[seen.kind]
    return (torch.rand(seen.kind.shape, generator=generator) * sizes).long()


@pytest.mark.parametrize("name", [*FIXED, *SIDES])
@pytest.mark.parametrize("continuous", [False, True])
def test_every_world_keeps_every_promise(name: str, continuous: bool) -> None:
    sizes = (FIXED | SIDES)[name].sizes
    check_team_env(partial(make, name, max_cycles=5, continuous=continuous), n_agents=sizes, num_envs=2)


def beside(name: str, raw: Any, env: Any, steps: int = 20) -> Any:
    """Plays both alike; yields what is seen raw and by ours, after the rewards were found to be the same."""
    seen, raw_seen = env.reset(3), raw.reset(seed=episode_seed(env._seed, 0, 0))[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield raw_seen, seen
        action = drawn(env.spec, seen, generator)
        spaces = [raw.action_space(agent) for agent in raw.possible_agents]
        given = [
            int(a) if env.spec.discrete else a[: space.shape[0]].numpy()
            for a, space in zip(action[0], spaces, strict=True)
        ]
        raw_seen, raw_reward, *_ = raw.step(dict(zip(raw.possible_agents, given, strict=True)))
        seen, outcome = env.step(action)
        np.testing.assert_allclose(outcome.reward[0], list(raw_reward.values()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("continuous", [False, True])
def test_worlds_of_one_size_are_seen_as_they_are(name: str, continuous: bool) -> None:
    env, raw = make(name, continuous=continuous), raw_world(name, continuous_actions=continuous)
    world = raw.unwrapped.world
    for raw_seen, seen in beside(name, raw, env):
        for i, agent in enumerate(raw.possible_agents):
            expected = raw_seen[agent]
            np.testing.assert_allclose(seen.own[0, i, : len(expected)], expected, rtol=1e-6)
            assert not seen.own[0, i, len(expected) :].any()
            np.testing.assert_allclose(seen.position[0, i], world.agents[i].state.p_pos, rtol=1e-6)
            place, space = env.spec.actions[seen.kind[0, i]], raw.action_space(agent)
            assert place == (
                Continuous((0.0,) * space.shape[0], (1.0,) * space.shape[0]) if continuous else Discrete(space.n)
            )


@pytest.mark.parametrize("name", ["mpe/simple_push", "mpe/simple_crypto"])
def test_who_must_not_be_told_hears_nobody(name: str) -> None:
    assert not make(name).reset(0).hears.any()


@pytest.mark.parametrize("name", ["mpe/simple_reference", "mpe/simple_speaker_listener", "mpe/simple"])
def test_teams_with_one_interest_hear_whom_their_topology_says(name: str) -> None:
    assert make(name).reset(0).hears is None


def entities_known(env: Any, seen: Any, i: int, which: int) -> torch.Tensor:
    """[M, 2]: ways from agent i to the entities of a sort that it knows."""
    n = env.spec.n_agents
    mine = seen.hears[0, i, n:] & (seen.entities[0, :, which] > 0)
    return seen.entity_position[0, mine] - seen.position[0, i]


@pytest.mark.parametrize(("prey", "predators"), [(1, 3), (2, 3)])
@pytest.mark.parametrize("continuous", [False, True])
def test_tag_is_the_raw_world_taken_apart(prey: int, predators: int, continuous: bool) -> None:
    n = prey + predators
    env = make("mpe/simple_tag", n, density="arena", n_prey=prey, continuous=continuous)
    raw = raw_world("mpe/simple_tag", num_good=prey, num_adversaries=predators, continuous_actions=continuous)
    fastest = 0.0
    for raw_seen, seen in beside("mpe/simple_tag", raw, env):
        for i, agent in enumerate(raw.possible_agents):
            velocity, place, obstacles, others, speeds = np.split(raw_seen[agent], np.cumsum([2, 2, 4, 2 * (n - 1)]))
            np.testing.assert_allclose(seen.own[0, i], np.concatenate([velocity, place]), rtol=1e-5)
            close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
            close(entities_known(env, seen, i, 0).flatten(), obstacles)
            others = np.insert(others.reshape(-1, 2), i, 0, axis=0)
            hunts = i < predators
            foes = slice(predators, n) if hunts else slice(0, predators)
            close(entities_known(env, seen, i, 2 if hunts else 1), others[foes])
            fellows = seen.hears[0, i, :n]
            assert fellows.tolist() == [j != i and (j < predators) == hunts for j in range(n)]
            close((seen.position[0, :n] - seen.position[0, i])[fellows], others[fellows.numpy()])
            if hunts:
                close(seen.entities[0, 2 + predators :, 3:].flatten(), speeds)
        fastest = max(fastest, seen.entities[0, :, 3:].abs().max().item())
    assert fastest > 0.2


@pytest.mark.parametrize("n", [3, 5])
def test_adversary_is_the_raw_world_taken_apart(n: int) -> None:
    env, raw = make("mpe/simple_adversary", n, density="arena"), raw_world("mpe/simple_adversary", N=n - 1)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for raw_seen, seen in beside("mpe/simple_adversary", raw, env):
        for i, agent in enumerate(raw.possible_agents):
            expected = raw_seen[agent]
            goal, rest = (np.zeros(2), expected) if i == 0 else (expected[:2], expected[2:])
            close(seen.own[0, i], goal)
            close(entities_known(env, seen, i, 0).flatten(), rest[: 2 * (n - 1)])
            others = np.insert(rest[2 * (n - 1) :].reshape(-1, 2), i, 0, axis=0)
            close(entities_known(env, seen, i, 2 if i == 0 else 1), others[1:] if i == 0 else others[:1])
            assert seen.hears[0, i, :n].tolist() == [i > 0 and j > 0 and j != i for j in range(n)]


def test_world_comm_is_the_raw_world_taken_apart() -> None:
    env, raw = make("mpe/simple_world_comm", density="arena"), raw_world("mpe/simple_world_comm")
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    hidden = shown = 0
    for seed in range(6):
        raw.reset(seed=seed)
        for raw_seen, seen in beside("mpe/simple_world_comm", raw, env, steps=8):
            for i, agent in enumerate(raw.possible_agents):
                expected = raw_seen[agent]
                close(seen.own[0, i, :4], expected[:4])
                marks = torch.cat([entities_known(env, seen, i, which) for which in range(3)])
                close(marks.flatten(), expected[4:14])
                others = np.insert(expected[14:24].reshape(-1, 2), i, 0, axis=0)
                if i < 4:
                    inside, word = expected[28:30], expected[30:]
                    close(seen.own[0, i, 5:], word)
                else:
                    inside = expected[24:26]
                    assert not seen.own[0, i, 5:].any()
                assert seen.own[0, i, 4] == inside.max()
                foes = range(4, 6) if i < 4 else range(4)
                for j in range(6):
                    # The world shows who is hidden as standing where one stands oneself.
                    visible = bool(others[j].any())
                    known = seen.hears[0, i, 6 + 5 + j] if j in foes else seen.hears[0, i, j]
                    assert bool(known) == (visible and j != i)
                    if known:
                        close(seen.position[0, j] - seen.position[0, i], others[j])
                    hidden, shown = hidden + (not visible and j != i), shown + visible
        env.reset(seed + 10)
    assert hidden > 10 and shown > 10


@pytest.mark.parametrize(
    ("name", "own"), [("mpe/simple_tag", 4), ("mpe/simple_adversary", 3), ("mpe/simple_world_comm", 6)]
)
def test_density_grows_the_square_and_the_time_or_leaves_them(name: str, own: int) -> None:
    def reach(n: int | None, density: str) -> tuple[float, int | None]:
        env = make(name, n, density=density, num_envs=12)
        seen = env.reset()
        return max(seen.position.abs().max().item(), seen.entity_position.abs().max().item()), env.spec.max_steps

    assert reach(None, "fixed")[1] == reach(own, "arena")[1] == reach(4 * own, "arena")[1] == 25
    (near, _), (far, long) = reach(4 * own, "arena"), reach(4 * own, "fixed")
    assert 0.85 < near <= 1 and 1.7 < far <= 2 and long == 50


def test_numbers_of_things_follow_the_team() -> None:
    def sorts(name: str, n: int, **options: Any) -> list[float]:
        return make(name, n, **options).reset(0).entities[0].sum(0)[:5].tolist()

    assert sorts("mpe/simple_tag", 16)[:3] == [8, 12, 4]
    assert sorts("mpe/simple_tag", 16, density="arena", n_prey=5)[:3] == [2, 11, 5]
    assert sorts("mpe/simple_world_comm", 12) == [2, 4, 4, 8, 4]
    assert sorts("mpe/simple_world_comm", 12, density="arena", n_food=7) == [1, 7, 2, 8, 4]
    assert sorts("mpe/simple_adversary", 7)[:3] == [6, 1, 6]


def figures(env: TeamEnv, scripted: bool) -> dict[str, float]:
    """Return per agent, per kind, and metrics, over one episode of every team."""
    seen = env.reset(1)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(env.spec.num_envs, env.spec.n_agents)
    sums = dict.fromkeys(env.spec.metrics, 0.0)
    while True:
        action = env.scripted(seen) if scripted else drawn(env.spec, seen, generator)  # type: ignore[attr-defined]
        seen, outcome = env.step(action)
        total += outcome.reward
        for name, rule in env.spec.metrics.items():
            now = outcome.metrics[name].mean().item()
            sums[name] = now if rule == "last" else sums[name] + now
        if outcome.truncated.all():
            kinds = {kind: total[seen.kind == k].mean().item() for k, kind in enumerate(env.spec.kinds)}
            return {"return": total.mean().item(), **kinds, **sums}


@pytest.mark.parametrize("continuous", [False, True])
def test_scripts_solve_what_they_are_for(continuous: bool) -> None:
    def both(name: str) -> tuple[dict[str, float], dict[str, float]]:
        env = make(name, num_envs=60, continuous=continuous)
        return figures(env, True), figures(env, False)

    for name in ("mpe/simple", "mpe/simple_reference", "mpe/simple_speaker_listener"):
        scripted, chance = both(name)
        assert scripted["success"] > 0.8 > 0.3 > chance["success"]
        assert scripted["return"] > 0.6 * chance["return"]
    scripted, chance = both("mpe/simple_crypto")
    # Bob is one step behind, and Eve has nothing to go by.
    assert scripted["bob"] / 25 > 0.9 and 0.3 < scripted["eve"] / 25 < 0.7 and chance["bob"] / 25 < 0.4
    scripted, chance = both("mpe/simple_tag")
    assert scripted["touches"] > 2 * chance["touches"] and scripted["adversary"] > chance["adversary"] + 5
    scripted, chance = both("mpe/simple_adversary")
    assert scripted["agent"] > chance["agent"] + 1.5 and scripted["adversary"] > chance["adversary"] + 4
    scripted, chance = both("mpe/simple_world_comm")
    assert scripted["touches"] > chance["touches"] and scripted["food"] > chance["food"]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("mpe/simple", {"n_agents": 2}, "expected 1 agents in mpe/simple"),
        ("mpe/simple_reference", {"local_ratio": 2.0}, "expected local_ratio between 0 and 1"),
        ("mpe/simple_tag", {"n_agents": 1}, "expected at least 2 agents in mpe/simple_tag"),
        ("mpe/simple_tag", {"n_prey": 4}, "expected n_prey from 1 to 3"),
        ("mpe/simple_world_comm", {"n_agents": 2}, "expected at least 3 agents"),
        ("mpe/simple_world_comm", {"n_food": 0}, "expected n_food of at least 1"),
        ("mpe/simple_adversary", {"density": "dense"}, "expected env.density to be one of 'fixed', 'arena'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **kwargs)
