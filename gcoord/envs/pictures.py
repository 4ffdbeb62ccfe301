"""Pictures as agents see them: grey, 84 x 84, the last 4 stacked. NumPy only: workers import this without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# ITU-R BT.601, as in SuperSuit's color_reduction_v0; with four bytes, as surfaces hold them: blue, green, red, nothing.
GREY = {3: np.array([0.299, 0.587, 0.114], np.float32), 4: np.array([0.114, 0.587, 0.299, 0.0], np.float32)}
SIZE, STACK = 84, 4


class Lens:
    """Shrinks pictures of one size to grey ones of `size` x `size`, as SuperSuit's color_reduction_v0 and resize_v1 do
    (https://github.com/Farama-Foundation/SuperSuit): bilinear, truncated to bytes twice.

    Of a picture's rows only the two that each row of the result lies between are read, and pictures that are cut from
    one screen share them, which takes a tenth of the time.

    Arguments:
        height, width: of the pictures, in pixels.
        size: of what they become.
    """

    def __init__(self, height: int, width: int, size: int = SIZE) -> None:
        self.size = size
        self._upper, self._lower, down = _between(height, size)
        self._left, self._right, self._across = _between(width, size)
        self._down = down[:, None]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """[H, W], [H, W, 1] (grey), [H, W, 3] or [H, W, 4] (see `pixels`) bytes -> [size, size] bytes."""
        return self.cut(self.rows(picture), np.zeros(1, np.intp))[0]

    def rows(self, screen: np.ndarray) -> np.ndarray:
        """A screen of any width shrunk in height: [size, any width]."""
        upper, lower = _grey(screen[self._upper]), _grey(screen[self._lower])
        lower -= upper
        lower *= self._down
        lower += upper
        return lower

    def cut(self, rows: np.ndarray, lefts: np.ndarray) -> np.ndarray:
        """The pictures whose left edges are at columns `lefts` [N] of a screen, shrunk: [N, size, size] bytes."""
        left = np.take(rows, (lefts[:, None] + self._left).ravel(), axis=1)
        right = np.take(rows, (lefts[:, None] + self._right).ravel(), axis=1)
        right -= left
        right *= np.tile(self._across, len(lefts))
        right += left
        return right.astype(np.uint8).reshape(self.size, len(lefts), self.size).swapaxes(0, 1)


def _between(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `size` cells, the pixels before and after its middle, and how far it is to the second."""
    step = np.float32(length - 1) / np.float32(size)
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * step
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), place - first.astype(np.float32)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """[H, W], [H, W, 1], [H, W, 3] or [H, W, 4] bytes -> [H, W] float32 of whole numbers."""
    if pixels.ndim == 2 or pixels.shape[-1] == 1:
        return pixels.reshape(pixels.shape[:2]).astype(np.float32)
    return np.floor(pixels.astype(np.float32) @ GREY[pixels.shape[-1]])  # type: ignore[no-any-return]


def pixels(surface: Any) -> np.ndarray:
    """A view of a pygame surface: [H, W, 4], blue, green, red and a byte of nothing, five times as quick to read as the
    [H, W, 3] that it is where the surface is laid out otherwise."""
    import pygame

    width, height = surface.get_size()
    if surface.get_masks()[:3] == (0xFF0000, 0xFF00, 0xFF) and surface.get_pitch() == 4 * width:
        return pygame.surfarray.pixels2d(surface).T.view(np.uint8).reshape(height, width, 4)
    return pygame.surfarray.pixels3d(surface).swapaxes(0, 1)  # type: ignore[no-any-return]


class Around:
    """A ParallelEnv that passes on what the one inside it says: the base of those that change what agents see."""

    def __init__(self, world: Any) -> None:
        self.world, self.unwrapped = world, world.unwrapped
        self.possible_agents = world.possible_agents
        self.observation_space, self.action_space = world.observation_space, world.action_space

    @property
    def agents(self) -> list[str]:
        return self.world.agents  # type: ignore[no-any-return]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        return self.world.reset(seed=seed, options=options)  # type: ignore[no-any-return]

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        return self.world.step(actions)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.world.close()


class Stacked(Around):
    """A world of pictures [size, size] in which agents see their last `stack`, the oldest first: [stack, size, size].

    At a reset the first picture stands for those before it, as in SuperSuit's frame_stack_v2.
    """

    def __init__(self, world: Any, stack: int = STACK, size: int = SIZE) -> None:
        from gymnasium.spaces import Box

        super().__init__(world)
        space = Box(0, 255, (stack, size, size), np.uint8)
        self.observation_space = lambda agent: space
        self._seen = {name: np.zeros((stack, size, size), np.uint8) for name in self.possible_agents}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        pictures, infos = super().reset(seed, options)
        for name, picture in pictures.items():
            self._seen[name][:] = picture
        return {name: self._seen[name] for name in pictures}, infos

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        pictures, *rest = super().step(actions)
        for name, picture in pictures.items():
            seen = self._seen[name]
            seen[:-1] = seen[1:]
            seen[-1] = picture
        return ({name: self._seen[name] for name in pictures}, *rest)


class Shrunk(Around):
    """A world of pictures of any size in which agents see them grey and [size, size]; equal objects are shrunk once."""

    def __init__(self, world: Any, size: int = SIZE) -> None:
        super().__init__(world)
        shapes = {name: world.observation_space(name).shape for name in self.possible_agents}
        self._lens = {name: Lens(shape[0], shape[1], size) for name, shape in shapes.items()}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        pictures, infos = super().reset(seed, options)
        return self._shrink(pictures), infos

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        pictures, *rest = super().step(actions)
        return (self._shrink(pictures), *rest)

    def _shrink(self, pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for name, picture in pictures.items():
            if id(picture) not in found:
                found[id(picture)] = self._lens[name](picture)
        return {name: found[id(picture)] for name, picture in pictures.items()}
