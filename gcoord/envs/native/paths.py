"""Ways to goals on grids, for whole batches: fields of distance, and a planner that follows them."""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.envs.native.grid import STEPS, WALL, Rule, resolve

_WORD = 64  # agents in a word, one bit each
_PERIOD = 8  # steps between draws of ranks


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
    """Shortest ways on the known map, and rules for who gives way; nobody's way is planned ahead.

    Much as in PIBT, https://arxiv.org/abs/1901.11282, but all agents at once: each wishes for the next cell of a
    shortest way, and who is in the way of one of higher rank goes aside. Ranks are drawn by the agents' numbers anew
    every 8 steps; those on their way come before those that are there. Who would be refused stays. Unlike PIBT's,
    pressure is not handed on to those behind, so that dense crowds may stay stuck.

    Arguments: padded: cells on a side of the board; rule: how conflicts are settled.
    """

    def __init__(self, padded: int, rule: Rule) -> None:
        self.padded, self.rule = padded, rule
        self._seen: tuple[Tensor, Tensor] | None = None
        self._fields: Fields

    def act(self, board: Tensor, cell: Tensor, goal: Tensor, alive: Tensor, steps: Tensor) -> Tensor:
        """board [B, P * P], cell and goal [B, N] long, alive [B, N] bool, steps [B] long -> action [B, N] long."""
        walls = board == WALL
        (b, n), number = cell.shape, torch.arange(cell.shape[1], device=cell.device)
        delta = torch.tensor([x * self.padded + y for x, y in STEPS], device=cell.device)
        around = cell.unsqueeze(-1) + delta  # [B, N, 5], oneself first
        flat = around.view(b, -1)
        there = board.gather(1, flat).view(b, n, -1)
        taste = _noise(steps.view(-1, 1, 1), number.view(-1, 1), torch.arange(len(STEPS), device=cell.device))
        home = cell == goal
        rank = _noise(steps.view(-1, 1) // _PERIOD, number) - home.float()
        nearer = self._fields_of(walls, goal).nearer(cell, around)
        taken = there >= 0
        taken[..., 0] = False
        # Nearer above all, and free if there is a choice; who is there stays.
        worth = (4.0 * nearer - 1.0 * taken + taste).masked_fill(there == WALL, -torch.inf)
        worth[..., 0] = torch.where(home, 10.0, 1.5)
        wish = worth.argmax(-1)
        wished = around.gather(-1, wish.unsqueeze(-1)).squeeze(-1)
        upon = torch.full_like(board, -2, dtype=rank.dtype)
        upon.scatter_reduce_(1, torch.where(alive, wished, 0), torch.where(alive & (wish != 0), rank, -2.0), "amax")
        pressed = upon.gather(1, cell)  # by whom of highest rank
        # Aside, not where one of higher rank stands or wants to go, and rather where nobody stands.
        rank_now = torch.maximum(rank, pressed)
        stands = torch.full_like(upon, -2.0).scatter_(
            1, torch.where(alive, cell, 0), torch.where(alive, rank_now, -2.0)
        )
        higher = torch.maximum(stands, upon).gather(1, flat).view(b, n, -1) >= rank_now.unsqueeze(-1)
        aside = (1.0 * nearer - 3.0 * taken - 6.0 * higher + taste).masked_fill(there == WALL, -torch.inf)
        aside[..., 0] = -8.0
        if self.rule == "block_both":
            # Of two that wish for a cell the lower waits, or neither would get it.
            wish = torch.where(upon.gather(1, wished) > rank, 0, wish)
        wish = torch.where(pressed > rank, aside.argmax(-1), wish)
        target = around.gather(-1, wish.unsqueeze(-1)).squeeze(-1)
        return torch.where(resolve(self.rule, board, cell, target, alive & (wish != 0)), wish, 0)

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
