"""Running statistics: of observations per feature, of values per team size. Frozen in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Variance, in squared units of a feature's size, below which it is rounding.
_CONSTANT = 1e-12


class RunningNorm(nn.Module):
    """Brings every feature to mean 0 and deviation 1 by the statistics of all that was seen so far.

    One that has been the same throughout is only shifted.

    Batches are merged exactly (Chan, Golub, LeVeque 1979). `update` counts only what the mask admits and does nothing
    in eval mode; calling the module normalises and never updates.

    Arguments:
        shape: shape of one agent's features, `(O,)` or `(C, H, W)`, or O alone.
        clip: results are held within +-clip deviations.
        eps: added to the variance.

    Shapes: x [*, N, *shape], mask [*, N] bool -> the same as x.
    """

    mean: Tensor
    m2: Tensor
    count: Tensor

    def __init__(self, shape: int | tuple[int, ...], clip: float = 10.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.clip = clip
        self.eps = eps
        # In double precision: sums over 1e9 agent-steps are kept exact enough to go on learning from.
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor) -> None:
        """Merges the rows of x that mask admits; does nothing in eval mode."""
        if not self.training:
            return
        rows = x.reshape(-1, *self.shape)  # [R, *shape]
        admitted = mask.reshape(-1, *(1,) * len(self.shape))
        count = admitted.sum().double()
        mean = torch.where(admitted, rows, 0.0).sum(0, dtype=torch.float64) / count.clamp(min=1)
        m2 = torch.where(admitted, rows - mean.to(rows.dtype), 0.0).square().sum(0, dtype=torch.float64)
        total = (self.count + count).clamp(min=1)
        apart = mean - self.mean
        self.m2.add_(m2 + apart.square() * (self.count * count / total))
        self.mean.add_(apart * (count / total))
        self.count.add_(count)

    def forward(self, x: Tensor) -> Tensor:
        """x normalised and clipped; x itself (clipped) while fewer than two rows were seen."""
        enough = self.count > 1
        variance = self.m2 / self.count.clamp(min=1)
        # Nothing is known of how far a feature varies that never did: its first other value is not blown up.
        variance = torch.where(enough & (variance > _CONSTANT * (1 + self.mean.square())), variance, 1.0)
        scale = (variance + self.eps).rsqrt().to(x.dtype)
        mean = torch.where(enough, self.mean, 0.0).to(x.dtype)
        return ((x - mean) * scale).clamp(-self.clip, self.clip)


class ValueNorm(nn.Module):
    """Brings returns to mean 0 and deviation 1, by statistics kept for each team size apart.

    As in MAPPO (https://arxiv.org/abs/2103.01955): debiased exponential means of the return and of its square, the
    critic's last layer left as it is. We depart in that statistics belong to a team size, and in `beta`: MAPPO updates
    once per minibatch with 0.99999, we once per rollout. A size that was never updated reads the nearest size's
    statistics (the smaller of two as near), and none at all means mean 0, deviation 1.

    Arguments:
        beta: what remains of the old statistics after one update.
        min_variance: smallest variance that is divided by, in squared units of return.

    Shapes: returns, value [*], mask [*] bool; n_agents a Python int.
    """

    sizes: Tensor
    mean: Tensor
    mean_square: Tensor
    weight: Tensor

    def __init__(self, beta: float = 0.99, min_variance: float = 1e-4) -> None:
        super().__init__()
        self.beta = beta
        self.min_variance = min_variance
        self._rows: dict[int, int] = {}
        self.register_buffer("sizes", torch.zeros(0, dtype=torch.long))
        for name in ("mean", "mean_square", "weight"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    @torch.no_grad()
    def update(self, returns: Tensor, mask: Tensor, n_agents: int) -> None:
        """Takes in the returns that mask admits; does nothing in eval mode or where the mask is empty."""
        if not self.training:
            return
        row = self._add(n_agents)
        count = mask.sum()
        returns = torch.where(mask, returns, 0.0).double()
        share = (count > 0).double() * (1.0 - self.beta)
        for statistic, batch in ((self.mean, returns), (self.mean_square, returns.square())):
            statistic[row].lerp_(batch.sum() / count.clamp(min=1), share)
        self.weight[row].lerp_(torch.ones_like(share), share)

    def normalise(self, value: Tensor, n_agents: int) -> Tensor:
        """Returns in the world's units -> normalised."""
        mean, deviation = self.statistics(n_agents)
        return (value - mean.to(value.dtype)) / deviation.to(value.dtype)

    def denormalise(self, value: Tensor, n_agents: int) -> Tensor:
        """The inverse of `normalise`."""
        mean, deviation = self.statistics(n_agents)
        return value * deviation.to(value.dtype) + mean.to(value.dtype)

    def statistics(self, n_agents: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both [] double, that belong to a team size."""
        if not self._rows:
            return self.mean.new_zeros(()), self.mean.new_ones(())
        row = self._rows[min(self._rows, key=lambda size: (abs(size - n_agents), size))]
        seen = self.weight[row] > 0
        weight = torch.where(seen, self.weight[row], 1.0)
        mean = self.mean[row] / weight
        variance = (self.mean_square[row] / weight - mean.square()).clamp(min=self.min_variance)
        return mean, torch.where(seen, variance, 1.0).sqrt()

    def _add(self, n_agents: int) -> int:
        """The row of a team size, which is made where there is none."""
        if n_agents not in self._rows:
            self._rows[n_agents] = len(self._rows)
            self.sizes = torch.cat([self.sizes, self.sizes.new_tensor([n_agents])])
            for name in ("mean", "mean_square", "weight"):
                statistic = getattr(self, name)
                setattr(self, name, torch.cat([statistic, statistic.new_zeros(1)]))
        return self._rows[n_agents]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Takes the sizes that the state knows in place of one's own."""
        if (sizes := state_dict.get(f"{prefix}sizes")) is not None:
            self._rows = {int(size): row for row, size in enumerate(sizes.tolist())}
            for name in ("sizes", "mean", "mean_square", "weight"):
                setattr(self, name, getattr(self, name).new_zeros(len(self._rows)))
        super()._load_from_state_dict(state_dict, prefix, *args)
