"""Qatten: the team's value as an attention over its agents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcoord.models.mixers.base import Mixed, Mixer, Utilities, two_layers
from gcoord.models.pool import team_pool


class Attentive(Mixer):
    """Qatten (https://arxiv.org/abs/2002.03939) with the team's pooled feature as its state.

        Q_tot = c(g) + sum_h |w_h(g)| sum_i lambda_ih Q_i
        lambda_ih = softmax over the living of key_h(h_i) . query_h(g) / sqrt(embed)

    g is the mean and maximum of h over the living. The shares lambda sum to one, so the gradients to all Q_i sum to
    sum_h |w_h| at every team size. Departure: an agent's unit state is its node feature h_i.

    Arguments:
        dim: features of a node (D).
        heads: attention heads (the paper's 4).
        embed: features of keys and queries (32).
        hidden: width of the hidden layers of query, w and c (64).

    Shapes: q [*, N, A], h [*, N, dim] -> total [*]; terms: shares [*, N, heads].
    """

    def __init__(self, dim: int = 64, heads: int = 4, embed: int = 32, hidden: int = 64) -> None:
        super().__init__()
        if min(heads, embed, hidden) < 1:
            raise ValueError(f"expected positive sizes (got heads={heads}, embed={embed}, hidden={hidden})")
        self.heads, self.embed = heads, embed
        self.key = nn.Linear(dim, heads * embed, bias=False)
        self.query = two_layers(2 * dim, hidden, heads * embed)
        self.weight = two_layers(2 * dim, hidden, heads)
        self.value = two_layers(2 * dim, hidden, 1)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        h, living = utilities.features(), utilities.alive.unsqueeze(-1)
        g = team_pool(h, utilities.alive)
        keys = self.key(h).unflatten(-1, (self.heads, self.embed))  # [*, N, H, embed]
        query = self.query(g).unflatten(-1, (self.heads, self.embed)).unsqueeze(-3)
        logits = (keys * query).sum(-1) * self.embed**-0.5
        shares = torch.where(living, logits, torch.finfo(logits.dtype).min).softmax(-2) * living  # [*, N, H]
        of_heads = (shares * utilities.chosen().unsqueeze(-1)).sum(-2)
        total = (self.weight(g).abs() * of_heads).sum(-1) + self.value(g).squeeze(-1)
        return Mixed(total, {"shares": shares})
