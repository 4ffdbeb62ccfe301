"""Who is within reach of whom, as lists of pairs: among all, or by cells where the square is large."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 22
# Cells pay once this many of their sides fit along the square, and a team has this many pairs [measured].
CELLS_ALONG, CELLS_FROM = 6, 1 << 12


class Pairs(NamedTuple):
    """Pair k: receiver [k] and thing [k] of team [k], the way dx, dy from one to the other, and its square."""

    team: Tensor
    receiver: Tensor
    thing: Tensor
    dx: Tensor
    dy: Tensor
    squared: Tensor

    def where(self, mask: Tensor) -> Pairs:
        """The pairs for which mask [K] holds."""
        some = mask.nonzero().squeeze(-1)
        return Pairs(*(part[some] for part in self))


def pairs_within(receivers: Tensor, things: Tensor, reach: Tensor, side: float, cells: bool | None = None) -> Pairs:
    """All pairs closer than the thing's reach.

    receivers [B, N, 2], things [B, M, 2], reach [M] above 0, all in a square [0, side]^2 or little beyond.
    cells: None: whichever is quicker.
    """
    farthest = float(reach.max())
    n, m = receivers.shape[1], things.shape[1]
    along = int(side / (farthest * (1 + 1e-5)))
    if cells is None:
        cells = n * m > PAIRS_AT_ONCE or (along >= CELLS_ALONG and n * m >= CELLS_FROM)
    if cells:
        team, receiver, thing = _in_cells(receivers, things, side, max(1, along))
    else:
        at_once = max(1, PAIRS_AT_ONCE // (n * m))
        limit = reach.square()
        parts = [
            _among_all(receivers[start : start + at_once], things[start : start + at_once], limit, start)
            for start in range(0, len(receivers), at_once)
        ]
        team, receiver, thing = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    way = _at(things, team, thing) - _at(receivers, team, receiver)
    dx, dy = way.unbind(-1)
    pairs = Pairs(team, receiver, thing, dx, dy, dx * dx + dy * dy)
    return pairs.where(pairs.squared < reach.square()[thing]) if cells else pairs


def _at(places: Tensor, team: Tensor, number: Tensor) -> Tensor:
    return places.flatten(0, 1).index_select(0, team * places.shape[1] + number)


def _among_all(receivers: Tensor, things: Tensor, limit: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    x, y = things.unsqueeze(1).unbind(-1)
    # In place: the allocation of arrays of this size costs more than the sums.
    dx, dy = x - receivers[..., 0:1], y - receivers[..., 1:2]  # [B, N, M]
    team, receiver, thing = (dx.mul_(dx).addcmul_(dy, dy) < limit).nonzero().unbind(-1)
    return team + first, receiver, thing


def _in_cells(receivers: Tensor, things: Tensor, side: float, along: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of the same or touching cells, `along` x `along` of them to a team."""
    n, m = receivers.shape[1], things.shape[1]
    team = torch.arange(len(receivers), device=things.device).unsqueeze(-1)

    def cell(places: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (places * (along / side)).long().clamp_(0, along - 1).unbind(-1)
        return x, y

    x, y = cell(things)
    key, order = ((team * along + y) * along + x).flatten().sort(stable=True)
    x, y = (part.flatten() for part in cell(receivers))
    # Three rows of up to three cells, each a stretch of the sorted things.
    row = y.unsqueeze(-1) + torch.arange(-1, 2, device=y.device)  # [B N, 3]
    begin = (team.expand(-1, n).reshape(-1, 1) * along + row) * along
    start = torch.searchsorted(key, begin + (x - 1).clamp(min=0).unsqueeze(-1))
    end = torch.searchsorted(key, begin + (x + 1).clamp(max=along - 1).unsqueeze(-1), right=True)
    count = torch.where((row >= 0) & (row < along), end - start, 0).flatten()
    who = torch.arange(len(count), device=y.device).repeat_interleave(count)
    passed = count.cumsum(0) - count
    place = start.flatten()[who] + torch.arange(len(who), device=y.device) - passed[who]
    thing = order[place]
    receiver = torch.div(who, 3, rounding_mode="floor")
    return torch.div(receiver, n, rounding_mode="floor"), receiver % n, thing % m
