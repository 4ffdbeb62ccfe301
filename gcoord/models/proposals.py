"""Actions as critics read them: numbers and points of every kind in one row, and what a policy proposes to do.

A critic is asked about K proposals of every agent at once, so that one learner serves all kinds of choice: what a
policy expects of a function f of its action is `sum_k weight_k f(code_k)`, with gradient through weights (closed form)
or through codes (a point, a reparameterised sample, a Gumbel-softmax).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.heads import CategoricalChoice, Choice, TanhNormalChoice
from gcoord.models.kinds import MixedChoice
from gcoord.models.points import PointChoice
from gcoord.spec import Continuous, TeamSpec
from gcoord.trajectory import Observation


@dataclass(frozen=True)
class Proposals:
    """K proposals of every agent: code [K, *, N, C], weight [K, *, N] (they sum to one) and log_prob [K, *, N], 0 for
    what is never done."""

    code: Tensor
    weight: Tensor
    log_prob: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """What is expected of x [K, *, N] -> [*, N]."""
        return (self.weight * x).sum(0)

    def entropy(self) -> Tensor:
        """[*, N] in nats: exact where proposals are all actions, else of one sample."""
        return -self.mean(self.log_prob)

    @torch.no_grad()
    def drawn(self) -> Tensor:
        """One proposal of every agent, by weight: code [*, N, C], without gradient."""
        if len(self.weight) == 1:
            return self.code[0].detach()
        lot = torch.empty_like(self.weight).exponential_()
        which = (self.weight / lot).argmax(0)[None, ..., None]
        return self.code.gather(0, which.expand(1, *self.code.shape[1:]))[0]


Relaxation = Callable[[CategoricalChoice], Proposals]


class Every:
    """Every number is proposed with its own probability: expectations in closed form, the gradient through it."""

    def __call__(self, choice: CategoricalChoice) -> Proposals:
        weight = choice.probs.movedim(-1, 0)  # [A, *, N]
        one_hot = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        code = one_hot.view(len(weight), *(1,) * (weight.dim() - 1), -1).expand(*weight.shape, -1)
        # 0 log 0 is 0; as a product with the lowest number it would overflow.
        log_prob = torch.where(weight > 0, choice.log_probs.movedim(-1, 0), 0.0)
        return Proposals(code, weight, log_prob)


class Gumbel:
    """One number, drawn; the gradient is that of the Gumbel-softmax (https://arxiv.org/abs/1611.01144).

    Straight-through, so that a critic only ever reads whole actions.

    Arguments:
        temperature: of the softmax; towards 0 the gradient is less biased and has more variance.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"expected a temperature above 0 (got {temperature})")
        self.temperature = temperature

    def __call__(self, choice: CategoricalChoice) -> Proposals:
        noise = torch.empty_like(choice.logits).exponential_().log()
        # What is not available lies at the lowest number, which a temperature below 1 would push over the edge.
        scores = choice.log_probs.clamp(min=-1e8) - noise
        soft = (scores / self.temperature).softmax(-1)
        hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft.dtype)
        code = (hard + (soft - soft.detach())).unsqueeze(0)
        return Proposals(code, torch.ones_like(code[..., 0]), torch.zeros_like(code[..., 0]))


