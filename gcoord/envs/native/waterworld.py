"""Pursuers catch drifting food and avoid poison: SISL's waterworld, batched (gone from PettingZoo since 1.26)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.cards import Card
from gcoord.envs.native.pairs import pairs_within
from gcoord.envs.native.pictures import BAD, GOOD, WALL, Picture, discs
from gcoord.envs.native.state import InTensors
from gcoord.envs.native.waterworld_layout import AGENTS, lay_out
from gcoord.envs.native.waterworld_physics import drift
from gcoord.envs.native.waterworld_script import chase
from gcoord.envs.native.waterworld_sensors import EVADER, OBSTACLE, POISON, PURSUER, Sensors
from gcoord.envs.native.waterworld_touches import meet_evaders, meet_poisons
from gcoord.spec import Continuous, Discrete, Reward, TeamSpec
from gcoord.trajectory import Observation, Outcome

CARDS = {
    "native/waterworld": Card(
        sizes=(2, 5, 16),
        knows="30 rays of 0.2: how near the nearest obstacle, wall, evader, poison and pursuer on each, and how fast "
        "the last three approach; whether one touches an evader, or just touched a poison; not one's own velocity",
        arena="sides grow with sqrt(n / 2), evaders and poisons with n / 2, and a grid of obstacles with it",
        random=-100.6,
        scripted=238.8,
        note="As in the reference a catch pays twice (when touched by enough, and to the first who leaves), an evader "
        "that several leave needs as many more to be caught again, and the last pursuer's thrust costs double.",
    )
}
CARDS["sisl/waterworld"] = CARDS["native/waterworld"]


class Waterworld(InTensors):
    """Pursuers in a square earn for evaders that `n_coop` of them touch together, and pay for poison and thrust.

    https://pettingzoo.farama.org/environments/sisl/waterworld, after the code of PettingZoo 1.25, argument by argument.
    Own: for each of `n_sensors` rays (Sensors) obstacle, wall, evader, evader's speed, poison, its speed, pursuer, its
    speed (without speed_features 5 of them), grouped by quantity, then whether one touches an evader and just touched
    a poison. Action: thrust of at most 1, which changes the velocity by pursuer_max_accel at once; without thrust all
    drift for ever. Only walls and obstacles are solid. Position in sides of the original's square.

    Reward of a step: food_reward to who touches an evader that has then been touched by n_coop, and again to the first
    who lets go of it, whereupon it starts anew elsewhere; encounter_reward for each evader touched; poison_reward for
    each poison newly touched, which starts anew; thrust_penalty times the change of velocity. Every share 1 -
    local_ratio of it is averaged over the team.

    Arguments:
        n_agents: pursuers; None: the world's 2.
        num_envs: squares (B). device: where all lives and happens; a step asks it for the lengths of some lists.
        seed: of the world's own random stream.
        density: `fixed`: with s = sqrt(n / 2), the square has sides s, round(5 s^2) evaders, round(10 s^2) poisons, and
            round(s)^2 obstacles (at least one) in the middles of as many equal squares; `arena`: sides of 1, 5 evaders,
            10 poisons and one obstacle, whatever the team.
        continuous: True or "auto": a thrust in [-1, 1]^2; False: none, or one of 8 that change the velocity by
            pursuer_speed along an axis or two.
        n_evaders, n_poisons, n_obstacles: None: by `density`.
        n_coop: pursuers that catch an evader.
        radius: a pursuer's; evaders have 2, poisons 0.75 of it. obstacle_radius: all in sides, as is sensor_range.
        obstacle_coord: [x, y] of each obstacle in shares of the side; "grid": as said above; None: drawn at each reset.
        pursuer_max_accel, pursuer_speed, evader_speed, poison_speed: sides a second; speeds along each axis.
        as_reference: True keeps two faults: the last pursuer's thrust costs double, and an evader that k touched when
            it was caught needs k - 1 more the next time, for each who leaves late is subtracted. False: neither.
        max_cycles: steps of an episode.

    Metrics, summed over the episode: `catches` (evaders that start anew) and `poisons` (touches), of the team.
    Departs from the reference: pursuers alone in their world sense nobody at 1, not at 0; a thing whose centre lies
    beyond a ray's end has speed 0; obstacles are as large as obstacle_radius for those who bounce, too; where several
    touch or leave an evader in one step, the nearest does so first.
    Raises ValueError for arguments that make no world.
    """

    def __init__(
        self,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        density: Literal["fixed", "arena"] = "fixed",
        continuous: bool | Literal["auto"] = "auto",
        n_evaders: int | None = None,
        n_poisons: int | None = None,
        n_obstacles: int | None = None,
        n_coop: int = 1,
        n_sensors: int = 30,
        sensor_range: float = 0.2,
        radius: float = 0.015,
        obstacle_radius: float = 0.1,
        obstacle_coord: str | list[Any] | None = "grid",
        pursuer_max_accel: float = 0.5,
        pursuer_speed: float = 0.2,
        evader_speed: float = 0.1,
        poison_speed: float = 0.1,
        poison_reward: float = -1.0,
        food_reward: float = 10.0,
        encounter_reward: float = 0.01,
        thrust_penalty: float = -0.5,
        local_ratio: float = 1.0,
        speed_features: bool = True,
        as_reference: bool = True,
        max_cycles: int = 500,
    ) -> None:
        if continuous not in ("auto", True, False):
            raise ValueError(f"expected continuous to be auto, true or false (got {continuous!r})")
        n = AGENTS if n_agents is None else n_agents
        counts = dict(n_agents=n, num_envs=num_envs, n_sensors=n_sensors, n_coop=n_coop, max_cycles=max_cycles)
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} to be a positive whole number (got {value!r})")
        lengths = dict(sensor_range=sensor_range, radius=radius, obstacle_radius=obstacle_radius)
        speeds = dict(pursuer_speed=pursuer_speed, pursuer_max_accel=pursuer_max_accel)
        for name, length in (lengths | speeds).items():
            if not 0 < length < math.inf:
                raise ValueError(f"expected {name} above 0 (got {length!r})")
        if not 0 <= local_ratio <= 1:
            raise ValueError(f"expected local_ratio from 0 to 1 (got {local_ratio!r})")
        if not (evader_speed >= 0 and poison_speed >= 0):
            raise ValueError(f"expected speeds of at least 0 (got {evader_speed!r} and {poison_speed!r})")
        layout = lay_out(n, density, n_evaders, n_poisons, n_obstacles, obstacle_coord, obstacle_radius, radius)

        self.device = torch.device(device)
        push = min(1.0, pursuer_speed / pursuer_max_accel)
        self._thrusts = torch.tensor(
            [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)], device=self.device
        ) * push  # fmt: skip
        reward: Reward = "own" if local_ratio == 1 else "team" if local_ratio == 0 else "mixed"
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=n,
            own=((8 if speed_features else 5) * n_sensors + 2,),
            actions=(Discrete(9) if continuous is False else Continuous((-1.0, -1.0), (1.0, 1.0)),),
            kinds=("pursuer",),
            reward=(reward,),
            position_dim=2,
            max_steps=max_cycles,
            metrics={"catches": "sum", "poisons": "sum"},
            world="native/waterworld",
            density=density,
        )
        self._kind = torch.zeros(num_envs, n, dtype=torch.long, device=self.device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._state = {}

        self.side, self.n_evaders, self.n_poisons = layout.side, layout.n_evaders, layout.n_poisons
        self.n_coop, self.n_sensors = n_coop, n_sensors
        self._accel, self._top, self._local = pursuer_max_accel, pursuer_speed, local_ratio
        self._rewards = (food_reward, encounter_reward, poison_reward, thrust_penalty)
        self._speed_features, self._as_reference = speed_features, as_reference
        self._speeds, self._pursuer_radius, self._max_cycles = (evader_speed, poison_speed), radius, max_cycles
        self._obstacles, self._drawn = layout.obstacles.to(self.device), layout.drawn
        self._obstacle_radius = obstacle_radius
        # Things: pursuers, evaders and poisons, who move, then obstacles.
        sizes = [n, layout.n_evaders, layout.n_poisons, len(layout.obstacles)]

        def per_thing(*values: float) -> Tensor:
            return torch.tensor(values, device=self.device).repeat_interleave(torch.tensor(sizes, device=self.device))

        self._radius = per_thing(radius, 2 * radius, 0.75 * radius, obstacle_radius)  # [M]
        self._first_speed = per_thing(0.0, evader_speed, poison_speed, 0.0)[: sum(sizes[:3])]
        self._speed_scale = pursuer_speed + per_thing(pursuer_speed, evader_speed, poison_speed, 0.0)
        self._thing_kind = per_thing(PURSUER, EVADER, POISON, OBSTACLE).long()
        self._touch = self._radius[n : sum(sizes[:3])] + radius  # [E + P]: from centre to centre
        self._sight = (self._radius.square() + sensor_range**2).sqrt()
        self._sensors = Sensors(n_sensors, sensor_range, self.side, self.device)

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self._generator.manual_seed(seed)
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        self._state = {**self._draw(), "touched": none, "poisons_touched": none.clone()}
        return self._observe()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        if not self._state:
            raise RuntimeError("expected reset() before step()")
        state, spec, n = self._state, self.spec, self.spec.n_agents
        pending = state["pending"]
        # Thrust beyond 1 is cut, first along each axis, then as a whole.
        thrust = self._thrusts[action] if spec.discrete else action.clamp(-1, 1)
        change = thrust * self._accel
        size = torch.linalg.vector_norm(change, dim=-1, keepdim=True)  # [B, N, 1]
        change = change * (self._accel / size).clamp(max=1)
        velocity = state["velocity"].clone()
        velocity[:, :n] = (velocity[:, :n] + change).clamp(-self._top, self._top)
        radius = self._radius[: velocity.shape[1]]
        position, velocity, push = drift(
            state["position"], velocity, state["push"], radius, self.side, state["obstacles"], self._obstacle_radius
        )
        self._state = {**state, "position": position, "velocity": velocity, "push": push}

        # A team that is about to start anew touches nothing, so that its action moves nobody's random stream.
        near = pairs_within(position[:, :n], position[:, n:], self._touch, self.side)
        near = near.where(~pending[near.team])
        before, poisons_before = (
            old[~pending[old // (n * max(1, count))]]
            for old, count in ((state["touched"], self.n_evaders), (state["poisons_touched"], self.n_poisons))
        )
        food, near = near.where(near.thing < self.n_evaders), near.where(near.thing >= self.n_evaders)
        meal = meet_evaders(food, before, state["counter"], position, n, self.n_coop, self._as_reference)
        near = near._replace(thing=near.thing - self.n_evaders)
        poisoned, drunk, poisons_touched = meet_poisons(near, poisons_before, spec.num_envs, n, self.n_poisons)
        self._state |= {"counter": meal.counter, "touched": meal.touched, "touching": meal.touching}
        self._state |= {"poisons_touched": poisons_touched, "poisoned": poisoned}
        self._start_anew(meal.caught, drunk)

        of_food, of_encounter, of_poison, of_thrust = self._rewards
        cost = of_thrust * size.squeeze(-1).clamp(max=self._accel)  # [B, N]
        earned = cost + of_food * meal.fed + of_encounter * meal.touching + of_poison * poisoned
        if self._as_reference:
            # The reference adds the last pursuer's share of the cost to what the world pays, and shares all again.
            earned += self._shared(torch.cat([torch.zeros_like(cost[:, 1:]), cost[:, -1:]], -1))
        reward = torch.where(pending.unsqueeze(-1), 0.0, self._shared(earned))
        steps = state["steps"] + 1
        truncated = (steps >= self._max_cycles) & ~pending
        self._state |= {"steps": steps, "pending": truncated}
        # On the CPU it is cheaper to ask; elsewhere drawing for nothing is cheaper than waiting.
        if self.device.type != "cpu" or bool(pending.any()):
            for name, fresh in self._draw().items():
                old = self._state[name]
                self._state[name] = torch.where(pending.view(-1, *(1,) * (old.ndim - 1)), fresh, old)
        metrics = {"catches": meal.caught.sum(-1), "poisons": poisoned.sum(-1)}
        outcome = Outcome(
            reward=reward,
            terminated=torch.zeros_like(pending),
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict({name: value.to(reward) for name, value in metrics.items()}, [spec.num_envs]),
            batch_size=[spec.num_envs],
        )
        return self._observe(), outcome

    def picture(self) -> Picture:
        """The first team's square: obstacles, evaders, poisons."""
        state, n, food = self._state, self.spec.n_agents, self.spec.n_agents + self.n_evaders
        place, radius = state["position"][0].cpu().numpy(), self._pursuer_radius
        obstacles = state["obstacles"][0].cpu().numpy()
        sorts = [(obstacles, self._obstacle_radius, WALL), (place[n:food], 2 * radius, GOOD)]
        return discs(self.side, [*sorts, (place[food:], 0.75 * radius, BAD)])

    def _check(self, state: dict[str, Tensor]) -> None:
        n_moving = self.spec.n_agents + self.n_evaders + self.n_poisons
        expected = (self.spec.num_envs, n_moving, 2)
        if (got := tuple(state["position"].shape)) != expected:
            raise ValueError(f"expected the state of {expected[0]} teams of {n_moving} moving things (got {got})")

    def scripted(self, observation: Observation) -> Tensor:
        """To the nearest evader sensed, past poison; see `chase`. Raises ValueError without speed_features."""
        if not self._speed_features:
            raise ValueError("expected speed_features=true for the script, which leads its prey (got false)")
        speeds = (self._top, *self._speeds)
        velocity = self._state["velocity"][:, : self.spec.n_agents]
        assert observation.position is not None
        change = chase(
            observation.own,
            observation.position,
            velocity,
            self._sensors.way,
            self._sensors.reach,
            self._pursuer_radius,
            speeds,
            self.n_coop,
        )
        thrust = change / self._accel
        if not self.spec.discrete:
            return thrust
        return (thrust.unsqueeze(-2) - self._thrusts).square().sum(-1).argmin(-1)

    def _shared(self, reward: Tensor) -> Tensor:
        """Each one's own part and its part of the mean, [B, N]."""
        return self._local * reward + (1 - self._local) * reward.mean(-1, keepdim=True)

    def _start_anew(self, caught: Tensor, drunk: Tensor) -> None:
        """Moves what was caught to a point clear of obstacles, with a new velocity."""
        state = self._state
        team, thing = torch.cat([caught, drunk], -1).nonzero().unbind(-1)
        if not len(team):
            return
        thing = thing + self.spec.n_agents
        clear = 2 * self._radius[thing] + self._obstacle_radius
        place = self._random(len(team), 2) * self.side
        while len(self._obstacles):
            far = torch.linalg.vector_norm(place.unsqueeze(1) - state["obstacles"][team], dim=-1).amin(-1)
            blocked = (far <= clear).nonzero().squeeze(-1)
            if not len(blocked):
                break
            place[blocked] = self._random(len(blocked), 2) * self.side
        speed = (self._random(len(team), 2) * 2 - 1) * self._first_speed[thing].unsqueeze(-1)
        state["position"][team, thing], state["velocity"][team, thing] = place, speed

    def _draw(self) -> dict[str, Tensor]:
        """A first state for every team; things may start on obstacles and walls, as in the reference."""
        b, n = self._kind.shape
        n_moving = len(self._first_speed)
        place = self._random(b, n_moving, 2) * self.side
        speed = (self._random(b, n_moving, 2) * 2 - 1) * self._first_speed.unsqueeze(-1)
        obstacles = self._obstacles.expand(b, -1, 2)
        if self._drawn:
            obstacles = self._random(*obstacles.shape) * self.side
        return {
            "position": place,
            "velocity": speed,
            "push": torch.zeros_like(place),
            "obstacles": obstacles,
            "counter": torch.zeros(b, self.n_evaders, dtype=torch.long, device=self.device),
            "touching": torch.zeros(b, n, device=self.device),
            "poisoned": torch.zeros(b, n, device=self.device),
            "steps": torch.zeros(b, dtype=torch.long, device=self.device),
            "pending": torch.zeros(b, dtype=torch.bool, device=self.device),
        }

    def _random(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator, device=self.device)

    def _observe(self) -> Observation:
        state, (b, n) = self._state, self._kind.shape
        pursuers = state["position"][:, :n]
        things = torch.cat([state["position"], state["obstacles"]], 1)
        near = pairs_within(pursuers, things, self._sight, self.side)
        near = near.where(near.thing != near.receiver)
        velocity = torch.cat([state["velocity"], torch.zeros_like(state["obstacles"])], 1).flatten(0, 1)
        first = near.team * things.shape[1]
        relative = velocity[first + near.thing] - velocity[first + near.receiver]
        share, speed = self._sensors.things(
            near, b, n, self._thing_kind, self._radius, relative, self._speed_scale
        )  # [B, N, 4, S]
        parts = [share[:, :, OBSTACLE], self._sensors.walls(pursuers)]
        for kind in (EVADER, POISON, PURSUER):
            parts += [share[:, :, kind], speed[:, :, kind]] if self._speed_features else [share[:, :, kind]]
        flags = torch.stack([state["touching"] > 0, state["poisoned"] > 0], -1)
        return Observation(
            own=torch.cat([*parts, flags.to(share)], -1),
            alive=torch.ones_like(self._kind, dtype=torch.bool),
            kind=self._kind,
            position=pursuers.clone(),
            batch_size=[b],
        )
