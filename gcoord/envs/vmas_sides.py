"""Size-free views of VMAS scenarios with two sides: football, simple_tag, simple_adversary."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from gcoord.envs.vmas_cards import CARDS as CARDS
from gcoord.envs.vmas_view import View, distances, given, push_off
from gcoord.spec import Reduction
from gcoord.trajectory import Observation


class Football(View):
    """The blue team against as many red players of the scenario's own script (VMAS `football`).

    own [velocity 2, ball relative 2, ball's velocity 2, ball's way to the goal 2]; ball and red players are entities
    [is ball, is red, velocity 2]. The reward is the team's: 100 a goal, and for the ball's way to the goal. Success:
    the blue team scored, which ends an episode, as the other goal does. At fixed density pitch, goals and time limit
    grow with the square root of the team; players and ball keep their size and speed.
    """

    own_n_agents: ClassVar[int | None] = 3
    metrics: ClassVar[dict[str, Reduction]] = {"success": "last"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 500,
        n_red_agents: int | None = None,
        **options: Any,
    ) -> None:
        self._n_red = n_red_agents
        super().__init__(
            "football", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options
        )

    def _team(self) -> dict[str, Any]:
        return {
            "n_blue_agents": self.n_agents,
            "n_red_agents": self.n_agents if self._n_red is None else self._n_red,
        }

    def _arguments(self) -> dict[str, Any]:
        own = {"pitch_length": 3.0, "pitch_width": 1.5, "goal_size": 0.35}
        sides = {name: self._options.get(name, value) * self._side for name, value in own.items()}
        return {**sides, "observe_teammates": False, "observe_adversaries": False}

    def _own(self) -> Tensor:
        position, ball = self._stack(self.agents, "pos"), self.scenario.ball.state
        common = torch.cat([ball.vel, self.scenario.right_goal_pos - ball.pos], dim=-1)
        common = common.unsqueeze(1).expand(-1, self.n_agents, -1)
        return torch.cat([self._stack(self.agents, "vel"), ball.pos.unsqueeze(1) - position, common], dim=-1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        bodies = [self.scenario.ball, *self.scenario.red_agents]
        position = self._stack(bodies, "pos")
        kind = torch.zeros_like(position)
        kind[:, :1, 0] = 1.0
        kind[:, 1:, 1] = 1.0
        features = torch.cat([kind, self._stack(bodies, "vel")], dim=-1)
        return features, position, torch.ones_like(position[..., 0], dtype=torch.bool)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward = self.scenario.reward(self.agents[0])  # the team's: the same for all
        scored = self.scenario._sparse_reward_blue > 0
        return reward.unsqueeze(-1).repeat(1, self.n_agents), self.scenario.done(), {"success": scored.float()}

    def scripted(self, observation: Observation) -> Tensor:
        """The nearest gets behind the ball and pushes it to the goal; the others follow at a distance."""
        own = observation.own
        velocity, ball, drift, way = own[..., :2], own[..., 2:4], own[..., 4:6], own[..., 6:8]
        ahead = way / torch.linalg.vector_norm(way, dim=-1, keepdim=True).clamp(min=1e-6)
        aside = torch.stack([-ahead[..., 1], ahead[..., 0]], dim=-1)
        along = (ball * ahead).sum(-1, keepdim=True)  # how far behind the ball
        off = -(ball * aside).sum(-1, keepdim=True)  # how far beside its way
        side = torch.where(off >= 0, 1.0, -1.0) * (along < 0.03)
        around = ball - 0.08 * ahead + 0.1 * side * aside
        pushes = (along > 0) & (off.abs() < 0.02)
        first = torch.where(pushes, ball + 0.1 * ahead, around)
        far = torch.linalg.vector_norm(ball, dim=-1)
        mine = (far == far.amin(-1, keepdim=True)).unsqueeze(-1)
        goal = torch.where(mine, first, ball - 0.4 * ahead) + 0.1 * drift
        apart = push_off(given(observation.position), 0.15) * ~mine
        return self._steer(8.0 * goal - 2.0 * velocity + apart)


class SimpleTag(View):
    """Slow predators chase quick prey among obstacles (VMAS `simple_tag`, https://arxiv.org/abs/1706.02275).

    Two kinds, `adversary` (three of every four agents) and `agent` (the prey, at least one). own [velocity 2, position
    relative to the arena's half side 2]; obstacles are entities with the feature 1. Predators earn the sum of what they
    all do, 10 a touch and step, each prey -10 for a predator's touch. `touches`: pairs in touch, per prey and episode.
    The scenario has no end of its own. At fixed density the arena's sides grow with the square root of the team, and
    there is an obstacle for every two agents; otherwise two.
    """

    own_n_agents: ClassVar[int | None] = 4
    metrics: ClassVar[dict[str, Reduction]] = {"touches": "sum"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        **options: Any,
    ) -> None:
        if n_agents == 1:
            raise ValueError("expected at least 2 agents in vmas/simple_tag, one of each kind (got n_agents=1)")
        super().__init__(
            "simple_tag", n_agents, num_envs, device, seed, continuous, density, max_steps, "own", **options
        )

    def _team(self) -> dict[str, Any]:
        prey = max(1, self.n_agents // 4)
        return {"num_good_agents": prey, "num_adversaries": self.n_agents - prey}

    def _arguments(self) -> dict[str, Any]:
        return {
            "bound": self._options.get("bound", 1.0) * self._side,
            "num_landmarks": self._options.get("num_landmarks", max(1, round(2 * self._side**2))),
        }

    def _own(self) -> Tensor:
        return torch.cat([self._stack(self.agents, "vel"), self._stack(self.agents, "pos") / self.scenario.bound], -1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        position = self._stack(self.world.landmarks, "pos")
        ones = torch.ones_like(position[..., :1])
        return ones, position, ones.squeeze(-1).bool()

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        hunters, prey = self.scenario.adversaries(), self.scenario.good_agents()
        # Counted first: the scenario may put prey that was caught elsewhere.
        reach = hunters[0].shape.radius + prey[0].shape.radius
        touches = (distances(self._stack(hunters, "pos"), self._stack(prey, "pos")) < reach).sum((1, 2)) / len(prey)
        reward, done, _ = super()._judge()
        return reward, done, {"touches": touches}

    def scripted(self, observation: Observation) -> Tensor:
        """Predators go for the nearest prey; prey runs from the predators and from the walls."""
        position, velocity, place = given(observation.position), observation.own[..., :2], observation.own[..., 2:4]
        prey = observation.kind == 1  # [B, N]
        apart = position.unsqueeze(1) - position.unsqueeze(2)  # [B, i, j, 2]: from i to j
        far = torch.linalg.vector_norm(apart, dim=-1)
        target = far.masked_fill(~prey.unsqueeze(1), torch.inf).argmin(-1)
        chase = apart.gather(2, target[..., None, None].expand(*target.shape, 1, 2)).squeeze(2)
        fear = (apart / far.square().clamp(min=1e-3).unsqueeze(-1)).masked_fill(prey[:, None, :, None], 0.0).sum(2)
        flee = -0.3 * fear - 2.0 * place.abs().pow(4) * place.sign()
        return self._steer(torch.where(prey.unsqueeze(-1), 3.0 * flee, 5.0 * chase - 0.5 * velocity))


class SimpleAdversary(View):
    """A team covers its secret goal while an adversary guesses at it (VMAS `simple_adversary`,
    https://arxiv.org/abs/1706.02275).

    Two kinds, one `adversary` and the `agent`s. own [goal relative 2, zeros for the adversary]; landmarks, one for each
    agent but the adversary, are entities with the feature 1. A good agent earns how far the adversary is from the goal
    minus how far the nearest of them is, the adversary minus its own distance. `success`: a good agent is within its
    radius of the goal at the last step. The scenario has no end of its own. One goal serves the whole batch until all
    teams are reset. At fixed density the arena's sides grow with the square root of the team.
    """

    own_n_agents: ClassVar[int | None] = 3
    metrics: ClassVar[dict[str, Reduction]] = {"success": "last"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        **options: Any,
    ) -> None:
        if n_agents == 1:
            raise ValueError("expected at least 2 agents in vmas/simple_adversary, one of each kind (got n_agents=1)")
        super().__init__(
            "simple_adversary", n_agents, num_envs, device, seed, continuous, density, max_steps, "own", **options
        )

    def _restart(self) -> None:
        super()._restart()
        for body in self.world.entities:
            body.state.pos = body.state.pos * self._side

    def _goal(self) -> Tensor:
        """[B, 1, 2]."""
        goal: Tensor = self.agents[0].goal.state.pos
        return goal.unsqueeze(1)

    def _own(self) -> Tensor:
        way = self._goal() - self._stack(self.agents, "pos")
        good = way.new_tensor([not agent.adversary for agent in self.agents])
        return way * good.unsqueeze(-1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        position = self._stack(self.world.landmarks, "pos")
        ones = torch.ones_like(position[..., :1])
        return ones, position, ones.squeeze(-1).bool()

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward, done, _ = super()._judge()
        far = distances(self._stack(self.scenario.good_agents(), "pos"), self._goal())
        return reward, done, {"success": (far < self.agents[-1].shape.radius).any(1).squeeze(-1).float()}

    def scripted(self, observation: Observation) -> Tensor:
        """Good agents spread over the landmarks, the nearest on the goal; the adversary follows the crowd."""
        position, landmark = given(observation.position), given(observation.entity_position)
        way = observation.own
        good = observation.kind == 1
        far = torch.linalg.vector_norm(way, dim=-1).masked_fill(~good, torch.inf)
        first = (far == far.amin(-1, keepdim=True)) & good
        other = torch.arange(self.n_agents, device=position.device) % landmark.shape[1]
        goal = torch.where(first.unsqueeze(-1), way, landmark[:, other] - position)
        crowd = (position * good.unsqueeze(-1)).sum(1, keepdim=True) / good.sum(-1).view(-1, 1, 1)
        return self._steer(2.0 * torch.where(good.unsqueeze(-1), goal, crowd - position))
