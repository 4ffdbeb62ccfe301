"""How far a policy is from who made the data: divergences of choices, each [*, N], with gradient to the first."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gcoord.models.heads import CategoricalChoice, Choice, TanhNormalChoice
from gcoord.models.kinds import MixedChoice
from gcoord.models.latent import LatentChoice
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation

# Added under square roots, so that their slope at 0 is finite.
TINY = 1e-6


class Divergence(nn.Module):
    """What a penalty measures: `divergence(policy, behaviour, h, seen)` -> [*, N].

    Arguments:
        spec: of the teams.
        dim: features of a node of who judges.

    Shapes: two choices over [*, N]; h [*, N, dim], features of the behaviour, without gradient; seen [*]. Only
    divergences that are learnt read the last two; they have `losses` of their own.
    """

    def __init__(self, spec: TeamSpec, dim: int) -> None:
        super().__init__()

    def losses(
        self, policy: Choice, behaviour: Choice, h: Tensor, seen: Observation, mask: Tensor
    ) -> dict[str, Tensor]:
        """What trains the divergence itself, by name, over mask [*, N]; without gradient to either choice."""
        return {}

    def figures(self, behaviour: Choice, mask: Tensor) -> dict[str, Tensor]:
        """What is worth to be logged, by name."""
        return {}


class KL(Divergence):
    """KL(pi || beta), in closed form for numbers and for normals in a box (before tanh, which changes nothing).

    Raises ValueError where it has no closed form.
    """

    def forward(self, policy: Choice, behaviour: Choice, h: Tensor, seen: Observation) -> Tensor:
        if type(policy) is not type(behaviour):
            raise ValueError(
                f"expected policy and behaviour to have heads of one kind for KL in closed form (got "
                f"{type(policy).__name__} and {type(behaviour).__name__}); divergence=mmd needs samples alone"
            )
        return policy.kl(behaviour)


class OfParts(Divergence):
    """A divergence that measures numbers and points in a box each in their own way."""

    def forward(self, policy: Choice, behaviour: Choice, h: Tensor, seen: Observation) -> Tensor:
        if isinstance(policy, CategoricalChoice):
            return self._of_numbers(policy, behaviour)
        if isinstance(policy, MixedChoice):
            numbers = self._of_numbers(policy.numbers, behaviour)
            return torch.where(policy.is_discrete, numbers, self._of_points(policy, behaviour))
        return self._of_points(policy, behaviour)

    def _of_numbers(self, policy: CategoricalChoice, behaviour: Choice) -> Tensor:
        raise NotImplementedError

    def _of_points(self, policy: Choice, behaviour: Choice) -> Tensor:
        raise NotImplementedError


class MMD(OfParts):
    """Maximum mean discrepancy, as BEAR's (https://arxiv.org/abs/1906.00949, eq. 6 and appendix D).

        MMD^2 = E k(x, x') - 2 E k(x, y) + E k(y, y'),   x, x' ~ pi, y, y' ~ beta

    Points in a box are compared before tanh, by the means over all pairs of `samples` draws (a sample's pair with
    itself counted, as in the authors' code): the estimate is above 0 also where pi = beta, see `null_level`. Numbers
    are compared exactly with the kernel k(a, b) = [a = b]: MMD = ||pi - beta||_2. The root is sqrt(max(MMD^2, 0) +
    1e-6) - 1e-3: 0 where both sides are the same, and with a finite slope there.

    Arguments:
        spec, dim: as in `Divergence`.
        kernel: `laplacian`, exp(-|x - y|_1 / (2 sigma)), or `gaussian`, exp(-|x - y|_2^2 / (2 sigma)).
        sigma: None: the authors' 10 for the Laplacian and 20 for the Gaussian kernel.
        samples: of each side; of the latent too, where numbers hinge on one.

    Logged: null_level, the estimate between two sets of samples of the behaviour itself, where points are compared.
    Raises ValueError for a policy without a distribution (a point).
    """

    def __init__(
        self,
        spec: TeamSpec,
        dim: int,
        kernel: Literal["laplacian", "gaussian"] = "laplacian",
        sigma: float | None = None,
        samples: int = 5,
    ) -> None:
        super().__init__(spec, dim)
        if kernel not in ("laplacian", "gaussian"):
            raise ValueError(f"expected kernel to be laplacian or gaussian (got {kernel!r})")
        self.sigma = {"laplacian": 10.0, "gaussian": 20.0}[kernel] if sigma is None else sigma
        if self.sigma <= 0 or samples < 1:
            raise ValueError(f"expected sigma above 0 and at least one sample (got {self.sigma} and {samples})")
        self.kernel, self.samples, self.numbers_only = kernel, samples, spec.discrete

    @torch.no_grad()
    def figures(self, behaviour: Choice, mask: Tensor) -> dict[str, Tensor]:
        if self.numbers_only:
            return {}
        level = self._of_points(behaviour, behaviour)
        return {"null_level": torch.where(mask, level, 0.0).sum() / mask.sum().clamp(min=1)}

    def _of_numbers(self, policy: CategoricalChoice, behaviour: Choice) -> Tensor:
        return _root((policy.probs - probabilities(behaviour, self.samples)).square().sum(-1))

    def _of_points(self, policy: Choice, behaviour: Choice) -> Tensor:
        return _root(self.squared(raw_samples(policy, self.samples), raw_samples(behaviour, self.samples)))

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """MMD^2 of samples x and y [S, *, n] -> [*]."""
        return self._mean_kernel(x, x) - 2 * self._mean_kernel(x, y) + self._mean_kernel(y, y)

    def _mean_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        apart = x.unsqueeze(1) - y.unsqueeze(0)  # [S, S, *, n]
        size = apart.abs().sum(-1) if self.kernel == "laplacian" else apart.square().sum(-1)
        return (-size / (2 * self.sigma)).exp().mean((0, 1))

    @torch.no_grad()
    def null_level(self, n: int, deviation: float = 1.0, trials: int = 10_000) -> float:
        """What the estimate is on average where both sides are the same normal in n dimensions."""
        generator = torch.Generator().manual_seed(0)
        x, y = (
            deviation * torch.randn(self.samples, trials, n, dtype=torch.float64, generator=generator) for _ in range(2)
        )
        return float(_root(self.squared(x, y)).mean())


class Wasserstein(OfParts):
    """Wasserstein distance in closed form, where BRAC (https://arxiv.org/abs/1911.11361, section 4.2) has its dual.

    Numbers are all one apart: W = (1/2) sum_a |pi(a) - beta(a)|. In a box it is W_2 of the normals before tanh,
    W_2^2 = |mean - mean'|^2 + |std - std'|^2 (components are independent). No critic of actions is trained, and none
    can lag behind; `gcoord.learners.contrast.Contrast` is the dual.

    Arguments:
        spec, dim: as in `Divergence`.
        samples: of the latent, where the behaviour's numbers hinge on one.

    Raises ValueError for a distribution in a box that is no normal before tanh.
    """

    def __init__(self, spec: TeamSpec, dim: int, samples: int = 5) -> None:
        super().__init__(spec, dim)
        self.samples = samples

    def _of_numbers(self, policy: CategoricalChoice, behaviour: Choice) -> Tensor:
        return 0.5 * (policy.probs - probabilities(behaviour, self.samples)).abs().sum(-1)

    def _of_points(self, policy: Choice, behaviour: Choice) -> Tensor:
        one, other = _normal(policy), _normal(behaviour)
        apart = (one.mean - other.mean).square() + (one.log_std.exp() - other.log_std.exp()).square()
        return _root(_used(apart, one).sum(-1))


def probabilities(choice: Choice, samples: int = 1) -> Tensor:
    """Of every number [*, N, A]; where they hinge on a latent, the mean over `samples` draws of it."""
    if isinstance(choice, LatentChoice):
        return torch.stack([probabilities(choice.given(choice.drawn())) for _ in range(samples)]).mean(0)
    if isinstance(choice, MixedChoice):
        return choice.numbers.probs
    if not isinstance(choice, CategoricalChoice):
        raise ValueError(f"expected a distribution over numbers (got {type(choice).__name__})")
    return choice.probs


def raw_samples(choice: Choice, samples: int) -> Tensor:
    """`samples` draws [S, *, N, n] of points before tanh, with gradient; 0 in components that an agent lacks."""
    if isinstance(choice, LatentChoice):
        return torch.cat([raw_samples(choice.given(choice.drawn()), 1) for _ in range(samples)])
    normal = _normal(choice)
    noise = torch.randn(samples, *normal.mean.shape, dtype=normal.mean.dtype, device=normal.mean.device)
    return _used(normal.mean + normal.log_std.exp() * noise, normal)


def _normal(choice: Choice) -> TanhNormalChoice:
    choice = choice.points if isinstance(choice, MixedChoice) else choice
    if not isinstance(choice, TanhNormalChoice):
        raise ValueError(f"expected a normal squashed by tanh (got {type(choice).__name__})")
    return choice


def _used(x: Tensor, choice: TanhNormalChoice) -> Tensor:
    return x if choice.used is None else torch.where(choice.used, x, 0.0)


def _root(squared: Tensor) -> Tensor:
    return (squared.clamp(min=0) + TINY).sqrt() - math.sqrt(TINY)
