"""Size-free views of four more VMAS scenarios: wheel, reverse_transport, dropout and sampling."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from gcoord.envs.vmas import VmasEnv
from gcoord.envs.vmas_cards import CARDS as CARDS
from gcoord.envs.vmas_view import View, given, push_off
from gcoord.spec import Reduction, Reward
from gcoord.trajectory import Observation


class Wheel(View):
    """Turn a heavy line at a wanted speed, not faster (VMAS `wheel`).

    own [velocity 2, of the line: relative middle 2, relative ends 2 and 2, angle 1, speed of turning 1, how far that is
    from the wanted one 1]. `speed`: the speed of turning at the last step. The scenario has no end of its own. At fixed
    density the line grows with the arena and weighs in proportion, so that a team's turning of it is as slow.
    """

    own_n_agents: ClassVar[int | None] = 4
    metrics: ClassVar[dict[str, Reduction]] = {"speed": "last"}

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
        super().__init__("wheel", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options)

    def _arguments(self) -> dict[str, Any]:
        own = {"line_length": 2, "line_mass": 30}
        return {name: self._options.get(name, value) * self._side for name, value in own.items()}

    def _restart(self) -> None:
        super()._restart()
        for agent in self.agents:
            agent.state.pos = agent.state.pos * self._side

    def _own(self) -> Tensor:
        # As it is but for each agent's place, which comes first.
        return super()._own()[..., 2:]

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward, done, _ = super()._judge()
        return reward, done, {"speed": self.scenario.line.state.ang_vel.abs().squeeze(-1)}

    def scripted(self, observation: Observation) -> Tensor:
        """To the nearer end of the line, then push it sideways as long as it turns too slowly."""
        velocity, middle, ends = observation.own[..., :2], observation.own[..., 2:4], observation.own[..., 4:8]
        ends = ends.unflatten(-1, (2, 2))
        nearer = torch.linalg.vector_norm(ends, dim=-1).argmin(-1)
        end = ends.gather(-2, nearer[..., None, None].expand(*nearer.shape, 1, 2)).squeeze(-2)
        arm = end - middle
        arm = arm / torch.linalg.vector_norm(arm, dim=-1, keepdim=True).clamp(min=1e-6)
        ahead = torch.stack([-arm[..., 1], arm[..., 0]], dim=-1)  # anticlockwise
        along = (end * ahead).sum(-1, keepdim=True)  # how far behind the line
        goal = end - 0.1 * arm - 0.1 * ahead
        # From the far side one gets behind the line only around its end.
        around = end + 0.25 * arm - 0.1 * ahead
        lack = 0.05 - observation.own[..., 9:10]
        pushes = (along > 0) & (along < 0.2)
        wanted = torch.where(along > 0, 3.0 * goal, 3.0 * around) - velocity
        return self._steer(torch.where(pushes, 20.0 * lack * ahead + 2.0 * (end - 0.1 * arm - along * ahead), wanted))


class ReverseTransport(View):
    """Push a heavy package onto a goal, from inside it (VMAS `reverse_transport`).

    own [velocity 2, package relative 2, its way to the goal 2, its velocity 2]. Success: the package is on the goal at
    the last step, which ends the episode. At fixed density the package's sides grow with the square root of the team
    and its weight in proportion to it, so that each agent keeps its room and its load; the way to the goal stays, and
    so does the time limit.
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
        **options: Any,
    ) -> None:
        super().__init__(
            "reverse_transport", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options
        )

    @property
    def _stretch(self) -> float:
        return 1.0

    def _world_in_words(self) -> str:
        if self._density == "arena":
            return "in the package meant for 4, whatever the team's size"
        return f"at fixed density, the package's sides {self._side:.2f} times those for 4 agents, its weight by area"

    def _arguments(self) -> dict[str, Any]:
        sides = {name: self._options.get(name, 0.6) * self._side for name in ("package_width", "package_length")}
        return {**sides, "package_mass": self._options.get("package_mass", 50) * self._side**2}

    def _own(self) -> Tensor:
        package, goal = self.scenario.package.state, self.scenario.package.goal.state
        common = torch.cat([goal.pos - package.pos, package.vel], dim=-1).unsqueeze(1).expand(-1, self.n_agents, -1)
        relative = package.pos.unsqueeze(1) - self._stack(self.agents, "pos")
        return torch.cat([self._stack(self.agents, "vel"), relative, common], dim=-1)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward = self.scenario.reward(self.agents[0])  # the team's: the same for all
        there = self.scenario.package.on_goal
        return reward.unsqueeze(-1).repeat(1, self.n_agents), self.scenario.done(), {"success": there.float()}

    def scripted(self, observation: Observation) -> Tensor:
        """All the same way, slower as the goal comes near."""
        way, speed = observation.own[..., 4:6], observation.own[..., 6:8]
        return self._steer(4.0 * way - 8.0 * speed)


