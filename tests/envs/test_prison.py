"""native/prison is the original, step by step and in distribution; its script earns all that can be earned."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beside_originals import assert_same_distribution, play_ours, reference

from gcoord import make_env
from gcoord.envs import check_team_env
from gcoord.envs.native.prison import CARDS, Prison

TRACE = np.load(Path(__file__).parent / "original_figures" / "prison_trace.npz")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "continuous": {"continuous": True},
    "shared cells": {"density": "arena"},
    "bodies drawn": {"random_aliens": True},
    "one body drawn": {"identical_aliens": True},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_prison_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    check_team_env(partial(Prison, max_cycles=12, **options), n_agents=(1, 3, 16))


def test_images_keep_them_too() -> None:
    check_team_env(partial(Prison, max_cycles=5, vector_observation=False), n_agents=(1, 2, 3), num_envs=2)


@pytest.mark.parametrize(
    ("name", "options"), [("random", {}), ("swing", {}), ("continuous", {"continuous": True})], ids=lambda x: str(x)
)
def test_it_is_the_original_step_by_step(name: str, options: dict[str, Any]) -> None:
    own, action, reward = (torch.from_numpy(TRACE[f"{name}.{key}"]) for key in ("own", "action", "reward"))
    env = Prison(n_agents=own.shape[1], num_envs=1, **options)
    env.reset(0)
    state = env.state_dict()
    state["state"]["x"] = own[:1, :, 0].clone()
    env.load_state_dict(state)
    for t in range(150):
        seen, outcome = env.step((action[t] if options else action[t].long()).unsqueeze(0))
        torch.testing.assert_close(seen.own[0], own[t + 1], atol=1e-3, rtol=0)
        assert torch.equal(outcome.reward[0], reward[t])
    assert outcome.truncated.all() and reward.sum() > 0


@pytest.mark.parametrize("row", reference("prison"), ids=lambda row: f"{row['policy']}-{row['n_agents']}")
def test_returns_are_distributed_as_the_originals(row: dict[str, Any]) -> None:
    options = {"continuous": True} if row["policy"] == "continuous" else {}
    assert_same_distribution(row, play_ours(Prison(n_agents=row["n_agents"], num_envs=400, **options), row["policy"]))


def most_points(room: float, steps: int) -> int:
    """By trying everything from 150 px on."""
    best = {(150.0, 0, 0): 0}
    for _ in range(steps):
        reached: dict[tuple[float, int, int], int] = {}
        for (x, first, last), points in best.items():
            for move in (-24, 0, 24):
                to = x + move
                wall = -1 if to < 0 else 1 if to > room else 0
                begun = first or wall
                earned = wall != 0 and begun == -wall and last == -wall
                key = (min(max(to, 0), room), begun, wall or last)
                reached[key] = max(reached.get(key, 0), points + earned)
        best = reached
    return max(best.values())


def test_the_script_earns_all_there_is() -> None:
    for options in ({}, {"continuous": True}):
        env = Prison(n_agents=8, num_envs=2, synchronized_start=True, **options)
        seen, total, success = env.reset(0), torch.zeros(2, 8), None
        rooms = env.state_dict()["state"]["room"][0].tolist()
        for _ in range(150):
            seen, outcome = env.step(env.scripted(seen))
            total, success = total + outcome.reward, outcome.metrics["success"]
        assert total[0].tolist() == [most_points(room, 150) for room in rooms]
        assert success.tolist() == [1.0, 1.0]


def test_prisoners_stand_in_cells_of_their_own_or_share_eight() -> None:
    own, shared = (Prison(n_agents=20, num_envs=1, density=rule).reset(0) for rule in ("fixed", "arena"))
    floors = own.position[0, :, 1]
    assert floors.unique().tolist() == [150.0 * (f + 1) for f in range(10)]
    assert shared.position[0, :, 1].unique().tolist() == [150.0, 300.0, 450.0, 600.0]
    torch.testing.assert_close(own.position[0, 1::2, 0], own.own[0, 1::2, 0] + 400)
    assert torch.equal(own.own, shared.own)


def test_the_image_shows_where_a_prisoner_stands_and_where_it_looks() -> None:
    env = Prison(n_agents=1, num_envs=1, vector_observation=False, synchronized_start=True)
    seen = env.reset(0)
    assert seen.own.dtype == torch.uint8

    def columns(image: torch.Tensor, least: int) -> list[int]:
        return (image[0, 0, 0, -1] >= least).nonzero().flatten().tolist()

    assert columns(seen.own, 1) == list(range(150, 176))
    right, _ = env.step(torch.tensor([[2]]))
    assert columns(right.own, 1) == list(range(174, 200)) and min(columns(right.own, 255)) > 187
    left, _ = env.step(torch.tensor([[0]]))
    assert columns(left.own, 1) == list(range(150, 176)) and max(columns(left.own, 255)) < 162
    once, _ = env.step(torch.tensor([[1]]))
    twice, _ = env.step(torch.tensor([[1]]))
    assert torch.equal(once.own, left.own) and columns(twice.own, 255) == columns(seen.own, 255)
    assert (seen.own[0, 0, 0, :60] == 0).all() and (seen.own[0, 0, 0, 60:, 160] > 0).all()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_saved_prison_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    env = Prison(n_agents=5, num_envs=4, max_cycles=30, **options)
    seen = env.reset(3)
    for _ in range(20):
        seen, _ = env.step(env.scripted(seen))
    other = Prison(n_agents=5, num_envs=4, max_cycles=30, seed=9, **options)
    other.load_state_dict(copy.deepcopy(env.state_dict()))
    for _ in range(40):
        action = env.scripted(seen)
        seen, mine = env.step(action)
        same, theirs = other.step(action)
        assert (seen == same).all() and torch.equal(mine.reward, theirs.reward)
        assert torch.equal(mine.metrics["success"], theirs.metrics["success"])


def test_it_is_made_by_name_and_has_a_card() -> None:
    env = make_env("native/prison", n_agents=6, num_envs=2)
    assert env.spec.world == "native/prison" and env.spec.n_agents == 6 and "native/prison" in CARDS
    with pytest.raises(ValueError, match="the state of 2 teams of 5"):
        Prison(n_agents=5, num_envs=2).load_state_dict(_state_of(env))


def _state_of(env: Any) -> dict[str, Any]:
    env.reset(0)
    return env.state_dict()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"continuous": "maybe"}, "continuous to be auto"),
        ({"density": "thin"}, "density to be fixed or arena"),
        ({"max_cycles": 0}, "max_cycles to be a positive"),
        ({"identical_aliens": True, "random_aliens": True}, "got both"),
        ({"n_agents": 0}, "at least one team and one agent"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Prison(**options)
    assert "\n" not in str(caught.value)
