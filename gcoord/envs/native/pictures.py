"""What stands around the agents of native worlds, for films: image [H, W, 3] of bytes, and what it shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Picture = tuple[np.ndarray, tuple[float, float, float, float]]
GROUND, WALL, GOAL, GOOD, BAD = (245, 245, 245), (90, 90, 90), (232, 188, 84), (110, 180, 120), (222, 107, 93)


def cells(blocked: np.ndarray, goals: np.ndarray, pixels: int = 8) -> Picture:
    """A grid of which cells blocked [R, C] are dark, with a smaller square on each of goals [G, 2] (row, column).

    Rows go to the right, as where agents' positions are (row, column)."""
    rows, columns = blocked.shape
    image = np.where(blocked.T[..., None], WALL, GROUND).astype(np.uint8)
    image = image.repeat(pixels, 0).repeat(pixels, 1)
    margin = pixels // 4
    for row, column in goals.astype(int) * pixels:
        image[column + margin : column + pixels - margin, row + margin : row + pixels - margin] = GOAL
    return image, (-0.5, rows - 0.5, columns - 0.5, -0.5)


def discs(side: float, sorts: Iterable[tuple[np.ndarray, float, tuple[int, int, int]]], pixels: int = 400) -> Picture:
    """A square from 0 to `side` with discs: middles [K, 2], radius and colour of each sort, the later ones on top."""
    image = np.full((pixels, pixels, 3), GROUND, np.uint8)
    x = (np.arange(pixels) + 0.5) * side / pixels
    y = x[::-1]
    for middles, radius, colour in sorts:
        for at in middles:
            image[(x - at[0]) ** 2 + (y[:, None] - at[1]) ** 2 <= radius**2] = colour
    return image, (0.0, side, 0.0, side)


def lines(places: np.ndarray, pairs: np.ndarray, pixels: int = 400) -> Picture:
    """Lines between the numbered `pairs` [L, 2] of places [R, 2]."""
    low, high = places.min(0), places.max(0)
    unit = max(float((high - low).max()), 1e-9) / (pixels * 0.9)
    image = np.full((pixels, pixels, 3), GROUND, np.uint8)
    left, bottom = (low + high) / 2 - unit * pixels / 2
    share = np.linspace(0, 1, 2 * pixels)[:, None]
    for one, other in pairs:
        x, y = ((places[one] * (1 - share) + places[other] * share - (left, bottom)) / unit).astype(int).T
        image[pixels - 1 - y, x] = WALL
    return image, (float(left), float(left + unit * pixels), float(bottom), float(bottom + unit * pixels))
