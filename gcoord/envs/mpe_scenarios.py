"""The scenarios of MPE's worlds of two sides, on a square of any size. NumPy only: workers import no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcoord.envs.recipe import find_function, quiet_imports
from gcoord.envs.together import Together


def make(
    name: str, half: float, max_cycles: int, continuous: bool, layout: dict[str, int], options: dict[str, Any]
) -> Any:
    """One of MPE's worlds where all start within `half` of the middle and agents sense what does not grow."""
    with quiet_imports():
        base: Any = find_function(f"mpe2.{name}.{name}:Scenario")
        simple_env: Any = find_function("mpe2._mpe_utils.simple_env:SimpleEnv")
    mixin = {"simple_tag": Tag, "simple_adversary": Adversary, "simple_world_comm": WorldComm}[name]
    # The world's own scenario comes last: what is not said here is its own.
    scenario: Any = type(name, (mixin, base), {"half": half})(**options)
    arguments = dict(layout)
    first = [arguments.pop(key) for key in list(layout)]
    world = simple_env(
        scenario=scenario, world=scenario.make_world(*first), max_cycles=max_cycles, continuous_actions=continuous
    )
    return Together(world)


def _places(bodies: list[Any]) -> np.ndarray:
    return np.array([body.state.p_pos for body in bodies]).reshape(-1, 2)


def _sizes(bodies: list[Any]) -> np.ndarray:
    return np.array([body.size for body in bodies])


def _far(ones: list[Any], others: list[Any]) -> np.ndarray:
    """Distances [I, J] of two lists of bodies."""
    return np.sqrt(((_places(ones)[:, None] - _places(others)) ** 2).sum(-1))  # type: ignore[no-any-return]


def _touch(ones: list[Any], others: list[Any]) -> np.ndarray:
    """[I, J]: which of two lists of bodies are in touch."""
    return _far(ones, others) < _sizes(ones)[:, None] + _sizes(others)  # type: ignore[no-any-return]


def _beyond(place: np.ndarray) -> float:
    """What a place in half sides costs: nothing up to 0.9, more and more beyond, at most 10 an axis."""
    x = np.abs(place)
    cost = np.where(x < 0.9, 0, np.where(x < 1.0, (x - 0.9) * 10, np.minimum(np.exp(2 * np.minimum(x, 9) - 2), 10)))
    return float(cost.sum())


class Sides:
    """What the worlds of two sides have in common."""

    half: float

    def reset_world(self, world: Any, np_random: np.random.Generator) -> None:
        super().reset_world(world, np_random)  # type: ignore[misc]
        for entity in world.entities:
            entity.state.p_pos = entity.state.p_pos * self.half
        self.look(world)

    def look(self, world: Any) -> None:
        """Finds out once a step what all rewards and observations need."""

    def features(self, world: Any) -> np.ndarray:
        """Of landmarks and then agents, as entities [M + N, F]."""
        raise NotImplementedError

    def visible(self, world: Any) -> np.ndarray:
        """[N, N]: who sees whom."""
        n = len(world.agents)
        return np.ones((n, n), bool)

    def reward(self, agent: Any, world: Any) -> float:
        if agent is world.agents[0]:
            self.look(world)
        return super().reward(agent, world)  # type: ignore[misc,no-any-return]


class Tag(Sides):
    """Obstacles, predators, prey; the velocity of prey."""

    def look(self, world: Any) -> None:
        hunters, prey = self.adversaries(world), self.good_agents(world)  # type: ignore[attr-defined]
        self.touching = _touch(hunters, prey)
        self.touched = dict(zip((one.name for one in prey), self.touching.sum(0).tolist(), strict=True))

    def observation(self, agent: Any, world: Any) -> np.ndarray:
        return np.concatenate([agent.state.p_vel, agent.state.p_pos / self.half])

    def agent_reward(self, agent: Any, world: Any) -> float:
        return -10.0 * self.touched[agent.name] - _beyond(agent.state.p_pos / self.half)

    def adversary_reward(self, agent: Any, world: Any) -> float:
        return 10.0 * float(self.touching.sum())

    def features(self, world: Any) -> np.ndarray:
        rows = np.zeros((len(world.entities), 5), np.float32)
        first = len(world.landmarks)
        rows[:first, 0] = 1
        for row, agent in zip(rows[first:], world.agents, strict=True):
            row[1 if agent.adversary else 2] = 1
            if not agent.adversary:
                row[3:] = agent.state.p_vel
        return rows


