"""Training speed and learning beside BenchMARL: IPPO, VMAS navigation, 4 agents, lidar, equal data and networks' width.

`python benchmarks/training.py --frames 600000 --seeds 0 1 2` trains ours (its own settings) and the peer (in an
interpreter of its own, made by `benchmarks/peers/setup.sh`, once for each of `--peer-lr`) in turn, seed by seed, and
writes benchmarks/results/training.json. Both: 60 teams, 6,000 frames a batch, minibatches of 1,500 frames, 5 epochs,
100-step episodes, own rewards, and at the end 200 greedy test episodes. Ours never sees more frames than the peer.

Each training that is done is kept in training.part.json beside the results: a benchmark that was stopped goes on with
the next one when it is started again with the same --frames, --threads and --device.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import about

from gcoord.checkpoint import whole_file
from gcoord.scaleup.protocol import Sweep, open_run
from gcoord.scaleup.statistics import interval

HERE = Path(__file__).resolve().parent
PEER = HERE / ".venv-peers" / "bin" / "python"
BATCH, EPISODES = 6_000, 200
# One round of messages and 100-step episodes, as the peer has them.
SAME = ["env.max_steps=100", "model.encoder.rounds=1"]
# BenchMARL's own default first, then up to ours.
PEER_LR = [5e-5, 5e-4, 1e-3, 2e-3]

Cell = dict[str, Any]


def ours(model: str, seed: int, given: argparse.Namespace) -> Cell:
    """One run of ours: frames a second without the first round, and test episodes of what was learnt last."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        # A round that would pass the limit is not begun; rows that only reset a world are no frames.
        frames = max(given.frames - BATCH + 1, 1)
        command = [
            sys.executable, "-m", "gcoord.train", "algo=ippo", f"model={model}", "n_agents=4", "env.lidar=true",
            "num_envs=60", "source.steps=100", "source.minibatch=1500", "source.epochs=5", f"frames={frames}",
            f"seed={seed}", f"threads={given.threads}", f"device={given.device}", "evaluation.frames=0",
            "evaluation.episodes=1", "log.tensorboard=false", f"run_dir={run}", *SAME,
        ]  # fmt: skip
        subprocess.run(command, check=True, env=environment(given), stdout=subprocess.DEVNULL)
        with open(run / "metrics.csv", newline="") as file:
            rows = [(float(row["frames"]), float(row["frames_per_second"])) for row in csv.DictReader(file)]
        trained = open_run(run, torch.device(given.device))
        sweep = Sweep([trained], (), EPISODES, EPISODES, device=given.device, say=lambda text: None)
        random, learnt = (played.values for _, played in sweep.at(4, ["random", "zero_shot"]))
        config = trained.cfg
    counts = [b[0] - a[0] for a, b in itertools.pairwise(rows)]
    seconds = [count / rate for count, (_, rate) in zip(counts, rows[1:], strict=True)]
    return {
        "frames": trained.frames,
        "frames_per_second": sum(counts) / sum(seconds) if seconds else None,
        "episodes": {name: learnt[name] for name in ("return_per_agent", "success")},
        "random": {name: sum(values) / len(values) for name, values in random.items()},
        "settings": {name: config.algo[name] for name in ("lr", "gamma", "lam", "entropy")},
    }


def peer(lr: float, seed: int, given: argparse.Namespace) -> Cell:
    """One run of BenchMARL's IPPO with its PyG GATv2 network."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            str(PEER), str(HERE / "peers" / "benchmarl_navigation.py"), "--seed", str(seed), "--lr", str(lr),
            "--frames", str(given.frames), "--threads", str(given.threads), "--device", given.device,
            "--episodes", str(EPISODES), "--out", str(out),
        ]  # fmt: skip
        subprocess.run(command, check=True, env=environment(given), stdout=subprocess.DEVNULL)
        result = json.loads(out.read_text())
    return {
        "frames": result["frames"],
        "frames_per_second": result["speed"]["frames_per_second"],
        "episodes": {name: result["evaluation_by_episode"][name] for name in ("return_per_agent", "success")},
        "settings": result["settings"],
        "versions": result["versions"],
    }


def environment(given: argparse.Namespace) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(given.threads)}


def plan(given: argparse.Namespace) -> dict[tuple[str, float | None, int], Callable[[], Cell]]:
    """Every training there is to do, by who, the peer's lr (None: ours) and seed; ours and the peer in turn."""
    cells: dict[tuple[str, float | None, int], Callable[[], Cell]] = {}
    for seed in given.seeds:
        for model in ("relation", "additive"):
            cells[f"gcoord {model}", None, seed] = lambda model=model, seed=seed: ours(model, seed, given)
        for lr in given.peer_lr if PEER.exists() else ():
            cells["benchmarl gatv2", lr, seed] = lambda lr=lr, seed=seed: peer(lr, seed, given)
    return cells


