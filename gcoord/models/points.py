"""Deterministic actions in a box: one point, without chance, that a critic's gradient can move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcoord.models.heads import Choice, in_box, linear, precise


class PointChoice:
    """One point in a box per agent: low + (high - low) (squashed + 1) / 2.

    It is chosen for certain: its probability is 1 (a log-probability of 0, the entropy too), that of every other point
    0. `explore` adds normal noise.

    Arguments:
        squashed: [*, N, n] within [-1, 1].
        low, high: [n], or [*, N, n].
        used: [*, N, n] bool, components that an agent has (None: all); the others are 0 in every action.
    """

    def __init__(self, squashed: Tensor, low: Tensor, high: Tensor, used: Tensor | None = None) -> None:
        self.squashed = precise(squashed)
        self.low, self.high, self.used = low, high, used

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._action(self.squashed)

    @torch.no_grad()
    def mode(self) -> Tensor:
        return self._action(self.squashed)

    @torch.no_grad()
    def explore(self, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
        """The point and normal noise of deviation `epsilon`, in halves of the box, held within the box."""
        noise = torch.empty_like(self.squashed).normal_(generator=generator)
        return self._action((self.squashed + epsilon * noise).clamp(-1, 1))

    def rsample(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The point, with gradient, and its log-probability [*, N], which is 0."""
        return self._action(self.squashed), self.entropy()

    def log_prob(self, action: Tensor) -> Tensor:
        return self.entropy().masked_fill((action != self.mode()).any(-1), -torch.inf)

    def entropy(self) -> Tensor:
        return self.squashed.new_zeros(self.squashed.shape[:-1])

    def kl(self, other: Choice) -> Tensor:
        """0 where the points are the same, else infinite."""
        return -other.log_prob(self.mode()) if isinstance(other, PointChoice) else self.entropy() + torch.inf

    def _action(self, squashed: Tensor) -> Tensor:
        return in_box(squashed, self.low, self.high, self.used)


class TanhPoint(nn.Module):
    """One point in a box: tanh of one linear layer (DDPG's actor, https://arxiv.org/abs/1509.02971).

    Arguments:
        dim: features of a node.
        n: action components.
        low, high: bounds in the world's units, a number or one per component.
        gain: of the orthogonal initialisation; 0.01 starts near the middle of the box.

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
    ) -> None:
        super().__init__()
        self.mean = linear(dim, n, gain)
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32).expand(n).clone(), persistent=False)
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32).expand(n).clone(), persistent=False)

    def squashed(self, h: Tensor) -> Tensor:
        """The point [*, N, n] within [-1, 1]."""
        return torch.tanh(precise(self.mean(h)))

    def forward(self, h: Tensor, available: Tensor | None = None, kind: Tensor | None = None) -> PointChoice:
        return PointChoice(self.squashed(h), self.low, self.high)
