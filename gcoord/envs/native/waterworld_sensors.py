"""What waterworld's pursuers sense: rays of a fixed length that report the nearest thing of each kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gcoord.envs.native.pairs import Pairs

OBSTACLE, EVADER, POISON, PURSUER = range(4)


class Sensors:
    """Evenly spread rays about each pursuer.

    A ray meets a disc whose centre lies ahead and off its line by no more than the disc's radius. It reports how far
    along it the centre lies, in shares of its length, and the speed along it of the nearest relative to oneself, in
    shares of the most that could be; 1 and 0 where it meets nothing. Walls are reported where the ray ends on them.

    Arguments:
        count: rays. reach: their length. side: of the square. device: where the tables are.
    """

    def __init__(self, count: int, reach: float, side: float, device: torch.device) -> None:
        self.count, self.reach, self.side = count, reach, side
        angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        way = torch.stack([angle.cos(), angle.sin()], -1)  # [S, 2]
        way[way.abs() < 1e-8 / reach] = 0.0
        self.way = way.float().to(device)
        ahead, behind = way.clamp(min=0), (-way).clamp(min=0)
        # In rays' lengths: how far a wall is, for each unit of distance to it along an axis.
        self._ahead = torch.where(ahead > 0, 1 / (ahead * reach), torch.inf).float().to(device)
        self._behind = torch.where(behind > 0, 1 / (behind * reach), torch.inf).float().to(device)

    def walls(self, position: Tensor) -> Tensor:
        """position [B, N, 2] -> [B, N, S]: shares of the rays up to the walls."""
        low = position.unsqueeze(-2).clamp(min=0)  # [B, N, 1, 2]
        high = (self.side - position).unsqueeze(-2).clamp(min=0)
        # 0 times infinity: a ray along a wall that one stands on does not end there.
        share = torch.minimum((low * self._behind).nan_to_num(nan=1.0), (high * self._ahead).nan_to_num(nan=1.0))
        share = share.amin(-1)
        return torch.where(share < 1 - 1e-4, share, 1.0)

    def things(
        self, pairs: Pairs, n_teams: int, n_agents: int, kind: Tensor, radius: Tensor, speed: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shares of rays [B, N, 4, S] and speeds [B, N, 4, S] by kind.

        pairs: all that could be met; kind, radius and scale (of speeds) [M] of things; speed [K, 2] of each pair's
        thing relative to its receiver.
        """
        step = 2 * math.pi / self.count
        off = torch.where(
            pairs.squared > radius[pairs.thing].square(),
            (radius[pairs.thing] / pairs.squared.sqrt()).clamp(max=1).asin(),
            math.pi / 2,
        )
        bearing = torch.atan2(pairs.dy, pairs.dx)
        # A little more than needed: the test below decides.
        first = ((bearing - off) / step - 1e-3).ceil().long()
        last = ((bearing + off) / step + 1e-3).floor().long()
        count = (last - first + 1).clamp(0, self.count)
        pair = torch.arange(len(count), device=count.device).repeat_interleave(count)
        ray = first[pair] + torch.arange(len(pair), device=pair.device) - (count.cumsum(0) - count)[pair]
        ray = ray.remainder(self.count)
        way = self.way[ray]
        along = pairs.dx[pair] * way[:, 0] + pairs.dy[pair] * way[:, 1]
        thing = pairs.thing[pair]
        met = (along >= 0) & (pairs.squared[pair] - along * along <= radius[thing].square()) & (along < self.reach)
        place = (((pairs.team * n_agents + pairs.receiver) * 4 + kind[pairs.thing]) * self.count)[pair] + ray
        # One more place takes what is not met.
        size = n_teams * n_agents * 4 * self.count
        place = torch.where(met, place, size)
        share = along / self.reach
        nearest = share.new_ones(size + 1).scatter_reduce_(0, place, share, "amin")
        wins = met & (share == nearest[place])
        relative = (speed[pair] * way).sum(-1) / scale[thing]
        speeds = share.new_zeros(size + 1).scatter_(0, torch.where(wins, place, size), relative)
        shape = (n_teams, n_agents, 4, self.count)
        return nearest[:size].view(shape), speeds[:size].view(shape)
