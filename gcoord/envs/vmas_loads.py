"""Size-free views of the VMAS scenarios in which a team moves a load: transport and balance."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from gcoord.envs.vmas_cards import CARDS as CARDS
from gcoord.envs.vmas_view import View, distances, rows_of
from gcoord.spec import Reduction
from gcoord.trajectory import Observation


class Transport(View):
    """Push packages too heavy for one onto a goal (VMAS `transport`).

    own [velocity 2, of the nearest package that is not there yet: relative position 2, its way to the goal 2, velocity
    2, whether it is there 1]; packages are entities [way to the goal 2, velocity 2, whether it is there 1]. Success:
    the share of packages on the goal at the last step; an episode ends when all are. At fixed density there is one
    package for every 4 agents, rounded; otherwise one.
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
        max_steps: int | None = 500,
        n_packages: int | None = None,
        **options: Any,
    ) -> None:
        self._n_packages = n_packages
        super().__init__(
            "transport", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options
        )

    def _arguments(self) -> dict[str, Any]:
        n_packages = max(1, round(self._side**2)) if self._n_packages is None else self._n_packages
        # Packages and goal keep this far from every agent; few places are left where agents take e^6 times the room.
        length, width = (self._options.get(f"package_{what}", 0.15) for what in ("length", "width"))
        spacing = math.hypot(length, width) / 2 + 0.16
        if (self.n_agents + n_packages) * math.pi * spacing**2 > 6 * (2 * self._side) ** 2:
            raise ValueError(
                f"expected an arena with free places {spacing:.2f} away from all of {self.n_agents} agents for "
                f"{n_packages} packages on a side of {2 * self._side:g} (got density={self._density})"
            )
        return {"n_packages": n_packages}

    def _prepare(self) -> None:
        scenario, world = self.scenario, self.world
        margin = 2 * scenario.agent_radius + max(scenario.package_length, scenario.package_width)
        scenario.world_semidim = self._side
        world._x_semidim = world._y_semidim = self._side + margin

    def _packages(self) -> tuple[Tensor, Tensor]:
        """What is to know of each package [B, M, 5], and where it is [B, M, 2]."""
        packages = self.scenario.packages
        position = self._stack(packages, "pos")
        there = torch.stack([package.on_goal for package in packages], dim=1).unsqueeze(-1)
        way = packages[0].goal.state.pos.unsqueeze(1) - position
        return torch.cat([way, self._stack(packages, "vel"), there.to(way)], dim=-1), position

    def _own(self) -> Tensor:
        features, package = self._packages()
        position = self._stack(self.agents, "pos")
        far = distances(position, package) + 1e6 * features[:, None, :, -1]
        nearest = far.argmin(-1)
        relative = rows_of(package, nearest) - position
        return torch.cat([self._stack(self.agents, "vel"), relative, rows_of(features, nearest)], dim=-1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        features, position = self._packages()
        return features, position, torch.ones_like(position[..., 0], dtype=torch.bool)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward = self.scenario.reward(self.agents[0])  # the team's: the same for all
        there = torch.stack([package.on_goal for package in self.scenario.packages], dim=1)
        return _shared(reward, self.n_agents), self.scenario.done(), {"success": there.float().mean(-1)}

    def scripted(self, observation: Observation) -> Tensor:
        """Around the package to its far side, then push it along its way."""
        velocity, package, way = observation.own[..., :2], observation.own[..., 2:4], observation.own[..., 4:6]
        ahead = way / torch.linalg.vector_norm(way, dim=-1, keepdim=True).clamp(min=1e-6)
        aside = torch.stack([-ahead[..., 1], ahead[..., 0]], dim=-1)
        along = (package * ahead).sum(-1, keepdim=True)  # how far behind the package
        off = -(package * aside).sum(-1, keepdim=True)  # how far beside its way
        side = torch.where(off >= 0, 1.0, -1.0) * (along < 0.12)
        around = package - 0.2 * ahead + 0.25 * side * aside
        pushes = (along > 0.05) & (off.abs() < 0.08)
        return self._steer(torch.where(pushes, 2.0 * ahead - 4.0 * off * aside, 4.0 * around - velocity))


def _shared(reward: Tensor, n_agents: int) -> Tensor:
    """A team's reward [B] for each agent, [B, N]."""
    return reward.unsqueeze(-1).repeat(1, n_agents)


class Balance(View):
    """Carry a package on a line to a goal, against gravity (VMAS `balance`).

    own [velocity 2, package relative 2, line relative 2, package's way to the goal 2, package's velocity 2, line's
    velocity 2, line's turning 1, line's angle 1]; package and goal are entities [is package, is goal, velocity 2].
    Success: the package is on the goal at the last step; falling ends an episode too. At fixed density the line and
    what it weighs, the package's weight and the floor grow in proportion to the team, so that each agent keeps its
    place under the line and its load; the package's way to the goal stays, and so does the time limit.
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
        super().__init__("balance", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options)

    @property
    def _side(self) -> float:
        return self.n_agents / 3 if self._density == "fixed" else 1.0

    @property
    def _stretch(self) -> float:
        return 1.0

    def _world_in_words(self) -> str:
        if self._density == "arena":
            return "under the line meant for 3, whatever the team's size"
        return f"at fixed density, line and load {self._side:.2f} times those of 3 agents"

    def _arguments(self) -> dict[str, Any]:
        if self.n_agents < 2:
            raise ValueError(f"expected at least 2 agents to carry a line (got n_agents={self.n_agents})")
        if 0.77 * self._side / (self.n_agents - 1) < 0.06:
            raise ValueError(
                f"expected at most 13 agents under a line of 0.8 (got n_agents={self.n_agents}, density=arena)"
            )
        return {}

    def _prepare(self) -> None:
        scenario = self.scenario
        scenario.line.shape._length *= self._side
        scenario.line.mass *= self._side
        scenario.package.mass *= self._side
        scenario.floor.shape._length *= max(1.0, self._side)

    def _restart(self) -> None:
        super()._restart()
        scenario = self.scenario
        middle = scenario.line.state.pos[:, :1]
        before = scenario.package.state.pos
        for body in [*self.agents, scenario.package]:
            x, y = body.state.pos.split(1, dim=-1)
            body.state.pos = torch.cat([middle + (x - middle) * self._side, y], dim=-1)
        scenario.package.goal.state.pos = scenario.package.goal.state.pos + (scenario.package.state.pos - before)

    def _own(self) -> Tensor:
        scenario, position = self.scenario, self._stack(self.agents, "pos")
        package, line, goal = scenario.package.state, scenario.line.state, scenario.package.goal.state
        common = [goal.pos - package.pos, package.vel, line.vel, line.ang_vel, line.rot % torch.pi]
        return torch.cat(
            [
                self._stack(self.agents, "vel"),
                package.pos.unsqueeze(1) - position,
                line.pos.unsqueeze(1) - position,
                torch.cat(common, dim=-1).unsqueeze(1).expand(-1, self.n_agents, -1),
            ],
            dim=-1,
        )

    def _entities(self) -> tuple[Tensor, Tensor, Tensor]:
        bodies = [self.scenario.package, self.scenario.package.goal]
        position = self._stack(bodies, "pos")
        kind = torch.eye(2, device=position.device).expand(len(position), -1, -1)
        features = torch.cat([kind, self._stack(bodies, "vel")], dim=-1)
        return features, position, torch.ones_like(position[..., 0], dtype=torch.bool)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        scenario = self.scenario
        reward = scenario.reward(self.agents[0])  # the team's: the same for all
        there = self.world.is_overlapping(scenario.package, scenario.package.goal)
        done = scenario.on_the_ground | there
        return _shared(reward, self.n_agents), done, {"success": there.float()}

    def scripted(self, observation: Observation) -> Tensor:
        """Lift where the line hangs low, lean towards the goal."""
        own = observation.own
        velocity, line, way, turn = own[..., :2], own[..., 4:6], own[..., 6:8], own[..., 12:13]
        tilt = torch.sin(2 * own[..., 13:14]) / 2
        lift = (0.4 + 2.0 * way[..., 1:] + line[..., :1] * (2.0 * tilt + turn) - velocity[..., 1:]).clamp(0, 1)
        lean = 0.2 * way[..., :1] - velocity[..., :1]
        return self._steer(torch.cat([lean, lift], dim=-1))
