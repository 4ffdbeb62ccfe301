"""QPLEX: value and advantage mixed apart, so that every game that can be solved greedily can be represented."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.mixers.base import Mixed, Mixer, OnTeam, Reduce, Utilities, checked, total_of
from gcoord.models.pool import team_pool


class Duplex(Mixer):
    """QPLEX (https://arxiv.org/abs/2008.01062) on node features.

        Q'_i = w_i Q_i + b_i,  w_i > 0          V'_i = the same at i's best action
        Q_tot = sum_i Q'_i + sum_i (lambda_i - 1) sg(Q'_i - V'_i)
        lambda_i = sum_k (|key_k| + 1e-10) sigmoid(agent_k) sigmoid(action_k)

    w, b, key and agent read (h_i, g), g being the mean and maximum of h over the living; action also reads the joint
    action: its own, and mean and maximum over the living of an encoding of (h_j, a_j). sg stops the gradient, as in the
    authors' code: V' learns by the sum, lambda by the advantages. At the greedy joint action every advantage is exactly
    0, and elsewhere negative times lambda > 0, so the team's best action is everyone's best.

    Departures, for the hypernets' optimisation: w = elu(.) + 1 for |.|, lambda begins near 1 (the plain sum), and the
    logits of agent and action are bounded by x / (1 + |x| / 4) before the sigmoid. With the authors' forms w or the
    sigmoids often died in the one-step game before lambda had learnt anything.

    Arguments:
        dim: features of a node (D).
        kernels: terms k of lambda (the authors' 10).
        hidden: width of the hidden layers (64).
        n_actions: actions of the widest kind; more are refused.
        reduce: `sum` over the living, the paper's, or `mean`, for a team reward that does not grow with their number.

    Shapes: q [*, N, A], h [*, N, dim] -> total [*]; terms: advantage [*, N] (Q' - V'), weight [*, N] (lambda).
    """

    def __init__(
        self, dim: int = 64, kernels: int = 10, hidden: int = 64, n_actions: int = 32, reduce: Reduce = "sum"
    ) -> None:
        super().__init__()
        if min(kernels, hidden, n_actions) < 1:
            raise ValueError(f"expected positive sizes (got kernels={kernels}, hidden={hidden}, n_actions={n_actions})")
        self.n_actions, self.reduce = n_actions, checked(reduce)
        self.transform = OnTeam(dim, hidden, 2)
        self.key = OnTeam(dim, hidden, kernels)
        self.agent = OnTeam(dim, hidden, kernels)
        self.encode = OnTeam(dim, hidden, hidden, more=n_actions)
        self.action = OnTeam(dim, hidden, kernels, more=n_actions + 2 * hidden)
        # lambda begins at about 1, the plain sum.
        nn.init.constant_(self.key.out.bias, 4 / kernels)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        h, alive = utilities.features(), utilities.alive
        g = team_pool(h, alive)
        weight, bias = self.transform(h, g).unbind(-1)
        weight = F.elu(weight) + 1 + 1e-10  # [*, N], positive and about 1 to begin with
        chosen, best = utilities.chosen(), utilities.best()
        value = torch.where(alive, weight * chosen + bias, 0.0)
        # The two share w and b, which leaves w (Q - max Q): exactly 0 where the best was chosen.
        advantage = (weight * (chosen - best)).detach()
        own = utilities.one_hot(self.n_actions)
        joint = team_pool(self.encode(h, g, own), alive).unsqueeze(-2).expand(*alive.shape, -1)
        kernels = (self.key(h, g).abs() + 1e-10) * bounded(self.agent(h, g)).sigmoid()
        shares = (kernels * bounded(self.action(h, g, torch.cat([own, joint], -1))).sigmoid()).sum(-1)  # [*, N]
        total = total_of(value + torch.where(alive, (shares - 1) * advantage, 0.0), alive, self.reduce)
        return Mixed(total, {"advantage": advantage, "weight": shares})


def bounded(logits: Tensor) -> Tensor:
    """Logits between -4 and 4, with a slope that never vanishes."""
    return logits / (1 + logits.abs() / 4)
