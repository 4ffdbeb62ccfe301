"""VMAS's physics for worlds of freely moving discs, all bodies at once.

The simulator goes through every pair of bodies in Python, several times a step, and waits for the device at each: at 32
agents that is nearly all of its time. The law is its own (https://arxiv.org/abs/2207.03530): drag at the first substep,
a = F / m, semi-implicit Euler, and between touching discs the force c k log(1 + exp((r_i + r_j - d) / k)) along the
line of their centres. Only the order of summation differs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch


def discs_step(world: Any) -> Callable[[], None] | None:
    """A replacement of `world.step`, or None where the world holds anything but discs pushed about freely.

    Discs that turn, joints, friction, gravity, limits of force or speed, and speech are left to the simulator.
    """
    core = importlib.import_module("vmas.simulator.core")
    holonomic = importlib.import_module("vmas.simulator.dynamics.holonomic").Holonomic
    bodies = world.entities
    solid = [body for body in bodies if body.collide]
    moving = [body for body in bodies if body.movable]
    plain = (
        not world._joints
        and world.dim_c == 0
        and world._linear_friction == 0
        and world._angular_friction == 0
        and not bool(world._gravity.any())
        and bool(moving)
        and all(type(body.dynamics) is holonomic if isinstance(body, core.Agent) else False for body in moving)
        and all(body.max_f is None and body.f_range is None for body in moving)
        and all(isinstance(body.shape, core.Sphere) for body in solid)
    )
    limits = ("max_speed", "v_range", "linear_friction", "angular_friction", "gravity")
    if not plain or any(getattr(body, limit) is not None for body in moving for limit in limits):
        return None

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=world.device).view(-1, 1, 1)

    mass = column([body.mass for body in moving])  # [M, 1, 1]
    keeps = column([1 - (world._drag if body.drag is None else body.drag) for body in moving])
    reach = column([body.shape.radius for body in moving if body.collide]) + column(
        [body.shape.radius for body in solid]
    ).transpose(0, 1)  # [m, n, 1]
    meets = torch.tensor(
        [[a is not b and a.collides(b) and b.collides(a) for b in solid] for a in moving if a.collide],
        device=world.device,
    ).unsqueeze(-1)  # [m, n, 1]
    touches = bool(meets.any())
    movers = [i for i, body in enumerate(moving) if body.collide]
    standing = [body for body in solid if not body.movable]
    # Where each solid body's position is found: among those that move, or behind them.
    place = {id(body): i for i, body in enumerate([*moving, *standing])}
    order = torch.tensor([place[id(body)] for body in solid], device=world.device)
    all_move = movers == list(range(len(moving)))
    mover = torch.tensor(movers, device=world.device)
    stiffness, margin, dt = world._collision_force, world._contact_margin, world._sub_dt
    semidims = [(axis, side) for axis, side in enumerate((world._x_semidim, world._y_semidim)) if side is not None]

    def step() -> None:
        position = torch.stack([body.state.pos for body in moving])  # [M, B, 2], the batch inside
        velocity = torch.stack([body.state.vel for body in moving])
        pushed = torch.stack([body.state.force for body in moving])
        fixed = [body.state.pos for body in standing]
        for substep in range(world._substeps):
            force = pushed
            if touches:
                centres = torch.cat([position, torch.stack(fixed)]) if fixed else position
                mine = position if all_move else position[mover]
                apart = mine.unsqueeze(1) - centres[order].unsqueeze(0)  # [m, n, B, 2]
                distance = torch.linalg.vector_norm(apart, dim=-1)  # [m, n, B]
                depth = torch.nn.functional.softplus((reach - distance) / margin) * margin
                close = meets & (distance <= reach) & (distance >= 1e-6)
                size = torch.where(close, stiffness * depth / distance.clamp(min=1e-8), 0.0)
                contact = (apart * size.unsqueeze(-1)).sum(1)  # [m, B, 2]
                force = pushed + contact if all_move else pushed.index_add(0, mover, contact)
            if substep == 0:
                velocity = velocity * keeps
            velocity = velocity + force / mass * dt
            position = position + velocity * dt
            for axis, side in semidims:
                position[..., axis] = position[..., axis].clamp(-side, side)
        for body, x, v in zip(moving, position.unbind(0), velocity.unbind(0), strict=True):
            body.state.pos, body.state.vel = x, v

    return step