class Dropout(View):
    """One agent is enough to reach the goal, and who moves pays for it (VMAS `dropout`).

    own [velocity 2, goal relative 2, whether it was reached 1]. Success: the goal was reached, which ends the episode.
    The reward is the team's: 1 for the goal, minus the energy that all spend, which grows with the team. At fixed
    density the arena's sides grow with the square root of the team.
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
        **options: Any,
    ) -> None:
        super().__init__("dropout", n_agents, num_envs, device, seed, continuous, density, max_steps, "team", **options)

    def _arguments(self) -> dict[str, Any]:
        # The scenario places bodies in its own square; they are kept this far apart there and moved apart afterwards.
        self._room(self.n_agents + 1, 0.08 / self._side + 0.01, 2.0)
        return {}

    def _prepare(self) -> None:
        super()._prepare()
        self.scenario.goal_radius /= self._side  # used for placing alone, as is the next
        self.scenario.agent_radius /= self._side

    def _restart(self) -> None:
        super()._restart()
        for body in self.world.entities:
            body.state.pos = body.state.pos * self._side

    def _own(self) -> Tensor:
        # As it is but for each agent's place, which comes first.
        return super()._own()[..., 2:]

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward, done, _ = super()._judge()
        return reward, done, {"success": done.float()}

    def scripted(self, observation: Observation) -> Tensor:
        """The agent nearest to the goal goes, the others stay."""
        velocity, goal = observation.own[..., :2], observation.own[..., 2:4]
        far = torch.linalg.vector_norm(goal, dim=-1)
        mine = far == far.amin(-1, keepdim=True)
        return self._steer((3.0 * goal - velocity) * mine.unsqueeze(-1))


class Sampling(View):
    """Visit the richest cells of a field, each cell counting once (VMAS `sampling`).

    own [velocity 2, position relative to the field's half side 2, what is to be had in the 8 cells around 8, and with
    `lidar` what 12 rays meet]. The reward is the team's by default: what all collect in the step. The scenario has no
    end of its own. At fixed density the field's sides grow with the square root of the team, to whole cells, and there
    is one hill for each agent; otherwise three.
    """

    own_n_agents: ClassVar[int | None] = 3
    metrics: ClassVar[dict[str, Reduction]] = {"cells": "last"}

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        n_gaussians: int | None = None,
        lidar: bool = False,
        shared_rew: bool = True,
        **options: Any,
    ) -> None:
        self._lidar, self._shared, self._n_gaussians = lidar, shared_rew, n_gaussians
        if lidar and not options.get("collisions", True):
            raise ValueError("expected lidar=False with collisions=False, as rays only see solid agents (got True)")
        reward: Reward = "team" if shared_rew else "own"
        super().__init__(
            "sampling", n_agents, num_envs, device, seed, continuous, density, max_steps, reward, **options
        )

    def _arguments(self) -> dict[str, Any]:
        cell = self._options.get("grid_spacing", 0.05)
        hills = max(1, round(3 * self._side**2)) if self._n_gaussians is None else self._n_gaussians
        sides = {name: _whole(self._options.get(name, 1.0) * self._side, cell) for name in ("xdim", "ydim")}
        return {**sides, "n_gaussians": hills, "shared_rew": self._shared}

    def _prepare(self) -> None:
        super()._prepare()
        scenario = self.scenario

        def find_highest(env_index: int | None = None) -> None:
            """The field's highest value [B]; the scenario asks each of its cells in turn."""
            axes = []
            for axis, (half, reach) in enumerate(
                ((scenario.xdim, scenario.x_semidim), (scenario.ydim, scenario.y_semidim))
            ):
                points = torch.arange(-half, half, scenario.grid_spacing, device=self.world.device).clamp(-reach, reach)
                away = points - torch.stack(scenario.locs, dim=1)[..., axis, None]  # [B, hills, cells]
                axes.append(torch.exp(-away.square() / (2 * variance.unsqueeze(-1))))
            height = torch.einsum("bgx,bgy,g->bxy", *axes, 1 / (2 * math.pi * variance))
            scenario.max_pdf = height.amax((1, 2))

        variance = torch.tensor(scenario.covs, device=self.world.device)  # [hills]
        scenario.nomrlize_pdf = find_highest
        self._variance = variance

    def _around(self) -> Tensor:
        """What is to be had in the 8 cells around each agent [B, N, 8]; the scenario asks cell by cell."""
        scenario, cell = self.scenario, self.scenario.grid_spacing
        half = self._variance.new_tensor([scenario.xdim, scenario.ydim])
        reach = self._variance.new_tensor([self.world.x_semidim, self.world.y_semidim])
        at = self._stack(self.agents, "pos").unsqueeze(2) + cell * self._variance.new_tensor(_AROUND)  # [B, N, 8, 2]
        outside = (at.abs() > half).any(-1)
        at = torch.minimum(torch.maximum(at, -reach), reach)
        count = self._variance.new_tensor([scenario.n_x_cells, scenario.n_y_cells])
        x, y = (at / cell + count / 2).long().unbind(-1)
        team = torch.arange(len(at), device=at.device).view(-1, 1, 1)
        hill = torch.stack(scenario.locs, dim=1)[:, None, None]  # [B, 1, 1, hills, 2]
        far = (at.unsqueeze(-2) - hill).square().sum(-1)
        height = (torch.exp(-far / (2 * self._variance)) / (2 * math.pi * self._variance)).sum(-1)
        if scenario.norm:
            height = height / scenario.max_pdf.view(-1, 1, 1)
        return height.masked_fill(scenario.sampled[team, x, y] | outside, 0.0)

    def _own(self) -> Tensor:
        position = self._stack(self.agents, "pos")
        half = position.new_tensor([self.world.x_semidim, self.world.y_semidim])
        parts = [self._stack(self.agents, "vel"), position / half, self._around()]
        if self._lidar:
            parts.append(torch.stack([agent.sensors[0].measure() for agent in self.agents], dim=1))
        return torch.cat(parts, dim=-1)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        reward, done, _ = super()._judge()
        return reward, done, {"cells": self.scenario.sampled.sum((1, 2)).float() / self.n_agents}

    def scripted(self, observation: Observation) -> Tensor:
        """Uphill among the cells around, kept apart from the others."""
        around = observation.own[..., 4:12]
        best = around.new_tensor(_AROUND)[around.argmax(-1)]
        best = best / torch.linalg.vector_norm(best, dim=-1, keepdim=True)
        apart = push_off(given(observation.position), 0.3)
        return self._steer(0.6 * best + 0.3 * apart - 0.5 * observation.own[..., :2])


