"""How worlds draw themselves, for films: env -> (image [H, W, 3], what it shows in the positions' units, or None)."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

Extent = tuple[float, float, float, float]


@contextlib.contextmanager
def _drawing(world: Any) -> Iterator[None]:
    """Inside, a world that was made not to draw may be asked to."""
    mode = world.render_mode
    world.render_mode = "rgb_array"
    try:
        yield
    finally:
        world.render_mode = mode


def _read(surface: Any, unit: float) -> tuple[np.ndarray, Extent]:
    """A pygame surface, y downwards, of which `unit` pixels are one of the positions' units."""
    import pygame

    width, height = surface.get_size()
    return pygame.surfarray.array3d(surface).swapaxes(0, 1), (0.0, width / unit, height / unit, 0.0)


def pistonball(env: Any) -> tuple[np.ndarray, Extent]:
    """The whole row of pistons."""
    from gcoord.envs.butterfly import WIDTH

    world = env.unwrapped
    with _drawing(world):
        world.render()
    return _read(world.screen, WIDTH)


def cooperative_pong(env: Any) -> tuple[np.ndarray, Extent]:
    """The whole field."""
    from gcoord.envs.butterfly import PONG_UNIT

    game = env.unwrapped.env
    game.draw()
    return _read(game.screen, PONG_UNIT)


def knights_archers_zombies(env: Any) -> tuple[np.ndarray, Extent]:
    """The whole screen."""
    from gcoord.envs.zombies import UNIT

    env.unwrapped.draw()
    return _read(env.unwrapped.screen, UNIT)


def pursuit(env: Any) -> tuple[np.ndarray, Extent]:
    """The whole map; positions are the middles of cells."""
    world = env.unwrapped.env
    with _drawing(world), warnings.catch_warnings():
        # Where the font it asks for is missing, it writes in another.
        warnings.filterwarnings("ignore", "The system font", UserWarning)
        image = world.render()
    return image, (-0.5, world.x_size - 0.5, world.y_size - 0.5, -0.5)


def multiwalker(env: Any) -> tuple[np.ndarray, Extent]:
    """The part of the terrain that moves along with the walkers."""
    import pygame
    from pettingzoo.sisl.multiwalker.multiwalker_base import SCALE, VIEWPORT_H, VIEWPORT_W

    world = env.unwrapped.env
    if world.screen is None:
        # Its own screen would be a window.
        world.screen = pygame.Surface((VIEWPORT_W, VIEWPORT_H))
    with _drawing(world):
        image = world.render()
    scale = SCALE / world.package_scale / 0.75
    left = float(world.scroll)
    return image, (left, left + VIEWPORT_W / scale, 0.0, VIEWPORT_H / scale)


def emulator(env: Any) -> tuple[np.ndarray, None]:
    """An Atari screen in its colours."""
    return env.unwrapped.ale.getScreenRGB(), None


def grid(env: Any) -> tuple[np.ndarray, Extent]:
    """MAgent2's map."""
    return env.picture()  # type: ignore[no-any-return]


def gymnasium(env: Any) -> tuple[np.ndarray | None, None]:
    """Whatever a Gymnasium environment renders, None where it cannot."""
    world = env.unwrapped
    # What it needs to draw with may be missing, in as many ways as there are environments.
    try:
        with _drawing(world):
            return world.render(), None
    except Exception as error:
        log.debug("%s draws no pictures here: %s", type(world).__name__, error)
        return None, None
