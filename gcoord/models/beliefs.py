"""Belief-PPO's head: what an agent believes of those it hears, and acts upon."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.agent import Features
from gcoord.models.heads import Choice
from gcoord.models.kinds import policy_head
from gcoord.models.pairs import agents_heard, of_senders
from gcoord.models.roles import Gaussian
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation


class BeliefPolicy(nn.Module):
    """A policy conditioned on beliefs about the neighbours' policies (Zhai, Peng, Su, Tian, Dynamic Belief for
    Decentralized Multi-Agent Cooperative Learning, IJCAI 2023, https://doi.org/10.24963/ijcai.2023/39).

        z_ij ~ q(. | h_i, h_j) = N(mu, sigma^2),   b_i = mean over heard j of mu(h_i, h_j),   pi_i = head(h_i, b_i)
        loss: weight (-log p(a_j | z_ij) + beta KL(q || N(0, I))), averaged over whom i hears

    h_j is what i hears of j: with `memory=gru` the last steps of j, without only the present one. The latent is sampled
    for the loss and is its mean where it conditions the policy, so the
    probability of an action is the same when collected and when learnt from. No public code exists; the reading of the
    paper is ours. Departures: weights are shared by all pairs, beliefs are pooled by their mean, so any team size acts;
    neighbours alone are believed about, over the graph that messages take.

    Arguments:
        spec: of the teams.
        dim: features of a node (D).
        latent: numbers in a belief.
        hidden: width of the hidden layers.
        weight: of the belief's loss.
        beta: of its divergence from the prior.

    Shapes: h [*, N, dim] with the graph [*] -> a choice over [*, N].
    """

    reads_graph = True

    def __init__(
        self,
        spec: TeamSpec,
        dim: int,
        latent: int = 8,
        hidden: int = 64,
        weight: float = 0.1,
        beta: float = 0.01,
    ) -> None:
        super().__init__()
        if latent < 1 or hidden < 1 or weight < 0 or beta < 0:
            raise ValueError(
                f"expected latent and hidden of at least 1, weight and beta of at least 0 "
                f"(got {latent}, {hidden}, {weight} and {beta})"
            )
        self.weight, self.beta = weight, beta
        self.of_self = nn.Linear(dim, hidden)
        self.of_other = nn.Linear(dim, hidden, bias=False)
        self.moments = nn.Linear(hidden, 2 * latent)
        self.decode = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU())
        self.theirs = policy_head(spec, hidden, gain=1.0)
        self.own = policy_head(spec, dim + latent)

    def beliefs(self, h: Tensor, index: Tensor) -> Gaussian:
        """q(. | h_i, h_j) of every slot, [*, N, K, latent]."""
        hidden = torch.tanh(self.of_self(h).unsqueeze(-2) + of_senders(self.of_other(h), index))
        mean, spread = self.moments(hidden).chunk(2, -1)
        return Gaussian(mean, 1e-4 + F.softplus(spread))

    def forward(
        self,
        h: Tensor,
        available: Tensor | None = None,
        kind: Tensor | None = None,
        *,
        graph: AgentGraph | None = None,
    ) -> Choice:
        if graph is None:
            raise ValueError("expected the graph of those that are believed about (got None)")
        mask, index = agents_heard(graph)
        believed = torch.where(mask.unsqueeze(-1), self.beliefs(h, index).mean, 0.0).sum(-2)
        believed = believed / mask.sum(-1, keepdim=True).clamp(min=1)
        choice: Choice = self.own(torch.cat([h, believed], -1), available=available, kind=kind)
        return choice

    def losses(
        self, features: Features, seen: Observation, key: Tensor | None = None, action: Tensor | None = None
    ) -> dict[str, Tensor]:
        """belief [*, N]: the weighted cross-entropy of the neighbours' actions and divergence from the prior."""
        if action is None:
            raise ValueError("expected the actions that were played (got None)")
        mask, index = agents_heard(features.graph)
        believed = self.beliefs(features.h, index)
        drawn = believed.mean + believed.variance.sqrt() * torch.randn_like(believed.mean)
        prior = Gaussian(torch.zeros_like(drawn), torch.ones_like(drawn))
        kind = torch.where(seen.alive, seen.kind, 0)
        shape = index.shape[-2:]
        # Slots are laid out as more agents of the same teams, as the heads take them.
        theirs = self.theirs(self.decode(drawn).flatten(-3, -2), kind=_of_slots(kind.unsqueeze(-1), index).squeeze(-1))
        flat = action.unsqueeze(-1) if action.dim() == kind.dim() else action
        played = _of_slots(flat, index)
        log_prob = theirs.log_prob(played.squeeze(-1) if action.dim() == kind.dim() else played).unflatten(-1, shape)
        loss = torch.where(mask, self.beta * believed.kl(prior) - log_prob, 0.0).sum(-1)
        return {"belief": self.weight * loss / mask.sum(-1).clamp(min=1)}


def _of_slots(x: Tensor, index: Tensor) -> Tensor:
    """x [*, N, D] of the sender in every slot of index [*, N, K] -> [*, N K, D]."""
    return of_senders(x, index).flatten(-3, -2)
