"""Fine-tuning near the policy that one began from: a divergence per agent, weighed less and less."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from gcoord.learners.terms import warmed
from gcoord.models.agent import Agent
from gcoord.models.heads import CategoricalChoice, Choice
from gcoord.models.kinds import MixedChoice
from gcoord.models.points import PointChoice
from gcoord.trajectory import Observation, Trajectory, learns, masked_mean, resets


class Near:
    """Holds a policy near a frozen copy of what it was, for a while.

        loss = weight max(0, 1 - frames / until) mean over living agents of valid rows of D(pi(. | h_i), pi_0(. | h_i))

    D is KL(pi || pi_0) for distributions, as the policy penalty of BRAC (https://arxiv.org/abs/1911.11361, section 4.1)
    with the small team's policy for the behaviour; for action values that of the softmax of q / temperature (policy
    distillation, https://arxiv.org/abs/1511.06295); for a point the mean squared distance in halves of the box. It is
    averaged over agents, so that its weight does not grow with the team. The frozen policy hears what the learner hears
    and begins each window with the learner's memory.

    Arguments:
        agent: the learner's; copied when weights are taken over (`begin`).
        run_frames: environment steps of the whole run.
        weight: of the divergence at the beginning, 0 for none.
        frames: environment steps over which the weight falls to 0; None: half of the run's.
        temperature: of action values.

    Raises ValueError for a weight, frames or a temperature that cannot be.
    """

    def __init__(
        self,
        agent: Agent,
        run_frames: int,
        weight: float = 0.0,
        frames: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        if weight < 0 or temperature <= 0 or (frames is not None and frames < 1):
            raise ValueError(
                "expected fine_tune.near with a weight of at least 0, a temperature above 0 and frames of at least 1 "
                f"(got {weight}, {temperature} and {frames})"
            )
        self.weight, self.temperature = weight, temperature
        self.frames = max(run_frames // 2, 1) if frames is None else frames
        self.agent = copy.deepcopy(agent).requires_grad_(False)

    def begin(self, agent: Agent) -> None:
        """From here on, near what this agent is now."""
        self.agent.load_state_dict(agent.state_dict())

    def weight_at(self, frames: int) -> float:
        """What a divergence of 1 costs after so many environment steps."""
        return self.weight * max(0.0, 1 - frames / self.frames)

    def divergence(self, chosen: Choice | Tensor, batch: Trajectory) -> Tensor:
        """[T, B, N]: of what the learner chose in the rows of a batch from what it would have chosen at first."""
        steps = batch.steps
        with torch.no_grad():
            memory = warmed(self.agent.body, batch)
            order = resets(steps.valid)[:-1]
            before, _ = self.agent.unroll(steps.seen, memory, order, key=steps.key)
        return apart(self._choice(chosen, steps.seen), self._choice(before, steps.seen))

    def loss(self, chosen: Choice | Tensor, batch: Trajectory) -> Tensor:
        """The mean divergence [], not yet weighed."""
        return masked_mean(self.divergence(chosen, batch), learns(batch.steps))

    def _choice(self, chosen: Choice | Tensor, seen: Observation) -> Choice:
        if isinstance(chosen, Tensor):
            return CategoricalChoice(chosen / self.temperature, self.agent.legal(seen))
        return chosen


def apart(choice: Choice, other: Choice) -> Tensor:
    """How far a choice is from another, [*, N], 0 where they are the same: KL(choice || other), or the squared distance
    of points."""
    if isinstance(choice, PointChoice):
        assert isinstance(other, PointChoice)
        between = (choice.squashed - other.squashed).square()
        if choice.used is None:
            return between.mean(-1)
        return torch.where(choice.used, between, 0.0).sum(-1) / choice.used.sum(-1).clamp(min=1)
    if isinstance(choice, MixedChoice):
        assert isinstance(other, MixedChoice)
        numbers, points = apart(choice.numbers, other.numbers), apart(choice.points, other.points)
        return torch.where(choice.is_discrete, numbers, points)
    return choice.kl(other)
