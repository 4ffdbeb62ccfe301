"""Imitation of recorded teams: behaviour cloning by likelihood, or by the bound of a conditional autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gcoord.learners.base import Learner
from gcoord.learners.terms import warmed
from gcoord.models.agent import Agent, Body
from gcoord.models.kinds import policy_head
from gcoord.spec import Continuous, TeamSpec
from gcoord.trajectory import Step, Trajectory, learns, masked_mean, played, resets


class Imitation(Learner):
    """Behaviour cloning of teams (Pomerleau 1991, https://doi.org/10.1162/neco.1991.3.1.88).

        loss = - mean over living agents of valid rows of log pi(a_i | what i heard)

    With a head that bounds the likelihood (`gcoord.models.latent.LatentHead`, a conditional variational autoencoder)
    the loss is minus that bound. Weights are shared by all agents and messages pass as they do where it acts, so what
    is cloned on small teams acts in large ones. A recurrent policy learns whole episodes, its own memory unrolled.

    Arguments:
        spec: of the teams learnt from.
        body: makes the agent's body.
        head: called with spec and width; gives the policy head.

    Logged: nll, in nats an agent and step (that of a latent head at one draw of z); accuracy, the share of numbers that
    the most likely action repeats; action_error, the root mean square distance of the most likely point from the one
    done, in halves of the box. Raises ValueError, by the source, for anything but recorded teams.
    """

    explores = False

    def __init__(
        self,
        spec: TeamSpec,
        body: Callable[..., Body],
        head: Callable[..., nn.Module] = policy_head,
        lr: float = 1e-3,
        lr_of: dict[str, float] | None = None,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
        lr_frames: int | None = None,
        lr_end: float = 0.0,
    ) -> None:
        super().__init__(spec, lr, lr_of, max_grad_norm, adam_eps, lr_frames, lr_end)
        self.agent = Agent(body(), partial(head, spec))

    def losses(self, batch: Trajectory) -> dict[str, Tensor]:
        """nll, and what else a head's bound is made of, of windows: steps [T, B]."""
        steps, mask = batch.steps, learns(batch.steps)
        memory = warmed(self.agent.body, batch)
        choice, features = self.agent.unroll(steps.seen, memory, resets(steps.valid)[:-1], key=steps.key)
        assert not isinstance(choice, Tensor)
        self.chosen = choice
        action = played(steps)
        bound = getattr(choice, "bound", None)
        terms = {"nll": -choice.log_prob(action)} if bound is None else bound(action)
        losses = {name: masked_mean(x, mask) for name, x in terms.items()}
        with torch.no_grad():
            self.figure("nll", losses["nll"])
            self._compare(choice.mode(), steps, mask)
            degree = features.graph.degree().float()
            self.figure("mean_degree", masked_mean(degree, mask))
            self.figure("isolated_share", masked_mean((degree == 0).float(), mask))
        return losses

    def _compare(self, mode: Tensor, steps: Step, mask: Tensor) -> None:
        """accuracy and action_error of the most likely actions, mode [T, B, N] or [T, B, N, A]."""
        action = played(steps)
        if self.spec.discrete:
            self.figure("accuracy", masked_mean((mode == action).float(), mask))
            return
        kind = torch.where(steps.seen.alive, steps.seen.kind, 0)
        points, apart = torch.zeros_like(mask), torch.zeros_like(mode[..., 0])
        for number, space in enumerate(self.spec.actions):
            if isinstance(space, Continuous):
                half = (mode.new_tensor(space.high) - mode.new_tensor(space.low)) / 2
                mine = kind == number
                apart = torch.where(mine, ((mode - action)[..., : space.n] / half).square().mean(-1), apart)
                points = points | mine
        self.figure("action_error", masked_mean(apart, mask & points).sqrt())
        if not self.spec.continuous:
            same = mode[..., 0] == action[..., 0]
            self.figure("accuracy", masked_mean(same.float(), mask & ~points))
