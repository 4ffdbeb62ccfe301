"""How a team plays a skirmish well by hand: all fire at one, and nobody waits for a blow it can step back from."""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.envs.native.units import SIGHT, Table
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation

_WALKS = 4  # actions 1 to 4: north, south, east, west
_CLOSE = 3.5  # units within which an enemy that must come close is stepped back from
_DISC = 0.3  # units, times the root of the living: how close together the team gathers
_FOLLOWS = 2.0  # units at which a healer follows


def play(spec: TeamSpec, table: Table, observation: Observation) -> Tensor:
    """[B, N] actions. The team gathers at its middle, so that the first enemies to come meet all of it. Fighters
    strike, of the enemies they can, the one with the least life and nearest to the middle; while cooling down they
    step back from enemies of a shorter range that are near. Once anybody can strike, the others go for the nearest
    they see. Healers heal the worst, and stay with the nearest fellow.
    """
    own, alive, kinds = observation.own, observation.alive, len(spec.kinds)
    assert observation.position is not None and observation.available is not None
    width = 7 + kinds
    me, slots = own[..., :width], own[..., width:].unflatten(-1, (-1, width))  # [B, N, K, width]
    taken, ready, way = slots[..., 0] > 0, slots[..., 1] > 0, SIGHT * slots[..., 2:4]
    distance = SIGHT * slots[..., 4]
    met = slots[..., 7:].argmax(-1)  # kind of who is in the slot
    life = slots[..., 5] * table.health[met] + slots[..., 6] * table.shield[met]
    heals, reach = table.heals[observation.kind], table.range[observation.kind]

    lives = alive.unsqueeze(-1).to(own)
    middle = (observation.position * lives).sum(1, keepdim=True) / lives.sum(1, keepdim=True).clamp(min=1)
    place = observation.position.unsqueeze(2) + way
    from_middle = torch.linalg.vector_norm(place - middle.unsqueeze(2), dim=-1)
    worth = torch.where(heals.unsqueeze(-1), slots[..., 5], life + 0.5 * from_middle)
    target = worth.masked_fill(~ready, torch.inf).argmin(-1)
    action = torch.where(ready.any(-1), 1 + _WALKS + target, 0)

    # Back from the nearest that has to come closer than we have.
    shorter = taken & (table.range[met] < reach.unsqueeze(-1)) & (distance < _CLOSE) & ~table.heals[met]
    threat = distance.masked_fill(~shorter, torch.inf).argmin(-1)
    cooling = me[..., 2] > 0
    back = shorter.any(-1) & cooling & ~heals
    action = torch.where(back, _walk(-_pick(way, threat), observation.available), action)

    # Together first; towards the nearest once anybody has met it.
    idle, someone = ~ready.any(-1), taken.any(-1)
    to_middle = middle - observation.position
    scattered = torch.linalg.vector_norm(to_middle, dim=-1) > _DISC * lives.sum((1, 2)).sqrt().unsqueeze(-1)
    action = torch.where(idle & scattered & ~heals, _walk(to_middle, observation.available), action)
    near = distance.masked_fill(~taken, torch.inf).argmin(-1)
    apart = _pick(distance.unsqueeze(-1), near).squeeze(-1)
    met = (~idle & ~heals & alive).any(-1, keepdim=True)
    goes = torch.where(heals, apart > _FOLLOWS, met)
    action = torch.where(idle & someone & goes, _walk(_pick(way, near), observation.available), action)
    return torch.where(alive, action, 0)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values [B, N, K, D] at index [B, N] -> [B, N, D]."""
    return values.gather(2, index[..., None, None].expand(-1, -1, 1, values.shape[-1])).squeeze(2)


def _walk(way: Tensor, available: Tensor) -> Tensor:
    """The walk among those that are available that goes most along `way` [B, N, 2]; stop where it is nowhere."""
    x, y = way.unbind(-1)
    along = torch.stack([torch.zeros_like(x), y, -y, x, -x], dim=-1)
    return along.masked_fill(~available[..., : 1 + _WALKS], -torch.inf).argmax(-1)
