"""Near who made the data: the penalty of BRAC and BEAR, paid for the distance from a clone that is learnt beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.learners.base import frozen
from gcoord.learners.constraints import Dual, Toll, kind_of, mean_by_kind
from gcoord.learners.divergences import KL, Divergence
from gcoord.learners.terms import warmed
from gcoord.models.agent import Agent, Body, Features
from gcoord.models.heads import Choice
from gcoord.models.kinds import policy_head
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Trajectory, learns, masked_mean, observe, played, resets


@dataclass
class _Read:
    """What the clone makes of a batch: features h and graph of its rows, and what is left of the weight."""

    h: Tensor
    graph: AgentGraph
    share: float


class Behaviour(nn.Module):
    """What a policy pays for being elsewhere than who made the data, weight * D(pi, beta), averaged over the living.

    BRAC (https://arxiv.org/abs/1911.11361): the weight is given; the policy pays, and with `values_pay` so does what
    next rows are worth (BRAC-v; without: BRAC-p). With exact values of one step and KL: pi is proportional to
    beta exp(Q / weight). BEAR (https://arxiv.org/abs/1906.00949): the weight is a multiplier, learnt by ascent so that
    the mean of D meets `threshold`: it rises exactly while D is above it.

    beta is an agent of its own with the same kind of body, so it too hears its neighbours; it is cloned from the
    batches by likelihood, or by the bound of a head that has one. No penalty trains it. With `learns` off it stays the
    agent that `init_from` named, such as one that was cloned on small teams, and with `fade` its hold loosens until the
    learner, on larger teams, is left to the team's credit alone: a beta that misleads is let go.

    Departures: the clone goes on learning beside the rest (BRAC fixes it after `clone_updates`); BEAR acts by its
    policy, not by the best of ten of its actions, so that what acts needs no critic, and takes MMD from its clone and
    not from the recorded actions of a state.

    Arguments:
        spec: of the teams.
        body: makes the clone's body.
        head: called with spec and width; gives the clone's head.
        divergence: called with spec and width; gives what is measured (`gcoord.learners.divergences`).
        weight: of the penalty; with a threshold to begin with.
        threshold: that the mean of D is to meet, one multiplier for every kind; None: the weight stays.
        values_pay: whether next rows are worth less by the penalty.
        low, high: bounds of the multiplier's logarithm.
        learns: whether the clone is learnt; where not, it must come from another run.
        fade: updates over which the weight falls to nothing, in a straight line; None: it stays.

    Logged: divergence, weight, and what the divergence reports. Raises ValueError for a weight or threshold below 0.
    """

    def __init__(
        self,
        spec: TeamSpec,
        body: Callable[..., Body],
        head: Callable[..., nn.Module] = policy_head,
        divergence: Callable[..., Divergence] = KL,
        weight: float = 0.1,
        threshold: float | None = None,
        values_pay: bool = True,
        low: float = -5.0,
        high: float = 10.0,
        learns: bool = True,
        fade: int | None = None,
    ) -> None:
        super().__init__()
        if weight < 0 or (threshold is not None and threshold < 0):
            raise ValueError(f"expected weight and threshold of at least 0 (got {weight} and {threshold})")
        if fade is not None and fade < 1:
            raise ValueError(f"expected fade of at least 1 update (got {fade})")
        self.agent = Agent(body(), partial(head, spec)).requires_grad_(learns)
        self.divergence = divergence(spec, self.agent.body.out_dim)
        self.dual = None if threshold is None else Dual(weight, len(spec.actions), low, high)
        self.weight, self.threshold, self.values_pay = weight, threshold, values_pay
        self.learns, self.needs_init, self.fade = learns, not learns, fade

    def followers(self) -> list[Agent]:
        return [self.agent]

    @torch.no_grad()
    def fits(self, agent: Agent) -> None:
        spec, n = self.agent.body.spec, len(self.agent.body.spec.actions)
        everybody = torch.ones(1, n, dtype=torch.bool)
        seen = observe(torch.zeros(1, n, *spec.own), everybody, torch.arange(n).unsqueeze(0))
        if spec.available:
            seen.available = torch.ones(1, n, spec.n_actions, dtype=torch.bool)
        graph = AgentGraph(mask=torch.zeros(1, n, n, dtype=torch.bool), batch_size=[1])
        key = torch.zeros(1, dtype=torch.long)
        h = [torch.zeros(1, n, one.body.out_dim) for one in (agent, self.agent)]
        policy = agent.read(Features(h[0], graph), seen, key)
        if isinstance(policy, Tensor):
            raise ValueError("expected an agent that chooses by chance to hold it near a behaviour (got action values)")
        self.divergence(policy, self._choice(Features(h[1], graph), seen, key), h[1], seen)

    def read(self, batch: Trajectory, graph: AgentGraph, updates: int) -> _Read:
        """The clone's features of rows 0..T, or 0..T - 1 where nobody asks for the last."""
        order, warm, body = resets(batch.steps.valid), warmed(self.agent.body, batch), self.agent.body
        share = 1.0 if self.fade is None else max(1 - updates / self.fade, 0.0)
        if self.values_pay:
            features = body.unroll(batch.seen, warm, order, graph, batch.keys_of_seen)
        else:
            features = body.unroll(batch.steps.seen, warm, order[:-1], graph[:-1], batch.steps.key)
        return _Read(features.h, features.graph, share)

    def losses(self, batch: Trajectory, read: _Read) -> dict[str, Tensor]:
        """The clone's own: nll, and what else a head's bound is made of."""
        if not self.learns:
            return {}
        count = len(batch.steps.valid)
        choice = self._choice(Features(read.h[:count], read.graph[:count]), batch.steps.seen, batch.steps.key)
        action, bound = played(batch.steps), getattr(choice, "bound", None)
        terms = {"nll": -choice.log_prob(action)} if bound is None else bound(action)
        mask = learns(batch.steps)
        return {name: masked_mean(term, mask) for name, term in terms.items()}

    def policy(self, batch: Trajectory, read: _Read, choice: Choice) -> Toll:
        steps, mask = batch.steps, learns(batch.steps)
        rows = slice(None, len(steps.valid))
        h, graph, seen = read.h[rows].detach(), read.graph[rows], steps.seen
        with frozen(self.agent):
            behaviour = self._choice(Features(h, graph), seen, steps.key)
            apart = self.divergence(choice, behaviour, h, seen)
        weight = read.share * self._weight(seen)
        losses = self.divergence.losses(choice, behaviour, h, seen, mask)
        if self.dual is not None:
            losses["dual"] = self.dual.loss(mean_by_kind(apart.detach() - self.threshold, seen, mask, self.dual.n))
        figures = {"divergence": masked_mean(apart.detach(), mask), "weight": masked_mean(weight, mask)}
        return Toll(weight * apart, losses, {**figures, **self.divergence.figures(behaviour, mask)})

    @torch.no_grad()
    def value(self, batch: Trajectory, read: _Read, choice: Choice) -> Tensor:
        after = batch.seen[1:]
        if not self.values_pay:
            return torch.zeros_like(batch.steps.reward)
        h = read.h[1:]
        behaviour = self._choice(Features(h, read.graph[1:]), after, batch.keys_of_seen[1:])
        return read.share * self._weight(after) * self.divergence(choice, behaviour, h, after)

    def _choice(self, features: Features, seen: Observation, key: Tensor) -> Choice:
        choice = self.agent.read(features, seen, key)
        assert not isinstance(choice, Tensor)
        return choice

    def _weight(self, seen: Observation) -> Tensor:
        """[*, N], without gradient."""
        if self.dual is None:
            return torch.full_like(seen.alive, self.weight, dtype=torch.float32)
        return self.dual.value[kind_of(seen)]
