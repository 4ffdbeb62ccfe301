"""Divergences that are learnt: a network tells actions of the policy from those of who made the data."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gcoord.learners.base import frozen
from gcoord.learners.divergences import TINY, Divergence
from gcoord.models.action_critics import Local
from gcoord.models.heads import CategoricalChoice, Choice
from gcoord.models.latent import LatentChoice
from gcoord.models.proposals import ActionCode, Proposals
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, masked_mean


class Contrast(Divergence):
    """The dual of a divergence (BRAC, https://arxiv.org/abs/1911.11361, section 4.2): the largest contrast of g.

        kl:           KL(pi || beta) = sup_g E_pi[log s(g)] + 1 - E_beta[s(g)],   s = softplus, at best pi / beta
        wasserstein:  W_1(pi, beta) = sup_g E_pi[g] - E_beta[g],   |slope of g| <= 1

    Samples alone are needed, so heads without a closed form will do on either side. g is one network (h, action) -> R
    on the behaviour's features; its own loss is minus the contrast, for `wasserstein` and `slope` (max(|dg/da| - 1,
    0))^2 at points between both sides (https://arxiv.org/abs/1704.00028, one-sided). Expectations over numbers are
    exact. Actions are as a critic reads them: points in halves of the box, after tanh; two numbers are sqrt(2) apart.

    Arguments:
        spec, dim: as in `Divergence`.
        form: `kl` or `wasserstein`.
        samples: of each side, where it is sampled.
        hidden: width of the two hidden layers.
        slope: weight of slopes above 1.
    """

    def __init__(
        self,
        spec: TeamSpec,
        dim: int,
        form: Literal["kl", "wasserstein"] = "kl",
        samples: int = 5,
        hidden: int = 64,
        slope: float = 10.0,
    ) -> None:
        super().__init__(spec, dim)
        if form not in ("kl", "wasserstein") or samples < 1:
            raise ValueError(
                f"expected form to be kl or wasserstein and at least one sample (got {form!r} and {samples})"
            )
        self.form, self.samples, self.slope = form, samples, slope
        self.code = ActionCode(spec)
        self.judge = Local(dim, self.code.dim, hidden)

    def forward(self, policy: Choice, behaviour: Choice, h: Tensor, seen: Observation) -> Tensor:
        with frozen(self.judge):
            return self._contrast(self._drawn(policy, seen), self._drawn(behaviour, seen), h, seen)

    def losses(
        self, policy: Choice, behaviour: Choice, h: Tensor, seen: Observation, mask: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            one, other = self._drawn(policy, seen), self._drawn(behaviour, seen)
        losses = {"contrast": masked_mean(-self._contrast(one, other, h, seen), mask)}
        if self.form == "wasserstein":
            share = torch.rand_like(one.weight[0]).unsqueeze(-1)
            between = (share * one.drawn() + (1 - share) * other.drawn()).requires_grad_()
            g = self._read(between.unsqueeze(0), h, seen)
            (slope,) = torch.autograd.grad(g.sum(), between, create_graph=True)
            steep = (slope.square().sum(-1) + TINY).sqrt() - 1
            losses["slope"] = self.slope * masked_mean(steep.clamp(min=0).square(), mask)
        return losses

    def _contrast(self, one: Proposals, other: Proposals, h: Tensor, seen: Observation) -> Tensor:
        g, g_other = self._read(one.code, h, seen), self._read(other.code, h, seen)
        if self.form == "wasserstein":
            return one.mean(g) - other.mean(g_other)
        return one.mean((F.softplus(g) + TINY).log()) + 1 - other.mean(F.softplus(g_other))

    def _read(self, code: Tensor, h: Tensor, seen: Observation) -> Tensor:
        g: Tensor = self.judge(h, seen.alive, code, code[0])
        return g

    def _drawn(self, choice: Choice, seen: Observation) -> Proposals:
        """All numbers by their probabilities, or `samples` draws."""
        if isinstance(choice, LatentChoice):
            return self.code.drawn(choice, seen, self.samples)
        if isinstance(choice, CategoricalChoice):
            return self.code.propose(choice, seen)
        draws = [self.code.propose(choice, seen) for _ in range(self.samples)]
        code, weight, log_prob = (
            torch.cat([getattr(d, name) for d in draws]) for name in ("code", "weight", "log_prob")
        )
        return Proposals(code, weight / self.samples, log_prob)
