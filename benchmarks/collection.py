"""Collection beside the bare simulator: VMAS navigation with random actions, bare and through `TeamEnv`.

`python benchmarks/collection.py --num-envs 1024 --device cpu` writes benchmarks/results/collection.json. Both sides
step the same world in 100-step episodes and restart all teams at their end; blocks of steps alternate, so that whatever
else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import vmas
from machine import about

from gcoord.envs.vmas_views import Navigation

HERE = Path(__file__).resolve().parent
EPISODE = 100


def bare(num_envs: int, n_agents: int, device: str, seed: int) -> Callable[[], None]:
    """One step of the simulator by itself, with its own random actions."""
    env = vmas.make_env(
        "navigation",
        num_envs=num_envs,
        device=device,
        seed=seed,
        n_agents=n_agents,
        max_steps=EPISODE,
        shared_rew=False,
    )
    env.reset()
    count = 0

    def step() -> None:
        nonlocal count
        env.step(env.get_random_actions())
        count += 1
        if count % EPISODE == 0:
            env.reset()

    return step


def through_team_env(num_envs: int, n_agents: int, device: str, seed: int, lidar: bool) -> Callable[[], None]:
    """One step through the adapter, with uniform actions."""
    env = Navigation(
        n_agents=n_agents, num_envs=num_envs, device=device, seed=seed, lidar=lidar, density="arena", max_steps=EPISODE
    )
    env.reset()
    generator = torch.Generator(device).manual_seed(seed)

    def step() -> None:
        env.step(torch.rand(num_envs, n_agents, 2, generator=generator, device=device) * 2 - 1)

    return step


def rate(step: Callable[[], None], steps: int, num_envs: int, device: str) -> float:
    """Environment steps a second, summed over the teams."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return steps * num_envs / (time.perf_counter() - start)


def measure(num_envs: int, n_agents: int, device: str, seed: int, steps: int, repeats: int) -> dict[str, Any]:
    """Steps a second of the bare simulator and through TeamEnv, with lidar and without, in alternating blocks."""
    sides = {
        "bare": bare(num_envs, n_agents, device, seed),
        "team_env": through_team_env(num_envs, n_agents, device, seed, lidar=True),
        "team_env_without_lidar": through_team_env(num_envs, n_agents, device, seed, lidar=False),
    }
    for step in sides.values():
        rate(step, 3, num_envs, device)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, step in sides.items():
            rates[name].append(rate(step, steps, num_envs, device))
    ratios = [ours / theirs for ours, theirs in zip(rates["team_env"], rates["bare"], strict=True)]
    return {
        "world": "vmas/navigation",
        "num_envs": num_envs,
        "n_agents": n_agents,
        "device": device,
        "steps_per_block": steps,
        "steps_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "all_steps_per_second": rates,
        "team_env_to_bare": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1024])
    parser.add_argument("--n-agents", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=101, help="steps of a block, one episode and its restart")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "collection.json")
    arguments = parser.parse_args()

    results = []
    for num_envs in arguments.num_envs:
        result = measure(
            num_envs, arguments.n_agents, arguments.device, arguments.seed, arguments.steps, arguments.repeats
        )
        results.append(result)
        speeds = ", ".join(f"{name} {value:,.0f}" for name, value in result["steps_per_second"].items())
        print(f"{num_envs} teams on {arguments.device}, steps/s: {speeds}; ", end="")
        print(f"ratio {result['team_env_to_bare']['median']:.2f}", flush=True)
    report = {**about(arguments.device), "threads": torch.get_num_threads(), "seed": arguments.seed, "vmas": results}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
