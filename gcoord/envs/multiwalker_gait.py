"""A walk for multiwalker's robots, which are those of Gymnasium's BipedalWalker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gcoord.spec import Discrete

if TYPE_CHECKING:
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation

SWING, LAND, PUSH = range(3)
# Height of a hull at a reset, in metres, where no step has been simulated: 400 / 30 / 4 + 2 * 34 / 30.
FIRST = 400 / 30 / 4 + 2 * 34 / 30
# Straight, not quite: the angle of a knee that carries.
CARRY, PACE = 0.1, 0.29


class Gait:
    """Each walks by itself: swings a leg forward, lands it, pushes off with the other, and changes legs.

    The three phases, targets and gains are those of the heuristic that comes with Gymnasium's BipedalWalker
    (https://gymnasium.farama.org/environments/box2d/bipedal_walker). It remembers each walker's phase, which no
    observation holds, and begins anew where a hull stands as at a reset.
    """

    def __init__(self) -> None:
        self._phase = self._leg = self._knee = torch.zeros(0)

    def __call__(self, spec: TeamSpec, observation: Observation) -> Tensor:
        own, position = observation.own, observation.position
        assert position is not None
        first = (position[..., 1] - FIRST).abs() < 1e-5
        if self._phase.shape != first.shape or self._phase.device != first.device:
            self._phase, self._leg = (torch.zeros_like(first, dtype=torch.long) for _ in range(2))
            self._knee = torch.zeros_like(position[..., 0])
        phase = torch.where(first, SWING, self._phase)
        leg = torch.where(first, 0, self._leg)
        bent = torch.where(first, CARRY, self._knee)

        speed, legs = own[..., 2], own[..., 4:14].unflatten(-1, (2, 5))  # hip, its speed, knee, its speed, contact
        moving = legs.gather(-2, leg[..., None, None].expand(*leg.shape, 1, 5)).squeeze(-2)
        standing = legs.gather(-2, (1 - leg)[..., None, None].expand(*leg.shape, 1, 5)).squeeze(-2)

        swings = phase == SWING
        bent = torch.where(swings, (bent + 0.03 + 0.03 * (speed > PACE)).clamp(max=CARRY), bent)
        # Targets of hip and knee of the moving leg, and of the standing one's knee; NaN: none.
        free = torch.full_like(bent, torch.nan)
        hip = torch.where(swings, 1.1, free)
        knee = torch.where(swings, -0.6, free)
        other = torch.where(swings, bent, free)
        phase = torch.where(swings & (standing[..., 0] < 0.1), LAND, phase)

        lands = phase == LAND
        hip, knee, other = torch.where(lands, 0.1, hip), torch.where(lands, CARRY, knee), torch.where(lands, bent, other)
        down = lands & (moving[..., 4] > 0)
        phase = torch.where(down, PUSH, phase)
        bent = torch.where(down, moving[..., 2].clamp(max=CARRY), bent)

        pushes = phase == PUSH
        knee, other = torch.where(pushes, bent, knee), torch.where(pushes, 1.0, other)
        done = pushes & ((standing[..., 2] > 0.88) | (speed > 1.2 * PACE))
        self._phase, self._knee = torch.where(done, SWING, phase), bent
        self._leg = torch.where(done, 1 - leg, leg)

        targets = torch.stack([hip, knee, free, other], -1)
        angles = torch.stack([moving[..., 0], moving[..., 2], standing[..., 0], standing[..., 2]], -1)
        speeds = torch.stack([moving[..., 1], moving[..., 3], standing[..., 1], standing[..., 3]], -1)
        gain = torch.tensor([0.9, 4.0, 0.9, 4.0], device=own.device)
        torque = torch.where(targets.isnan(), 0.0, gain * (targets - angles) - 0.25 * speeds)
        # Hips keep the hull level, knees take the swing out of it.
        level = torch.stack([0.9 * own[..., 0] + 1.5 * own[..., 1], -15.0 * own[..., 3]], -1)
        torque = (0.5 * (torque + level.repeat(*[1] * (level.dim() - 1), 2))).clamp(-1, 1)
        first_leg = torch.where((leg == 0).unsqueeze(-1), torque, torque.roll(2, -1))
        if isinstance(spec.actions[0], Discrete):
            bins = round(spec.actions[0].n ** 0.25)
            number = ((first_leg + 1) / 2 * (bins - 1)).round().long()
            return (number * torch.tensor([bins**3, bins**2, bins, 1], device=own.device)).sum(-1)
        return first_leg
