"""Worlds draw themselves for films: the whole team is in the picture, and being drawn changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gcoord
from gcoord import conf
from gcoord.data.playing import random_actions

WORLDS: dict[str, dict[str, Any]] = {
    "butterfly/pistonball": {"n_agents": 5},
    "butterfly/cooperative_pong": {},
    "butterfly/knights_archers_zombies": {"n_agents": 3},
    "sisl/pursuit": {"n_agents": 4},
    "sisl/multiwalker": {"n_agents": 2},
    "magent/battle": {"n_agents": 6},
    "magent/adversarial_pursuit": {"n_agents": 5},
    "magent/dgn_battle": {},
    "atari/space_invaders": {},
    "gym/space_invaders": {},
    "gym/cartpole": {},
    "gym/pendulum": {},
    "native/mapf": {},
    "native/routing": {},
    "native/waterworld": {"n_agents": 4},
}
# What is drawn of these stands still.
STILL = {"native/mapf", "native/routing"}
NEEDS = {"magent": "magent2", "atari": "ale_py", "sisl": "Box2D", "butterfly": "pymunk", "gym": "gymnasium"}


def made(name: str, **options: Any) -> Any:
    pytest.importorskip(NEEDS.get(name.partition("/")[0], "gcoord"))
    if name.endswith("space_invaders"):
        pytest.importorskip("ale_py")
    workers = {} if "workers" not in conf.env_node(name) else {"workers": 0}
    return gcoord.make_env(name, **{**WORLDS.get(name, {}), **workers, **options})


@pytest.mark.parametrize("name", WORLDS)
def test_a_picture_shows_the_team_and_changes_nothing(name: str) -> None:
    drawn, plain = made(name), made(name)
    seen, other = drawn.reset(0), plain.reset(0)
    act = random_actions(drawn.spec, 0)
    images = []
    for _ in range(8):
        image, extent = drawn.picture()
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.std() > 3
        images.append(image)
        if seen.position is not None:
            left, right, bottom, top = extent
            x, y = seen.position[0, seen.alive[0]].unbind(-1)
            assert (x >= left).all() and (x <= right).all()
            assert (y >= min(bottom, top)).all() and (y <= max(bottom, top)).all()
        action, _ = act(seen, None, torch.zeros(1))
        (seen, outcome), (other, same) = drawn.step(action), plain.step(action)
        assert torch.equal(seen.own, other.own) and torch.equal(outcome.reward, same.reward)
    assert name in STILL or any((image != images[0]).any() for image in images[1:])


@pytest.mark.parametrize("view", ["image", "vector"])
def test_pistons_are_drawn_where_they_are_said_to_be(view: str) -> None:
    env = made("butterfly/pistonball", view=view)
    seen = env.reset(0)
    image, (left, right, bottom, top) = env.picture()
    height, width, _ = image.shape
    for x, y in seen.position[0].tolist():
        # Its head is the bar at its position; above it there is white, or the ball.
        column, row = round((x + 0.3 - left) / (right - left) * width), round((y - top) / (bottom - top) * height)
        assert image[row, column].max() < 250 and image[row - 12, column, 2] > 200


def test_squares_of_the_map_are_those_of_the_positions() -> None:
    env = made("magent/battle")
    seen = env.reset(0)
    image, (left, right, _, top) = env.picture()
    assert right - left == image.shape[1] and top == left == -0.5
    colours = {tuple(image[int(y), int(x)]) for x, y in seen.position[0].tolist()}
    assert len(colours) == 1
    assert (image == np.array(colours.pop())).all(-1).sum() == 6


def test_cells_and_discs_are_where_the_world_has_them() -> None:
    env = made("native/mapf")
    seen = env.reset(0)
    image, _ = env.picture()
    side = image.shape[0] // 12
    rows, columns = seen.position[0].long().unbind(-1)
    # Nobody stands on a blocked cell; what each sees right of itself is what is drawn there.
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        assert image[column * side, row * side].min() > 200
        for d in (1, -1):
            if 0 <= column + d < 12:
                blocked = bool(seen.own[0, i, 0, 5, 5 + d])
                assert (image[(column + d) * side, row * side].max() < 100) == blocked
    env = made("native/waterworld")
    env.reset(0)
    image, (_, right, _, top) = env.picture()
    assert right == top == env.side
    for x, y in env._state["position"][0, env.spec.n_agents :].tolist():
        pixel = image[min(399, int((1 - y / env.side) * 400)), min(399, int(x / env.side * 400))]
        assert pixel.max() - pixel.min() > 50


def test_worlds_that_are_drawn_by_us_have_no_picture() -> None:
    pytest.importorskip("mpe2")
    env = gcoord.make_env("mpe/simple_spread", workers=0)
    env.reset(0)
    assert env.picture() == (None, None)


def test_a_gymnasium_world_that_cannot_draw_has_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made("gym/cartpole")
    env.reset(0)

    def fail(self: Any) -> None:
        raise ImportError("pygame is not installed")

    monkeypatch.setattr("gymnasium.envs.classic_control.CartPoleEnv.render", fail)
    assert env.picture() == (None, None)
