"""Value learning on replay: DQN, IQL, VDN, QMIX, QTRAN, Qatten, QPLEX, SHAQ, DGN and ROMA by their parts."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord import returns
from gcoord.graph import AgentGraph
from gcoord.learners.base import Learner, soft_update
from gcoord.learners.terms import attention_entropy, drift, last_attention, surprise, warmed
from gcoord.models.agent import Agent, Body, Features
from gcoord.models.heads import greedy
from gcoord.models.kinds import q_head
from gcoord.models.mixers import Each, Utilities
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Trajectory, learns, masked_mean, played, resets


class QLearner(Learner):
    """Q-learning of teams with a mixer: y = r + gamma (1 - terminated) Q'(s', greedy), all by temporal difference.

    DQN (https://www.nature.com/articles/nature14236) per agent with `Each` (IQL); VDN
    (https://arxiv.org/abs/1706.05296) with `Sum`; QMIX, Qatten, QPLEX, SHAQ and QTRAN with their mixers; DGN
    (https://arxiv.org/abs/1810.09202) with `Each`, `keep_graph` and `drift`; ROMA (https://arxiv.org/abs/2003.08039)
    with the head `RoleQ`. Double: https://arxiv.org/abs/1509.06461, dueling: https://arxiv.org/abs/1511.06581. Weights
    are shared by all agents.

    With `n_step` or `lam` the target looks further ahead, as far as the batch's windows go: n rewards, or Peng's
    Q(lambda) (https://doi.org/10.1007/BF00114731), with no correction for actions that were explored. Targets are cut
    where episodes end, and fewer rewards are taken where a window does.

    Arguments:
        spec: of the teams learnt from; discrete actions only.
        body: makes the agent's body.
        mixer: called with those of `dim` (the body's width), `n_agents` and `n_actions` that it names; `Each` learns
            every agent's own reward, others the team's.
        head: called with spec and width; gives the head of action values (`dueling` is its argument).
        double: choose the next action by the online network.
        gamma: discount per step.
        n_step: rewards in a target.
        lam: share of longer looks ahead in the lambda-return, 0 for none; not beside `n_step`.
        keep_graph: who hears whom at t is kept at t + 1 in the target (DGN's section 3.3).
        drift: weight of DGN's temporal relation regularisation, KL(attention at t || attention at t + 1) at the last
            round, mean over heads; the later attention comes from the online network and is detached.
        tau: share of the online network that enters the target after each update.
        target_every: copy the online network every so many updates instead (then tau is not used).
        epsilon_start, epsilon_end, epsilon_frames: exploration falls from start to end over environment steps.
        epsilon_decay: `linear`, or `exponential` (the same factor every step, as DGN's).
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
        n_step: int = 1,
        lam: float = 0.0,
        keep_graph: bool = False,
        drift: float = 0.0,
        tau: float = 0.01,
        target_every: int | None = None,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_frames: int = 50_000,
        epsilon_decay: Literal["linear", "exponential"] = "linear",
        team_reward: Literal["mean", "sum"] = "mean",
        huber: float | None = None,
        lr: float = 5e-4,
        lr_of: dict[str, float] | None = None,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
        lr_frames: int | None = None,
        lr_end: float = 0.0,
    ) -> None:
        super().__init__(spec, lr, lr_of, max_grad_norm, adam_eps, lr_frames, lr_end)
        shares = {
            "gamma": gamma,
            "lam": lam,
            "tau": tau,
            "epsilon_start": epsilon_start,
            "epsilon_end": epsilon_end,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"expected {name} between 0 and 1 (got {share})")
        if n_step < 1 or (n_step > 1 and lam):
            raise ValueError(f"expected n_step of at least 1, or lam beside n_step=1 (got n_step={n_step}, lam={lam})")
        if epsilon_decay not in ("linear", "exponential"):
            raise ValueError(f"expected epsilon_decay to be linear or exponential (got {epsilon_decay!r})")
        if epsilon_decay == "exponential" and min(epsilon_start, epsilon_end) <= 0:
            raise ValueError(
                f"expected epsilon_start and epsilon_end above 0 for an exponential decay (got {epsilon_start} and "
                f"{epsilon_end})"
            )
        self.agent = Agent(body(), partial(head, spec))
        if drift and not self.agent.body.attends(spec):
            raise ValueError(
                f"expected an encoder with attention for drift={drift} (got one without); set algo.drift=0"
            )
        self.mixer: Any = _made(mixer, dim=self.agent.body.out_dim, n_agents=spec.n_agents, n_actions=spec.n_actions)
        self.fixed_n = getattr(self.mixer, "fixed_n", None)
        self.target_agent = copy.deepcopy(self.agent).requires_grad_(False)
        self.target_mixer: Any = copy.deepcopy(self.mixer).requires_grad_(False)
        self.use_double, self.gamma, self.keep_graph, self.drift = double, gamma, keep_graph, drift
        self.n_step, self.lam = n_step, lam
        self.rows = 2 if lam else n_step
        self.tau, self.target_every = tau, target_every
        self.epsilon_start, self.epsilon_end, self.epsilon_frames = epsilon_start, epsilon_end, epsilon_frames
        self.epsilon_decay = epsilon_decay
        self.team_reward, self.huber = team_reward, huber

    def bodies(self) -> list[Body]:
        return [self.agent.body, self.target_agent.body]

    def groups(self) -> dict[str, list[nn.Module]]:
        return {"actor": [self.agent], "mixer": [self.mixer]}

    @property
    def epsilon(self) -> float:
        gone = min(self.frames / max(self.epsilon_frames, 1), 1.0)
        if self.epsilon_decay == "exponential":
            return self.epsilon_start * (self.epsilon_end / self.epsilon_start) ** gone
        return self.epsilon_start + gone * (self.epsilon_end - self.epsilon_start)

    def losses(self, batch: Trajectory) -> dict[str, Tensor]:
        """td, drift where it is weighed, and what mixer and head add, of windows: steps [T, B], last [B]."""
        steps, seen, order, keys = batch.steps, batch.seen, resets(batch.steps.valid), batch.keys_of_seen
        after, later = seen[1:], keys[1:]
        attend = self.drift > 0
        memory = warmed(self.agent.body, batch)
        now, then = self._both(self.agent, seen, memory, order, keys, attend, graph=None)
        self.chosen = q_now = self._q(self.agent, now, steps.seen, steps.key)
        with torch.no_grad():
            memory = warmed(self.target_agent.body, batch)
            _, target = self._both(self.target_agent, seen, memory, order, keys, False, graph=now.graph)
            q_target = self._q(self.target_agent, target, after, later)
            q_choose = self._q(self.agent, then, after, later) if self.use_double else q_target
            best = greedy(q_choose, self.agent.legal(after))
            future = self.target_mixer.target(self._utilities(q_target, best, target.h, after), best, later)
            y = self._targets(batch, seen, future)
        utilities = self._utilities(q_now, played(steps), now.h, steps.seen)
        mixed = self.mixer(utilities, steps.key)
        of_agents = learns(steps)
        mask = of_agents if self.mixer.per_agent else of_agents.any(-1)
        error = torch.where(mask, mixed.total - y, y.new_zeros(()))
        self.td_error = surprise(error, mask)
        squared = (
            error**2 if self.huber is None else 2 * F.huber_loss(error, torch.zeros_like(error), "none", self.huber)
        )
        terms = {"td": squared, **self.mixer.losses(utilities, mixed, y)}
        if (of_head := getattr(self.agent.head, "losses", None)) is not None:
            terms |= of_head(now, steps.seen, steps.key, played(steps))
        weight = None if batch.weight is None else batch.weight.expand(mask.shape[:2])
        losses = {name: _mean(x, of_agents if x.dim() == 3 else of_agents.any(-1), weight) for name, x in terms.items()}
        if attend:
            losses["drift"] = self.drift * drift(now, then, mask=of_agents & after.alive)
        with torch.no_grad():
            self.figure("q_max", masked_mean(q_now.max(-1).values, of_agents))
            self.figure("td_error", masked_mean(error.abs(), mask))
            degree = now.graph.degree().float()
            self.figure("mean_degree", masked_mean(degree, of_agents))
            self.figure("isolated_share", masked_mean((degree == 0).float(), of_agents))
            if attend:
                self.figure("attention_entropy", masked_mean(attention_entropy(last_attention(now)), of_agents))
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
    def _q(agent: Agent, features: Features, seen: Observation, key: Tensor) -> Tensor:
        q = agent.read(features, seen, key)
        assert isinstance(q, Tensor)
        return q

    def _utilities(self, q: Tensor, action: Tensor, h: Tensor, seen: Observation) -> Utilities:
        return Utilities(q=q, action=action, h=h, alive=seen.alive, available=self.agent.legal(seen))

    def _targets(self, batch: Trajectory, seen: Observation, future: Tensor) -> Tensor:
        """y [T, B], or [T, B, N] where agents learn apart, given what every next row is worth, of the same shape."""
        steps = batch.steps
        # What the first row itself is worth enters no target.
        value = torch.cat([torch.zeros_like(future[:1]), future])
        ends = (steps.terminated, steps.truncated, steps.valid)
        reward: Tensor = steps.reward
        alive: Tensor | None = seen.alive
        shared: bool | Tensor = False
        if not self.mixer.per_agent:
            reward, alive = self._reward_of_team(steps.reward, steps.seen.alive), None
        elif "team" in self.spec.reward:
            shared = (self.shares_reward(seen) & seen.alive).any(0)
        if self.lam:
            return returns.td_lambda(reward, value, alive, *ends, gamma=self.gamma, lam=self.lam, shared=shared)
        return returns.n_step(reward, value, alive, *ends, gamma=self.gamma, n=self.n_step, shared=shared)

    def _reward_of_team(self, reward: Tensor, alive: Tensor) -> Tensor:
        total = torch.where(alive, reward, reward.new_zeros(())).sum(-1)
        if self.spec.shared_reward or self.team_reward == "mean":
            return total / alive.sum(-1).clamp(min=1)
        return total

    def after_update(self) -> None:
        online = [*self.agent.state_dict().values(), *self.mixer.state_dict().values()]
        target = [*self.target_agent.state_dict().values(), *self.target_mixer.state_dict().values()]
        if self.target_every is None:
            soft_update(target, online, self.tau)
        elif self.updates % self.target_every == 0:
            soft_update(target, online, 1.0)


def _made(mixer: Callable[..., nn.Module], **sizes: int) -> nn.Module:
    """A mixer, given those sizes that it has arguments for."""
    takes = inspect.signature(mixer).parameters
    return mixer(**{name: size for name, size in sizes.items() if name in takes})


def _rows(features: Features, rows: slice) -> Features:
    return Features(features.h[rows], features.graph[rows], None, None)


def _mean(x: Tensor, mask: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of x [T, B] or [T, B, N] over mask, each window weighed by weight [T, B]."""
    if weight is not None:
        x = x * (weight if x.dim() == 2 else weight.unsqueeze(-1))
    return masked_mean(x, mask)
