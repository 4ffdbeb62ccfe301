"""Stacked frames stored once: what each row adds to a stack is kept, and stacks are put together again on read."""

from __future__ import annotations

import torch
from torch import Tensor


def newest(own: Tensor, stack: int) -> Tensor:
    """The last of `stack` frames: own [*, C, H, W] -> [*, C / stack, H, W]."""
    return own[..., own.shape[-3] - own.shape[-3] // stack :, :, :]


def stacked(ring: Tensor, valid: Tensor, alive: Tensor, cells: Tensor, stack: int) -> Tensor:
    """Stacks of the frames in a ring of rows.

    A row's frame follows the one of the row before it if that row was valid and the agent alive in it; where an
    agent's frames begin, its first one stands for those that are missing, as a world fills its stack at a reset.

    Arguments:
        ring: frames [R, B, N, C, H, W]; valid [R, B] and alive [R, B, N] of the same rows.
        cells: rows to read, slot * B + team, [*]. The stack - 1 rows before each must be held, or be empty (invalid).

    Shapes: -> [*, N, C stack, H, W], the oldest frame in the first channels.
    """
    rows, teams = valid.shape
    frames, of, live = ring.flatten(0, 1), valid.flatten(), alive.flatten(0, 1)
    at = cells.flatten()
    parts = [frames.index_select(0, at)]  # [cells, N, C, H, W]
    goes_on = torch.ones_like(live[at])
    for _ in range(stack - 1):
        at = (at - teams) % (rows * teams)
        goes_on = goes_on & of[at].unsqueeze(-1) & live[at]
        parts.append(torch.where(goes_on[..., None, None, None], frames.index_select(0, at), parts[-1]))
    return torch.cat(parts[::-1], dim=-3).unflatten(0, cells.shape)
