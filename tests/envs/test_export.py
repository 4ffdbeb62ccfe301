"""Native worlds as PettingZoo has them: its own tests pass, and nothing is lost on the way."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")

import gcoord
from gcoord.conf import env_node, options_of
from gcoord.envs.copies import episode_seed
from gcoord.envs.native.export import NATIVE, as_parallel_env
from gcoord.envs.parallel import parallel

OPTIONS: dict[str, dict[str, Any]] = {
    "meet": {"kinds": 2, "deaths": 0.1, "entities": 3},
    "mapf": {"on_target": "finish", "available": True},
    "prison": {"vector_observation": False, "max_cycles": 20},
}
LARGE = {"meet": 30, "skirmish": 8, "routing": 12}


def made(name: str, n_agents: int | None = None, **options: Any) -> Any:
    return as_parallel_env(name, n_agents, **options)


def test_every_native_world_can_be_exported() -> None:
    names = {name.removeprefix("native/") for name in options_of("env") if name.startswith("native/")}
    assert set(NATIVE) == names
    for name, path in NATIVE.items():
        assert env_node(f"native/{name}")["_target_"] == path.replace(":", ".")


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("options", [False, True])
def test_they_pass_pettingzoos_own_tests(name: str, options: bool) -> None:
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    given = OPTIONS.get(name, {}) if options else {}
    size = LARGE.get(name, 5) if options else None
    with warnings.catch_warnings():
        # Its warnings are broken promises too.
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(made(name, size, **given), num_cycles=60)
        parallel_seed_test(lambda: made(name, size, **given), num_cycles=20)


@pytest.mark.parametrize("name", ["meet", "target", "skirmish", "waterworld"])
def test_the_exported_world_is_the_world_itself(name: str) -> None:
    options = OPTIONS.get(name, {})
    env: Any = parallel(
        "gcoord.envs.native.export:as_parallel_env",
        5,
        maker_kwargs={"name": name, "view": "own", **options},
        workers=0,
    )
    world = gcoord.make_env(f"native/{name}", 5, **options)
    seen, expected = env.reset(0), world.reset(episode_seed(env._seed, 0, 0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        assert torch.equal(seen.alive, expected.alive)
        assert torch.equal(seen.own[seen.alive], expected.own[seen.alive])
        if seen.available is not None and expected.available is not None:
            assert torch.equal(seen.available, expected.available)
        if world.spec.discrete:
            legal = torch.ones(1, 5, world.spec.n_actions) if expected.available is None else expected.available.float()
            legal = torch.where(expected.alive.unsqueeze(-1), legal, 1.0)
            action = legal[0].multinomial(1, generator=generator).T
        else:
            action = torch.rand(1, 5, world.spec.n_actions, generator=generator) * 2 - 1
        lived = expected.alive
        (seen, outcome), (expected, wanted) = env.step(action), world.step(action)
        torch.testing.assert_close(outcome.reward[lived], wanted.reward[lived])
        assert torch.equal(outcome.terminated, wanted.terminated) and torch.equal(outcome.truncated, wanted.truncated)
        if bool(outcome.terminated | outcome.truncated):
            return


def test_the_whole_view_holds_what_would_be_heard() -> None:
    env, world = made("spread", 3), gcoord.make_env("native/spread", 3)
    observations, _ = env.reset(seed=4)
    seen = world.reset(4)
    for i, name in enumerate(env.possible_agents):
        own, rest = np.split(observations[name], [world.spec.own[0]])
        np.testing.assert_array_equal(own, seen.own[0, i])
        things, others = np.split(rest, [3 * (1 + world.spec.entity_dim + 2)])
        things, others = things.reshape(3, -1), others.reshape(2, 3)
        np.testing.assert_allclose(things[:, -2:], seen.entity_position[0] - seen.position[0, i])
        np.testing.assert_allclose(others[:, 1:], np.delete((seen.position[0] - seen.position[0, i]).numpy(), i, 0))
        assert (things[:, 0] == 1).all() and (others[:, 0] == 1).all()


def test_what_is_not_there_is_zero_and_who_dies_has_gone() -> None:
    env = made("meet", 6, deaths=0.4, entities=4, seed=1)
    observations, _ = env.reset(seed=0)
    gone: set[str] = set()
    while env.agents:
        before = set(env.agents)
        observations, _, ended, _, _ = env.step({name: env.action_space(name).sample() for name in env.agents})
        assert set(observations) == before and not before & gone
        gone |= {name for name in before if ended[name]}
        for name in env.agents:
            others = observations[name][-15:].reshape(5, 3)
            alive = [other in env.agents for other in env.possible_agents if other != name]
            np.testing.assert_array_equal(others[:, 0], alive)
            assert not others[~np.array(alive)].any()
    assert gone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vmas/navigation"}, "expected a world among mapf, meet"),
        ({"name": "meet", "view": "all"}, "expected view to be whole or own"),
        ({"name": "meet", "rejoins": True}, "expected one team whose dead stay dead"),
        ({"name": "meet", "kinds": 2, "continuous": "mixed"}, "expected numbered actions, or one box"),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_parallel_env(**arguments)


def test_actions_that_do_not_exist_are_refused() -> None:
    env = made("meet", 2)
    with pytest.raises(RuntimeError, match="expected reset before step"):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected an action of every living agent"):
        env.step({"agent_0": 1})
    with pytest.raises(ValueError, match="expected an action from 0 to 4"):
        env.step({"agent_0": 1, "agent_1": 5})
