"""native/waterworld and native/prison beside their originals: speed on one core, and the same policies' figures.

`python benchmarks/natives_rooms.py` writes benchmarks/results/natives_rooms.json; the originals run in interpreters
that `peers/setup_originals.sh` makes. Both sides take random actions drawn beforehand, in alternating blocks of CPU
time. The figures beside ours are those of tests/envs/original_figures, made by `peers/originals.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about

from gcoord.envs.native.prison import Prison
from gcoord.envs.native.waterworld import Waterworld

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "envs"))
from beside_originals import play_ours, reference  # noqa: E402

MAKERS: dict[str, Any] = {"waterworld": Waterworld, "prison": Prison}


def native(world: str, n_agents: int, num_envs: int, seconds: float, density: str = "arena") -> float:
    """Agent-steps a CPU second with random actions."""
    env = MAKERS[world](n_agents, num_envs=num_envs, density=density)
    generator = torch.Generator().manual_seed(0)
    if env.spec.discrete:
        drawn = torch.randint(3, (20, num_envs, n_agents), generator=generator)
    else:
        drawn = torch.rand(20, num_envs, n_agents, 2, generator=generator) * 2 - 1
    env.reset(0)
    for action in drawn[:3]:
        env.step(action)
    steps, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        env.step(drawn[steps % 20])
        steps += 1
    return steps * num_envs * n_agents / spent


def original(world: str, n_agents: int, seconds: float) -> float:
    command = [str(HERE / f".venv-{world}" / "bin" / "python"), "-W", "ignore", str(HERE / "peers" / "originals.py")]
    command += [world, "speed", "--n-agents", str(n_agents), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout.splitlines()[-1])
    return float(row["agent_steps_per_second"])


def speeds(num_envs: int, seconds: float, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for world, sizes in (("waterworld", (2, 5, 16)), ("prison", (2, 8, 16))):
        for n in sizes:
            pairs = [(native(world, n, num_envs, seconds), original(world, n, seconds)) for _ in range(repeats)]
            ratios = [ours / theirs for ours, theirs in pairs]
            rows.append(
                {
                    "world": f"native/{world}",
                    "n_agents": n,
                    "num_envs": num_envs,
                    "native": statistics.median(ours for ours, _ in pairs),
                    "original": statistics.median(theirs for _, theirs in pairs),
                    "ratio": statistics.median(ratios),
                    "least_ratio": min(ratios),
                }
            )
            print(rows[-1], flush=True)
    for world in MAKERS:
        rate = statistics.median(native(world, 1000, 1, seconds, "fixed") for _ in range(repeats))
        rows.append({"world": f"native/{world}", "n_agents": 1000, "num_envs": 1, "native": rate})
        print(rows[-1], flush=True)
    return rows


def figures() -> list[dict[str, Any]]:
    """Mean and spread over episodes of the originals' figures and of ours under the same policies."""
    rows = []
    for world in MAKERS:
        for theirs in reference(world):
            n, policy = theirs["n_agents"], theirs["policy"]
            options = {"continuous": True} if policy == "continuous" else {}
            ours = play_ours(MAKERS[world](n, num_envs=200, density="arena", **options), policy, seed=1)
            for name, values in theirs.items():
                if isinstance(values, list):
                    a, b = np.asarray(values, dtype=float), ours[name].astype(float)
                    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
                    row = {"world": world, "n_agents": n, "policy": policy, "figure": name}
                    row |= {"original": a.mean(), "original_spread": a.std(ddof=1), "original_episodes": len(a)}
                    row |= {"ours": b.mean(), "our_spread": b.std(ddof=1), "our_episodes": len(b)}
                    row["standard_errors_apart"] = float((b.mean() - a.mean()) / max(error, 1e-9))
                    rows.append({k: round(float(v), 3) if isinstance(v, float) else v for k, v in row.items()})
                    print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block")
    parser.add_argument("--only", choices=["speed", "figures"], help="leave the other as it is in the file")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "natives_rooms.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if arguments.only != "figures":
        report["speed"] = speeds(arguments.num_envs, arguments.seconds, arguments.repeats)
    if arguments.only != "speed":
        report["figures"] = figures()
    report = {"unit": "agent-steps a CPU second", "threads": 1, **report, **about()}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
