from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gcoord.envs.pictures import Lens, Shrunk, Stacked, pixels
from gcoord.envs.single import Alone

pytest.importorskip("supersuit")


def by_supersuit(picture: np.ndarray, size: int) -> np.ndarray:
    from gymnasium.spaces import Box
    from supersuit.utils.basic_transforms import color_reduction, resize

    space = Box(0, 255, picture.shape[:2], np.uint8)
    grey = color_reduction.change_observation(picture, None, "full") if picture.ndim == 3 else picture
    return resize.change_observation(grey, space, (size, size, True))  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [84, 40])
@pytest.mark.parametrize("shape", [(457, 120, 3), (280, 480, 3), (512, 512, 3), (210, 160), (90, 84, 3)])
def test_a_lens_shows_what_supersuit_shows(shape: tuple[int, ...], size: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    apart = np.abs(Lens(*shape[:2], size)(picture).astype(int) - by_supersuit(picture, size))
    # Where a value comes out whole, the last bit of a float decides between two levels.
    assert apart.max() <= 1 and (apart > 0).mean() < 1e-3


def test_pictures_cut_from_one_screen_are_those_cut_first() -> None:
    screen = np.random.default_rng(1).integers(0, 256, (100, 300, 3)).astype(np.uint8)
    lens, lefts = Lens(100, 120), np.array([0, 17, 180])
    together = lens.cut(lens.rows(screen), lefts)
    for cut, left in zip(together, lefts, strict=True):
        np.testing.assert_array_equal(cut, lens(screen[:, left : left + 120]))


def test_a_surface_is_read_as_pygame_reads_it() -> None:
    pygame = pytest.importorskip("pygame")
    surface = pygame.Surface((70, 50))
    for i in range(30):
        surface.fill(((i * 40) % 256, (i * 7) % 256, (i * 91) % 256), (i * 2, i, 9, 9))
    as_array = pygame.surfarray.array3d(surface).swapaxes(0, 1)
    lens = Lens(50, 70, 20)
    np.testing.assert_array_equal(lens(pixels(surface)), lens(as_array))


class Film:
    """A Gymnasium environment of pictures that all show the number of their step."""

    unwrapped = None

    def __init__(self) -> None:
        from gymnasium.spaces import Box, Discrete

        self.observation_space, self.action_space = Box(0, 255, (60, 50, 3), np.uint8), Discrete(2)
        self.at = 0

    def picture(self) -> np.ndarray:
        return np.full((60, 50, 3), self.at, np.uint8)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.at = 10
        return self.picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self.picture(), 0.0, False, False, {}


def test_a_stack_begins_with_its_first_frame_and_ends_with_the_newest() -> None:
    world = Stacked(Shrunk(Alone(Film())), stack=3)
    assert world.observation_space("agent_0").shape == (3, 84, 84)

    def shown(seen: Any) -> list[int]:
        return [int(frame[0, 0]) for frame in seen[0]["agent_0"]]

    # Grey weights add up to 1 less a rounding, and are truncated.
    first = shown(world.reset(seed=0))
    assert first in ([10] * 3, [9] * 3)
    assert [shown(world.step({"agent_0": 0})) for _ in range(3)][-1] == [first[0] + k for k in (1, 2, 3)]
    assert shown(world.reset(seed=0)) == first
