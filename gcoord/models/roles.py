"""ROMA: every agent's role, drawn from what it senses itself, makes the last layer of its action values."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.hashing import edge_hash
from gcoord.models.agent import Features
from gcoord.models.kinds import ByKind
from gcoord.models.messages import read
from gcoord.models.pairs import agents_heard, of_senders
from gcoord.models.senses import sense
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Observation

# The authors' lowest log-density that counts, and how far densities are scaled down beside dissimilarities.
LOWEST, SCALE = 13.9, 100.0


class Gaussian(NamedTuple):
    """Normals with independent components: mean and variance [*, R]."""

    mean: Tensor
    variance: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of every component of x [*, R]."""
        return -0.5 * ((x - self.mean).square() / self.variance + self.variance.log() + math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        """[*], in nats."""
        return 0.5 * (self.variance.log() + math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) [*], in nats."""
        ratio, apart = self.variance / other.variance, (self.mean - other.mean).square() / other.variance
        return 0.5 * (ratio + apart - 1 - ratio.log()).sum(-1)

    def cross_entropy(self, other: Gaussian) -> Tensor:
        """-E_self[log other] [*] = entropy(self) + KL(self || other), in closed form."""
        spread = (self.variance + (self.mean - other.mean).square()) / other.variance
        return 0.5 * (spread + other.variance.log() + math.log(2 * math.pi)).sum(-1)


class RoleQ(nn.Module):
    """ROMA's agents (Wang et al., https://arxiv.org/abs/2003.08039): values whose last layer is made by a role.

        rho_i ~ p(. | o_i) = N(mu(o_i), sigma^2(o_i)),   Q_i = W(rho_i) h_i + b(rho_i)
        identifiability: KL(p(. | o_i) || q(. | tau_i, o_i)), q a second encoder that also reads what the agent
        remembers
        diversity, over whom i hears: mean_j of d_ij - min(U, log q(rho_i | tau_j, o_j) + d_ij), d_ij = |d(mu_i, mu_j)|

    o_i is what the agent senses itself, so agents that sense the same have the same distribution of roles; tau_i is its
    feature h_i, detached. Roles are sampled where the module is in training mode (by a hash of the row's key and the
    slot), and are their means where not, so that acting is repeatable. Log-densities are averaged over components, cut
    and scaled as in the authors' code. Departures: LayerNorm for their BatchNorm, which would leak across teams; pairs
    along the graph's edges for all pairs; roles of means where acting.

    Arguments:
        spec: of the teams; discrete actions only.
        dim: features of a node (D).
        role: numbers in a role (3).
        hidden: width of the hidden layers.
        floor: smallest variance of a role (0.002).
        identify, diversify: weights of the two losses (1e-4 and 1e-3 in the authors' code).
        shrink: add the entropy of p to the identifiability, as the authors' code does and the paper does not; the sum
            is the cross-entropy of p and q, which also shrinks the roles' variance.
        limit: U.

    Shapes: h [*, N, dim] with the observation seen [*] and its key [*] -> q [*, N, A]. Raises ValueError for continuous
    actions, and where it is not given the observation.
    """

    reads_seen = True
    own: Tensor

    def __init__(
        self,
        spec: TeamSpec,
        dim: int,
        role: int = 3,
        hidden: int = 32,
        floor: float = 0.002,
        identify: float = 1e-4,
        diversify: float = 1e-3,
        shrink: bool = False,
        limit: float = 0.18,
    ) -> None:
        super().__init__()
        if not spec.discrete:
            raise ValueError(f"expected discrete actions for a value of each (got {spec.actions})")
        if min(role, hidden) < 1 or floor <= 0:
            raise ValueError(f"expected positive role, hidden and floor (got {role}, {hidden} and {floor})")
        self.floor, self.identify, self.diversify = floor, identify, diversify
        self.shrink, self.limit, self.width, self.n_kinds = shrink, limit, spec.n_actions, len(spec.kinds)
        shape = (spec.own[0] + self.n_kinds,) if len(spec.own) == 1 and self.n_kinds > 1 else spec.own
        self.sense = sense(shape, hidden, layers=1)
        self.prior = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 2 * role))
        self.posterior = nn.Sequential(
            nn.Linear(dim + hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(), nn.Linear(hidden, 2 * role)
        )
        self.decode = nn.Sequential(nn.Linear(role, hidden), nn.LayerNorm(hidden), nn.LeakyReLU())
        # Every kind makes its last layer by weights of its own, as it has a head of its own elsewhere.
        self.weight = ByKind(lambda: nn.Linear(hidden, dim * self.width), self.n_kinds)
        self.bias = ByKind(lambda: nn.Linear(hidden, self.width), self.n_kinds)
        self.apart_own = nn.Linear(role, hidden)
        self.apart_other = nn.Linear(role, hidden, bias=False)
        self.apart = nn.Linear(hidden, 1)
        # The last layer starts about as large as a plain one of `dim` inputs.
        for network in self.weight.networks:
            nn.init.normal_(cast(Tensor, network.weight), std=(hidden * dim) ** -0.5)
        sizes = torch.tensor([action.n for action in spec.actions if isinstance(action, Discrete)])
        self.register_buffer("own", torch.arange(self.width) < sizes.unsqueeze(-1), persistent=False)

    def forward(
        self,
        h: Tensor,
        available: Tensor | None = None,
        kind: Tensor | None = None,
        *,
        seen: Observation | None = None,
        key: Tensor | None = None,
    ) -> Tensor:
        if seen is None:
            raise ValueError("expected the observation that roles are drawn from (got None)")
        decoded = self.decode(self._draw(self.roles(seen), key))
        weight = self.weight(decoded, kind).unflatten(-1, (self.width, h.shape[-1]))  # [*, N, A, D]
        return (weight @ h.unsqueeze(-1)).squeeze(-1) + cast(Tensor, self.bias(decoded, kind))

    def legal(self, available: Tensor | None = None, kind: Tensor | None = None) -> Tensor | None:
        """What may be chosen [*, N, A]: the kind's own actions that are available."""
        if self.n_kinds == 1 or kind is None:
            return available
        own = self.own[kind.clamp(0, self.n_kinds - 1)]
        return own if available is None else own & available

    def roles(self, seen: Observation) -> Gaussian:
        """p(. | o): the distribution of every agent's role, [*, N, role]."""
        return self._gaussian(self.prior(self._sensed(seen)))

    def inferred(self, seen: Observation, h: Tensor) -> Gaussian:
        """q(. | tau, o), [*, N, role]: h is detached."""
        return self._gaussian(self.posterior(torch.cat([h.detach(), self._sensed(seen)], -1)))

    def losses(
        self, features: Features, seen: Observation, key: Tensor | None = None, action: Tensor | None = None
    ) -> dict[str, Tensor]:
        """identify and diversify, each [*, N]."""
        roles, inferred = self.roles(seen), self.inferred(seen, features.h)
        known = roles.cross_entropy(inferred) if self.shrink else roles.kl(inferred)
        mask, index = agents_heard(features.graph)
        drawn = self._draw(roles, key)
        other = Gaussian(*(of_senders(x, index) for x in inferred))  # [*, N, K, role]
        told = LOWEST + other.log_prob(drawn.unsqueeze(-2)).clamp(min=-LOWEST)
        told = told.mean(-1) / SCALE
        pair = F.leaky_relu(self.apart_own(roles.mean).unsqueeze(-2) + of_senders(self.apart_other(roles.mean), index))
        apart = self.apart(pair).squeeze(-1).abs()
        unlike = torch.where(mask, apart - (told + apart).clamp(max=self.limit), 0.0).sum(-1)
        return {
            "identify": self.identify * known,
            "diversify": self.diversify * unlike / mask.sum(-1).clamp(min=1),
        }

    def _sensed(self, seen: Observation) -> Tensor:
        own = read(seen.own, seen.alive)
        if self.n_kinds > 1 and own.dim() == seen.alive.dim() + 1:
            kind = torch.where(seen.alive, seen.kind, 0)
            own = torch.cat([own, F.one_hot(kind, self.n_kinds).to(own.dtype)], -1)
        sensed: Tensor = self.sense(own)
        return sensed

    def _gaussian(self, moments: Tensor) -> Gaussian:
        mean, spread = moments.chunk(2, -1)
        return Gaussian(mean, self.floor + F.softplus(spread))

    def _draw(self, roles: Gaussian, key: Tensor | None) -> Tensor:
        if not self.training or key is None:
            return roles.mean
        n, size = roles.mean.shape[-2:]
        slot = torch.arange(n, device=key.device).unsqueeze(-1)
        bits = edge_hash(key[..., None, None], slot, torch.arange(size, device=key.device), salt=3)
        noise = torch.special.ndtri((bits.double() + 0.5) / 2**53).to(roles.mean.dtype)
        return roles.mean + roles.variance.sqrt() * noise
