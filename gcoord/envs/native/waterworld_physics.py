"""How things drift and bounce in waterworld: Chipmunk's step for discs that meet walls and fixed discs, no others.

Lengths in sides of the original's square (750 px), times in seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.envs.native.pairs import pairs_within

STEP = 1 / 15  # s
_SPRING = 0.999  # share of the speed that a wall gives back; an obstacle gives back all
_SLOP = 0.1 / 750  # overlap that is left alone
_PUSH = 1 - 0.9 ** (60 * STEP)  # share of an overlap that is undone a step


def drift(
    position: Tensor,
    velocity: Tensor,
    push: Tensor,
    radius: Tensor,
    side: float,
    obstacles: Tensor,
    obstacle_radius: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step: position, velocity and push [B, T, 2] of discs with radius [T]; obstacles [B, O, 2].

    Everything moves first; whatever then overlaps a wall or an obstacle and moves further in is reflected, and gets a
    `push` [1/s] out of the overlap, which moves it in the next step only. Who touches two obstacles at once gets the
    sum of what each would give (Chipmunk iterates).
    """
    position = position + (velocity + push) * STEP
    r = radius.unsqueeze(-1)
    low, high = r - position, position + r - side  # [B, T, 2]: overlaps
    inward = ((low > 0) & (velocity < 0)) | ((high > 0) & (velocity > 0))
    velocity = torch.where(inward, -_SPRING * velocity, velocity)
    push = ((low - _SLOP).clamp(min=0) - (high - _SLOP).clamp(min=0)) * (_PUSH / STEP)
    if obstacles.shape[1]:
        reach = radius.new_full(obstacles.shape[1:2], float(radius.max()) + obstacle_radius)
        near = pairs_within(position, obstacles, reach, side)
        far = near.squared.sqrt()
        overlap = radius[near.receiver] + obstacle_radius - far
        place = near.team * len(radius) + near.receiver
        # Who stands in the very middle is sent to the right, as Chipmunk does.
        out = torch.where(far > 0, -torch.stack([near.dx, near.dy]) / far, far.new_tensor([[1.0], [0.0]])).t()  # [K, 2]
        touches = (overlap > 0).unsqueeze(-1)
        inward_speed = (velocity.flatten(0, 1)[place] * out).sum(-1, keepdim=True).clamp(max=0)
        turn = torch.where(touches, -2 * inward_speed * out, 0.0)
        away = torch.where(touches, (overlap - _SLOP).clamp(min=0).unsqueeze(-1) * (_PUSH / STEP) * out, 0.0)
        velocity.flatten(0, 1).index_add_(0, place, turn)
        push.flatten(0, 1).index_add_(0, place, away)
    return position, velocity, push
