from __future__ import annotations

import random
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gcoord.envs import TeamEnv, check_team_env
from gcoord.envs.parallel import ParallelTeamEnv, parallel
from gcoord.spec import Continuous, Discrete

TOYS = "petting_toys:"


def toy(name: str = "Line", num_envs: int = 1, workers: int = 0, seed: int = 0, **kwargs: Any) -> ParallelTeamEnv:
    ours = ("positions", "entities", "max_steps", "rejoins", "reward", "n_agents", "scale", "kinds", "channels")
    ours += ("continuous", "bins", "anew")
    named = {key: kwargs.pop(key) for key in ours if key in kwargs}
    return parallel(TOYS + name, num_envs=num_envs, workers=workers, seed=seed, maker_kwargs=kwargs, **named)


def stay(env: TeamEnv) -> Tensor:
    return torch.zeros(env.spec.num_envs, env.spec.n_agents, dtype=torch.long)


@pytest.mark.parametrize("name", ["Line", "Zoo", "Mixed", "Pictures", "Masked", "Numbers"])
def test_any_parallel_env_keeps_every_promise(name: str) -> None:
    check_team_env(partial(parallel, TOYS + name, workers=0), n_agents=[2, 5])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"deaths": {2: [0], 4: [1]}},
        {"leave": {1: [1]}, "draws": "global"},
        {"deaths": {1: [0], 3: [1, 2]}},
    ],
)
def test_deaths_and_global_random_streams_keep_every_promise(kwargs: dict[str, Any]) -> None:
    check_team_env(partial(parallel, TOYS + "Line", workers=0, maker_kwargs=kwargs, positions=TOYS + "places"))


def test_agents_that_return_keep_every_promise_where_they_may() -> None:
    kwargs = {"deaths": {2: [0]}, "back": {4: [0]}}
    check_team_env(partial(parallel, TOYS + "Line", workers=0, maker_kwargs=kwargs, rejoins=True))
    env = toy(**kwargs)
    env.reset()
    for _ in range(3):
        env.step(stay(env))
    with pytest.raises(RuntimeError, match=r"^expected the dead to stay dead.*'walker_0' back.*step 4"):
        env.step(stay(env))


def test_an_agent_dies_in_the_next_observation_and_its_last_reward_counts() -> None:
    env = toy(deaths={2: [1]}, positions=TOYS + "places", num_envs=2)
    seen = env.reset()
    place = seen.own[:, 1, 0].clone()
    seen, outcome = env.step(stay(env))
    assert seen.alive.all() and (outcome.reward != 0).all()
    seen, outcome = env.step(stay(env))
    assert seen.alive.tolist() == [[True, False, True]] * 2
    torch.testing.assert_close(outcome.reward[:, 1], place)
    assert (seen.own[:, 1] == 0).all() and (seen.position[:, 1] == 0).all()
    assert not outcome.terminated.any() and not outcome.truncated.any()
    _, outcome = env.step(stay(env))
    assert (outcome.reward[:, 1] == 0).all() and (outcome.reward[:, 0] != 0).all()


def test_a_team_whose_last_agents_die_terminates() -> None:
    env = toy(deaths={1: [0], 2: [1, 2]})
    env.reset()
    _, first = env.step(stay(env))
    _, last = env.step(stay(env))
    assert not (first.terminated | first.truncated).any()
    assert last.terminated.all() and not last.truncated.any()


def test_a_team_of_which_some_are_truncated_at_the_end_is_truncated_and_bootstraps_from_these() -> None:
    env = toy(deaths={2: [0], 6: [1]}, length=6, positions=TOYS + "places")
    env.reset()
    for _ in range(6):
        seen, outcome = env.step(stay(env))
    assert outcome.truncated.all() and not outcome.terminated.any()
    # Walker 1 died in the last step; walker 2 was cut off alive, and is where it was.
    assert seen.alive.tolist() == [[False, False, True]]
    assert seen.own[0, 2, 2] == 6 and seen.position[0, 2, 0] == seen.own[0, 2, 0]


def test_the_row_after_a_final_step_resets_and_is_invalid() -> None:
    env = toy(length=2)
    env.reset()
    env.step(stay(env))
    last, outcome = env.step(stay(env))
    assert outcome.truncated.all() and outcome.valid.all() and (last.own[..., 2] == 2).all()
    first, outcome = env.step(stay(env))
    assert not outcome.valid.any() and not outcome.truncated.any() and (outcome.reward == 0).all()
    assert (first.own[..., 2] == 0).all() and first.alive.all() and (first.own[..., 3] != last.own[..., 3]).all()
    _, outcome = env.step(stay(env))
    assert outcome.valid.all()


