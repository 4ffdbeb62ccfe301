"""What mixers read and give, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.heads import greedy

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

    def best(self) -> Tensor:
        """[*, N]: the value of every agent's best available action, 0 for the dead."""
        return self.at_greedy().chosen()

    def features(self) -> Tensor:
        """[*, N, D]: node features, 0 for the dead."""
        return torch.where(self.alive.unsqueeze(-1), self.h, 0.0)

    def one_hot(self, n_actions: int) -> Tensor:
        """[*, N, n_actions]: every agent's action as a one-hot row, zeros for the dead.

        Raises ValueError where there are more actions than that.
        """
        if self.q.shape[-1] > n_actions:
            raise ValueError(f"expected at most n_actions={n_actions} actions (got {self.q.shape[-1]})")
        rows = F.one_hot(torch.where(self.alive, self.action, 0), n_actions).to(self.q.dtype)
        return rows * self.alive.unsqueeze(-1)

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
    `fixed_n` is the team size that a mixer is bound to, None where it mixes any. Learners make a mixer with those of
    `dim` (features of a node), `n_agents` and `n_actions` that its `__init__` names.
    """

    per_agent = False
    fixed_n: int | None = None

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        raise NotImplementedError

    def target(self, utilities: Utilities, action: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """What the next state is worth: this mixer at `action` (double Q-learning's choice), or at the greedy one."""
        utilities = utilities.at_greedy() if action is None else utilities.at(action)
        mixed: Mixed = self(utilities, key)
        return mixed.total

    def losses(self, utilities: Utilities, mixed: Mixed, target: Tensor) -> dict[str, Tensor]:
        """Losses beyond the temporal difference, by name, each [*]; the learner averages them over valid rows. None
        unless a mixer has its own."""
        return {}


class OnTeam(nn.Module):
    """Two layers on an agent's feature and the team's: out(elu(own(h_i) + team(g))), g multiplied once per team.

    Arguments:
        dim: features of an agent; the team's are 2 dim (`team_pool`).
        hidden: width of the hidden layer.
        out: features that leave.
        more: further features of an agent, given beside h.

    Shapes: h [*, N, dim], g [*, 2 dim], more [*, N, more] -> [*, N, out].
    """

    def __init__(self, dim: int, hidden: int, out: int, more: int = 0) -> None:
        super().__init__()
        self.own = nn.Linear(dim + more, hidden)
        self.team = nn.Linear(2 * dim, hidden, bias=False)
        self.out = nn.Linear(hidden, out)

    def forward(self, h: Tensor, g: Tensor, more: Tensor | None = None) -> Tensor:
        own = h if more is None else torch.cat([h, more], -1)
        return cast(Tensor, self.out(F.elu(self.own(own) + self.team(g).unsqueeze(-2))))


def two_layers(dim: int, hidden: int, out: int) -> nn.Sequential:
    """out(relu(hidden(x))): [*, dim] -> [*, out]."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))


def checked(reduce: Reduce) -> Reduce:
    """`reduce`; raises ValueError unless it is one of two."""
    if reduce not in ("sum", "mean"):
        raise ValueError(f"expected reduce to be 'sum' or 'mean' (got {reduce!r})")
    return reduce


def over_team(x: Tensor, alive: Tensor, reduce: Reduce) -> Tensor:
    """Sum or mean over the living of x [*, N, D], which is 0 for the dead -> [*, D]."""
    total = x.sum(-2)
    return total if reduce == "sum" else total / alive.sum(-1, keepdim=True).clamp(min=1)


def total_of(x: Tensor, alive: Tensor, reduce: Reduce) -> Tensor:
    """Sum or mean over the living of x [*, N], which is 0 for the dead -> [*]."""
    return over_team(x.unsqueeze(-1), alive, reduce).squeeze(-1)