class ActionCode(nn.Module):
    """An agent's action as one row of features: a segment for every kind, the others' are zeros.

    A number is a one-hot row, a point in a box is scaled to [-1, 1]; the rows of the dead are zeros.

    Arguments:
        spec: of the teams.
        relaxation: how a choice among numbers is proposed: `Every` or `Gumbel`.

    Shapes: action [*, N] long or [*, N, A] -> [*, N, dim], dim being the sum of all kinds' actions.
    """

    low: Tensor
    reach: Tensor
    is_discrete: Tensor
    boxes: Tensor

    def __init__(self, spec: TeamSpec, relaxation: Relaxation | None = None) -> None:
        super().__init__()
        self.relaxation = Every() if relaxation is None else relaxation
        self.sizes = [action.n for action in spec.actions]
        self.dim, self.width, self.discrete = sum(self.sizes), spec.n_actions, spec.discrete
        bounds = [
            (action.low, action.high) if isinstance(action, Continuous) else ((-1.0,) * n, (1.0,) * n)
            for action, n in zip(spec.actions, self.sizes, strict=True)
        ]
        low = torch.stack([F.pad(torch.tensor(low), (0, self.width - len(low)), value=-1.0) for low, _ in bounds])
        high = torch.stack([F.pad(torch.tensor(high), (0, self.width - len(high)), value=1.0) for _, high in bounds])
        is_discrete = torch.tensor([not isinstance(action, Continuous) for action in spec.actions])
        segment = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        own = segment == torch.arange(len(self.sizes)).unsqueeze(-1)  # [kinds, C]
        constants = {
            "low": low,
            "reach": (high - low) / 2,
            "is_discrete": is_discrete,
            "boxes": own & ~is_discrete.unsqueeze(-1),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant, persistent=False)

    def forward(self, action: Tensor, seen: Observation) -> Tensor:
        """The code of actions that were taken."""
        kind = _kind(seen)
        if self.discrete:
            return self._laid_out(self._one_hot(torch.where(seen.alive, action, 0)), seen)
        action = torch.where(seen.alive.unsqueeze(-1), action, 0.0)
        point = (action - self.low[kind]) / self.reach[kind] - 1
        is_discrete = self.is_discrete[kind]
        number = self._one_hot(torch.where(is_discrete, action[..., 0], 0.0).long())
        return self._laid_out(torch.where(is_discrete.unsqueeze(-1), number, point), seen)

    def propose(self, choice: Choice, seen: Observation) -> Proposals:
        """What a policy proposes for [*, N]."""
        if isinstance(choice, MixedChoice):
            numbers, points = self._numbers(choice.numbers), self._points(choice.points)
            first = torch.arange(len(numbers.weight), device=numbers.weight.device) == 0
            alone = first.view(-1, *(1,) * (numbers.weight.dim() - 1)).to(numbers.weight.dtype)
            which = choice.is_discrete
            proposals = Proposals(
                torch.where(which.unsqueeze(-1), numbers.code, points.code),
                torch.where(which, numbers.weight, alone),
                torch.where(which, numbers.log_prob, points.log_prob),
            )
        elif isinstance(choice, CategoricalChoice):
            proposals = self._numbers(choice)
        else:
            proposals = self._points(cast(TanhNormalChoice | PointChoice, choice))
        return Proposals(self._laid_out(proposals.code, seen), proposals.weight, proposals.log_prob)

    def drawn(self, choice: Choice, seen: Observation, count: int) -> Proposals:
        """`count` actions that a policy draws, of equal weight, without gradient."""
        code = torch.stack([self(choice.sample(), seen) for _ in range(count)])
        weight = torch.full_like(code[..., 0], 1 / count)
        return Proposals(code, weight, torch.zeros_like(weight))

    def smoothed(self, code: Tensor, seen: Observation, deviation: float, limit: float) -> Tensor:
        """Codes [K, *, N, C] with normal noise on points, cut to `limit`, held within the box: TD3's target policy
        smoothing (https://arxiv.org/abs/1802.09477, eq. 14). All in halves of the box; numbers stay as they are."""
        noise = (torch.randn_like(code) * deviation).clamp(-limit, limit)
        moves = self.boxes[_kind(seen)] & seen.alive.unsqueeze(-1)
        return torch.where(moves, (code + noise).clamp(-1, 1), code)

    def _one_hot(self, number: Tensor) -> Tensor:
        return F.one_hot(number, self.width).to(self.low.dtype)

    def _numbers(self, choice: CategoricalChoice) -> Proposals:
        numbers = self.relaxation(choice)
        padding = self.width - numbers.code.shape[-1]
        return Proposals(F.pad(numbers.code, (0, padding)), numbers.weight, numbers.log_prob)

    def _points(self, choice: TanhNormalChoice | PointChoice) -> Proposals:
        action, log_prob = choice.rsample()
        code = 2 * (action - choice.low) / (choice.high - choice.low) - 1
        return Proposals(code.unsqueeze(0), torch.ones_like(log_prob).unsqueeze(0), log_prob.unsqueeze(0))

    def _laid_out(self, wide: Tensor, seen: Observation) -> Tensor:
        """wide [*, N, A] in the segment of every agent's kind."""
        kind = _kind(seen)
        parts = []
        for number, size in enumerate(self.sizes):
            mine = (seen.alive & (kind == number)).unsqueeze(-1)
            parts.append(torch.where(mine, wide[..., :size], 0.0))
        return torch.cat(parts, -1)


def _kind(seen: Observation) -> Tensor:
    """The dead may carry any number."""
    return torch.where(seen.alive, seen.kind, 0)
