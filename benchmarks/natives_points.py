"""native/spread and native/target beside their originals in Python: agent-steps a second on one core, interleaved.

`python benchmarks/natives_points.py` writes benchmarks/results/natives_points.json. The peer of spread is mpe2's
simple_spread; that of target is the same task written on mpe2's own World, as MPE scenarios are, for the published one
cannot be installed. Blocks of steps alternate, measured in CPU time, so that whatever else the machine does meets all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about
from mpe2 import simple_spread_v3
from mpe2._mpe_utils.core import Agent, Landmark, World

from gcoord.envs.native.routing import Routing
from gcoord.envs.native.spread import Spread
from gcoord.envs.native.target import Target

HERE = Path(__file__).resolve().parent
EPISODE = 25


def native(make: Any, n_agents: int, num_envs: int) -> Callable[[], int]:
    """One step of all teams; returns the agent-steps it made."""
    env = make(n_agents, num_envs=num_envs, density="arena")
    env.reset(0)
    generator = torch.Generator().manual_seed(0)

    def step() -> int:
        env.step(torch.randint(env.spec.n_actions, (num_envs, n_agents), generator=generator))
        return n_agents * num_envs

    return step


def mpe_spread(n_agents: int) -> Callable[[], int]:
    env = simple_spread_v3.parallel_env(N=n_agents, max_cycles=EPISODE)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> int:
        env.step({agent: int(rng.integers(5)) for agent in env.agents})
        if not env.agents:
            env.reset()
        return n_agents

    return step


class PythonTarget:
    """The target task as an MPE scenario: mpe2's World, entity by entity."""

    def __init__(self, n_agents: int, obstacles: int = 3) -> None:
        self.world, self.rng, self.t = World(), np.random.default_rng(0), 0
        self.world.agents = [Agent() for _ in range(n_agents)]
        self.goals = [Landmark() for _ in range(n_agents)]
        self.obstacles = [Landmark() for _ in range(obstacles)]
        self.world.landmarks = [*self.goals, *self.obstacles]
        for goal in self.goals:
            goal.collide = False
        for agent in self.world.agents:
            agent.max_speed, agent.silent = 2.0, True
        self.reset()

    def reset(self) -> None:
        self.t = 0
        for group, half, others in (
            (self.obstacles, 0.8, []),
            (self.world.agents, 1.0, self.obstacles),
            (self.goals, 0.8, self.obstacles),
        ):
            placed: list[Any] = list(others)
            for thing in group:
                while True:
                    place = self.rng.uniform(-half, half, 2)
                    if group is self.obstacles or all(self.apart(place, other) >= 0.1 for other in placed):
                        break
                thing.state.p_pos, thing.state.p_vel = place, np.zeros(2)
                placed.append(thing)

    @staticmethod
    def apart(place: np.ndarray, other: Any) -> float:
        return float(np.sqrt(((place - other.state.p_pos) ** 2).sum()))

    def step(self) -> int:
        pushes = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
        for agent in self.world.agents:
            agent.action.u, agent.action.c = 5.0 * np.array(pushes[self.rng.integers(5)]), np.zeros(0)
        self.world.step()
        for agent, goal in zip(self.world.agents, self.goals, strict=True):
            self.reward(agent, goal)
            np.concatenate([agent.state.p_vel, agent.state.p_pos, goal.state.p_pos - agent.state.p_pos])
        self.t += 1
        if self.t == EPISODE:
            self.reset()
        return len(self.world.agents)

    def reward(self, agent: Any, goal: Any) -> float:
        distance = self.apart(agent.state.p_pos, goal)
        reward = 5.0 if distance < 0.1 else -distance
        for other in self.world.agents:
            if other is not agent and self.apart(agent.state.p_pos, other) < 0.1:
                reward -= 5.0
        if any(self.apart(agent.state.p_pos, obstacle) < 0.1 for obstacle in self.obstacles):
            reward -= 5.0
        return reward


def block(step: Callable[[], int], seconds: float) -> float:
    """Agent-steps a CPU second."""
    made, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        made += step()
    return made / spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="of a block")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "natives_points.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, sizes, make, peer in (
        ("native/spread", (3, 6, 10), Spread, mpe_spread),
        ("native/target", (3, 7, 15), Target, lambda n: PythonTarget(n).step),
    ):
        for n in sizes:
            sides = {"native": native(make, n, args.num_envs), "python": peer(n)}
            figures: dict[str, list[float]] = {side: [] for side in sides}
            for repeat in range(args.repeats + 1):
                for side, step in sides.items():
                    rate = block(step, args.seconds)
                    # The first block of each warms up.
                    if repeat:
                        figures[side].append(rate)
            ratios = [a / b for a, b in zip(figures["native"], figures["python"], strict=True)]
            rows.append({"world": name, "n_agents": n, "num_envs": args.num_envs} | row(figures, ratios))
    for world, make, n, teams in (
        ("native/routing", Routing, 20, args.num_envs),
        ("native/routing", Routing, 1000, 1),
        ("native/spread", lambda n, **kw: Spread(n, **(kw | {"density": "fixed"})), 1000, 1),
        ("native/target", lambda n, **kw: Target(n, **(kw | {"density": "fixed"})), 1000, 1),
    ):
        step = native(make, n, teams)
        rates = [block(step, args.seconds) for _ in range(args.repeats + 1)][1:]
        rows.append({"world": world, "n_agents": n, "num_envs": teams, "native": statistics.median(rates)})
    for found in rows:
        print({key: round(value, 1) if isinstance(value, float) else value for key, value in found.items()})
    args.output.write_text(json.dumps({"unit": "agent-steps a CPU second", "rows": rows} | about(), indent=1) + "\n")


def row(figures: dict[str, list[float]], ratios: list[float]) -> dict[str, float]:
    medians = {side: statistics.median(rates) for side, rates in figures.items()}
    return medians | {"ratio": statistics.median(ratios), "least_ratio": min(ratios)}


if __name__ == "__main__":
    main()
