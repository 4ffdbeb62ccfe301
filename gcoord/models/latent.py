"""A choice that hinges on something unseen: the conditional variational autoencoder of behaviour cloning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.heads import Choice
from gcoord.models.kinds import policy_head
from gcoord.models.proposals import ActionCode
from gcoord.models.roles import Gaussian
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation


class LatentChoice:
    """A mixture over z ~ N(0, I) of what a decoder makes of features and z.

    `sample` draws z, `mode` takes z = 0. `log_prob` is the importance-weighted bound of `draws` samples
    (https://arxiv.org/abs/1509.00519), which lies below the true one and closes in with more. Entropy and divergence
    have no closed form: asked for, they raise ValueError.
    """

    def __init__(self, head: LatentHead, h: Tensor, seen: Observation) -> None:
        self.head, self.h, self.seen = head, h, seen

    def given(self, z: Tensor) -> Choice:
        """The choice where z [*, N, latent] is known."""
        return self.head.decoded(self.h, z, self.seen)

    def drawn(self, generator: torch.Generator | None = None) -> Tensor:
        """z [*, N, latent] ~ N(0, I)."""
        empty = torch.empty(*self.h.shape[:-1], self.head.latent, device=self.h.device)
        return empty.normal_(generator=generator)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.given(self.drawn(generator)).sample(generator)

    @torch.no_grad()
    def mode(self) -> Tensor:
        return self.given(torch.zeros_like(self.drawn())).mode()

    def bound(self, action: Tensor) -> dict[str, Tensor]:
        """What cloning minimises, each [*, N]: nll, -log p(action | h, z) at one z drawn from q(z | h, action), and
        latent, the weighted KL(q || N(0, I)). At weight 1 their sum is minus the evidence lower bound."""
        posterior = self.head.encoded(self.h, action, self.seen)
        z = posterior.mean + posterior.variance.sqrt() * torch.randn_like(posterior.mean)
        prior = Gaussian(torch.zeros_like(z), torch.ones_like(z))
        return {"nll": -self.given(z).log_prob(action), "latent": self.head.weight * posterior.kl(prior)}

    def log_prob(self, action: Tensor) -> Tensor:
        posterior = self.head.encoded(self.h, action, self.seen)
        prior = Gaussian(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean))
        terms = []
        for _ in range(self.head.draws):
            z = posterior.mean + posterior.variance.sqrt() * torch.randn_like(posterior.mean)
            ratio = (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
            terms.append(self.given(z).log_prob(action) + ratio)
        return torch.stack(terms).logsumexp(0) - math.log(self.head.draws)

    def entropy(self) -> Tensor:
        raise ValueError("expected a head whose entropy has a closed form (got LatentHead)")

    def kl(self, other: Choice) -> Tensor:
        raise ValueError("expected a head whose divergence has a closed form (got LatentHead)")


class LatentHead(nn.Module):
    """Conditional variational autoencoder of actions: what one mode of a policy cannot say, a latent z can.

    Sohn et al. 2015 (https://papers.nips.cc/paper/5775), as the behaviour model of batch-constrained reinforcement
    learning (https://arxiv.org/abs/1812.02900, appendix A):

        log p(a | h) >= E_{z ~ q(z | h, a)} log p(a | h, z) - KL(q(z | h, a) || N(0, I))

    h is the agent's feature, so beliefs about others enter by the graph; z is each agent's own. Departures: p(a | h, z)
    is the head that fits the actions (numbers, points or both, by kind) where BCQ's decoder is deterministic with a
    squared error; z is not clipped where samples are drawn.

    Arguments:
        spec: of the teams.
        dim: features of a node.
        latent: components of z.
        hidden: width of the two hidden layers of encoder and decoder.
        weight: of the KL. At 1 the loss is the evidence lower bound, and z is easily given up: where one normal fits as
            well at first, it says nothing and goes on saying nothing. BCQ has 0.5.
        draws: samples in an estimate of a log-probability.

    Shapes: h [*, N, dim], seen [*] -> LatentChoice over [*, N]. Raises ValueError for sizes below 1.
    """

    reads_seen = True

    def __init__(
        self, spec: TeamSpec, dim: int, latent: int = 8, hidden: int = 64, weight: float = 0.5, draws: int = 8
    ) -> None:
        super().__init__()
        if min(latent, hidden, draws) < 1 or weight < 0:
            raise ValueError(
                f"expected latent, hidden and draws of at least 1 and a weight of at least 0 (got {latent}, {hidden}, "
                f"{draws} and {weight})"
            )
        self.latent, self.weight, self.draws = latent, weight, draws
        self.code = ActionCode(spec)
        self.encoder = _layers(dim + self.code.dim, hidden, 2 * latent)
        self.decoder = nn.Sequential(_layers(dim + latent, hidden, hidden), nn.ReLU())
        # Not near zero at first: there z would have no slope.
        self.head = policy_head(spec, hidden, gain=1.0)

    def forward(
        self,
        h: Tensor,
        available: Tensor | None = None,
        kind: Tensor | None = None,
        seen: Observation | None = None,
        key: Tensor | None = None,
    ) -> LatentChoice:
        if seen is None:
            raise ValueError("expected `seen`, in which actions are coded and told apart by kind (got None)")
        return LatentChoice(self, h, seen)

    def decoded(self, h: Tensor, z: Tensor, seen: Observation) -> Choice:
        """p(. | h, z)."""
        return self.head(self.decoder(torch.cat([h, z], -1)), available=seen.available, kind=seen.kind)

    def encoded(self, h: Tensor, action: Tensor, seen: Observation) -> Gaussian:
        """q(. | h, action)."""
        mean, spread = self.encoder(torch.cat([h, self.code(action, seen).to(h.dtype)], -1)).chunk(2, -1)
        return Gaussian(mean, 1e-4 + F.softplus(spread))


def _layers(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_out)
    )
