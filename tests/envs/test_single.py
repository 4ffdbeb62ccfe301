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
from gcoord.envs.copies import episode_seed
from gcoord.envs.single import cartpole, make, pendulum
from gcoord.spec import Continuous, Discrete

gymnasium = pytest.importorskip("gymnasium")


@pytest.mark.parametrize(
    "factory",
    [
        cartpole,
        pendulum,
        partial(pendulum, continuous=False),
        partial(make, "Acrobot-v1"),
        partial(make, "MountainCarContinuous-v0", continuous=False, bins=3),
    ],
)
def test_teams_of_one_keep_every_promise(factory: Any) -> None:
    check_team_env(partial(factory, max_steps=12, workers=0), n_agents=[1])


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_it_is_gymnasiums_own_environment(id: str) -> None:
    env, raw = make(id, workers=0), gymnasium.make(id)
    seen = env.reset(4)
    raw_seen, _ = raw.reset(seed=episode_seed(env._seed, 0, 0))
    act = random_actions(env.spec, 0)
    for _ in range(15):
        np.testing.assert_array_equal(seen.own[0, 0].numpy(), raw_seen.astype(np.float32))
        action = act(seen, None, torch.zeros(1))[0]
        given = int(action) if env.spec.discrete else action[0, 0].numpy()
        raw_seen, reward, ended, cut, _ = raw.step(given)
        seen, outcome = env.step(action)
        assert outcome.reward.item() == pytest.approx(reward)
        assert (outcome.terminated.item(), outcome.truncated.item()) == (ended, cut)
        if ended or cut:
            break


@pytest.mark.parametrize(
    ("factory", "id", "options"),
    [
        (cartpole, "CartPole-v1", {"max_steps": 12}),
        (pendulum, "Pendulum-v1", {"max_steps": 7}),
        (pendulum, "Pendulum-v1", {"max_steps": 7, "continuous": False}),
    ],
)
def test_worlds_that_write_their_own_rows_step_like_those_asked_agent_by_agent(
    factory: Any, id: str, options: dict[str, Any]
) -> None:
    rows, asked = factory(num_envs=3, workers=0, **options), make(id, num_envs=3, workers=0, **options)
    act = random_actions(rows.spec, 0)
    one, other = rows.reset(5), asked.reset(5)
    for _ in range(40):
        assert (one == other).all()
        action = act(one, None, torch.zeros(3))[0]
        (one, outcome), (other, same) = rows.step(action), asked.step(action)
        assert (outcome == same).all()


def test_the_clock_truncates_and_a_fall_terminates() -> None:
    env = cartpole(workers=0, max_steps=5)
    assert env.spec.max_steps == 5 and cartpole(workers=0).spec.max_steps == 500
    env.reset(0)
    ends = [env.step(torch.tensor([[t % 2]]))[1] for t in range(5)]
    assert [bool(o.truncated) for o in ends] == [False] * 4 + [True] and not ends[-1].terminated
    env = cartpole(workers=0)
    env.reset(0)
    assert any(bool(env.step(torch.ones(1, 1, dtype=torch.long))[1].terminated) for _ in range(30))


def test_numbered_torques_are_evenly_spaced_and_reach_the_bounds() -> None:
    assert pendulum(workers=0).spec.actions == (Continuous((-2.0,), (2.0,)),)
    env = pendulum(workers=0, continuous=False)
    assert env.spec.actions == (Discrete(5),)
    act = env._layout.acts[0]
    assert [act.read(np.int64(k)).tolist() for k in range(5)] == [[-2.0], [-1.0], [0.0], [1.0], [2.0]]


def mean_return(env: Any, scripted: bool, episodes: int) -> float:
    act = (lambda seen, memory, key: (env.scripted(seen), memory)) if scripted else random_actions(env.spec, 0)
    return float(play(env, act, None, episodes, 0)["return"].mean())


def test_scripts_solve_what_random_actions_do_not() -> None:
    assert mean_return(cartpole(num_envs=20, workers=0), False, 100) == pytest.approx(22, abs=4)
    assert mean_return(cartpole(num_envs=5, workers=0), True, 5) == 500
    assert mean_return(pendulum(num_envs=20, workers=0), False, 20) < -900
    for continuous in (True, False):
        assert mean_return(pendulum(num_envs=20, workers=0, continuous=continuous), True, 20) > -300


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        (cartpole, {"n_agents": 2}, r"expected a team of one in gym/cartpole.*\(got n_agents=2\)"),
        (make, {"id": "NoSuchThing-v0"}, r"expected gym/NoSuchThing-v0 to be made by gymnasium.make"),
        (make, {"id": "CartPole-v1", "continuous": True}, "expected continuous=false or auto in CartPole-v1"),
        (make, {"id": "Blackjack-v1"}, "expected Box, MultiBinary, Discrete or Dict"),
        (pendulum, {"continuous": False, "bins": 1}, "expected 2 bins or more"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(factory: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        factory(workers=0, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env", "algo"),
    [("gym/cartpole", "mappo"), ("gym/pendulum", "iql"), ("gym/make", "qmix"), ("gym/pendulum", "ippo")],
)
def test_it_trains_and_its_policy_acts(tmp_path: Path, env: str, algo: str) -> None:
    more = ["env.id=Acrobot-v1"] if env == "gym/make" else []
    folder = learn(tmp_path, env, algo, "env.max_steps=20", *more)
    options = {"id": "Acrobot-v1"} if env == "gym/make" else {}
    world = gcoord.make_env(env, workers=0, **options)
    assert gcoord.load(folder).act(world.reset(0)).shape[:2] == (1, 1)


def test_it_trains_from_the_command_line(tmp_path: Path) -> None:
    learn_by_command(tmp_path, "gym/cartpole", "mappo", "env.max_steps=20", "env.workers=2")