def measure(given: argparse.Namespace) -> list[Cell]:
    """All trainings, those that an earlier start has done read from its file."""
    settings = {name: getattr(given, name) for name in ("frames", "threads", "device")}
    part = given.out.with_suffix(".part.json")
    done: dict[tuple[str, float | None, int], Cell] = {}
    if part.exists():
        kept = json.loads(part.read_text())
        if kept["settings"] != settings:
            raise SystemExit(f"expected the settings of {part}, {kept['settings']} (got {settings}); or delete it")
        done = {(run["who"], run["lr"], run["seed"]): run for run in kept["runs"]}
    cells = plan(given)
    for key, train in cells.items():
        if key not in done:
            who, lr, seed = key
            done[key] = {"who": who, "lr": lr, "seed": seed, **train()}
            with whole_file(part) as aside:
                aside.write_text(json.dumps({"settings": settings, "runs": list(done.values())}) + "\n")
        print(line(done[key]), flush=True)
    return [done[key] for key in cells]


def line(run: Cell) -> str:
    """One training in words."""
    returns = run["episodes"]["return_per_agent"]
    lr = "" if run["lr"] is None else f" lr {run['lr']:g}"
    return f"{run['who']}{lr} seed {run['seed']}: {run['frames']:,} frames, return {statistics.mean(returns):.3f}"


def summarise(runs: list[Cell]) -> list[dict[str, Any]]:
    """Ours and the peer at each lr, over seeds: median speed, means of the test episodes with their intervals."""
    rows = []
    for who, lr in dict.fromkeys((run["who"], run["lr"]) for run in runs):
        here = [run for run in runs if (run["who"], run["lr"]) == (who, lr)]
        speeds = [run["frames_per_second"] for run in here if run["frames_per_second"]]
        row = {
            "who": who,
            "lr": lr,
            "seeds": [run["seed"] for run in here],
            "frames": [run["frames"] for run in here],
            "frames_per_second": statistics.median(speeds) if speeds else None,
        }
        for name in ("return_per_agent", "success"):
            value, low, high = interval([run["episodes"][name] for run in here])
            row[name] = {"value": value, "ci_low": low, "ci_high": high}
        rows.append(row)
    return rows


def verdict(summary: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Each of ours beside the peer at the lr that did best in these very tests; None without the peer."""
    peers = [row for row in summary if row["lr"] is not None]
    if not peers:
        return None
    best = max(peers, key=lambda row: row["return_per_agent"]["value"])
    beside = {}
    for row in summary:
        if row["lr"] is None:
            fast = row["frames_per_second"], best["frames_per_second"]
            beside[row["who"]] = {
                "times_as_fast": fast[0] / fast[1] if all(fast) else None,
                "not_below_the_peers_interval": row["return_per_agent"]["value"] >= best["return_per_agent"]["ci_low"],
            }
    return {"peer_lr": best["lr"], "ours": beside}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60_000, help="environment steps, summed over teams")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--peer-lr", type=float, nargs="+", default=PEER_LR, help="Adam's steps that the peer is tried with"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "training.json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    runs = measure(given)
    summary = summarise(runs)
    for run in runs:
        for name, values in run.pop("episodes").items():
            run[name] = statistics.mean(values)
    result = {
        **about(given.device),
        "frames": given.frames,
        "threads": given.threads,
        "episodes": EPISODES,
        "summary": summary,
        "verdict": verdict(summary),
        "runs": runs,
    }
    with whole_file(given.out) as aside:
        aside.write_text(json.dumps(result, indent=1) + "\n")
    given.out.with_suffix(".part.json").unlink()


if __name__ == "__main__":
    main()
