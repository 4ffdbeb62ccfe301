"""QTRAN: a joint value that nothing restricts, and agents' values made to agree with it at their best actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcoord.models.mixers.base import Mixed, Mixer, OnTeam, Reduce, Utilities, checked, over_team, total_of, two_layers
from gcoord.models.pool import team_pool


class _ActionEncoder(nn.Module):
    """enc(h_i, a_i): two layers whose hidden features are scaled and shifted by the action.

    An action that only stands beside h as a one-hot row is told apart too slowly by a temporal difference: after 400
    updates of a toy every action was worth the same wherever an agent stood.
    """

    def __init__(self, dim: int, hidden: int, n_actions: int) -> None:
        super().__init__()
        self.hidden = OnTeam(dim, hidden, hidden)
        self.scale = nn.Linear(n_actions, hidden, bias=False)
        self.shift = nn.Linear(n_actions, hidden)
        nn.init.normal_(self.scale.weight)

    def forward(self, h: Tensor, g: Tensor, one_hot: Tensor) -> Tensor:
        return self.hidden(h, g) * self.scale(one_hot) + self.shift(one_hot)


class Joint(Mixer):
    """QTRAN-base (https://arxiv.org/abs/1905.05408) on node features.

        Q_jt(g, sum_i enc(h_i, a_i)) learns by temporal difference, at the agents' own greedy actions in the target
        L_opt = (sum_i Q_i(best) - sg Q_jt(best) + V(g))^2
        L_nopt = min(0, sum_i Q_i(a) - sg Q_jt(a) + V(g))^2

    g is the mean and maximum of h over the living; sg stops the gradient of Q_jt, never of V. Both losses use the
    online networks.

    Arguments:
        dim: features of a node (D).
        hidden: width of the hidden layers (64).
        n_actions: actions of the widest kind; more are refused.
        reduce: `sum` over the living, the paper's, or `mean`, for a team reward that does not grow with their number.
        opt_weight, nopt_weight: of the two losses (1 in the paper).

    Shapes: q [*, N, A], h [*, N, dim] -> total [*] (Q_jt); terms: value [*] (V).
    """

    def __init__(
        self,
        dim: int = 64,
        hidden: int = 64,
        n_actions: int = 32,
        reduce: Reduce = "sum",
        opt_weight: float = 1.0,
        nopt_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if min(hidden, n_actions) < 1:
            raise ValueError(f"expected positive sizes (got hidden={hidden}, n_actions={n_actions})")
        self.n_actions, self.reduce = n_actions, checked(reduce)
        self.opt_weight, self.nopt_weight = opt_weight, nopt_weight
        self.encode = _ActionEncoder(dim, hidden, n_actions)
        self.joint = nn.Sequential(
            nn.Linear(2 * dim + hidden, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1)
        )
        self.value = two_layers(2 * dim, hidden, 1)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_jt [*]."""
        h, alive = utilities.features(), utilities.alive
        g = team_pool(h, alive)
        encoded = self.encode(h, g, utilities.one_hot(self.n_actions)) * alive.unsqueeze(-1)
        joint = self.joint(torch.cat([g, over_team(encoded, alive, self.reduce)], -1)).squeeze(-1)
        return Mixed(joint, {"value": self.value(g).squeeze(-1)})

    def losses(self, utilities: Utilities, mixed: Mixed, target: Tensor) -> dict[str, Tensor]:
        """opt and nopt, each [*]."""
        best = utilities.at_greedy()
        with torch.no_grad():
            at_best: Mixed = self(best)
        value, alive = mixed.terms["value"], utilities.alive
        opt = total_of(best.chosen(), alive, self.reduce) - at_best.total + value
        nopt = total_of(utilities.chosen(), alive, self.reduce) - mixed.total.detach() + value
        return {
            "opt": self.opt_weight * opt.square(),
            "nopt": self.nopt_weight * nopt.clamp(max=0).square(),
        }
