"""SISL's multiwalker, set up so that what an agent senses means the same in every team."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.recipe import Recipe, find_function, quiet_imports

if TYPE_CHECKING:
    from gcoord.envs.parallel import ParallelTeamEnv

# The world's own team and terrain; steps of terrain between walkers, and from a package's middle to the goal.
WALKERS, TERRAIN, APART, STEP = 3, 200, 10, 14 / 30
# Where own [31] holds places in package lengths: of the two neighbours and of the package.
PLACES = slice(24, 30)


def multiwalker(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    bins: int = 3,
    shared_reward: bool = True,
    terminate_on_fall: bool = True,
    remove_on_fall: bool = True,
    falls: Literal["every_step", "once"] = "every_step",
    position_noise: float = 1e-3,
    angle_noise: float = 1e-3,
    forward_reward: float = 1.0,
    terminate_reward: float = -100.0,
    fall_reward: float = -10.0,
    terrain_length: int | None = None,
    max_cycles: int = 500,
) -> ParallelTeamEnv:
    """Two-legged walkers carry a package over rough ground (https://pettingzoo.farama.org/environments/sisl/multiwalker).

    own [31]: angle and turn of the hull, its velocity (2), angle and speed of hip and knee and whether the foot is on
    the ground for each leg (10), 10 rays of lidar; where the walkers before and behind are (4, zeros where there is
    none), where the package is and its angle (3), with noise. The world gives those places in lengths of the package,
    which grows with the team; here they are in lengths of that of three walkers, in every team. Position: of the hull,
    in metres. Action: torques of hips and knees. Reward: 4.33 for a metre of the package forward, the change of -5
    times the hull's tilt, `fall_reward` and `terminate_reward`, averaged over the team where `shared_reward`.

    Arguments:
        n_agents: walkers, 1 to 40; None: the world's 3.
        density: `fixed`: the way to go is 170 steps of terrain (of 0.47 m) for every team's package, and there is
            ground for all when it is there; `arena`: 200 steps of terrain whatever the team, 18 walkers at most. From
            4 walkers on the first then walks off its end before the package is at the goal, 10 steps from that.
        continuous: auto, True: 4 torques; False: `bins` evenly spaced values of each make bins^4 actions.
        terminate_on_fall: one fall ends the episode for all; False: who falls is dead, and the others go on while the
            package is off the ground (then each fall also costs `terminate_reward`).
        remove_on_fall: the bodies of the fallen vanish.
        falls: the world charges a fall again in every later step of the episode, which a shared reward shows; `once`:
            only in the step in which it happens, where bodies vanish.
        terrain_length: steps of terrain to the goal and 10 beyond; None: by `density`.
        max_cycles: steps of an episode. The world says of its own limit that it terminates; here it truncates.

    Metrics: `success`, whether the package is at the goal at the end; `progress`, the share of the way it has come;
    `upright`, the share of walkers that have not fallen.
    """
    from gcoord.envs.parallel import ParallelTeamEnv

    n = WALKERS if n_agents is None else n_agents
    if not 1 <= n <= 40:
        raise ValueError(f"expected 1 to 40 agents in sisl/multiwalker (got {n})")
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    if falls not in ("every_step", "once"):
        raise ValueError(f"expected falls to be every_step or once (got {falls!r})")
    grown = APART // 2 * (n - WALKERS) if density == "fixed" else 0
    length = terrain_length or TERRAIN + grown
    if length < APART * n + 20:
        raise ValueError(
            f"expected terrain_length of at least {APART * n + 20}, on which {n} walkers find room (got {length}); use "
            "density=fixed"
        )
    kwargs = {
        "n_walkers": n,
        "position_noise": position_noise * WALKERS / n,
        "angle_noise": angle_noise,
        "forward_reward": forward_reward,
        "terminate_reward": terminate_reward,
        "fall_reward": fall_reward,
        "shared_reward": shared_reward,
        "terminate_on_fall": terminate_on_fall,
        "remove_on_fall": remove_on_fall,
        "terrain_length": length,
    }
    recipe = Recipe(
        "gcoord.envs.multiwalker:make_multiwalker",
        {"beyond": max(0, grown), "once": falls == "once", **kwargs},
        positions="gcoord.envs.multiwalker:hulls",
        metrics="gcoord.envs.multiwalker:multiwalker_metrics",
        picture="gcoord.envs.screens:multiwalker",
        reductions={"success": "last", "progress": "last", "upright": "last"},
        max_steps=max_cycles,
        bins=bins if continuous is False else None,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        n,
        device,
        seed,
        workers,
        reward="team" if shared_reward else "own",
        world="sisl/multiwalker",
        density=density,
    )


def make_multiwalker(beyond: int, once: bool, **kwargs: Any) -> Any:
    """The world itself, with `beyond` steps of ground beyond its own."""
    with quiet_imports():
        base: Any = find_function("pettingzoo.sisl.multiwalker.multiwalker_base:MultiWalkerEnv")

    class Ground(base):  # type: ignore[misc]
        def _generate_terrain(self, hardcore: bool) -> None:
            # The goal is where the terrain's length says.
            self.terrain_length += beyond
            super()._generate_terrain(hardcore)
            self.terrain_length -= beyond

    return Walkers(Ground(**kwargs), once)


class Walkers:
    """Multiwalker as a ParallelEnv, without the agents in turn that PettingZoo puts between."""

    def __init__(self, world: Any, once: bool) -> None:
        self.env, self.unwrapped, self._once = world, self, once
        self.possible_agents = [f"walker_{i}" for i in range(world.n_walkers)]
        self.agents: list[str] = []
        self._unit = world.n_walkers / WALKERS
        self.start = 0.0

    def observation_space(self, agent: str) -> Any:
        return self.env.observation_space[0]

    def action_space(self, agent: str) -> Any:
        return self.env.action_space[0]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        world = self.env
        if seed is not None:
            world._seed(seed)
        world.reset()
        self.agents = self.possible_agents[:]
        self.start = world.package.position.x
        return self._look(self.agents), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        world, agents = self.env, self.agents
        numbers = [i for i, name in enumerate(self.possible_agents) if name in agents]
        for i in numbers:
            world.step(actions[self.possible_agents[i]], i, i == numbers[-1])
        ended = {self.possible_agents[i]: bool(world.last_dones[i]) for i in numbers}
        self.agents = [name for name in agents if not ended[name]]
        if self._once and self.agents:
            fallen = [i for i, walker in enumerate(world.walkers) if walker.hull is None]
            world.fallen_walkers[fallen] = False
        rewards = {self.possible_agents[i]: float(world.last_rewards[i]) for i in numbers}
        return self._look(agents), rewards, ended, dict.fromkeys(agents, False), {name: {} for name in agents}

    def close(self) -> None:
        self.env.close()

    def _look(self, agents: list[str]) -> dict[str, np.ndarray]:
        seen = np.asarray(self.env.last_obs, dtype=np.float32)
        seen[:, PLACES] *= self._unit
        return {name: seen[i] for i, name in enumerate(self.possible_agents) if name in agents}


def hulls(env: Any) -> dict[str, tuple[float, float]]:
    """Where each walker's hull is, in metres; bodies of the fallen may have vanished."""
    found = zip(env.unwrapped.possible_agents, env.unwrapped.env.walkers, strict=True)
    return {name: tuple(walker.hull.position) for name, walker in found if walker.hull is not None}


def multiwalker_metrics(env: Any) -> dict[str, float]:
    """Whether the package is at the goal, the share of the way it has come, and that of walkers that stand."""
    outer = env.unwrapped
    world = outer.env
    goal = (world.terrain_length - 10) * STEP
    gone = sum(bool(fallen) or walker.hull is None for fallen, walker in zip(world.fallen_walkers, world.walkers))
    place = world.package.position.x
    return {
        "success": float(place > goal),
        "progress": (place - outer.start) / (goal - outer.start),
        "upright": 1 - gone / world.n_walkers,
    }


CARDS = {
    "sisl/multiwalker": Card(
        sizes=(2, 3, 8),
        largest=40,
        knows="hull, joints, feet and 10 rays of lidar; where the next walkers and the package are, with noise",
        arena="package and terrain grow with the team, the way to go stays; density=arena: the terrain stays too",
        dies=True,
        extra="petting",
        random=-101.5,
        note="Dies with terminate_on_fall=false; each fall is then charged again in every later step, as in the world, "
        "or once (falls=once). The world gives places in lengths of its package, which grows with the team: here they "
        "are in those of three walkers. With its terrain of 200 steps the first of 4 walkers or more walks off the end "
        "before the package is at the goal.",
    ),
}
