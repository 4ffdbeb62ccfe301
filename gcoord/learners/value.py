"""Value learning on replay: IQL, VDN, QMIX and DGN by their parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.learners.base import Learner, soft_update
from gcoord.models.agent import Agent, Body, Features
from gcoord.models.heads import greedy
from gcoord.models.kinds import q_head
from gcoord.models.mixers import Each, Utilities
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Trajectory, learns, masked_mean, played, resets


class QLearner(Learner):
    """Q-learning of teams with a mixer: y = r + gamma (1 - terminated) Q'(s', greedy), all by temporal difference.

    DQN (https://www.nature.com/articles/nature14236) per agent with `Each` (IQL); VDN
    (https://arxiv.org/abs/1706.05296) with `Sum`; QMIX (https://arxiv.org/abs/1803.11485) with `Monotonic`; DGN
    (https://arxiv.org/abs/1810.09202) with `Each`, `keep_graph` and `drift`. Double: https://arxiv.org/abs/1509.06461,
    dueling: https://arxiv.org/abs/1511.06581. Weights are shared by all agents.

    Arguments:
        spec: of the teams learnt from; discrete actions only.
        body: makes the agent's body.
        mixer: called with the body's width; `Each` learns every agent's own reward, others the team's.
        head: called with spec and width; gives the head of action values (`dueling` is its argument).
        double: choose the next action by the online network.
        gamma: discount per step.
        keep_graph: who hears whom at t is kept at t + 1 in the target (DGN's section 3.3).
        drift: weight of DGN's temporal relation regularisation, KL(attention at t || attention at t + 1) at the last
            round, mean over heads; the later attention comes from the online network and is detached.
        tau: share of the online network that enters the target after each update.
        target_every: copy the online network every so many updates instead (then tau is not used).
        epsilon_start, epsilon_end, epsilon_frames: exploration falls linearly over environment steps.
        team_reward: how own rewards make the team's for a mixer: `mean` or `sum` over living agents.
        huber: where the loss turns linear, None for squared errors.
    """

    takes_continuous = False

    def __init__(
        self,
        spec: TeamSpec,
        body: Callable[..., Body],
        mixer: Callable[..., nn.Module] = Each,
        head: Callable[..., nn.Module] = q_head,
        double: bool = True,
        gamma: float = 0.99,
        keep_graph: bool = False,
        drift: float = 0.0,
        tau: float = 0.01,
        target_every: int | None = None,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_frames: int = 50_000,
        team_reward: Literal["mean", "sum"] = "mean",
        huber: float | None = None,
        lr: float = 5e-4,
        lr_of: dict[str, float] | None = None,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
    ) -> None:
        super().__init__(spec, lr=lr, lr_of=lr_of, max_grad_norm=max_grad_norm, adam_eps=adam_eps)
        for name, share in (
            ("gamma", gamma),
            ("tau", tau),
            ("epsilon_start", epsilon_start),
            ("epsilon_end", epsilon_end),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"expected {name} between 0 and 1 (got {share})")
        self.agent = Agent(body(), partial(head, spec))
        if drift and not self.agent.body.attends(spec):
            raise ValueError(
                f"expected an encoder with attention for drift={drift} (got one without); set algo.drift=0"
            )
        self.mixer: Any = mixer(dim=self.agent.body.out_dim)
        self.target_agent = copy.deepcopy(self.agent).requires_grad_(False)
        self.target_mixer: Any = copy.deepcopy(self.mixer).requires_grad_(False)
        self.use_double, self.gamma, self.keep_graph, self.drift = double, gamma, keep_graph, drift
        self.tau, self.target_every = tau, target_every
        self.epsilon_start, self.epsilon_end, self.epsilon_frames = epsilon_start, epsilon_end, epsilon_frames
        self.team_reward, self.huber = team_reward, huber

    def bodies(self) -> list[Body]:
        return [self.agent.body, self.target_agent.body]

    def groups(self) -> dict[str, list[nn.Module]]:
        return {"actor": [self.agent], "mixer": [self.mixer]}

    @property
    def epsilon(self) -> float:
        gone = min(self.frames / max(self.epsilon_frames, 1), 1.0)
        return self.epsilon_start + gone * (self.epsilon_end - self.epsilon_start)

    def losses(self, batch: Trajectory) -> dict[str, Tensor]:
        """td (and drift) of windows: steps [T, B], last [B]."""
        steps, seen, order = batch.steps, batch.seen, resets(batch.steps.valid)
        keys = batch.keys_of_seen
        attend = self.drift > 0
        now, then = self._both(self.agent, seen, batch.memory, order, keys, attend, graph=None)
        with torch.no_grad():
            _, target = self._both(self.target_agent, seen, batch.memory, order, keys, False, graph=now.graph)
        q_now = self._q(self.agent, now, steps.seen)
        after = seen[1:]
        with torch.no_grad():
            q_target = self._q(self.target_agent, target, after)
            q_choose = self._q(self.agent, then, after) if self.use_double else q_target
            best = greedy(q_choose, self.agent.legal(after))
            future = self.target_mixer.target(_utilities(q_target, best, target.h, after), best)
        utilities = _utilities(q_now, played(steps), now.h, steps.seen)
        mixed = self.mixer(utilities)
        alive, mask = steps.seen.alive, learns(steps)
        if self.mixer.per_agent:
            future = self._future_of_each(future, after.alive, self.shares_reward(steps.seen))
            reward, goes_on = steps.reward, (~steps.terminated).unsqueeze(-1)
        else:
            reward, goes_on = self._reward_of_team(steps.reward, alive), ~steps.terminated
            mask = steps.valid & alive.any(-1)
        y = (reward + self.gamma * goes_on * future).detach()
        error = torch.where(mask, mixed.total - y, y.new_zeros(()))
        if batch.weight is not None:
            weight = batch.weight.unsqueeze(-1) if self.mixer.per_agent else batch.weight
            error = error * weight.sqrt()
        squared = (
            error**2 if self.huber is None else 2 * F.huber_loss(error, torch.zeros_like(error), "none", self.huber)
        )
        losses = {"td": masked_mean(squared, mask), **self.mixer.losses(utilities, mixed, y)}
        if attend:
            losses["drift"] = self.drift * self._drift(now, then, mask=learns(steps) & after.alive)
        with torch.no_grad():
            self.figure("q_max", masked_mean(q_now.max(-1).values, learns(steps)))
            self.figure("td_error", masked_mean(error.abs(), mask))
            degree = now.graph.degree().float()
            self.figure("mean_degree", masked_mean(degree, learns(steps)))
            self.figure("isolated_share", masked_mean((degree == 0).float(), learns(steps)))
            if attend:
                self.figure("attention_entropy", masked_mean(_entropy(_last(now)), learns(steps)))
        return losses

    def _both(
        self,
        agent: Agent,
        seen: Observation,
        memory: Tensor | None,
        order: Tensor,
        keys: Tensor,
        attention: bool,
        graph: AgentGraph | None,
    ) -> tuple[Features, Features]:
        """Features of rows 0..T - 1 and of rows 1..T; the latter by the former's graph if `keep_graph`."""
        body = agent.body
        if not self.keep_graph and not attention:
            every = body.unroll(seen, memory, order, key=keys)
            return _rows(every, slice(None, -1)), _rows(every, slice(1, None))
        now = body.unroll(seen[:-1], memory, order[:-1], graph=graph, key=keys[:-1], attention=attention)
        kept = body.with_geometry(now.graph.among(seen[1:].alive, seen[1:].entity_present), seen[1:])
        following = kept if self.keep_graph else None
        return now, body.follow(now, seen[1:], order[1:], graph=following, key=keys[1:], attention=attention)

    @staticmethod
    def _q(agent: Agent, features: Features, seen: Observation) -> Tensor:
        q = agent.read(features, seen)
        assert isinstance(q, Tensor)
        return q

    def _future_of_each(self, future: Tensor, alive: Tensor, shared: Tensor) -> Tensor:
        """What every agent's next row is worth [T, B, N]: its own if it lives; where the reward is the team's, the mean
        over the living for those who died (earlier actions keep earning)."""
        own = torch.where(alive, future, future.new_zeros(()))
        if not any(rule == "team" for rule in self.spec.reward):
            return own
        sharing = alive & shared
        mean = torch.where(sharing, own, 0.0).sum(-1, keepdim=True) / sharing.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(shared & ~alive, mean, own)

    def _reward_of_team(self, reward: Tensor, alive: Tensor) -> Tensor:
        total = torch.where(alive, reward, reward.new_zeros(())).sum(-1)
        if self.spec.shared_reward or self.team_reward == "mean":
            return total / alive.sum(-1).clamp(min=1)
        return total

    @staticmethod
    def _drift(now: Features, then: Features, mask: Tensor) -> Tensor:
        p, q = _last(now), _last(then).detach()  # [T, B, H, N, K + 1]
        tiny = torch.finfo(p.dtype).tiny
        divergence = (p * (p.clamp(min=tiny).log() - q.clamp(min=1e-8).log())).sum(-1).mean(-2)
        return masked_mean(divergence, mask)

    def after_update(self) -> None:
        online = [*self.agent.state_dict().values(), *self.mixer.state_dict().values()]
        target = [*self.target_agent.state_dict().values(), *self.target_mixer.state_dict().values()]
        if self.target_every is None:
            soft_update(target, online, self.tau)
        elif self.updates % self.target_every == 0:
            soft_update(target, online, 1.0)


def _utilities(q: Tensor, action: Tensor, h: Tensor, seen: Observation) -> Utilities:
    return Utilities(q=q, action=action, h=h, alive=seen.alive, available=seen.available)


def _rows(features: Features, rows: slice) -> Features:
    return Features(features.h[rows], features.graph[rows], None, None)


def _entropy(attention: Tensor) -> Tensor:
    """[*, H, N, K] -> [*, N], mean over heads."""
    return torch.special.entr(attention).sum(-1).mean(-2)


def _last(features: Features) -> Tensor:
    """Attention [*, H, N, K + 1] of the last round."""
    assert features.attention is not None
    return features.attention[-1]
