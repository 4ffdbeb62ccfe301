"""Policy gradient on fresh rollouts: REINFORCE, A2C, PPO, IPPO, MAPPO, COMA and Belief-PPO by their parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.learners.base import Learner
from gcoord.models.agent import Agent, Body
from gcoord.models.kinds import policy_head
from gcoord.models.normaliser import ValueNorm
from gcoord.returns import gae
from gcoord.spec import TeamSpec
from gcoord.trajectory import Trajectory, learns, masked_mean, played, resets


class PolicyGradient(Learner):
    """Clipped policy gradient with generalised advantages for teams.

    PPO (https://arxiv.org/abs/1707.06347, eq. 7) per agent, weights shared; GAE (https://arxiv.org/abs/1506.02438,
    eq. 16); value normalisation, value clipping and Huber loss as in MAPPO (https://arxiv.org/abs/2103.01955).
    PPO for one agent and IPPO for many: a `Local` critic. MAPPO: a `Central` one. A2C (https://arxiv.org/abs/1602.01783):
    `Local`, no clip, one pass. REINFORCE (https://doi.org/10.1007/BF00992696): `NoCritic`, lam 1, whole episodes. COMA:
    `Counterfactual`, no clip. Belief-PPO: `Local`, and a head with beliefs. Every mean is over living agents of valid
    steps. Departures: actor and critic are stepped together, both at the parameters of the same minibatch; the critic
    has no memory unless it is given one, which then begins empty with each rollout.

    Arguments:
        spec: of the teams learnt from.
        body: makes a fresh body for the actor, and one for the critic.
        critic: `Local`, `Central`, `Counterfactual` or `NoCritic`, called with the critic's body.
        head: called with spec and width; gives the policy head.
        gamma: discount per step.
        lam: GAE's lambda.
        clip: trust region of the probability ratio, also of the value in normalised units (`clip_value`); None: the
            plain gradient of log pi times the advantage, for a single pass over fresh data.
        entropy: weight of the entropy bonus.
        value_weight: weight of the value loss.
        huber: where the value loss turns linear, in normalised units.
        clip_value: clip the value's change by `clip`.
        normalise_value: learn values in units of running mean and deviation, kept per team size.
        normalise_advantage: standardise advantages over each rollout.
        critic_memory: give the critic a memory like the actor's, for worlds in which what is seen does not tell what
            follows. Rollouts as long as an episode and its reset row let both begin together.

    Raises ValueError for shares outside [0, 1], and for a critic's memory where the actor has none.
    """

    on_policy = True
    needs_log_prob = True

    def __init__(
        self,
        spec: TeamSpec,
        body: Callable[..., Body],
        critic: Callable[[Body], nn.Module],
        head: Callable[..., nn.Module] = policy_head,
        gamma: float = 0.95,
        lam: float = 0.9,
        clip: float | None = 0.2,
        entropy: float = 0.0,
        value_weight: float = 1.0,
        huber: float = 10.0,
        clip_value: bool = True,
        normalise_value: bool = True,
        normalise_advantage: bool = True,
        critic_memory: bool = False,
        lr: float = 2e-3,
        lr_of: dict[str, float] | None = None,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
        lr_frames: int | None = None,
        lr_end: float = 0.0,
    ) -> None:
        super().__init__(spec, lr, lr_of, max_grad_norm, adam_eps, lr_frames, lr_end)
        for name, share in (("gamma", gamma), ("lam", lam)):
            if not 0 <= share <= 1:
                raise ValueError(f"expected {name} between 0 and 1 (got {share})")
        self.agent = Agent(body(), partial(head, spec))
        if critic_memory and self.agent.body.memory is None:
            raise ValueError("expected memory=gru (or another) for algo.critic_memory=true (got memory=none)")
        self.critic: Any = critic(body() if critic_memory else body(memory=None))
        learns_values = any(True for _ in self.critic.parameters())
        self.value_norm = ValueNorm() if normalise_value and learns_values else None
        self.gamma, self.lam, self.clip = gamma, lam, clip
        self.entropy, self.value_weight, self.huber = entropy, value_weight, huber
        self.clip_value, self.normalise_advantage = clip_value, normalise_advantage

    def groups(self) -> dict[str, list[nn.Module]]:
        return {"actor": [self.agent], "critic": [self.critic]}

    def bodies(self) -> list[Body]:
        return [self.agent.body] + [part.body for part in [self.critic] if hasattr(part, "body")]

    @torch.no_grad()
    def prepare(self, trajectory: Trajectory) -> Trajectory:
        """Adds value (as the critic gave it) and returns [T, B, N], both normalised, and advantage [T, B, N], 0 off
        living agents of valid steps. Value statistics are updated before the loss reads them."""
        steps, seen = trajectory.steps, trajectory.seen
        n_agents = steps.reward.shape[-1]
        # [B, N]: a slot keeps its kind, and the kind of the dead is not read.
        shared = (self.shares_reward(seen) & seen.alive).any(0)
        members = shared.expand_as(seen.alive) if "team" in self.spec.reward else None
        raw, team, baseline = self.critic.assess(trajectory, self.agent, members)
        value = raw
        if self.value_norm is not None:
            value = self.value_norm.denormalise(raw, n_agents)
            team = None if team is None else self.value_norm.denormalise(team, n_agents)
            baseline = None if baseline is None else self.value_norm.denormalise(baseline, n_agents)
        advantage, returns = gae(
            steps.reward,
            value,
            seen.alive,
            steps.terminated,
            steps.truncated,
            steps.valid,
            gamma=self.gamma,
            lam=self.lam,
            shared=shared,
            team_value=team,
        )
        if baseline is not None:
            advantage = value[:-1] - baseline
        mask = learns(steps)
        spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
        error = masked_mean((returns - value[:-1]) ** 2, mask)
        self.figure("explained_variance", 1 - error / spread.clamp(min=1e-8))
        if self.value_norm is not None:
            self.value_norm.update(returns, mask, n_agents)
            returns = self.value_norm.normalise(returns, n_agents)
        if self.normalise_advantage:
            mean = masked_mean(advantage, mask)
            deviation = masked_mean((advantage - mean) ** 2, mask).sqrt()
            advantage = (advantage - mean) / (deviation + 1e-8)
        trajectory.value, trajectory.returns = raw[:-1], returns
        trajectory.advantage = torch.where(mask, advantage, advantage.new_zeros(()))
        return trajectory

    def losses(self, batch: Trajectory) -> dict[str, Tensor]:
        """policy, entropy and value losses of a batch of rows [T, B] (T = 1 unless recurrent)."""
        steps, advantage = batch.steps, batch.advantage
        assert advantage is not None and steps.log_prob is not None
        mask = learns(steps)
        order = resets(steps.valid)[:-1]
        choice, features = self.agent.unroll(steps.seen, batch.memory, order, key=steps.key)
        assert not isinstance(choice, Tensor)
        self.chosen = choice
        log_prob = choice.log_prob(played(steps))
        log_ratio = torch.where(mask, log_prob - steps.log_prob, log_prob.new_zeros(()))
        ratio = log_ratio.exp()
        if self.clip is None:
            gain = log_prob * advantage
        else:
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.entropy > 0):
            entropy = masked_mean(choice.entropy(), mask)
        losses = {"policy": -masked_mean(gain, mask)}
        if (value := self.critic.predict(steps)) is not None:
            losses["value"] = self.value_weight * masked_mean(self._value_loss(value, batch), mask)
        if self.entropy:
            losses["entropy"] = -self.entropy * entropy
        if (of_head := getattr(self.agent.head, "losses", None)) is not None:
            terms = of_head(features, steps.seen, steps.key, played(steps))
            losses |= {name: masked_mean(term, mask) for name, term in terms.items()}
        with torch.no_grad():
            self.figure("approx_kl", masked_mean(ratio - 1 - log_ratio, mask))
            if self.clip is not None:
                self.figure("clip_fraction", masked_mean(((ratio - 1).abs() > self.clip).float(), mask))
            self.figure("entropy", entropy)
            degree = features.graph.degree().float()
            self.figure("mean_degree", masked_mean(degree, mask))
            self.figure("isolated_share", masked_mean((degree == 0).float(), mask))
        return losses

    def _value_loss(self, value: Tensor, batch: Trajectory) -> Tensor:
        assert batch.returns is not None and batch.value is not None
        loss = F.huber_loss(value, batch.returns, reduction="none", delta=self.huber)
        if self.clip_value and self.clip is not None:
            near = batch.value + (value - batch.value).clamp(-self.clip, self.clip)
            loss = torch.maximum(loss, F.huber_loss(near, batch.returns, reduction="none", delta=self.huber))
        return loss
