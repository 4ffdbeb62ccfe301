"""How good an action is: values of every agent's own, alone (`Local`) or beside the others' (`Team`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.kernels import RelationKernel
from gcoord.models.pool import team_pool


class ActionCritic(nn.Module):
    """Q_i of K proposed actions of every agent, at any team size.

        Local (DDPG, SAC, and IDDPG, ISAC in a team):   Q_i = f(h_i, a_i)
        Team (MADDPG, MASAC):   Q_i = f(h_i, a_i, x_i, g),   x_i = attention of (h_i, a_i) over (h_j, a_j), j != i

    MADDPG: https://arxiv.org/abs/1706.02275; attention over the others: https://arxiv.org/abs/1810.02912.

    h are features of observations alone; actions enter here, in one round over the living others, so the action that
    stands in an agent's own row of `others` cannot reach its value: not directly, and not by way of another agent. g
    is the mean and maximum of h over the living. Departure: MADDPG's critics concatenate all observations and actions,
    one critic an agent, and are bound to N.

    Arguments:
        dim: features of a node.
        code_dim: features of an action (`gcoord.models.proposals.ActionCode`).
        team: whether the others' features and actions are read.
        heads: of the attention over the others.
        hidden: width of the two hidden layers.

    Shapes: h [*, N, dim], alive [*, N], own [K, *, N, code_dim], others [*, N, code_dim] -> q [K, *, N].
    """

    def __init__(self, dim: int, code_dim: int, team: bool = False, heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.others = None
        if team:
            width = hidden - hidden % heads
            both = dim + code_dim
            self.others = RelationKernel(width, heads, in_dim=both, sender_dim=both, self_loop=False)
            self.heard, self.team = nn.Linear(width, hidden, bias=False), nn.Linear(2 * dim, hidden, bias=False)
        self.own, self.action = nn.Linear(dim, hidden), nn.Linear(code_dim, hidden, bias=False)
        self.read = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, h: Tensor, alive: Tensor, own: Tensor, others: Tensor) -> Tensor:
        hidden = self.own(h) + self.action(own)
        if self.others is not None:
            team = self.team(team_pool(h, alive)).unsqueeze(-2)
            hidden = hidden + self.heard(self._hear(h, alive, own, others)) + team
        q: Tensor = self.read(hidden).squeeze(-1)
        return q

    def _hear(self, h: Tensor, alive: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """What every proposal hears of the others, [K, *, N, width]: all proposals are receivers of one round."""
        count, n = len(own), alive.shape[-1]
        asks = torch.cat([h.expand(*own.shape[:-1], -1), own], -1).movedim(0, -3).flatten(-3, -2)  # [*, K N, D + C]
        says = torch.where(alive.unsqueeze(-1), torch.cat([h, others], -1), 0.0)
        mask = alive.unsqueeze(-1) & alive.unsqueeze(-2) & ~torch.eye(n, dtype=torch.bool, device=h.device)
        mask = mask.unsqueeze(-3).expand(*alive.shape[:-1], count, n, n).flatten(-3, -2)
        assert self.others is not None
        heard = self.others(asks, AgentGraph(mask=mask, batch_size=alive.shape[:-1]), says)
        return heard.unflatten(-2, (count, n)).movedim(-3, 0)


def Local(dim: int, code_dim: int, hidden: int = 64) -> ActionCritic:
    """A critic of an agent's own action, from what it sees and hears."""
    return ActionCritic(dim, code_dim, hidden=hidden)


def Team(dim: int, code_dim: int, heads: int = 4, hidden: int = 64) -> ActionCritic:
    """A critic that also reads the whole team, and what every other agent does."""
    return ActionCritic(dim, code_dim, team=True, heads=heads, hidden=hidden)
