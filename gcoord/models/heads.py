"""The last layer: from an agent's feature to a choice of action, or to the values of its actions."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Choice(Protocol):
    """A distribution over every agent's next action, `[*, N]`.

    `sample` and `mode` give actions (long [*, N], or float [*, N, n] within the bounds) without gradient, and so does
    `explore`, by more chance than the choice has: a share `epsilon` drawn evenly, or noise of that size on a point;
    `log_prob` of an action, `entropy` and `kl(other)` = KL(self || other) give [*, N] in nats.
    """

    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...

    def mode(self) -> Tensor: ...

    def explore(self, epsilon: float, generator: torch.Generator | None = None) -> Tensor: ...

    def log_prob(self, action: Tensor) -> Tensor: ...

    def entropy(self) -> Tensor: ...

    def kl(self, other: Choice) -> Tensor: ...


class CategoricalChoice:
    """One of A numbered actions per agent, from logits [*, N, A]; what is not available [*, N, A] has probability 0.

    Where nothing is available (the dead) the distribution is uniform and samples and modes are action 0.
    """

    def __init__(self, logits: Tensor, available: Tensor | None = None) -> None:
        logits = precise(logits)
        self.logits = logits if available is None else _masked(logits, available)
        self.log_probs = self.logits.log_softmax(-1)

    @property
    def probs(self) -> Tensor:
        """[*, N, A]: exactly 0 where not available."""
        return self.log_probs.exp()

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Long [*, N], by Gumbel's trick: no check on the host, no normalisation."""
        noise = torch.empty_like(self.logits).exponential_(generator=generator)
        return (self.logits - noise.log_()).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    @torch.no_grad()
    def explore(self, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
        """A sample, or with probability `epsilon` any available action."""
        lottery = torch.rand(self.logits.shape, device=self.logits.device, generator=generator)
        explores = torch.rand(self.logits.shape[:-1], device=self.logits.device, generator=generator) < epsilon
        return torch.where(
            explores, greedy(lottery, self.logits > torch.finfo(self.logits.dtype).min), self.sample(generator)
        )

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.log_probs).sum(-1)

    def size(self) -> Tensor:
        """[*, N]: mean square of the logits of what is available, 0 where nothing is."""
        available = self.logits > torch.finfo(self.logits.dtype).min
        return torch.where(available, self.logits, 0.0).square().sum(-1) / available.sum(-1).clamp(min=1)

    def kl(self, other: Choice) -> Tensor:
        assert isinstance(other, CategoricalChoice)
        return (self.probs * (self.log_probs - other.log_probs)).sum(-1)


