"""How good it is to be here: values of every agent, from its own surroundings or from the whole team's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models.agent import Agent, Body, Features
from gcoord.models.pool import team_pool
from gcoord.trajectory import Observation, Step, Trajectory, resets


class Values(NamedTuple):
    """each [*, N]: of every agent; team [*]: of the team as one, None where it was not asked for or is not known;
    memory after the last row."""

    each: Tensor
    team: Tensor | None
    memory: Tensor | None


class Assessed(NamedTuple):
    """What a rollout's rows are worth: value [T + 1, B, N] of every row of `Trajectory.seen` and team [T + 1, B] (see
    `Values`); baseline [T, B, N]: what is taken from value for the advantage, None where returns are (GAE)."""

    value: Tensor
    team: Tensor | None
    baseline: Tensor | None


class Critic(nn.Module):
    """A value for every agent (IPPO: `Local`; MAPPO, https://arxiv.org/abs/2103.01955: `Central`).

    V_i = f(h_i), or with `central` V_i = f(h_i, g) where g is the mean and maximum of h over the living. A central
    critic also values the team as one, V = f(mean of h_i over the living members, g): where the reward is the team's,
    that is what a dead agent is worth.

    Arguments:
        body: makes the critic's own features of the team.
        central: whether the pooled team feature g is read too; only training needs it.
        hidden: width of the last hidden layer.
    """

    def __init__(self, body: Body, central: bool = False, hidden: int = 64) -> None:
        super().__init__()
        self.body = body
        # The hidden layer on (h_i, g), split so that g is multiplied once a team.
        self.own = nn.Linear(body.out_dim, hidden)
        self.team = nn.Linear(2 * body.out_dim, hidden, bias=False) if central else None
        self.value = nn.Linear(hidden, 1)
        for layer, gain in ((self.own, 2**0.5), (self.team, 2**0.5), (self.value, 1.0)):
            if layer is not None:
                nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(self.own.bias)
        nn.init.zeros_(self.value.bias)

    def assess(self, trajectory: Trajectory, agent: Agent, members: Tensor | None) -> Assessed:
        """What every row of a rollout is worth under the policy that played it."""
        values = self.unroll(
            trajectory.seen, None, resets(trajectory.steps.valid), key=trajectory.keys_of_seen, members=members
        )
        return Assessed(values.each, values.team, None)

    def predict(self, steps: Step) -> Tensor | None:
        """What rows [T, B] are said to be worth, to be regressed on returns [T, B, N]; None: nothing is learnt."""
        return self.unroll(steps.seen, None, resets(steps.valid)[:-1], key=steps.key).each

    def _values(self, features: Features, alive: Tensor, members: Tensor | None) -> Values:
        hidden, team = self.own(features.h), None
        if self.team is not None:
            whole = self.team(team_pool(features.h, alive))  # [*, hidden]
            hidden = hidden + whole.unsqueeze(-2)
            if members is not None:
                mean = team_pool(features.h, alive & members)[..., : features.h.shape[-1]]
                team = self._read(self.own(mean) + whole)
        return Values(self._read(hidden), team, features.memory)

    def _read(self, hidden: Tensor) -> Tensor:
        value: Tensor = self.value(torch.tanh(hidden))
        return value.squeeze(-1)

    def forward(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        members: Tensor | None = None,
    ) -> Values:
        """seen [*] -> Values. `members` [*, N] bool: those who share the team's reward, whose team's value is asked for
        too; a local critic knows none."""
        return self._values(self.body(seen, memory, graph, key), seen.alive, members)

    def unroll(
        self,
        seen: Observation,
        memory: Tensor | None = None,
        resets: Tensor | None = None,
        graph: AgentGraph | None = None,
        key: Tensor | None = None,
        members: Tensor | None = None,
    ) -> Values:
        """seen [T, B] in order -> Values of [T, B]."""
        return self._values(self.body.unroll(seen, memory, resets, graph, key), seen.alive, members)


class NoCritic(nn.Module):
    """No values: what follows is worth what was earned, and beyond the last row nothing (REINFORCE).

    Arguments:
        body: not read; every critic is made alike.
    """

    def __init__(self, body: Body) -> None:
        super().__init__()

    def assess(self, trajectory: Trajectory, agent: Agent, members: Tensor | None) -> Assessed:
        return Assessed(torch.zeros_like(trajectory.seen.alive, dtype=trajectory.steps.reward.dtype), None, None)

    def predict(self, steps: Step) -> Tensor | None:
        return None


def Local(body: Body, hidden: int = 64) -> Critic:
    """A critic that sees what its agent sees and hears."""
    return Critic(body, central=False, hidden=hidden)


def Central(body: Body, hidden: int = 64) -> Critic:
    """A critic that also sees the whole team, pooled."""
    return Critic(body, central=True, hidden=hidden)
