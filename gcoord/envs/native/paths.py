"""Ways to goals on grids, for whole batches: fields of distance, and a planner that follows them."""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.envs.native.grid import FREE, STEPS, WALL

_WORD = 64  # agents in a word, one bit each


class Fields:
    """The way to every agent's goal from every cell, one bit of a few 64-bit words per agent and cell.

    Neighbouring cells' distances to a goal differ by exactly one, as a grid has no odd rings. So the distance modulo 3
    says which way is nearer, and two bits an agent and cell are enough: a flood from all goals of a world at once is a
    handful of bit operations a ring, at any number of agents.

    Arguments: walls [B, P * P] bool, with a blocked rim; goal [B, N] long; padded: P.
    """

    def __init__(self, walls: Tensor, goal: Tensor, padded: int) -> None:
        b, n = goal.shape
        self.bit = torch.arange(n, device=goal.device) % _WORD
        self.word = torch.arange(n, device=goal.device) // _WORD
        words = (n - 1) // _WORD + 1
        free = torch.where(walls, 0, -1).unsqueeze(1)  # [B, 1, P * P], all bits set where free
        front = torch.zeros(b, words, walls.shape[1], dtype=torch.long, device=goal.device)
        at = self.word * walls.shape[1] + goal  # [B, N]
        front = front.view(b, -1).scatter_add_(1, at, (torch.ones_like(goal) << self.bit)).view_as(front)
        self.reached, self.one, self.two = front.clone(), torch.zeros_like(front), torch.zeros_like(front)
        ring = 0
        while bool(front.any()):
            ring += 1
            spread = torch.zeros_like(front)
            for step in (1, padded):
                spread[..., step:] |= front[..., :-step]
                spread[..., :-step] |= front[..., step:]
            front = spread & free & ~self.reached
            self.reached |= front
            if ring % 3 == 1:
                self.one |= front
            elif ring % 3 == 2:
                self.two |= front

    def nearer(self, cell: Tensor, around: Tensor) -> Tensor:
        """Whether `around` [B, N, D], cells beside `cell` [B, N], are one nearer to each agent's goal; bool."""
        reached, here = self._read(cell.unsqueeze(-1))
        known, there = self._read(around)
        return reached & known & ((here - there) % 3 == 1)

    def _read(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a way is known, and its length modulo 3, [B, N, D]."""
        b, n, d = cell.shape
        at = (self.word.view(-1, 1) * self.one.shape[-1] + cell).view(b, -1)
        reached, one, two = (
            (plane.view(b, -1).gather(1, at).view(b, n, d) >> self.bit.view(-1, 1)) & 1
            for plane in (self.reached, self.one, self.two)
        )
        return reached.bool(), one + 2 * two


class Planner:
    """Shortest ways on the known map, with rules for who gives way; no search over the others' plans.

    Each wants the next cell of a shortest way, a free one if it can choose. Of two that want each other's cell, and of
    one in the way of another, the one with the lower rank goes aside, if need be backwards; ranks are drawn by the
    agents' numbers anew every 16 steps. Now and then one that is stuck takes a step at random.

    Arguments: padded: cells on a side of the board.
    """

    def __init__(self, padded: int) -> None:
        self.padded = padded
        self._seen: tuple[Tensor, Tensor] | None = None
        self._fields: Fields

    def act(self, board: Tensor, cell: Tensor, goal: Tensor, alive: Tensor, steps: Tensor) -> Tensor:
        """board [B, P * P], cell and goal [B, N] long, alive [B, N] bool, steps [B] long -> action [B, N] long."""
        walls = board == WALL
        fields = self._fields_of(walls, goal)
        b, n = cell.shape
        delta = torch.tensor([a * self.padded + c for a, c in STEPS], device=cell.device)
        around = cell.unsqueeze(-1) + delta  # [B, N, 5], oneself first
        there = board.gather(1, around.view(b, -1)).view(b, n, -1)
        there[..., 0] = FREE
        number = torch.arange(n, device=cell.device)
        taste = _noise(steps.view(-1, 1, 1), number.view(-1, 1), torch.arange(len(STEPS), device=cell.device))
        rank = _noise(steps.view(-1, 1) // 16, number, torch.full_like(number, 7))  # [B, N]
        home = cell == goal
        # Those on their way come before those that are there.
        rank = rank - home.to(rank)

        nearer = fields.nearer(cell, around) & (there != WALL)
        worth = taste + 4.0 * nearer - 2.0 * (there >= 0) - 100.0 * (there == WALL)
        worth[..., 0] = 1.5
        worth[..., 0] += 10.0 * home
        choice = worth.argmax(-1)
        # Who is wanted away by somebody of higher rank, and by whom.
        wish = nearer.float().mul(2.0).add(taste).masked_fill(there == WALL, -1.0).argmax(-1)
        wish = torch.where(home, 0, wish)
        wished = around.gather(-1, wish.unsqueeze(-1)).squeeze(-1)  # [B, N]
        pusher = torch.full_like(board, -1, dtype=rank.dtype)
        pressing = torch.where(alive & (wish != 0), rank, -2.0)
        pusher = pusher.scatter_reduce(1, torch.where(alive, wished, 0), pressing, "amax")
        pushed = alive & (pusher.gather(1, cell) > rank)
        aside = taste + 1.0 * nearer - 3.0 * (there >= 0) - 100.0 * (there == WALL)
        aside[..., 0] = -2.0
        # Not into the arms of those that push: cells that somebody of higher rank wishes for count less.
        wanted = pusher.gather(1, around.view(b, -1)).view(b, n, -1) > rank.unsqueeze(-1)
        aside = aside - 1.5 * wanted
        choice = torch.where(pushed, aside.argmax(-1), choice)
        return torch.where(alive, choice, 0)

    def _fields_of(self, walls: Tensor, goal: Tensor) -> Fields:
        """Those of before, where neither a wall nor a goal has changed."""
        if self._seen is None or not (torch.equal(self._seen[0], walls) and torch.equal(self._seen[1], goal)):
            self._seen, self._fields = (walls, goal.clone()), Fields(walls, goal, self.padded)
        return self._fields


def _noise(*numbers: Tensor) -> Tensor:
    """Numbers in [0, 1) that look random but follow from what is given: the same situation, the same choice."""
    mixed = torch.zeros((), dtype=torch.long, device=numbers[0].device)
    for number in numbers:
        mixed = (mixed + number) * 2654435761 % 4294967296
        mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 4294967296
        mixed = mixed ^ (mixed >> 13)
    return (mixed % 65536).float() / 65536
