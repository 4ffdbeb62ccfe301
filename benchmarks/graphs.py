"""Graph building: exact neighbours beside all pairs and topk, and the graphs of many small teams.

`python benchmarks/graphs.py` prints a table and writes benchmarks/results/graphs.json; `--device cuda` measures there
and writes graphs-cuda.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import about
from torch import Tensor

from gcoord.graph import AgentGraph, Nearest, Radius, geometry
from gcoord.models import RelationKernel

NEIGHBOURS = [(8, 512, 3), (8, 512, 8), (2, 2048, 3), (2, 2048, 8), (1, 8192, 8)]  # graphs, agents, neighbours
SMALL = [(64, 4, 3), (1500, 4, 3), (512, 8, 3), (128, 32, 8), (32, 128, 8)]
LAYOUTS = ("uniform", "clustered")


def brute_force(position: Tensor, k: int) -> Tensor:
    """[G, N, k] long: what a straightforward exact search does, with direct differences."""
    difference = position.unsqueeze(-2) - position.unsqueeze(-3)
    squared = difference.square().sum(-1)
    squared.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return squared.topk(k, dim=-1, largest=False).indices


def places(graphs: int, agents: int, layout: str, seed: int, device: str) -> Tensor:
    """[G, N, 2] positions at one agent per unit of area; clustered: around one centre for every 64 agents."""
    random = torch.Generator().manual_seed(seed)
    side = agents**0.5
    position = torch.rand(graphs, agents, 2, generator=random) * side
    if layout == "clustered":
        centres = torch.rand(graphs, max(1, agents // 64), 2, generator=random) * side
        which = torch.randint(centres.shape[1], (graphs, agents, 1), generator=random).expand(-1, -1, 2)
        position = centres.gather(1, which) + torch.randn(graphs, agents, 2, generator=random)
    return position.to(device)


def milliseconds(calls: dict[str, Callable[[], Any]], device: str, seconds: float) -> dict[str, dict[str, float]]:
    """Median and fastest of each call, in turn, within about `seconds` a call, after three to warm up."""

    def timed(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3

    for call in calls.values():
        for _ in range(3):
            timed(call)
    took: dict[str, list[float]] = {name: [] for name in calls}
    end, rounds = time.perf_counter() + seconds * len(calls), 0
    while rounds < 5 or time.perf_counter() < end:
        for name, call in calls.items():
            took[name].append(timed(call))
        rounds += 1
    return {name: {"median_ms": statistics.median(times), "min_ms": min(times)} for name, times in took.items()}


def neighbours(graphs: int, agents: int, k: int, layout: str, device: str, seconds: float, seed: int) -> dict[str, Any]:
    """One size: `nearest` beside two exact searches of all pairs (ours, and a plain one) and one kernel forward."""
    position = places(graphs, agents, layout, seed, device)
    alive = torch.ones(graphs, agents, dtype=torch.bool, device=device)
    graph: AgentGraph = Nearest(k)(alive, position)
    expected = torch.zeros_like(graph.hears()).scatter_(-1, brute_force(position, k), True)
    if not torch.equal(graph.hears(), expected):
        raise RuntimeError(f"expected the same neighbours from Nearest({k}) and brute force at {graphs} x {agents}")
    torch.manual_seed(seed)
    kernel = RelationKernel(dim=64, heads=8).to(device)
    calls: dict[str, Callable[[], Any]] = {
        "nearest": partial(Nearest(k), alive, position),
        "radius": partial(Radius((k / math.pi) ** 0.5, limit=k), alive, position),
        "all_pairs": partial(Nearest(k, cells_from=agents + 1), alive, position),
        "brute_force": partial(brute_force, position, k),
        "kernel_forward": partial(kernel, torch.randn(graphs, agents, 64, device=device), graph),
    }
    times = milliseconds(calls, device, seconds)
    took = {name: time["min_ms"] for name, time in times.items()}
    return {
        "graphs": graphs,
        "agents": agents,
        "neighbours": k,
        "layout": layout,
        **times,
        "times_faster_than_all_pairs": took["all_pairs"] / took["nearest"],
        "times_faster_than_brute_force": took["brute_force"] / took["nearest"],
        "kernel_forwards": took["nearest"] / took["kernel_forward"],
    }


def small_teams(graphs: int, agents: int, k: int, device: str, seconds: float, seed: int) -> dict[str, Any]:
    """One size of the training loop: the dense graph and its edge features."""
    position = places(graphs, agents, "uniform", seed, device)
    alive = torch.ones(graphs, agents, dtype=torch.bool, device=device)
    calls = {
        "nearest": partial(Nearest(k), alive, position),
        "geometry": partial(geometry, Nearest(k)(alive, position), position),
    }
    return {
        "graphs": graphs,
        "agents": agents,
        "neighbours": k,
        **milliseconds(calls, device, seconds),
    }


@torch.no_grad()
def measure(device: str = "cpu", seconds: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Times of graph building at each size, about `seconds` for each number."""
    large, small = [], []
    for graphs, agents, k in NEIGHBOURS:
        for layout in LAYOUTS:
            row = neighbours(graphs, agents, k, layout, device, seconds, seed)
            large.append(row)
            print(
                f"{graphs:>4} x {agents:<5} k={k} {layout:<10} nearest {row['nearest']['min_ms']:7.2f} ms: "
                f"{row['times_faster_than_all_pairs']:5.1f} x all pairs, {row['times_faster_than_brute_force']:5.1f} x "
                f"plain brute force, {row['kernel_forwards']:.2f} kernel forwards",
                flush=True,
            )
    for graphs, agents, k in SMALL:
        row = small_teams(graphs, agents, k, device, seconds, seed)
        small.append(row)
        print(
            f"{graphs:>4} x {agents:<5} k={k} nearest {row['nearest']['min_ms']:.3f} ms, "
            f"geometry {row['geometry']['min_ms']:.3f} ms",
            flush=True,
        )
    return {"neighbours": large, "small_teams": small, "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring for each number")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {
        **about(options.device),
        "threads": options.threads,
        **measure(options.device, options.seconds, options.seed),
    }
    suffix = "" if options.device == "cpu" else f"-{torch.device(options.device).type}"
    path = Path(__file__).resolve().parent / "results" / f"graphs{suffix}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
