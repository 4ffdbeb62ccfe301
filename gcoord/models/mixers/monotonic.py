"""QMIX: a mixing network with weights of one sign, from graph features at any team size, or the paper's N-sized one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.mixers.base import Mixed, Mixer, Reduce, Utilities, checked, over_team, two_layers
from gcoord.models.pool import team_pool


class Monotonic(Mixer):
    """QMIX whose weights come from graph features, so that it mixes any number of agents (https://arxiv.org/abs/1803.11485).

    Q_tot = w2(g)^T elu(sum_i Q_i w1(h_i, g) + b(g)) + V(g), w1, w2 >= 0 by absolute value, b and V free; g is the mean
    and maximum of h over the living. The paper's w1 has one row per agent number and reads the state; ours reads the
    agent's own feature and the team's, so agents that look alike weigh alike.

    Arguments:
        dim: features of a node (D).
        embed: width of the mixing layer (the paper's 32).
        hidden: width of the hypernets' hidden layer.
        reduce: `sum` over the living, the paper's, or `mean`, for a team reward that does not grow with their number.

    Shapes: q [*, N, A], h [*, N, dim] -> total [*]; the gradient reaches h.
    """

    def __init__(self, dim: int = 64, embed: int = 32, hidden: int = 64, reduce: Reduce = "sum") -> None:
        super().__init__()
        self.embed = embed
        self.reduce = checked(reduce)
        # The first layer of w1 on (h_i, g), split so that g is multiplied once per team.
        self.own = nn.Linear(dim, hidden)
        self.team = nn.Linear(2 * dim, hidden, bias=False)
        self.first = nn.Linear(hidden, embed)
        self.second = two_layers(2 * dim, hidden, embed)
        self.bias = nn.Linear(2 * dim, embed)
        self.value = two_layers(2 * dim, embed, 1)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        h = utilities.features()  # [*, N, D]
        g = team_pool(h, utilities.alive)  # [*, 2D]
        weights = self.first(torch.relu(self.own(h) + self.team(g).unsqueeze(-2))).abs()  # [*, N, embed]
        mixed = over_team(utilities.chosen().unsqueeze(-1) * weights, utilities.alive, self.reduce)
        layer = F.elu(mixed + self.bias(g))  # [*, embed]
        return Mixed((layer * self.second(g).abs()).sum(-1) + self.value(g).squeeze(-1))


class MonotonicOfN(Mixer):
    """QMIX as its paper sizes it, for teams of exactly `n_agents` (https://arxiv.org/abs/1803.11485), for reproduction.

    Q_tot = w2(s)^T elu(W1(s) q + b(s)) + V(s), W1, w2 >= 0 by absolute value. s, the paper's global state, is here what
    all agents feel, one after another in the order of their slots, zeros for the dead: [*, N D].

    Arguments:
        dim: features of a node (D).
        n_agents: the team size, the only one that it mixes (`fixed_n`).
        embed: width of the mixing layer (the paper's 32).
        hidden: width of the hypernets' hidden layer (the later code's 64).

    Shapes: q [*, n_agents, A], h [*, n_agents, dim] -> total [*]. Raises ValueError for teams of another size.
    """

    def __init__(self, dim: int, n_agents: int, embed: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.fixed_n = n_agents
        self.embed = embed
        size = n_agents * dim
        self.first = two_layers(size, hidden, n_agents * embed)
        self.second = two_layers(size, hidden, embed)
        self.bias = nn.Linear(size, embed)
        self.value = two_layers(size, embed, 1)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        n = utilities.alive.shape[-1]
        if n != self.fixed_n:
            raise ValueError(f"expected teams of {self.fixed_n}, to which this mixer is bound (got {n} agents)")
        state = utilities.features().flatten(-2)
        weights = self.first(state).abs().unflatten(-1, (n, self.embed))
        layer = F.elu((utilities.chosen().unsqueeze(-1) * weights).sum(-2) + self.bias(state))
        return Mixed((layer * self.second(state).abs()).sum(-1) + self.value(state).squeeze(-1))