class Adversary(Sides):
    """Landmarks, the adversary, agents."""

    def observation(self, agent: Any, world: Any) -> np.ndarray:
        return np.zeros(2) if agent.adversary else agent.goal_a.state.p_pos - agent.state.p_pos

    def features(self, world: Any) -> np.ndarray:
        rows = np.zeros((len(world.entities), 3), np.float32)
        first = len(world.landmarks)
        rows[:first, 0] = 1
        for row, agent in zip(rows[first:], world.agents, strict=True):
            row[1 if agent.adversary else 2] = 1
        return rows


class WorldComm(Sides):
    """Obstacles, food, forests, predators, prey; the velocity of prey."""

    def look(self, world: Any) -> None:
        hunters, prey = self.adversaries(world), self.good_agents(world)  # type: ignore[attr-defined]
        self.touching, self.eating = _touch(hunters, prey), _touch(prey, world.food)
        self.inside = _touch(world.agents, world.forests)  # [N, forests]
        self.number = {agent.name: i for i, agent in enumerate(world.agents)}
        nearest = np.minimum(_far(hunters, prey).min(1), np.inf)
        self.hunt = dict(zip((one.name for one in hunters), nearest.tolist(), strict=True))
        food = _far(prey, world.food).min(1)
        rows = zip(prey, self.touching.sum(0).tolist(), self.eating.sum(1).tolist(), food.tolist(), strict=True)
        self.fed = {one.name: 2.0 * eats - 5.0 * touched - 0.05 * far for one, touched, eats, far in rows}

    def observation(self, agent: Any, world: Any) -> np.ndarray:
        inside = 1.0 if self.inside[self.number[agent.name]].any() else -1.0
        word = world.agents[0].state.c if agent.adversary else np.zeros(world.dim_c)
        return np.concatenate([agent.state.p_vel, agent.state.p_pos / self.half, [inside], word])

    def agent_reward(self, agent: Any, world: Any) -> float:
        return self.fed[agent.name] - 2 * _beyond(agent.state.p_pos / self.half)

    def adversary_reward(self, agent: Any, world: Any) -> float:
        return 5.0 * float(self.touching.sum()) - 0.1 * self.hunt[agent.name]

    def visible(self, world: Any) -> np.ndarray:
        inside = self.inside
        hidden = np.asarray(inside.any(1))
        together = (inside[:, None] & inside).any(-1)
        seen: np.ndarray = together | ~(hidden[:, None] | hidden)
        seen[0] = True
        return seen

    def features(self, world: Any) -> np.ndarray:
        rows = np.zeros((len(world.entities), 7), np.float32)
        food, forests = len(world.landmarks) - len(world.food) - len(world.forests), len(world.forests)
        first = len(world.landmarks)
        rows[:food, 0], rows[food : first - forests, 1], rows[first - forests : first, 2] = 1, 1, 1
        for row, agent in zip(rows[first:], world.agents, strict=True):
            row[3 if agent.adversary else 4] = 1
            if not agent.adversary:
                row[5:] = agent.state.p_vel
        return rows


def things(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks and then all agents: features [M + N, F], positions [M + N, 2]."""
    base = env.unwrapped
    world = base.world
    return base.scenario.features(world), _places([*world.landmarks, *world.agents])


def known(env: Any) -> np.ndarray:
    """[N, N + M + N]: of agents each hears those of its side, of entities it knows landmarks and the other side."""
    base = env.unwrapped
    world = base.world
    side = np.array([agent.adversary for agent in world.agents])
    same, seen = side[:, None] == side, base.scenario.visible(world)
    landmarks = np.ones((len(side), len(world.landmarks)), bool)
    heard = same & seen
    np.fill_diagonal(heard, False)
    return np.concatenate([heard, landmarks, ~same & seen], 1)