def test_our_own_limit_truncates_with_everybody_alive() -> None:
    env = toy(max_steps=3, length=10)
    env.reset()
    for _ in range(3):
        seen, outcome = env.step(stay(env))
    assert outcome.valid.all() and env.spec.max_steps == 3
    assert outcome.truncated.all() and not outcome.terminated.any() and seen.alive.all()
    assert (env.step(stay(env))[0].own[..., 2] == 0).all()


def test_every_episode_of_every_copy_has_a_seed_of_its_own() -> None:
    env = toy(length=1, num_envs=3)
    seeds = [env.reset().own[:, 0, 3]]
    for t in range(8):
        seen, _ = env.step(stay(env))
        if t % 2:
            seeds.append(seen.own[:, 0, 3])
    assert len(torch.cat(seeds).unique()) == 15
    torch.testing.assert_close(env.reset(0).own[:, 0, 3], seeds[0], rtol=0, atol=0)
    torch.testing.assert_close(env.reset().own[:, 0, 3], seeds[1], rtol=0, atol=0)


def test_agents_with_other_spaces_are_other_kinds_padded_to_the_widest() -> None:
    env = toy("Zoo")
    seen = env.reset()
    assert env.spec.kinds == ("cat", "mouse") and env.spec.own == (4,)
    assert env.spec.actions == (Discrete(3), Discrete(2))
    assert seen.kind.tolist() == [[0, 0, 1, 1]]
    assert (seen.own[0, 2:, 2:] == 0).all() and (seen.own[0, :2, 3] != 0).all()
    assert seen.available.tolist() == [[[True, True, True]] * 2 + [[True, True, False]] * 2]


def test_names_tell_kinds_apart_where_asked() -> None:
    assert toy("Line").spec.kinds == ("walker",)
    assert toy("Line", kinds="names").spec.kinds == ("walker",)
    assert toy("Zoo", kinds="names").spec.kinds == ("cat", "mouse")


def test_mixed_actions_are_floats_with_the_number_in_column_0_and_boxes_clip() -> None:
    env = toy("Mixed")
    seen = env.reset()
    assert env.spec.actions == (Discrete(3), Continuous((-1.0, 0.0), (1.0, 2.0)))
    action = torch.tensor([[[2.0, 9.0, 9.0], [0.0, 0.0, 0.0], [7.0, 7.0, 0.0], [-0.5, 0.5, 0.0]]])
    after, _ = env.step(action)
    moved = after.own[0, :, 0] - seen.own[0, :, 0]
    torch.testing.assert_close(moved, torch.tensor([2.0, 0.0, 3.0, 0.0]))


def test_boxes_become_grids_of_numbered_actions_where_asked() -> None:
    env = toy("Mixed", continuous=False, bins=3)
    kinds = dict(zip(env.spec.kinds, env.spec.actions, strict=True))
    assert env.spec.discrete and env.spec.available and kinds["mouse"] == Discrete(9) and kinds["cat"].n < 9
    act = env._layout.acts[env.spec.kinds.index("mouse")]
    points = [act.read(np.int64(k)).tolist() for k in range(9)]
    assert points == [[x, y] for x in (-1.0, 0.0, 1.0) for y in (0.0, 1.0, 2.0)]
    check_team_env(partial(parallel, TOYS + "Mixed", workers=0, continuous=False, bins=3), n_agents=[2, 5])
    with pytest.raises(ValueError, match=r"at most 1,000 actions \(got bins=40 for each of 2 components"):
        toy("Mixed", continuous=False, bins=40)
    with pytest.raises(ValueError, match="expected continuous=false or auto"):
        toy("Line", continuous=True)


def test_a_world_that_remembers_is_made_anew_where_asked() -> None:
    for anew, resets in ((False, 3), (True, 1)):
        env = toy("Remembers", anew=anew)
        env.reset(), env.reset()
        assert env.reset().own[0, 0, 1] == resets
    check_team_env(partial(parallel, TOYS + "Remembers", workers=0, anew=True), n_agents=[2])
    with pytest.raises(ValueError, match="same run again"):
        check_team_env(partial(parallel, TOYS + "Remembers", workers=0), n_agents=[2])


def test_byte_images_stay_bytes_with_channels_first_and_a_scale_makes_floats_of_them() -> None:
    env = toy("Pictures")
    env.reset()
    seen, _ = env.step(stay(env))
    assert env.spec.own == (3, 4, 5) and seen.own.dtype == torch.uint8
    assert (seen.own[0, 0, 0] == 1).all()
    rows = torch.tensor([0, 10, 20, 30], dtype=torch.uint8).unsqueeze(-1).expand(4, 5)
    assert torch.equal(seen.own[0, 0, 1], rows)
    env = toy("Pictures", scale=255.0)
    torch.testing.assert_close(env.reset().own * 255, toy("Pictures").reset().own.float())


