"""Runs in POGEMA's own environment: `python pogema_grid.py measure|record '{arguments as json}'` prints JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from pogema import GridConfig, pogema_v0


def measure(agents: int, side: int, max_steps: int, on_target: str, episodes: int, seed: int) -> list[float]:
    """Agent-steps a CPU second of each of some episodes with random actions, each with its reset."""
    config = GridConfig(
        num_agents=agents, size=side, density=0.2, obs_radius=5, max_episode_steps=max_steps, on_target=on_target
    )
    env = pogema_v0(grid_config=config)
    actions = np.random.default_rng(seed).integers(5, size=(max_steps, agents)).tolist()
    rates = []
    for _ in range(episodes):
        began, steps = time.process_time(), 0
        env.reset()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            steps += 1
            if all(terminated) or all(truncated):
                break
        rates.append(agents * steps / (time.process_time() - began))
    return rates


def record(agents: int, side: int, steps: int, seed: int, on_target: str, collisions: str) -> dict[str, Any]:
    """A crowded game: map, starts and goals, and each step's actions, cells and whether each is still there."""
    config = GridConfig(
        num_agents=agents, size=side, density=0.15, obs_radius=5, max_episode_steps=10 * steps, seed=seed,
        on_target=on_target, collision_system=collisions,
    )  # fmt: skip
    env = pogema_v0(grid_config=config)
    env.reset()
    base = env.unwrapped
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {
        "on_target": on_target,
        "collisions": collisions,
        "map": ["".join(".#"[cell] for cell in row) for row in base.get_obstacles(ignore_borders=True).astype(int)],
        "start": base.get_agents_xy(ignore_borders=True),
        "goal": base.get_targets_xy(ignore_borders=True),
        "actions": [],
        "cells": [],
        "here": [],
    }
    for _ in range(steps):
        # More often ahead than not: those that stay bump into nobody.
        action = rng.choice(5, size=agents, p=(0.04, 0.24, 0.24, 0.24, 0.24)).tolist()
        found["actions"].append("".join(map(str, action)))
        env.step(action)
        cells = base.get_agents_xy(ignore_borders=True)
        found["cells"].append([int(x) * side + int(y) for x, y in cells])
        found["here"].append("".join(str(int(base.grid.is_active[i])) for i in range(agents)))
    return found


if __name__ == "__main__":
    what = {"measure": measure, "record": record}[sys.argv[1]]
    print(json.dumps(what(**json.loads(sys.argv[2])), separators=(",", ":")))
