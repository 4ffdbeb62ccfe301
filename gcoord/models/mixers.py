"""From every agent's value to the team's, at any team size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.heads import greedy
from gcoord.models.pool import team_pool

Reduce = Literal["sum", "mean"]


@dataclass(frozen=True)
class Utilities:
    """What a mixer reads: q [*, N, A], action [*, N] long, h [*, N, D] node features, alive [*, N] bool, and
    available [*, N, A] bool where actions may be illegal. What stands in the slots of the dead is never read."""

    q: Tensor
    action: Tensor
    h: Tensor
    alive: Tensor
    available: Tensor | None = None

    def chosen(self) -> Tensor:
        """[*, N]: the value of every agent's action, 0 for the dead."""
        action = torch.where(self.alive, self.action, 0)
        chosen = self.q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return torch.where(self.alive, chosen, 0.0)

    def features(self) -> Tensor:
        """[*, N, D]: node features, 0 for the dead."""
        return torch.where(self.alive.unsqueeze(-1), self.h, 0.0)

    def at(self, action: Tensor) -> Utilities:
        """The same utilities at another joint action."""
        return replace(self, action=action)

    def at_greedy(self) -> Utilities:
        """The same utilities, everyone choosing the best available action."""
        return self.at(greedy(self.q, self.available))


@dataclass(frozen=True)
class Mixed:
    """total: the team's value [*], or [*, N] where the mixer is `per_agent`; terms: what losses need besides."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class Mixer(nn.Module):
    """`mixer(utilities, key=None) -> Mixed`; the dead contribute nothing, and no weight depends on N.

    `per_agent` says whether totals stay apart ([*, N], one temporal difference each) or are one for the team ([*]).
    """

    per_agent = False

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        raise NotImplementedError

    def target(self, utilities: Utilities, action: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """What the next state is worth: this mixer at `action` (double Q-learning's choice), or at the greedy one."""
        utilities = utilities.at_greedy() if action is None else utilities.at(action)
        mixed: Mixed = self(utilities, key)
        return mixed.total

    def losses(self, utilities: Utilities, mixed: Mixed, target: Tensor) -> dict[str, Tensor]:
        """Losses beyond the temporal difference, by name: none unless a mixer has its own."""
        return {}


class Each(Mixer):
    """No mixing: every agent learns from its own value (independent Q-learning), 0 for the dead.

    Arguments:
        dim: features of a node, which it does not read; every mixer is made alike.
    """

    per_agent = True

    def __init__(self, dim: int = 0) -> None:
        super().__init__()

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_i [*, N] at the chosen actions."""
        return Mixed(utilities.chosen())


class Sum(Mixer):
    """Value decomposition: Q_tot = sum_i Q_i over the living (VDN, https://arxiv.org/abs/1706.05296).

    Arguments:
        reduce: `sum`, the paper's, or `mean`, for a team reward that does not grow with the number of agents.
        dim: features of a node, which it does not read; every mixer is made alike.
    """

    def __init__(self, reduce: Reduce = "sum", dim: int = 0) -> None:
        super().__init__()
        self.reduce = _checked(reduce)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        return Mixed(_over_team(utilities.chosen().unsqueeze(-1), utilities.alive, self.reduce).squeeze(-1))


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
        self.reduce = _checked(reduce)
        # The first layer of w1 on (h_i, g), split so that g is multiplied once per team.
        self.own = nn.Linear(dim, hidden)
        self.team = nn.Linear(2 * dim, hidden, bias=False)
        self.first = nn.Linear(hidden, embed)
        self.second = nn.Sequential(nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Linear(hidden, embed))
        self.bias = nn.Linear(2 * dim, embed)
        self.value = nn.Sequential(nn.Linear(2 * dim, embed), nn.ReLU(), nn.Linear(embed, 1))

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        h = utilities.features()  # [*, N, D]
        g = team_pool(h, utilities.alive)  # [*, 2D]
        weights = self.first(torch.relu(self.own(h) + self.team(g).unsqueeze(-2))).abs()  # [*, N, embed]
        mixed = _over_team(utilities.chosen().unsqueeze(-1) * weights, utilities.alive, self.reduce)
        layer = F.elu(mixed + self.bias(g))  # [*, embed]
        return Mixed((layer * self.second(g).abs()).sum(-1) + self.value(g).squeeze(-1))


def _checked(reduce: Reduce) -> Reduce:
    if reduce not in ("sum", "mean"):
        raise ValueError(f"expected reduce to be 'sum' or 'mean' (got {reduce!r})")
    return reduce


def _over_team(x: Tensor, alive: Tensor, reduce: Reduce) -> Tensor:
    """Sum or mean over the living of x [*, N, D], which is 0 for the dead -> [*, D]."""
    total = x.sum(-2)
    return total if reduce == "sum" else total / alive.sum(-1, keepdim=True).clamp(min=1)
