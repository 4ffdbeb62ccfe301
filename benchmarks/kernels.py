"""The relation kernel beside PyG's TransformerConv and GATv2Conv: same graphs, width 64, 8 heads, forward and backward.

`python benchmarks/kernels.py` prints a table and writes benchmarks/results/kernels.json; `--device cuda` measures there
and writes kernels-cuda.json. The layers take turns, call by call, so that whatever else the machine does meets all
alike.
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
from machine import about
from torch import Tensor
from torch_geometric.nn import GATv2Conv, TransformerConv

from gcoord.graph import AgentGraph
from gcoord.models import RelationKernel

DIM, HEADS = 64, 8
SIZES = [(512, 8, 3), (128, 32, 8), (32, 128, 8), (8, 512, 8), (2, 2048, 8)]  # graphs, agents, neighbours
GROWTH = [(128, 32, 8), (32, 128, 8), (8, 512, 8), (2, 2048, 8)]  # as many agents in all, in ever larger teams
TRAINING = [(64, 4, 3), (1500, 4, 3)]  # one step of 64 teams, one minibatch of PPO


def lists(graphs: int, agents: int, k: int, seed: int, device: str) -> AgentGraph:
    """The k nearest of agents at random places, as neighbour lists."""
    position = torch.rand(graphs, agents, 2, generator=torch.Generator().manual_seed(seed))
    squared = (position.unsqueeze(-2) - position.unsqueeze(-3)).square().sum(-1)
    squared.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    index = squared.topk(k, dim=-1, largest=False).indices
    present = torch.ones(graphs, agents, dtype=torch.bool)
    graph = AgentGraph(mask=torch.ones_like(index, dtype=torch.bool), index=index, present=present, batch_size=[graphs])
    return graph.to(device)


def sides(graphs: int, agents: int, k: int, seed: int, device: str) -> dict[str, tuple[torch.nn.Module, Tensor, Any]]:
    """By name: a layer, what it reads and along which graph."""
    torch.manual_seed(seed)
    graph = lists(graphs, agents, k, seed, device)
    x = torch.randn(graphs, agents, DIM, device=device)
    rows, edge_index = x.view(-1, DIM), graph.edge_index()
    found: dict[str, tuple[torch.nn.Module, Tensor, Any]] = {
        "relation": (RelationKernel(DIM, HEADS), x, graph),
        "transformer_conv": (TransformerConv(DIM, DIM // HEADS, HEADS), rows, edge_index),
        "gatv2_conv": (GATv2Conv(DIM, DIM // HEADS, HEADS), rows, edge_index),
    }
    return {name: (layer.to(device), *rest) for name, (layer, *rest) in found.items()}


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call, the device's work included."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def one_size(graphs: int, agents: int, k: int, device: str, repeats: int, seed: int) -> dict[str, Any]:
    """Median and fastest milliseconds of each layer, and how many times as fast as the faster PyG layer ours is."""
    calls: dict[str, dict[str, Callable[[], Any]]] = {"forward": {}, "both": {}}
    for name, (layer, x, graph) in sides(graphs, agents, k, seed, device).items():
        leaf = x.clone().requires_grad_()
        calls["forward"][name] = torch.no_grad()(lambda layer=layer, x=x, graph=graph: layer(x, graph))
        calls["both"][name] = lambda layer=layer, x=leaf, graph=graph: layer(x, graph).sum().backward()
    row: dict[str, Any] = {"graphs": graphs, "agents": agents, "neighbours": k, "layout": "neighbour lists"}
    if agents <= RelationKernel.few:
        row["layout"] = "all pairs"
    for part, by_name in calls.items():
        took: dict[str, list[float]] = {name: [] for name in by_name}
        for turn in range(repeats + 3):
            for name, call in by_name.items():
                seconds = seconds_of(call, device)
                if turn >= 3:
                    took[name].append(1e3 * seconds)
        medians = {name: statistics.median(times) for name, times in took.items()}
        row[f"{part}_median_ms"], row[f"{part}_min_ms"] = medians, {name: min(times) for name, times in took.items()}
        row[part] = min(medians["transformer_conv"], medians["gatv2_conv"]) / medians["relation"]
    return row


def measure(device: str = "cpu", threads: int = 2, repeats: int = 40, seed: int = 0) -> dict[str, Any]:
    """All sizes; `growth` is the relation kernel's cost per agent at 2,048 agents over that at 32, at 8 neighbours."""
    torch.set_num_threads(threads)
    rows = {"sizes": SIZES, "training": TRAINING}
    found: dict[str, Any] = {
        name: [one_size(*size, device=device, repeats=repeats, seed=seed) for size in sizes]
        for name, sizes in rows.items()
    }
    per_agent = {
        f"{row['agents']}": {
            part: 1e3 * row[f"{part}_median_ms"]["relation"] / (row["graphs"] * row["agents"])
            for part in ("forward", "both")
        }
        for row in found["sizes"]
        if (row["graphs"], row["agents"], row["neighbours"]) in GROWTH
    }
    growth = {part: per_agent["2048"][part] / per_agent["32"][part] for part in ("forward", "both")}
    return {**found, "microseconds_per_agent": per_agent, "growth": growth, "repeats": repeats, "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = measure(options.device, options.threads, options.repeats, options.seed)
    for row in [*measured["training"], *measured["sizes"]]:
        times = "  ".join(
            f"{name} {row['forward_median_ms'][name]:.2f}/{row['both_median_ms'][name]:.2f} ms"
            for name in row["both_median_ms"]
        )
        size = f"{row['graphs']:>5} x {row['agents']:<5} k={row['neighbours']}"
        print(f"{size} {row['forward']:.2f} / {row['both']:.2f} times as fast   {times}")
    print(f"cost per agent, 2,048 agents over 32: {measured['growth']}")
    suffix = "" if options.device == "cpu" else f"-{torch.device(options.device).type}"
    path = Path(__file__).resolve().parent / "results" / f"kernels{suffix}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**about(options.device), "threads": options.threads, **measured}, indent=2) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
