"""Each agent to its own goal, past obstacles and one another: InforMARL's navigation, batched."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.points import PointTeam, along, contacts, draw_apart, most_that_fit
from gcoord.spec import Action, Continuous, Discrete, Reward, TeamSpec
from gcoord.trajectory import Observation

AGENTS, OBSTACLES, STEPS = 3, 3, 25
_RADIUS = 0.05  # of agents, goals and obstacles
_INNER = 0.8  # share of the square's sides within which goals and obstacles lie
_AT_GOAL = 0.1
_PRIZE = 5.0
_MAX_SPEED = 2.0
_AHEAD = 0.22  # seconds that the script looks ahead: where the agent will be then counts

CARDS = {
    "native/target": Card(
        sizes=(3, 7, 15),
        knows="own velocity, position and way to its goal",
        entities="goals and obstacles (which of the two) with their positions",
        arena="fixed: sides 2 sqrt(n / 3), n obstacles, 25 sqrt(n / 3) steps; arena: 2 x 2, 3 obstacles, 25 steps, "
        "room for 109 agents",
        random=-27.6,
        scripted=74.5,
        note="the published reward is the sum over agents; here each has its own, or the team's mean",
    )
}


class Target(PointTeam):
    """InforMARL's navigation (https://arxiv.org/abs/2211.02127): N agents, each with a goal of its own, and obstacles.

    own [6]: velocity, position, way to its goal. The others come over the graph as senders, goals and obstacles as
    entities [whether a goal, whether an obstacle] with their positions; the paper hears within 1.0. Reward of an agent
    and step: 5 within 0.1 of its goal, else minus the distance; minus `fine` for each agent it touches and for touching
    an obstacle. Whoever has arrived stays and goes on earning.

    Arguments:
        n_agents: team size (N); None: 3.
        num_envs: teams (B). device: where everything happens. seed: of the world's own random stream.
        density: `fixed`: the square has sides 2 sqrt(n / 3), there are n obstacles, and episodes take 25 sqrt(n / 3)
            steps (at least 25); `arena`: 2 x 2, 3 obstacles and 25 steps whatever the team, as published.
        continuous: a push in [-1, 1]^2 in place of five moves (stay, left, right, down, up); auto: moves.
        obstacles: how many; None: by `density`.
        reward: `own`, or `team`: all get the team's mean (the published shared reward, the sum, divided by N).
        max_steps: of an episode (None: by `density`).
        fine: what touching costs; 5 as published. A larger one teaches to keep away.

    Metrics: `success`, share of agents that were at their goal before the last step; `all_arrived`, whether every agent
    was (the paper's success); `collisions` per agent: pairs in touch and agents touching an obstacle, summed over the
    steps (the published code counts a pair twice); `time`, the share of the episode until an agent was first at its
    goal (1 if never).

    Raises ValueError where a team has no room in its square.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        density: Literal["fixed", "arena"] = "fixed",
        continuous: bool | Literal["auto"] = "auto",
        obstacles: int | None = None,
        reward: Reward = "own",
        max_steps: int | None = None,
        fine: float = 5.0,
    ) -> None:
        n = AGENTS if n_agents is None else n_agents
        if n < 1:
            raise ValueError(f"expected at least one agent in native/target (got {n})")
        if density not in ("fixed", "arena"):
            raise ValueError(f"expected density to be fixed or arena (got {density!r})")
        if continuous not in ("auto", True, False):
            raise ValueError(f"expected continuous to be auto, true or false (got {continuous!r})")
        if obstacles is not None and obstacles < 0:
            raise ValueError(f"expected no obstacles or some (got {obstacles})")
        if reward not in ("own", "team"):
            raise ValueError(f"expected reward to be own or team (got {reward!r})")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"expected at least one step (got max_steps={max_steps})")
        if not 0 <= fine < math.inf:
            raise ValueError(f"expected a fine of at least 0 (got {fine})")
        self._fine = float(fine)
        self._half = math.sqrt(n / AGENTS) if density == "fixed" else 1.0
        if obstacles is None:
            obstacles = n * OBSTACLES // AGENTS if density == "fixed" else OBSTACLES
        room = most_that_fit(_INNER * self._half, 2 * _RADIUS, obstacles, 2 * _RADIUS)
        if n > room:
            raise ValueError(
                f"expected at most {room} agents among {obstacles} obstacles in a square of {2 * self._half:g} "
                f"(got {n}; density=fixed grows it)"
            )
        self._obstacles = obstacles
        action: Action = Continuous((-1.0, -1.0), (1.0, 1.0)) if continuous is True else Discrete(5)
        spec = TeamSpec(
            num_envs=num_envs,
            n_agents=n,
            own=(6,),
            actions=(action,),
            reward=(reward,),
            n_entities=n + obstacles,
            entity_dim=2,
            position_dim=2,
            max_steps=max_steps or max(STEPS, round(STEPS * self._half)),
            metrics={"success": "last", "all_arrived": "last", "collisions": "sum", "time": "last"},
            world="native/target",
            density=density,
        )
        super().__init__(spec, device, seed, apart=2 * _RADIUS, max_speed=_MAX_SPEED, place_first=False)
        is_goal = torch.arange(spec.n_entities, device=self.device) < n
        self._features = torch.stack([is_goal, ~is_goal], dim=-1).float().expand(num_envs, -1, -1)  # [B, M, 2]

    def scripted(self, observation: Observation, ahead: float = _AHEAD) -> Tensor:
        """Each agent pushes along the axis on which its goal is farther off, and hears nobody.

        Gaps are those that are left in `ahead` seconds. The default gives the figures of the literature's scripted
        agent; looking 0.1 s ahead earns more (79, 76, 74, 70 at 3, 7, 10, 15 agents in the fixed arena), since it
        arrives faster.
        """
        own = observation.own
        return along(own[..., 4:] - ahead * own[..., :2], self.spec, near=0.0)

    def _draw(self) -> dict[str, Tensor]:
        b, n, inner = self.spec.num_envs, self.spec.n_agents, _INNER * self._half
        u = torch.rand(b, self._obstacles, 2, generator=self._generator, device=self.device)
        obstacle = (u * 2 - 1) * inner
        position = draw_apart(n, self._half, 2 * _RADIUS, obstacle, 2 * _RADIUS, self._generator)
        return {
            "position": position,
            "velocity": torch.zeros_like(position),
            "goal": draw_apart(n, inner, 2 * _RADIUS, obstacle, 2 * _RADIUS, self._generator),
            "obstacle": obstacle,
            "arrived": torch.full((b, n), -1, dtype=torch.long, device=self.device),
        }

    def _touch(self, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        force, touching = super()._touch(state)
        bumped = torch.zeros_like(touching)
        if self._obstacles:
            pushed, bumped = contacts(state["position"], state["obstacle"], 2 * _RADIUS)
            force = force + pushed
        # However many obstacles an agent touches, they count once.
        return force, torch.stack([touching, bumped.clamp(max=1)], dim=-1)

    def _judge(
        self, state: dict[str, Tensor], touching: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        distance = (state["goal"] - state["position"]).norm(dim=-1)
        there = distance < _AT_GOAL
        first = there & (state["arrived"] < 0) & valid.unsqueeze(-1)
        state["arrived"] = torch.where(first, state["steps"].unsqueeze(-1), state["arrived"])
        touching = touching.to(distance.dtype)  # [B, N, 2]: agents, obstacles
        reward = torch.where(there, _PRIZE, -distance) - self._fine * touching.sum(-1)
        if self.spec.shared_reward:
            reward = reward.mean(-1, keepdim=True).expand(-1, self.spec.n_agents).contiguous()
        last = self.spec.max_steps or 0
        when = torch.where(state["arrived"] < 0, last, state["arrived"]).to(distance.dtype) / last
        succeeded = when < 1
        scalars = {
            "success": succeeded.to(distance.dtype).mean(-1),
            "all_arrived": succeeded.all(-1).to(distance.dtype),
            "collisions": (touching[..., 0] / 2 + touching[..., 1]).mean(-1),
            "time": when.mean(-1),
        }
        return reward, torch.zeros_like(valid), scalars

    def _observe(self) -> Observation:
        state = self._state
        position = state["position"]
        return Observation(
            own=torch.cat([state["velocity"], position, state["goal"] - position], dim=-1),
            alive=self._alive,
            kind=torch.zeros_like(self._alive, dtype=torch.long),
            position=position,
            entities=self._features,
            entity_position=torch.cat([state["goal"], state["obstacle"]], dim=1),
            entity_present=torch.ones(self._features.shape[:2], dtype=torch.bool, device=self.device),
            batch_size=[self.spec.num_envs],
        )
