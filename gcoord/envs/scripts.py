"""Hand-written policies for bodies on a grid that see squares around them. NumPy only: workers import this."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gcoord.envs.gridworld import Kind

# (kind, what is seen [*, C, H, W], random stream, whether there is a minimap) -> actions [*]
Script = Callable[[Kind, np.ndarray, np.random.Generator, bool], np.ndarray]


def by_kind(
    script: Script, kinds: Sequence[Kind], kind: np.ndarray, own: np.ndarray, rng: np.random.Generator, minimap: bool
) -> np.ndarray:
    """Actions [*, N] of a squad whose kinds [N] see own [*, N, C, H, W], narrower views in the middle."""
    action = np.zeros(own.shape[:-3], np.int64)
    for k, one in enumerate(kinds):
        margin = (own.shape[-1] - one.side) // 2
        inner = slice(margin, margin + one.side)
        action[..., kind == k] = script(one, own[..., kind == k, :, inner, inner], rng, minimap)
    return action


class Sight:
    """What a kind's script asks of its view: own [*, C, S, S] -> masks [*, S x S]."""

    def __init__(self, kind: Kind, own: np.ndarray, minimap: bool) -> None:
        flat = own.reshape(*own.shape[:-2], -1)
        # Obstacles, then of every group where it stands, its health, and a minimap of it.
        stride = 3 if minimap else 2
        groups = [flat[..., 1 + stride * g, :] > 0 for g in range((flat.shape[-2] - 1) // stride)]
        self.kind = kind
        self.fellows = groups[0]
        self.foes = np.any([groups[g] for g in kind.foes], axis=0)
        self.taken = np.any([flat[..., 0, :] > 0, *groups], axis=0)
        self.taken[..., kind.cells(kind.block)] = False

    def attack(self, noise: np.ndarray) -> np.ndarray:
        """[*]: an attack that hits a foe, drawn by noise [*, attacks]; -1 where none does."""
        hits = self.foes[..., self.kind.cells(self.kind.attacks)]
        if not hits.shape[-1]:
            return np.full(hits.shape[:-1], -1)
        chosen = np.where(hits, noise, -1.0)
        return np.where(hits.any(-1), chosen.argmax(-1) + len(self.kind.moves), -1)

    def nearest(self, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(down, right) [*, 2] of the nearest square of goals [*, S x S] from the middle, and whether there is one."""
        kind = self.kind
        far = np.where(goals, (kind.squares**2).sum(-1), np.inf)
        at = far.argmin(-1)
        return kind.squares[at], np.asarray(goals.any(-1))

    def beyond(self, own: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(down, right) [*, 2] of the nearest foes on the minimap who are not in its own part of it, and whether any.

        The minimap is as large as the view and holds the whole map; one's own part is marked by 1 more.
        """
        side = self.kind.side
        flat = own.reshape(*own.shape[:-2], -1)
        here = flat[..., 3, :].argmax(-1)
        parts = np.stack(np.divmod(np.arange(side * side), side), -1)
        away = parts - parts[here][..., None, :]
        there = (flat[..., [3 + 3 * g for g in self.kind.foes], :] > 0).any(-2) & (np.abs(away).max(-1) > 1)
        far = np.where(there, (away**2).sum(-1) + 2 * rng.random(there.shape), np.inf)
        goal = np.take_along_axis(away, far.argmin(-1)[..., None, None], -2)[..., 0, :]
        return 3 * goal, np.asarray(there.any(-1))

    def toward(self, goal: np.ndarray, noise: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """[*]: the free move that comes nearest to goal [*, 2]; `weight` -1: farthest, 0: any. noise [*, moves]."""
        kind = self.kind
        way = ((goal[..., None, :] - kind.moves) ** 2).sum(-1) * np.asarray(weight)[..., None]
        blocked = self.taken[..., kind.cells(kind.moves[:, None] + kind.block)].any(-1)
        return np.where(blocked, np.inf, way + 0.01 * noise).argmin(-1)


def plain(kind: Kind, own: np.ndarray, rng: np.random.Generator, minimap: bool) -> np.ndarray:
    """Attacks a foe beside it, else goes to the nearest in view (or away, if its kind flees), else anywhere free."""
    sight = Sight(kind, own, minimap)
    goal, seen = sight.nearest(sight.foes)
    shape = own.shape[:-3]
    move = sight.toward(goal, rng.random((*shape, len(kind.moves))), np.where(seen, -1.0 if kind.flees else 1.0, 0.0))
    attack = sight.attack(rng.random((*shape, len(kind.attacks))))
    return np.where(attack >= 0, attack, move)


def seats(kind: Kind, own: np.ndarray, rng: np.random.Generator, minimap: bool) -> np.ndarray:
    """Attacks a foe beside it; else goes the shortest way, round all who stand in it, to a free square beside a foe.

    Seeing no way to one it looks at the minimap for the nearest foes out of its sight, or goes anywhere free.
    """
    sight = Sight(kind, own, minimap)
    shape, corner = own.shape[:-3], kind.corner
    grid = (*shape, kind.side, kind.side)
    taken, foes = sight.taken.reshape(grid), sight.foes.reshape(grid)
    free = np.any(_sides(foes, False), axis=0) & ~taken
    steps = np.where(free, 0.0, np.inf)
    for _ in range(3 * kind.view):
        steps = np.where(taken, np.inf, np.minimum(steps, 1 + np.min(_sides(steps, np.inf), axis=0)))
    way = steps[..., corner + kind.moves[:, 0], corner + kind.moves[:, 1]]
    known = np.isfinite(steps[..., corner, corner])
    noise = rng.random((*shape, len(kind.moves)))
    goal, seen = sight.beyond(own, rng) if minimap else (np.zeros((*shape, 2)), np.zeros(shape, bool))
    move = np.where(known, (way + 0.01 * noise).argmin(-1), sight.toward(goal, 200 * noise, seen * 1.0))
    attack = sight.attack(rng.random((*shape, len(kind.attacks))))
    return np.where(attack >= 0, attack, move)


def _sides(x: np.ndarray, outside: float | bool) -> tuple[np.ndarray, ...]:
    """What stands above, below, left and right of every square of x [*, H, W]."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1)] * 2, constant_values=outside)
    return padded[..., :-2, 1:-1], padded[..., 2:, 1:-1], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
