"""How large a waterworld is and what it holds, by the size of its team."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Of the unit square, whose densities density=fixed keeps.
AGENTS, EVADERS, POISONS = 2, 5, 10


class Layout(NamedTuple):
    """side: of the square; obstacles [O, 2] in the world's units; drawn: whether they are placed anew at each reset."""

    side: float
    n_evaders: int
    n_poisons: int
    obstacles: Tensor
    drawn: bool


def lay_out(
    n_agents: int,
    density: str,
    n_evaders: int | None,
    n_poisons: int | None,
    n_obstacles: int | None,
    obstacle_coord: str | list[Any] | None,
    obstacle_radius: float,
    radius: float,
) -> Layout:
    """Arguments as of `Waterworld`; raises ValueError where things have no room."""
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    ratio = n_agents / AGENTS if density == "fixed" else 1.0
    side = math.sqrt(ratio)
    n_evaders = max(1, round(EVADERS * ratio)) if n_evaders is None else n_evaders
    n_poisons = max(1, round(POISONS * ratio)) if n_poisons is None else n_poisons
    given = 0 if n_obstacles is None else n_obstacles
    for name, count, least in (("n_evaders", n_evaders, 1), ("n_poisons", n_poisons, 0), ("n_obstacles", given, 0)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"expected {name} to be a whole number from {least} on (got {count!r})")
    obstacles = _obstacles(obstacle_coord, n_obstacles, side)
    closed = len(obstacles) * math.pi * (obstacle_radius + 4 * radius) ** 2
    if closed > 0.8 * side**2 or 4 * radius > side:
        raise ValueError(
            f"expected obstacles and walls that leave room in a square of side {side:.3g} (got {len(obstacles)} "
            f"obstacles of radius {obstacle_radius}, and evaders of {2 * radius})"
        )
    return Layout(side, n_evaders, n_poisons, obstacles, obstacle_coord is None)


def _obstacles(coord: str | list[Any] | None, count: int | None, side: float) -> Tensor:
    along = max(1, round(side))
    if coord is None:
        return torch.zeros(along**2 if count is None else count, 2)
    if isinstance(coord, str):
        if coord != "grid" or count not in (None, along**2):
            raise ValueError(
                'expected obstacle_coord to be a list of [x, y], none (drawn at each reset), or "grid", which has '
                f"{along**2} obstacles here (got {coord!r} with n_obstacles={count})"
            )
        middle = (torch.arange(along) + 0.5) * (side / along)
        return torch.cartesian_prod(middle, middle).view(-1, 2)
    places = torch.tensor(coord, dtype=torch.float32).reshape(-1, 2)
    if count not in (None, len(places)):
        raise ValueError(f"expected as many obstacles as obstacle_coord has (got {count} and {len(places)})")
    return places * side
