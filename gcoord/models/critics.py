"""How good it is to be here: values of every agent, from its own surroundings or from the whole team's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.agent import Body, Features
from gcoord.models.pool import team_pool
from gcoord.trajectory import Observation


class Critic(nn.Module):
    """A value for every agent (IPPO: `Local`; MAPPO, https://arxiv.org/abs/2103.01955: `Central`).

    V_i = f(h_i), or with `central` V_i = f(h_i, g) where g is the mean and maximum of h over the living.

    Arguments:
        body: makes the critic's own features of the team.
        central: whether the pooled team feature g is read too; only training needs it.
        hidden: width of the last hidden layer.
    """

    def __init__(self, body: Body, central: bool = False, hidden: int = 64) -> None:
        super().__init__()
        self.body = body
        # The hidden layer on (h_i, g), split so that g is multiplied once a team.
        self.own = nn.Linear(body.out_dim, hidden)
        self.team = nn.Linear(2 * body.out_dim, hidden, bias=False) if central else None
        self.value = nn.Linear(hidden, 1)
        for layer, gain in ((self.own, 2**0.5), (self.team, 2**0.5), (self.value, 1.0)):
            if layer is not None:
                nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(self.own.bias)
        nn.init.zeros_(self.value.bias)

    def _values(self, features: Features, alive: Tensor) -> Tensor:
        hidden = self.own(features.h)
        if self.team is not None:
            hidden = hidden + self.team(team_pool(features.h, alive)).unsqueeze(-2)
        value: Tensor = self.value(torch.tanh(hidden))
        return value.squeeze(-1)

    def forward(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """seen [*] -> values [*, N] and memory."""
        features = self.body(seen, memory, graph, key)
        return self._values(features, seen.alive), features.memory

    def unroll(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        resets: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """seen [T, B] in order -> values [T, B, N] and memory after the last row."""
        features = self.body.unroll(seen, memory, resets, graph, key)
        return self._values(features, seen.alive), features.memory


def Local(body: Body, hidden: int = 64) -> Critic:
    """A critic that sees what its agent sees and hears."""
    return Critic(body, central=False, hidden=hidden)


def Central(body: Body, hidden: int = 64) -> Critic:
    """A critic that also sees the whole team, pooled."""
    return Critic(body, central=True, hidden=hidden)
