"""Collection beside the bare simulator: VMAS navigation and SISL pursuit, bare and through `TeamEnv`.

`python benchmarks/collection.py --num-envs 1024 --device cpu` writes benchmarks/results/collection.json. All sides step
the same world with random actions, and one with the default policy; blocks of steps alternate, so that whatever else
the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vmas
from machine import about

from gcoord.data.collect import Collector
from gcoord.envs.sisl import pursuit
from gcoord.envs.vmas_views import Navigation
from gcoord.graph import Auto
from gcoord.models import GraphEncoder
from gcoord.models.agent import Agent, Body
from gcoord.models.kinds import policy_head

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


def with_the_default_policy(num_envs: int, n_agents: int, device: str, seed: int) -> Callable[[], None]:
    """One step of collection by the default policy (relation kernels of width 64, two rounds, the 3 nearest)."""
    env = Navigation(
        n_agents=n_agents, num_envs=num_envs, device=device, seed=seed, lidar=True, density="arena", max_steps=EPISODE
    )
    body = Body(env.spec, Auto(), GraphEncoder)
    agent = Agent(body, partial(policy_head, env.spec)).to(device).eval()
    collector = Collector(env, seed)

    def step() -> None:
        collector.collect(agent, 1, log_prob=True)

    return step


def bare_pursuit(n_agents: int, seed: int) -> Callable[[], None]:
    """One step of PettingZoo's pursuit by itself, reset at the end of each episode."""
    from pettingzoo.sisl import pursuit_v5

    env = pursuit_v5.parallel_env(n_pursuers=n_agents)
    env.reset(seed=seed)
    random = np.random.default_rng(seed)

    def step() -> None:
        if not env.agents:
            env.reset()
        env.step({agent: int(random.integers(5)) for agent in env.agents})

    return step


def pursuit_through_team_env(n_agents: int, num_envs: int, workers: int, seed: int) -> Callable[[], None]:
    """One step of several copies through the adapter."""
    env = pursuit(n_agents=n_agents, num_envs=num_envs, seed=seed, workers=workers)
    env.reset(seed)
    generator = torch.Generator().manual_seed(seed)

    def step() -> None:
        env.step(torch.randint(5, (num_envs, n_agents), generator=generator))

    return step


def measure_pursuit(n_agents: int, num_envs: int, seed: int, steps: int, repeats: int) -> dict[str, Any]:
    """Steps a second, summed over copies: PettingZoo's world in one loop, ours in-process and in two workers."""
    sides = {
        "bare": (bare_pursuit(n_agents, seed), 1, steps * num_envs),
        "team_env": (pursuit_through_team_env(n_agents, num_envs, 0, seed), num_envs, steps),
        "team_env_two_workers": (pursuit_through_team_env(n_agents, num_envs, 2, seed), num_envs, steps),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (step, count, times) in sides.items():
            rates[name].append(rate(step, times, count, "cpu"))
    ratios = [ours / theirs for ours, theirs in zip(rates["team_env"], rates["bare"], strict=True)]
    return {
        "world": "sisl/pursuit",
        "num_envs": num_envs,
        "n_agents": n_agents,
        "steps_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "all_steps_per_second": rates,
        "team_env_to_bare": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }


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
        "default_policy": with_the_default_policy(num_envs, n_agents, device, seed),
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
        "default_policy_to_bare": statistics.median(
            ours / theirs for ours, theirs in zip(rates["default_policy"], rates["bare"], strict=True)
        ),
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
    if arguments.device == "cpu":
        report["pursuit"] = measure_pursuit(8, 8, arguments.seed, 25, arguments.repeats)
        print("pursuit, steps/s:", {k: round(v) for k, v in report["pursuit"]["steps_per_second"].items()}, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
