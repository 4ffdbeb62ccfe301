"""COMA's critic: what each of an agent's actions would have been worth, given what the others did."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import Complete
from gcoord.models.agent import Agent, Body
from gcoord.models.critics import Assessed
from gcoord.models.heads import CategoricalChoice
from gcoord.models.kernels import RelationKernel
from gcoord.models.pool import team_pool
from gcoord.trajectory import Observation, Step, Trajectory, learns, played, resets


class Counterfactual(nn.Module):
    """Counterfactual multi-agent policy gradients (Foerster et al., https://arxiv.org/abs/1705.08926, eq. 4).

        A_i(s, u) = Q_i(s, u) - sum_a pi_i(a | tau_i) Q_i(s, (u_-i, a))
        Q_i(s, (u_-i, .)) = f(h_i, attention of h_i over (h_j, u_j) of j != i, g)

    Observations pass the body's rounds; actions enter in one last attention round over the others, so an agent's own
    action cannot reach its values: not directly, and not by way of another agent. g is the mean and maximum of h over
    the living. The values are learnt from lambda-returns of the values of the actions that were taken (lambda 0.8 in
    the paper). Departures: the paper's critic is sized by N and has a target network; one critic is learnt from fresh
    rollouts here.

    Arguments:
        body: makes the critic's own features of the team.
        heads: of the last attention round.
        hidden: width of the last hidden layer.

    Shapes: seen [*], action [*, N] long -> q [*, N, A]. Raises ValueError for continuous actions.
    """

    takes_continuous = False

    def __init__(self, body: Body, heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        if not body.spec.discrete:
            raise ValueError(
                f"expected discrete actions for a value of each, as env.continuous=false gives where the world has "
                f"both (got {body.spec.actions})"
            )
        self.body, self.n_actions = body, body.spec.n_actions
        self.topology = Complete()
        self.others = RelationKernel(
            body.out_dim, heads, in_dim=body.out_dim, sender_dim=body.out_dim + self.n_actions, self_loop=False
        )
        self.read = nn.Sequential(nn.Linear(4 * body.out_dim, hidden), nn.Tanh(), nn.Linear(hidden, self.n_actions))

    def forward(self, h: Tensor, action: Tensor, alive: Tensor) -> Tensor:
        """q [*, N, A] from features h [*, N, D], the actions taken [*, N] long and alive [*, N]."""
        said = torch.cat([h, F.one_hot(torch.where(alive, action, 0), self.n_actions).to(h.dtype)], -1)
        heard = self.others(h, self.topology(alive), said)
        team = team_pool(h, alive).unsqueeze(-2).expand(*h.shape[:-1], -1)
        q: Tensor = self.read(torch.cat([h, heard, team], -1))
        return q

    def values(self, seen: Observation, action: Tensor, order: Tensor, key: Tensor) -> Tensor:
        """q [T, B, N, A] of rows in order, `order` [T, B] as `gcoord.trajectory.resets`."""
        return self(self.body.unroll(seen, None, order, key=key).h, action, seen.alive)

    def assess(self, trajectory: Trajectory, agent: Agent, members: Tensor | None) -> Assessed:
        """The value of the actions taken, and the policy's mean over an agent's own actions as the baseline; the last
        row's actions are drawn from the policy."""
        steps, seen = trajectory.steps, trajectory.seen
        order, key = resets(steps.valid), trajectory.keys_of_seen
        choice, _ = agent.unroll(seen, trajectory.memory, order, key=key)
        assert isinstance(choice, CategoricalChoice)
        action = torch.cat([played(steps), choice.sample()[-1:]])
        q = self.values(seen, action, order, key)
        return Assessed(_of(q, action), None, (choice.probs * q).sum(-1)[:-1])

    def predict(self, steps: Step) -> Tensor | None:
        action = torch.where(learns(steps), played(steps), 0)
        return _of(self.values(steps.seen, action, resets(steps.valid)[:-1], steps.key), action)


def _of(q: Tensor, action: Tensor) -> Tensor:
    """q [*, N, A] of the action [*, N]."""
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
