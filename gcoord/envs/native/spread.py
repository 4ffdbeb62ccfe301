"""N agents cover M landmarks without running into one another: MPE's simple_spread, batched."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.assignment import assign
from gcoord.envs.native.points import PointTeam, along, gap_to_nearest
from gcoord.spec import Action, Continuous, Discrete, Reward, TeamSpec
from gcoord.trajectory import Observation

AGENTS, OCCUPIED = 3, 0.1
_RADIUS = 0.15
_AHEAD = 0.22  # seconds that scripts look ahead: where the agent will be then counts
_STILL = 0.05  # units: nearer than that on both axes scripts do not push

CARDS = {
    "native/spread": Card(
        sizes=(3, 6, 12),
        knows="own velocity",
        entities="landmarks (one constant feature) with their positions",
        arena="fixed: sides 2 sqrt(n / 3) and 25 sqrt(n / 3) steps; arena: 2 x 2 and 25 steps",
        random=-26.2,
        scripted=-12.0,
        note="mpe2's simple_spread_v3 step for step where landmarks are as many as agents; in the fixed arena the "
        "planner `assigned` occupies .95 .91 .89 .86 of the landmarks at 3 to 6 agents (and returns -7.5 at 3), the "
        "script .76 .69 .65 .62, chance .02",
    )
}


class Spread(PointTeam):
    """N agents cover M landmarks without colliding (https://mpe2.farama.org/environments/simple_spread).

    own [2] is the velocity. The others come over the graph as senders, the landmarks as entities (one constant
    feature), each with its position; where one stands in the world is not sensed. Observation, actions and reward are
    those of `mpe/simple_spread`: a policy of one acts in the other. Reward: minus the distance of each landmark to its
    nearest agent, shared, mixed by `local_ratio` with minus one for each agent one touches (radius 0.15).

    Arguments:
        n_agents: team size (N); None: 3.
        num_envs: teams (B). device: where everything happens. seed: of the world's own random stream.
        density: `fixed`: the square in which all start has sides 2 sqrt(n / 3), and episodes 25 sqrt(n / 3) steps (at
            least 25), so that ways are as long as the time for them; `arena`: 2 x 2 and 25 steps whatever the team.
        continuous: five strengths in [0, 1] in place of five moves (stay, left, right, down, up); auto: moves.
        landmarks: M; None: as many as agents.
        local_ratio: share of one's own reward. max_steps: of an episode (None: by `density`).
        terminate_on_success: end as soon as every landmark is occupied.

    Metrics: `success`, the share of landmarks with an agent within 0.1 at the episode's end, and `collisions`, pairs of
    agents in touch, summed over the steps.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        density: Literal["fixed", "arena"] = "fixed",
        continuous: bool | Literal["auto"] = "auto",
        landmarks: int | None = None,
        local_ratio: float = 0.5,
        max_steps: int | None = None,
        terminate_on_success: bool = False,
    ) -> None:
        n = AGENTS if n_agents is None else n_agents
        if n < 1:
            raise ValueError(f"expected at least one agent in native/spread (got {n})")
        if density not in ("fixed", "arena"):
            raise ValueError(f"expected density to be fixed or arena (got {density!r})")
        if continuous not in ("auto", True, False):
            raise ValueError(f"expected continuous to be auto, true or false (got {continuous!r})")
        if landmarks is not None and landmarks < 1:
            raise ValueError(f"expected at least one landmark (got {landmarks})")
        if not 0 <= local_ratio <= 1:
            raise ValueError(f"expected local_ratio between 0 and 1 (got {local_ratio})")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"expected at least one step (got max_steps={max_steps})")
        self._half = math.sqrt(n / AGENTS) if density == "fixed" else 1.0
        self._local, self._ends = local_ratio, terminate_on_success
        action: Action = Continuous((0.0,) * 5, (1.0,) * 5) if continuous is True else Discrete(5)
        shares: dict[float, Reward] = {0.0: "team", 1.0: "own"}
        spec = TeamSpec(
            num_envs=num_envs,
            n_agents=n,
            own=(2,),
            actions=(action,),
            reward=(shares.get(local_ratio, "mixed"),),
            n_entities=n if landmarks is None else landmarks,
            entity_dim=1,
            position_dim=2,
            max_steps=max_steps or max(25, round(25 * self._half)),
            metrics={"success": "last", "collisions": "sum"},
            world="native/spread",
            density=density,
        )
        super().__init__(spec, device, seed, apart=2 * _RADIUS, max_speed=None, place_first=True)
        self._features = torch.ones(num_envs, spec.n_entities, 1, device=self.device)

    def scripted(self, observation: Observation) -> Tensor:
        """Each agent claims the landmark to which the fewest others are nearer, the nearest of several, and goes there.

        It hears all; two that claim the same both go.
        """
        distance = _distances(observation)  # [B, N, M]
        nearer = distance.argsort(1).argsort(1)  # how many others are nearer to it
        second_rate = nearer > nearer.amin(-1, keepdim=True)
        return self.towards(observation, distance.masked_fill(second_rate, torch.inf).argmin(-1))

    def assigned(self, observation: Observation) -> Tensor:
        """The planner: one who sees all matches agents and landmarks for the least sum of distances, anew each step.

        Meant for up to a hundred agents: the effort grows with N^3.
        """
        return self.towards(observation, self.matched(observation))

    def matched(self, observation: Observation) -> Tensor:
        """The landmark of each agent in the matching of least total distance, [B, N]; -1 where none is left."""
        return assign(_distances(observation))

    def towards(self, observation: Observation, landmark: Tensor) -> Tensor:
        """The action that brings each agent to landmark [B, N], or to rest where that is -1."""
        agents, places = _who_and_where(observation)
        chosen = places.gather(1, landmark.clamp(min=0).unsqueeze(-1).expand(-1, -1, 2))
        way = torch.where((landmark >= 0).unsqueeze(-1), chosen - agents, 0.0)
        return along(way - _AHEAD * observation.own, self.spec, _STILL)

    def _draw(self) -> dict[str, Tensor]:
        b, n, m = self.spec.num_envs, self.spec.n_agents, self.spec.n_entities
        place = torch.rand(b, n + m, 2, generator=self._generator, device=self.device)
        position, landmark = ((place * 2 - 1) * self._half).split([n, m], dim=1)
        return {"position": position, "velocity": torch.zeros_like(position), "landmark": landmark.contiguous()}

    def _judge(
        self, state: dict[str, Tensor], touching: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        gap = gap_to_nearest(state["landmark"], state["position"])  # [B, M]
        occupied = gap < OCCUPIED
        touching = touching.to(gap.dtype)
        reward = -(1 - self._local) * gap.sum(-1, keepdim=True) - self._local * touching
        over = occupied.all(-1) if self._ends else torch.zeros_like(valid)
        return reward, over, {"success": occupied.to(gap.dtype).mean(-1), "collisions": touching.sum(-1) / 2}

    def _observe(self) -> Observation:
        state = self._state
        return Observation(
            own=state["velocity"],
            alive=self._alive,
            kind=torch.zeros_like(self._alive, dtype=torch.long),
            position=state["position"],
            entities=self._features,
            entity_position=state["landmark"],
            entity_present=torch.ones_like(self._features[..., 0], dtype=torch.bool),
            batch_size=[self.spec.num_envs],
        )


def _who_and_where(observation: Observation) -> tuple[Tensor, Tensor]:
    assert observation.position is not None and observation.entity_position is not None
    return observation.position, observation.entity_position


def _distances(observation: Observation) -> Tensor:
    """[B, N, M]"""
    agents, places = _who_and_where(observation)
    return (agents.unsqueeze(2) - places.unsqueeze(1)).norm(dim=-1)
