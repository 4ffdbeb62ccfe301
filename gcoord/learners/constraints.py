"""Learnt coefficients: a multiplier that rises while what it guards against lasts, and falls when it is over."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.agent import Agent
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
        self.n, self.low, self.high = n, low, high
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
        return self.dual.value[kind_of(seen)]

    def target(self, seen: Observation) -> Tensor:
        """[*, N]: the entropy in nats that every agent's should be."""
        kind = kind_of(seen)
        numbers = self.numbers[kind]
        if seen.available is not None:
            numbers = seen.available.sum(-1).clamp(min=1).to(numbers.dtype)
        return torch.where(self.is_discrete[kind], self.share * numbers.log(), self.box[kind])

    def loss(self, entropy: Tensor, seen: Observation, mask: Tensor) -> Tensor:
        """Of entropy [*, N], over mask [*, N]."""
        return self.dual.loss(mean_by_kind(self.target(seen) - entropy.detach(), seen, mask, len(self.box)))


@dataclass
class Toll:
    """What a policy pays in every row, [T, B, N], and by name the losses and figures that come with it."""

    paid: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Tensor] = field(default_factory=dict)


class Penalty(Protocol):
    """What else an actor-critic's policy and values pay for, such as the distance from who made the data.

    An nn.Module, called with `spec` and `body` when made; its weights are its own (a `Dual` within it is one).
    `followers` are agents within it that begin where the policy does when a run begins from another's; with
    `needs_init` a run must. `fits` raises ValueError, in one line and before anything is learnt, for an agent whose
    choices it cannot judge. `read` is called once for a batch, with who hears whom in rows 0..T and how many updates
    were made, and what it returns is handed to the others: `losses`, its own by name; `policy`, what is added to every
    agent's loss for the policy's choice in rows 0..T - 1; `value`, what is taken off the worth of every next row for
    the choice in rows 1..T, [T, B, N], without gradient. All is averaged over living agents.
    """

    needs_init: bool

    def followers(self) -> list[Agent]: ...

    def fits(self, agent: Agent) -> None: ...

    def read(self, batch: Trajectory, graph: AgentGraph, updates: int) -> Any: ...

    def losses(self, batch: Trajectory, read: Any) -> dict[str, Tensor]: ...

    def policy(self, batch: Trajectory, read: Any, choice: Choice) -> Toll: ...

    def value(self, batch: Trajectory, read: Any, choice: Choice) -> Tensor: ...


def mean_by_kind(x: Tensor, seen: Observation, mask: Tensor, n_kinds: int) -> Tensor:
    """The mean of x [*, N] over mask [*, N] for every kind, [n_kinds]; 0 for one that is not there."""
    of_kind = kind_of(seen).unsqueeze(-1) == torch.arange(n_kinds, device=x.device)
    of_kind = of_kind & mask.unsqueeze(-1)
    over = tuple(range(mask.dim()))
    return (torch.where(mask, x, 0.0).unsqueeze(-1) * of_kind).sum(over) / of_kind.sum(over).clamp(min=1)


def kind_of(seen: Observation) -> Tensor:
    """Every agent's kind [*, N]; the dead may carry any number."""
    return torch.where(seen.alive, seen.kind, 0)
