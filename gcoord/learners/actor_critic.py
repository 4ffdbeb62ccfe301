"""Actor and critic on replay or recorded teams: DDPG, TD3, SAC, IDDPG, MADDPG, ISAC, MASAC, BRAC, BEAR by parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gcoord import returns
from gcoord.graph import AgentGraph
from gcoord.learners.base import Learner, frozen, soft_update
from gcoord.learners.constraints import Penalty, Temperature
from gcoord.learners.terms import surprise, warmed
from gcoord.models.action_critics import ActionCritic
from gcoord.models.agent import Agent, Body, Features
from gcoord.models.heads import CategoricalChoice, Choice
from gcoord.models.kinds import MixedChoice, policy_head
from gcoord.models.proposals import ActionCode, Proposals, Relaxation
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Trajectory, learns, masked_mean, played, resets


class ActorCritic(Learner):
    """A policy that climbs the values of its own actions, off-policy, weights shared by all agents of a team.

        y_i = r_i + gamma (1 - terminated) E[min_c Q'_ci(s', a') - alpha log pi(a'_i)]
        critics: mean (Q_ci(s, a) - y_i)^2        policy: mean E[alpha log pi(a_i) - Q_i(s, (a_-i, a_i))], a_i ~ pi

    E is over the policy's proposals (`gcoord.models.proposals`): closed form or a Gumbel-softmax for numbers, one
    reparameterised sample for a distribution in a box, the point itself for a deterministic head.

    DDPG (https://arxiv.org/abs/1509.02971): one critic and a `point_head`. TD3 (https://arxiv.org/abs/1802.09477): two,
    `smoothing`, `policy_every` 2. SAC (https://arxiv.org/abs/1812.05905): two, `judge: min`, a `Temperature`, no target
    policy. With a `Local` critic and n agents: IDDPG, ISAC. With `Team`: MADDPG (https://arxiv.org/abs/1706.02275),
    MASAC. BRAC and BEAR: a `gcoord.learners.behaviour.Behaviour` among the penalties, BEAR with `lowest` 0.75 and
    `candidates` 10. Every mean is over living agents of valid steps; rewards of the dead, truncation and termination
    are as in `gcoord.returns`.

    Departures: actor, critics and temperature are stepped together, all at the same parameters; exploration is
    uncorrelated noise and not DDPG's Ornstein-Uhlenbeck process; critics have no memory of their own (with
    `share_encoder` they have the policy's); MADDPG's critics here are of any team size.

    Arguments:
        spec: of the teams learnt from.
        body: makes a fresh body for the policy, and one for each critic.
        critic: `Local` or `Team`, called with the width of features and of an action's code.
        head: called with spec and width; gives the policy head.
        relaxation: how numbered actions are proposed: `Every` (closed form, the default) or `Gumbel`.
        temperature: makes what entropy is worth, called with spec; None: nothing.
        penalties: by name, what else policy and values pay for, each called with spec and body (see `Penalty`).
        critics: how many.
        lowest: share of the lowest critic in the targets, the rest being that of the highest (BEAR: 0.75).
        candidates: next actions drawn from the policy, of which the targets take the best (BEAR: 10); 0: what the
            policy's proposals are worth on average.
        clone_updates: updates to begin with in which penalties learn and nothing else does (BRAC's clone).
        match_updates: updates after those in which the policy only pays penalties (BEAR's warm-up).
        judge: whom the policy climbs: the `first` critic, or the lowest (`min`).
        others: what the others do while an agent's new action is judged: what they did (`replayed`), or what they would
            do now (`current`). Neither gives the others a gradient.
        target_policy: whether next actions are those of a slowly following copy of the policy.
        smoothing, smoothing_clip: deviation and limit of the noise on next points, in halves of the box.
        policy_every: updates for each of the policy, the temperature and the target networks.
        restraint: weight of the mean square of the logits of numbered actions in the policy's loss (1e-3 in the code of
            MADDPG's authors, which still left teams all doing the same on native/spread; our configurations say 0.01):
            once a Gumbel-softmax policy is certain, nothing else ever moves it again.
        share_encoder: critics read the policy's features, which then only their loss trains.
        gamma: discount per step.
        tau: share of the online networks that enters the targets.
        epsilon_start, epsilon_end, epsilon_frames: exploration falls from start to end over environment steps: a
            share of random numbers, or the deviation of noise on a point in halves of the box; 0: as the policy draws.
    """

    def __init__(
        self,
        spec: TeamSpec,
        body: Callable[..., Body],
        critic: Callable[..., ActionCritic],
        head: Callable[..., nn.Module] = policy_head,
        relaxation: Relaxation | None = None,
        temperature: Callable[..., Temperature] | None = None,
        penalties: Mapping[str, Callable[..., Penalty]] | None = None,
        critics: int = 2,
        lowest: float = 1.0,
        candidates: int = 0,
        clone_updates: int = 0,
        match_updates: int = 0,
        judge: Literal["first", "min"] = "first",
        others: Literal["replayed", "current"] = "replayed",
        target_policy: bool = True,
        smoothing: float = 0.0,
        smoothing_clip: float = 0.5,
        policy_every: int = 1,
        restraint: float = 0.0,
        share_encoder: bool = False,
        gamma: float = 0.99,
        tau: float = 0.01,
        epsilon_start: float = 0.0,
        epsilon_end: float = 0.0,
        epsilon_frames: int = 20_000,
        lr: float = 1e-3,
        lr_of: dict[str, float] | None = None,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
        lr_frames: int | None = None,
        lr_end: float = 0.0,
    ) -> None:
        super().__init__(spec, lr, lr_of, max_grad_norm, adam_eps, lr_frames, lr_end)
        for name, share in (("gamma", gamma), ("tau", tau), ("lowest", lowest)):
            if not 0 <= share <= 1:
                raise ValueError(f"expected {name} between 0 and 1 (got {share})")
        scales = {"smoothing": smoothing, "smoothing_clip": smoothing_clip, "restraint": restraint}
        for name, scale in {**scales, "epsilon_start": epsilon_start, "epsilon_end": epsilon_end}.items():
            if scale < 0:
                raise ValueError(f"expected {name} of at least 0 (got {scale})")
        if min(critics, policy_every) < 1:
            raise ValueError(f"expected critics and policy_every of at least 1 (got {critics} and {policy_every})")
        if min(candidates, clone_updates, match_updates) < 0 or (max(clone_updates, match_updates) and not penalties):
            raise ValueError(
                f"expected candidates, clone_updates and match_updates of at least 0, the last two with penalties (got "
                f"{candidates}, {clone_updates} and {match_updates} with {sorted(penalties or {})})"
            )
        if judge not in ("first", "min") or others not in ("replayed", "current"):
            raise ValueError(
                f"expected judge to be first or min and others replayed or current (got {judge!r} and {others!r})"
            )
        self.agent = Agent(body(), partial(head, spec))
        self.code = ActionCode(spec, relaxation)
        self.critic_bodies = nn.ModuleList([] if share_encoder else [body(memory=None) for _ in range(critics)])
        widths = [self.agent.body.out_dim] * critics if share_encoder else [part.out_dim for part in self.critic_bodies]
        self.critics = nn.ModuleList(critic(width, self.code.dim) for width in widths)
        self.temperature = None if temperature is None else temperature(spec)
        made: dict[str, Any] = {name: make(spec, body) for name, make in (penalties or {}).items()}
        self.penalties: Any = nn.ModuleDict(made)
        for penalty in made.values():
            penalty.fits(self.agent)
        self.needs_init = any(penalty.needs_init for penalty in made.values())
        # With a shared encoder the targets need its features, whoever chooses the next actions.
        self.target_agent = copy.deepcopy(self.agent).requires_grad_(False) if target_policy or share_encoder else None
        self.target_bodies = copy.deepcopy(self.critic_bodies).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.judge, self.others, self.target_policy, self.share_encoder = judge, others, target_policy, share_encoder
        self.smoothing, self.smoothing_clip, self.policy_every = smoothing, smoothing_clip, policy_every
        self.restraint = restraint
        self.gamma, self.tau, self.lowest, self.candidates = gamma, tau, lowest, candidates
        self.clone_updates, self.match_updates = clone_updates, match_updates
        self.epsilon_start, self.epsilon_end, self.epsilon_frames = epsilon_start, epsilon_end, epsilon_frames

    def bodies(self) -> list[Body]:
        return [part for part in self.modules() if isinstance(part, Body)]

    def followers(self) -> list[Agent]:
        mine = [] if self.target_agent is None else [self.target_agent]
        return [*mine, *(agent for penalty in self.penalties.values() for agent in penalty.followers())]

    def groups(self) -> dict[str, list[nn.Module]]:
        penalties = {"penalty": [self.penalties]} if len(self.penalties) else {}
        if self.share_encoder:
            return {"actor": [self.agent.head], "critic": [self.agent.body, self.critics], **penalties}
        return {"actor": [self.agent], "critic": [self.critic_bodies, self.critics], **penalties}

    @property
    def epsilon(self) -> float:
        gone = min(self.frames / max(self.epsilon_frames, 1), 1.0)
        return self.epsilon_start + gone * (self.epsilon_end - self.epsilon_start)

    def losses(self, batch: Trajectory) -> dict[str, Tensor]:
        """td, policy and temperature where they are due, and the penalties' own, of windows: steps [T, B], last [B]."""
        steps, mask = batch.steps, learns(batch.steps)
        due = (self.updates + 1) % self.policy_every == 0
        rows = self._rows(batch)
        reads = {name: penalty.read(batch, rows.graph, self.updates) for name, penalty in self.penalties.items()}
        own = {
            f"{name}_{part}": loss
            for name, penalty in self.penalties.items()
            for part, loss in penalty.losses(batch, reads[name]).items()
        }
        if self.updates < self.clone_updates:
            return own
        acting = self._acting(batch, rows, due)
        if self.share_encoder:
            assert acting is not None
            h = [acting.h[:-1]] * len(self.critics)
        else:
            h = [part(steps.seen, graph=rows.graph[:-1]).h for part in self.critic_bodies]
        done = self.code(played(steps), steps.seen)
        y = self._targets(batch, rows, acting, reads)
        q = _values(self.critics, h, steps.seen, done.unsqueeze(0), done)[:, 0]
        error = torch.where(mask, q - y, 0.0)  # [critics, T, B, N]
        self.td_error = surprise(error.abs().mean(0), mask)
        weight = 1.0 if batch.weight is None else batch.weight.unsqueeze(-1)
        losses = {"td": masked_mean(error.square().sum(0) * weight, mask)}
        if due:
            assert acting is not None
            losses |= self._improvement(batch, acting, reads, [x.detach() for x in h], done)
        self.figure("td_error", masked_mean(error.abs().mean(0), mask))
        return {**losses, **own}

    def _rows(self, batch: Trajectory) -> _Rows:
        # All bodies are made alike: who hears whom is found out once.
        seen, keys = batch.seen, batch.keys_of_seen
        return _Rows(seen, resets(batch.steps.valid), keys, self.agent.body.graph(seen, keys))

    def _acting(self, batch: Trajectory, rows: _Rows, due: bool) -> Features | None:
        """The policy's features of rows 0..T, with gradient where a loss reads them; None where nobody does."""
        if not (due or self.share_encoder or not self.target_policy):
            return None
        with torch.set_grad_enabled(torch.is_grad_enabled() and (due or self.share_encoder)):
            return self._unrolled(self.agent, batch, rows)

    @staticmethod
    def _unrolled(agent: Agent, batch: Trajectory, rows: _Rows) -> Features:
        return agent.body.unroll(rows.seen, warmed(agent.body, batch), rows.order, rows.graph, rows.keys)

    @torch.no_grad()
    def _targets(self, batch: Trajectory, rows: _Rows, acting: Features | None, reads: Mapping[str, Any]) -> Tensor:
        """y [T, B, N]: what every row's action should be worth."""
        steps, after = batch.steps, rows.seen[1:]
        behind = None if self.target_agent is None else self._unrolled(self.target_agent, batch, rows)
        agent, features = (self.target_agent, behind) if self.target_policy else (self.agent, acting)
        assert agent is not None and features is not None
        choice = _choice(agent, features, slice(1, None), after, rows.keys[1:])
        proposals = (
            self.code.drawn(choice, after, self.candidates) if self.candidates else self.code.propose(choice, after)
        )
        if self.smoothing:
            code = self.code.smoothed(proposals.code, after, self.smoothing, self.smoothing_clip)
            proposals = replace(proposals, code=code)
        if self.share_encoder:
            assert behind is not None
            h = [behind.h[1:]] * len(self.target_critics)
        else:
            h = [part(after, graph=rows.graph[1:]).h for part in self.target_bodies]
        q = _values(self.target_critics, h, after, proposals.code, proposals.drawn())
        q = q.amin(0) if self.lowest == 1 else self.lowest * q.amin(0) + (1 - self.lowest) * q.amax(0)
        worth = q - self._price(proposals, after)
        future = worth.amax(0) if self.candidates else proposals.mean(worth)
        for name, penalty in self.penalties.items():
            future = future - penalty.value(batch, reads[name], choice)
        # What the first row itself is worth enters no target.
        value = torch.cat([torch.zeros_like(future[:1]), future])
        shared = (self.shares_reward(rows.seen) & rows.seen.alive).any(0) if "team" in self.spec.reward else False
        ends = (steps.terminated, steps.truncated, steps.valid)
        return returns.n_step(steps.reward, value, rows.seen.alive, *ends, gamma=self.gamma, shared=shared)

    def _improvement(
        self, batch: Trajectory, acting: Features, reads: Mapping[str, Any], h: list[Tensor], done: Tensor
    ) -> dict[str, Tensor]:
        """The policy's loss, the temperature's, and those that come with the penalties; h are the critics' features,
        done the codes of what was done, reads what the penalties made of the batch."""
        seen, mask = batch.steps.seen, learns(batch.steps)
        if self.share_encoder:
            acting = Features(acting.h.detach(), acting.graph)
        self.chosen = choice = _choice(self.agent, acting, slice(None, -1), seen, batch.steps.key)
        proposals = self.code.propose(choice, seen)
        others = done if self.others == "replayed" else proposals.drawn()
        judges = list(self.critics)[: 1 if self.judge == "first" else None]
        with frozen(self.critics):
            q = _values(judges, h, seen, proposals.code, others).amin(0)
        tolls = {name: penalty.policy(batch, reads[name], choice) for name, penalty in self.penalties.items()}
        loss = proposals.mean(self._price(proposals, seen) - q)
        if self.updates < self.clone_updates + self.match_updates:
            loss = torch.zeros_like(loss)
        if self.restraint and (logits := _logits(choice)) is not None:
            loss = loss + self.restraint * logits
        for toll in tolls.values():
            loss = loss + toll.paid
        losses = {"policy": masked_mean(loss, mask)}
        for name, toll in tolls.items():
            losses |= {f"{name}_{part}": value for part, value in toll.losses.items()}
            for part, value in toll.figures.items():
                self.figure(f"{name}_{part}", value)
        with torch.no_grad():
            entropy = choice.entropy() if self.temperature is None else proposals.entropy()
        if self.temperature is not None:
            losses["temperature"] = self.temperature.loss(entropy, seen, mask)
            self.figure("temperature", masked_mean(self.temperature(seen), mask))
        self.figure("entropy", masked_mean(entropy, mask))
        self.figure("q_max", masked_mean(q.detach().amax(0), mask))
        degree = acting.graph[:-1].degree().float()
        self.figure("mean_degree", masked_mean(degree, mask))
        self.figure("isolated_share", masked_mean((degree == 0).float(), mask))
        return losses

    def _price(self, proposals: Proposals, seen: Observation) -> Tensor:
        """What each proposal pays for being foreseeable: alpha log pi, [K, *, N]."""
        if self.temperature is None:
            return torch.zeros_like(proposals.log_prob)
        price: Tensor = self.temperature(seen) * proposals.log_prob
        return price

    def after_update(self) -> None:
        if self.updates % self.policy_every:
            return
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.target_critics, self.critics),
            (self.target_bodies, self.critic_bodies),
        ]
        if self.target_agent is not None:
            pairs.append((self.target_agent, self.agent))
        for target, online in pairs:
            soft_update(target.state_dict().values(), online.state_dict().values(), self.tau)


@dataclass
class _Rows:
    """Rows 0..T of a batch: seen [T + 1, B], order (before which memory is cleared), keys, and who hears whom."""

    seen: Observation
    order: Tensor
    keys: Tensor
    graph: AgentGraph


def _values(
    critics: Iterable[nn.Module], features: Iterable[Tensor], seen: Observation, own: Tensor, others: Tensor
) -> Tensor:
    """Every critic's values of proposals `own` [K, *, N, C] from its own features: [critics, K, *, N]."""
    # With fewer critics than features the rest is not asked.
    pairs = zip(critics, features, strict=False)
    return torch.stack([critic(h, seen.alive, own, others) for critic, h in pairs])


def _choice(agent: Agent, features: Features, rows: slice, seen: Observation, key: Tensor) -> Choice:
    """What the policy chooses in some rows of its features."""
    choice = agent.read(Features(features.h[rows], features.graph[rows]), seen, key)
    assert not isinstance(choice, Tensor)
    return choice


def _logits(choice: Choice) -> Tensor | None:
    """Mean square [*, N] of the logits of every agent's available numbered actions, 0 for who has none; None where
    nobody has any."""
    if isinstance(choice, MixedChoice):
        return torch.where(choice.is_discrete, choice.numbers.size(), 0.0)
    return choice.size() if isinstance(choice, CategoricalChoice) else None
