"""Training speed and learning beside BenchMARL: IPPO, VMAS navigation, 4 agents, lidar, equal data and networks' width.

`python benchmarks/training.py --frames 60000 --seeds 0` runs ours and the peer (in an interpreter of its own, made by
`benchmarks/peers/setup.sh`) in turn and writes benchmarks/results/training.json. Both: 60 teams, 6,000 frames a batch,
minibatches of 1,500 frames, 5 epochs, 100-step episodes, own rewards.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import about

HERE = Path(__file__).resolve().parent
PEER = HERE / ".venv-peers" / "bin" / "python"


def ours(seed: int, frames: int, threads: int, device: str, model: str) -> dict[str, Any]:
    """One run of ours: frames a second without the first round, and the greedy test after it."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            sys.executable, "-m", "gcoord.train", "algo=ippo", f"model={model}", "n_agents=4", "env.lidar=true",
            "num_envs=60", "source.steps=100", "source.minibatch=1500", "source.epochs=5", f"frames={frames}",
            f"seed={seed}", f"threads={threads}", f"device={device}", "evaluation.frames=0", "evaluation.episodes=200",
            "evaluation.num_envs=200", "log.tensorboard=false", f"run_dir={run}", *SAME,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        with open(run / "metrics.csv", newline="") as file:
            rows = [(float(row["frames"]), float(row["frames_per_second"])) for row in csv.DictReader(file)]
        test = json.loads((run / "summary.json").read_text())["test"]["4"]
    counts = [b[0] - a[0] for a, b in itertools.pairwise(rows)]
    seconds = [count / rate for count, (_, rate) in zip(counts, rows[1:], strict=True)]
    return {
        "frames_per_second": sum(counts) / sum(seconds),
        "return_per_agent": test["trained"]["return_per_agent"],
        "success": test["trained"]["success"],
        "random": test["random"],
    }


# One round of messages and 100-step episodes, as the peer has them.
SAME = ["env.max_steps=100", "model.encoder.rounds=1"]


def peer(seed: int, frames: int, threads: int, device: str) -> dict[str, Any]:
    """One run of BenchMARL's IPPO with its PyG GATv2 network."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            str(PEER), str(HERE / "peers" / "benchmarl_navigation.py"), "--seed", str(seed), "--frames", str(frames),
            "--threads", str(threads), "--device", device, "--out", str(out),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        result = json.loads(out.read_text())
    return {
        "frames_per_second": result["speed"]["frames_per_second"],
        "return_per_agent": result["evaluation"]["return_per_agent"],
        "success": result["evaluation"]["success"],
        "settings": result["settings"],
    }


def measure(seeds: list[int], frames: int, threads: int, device: str) -> dict[str, Any]:
    """Ours and the peer in turn, seed by seed."""
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for model in ("relation", "additive"):
            runs.append({"who": f"gcoord {model}", "seed": seed, **ours(seed, frames, threads, device, model)})
            print(runs[-1], flush=True)
        if PEER.exists():
            runs.append({"who": "benchmarl gatv2", "seed": seed, **peer(seed, frames, threads, device)})
            print(runs[-1], flush=True)
    names = list(dict.fromkeys(run["who"] for run in runs))
    speed = {who: statistics.median(run["frames_per_second"] for run in runs if run["who"] == who) for who in names}
    return {"frames": frames, "threads": threads, "runs": runs, "frames_per_second": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "training.json")
    given = parser.parse_args()
    result = {**about(given.device), **measure(given.seeds, given.frames, given.threads, given.device)}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
