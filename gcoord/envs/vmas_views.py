"""VMAS scenarios set up so that nothing an agent senses depends on how many there are.

Each view says what an agent senses by itself (`own`), what is heard besides agents (entities), what counts as success,
and how the world grows with the team. At fixed density the side of the arena grows with the square root of the team, so
that each agent keeps its space, and the time limit grows with the side, so that what was within reach stays so.
Positions are the simulator's own and no part of `own`: the graph turns them into relative ones.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from gcoord.envs.vmas_cards import CARDS as CARDS
from gcoord.envs.vmas_view import View, distances, given, others, push_off, rows_of
from gcoord.spec import Reduction, Reward
from gcoord.trajectory import Observation


class Navigation(View):
    """Each agent to its own goal without touching the others (VMAS `navigation`, https://arxiv.org/abs/2207.03530).

    own [velocity 2, goal relative 2, and with `lidar` what 12 rays meet]. Success: the share of agents within their
    radius of their goal at the last step, which is what ends an episode when all are. `collisions`: how often an agent
    touched another, per agent and episode (each step of a touch counts, and costs 1).

    Arguments besides VmasEnv's:
        goal_sight: a goal further away than this is sensed in its direction at this distance, so that what an agent
            senses stays what it was in a small arena; None: at its true distance.
        lidar: sense the others by rays of length 0.35; without, only the graph tells where they are, and learning not
            to touch takes some four times the frames.
        collisions: whether agents are solid.
        shared_rew: whether agents earn the team's progress instead of their own.
    """

    own_n_agents: ClassVar[int | None] = 4
    metrics: ClassVar[dict[str, Reduction]] = {"success": "last", "collisions": "sum"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        goal_sight: float | None = 1.0,
        lidar: bool = True,
        collisions: bool = True,
        shared_rew: bool = False,
        **options: Any,
    ) -> None:
        if goal_sight is not None and not goal_sight > 0:
            raise ValueError(f"expected goal_sight above 0, or none (got {goal_sight})")
        self._goal_sight = goal_sight
        if lidar and not collisions:
            raise ValueError("expected lidar=False with collisions=False, as rays only see solid agents (got True)")
        self._lidar, self._collisions, self._shared = lidar, collisions, shared_rew
        reward: Reward = "own" if not shared_rew else "mixed" if collisions else "team"
        super().__init__(
            "navigation", n_agents, num_envs, device, seed, continuous, density, max_steps, reward, **options
        )

    def _arguments(self) -> dict[str, Any]:
        half = {axis: self._options.get(f"world_spawning_{axis}", 1) * self._side for axis in "xy"}
        radius = self._options.get("agent_radius", 0.1)
        self._room(2 * self.n_agents, 2 * radius + 0.05, 2 * math.sqrt(half["x"] * half["y"]))
        return {
            "collisions": self._collisions,
            "shared_rew": self._shared,
            **{f"world_spawning_{axis}": value for axis, value in half.items()},
        }

    def _restart(self) -> None:
        super()._restart()
        goals = self._stack([agent.goal for agent in self.agents], "pos")
        self.extra["goal"] = goals
        self.extra["distance"] = torch.linalg.vector_norm(self._stack(self.agents, "pos") - goals, dim=-1)  # [B, N]

    def _own(self) -> Tensor:
        position = self._stack(self.agents, "pos")
        goal = self.extra["goal"] - position
        if self._goal_sight is not None:
            goal = goal * (self._goal_sight / torch.linalg.vector_norm(goal, dim=-1, keepdim=True)).clamp(max=1.0)
        parts = [self._stack(self.agents, "vel"), goal]
        if self._lidar:
            parts.append(self._rays(position))
        return torch.cat(parts, dim=-1)

    def _rays(self, position: Tensor) -> Tensor:
        """How far within its range each ray [B, N, R] of each agent ends at another agent; the simulator casts them one
        agent after another."""
        sensor = self.agents[0].sensors[0]
        radius, reach = self.agents[0].shape.radius, sensor._max_range
        angle = sensor._angles.unsqueeze(1) + self._stack(self.agents, "rot")  # [B, N, R]
        x, y = torch.cos(angle).unsqueeze(-1), torch.sin(angle).unsqueeze(-1)
        apart = (position.unsqueeze(1) - position.unsqueeze(2)).unsqueeze(2)  # [B, N, 1, N, 2]
        along = apart[..., 0] * x + apart[..., 1] * y  # [B, N, R, N]
        aside = apart[..., 0] * y - apart[..., 1] * x
        inside = radius**2 - aside.square()
        hit = (inside > 0) & (along > 0)  # oneself is 0 along: no hit
        ends = along - inside.clamp(min=1e-8).sqrt()
        return reach - torch.where(hit, ends, reach).amin(-1).clamp(max=reach)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The scenario's reward for all agents at once; its own loops over pairs in Python, and overlooks a touch where
        the pair overlaps in no team of the batch: here each team is judged by itself."""
        scenario, agent = self.scenario, self.agents[0]
        position = self._stack(self.agents, "pos")
        distance = torch.linalg.vector_norm(position - self.extra["goal"], dim=-1)  # [B, N]
        progress = (self.extra["distance"] - distance) * scenario.pos_shaping_factor
        self.extra["distance"] = distance
        if self._shared:
            progress = progress.sum(-1, keepdim=True).expand_as(progress)
        arrived = (distance < agent.goal.shape.radius).all(-1, keepdim=True)
        reward = progress + arrived * scenario.final_reward
        touches = torch.zeros_like(distance)
        if self._collisions:
            gap = distances(position, position) - agent.shape.radius - agent.shape.radius
            touching = (gap <= scenario.min_collision_distance) & others(self.n_agents, gap.device)
            touches = touching.sum(-1).to(distance)
            reward = reward + touches * scenario.agent_collision_penalty
        there = distance < agent.shape.radius
        return reward, there.all(-1), {"success": there.float().mean(-1), "collisions": touches.mean(-1)}

    def scripted(self, observation: Observation) -> Tensor:
        """Straight to the goal, braking in time, each pushed off by those who are close."""
        velocity, goal = observation.own[..., :2], observation.own[..., 2:4]
        return self._steer(2.0 * goal - 2.5 * velocity + 2.0 * push_off(given(observation.position), 0.4))


class SimpleSpread(View):
    """As many landmarks as agents: cover them all, touch nobody (VMAS `simple_spread`, https://arxiv.org/abs/1706.02275).

    own [velocity 2]; landmarks are entities with the feature 1. Success: the share of landmarks with an agent within
    its radius at the last step. The reward is the team's: minus the agents' number times the sum over landmarks of the
    distance to the nearest agent, minus 2 for each touching pair; it grows with the square of the team. The scenario
    has no end of its own.
    """

    own_n_agents: ClassVar[int | None] = 3
    metrics: ClassVar[dict[str, Reduction]] = {"success": "last", "collisions": "sum"}

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
        super().__init__(
            "simple_spread", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options
        )

    def _restart(self) -> None:
        super()._restart()
        for body in self.world.entities:
            body.state.pos = body.state.pos * self._side

    def _own(self) -> Tensor:
        return self._stack(self.agents, "vel")

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        position = self._stack(self.world.landmarks, "pos")
        ones = torch.ones_like(position[..., :1])
        return ones, position, ones.squeeze(-1).bool()

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The scenario's reward, which loops over agents, landmarks and agents again in Python."""
        position = self._stack(self.agents, "pos")
        nearest = distances(position, self._stack(self.world.landmarks, "pos")).amin(1)  # [B, M]
        radius = self.agents[0].shape.radius
        touching = distances(position, position) - radius - radius < 0
        touches = (touching & others(self.n_agents, touching.device)).sum((1, 2)).to(nearest)  # [B]
        reward = -(nearest.sum(-1) * self.n_agents + touches)
        metrics = {"success": (nearest < radius).float().mean(-1), "collisions": touches / self.n_agents}
        return reward.unsqueeze(-1).expand(-1, self.n_agents).contiguous(), self.scenario.done(), metrics

    def scripted(self, observation: Observation) -> Tensor:
        """The i-th agent to the i-th landmark."""
        return self._steer(
            3.0 * (given(observation.entity_position) - given(observation.position)) - 2.0 * observation.own
        )


class Discovery(View):
    """Targets that two agents must reach together, and that come back elsewhere (VMAS `discovery`).

    own [velocity 2, position relative to the arena's half side 2, and with `lidar` 15 rays to targets]; targets are
    entities with the feature 1. `targets`: how many were covered in the episode, per agent. Targets come back, so there
    is no last one and no success. At fixed density there are 7 targets for every 5 agents, rounded up.
    """

    own_n_agents: ClassVar[int | None] = 5
    metrics: ClassVar[dict[str, Reduction]] = {"targets": "sum"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        lidar: bool = False,
        n_targets: int | None = None,
        **options: Any,
    ) -> None:
        self._lidar, self._n_targets = lidar, n_targets
        reward: Reward = (
            "team" if options.get("shared_reward") and not options.get("agent_collision_penalty") else "own"
        )
        super().__init__(
            "discovery", n_agents, num_envs, device, seed, continuous, density, max_steps, reward, **options
        )

    def _arguments(self) -> dict[str, Any]:
        half = {axis: self._options.get(f"{axis}_semidim", 1) * self._side for axis in "xy"}
        n_targets = math.ceil(7 * self._side**2 - 1e-9) if self._n_targets is None else self._n_targets
        spacing = self._options.get("min_dist_between_entities", 0.2)
        self._room(self.n_agents + n_targets, spacing, 2 * math.sqrt(half["x"] * half["y"]))
        return {"n_targets": n_targets, **{f"{axis}_semidim": value for axis, value in half.items()}}

    def _own(self) -> Tensor:
        half = self._stack(self.agents, "pos").new_tensor([self.world.x_semidim, self.world.y_semidim])
        parts = [self._stack(self.agents, "vel"), self._stack(self.agents, "pos") / half]
        if self._lidar:
            parts.append(torch.stack([agent.sensors[0].measure() for agent in self.agents], dim=1))
        return torch.cat(parts, dim=-1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        position = self._stack(self.scenario._targets, "pos")
        return torch.ones_like(position[..., :1]), position, ~self.scenario.all_time_covered_targets

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        scenario, agents = self.scenario, self.agents
        if scenario.agent_collision_penalty:
            reward = torch.stack([scenario.reward(agent) for agent in agents], dim=1)
        else:
            # The first agent's call counts who covers what, the last one's moves what was covered; between them the
            # scenario only asks each pair whether it touched, for nothing.
            for agent in agents[:1] + agents[1:][-1:]:
                scenario.reward(agent)
            covering = [scenario.shared_covering_rew if scenario.shared_reward else a.covering_reward for a in agents]
            reward = torch.stack(covering, dim=1) + scenario.time_rew.unsqueeze(-1)
        covered = scenario.covered_targets.sum(-1) / self.n_agents
        return reward, scenario.done(), {"targets": covered}

    def scripted(self, observation: Observation) -> Tensor:
        """In pairs (the odd one joins the first) to the target nearest to the pair's middle."""
        position = given(observation.position)  # [B, N, 2]
        pair = torch.arange(self.n_agents, device=position.device) // 2
        pair = torch.where(2 * pair + 1 < self.n_agents, pair, 0)
        middle = (position[:, 2 * pair] + position[:, (2 * pair + 1).clamp(max=self.n_agents - 1)]) / 2
        far = distances(middle, given(observation.entity_position))
        far = far.masked_fill(~given(observation.entity_present).unsqueeze(1), math.inf)
        goal = rows_of(given(observation.entity_position), far.argmin(-1))
        return self._steer(3.0 * (goal - position) - 2.0 * observation.own[..., :2] + push_off(position, 0.15))


class Dispersion(View):
    """From one point to as many pieces of food as there are agents: spread out and eat them all (VMAS `dispersion`).

    own [velocity 2]; food is an entity with the feature 1, absent once eaten. Success: the share of food eaten at the
    last step; an episode ends when all is. Agents who arrive together share the reward of 1.
    """

    own_n_agents: ClassVar[int | None] = 4
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
        share_reward: bool = False,
        penalise_by_time: bool = False,
        **options: Any,
    ) -> None:
        self._shared = {"share_reward": share_reward, "penalise_by_time": penalise_by_time}
        reward: Reward = "team" if share_reward else "own"
        super().__init__(
            "dispersion", n_agents, num_envs, device, seed, continuous, density, max_steps, reward, **options
        )

    def _arguments(self) -> dict[str, Any]:
        return {"pos_range": self._options.get("pos_range", 1.0) * self._side, **self._shared}

    def _restart(self) -> None:
        super()._restart()
        self.extra["food"] = self._stack(self.world.landmarks, "pos")
        self.extra["eaten"] = torch.zeros_like(self.extra["food"][..., 0], dtype=torch.bool)  # [B, M]

    def _own(self) -> Tensor:
        return self._stack(self.agents, "vel")

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        food = self.extra["food"]
        return torch.ones_like(food[..., :1]), food, ~self.extra["eaten"]

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The scenario's reward, which loops over agents and food in Python."""
        scenario, eaten = self.scenario, self.extra["eaten"]
        reach = self.agents[0].shape.radius + self.world.landmarks[0].shape.radius
        eats = distances(self._stack(self.agents, "pos"), self.extra["food"]) < reach  # [B, N, M]
        eats = eats & ~eaten.unsqueeze(1)
        eaters = eats.sum(1)  # [B, M]
        if scenario.share_reward:
            reward = (eaters > 0).sum(-1, keepdim=True).float().expand(-1, self.n_agents)
        else:
            reward = (eats / eaters.clamp(min=1).unsqueeze(1)).sum(-1)
        if scenario.penalise_by_time:
            reward = torch.where(reward == 0, -0.01, reward)
        eaten = eaten | (eaters > 0)
        self.extra["eaten"] = eaten
        return reward.contiguous(), eaten.all(-1), {"success": eaten.float().mean(-1)}

    def scripted(self, observation: Observation) -> Tensor:
        """The i-th agent to the i-th piece of food, then to the nearest that is left."""
        left = given(observation.entity_present)
        far = distances(given(observation.position), given(observation.entity_position))
        far = far.masked_fill(~left.unsqueeze(1), 1e9)
        mine = torch.arange(self.n_agents, device=left.device).clamp(max=left.shape[1] - 1).expand(len(left), -1)
        goal = torch.where(left.gather(1, mine), mine, far.argmin(-1))
        return self._steer(
            3.0 * (rows_of(given(observation.entity_position), goal) - given(observation.position))
            - 2.0 * observation.own
        )


class Flocking(View):
    """Stay close to each other and to a moving target, without touching (VMAS `flocking`).

    own [velocity 2, target relative 2]; obstacles and the target are entities [is obstacle, is target, velocity 2].
    `distance`: the agents' mean distance to the target at the last step; `collisions`: touches per agent and episode.
    There is no success: the flock is never done. At fixed density there are 5 obstacles for every 4 agents, rounded up;
    the target's circle keeps its size.
    """

    own_n_agents: ClassVar[int | None] = 4
    metrics: ClassVar[dict[str, Reduction]] = {"distance": "last", "collisions": "sum"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        n_obstacles: int | None = None,
        **options: Any,
    ) -> None:
        self._n_obstacles = n_obstacles
        super().__init__("flocking", n_agents, num_envs, device, seed, continuous, density, max_steps, "own", **options)

    def _arguments(self) -> dict[str, Any]:
        n_obstacles = math.ceil(5 * self._side**2 - 1e-9) if self._n_obstacles is None else self._n_obstacles
        spacing = self._options.get("min_dist_between_entities", 0.15)
        self._room(self.n_agents + n_obstacles + 1, spacing, 2 * self._side)
        return {"n_obstacles": n_obstacles}

    def _prepare(self) -> None:
        super()._prepare()
        self.scenario.x_dim = self.scenario.y_dim = self._side

    def _restart(self) -> None:
        super()._restart()
        self.extra["scatter"] = self._scatter()[0]

    def _scatter(self) -> tuple[Tensor, Tensor]:
        """How far from the wanted distance each agent is to the others and the target [B, N]; who is how far from whom,
        the target first [B, N + 1, N + 1]."""
        scenario = self.scenario
        position = self._stack(self.world.agents, "pos")
        distance = distances(position, position)
        off = (distance - scenario.desired_distance).square() * others(self.n_agents + 1, distance.device)
        return (off.sum(-1) / self.n_agents * scenario.dist_shaping_factor)[:, 1:], distance

    def _own(self) -> Tensor:
        target = self.scenario._target.state.pos.unsqueeze(1)
        return torch.cat([self._stack(self.agents, "vel"), target - self._stack(self.agents, "pos")], dim=-1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        bodies = [*self.scenario.obstacles, self.scenario._target]
        position = self._stack(bodies, "pos")
        kind = torch.zeros_like(position)
        kind[:, :-1, 0] = 1.0
        kind[:, -1, 1] = 1.0
        features = torch.cat([kind, self._stack(bodies, "vel")], dim=-1)
        return features, position, torch.ones_like(position[..., 0], dtype=torch.bool)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The scenario's reward for all agents at once; its own loops over pairs in Python."""
        scenario = self.scenario
        scenario.t = scenario.t + 1
        scatter, distance = self._scatter()
        radius = self._radii(distance)
        touching = distance - radius.unsqueeze(-1) - radius <= scenario.min_collision_distance
        touching = touching & others(self.n_agents + 1, distance.device)
        touches = touching.sum(-1)[:, 1:].to(distance)
        reward = touches * scenario.collision_reward + (self.extra["scatter"] - scatter)
        self.extra["scatter"] = scatter
        metrics = {"distance": distance[:, 1:, 0].mean(-1), "collisions": touches.mean(-1)}
        return reward, scenario.done(), metrics

    def _radii(self, like: Tensor) -> Tensor:
        return like.new_tensor([agent.shape.radius for agent in self.world.agents])

    def scripted(self, observation: Observation) -> Tensor:
        """After the target, pushed off by those who are close."""
        return self._steer(
            3.0 * observation.own[..., 2:4]
            - 2.0 * observation.own[..., :2]
            + push_off(given(observation.position), 0.2)
        )