def test_masks_become_available() -> None:
    env = toy("Masked")
    seen = env.reset()
    assert env.spec.available and env.spec.own == (4,)
    assert seen.available.tolist() == [[[True, False, True]] * 2 + [[True, False, False]]]
    seen, _ = env.step(stay(env))
    assert seen.available[0, 0].all()


def test_numbers_become_one_hot() -> None:
    seen = toy("Numbers").reset()
    assert seen.own.shape[-1] == 5 and (seen.own.sum(-1) == 1).all()


def test_positions_and_entities_come_from_the_named_functions() -> None:
    env = toy(positions=TOYS + "places", entities=TOYS + "lamps")
    assert (env.spec.position_dim, env.spec.n_entities, env.spec.entity_dim) == (2, 2, 1)
    env.reset()
    seen, _ = env.step(stay(env))
    torch.testing.assert_close(seen.position[..., 0], seen.own[..., 0])
    assert seen.entity_present.tolist() == [[True, False]]
    assert seen.entity_position[0, 1].tolist() == [5, 5] and seen.entities[0, 1, 0] == 1
    assert toy().reset().position is None and toy().spec.position_dim == 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"maker": TOYS + "fixed", "n_agents": 5}, "expected n_agents=3, the team size of petting_toys:fixed (got 5)"),
        ({"maker": TOYS + "nothing"}, "expected a function in module 'petting_toys' (got 'petting_toys:nothing'"),
        ({"maker": "petting_toys"}, "expected a function as 'package.module:function' (got 'petting_toys')"),
        ({"maker": "no_such_package.here:make"}, "expected the module 'no_such_package' for 'no_such_package.here"),
        ({"maker": TOYS + "Pairs"}, "expected Box, MultiBinary, Discrete or Dict(observation, action_mask)"),
        ({"maker": TOYS + "Line", "maker_kwargs": {"colour": 1}}, "expected petting_toys:Line to make a ParallelEnv"),
        ({"maker": TOYS + "Line", "num_envs": 0}, "expected num_envs to be a positive whole number (got 0)"),
        ({"maker": TOYS + "Line", "seed": -1}, "expected a seed of at least 0 and below 2^63 (got -1)"),
        ({"maker": TOYS + "Line", "workers": -1}, "expected workers to be 'auto' or a whole number"),
        ({"maker": TOYS + "Line", "positions": "petting_toys:fixed"}, "expected petting_toys:fixed to read the world"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ModuleNotFoundError, TypeError)) as caught:
        parallel(**{"workers": 0, **kwargs})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_argument_for_the_size_of_the_team_can_be_named() -> None:
    assert parallel(TOYS + "Line", n_agents=5, workers=0).spec.n_agents == 5
    assert parallel(TOYS + "sized", n_agents=5, workers=0, size_argument="walkers").spec.n_agents == 5
    with pytest.raises(ValueError, match="expected n_agents=2"):
        parallel(TOYS + "sized", n_agents=5, workers=0)


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mpe2.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mpe2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gcoord\[petting\]'"):
        parallel("mpe2.simple_spread_v3:parallel_env", workers=0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan_reward", "expected finite rewards (got nan for agent 'walker_2') at step 3 of environment 1"),
        ("nan_own", "expected finite observations (got inf for agent 'walker_2') at step 3 of environment 1"),
        ("raise", "petting_toys:Line raised KeyError: 'the\\nfloor gave way' at step 2 of environment 1"),
        ("blind", "expected an observation of every living agent (got none of 'walker_2') at step 3"),
        ("shape", "raised ValueError: expected an observation of shape (4,) (got (5,)) at step 3"),
        ("stranger", "expected agents among possible_agents (got 'nobody' too) at step 3"),
        ("no_legal", "expected a legal action for every living agent (got none for 'walker_2') at step 3"),
    ],
)
def test_a_world_that_misbehaves_is_named_in_one_line(fault: str, message: str) -> None:
    # Seed 3: the first environment's episode is luckier than the second's.
    env = toy("Masked" if fault == "no_legal" else "Line", num_envs=2, seed=3, fault=fault, unlucky=_between(3))
    env.reset()
    env.step(stay(env))
    env.step(stay(env))
    with pytest.raises(RuntimeError) as caught:
        env.step(stay(env))
    said = str(caught.value)
    assert message in said and "\n" not in said and "episode seed" in said
    if fault == "raise":
        assert isinstance(caught.value.__cause__, KeyError)


def _between(seed: int) -> float:
    """A threshold for `unlucky` that only environment 1 of 2 stays under."""
    first, second = toy(num_envs=2, seed=seed).reset().own[:, 0, 3].tolist()
    assert second < first
    return (first + second) / 2