# The scenario's own order.
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (-1, -1), (1, -1), (-1, 1), (1, 1))


def _whole(side: float, cell: float) -> float:
    """The length nearest to `side` that the scenario takes for a whole number of cells: of 23 cells of 0.05 no float is
    one, so that it may be a cell more or less."""
    count = max(1, round(side / cell))
    for cells in sorted(range(max(1, count - 3), count + 4), key=lambda cells: abs(cells * cell - side)):
        near = cells * cell
        for length in (near, math.nextafter(near, 0.0), math.nextafter(near, math.inf)):
            if length / cell == cells:
                return length
    raise ValueError(f"expected cells that divide the field's half side (got grid_spacing={cell} for {side:.3f})")


class RoadTraffic(VmasEnv):
    """Vehicles follow their lanes on a city map without touching anyone or the kerb (VMAS `road_traffic`,
    https://arxiv.org/abs/2408.07644).

    own is the scenario's: [speed 1, the next 3 points of the way 6, distances to way and kerbs 3, and of the two
    nearest vehicles 11 each], with the noise of its sensors. Any touch ends the team's episode. The map is what it is,
    whatever the team's size; the log says `arena`.
    """

    metrics: ClassVar[dict[str, Reduction]] = {}
    largest: ClassVar[int] = 60  # vehicles are put at random places of the map, a search that gets ever longer

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
        seen = options.get("n_nearing_agents_observed", 2)
        if n_agents is not None and not seen < n_agents <= self.largest:
            raise ValueError(f"expected {seen + 1} to {self.largest} agents in vmas/road_traffic (got {n_agents})")
        super().__init__(
            "road_traffic", n_agents, num_envs, device, seed, continuous, density, max_steps, "own", **options
        )

    def scripted(self, observation: Observation) -> Tensor:
        """Towards the second next point of the way, at half speed."""
        ahead = observation.own[..., 3:5]
        steering = torch.atan2(ahead[..., 1], ahead[..., 0])
        speed = torch.full_like(steering, 0.5)
        wanted = torch.stack([speed, steering], dim=-1)
        if self._continuous:
            return torch.minimum(torch.maximum(wanted, self._low), self._high)
        turn = torch.where(steering > 0.15, 2, torch.where(steering < -0.15, 1, 0))
        return 2 * 3 + turn
