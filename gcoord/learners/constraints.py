"""Learnt coefficients: a multiplier that rises while what it guards against lasts, and falls when it is over."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from gcoord.models.heads import Choice
from gcoord.spec import Continuous, TeamSpec
from gcoord.trajectory import Observation, Trajectory


class Dual(nn.Module):
    """Multipliers exp(l) of constraints `violation <= 0`, learnt by ascent: SAC's temperature, BEAR's multiplier.

        loss = -sum l sg(violation)

    The gradient goes to l, so a multiplier rises exactly while its violation is above 0. Whatever learner holds one
    trains it in a group of its own: not clipped, without decay, and held within its bounds after each step.

    Arguments:
        start: of every multiplier.
        n: how many.
        low, high: bounds of l.

    Shapes: violation [n] -> loss []. Raises ValueError for a start outside the bounds.
    """

    def __init__(self, start: float = 1.0, n: int = 1, low: float = -10.0, high: float = 10.0) -> None:
        super().__init__()
        if start <= 0 or not low <= math.log(start) <= high:
            raise ValueError(f"expected a start within exp({low}) and exp({high}) (got {start})")
        self.low, self.high = low, high
        self.log = nn.Parameter(torch.full((n,), math.log(start)))

    @property
    def value(self) -> Tensor:
        """[n], without gradient."""
        return self.log.detach().exp()

    def loss(self, violation: Tensor) -> Tensor:
        return -(self.log * violation.detach()).sum()

    @torch.no_grad()
    def hold(self) -> None:
        """Back within the bounds."""
        self.log.clamp_(self.low, self.high)


class Temperature(nn.Module):
    """What a nat of entropy is worth: SAC's alpha, one for every kind (https://arxiv.org/abs/1812.05905, section 5).

    It is learnt so that a kind's mean entropy meets its target: of numbered actions `share` of the largest entropy,
    log of how many are available (https://arxiv.org/abs/1910.07207, where the share is 0.98), of a box
    `per_component` nats a component, as if the box went from -1 to 1 (SAC's is -1).

    Arguments:
        spec: of the teams.
        start: temperature to begin with.
        share: of log(available actions), from 0 to 1.
        per_component: nats.
    """

    is_discrete: Tensor
    box: Tensor
    numbers: Tensor

    def __init__(self, spec: TeamSpec, start: float = 0.1, share: float = 0.3, per_component: float = -1.0) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"expected share from 0 to 1 (got {share})")
        self.share = share
        self.dual = Dual(start, len(spec.actions))
        is_box = [isinstance(action, Continuous) for action in spec.actions]
        targets, numbers = [], []
        for action in spec.actions:
            numbers.append(action.n)
            bounds = zip(action.low, action.high, strict=True) if isinstance(action, Continuous) else ()
            targets.append(sum(per_component + math.log((high - low) / 2) for low, high in bounds))
        constants = {
            "is_discrete": ~torch.tensor(is_box),
            "box": torch.tensor(targets, dtype=torch.float32),
            "numbers": torch.tensor(numbers, dtype=torch.float32),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant, persistent=False)

    def forward(self, seen: Observation) -> Tensor:
        """[*, N]: every agent's temperature, without gradient."""
        return self.dual.value[_kind(seen)]

    def target(self, seen: Observation) -> Tensor:
        """[*, N]: the entropy in nats that every agent's should be."""
        kind = _kind(seen)
        numbers = self.numbers[kind]
        if seen.available is not None:
            numbers = seen.available.sum(-1).clamp(min=1).to(numbers.dtype)
        return torch.where(self.is_discrete[kind], self.share * numbers.log(), self.box[kind])

    def loss(self, entropy: Tensor, seen: Observation, mask: Tensor) -> Tensor:
        """Of entropy [*, N], over mask [*, N]."""
        missing = torch.where(mask, self.target(seen) - entropy.detach(), 0.0)
        of_kind = _kind(seen).unsqueeze(-1) == torch.arange(len(self.box), device=missing.device)
        of_kind = of_kind & mask.unsqueeze(-1)
        over = tuple(range(mask.dim()))
        mean = (missing.unsqueeze(-1) * of_kind).sum(over) / of_kind.sum(over).clamp(min=1)
        return self.dual.loss(mean)


class Penalty(Protocol):
    """What else an actor-critic's policy and values pay for, such as the distance from who made the data.

    An nn.Module, called with `spec` and `body` when made; its weights are its own (a `Dual` within it is one).
    `policy` is added to every agent's loss, given the batch and the policy's choice in its rows [T, B]; `value` is
    taken off what every next row is worth, given the choice in rows 1..T + 1 [T, B], without gradient. Both give
    [T, B, N] and are averaged over living agents. `losses` are its own, by name.
    """

    def policy(self, batch: Trajectory, choice: Choice) -> Tensor: ...

    def value(self, batch: Trajectory, choice: Choice) -> Tensor: ...

    def losses(self, batch: Trajectory) -> dict[str, Tensor]: ...


def _kind(seen: Observation) -> Tensor:
    """The dead may carry any number."""
    return torch.where(seen.alive, seen.kind, 0)
