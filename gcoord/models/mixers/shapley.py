"""SHAQ: every agent's value weighed by what it adds to coalitions of the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.hashing import edge_hash
from gcoord.models.mixers.base import Mixed, Mixer, Reduce, Utilities, checked, total_of, two_layers
from gcoord.models.pool import team_pool

# Radians by which values as far apart as a team's furthest turn a wave at most.
FREQUENCY = 64.0


class Shapley(Mixer):
    """SHAQ (https://arxiv.org/abs/2105.15013) with the team's pooled feature as its state.

        Q_tot = sum_i delta_i Q_i,   delta_i = 1 at a greedy action, else 1 + alpha_i
        alpha_i = mean over coalitions C of |F_g(mean of Q_j over C, Q_i)|

    The coalitions of i are those that stand before it in random orders of the living; F is a mixing network of two
    inputs with weights |W(g)|. The target is the plain sum at the greedy actions, with no mixer. With all greedy Q_tot
    is the sum, with alpha = 0 it is VDN (in the paper's own symbol, which contains the 1, alpha-hat = 1).

    Orders are drawn by the row's key and by what the agents' values are, so the same row gives the same coalitions
    whatever the agents' slots. Departure: the paper draws them anew at every update.

    Arguments:
        dim: features of a node (D).
        samples: coalitions of every agent (the authors' 10).
        embed: width of F's mixing layer (32).
        hidden: width of the hypernets' hidden layer (64).
        reduce: `sum` over the living, the paper's, or `mean`, for a team reward that does not grow with their number.

    Shapes: q [*, N, A], h [*, N, dim], key [*] long -> total [*]; terms: alpha [*, N].
    """

    def __init__(
        self, dim: int = 64, samples: int = 10, embed: int = 32, hidden: int = 64, reduce: Reduce = "sum"
    ) -> None:
        super().__init__()
        if min(samples, embed, hidden) < 1:
            raise ValueError(f"expected positive sizes (got samples={samples}, embed={embed}, hidden={hidden})")
        self.samples, self.embed, self.reduce = samples, embed, checked(reduce)
        self.first = two_layers(2 * dim, hidden, 2 * embed)
        self.second = two_layers(2 * dim, hidden, embed)
        self.bias = nn.Linear(2 * dim, embed)
        self.value = two_layers(2 * dim, embed, 1)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        alive = utilities.alive
        chosen = utilities.chosen()
        before = self._coalitions(utilities, chosen, key)  # [*, S, N]
        alpha = self._marginal(before, chosen, team_pool(utilities.features(), alive)).mean(-2)
        delta = torch.where(chosen < utilities.best(), 1 + alpha, 1.0)
        return Mixed(total_of(delta * chosen, alive, self.reduce), {"alpha": alpha})

    def target(self, utilities: Utilities, action: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """The sum of the values at `action`, or at the greedy one."""
        utilities = utilities.at_greedy() if action is None else utilities.at(action)
        return total_of(utilities.chosen(), utilities.alive, self.reduce)

    def _coalitions(self, utilities: Utilities, chosen: Tensor, key: Tensor | None) -> Tensor:
        """Mean value [*, S, N] of the living that stand before each agent in S random orders, 0 where none does."""
        place = self._places(utilities, key)  # [*, S, N]
        order = place.masked_fill(~utilities.alive.unsqueeze(-2), torch.inf).argsort(-1)
        value = chosen.unsqueeze(-2).expand(place.shape).gather(-1, order)
        earlier = value.cumsum(-1) - value
        count = torch.arange(order.shape[-1], device=order.device).clamp(min=1)
        return torch.zeros_like(value).scatter(-1, order, earlier / count)

    @torch.no_grad()
    def _places(self, utilities: Utilities, key: Tensor | None) -> Tensor:
        """Where every agent stands in S orders, [*, S, N] double: a wave of its values and action, quick enough to be
        as good as chance and slow enough that their rounding, which changes with the slots, changes no order."""
        living = utilities.alive.unsqueeze(-1)
        q = torch.where(living, utilities.q, 0.0).double()
        mean = q.sum((-2, -1), keepdim=True) / (living.sum(-2, keepdim=True) * q.shape[-1]).clamp(min=1)
        apart = torch.where(living, q - mean, 0.0)
        apart = apart / apart.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
        action = torch.where(utilities.alive, utilities.action, 0).unsqueeze(-1)
        told = torch.cat([apart, action.double(), torch.ones_like(apart[..., :1])], -1)  # [*, N, A + 2]
        sample = torch.arange(self.samples, device=q.device).unsqueeze(-1)
        row = sample.new_zeros(()) if key is None else key[..., None, None]
        bits = edge_hash(row, sample, torch.arange(told.shape[-1], device=q.device), salt=2)
        frequency = (bits.double() / 2**52 - 1) * FREQUENCY  # [*, S, A + 2]
        return (frequency @ told.mT).sin()

    def _marginal(self, before: Tensor, chosen: Tensor, g: Tensor) -> Tensor:
        """|F_g(before, chosen)| [*, S, N], monotone inside the absolute value."""
        w1 = self.first(g).abs().unflatten(-1, (2, self.embed))[..., None, None, :, :]  # [*, 1, 1, 2, embed]
        inputs = torch.stack([before, chosen.unsqueeze(-2).expand_as(before)], -1).unsqueeze(-1)
        layer = F.elu((inputs * w1).sum(-2) + self.bias(g)[..., None, None, :])
        out = (layer * self.second(g).abs()[..., None, None, :]).sum(-1)
        return (out + self.value(g).unsqueeze(-1)).abs()