def test_an_episode_over_before_it_began_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^expected agents after a reset.*environment 0"):
        toy(fault="empty").reset()


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("Line", torch.full((1, 3), 3), r"expected an action in Discrete\(n=3\) \(got 3 for agent 'walker_0'"),
        ("Line", torch.full((1, 3), -1), r"got -1 for agent 'walker_0' of environment 0"),
        ("Line", torch.zeros(1, 3), r"expected a long action of shape \(1, 3\) \(got torch.float32"),
        ("Line", torch.zeros(1, 2, dtype=torch.long), r"\(got torch.int64 of \(1, 2\)\)"),
        ("Mixed", torch.full((1, 4, 3), 0.5), r"got \[0.5, 0.5, 0.5\] for agent 'cat_0'"),
        ("Mixed", torch.zeros(1, 4, 3).index_fill_(1, torch.tensor(2), torch.nan), r"for agent 'mouse_2'"),
    ],
)
def test_an_action_out_of_the_spec_is_refused(name: str, action: Tensor, message: str) -> None:
    env = toy(name)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_the_actions_of_the_dead_and_of_reset_rows_are_not_read() -> None:
    env = toy(length=3, deaths={1: [0]})
    env.reset()
    env.step(stay(env))
    env.step(torch.tensor([[99, 0, 0]]))
    env.step(torch.tensor([[99, 0, 0]]))
    env.step(torch.tensor([[99, 99, 99]]))


def test_stepping_needs_a_reset_first_and_an_open_world() -> None:
    env = toy()
    with pytest.raises(RuntimeError, match="expected reset before step"):
        env.step(stay(env))
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="expected an open environment"):
        env.reset()


@pytest.mark.parametrize("steps", [0, 1, 5, 6, 7, 23])
def test_a_restored_world_goes_on_bit_for_bit(steps: int) -> None:
    kwargs = {"num_envs": 3, "deaths": {2: [0]}, "draws": "global"}
    env, other = toy(**kwargs), toy(seed=77, **kwargs)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        env.step(torch.randint(3, (3, 3), generator=generator))
    state = env.state_dict()
    assert all(isinstance(value, Tensor | int) for value in state.values())
    other.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(state)
    for _ in range(12):
        action = torch.randint(3, (3, 3), generator=generator)
        (seen, outcome), (seen2, outcome2) = env.step(action), other.step(action)
        assert torch.equal(seen.own, seen2.own) and torch.equal(seen.alive, seen2.alive)
        assert torch.equal(outcome.reward, outcome2.reward) and torch.equal(outcome.valid, outcome2.valid)
    # What was restored can be saved again.
    again, once = other.state_dict(), env.state_dict()
    assert again["seed"] == once["seed"]
    assert all(torch.equal(again[key], once[key]) for key in once if key != "seed")


def test_a_world_that_does_not_replay_says_so_when_restored() -> None:
    env, other = toy(num_envs=2, draws="never the same"), toy(num_envs=2, draws="never the same")
    env.reset()
    env.step(stay(env))
    with pytest.warns(UserWarning, match=r"does not replay exactly: environments \[0, 1\] differ"):
        other.load_state_dict(env.state_dict())


def test_the_state_of_another_batch_is_refused() -> None:
    env = toy(num_envs=2)
    env.reset()
    with pytest.raises(ValueError, match="expected the state of num_envs=3 copies"):
        toy(num_envs=3).load_state_dict(env.state_dict())


def test_the_callers_random_streams_are_left_alone() -> None:
    np.random.randn()  # noqa: NPY002 - leaves the second of a pair of normal draws behind
    numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    env = toy(draws="global")
    env.reset()
    env.step(stay(env))
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert random.getstate() == python_state
    assert after["has_gauss"] == numpy_state["has_gauss"] == 1 and after["gauss"] == numpy_state["gauss"]
    assert (after["state"]["key"] == numpy_state["state"]["key"]).all()


def test_worlds_that_draw_from_python_s_own_stream_go_on_in_it() -> None:
    env, other = toy(draws="python", num_envs=2), toy(draws="python", num_envs=2)
    seen, same = [env.reset()], [other.reset()]
    for _ in range(4):
        seen.append(env.step(stay(env))[0])
        same.append(other.step(stay(other))[0])
    drawn = torch.stack([one.own[..., 1] for one in seen])
    assert torch.equal(drawn, torch.stack([one.own[..., 1] for one in same]))
    assert len(drawn.unique()) == drawn.numel()


def test_notes_on_deprecated_imports_are_hidden_here_and_nowhere_else() -> None:
    pytest.importorskip("pettingzoo")
    code = (
        "import warnings\n"
        "from gcoord.envs.sisl import pursuit\n"
        "env = pursuit(workers=0); env.reset(); env.close()\n"
        "warnings.warn('The old environment creation API', DeprecationWarning, stacklevel=1)"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("DeprecationWarning") == 1 and not done.stdout
