"""native/mapf beside POGEMA: the same rules, map, team and view, random actions, one thread, in turn.

`python benchmarks/natives_grid.py --peer PATH/bin/python` prints rows and writes them below benchmarks/results/.
POGEMA pins gymnasium 0.28, so PATH is an environment of its own: `python -m venv PATH && PATH/bin/pip install pogema`.
Without `--peer` only ours is measured, on `--device`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from machine import about

from gcoord.envs.native.mapf import Mapf
from gcoord.envs.native.skirmish import Skirmish

HERE = Path(__file__).resolve().parent
TEAMS, AGENTS = 64, 64


def ours(env: Mapf | Skirmish, steps: int, seed: int) -> float:
    """Agent-steps a CPU second (on a GPU: a second) with random actions, resets included."""
    spec, device = env.spec, env.device
    generator = torch.Generator(device).manual_seed(seed)
    shape = (steps, spec.num_envs, spec.n_agents)
    actions = torch.randint(spec.n_actions, shape, generator=generator, device=device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    env.reset(seed)
    env.step(actions[0])
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    for action in actions:
        env.step(action)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return actions.numel() / (clock() - began)


def peer(python: str, what: str, **arguments: Any) -> Any:
    command = [python, str(HERE / "peers" / "pogema_grid.py"), what, json.dumps(arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=500).stdout)


def beside(python: str, turns: int) -> list[dict[str, Any]]:
    """Both in turn, an episode of ours and its reset, then some of the peer's; ratios of medians and of the fastest,
    which other work on the machine disturbs least."""
    rows = []
    for on_target in ("nothing", "finish", "restart"):
        env = Mapf(n_agents=AGENTS, num_envs=TEAMS, on_target=on_target)
        side, limit = env._side, env.spec.max_steps
        took: dict[str, list[float]] = {"ours": [], "pogema": []}
        for turn in range(turns):
            took["ours"].append(ours(env, limit + 1, turn))
            took["pogema"] += peer(
                python, "measure", agents=AGENTS, side=side, max_steps=limit, on_target=on_target, episodes=4, seed=turn
            )
        row: dict[str, Any] = {"on_target": on_target, "n_agents": AGENTS, "num_envs": TEAMS, "side": side}
        row["median"] = {name: statistics.median(values) for name, values in took.items()}
        row["fastest"] = {name: max(values) for name, values in took.items()}
        row["times_as_fast"] = row["median"]["ours"] / row["median"]["pogema"]
        row["times_as_fast_at_best"] = row["fastest"]["ours"] / row["fastest"]["pogema"]
        rows.append(row)
        print(json.dumps(rows[-1]), flush=True)
    return rows


def alone(device: str) -> list[dict[str, Any]]:
    rows = []
    for name, make, sizes in (
        ("native/mapf", Mapf, ((8, 32), (8, 1024), (64, 64), (1000, 1))),
        ("native/skirmish", Skirmish, ((3, 32), (3, 1024), (8, 256), (25, 64))),
    ):
        for agents, teams in sizes:
            env = make(n_agents=agents, num_envs=teams, device=device)
            rows.append({"world": name, "n_agents": agents, "num_envs": teams, "agent_steps": ours(env, 100, 0)})
            print(json.dumps(rows[-1]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", help="a Python that has pogema")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"alone": alone(options.device)}
    if options.peer:
        found["beside_pogema"] = beside(options.peer, options.turns)
    suffix = "" if options.device == "cpu" else f"-{torch.device(options.device).type}"
    path = HERE / "results" / f"natives_grid{suffix}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**about(options.device), "threads": 1, **found}, indent=2) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
