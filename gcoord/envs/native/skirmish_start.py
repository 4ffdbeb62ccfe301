"""How a skirmish begins: who is there, and where. N agents and M enemies, U = N + M units, agents first."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw_kinds(teams: int, n: int, m: int, heals: Tensor, drawn: bool, generator: torch.Generator) -> Tensor:
    """[B, U] kinds' numbers, both sides alike as far as both go: in turn, or `drawn`, the first slot's among fighters.

    heals: whether each kind does, bool.
    """
    most, kinds, device = max(n, m), len(heals), generator.device
    if drawn:
        u = torch.rand(teams, most, generator=generator, device=device)
        fighters = (~heals).nonzero().squeeze(-1)
        side = (u * kinds).long().clamp(max=kinds - 1)
        side[:, 0] = fighters[(u[:, 0] * len(fighters)).long().clamp(max=len(fighters) - 1)]
    else:
        side = (torch.arange(most, device=device) % kinds).expand(teams, -1)
    return torch.cat([side[:, :n], side[:, :m]], dim=1)


def draw_places(teams: int, n: int, m: int, side: float, surround: float, generator: torch.Generator) -> Tensor:
    """[B, U, 2]: the team in a disc and the enemies in its mirror image beyond the middle of the arena, in any
    direction; or, with probability `surround`, the team in the middle and the enemies on a ring around it."""
    most, device = max(n, m), generator.device
    u = torch.rand(teams, 2 * most + m + 2, generator=generator, device=device)
    far, angle, around, axis, chance = u.split([most, most, m, 1, 1], dim=1)
    disc = min(1.2 * math.sqrt(most), side / 5)
    half_way = min(3.0 + disc, 0.3 * side)
    scatter = _polar(disc * far.sqrt(), angle)  # [B, most, 2]
    away = _polar(torch.full_like(axis, half_way), axis)  # [B, 1, 2]
    ring = _polar(torch.full_like(around, 0.45 * side), around)  # [B, M, 2]
    surrounded = (chance < surround).unsqueeze(-1)  # [B, 1, 1]
    team = torch.where(surrounded, scatter[:, :n] / 2, scatter[:, :n] - away)
    enemies = torch.where(surrounded, ring, away - scatter[:, :m])
    return (torch.cat([team, enemies], dim=1) + side / 2).clamp(0, side)


def _polar(radius: Tensor, turn: Tensor) -> Tensor:
    """Radius and share of a full turn -> [*, 2]."""
    return torch.stack([radius * (2 * math.pi * turn).cos(), radius * (2 * math.pi * turn).sin()], dim=-1)