class TanhNormalChoice:
    """A point in a box per agent: low + (high - low) (tanh(u) + 1) / 2 with u normal, independent components.

    `log_prob` is the density in the box's units, change of variables included. It is a function of the action alone,
    so the same parameters give the same number at collection and when learning; tanh(u) is held `EDGE` away from
    +-1, where float32 no longer tells actions apart (|u| up to 7.25). `entropy` is that of the action itself,
    H(u) + E[log |da/du|], the expectation by Gauss-Hermite quadrature with `NODES` nodes (off by less than 0.001
    nats a component up to a deviation of 1, 0.03 at 2): no noise, differentiable, and it falls again when a deviation
    grows so large that actions pile up at the bounds.

    Arguments:
        mean, log_std: of u, [*, N, n]; log_std may be [n].
        low, high: [n], or [*, N, n].
        used: [*, N, n] bool, components that an agent has (None: all); the others are 0 in every action.
    """

    EDGE = 1e-6
    NODES = 8

    def __init__(self, mean: Tensor, log_std: Tensor, low: Tensor, high: Tensor, used: Tensor | None = None) -> None:
        self.mean = precise(mean)
        self.log_std = precise(log_std)
        self.low = low
        self.high = high
        self.used = used

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Float [*, N, n] within [low, high]."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self._action(torch.addcmul(self.mean, noise, self.log_std.exp()))

    @torch.no_grad()
    def mode(self) -> Tensor:
        """The action at the mean of u."""
        return self._action(self.mean)

    @torch.no_grad()
    def explore(self, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
        """A sample, or with probability `epsilon` any point of the box."""
        place = torch.rand(self.mean.shape, device=self.mean.device, generator=generator)
        explores = torch.rand(self.mean.shape[:-1], device=self.mean.device, generator=generator) < epsilon
        anywhere = self.low + (self.high - self.low) * place
        if self.used is not None:
            anywhere = torch.where(self.used, anywhere, 0.0)
        return torch.where(explores.unsqueeze(-1), anywhere, self.sample(generator))

    def rsample(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A sample [*, N, n] and its log density [*, N], both with gradient (the reparameterisation u = mean + std z),
        the density from u itself: what tanh rounds off is not lost."""
        z = torch.empty_like(self.mean).normal_(generator=generator)
        u = self.mean + z * self.log_std.exp()
        half = ((self.high - self.low) / 2).log()
        log_density = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - self.log_std - _log_slope(u) - half
        return self._action(u), self._total(log_density)

    def log_prob(self, action: Tensor) -> Tensor:
        half = (self.high - self.low) / 2
        squashed = ((action - self.low) / half - 1).clamp(self.EDGE - 1, 1 - self.EDGE)
        # atanh(y) = (log(1 + y) - log(1 - y)) / 2, and their sum is the log of tanh's slope.
        above, below = torch.log1p(squashed), torch.log1p(-squashed)
        z = ((above - below) / 2 - self.mean) * (-self.log_std).exp()
        log_density = -0.5 * z.square() - self.log_std - above - below - half.log() - 0.5 * math.log(2 * math.pi)
        return self._total(log_density)

    def entropy(self) -> Tensor:
        nodes, weights = _hermite(self.NODES, self.mean.dtype, self.mean.device)
        u = self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * nodes  # [*, N, n, NODES]
        normal = 0.5 * math.log(2 * math.pi * math.e) + self.log_std
        return self._total(normal + _log_slope(u) @ weights + ((self.high - self.low) / 2).log())

    def kl(self, other: Choice) -> Tensor:
        """That of the normals: the squashing, being the same bijection on both sides, leaves it as it is."""
        assert isinstance(other, TanhNormalChoice)
        ratio = (2 * (self.log_std - other.log_std)).exp()
        apart = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return self._total(0.5 * (ratio + apart - 1) - self.log_std + other.log_std)

    def _action(self, u: Tensor) -> Tensor:
        return in_box(u.tanh(), self.low, self.high, self.used)

    def _total(self, per_component: Tensor) -> Tensor:
        if self.used is not None:
            per_component = torch.where(self.used, per_component, 0.0)
        return per_component.sum(-1)


def in_box(squashed: Tensor, low: Tensor, high: Tensor, used: Tensor | None) -> Tensor:
    """Points within [-1, 1] as actions in the world's units, [*, N, n]; 0 in components that an agent lacks."""
    # Rounding could step over a bound, hence the clamp.
    action = (low + (high - low) / 2 * (squashed + 1)).clamp(low, high)
    return action if used is None else torch.where(used, action, 0.0)


class Categorical(nn.Module):
    """Numbered actions: one linear layer to logits.

    Arguments:
        dim: features of a node.
        n: number of actions (A).
        gain: of the orthogonal initialisation; 0.01 starts near uniform.

    Shapes: h [*, N, dim], available [*, N, A] bool -> a choice of long [*, N].
    """

    def __init__(self, dim: int, n: int, gain: float = 0.01) -> None:
        super().__init__()
        self.logits = linear(dim, n, gain)

    def forward(self, h: Tensor, available: Tensor | None = None, kind: Tensor | None = None) -> CategoricalChoice:
        return CategoricalChoice(self.logits(h), available)


class TanhNormal(nn.Module):
    """Actions in a box: a normal squashed by tanh, so that every sample lies within the bounds.

    mean = limit tanh(linear(h) / limit): kept where tanh still has a slope. log_std goes smoothly (a tanh again)
    between its bounds, so that no step of the optimiser can leave it without gradient.

    Arguments:
        dim: features of a node.
        n: action components.
        low, high: bounds in the world's units, a number or one per component.
        gain: of the orthogonal initialisation.
        std: deviation to begin with, before tanh; 1 is close to uniform in the box.
        std_range: smallest and largest deviation.
        state_std: whether the deviation is a function of h, or one learnt number per component.
        limit: bound of |mean|.

    Shapes: h [*, N, dim] -> a choice of float [*, N, n].
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        dim: int,
        n: int,
        low: float | Sequence[float] = -1.0,
        high: float | Sequence[float] = 1.0,
        gain: float = 0.01,
        std: float = 1.0,
        std_range: tuple[float, float] = (0.02, 2.0),
        state_std: bool = False,
        limit: float = 5.0,
    ) -> None:
        super().__init__()
        smallest, largest = std_range
        if not 0 < smallest < std < largest:
            raise ValueError(f"expected 0 < smallest < std < largest deviation (got {std_range} and std={std})")
        self.limit = limit
        self.mean = linear(dim, n, gain)
        self.centre = (math.log(smallest) + math.log(largest)) / 2
        self.reach = (math.log(largest) - math.log(smallest)) / 2
        start = math.atanh((math.log(std) - self.centre) / self.reach)
        self.raw_std = nn.Parameter(torch.full((n,), start))
        self.state_std = linear(dim, n, gain) if state_std else None
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32).expand(n).clone(), persistent=False)
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32).expand(n).clone(), persistent=False)

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [*, N, n] and log deviation ([*, N, n], or [n] where it does not depend on h) before tanh."""
        mean = self.limit * torch.tanh(precise(self.mean(h)) / self.limit)
        raw_std = self.raw_std if self.state_std is None else self.raw_std + precise(self.state_std(h))
        return mean, self.centre + self.reach * torch.tanh(raw_std)

    def forward(self, h: Tensor, available: Tensor | None = None, kind: Tensor | None = None) -> TanhNormalChoice:
        return TanhNormalChoice(*self.moments(h), self.low, self.high)


class QHead(nn.Module):
    """The value of every action: linear, or dueling V + A - mean A (https://arxiv.org/abs/1511.06581).

    Arguments:
        dim: features of a node.
        n: number of actions (A).
        dueling: whether a value and advantages are learnt apart.

    Shapes: h [*, N, dim] -> q [*, N, A], what is not available too: `greedy` and `epsilon_greedy` mask it.
    """

    def __init__(self, dim: int, n: int, dueling: bool = False) -> None:
        super().__init__()
        self.advantage = linear(dim, n, 1.0)
        self.value = linear(dim, 1, 1.0) if dueling else None

    def forward(self, h: Tensor, available: Tensor | None = None, kind: Tensor | None = None) -> Tensor:
        advantage: Tensor = self.advantage(h)
        if self.value is None:
            return advantage
        return self.value(h) + advantage - advantage.mean(-1, keepdim=True)

    def legal(self, available: Tensor | None = None, kind: Tensor | None = None) -> Tensor | None:
        """What may be chosen [*, N, A]: all that is available."""
        return available


def greedy(q: Tensor, available: Tensor | None = None) -> Tensor:
    """The best available action [*, N] of q [*, N, A]; 0 where nothing is available."""
    return (q if available is None else _masked(q, available)).argmax(-1)


def epsilon_greedy(
    q: Tensor, epsilon: Tensor | float, available: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """The greedy action [*, N], or with probability epsilon ([] or [*, N]) any available one, drawn per agent."""
    lottery = torch.rand(q.shape, device=q.device, generator=generator)
    explores = torch.rand(q.shape[:-1], device=q.device, generator=generator) < epsilon
    return torch.where(explores, greedy(lottery, available), greedy(q, available))


def _masked(scores: Tensor, available: Tensor) -> Tensor:
    return torch.where(available, scores, torch.finfo(scores.dtype).min)


def _log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), stable for every u."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


def linear(dim: int, n: int, gain: float) -> nn.Linear:
    layer = nn.Linear(dim, n)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def precise(x: Tensor) -> Tensor:
    """At least float32: log-probabilities of bfloat16 would make ratios of noise."""
    return x.float() if x.dtype.itemsize < 4 else x


@functools.cache
def _hermite(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights [n] with E f(z) = sum_k weights_k f(nodes_k) for z ~ N(0, 1): eigenpairs of Jacobi's matrix."""
    # What is cached must serve backward passes too, also when an evaluation comes first.
    with torch.inference_mode(False):
        off_diagonal = torch.arange(1, n, dtype=torch.float64).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
        return nodes.to(device, dtype), vectors[0].square().to(device, dtype)
