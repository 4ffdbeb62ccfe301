"""Units that fight: their kinds, how blows fall, and the enemies' script. U units: N agents, then M enemies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SIGHT = 9.0  # as in SMAC
QUIET = 10  # steps without a blow until a shield grows again
REGROWTH = 2.0  # of a shield a step

Enemies = Literal["nearest", "focus"]


@dataclass(frozen=True)
class Stats:
    """health and shield: points; blow: points that a blow takes, or gives where `heals`; period: steps from one blow
    to the next; range: units of length within which it strikes; speed: units a step."""

    health: float
    shield: float
    blow: float
    period: int
    range: float
    speed: float
    heals: bool = False


# In the proportions of a zealot, a marine and a medivac on foot, at half a second of game time a step.
STATS = {
    "melee": Stats(health=80.0, shield=20.0, blow=10.0, period=2, range=1.5, speed=1.4),
    "ranged": Stats(health=45.0, shield=0.0, blow=6.0, period=2, range=5.0, speed=1.1),
    "healer": Stats(health=60.0, shield=0.0, blow=5.0, period=1, range=4.0, speed=1.2, heals=True),
}


class Table(NamedTuple):
    """The kinds' figures as tensors, by kind's number; heals is bool."""

    health: Tensor
    shield: Tensor
    blow: Tensor
    period: Tensor
    range: Tensor
    speed: Tensor
    heals: Tensor

    @classmethod
    def of(cls, kinds: tuple[str, ...], device: torch.device) -> Table:
        """The table of some kinds by name."""
        rows = [STATS[kind] for kind in kinds]

        def column(name: str) -> Tensor:
            return torch.tensor([float(getattr(row, name)) for row in rows], device=device)

        figures = {name: column(name) for name in cls._fields if name != "heals"}
        return cls(**figures, heals=column("heals") > 0)


class Blows(NamedTuple):
    """What a step's blows did, each [B, U]: struck (who struck or healed), harm and relief that met each unit, and
    health and shield afterwards."""

    struck: Tensor
    harm: Tensor
    relief: Tensor
    health: Tensor
    shield: Tensor


def distances(position: Tensor) -> Tensor:
    """[B, U, 2] -> [B, U, U], by difference."""
    way = position.unsqueeze(-2) - position.unsqueeze(-3)
    return torch.linalg.vector_norm(way, dim=-1)


def strike(table: Table, kind: Tensor, health: Tensor, shield: Tensor, cooldown: Tensor, target: Tensor) -> Blows:
    """All blows of a step at once: who has a target [B, U] (-1: none) and has cooled down strikes or heals it.

    Healing comes first and heals no shield and nobody beyond full health; then blows take the shield, and health once
    that is gone. Who dies in a step has still struck in it.
    """
    struck = (target >= 0) & (cooldown <= 0) & (health > 0)
    power = torch.where(struck, table.blow[kind], 0.0)
    at, heals = target.clamp(min=0), table.heals[kind]
    relief = torch.zeros_like(health).scatter_add_(1, at, torch.where(heals, power, 0.0))
    harm = torch.zeros_like(health).scatter_add_(1, at, torch.where(heals, 0.0, power))
    healed = torch.where(health > 0, torch.minimum(health + relief, torch.maximum(table.health[kind], health)), 0.0)
    absorbed = torch.minimum(harm, shield)
    return Blows(struck, harm, relief, (healed - (harm - absorbed)).clamp(min=0), shield - absorbed)


def enemy_orders(
    rule: Enemies, table: Table, kind: Tensor, life: Tensor, worn: Tensor, position: Tensor, apart: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """What the enemies do: whom each strikes or heals, [B, M] numbers of units or -1, and where it walks, [B, M, 2].

    A fighter strikes the nearest agent in its range (`focus`: the one with the least life), else walks to the nearest
    wherever it is. A healer heals the fellow in its range that lacks the most health, else walks to the nearest fighter
    of its side. Nobody walks closer than nine tenths of its range.

    Arguments: kind [B, U]; life [B, U] health and shield, 0: dead; worn [B, U] health that is lacking; position
    [B, U, 2]; apart [B, U, U] distances; n: agents among the units.
    """
    units = life.shape[1]
    living = life > 0
    mine, apart = kind[:, n:], apart[:, n:]  # [B, M], [B, M, U]
    heals = table.heals[mine].unsqueeze(-1)
    is_enemy = torch.arange(units, device=life.device) >= n
    itself = torch.arange(units, device=life.device) == torch.arange(n, units, device=life.device).unsqueeze(-1)
    fighter = ~table.heals[kind].unsqueeze(1)
    # A fighter goes for agents; a healer stays with fighters of its side, and heals whoever is worn.
    goal = living.unsqueeze(1) & torch.where(heals, is_enemy & fighter & ~itself, ~is_enemy)
    prey = living.unsqueeze(1) & torch.where(heals, is_enemy & ~itself & (worn > 0).unsqueeze(1), ~is_enemy)
    reach = table.range[mine].unsqueeze(-1)
    prey = prey & (apart <= reach) & living[:, n:].unsqueeze(-1)
    worth = apart if rule == "nearest" else life.unsqueeze(1) + apart / (4 * SIGHT)
    worth = torch.where(heals, -worn.unsqueeze(1), worth)
    target = torch.where(prey.any(-1), worth.masked_fill(~prey, torch.inf).argmin(-1), -1)
    near = apart.masked_fill(~goal, torch.inf).min(-1)
    way = position.gather(1, near.indices.unsqueeze(-1).expand(-1, -1, 2)) - position[:, n:]
    length = torch.minimum(table.speed[mine], (near.values - 0.9 * reach.squeeze(-1)).clamp(min=0))
    walks = (target < 0) & living[:, n:] & goal.any(-1)
    walk = way * (torch.where(walks, length, 0.0) / near.values.clamp(min=1e-6)).unsqueeze(-1)
    return target, torch.where(walks.unsqueeze(-1), walk, 0.0)
