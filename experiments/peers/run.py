"""qmix, ippo, mappo and maddpg beside BenchMARL's at equal frames: VMAS navigation, 4 agents, lidar, 60,000 frames.

`python experiments/peers/run.py` trains what is missing in runs.jsonl, one line a training, and writes results.csv
and, at the end, what came of it. It may be stopped at any time and started again. The peers' interpreter is made by
`benchmarks/peers/setup.sh`.

Both sides see the same: 60 teams, 100-step episodes, own rewards (QMIX learns the team's mean), one round of messages
over the whole team, 64 features; policy gradients 6,000 frames a rollout, minibatches of 1,500, 5 epochs; off-policy
20 updates of 128 frames every 600; exploration falls over the first third. Adam's step is chosen on each side and for
each algorithm from the same three, by the return of one training of a third of the frames with a seed that is not
tested. All else is as either ships it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from gcoord.scaleup.protocol import Sweep, open_run
from gcoord.scaleup.report import Row, write_csv
from gcoord.scaleup.statistics import interval

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parents[1] / "benchmarks"
PEER = BENCHMARKS / ".venv-peers" / "bin" / "python"
ALGORITHMS = ["qmix", "ippo", "mappo", "maddpg"]
WHO = ["gcoord", "benchmarl"]
RATES, TUNING_SEED = [3e-4, 1e-3, 3e-3], 100
EPISODES, AGENTS, TEAMS = 200, 4, 60
ON_POLICY = ["source.steps=100", "source.minibatch=1500", "source.epochs=5"]
OFF_POLICY = [
    "source.steps=10", "source.updates=20", "source.bursts=2", "source.batch=128", "source.capacity=100000",
    "source.warmup=600",
]  # fmt: skip

Training = dict[str, Any]


def ours(algo: str, lr: float, seed: int, frames: int) -> Training:
    """Test episodes of what one run of ours learnt last."""
    is_fresh = algo in ("ippo", "mappo")
    more = ON_POLICY if is_fresh else [*OFF_POLICY, f"algo.epsilon_frames={frames // 3}"]
    # A round that would pass the limit is not begun; rows that only reset a world are no frames.
    limit = max(frames - (6_000 if is_fresh else 1_200) + 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            sys.executable, "-m", "gcoord.train", "env=vmas/navigation", f"algo={algo}", "model=relation",
            "model.encoder.rounds=1", f"n_agents={AGENTS}", f"num_envs={TEAMS}", f"algo.lr={lr}", *more,
            f"frames={limit}", f"seed={seed}", "threads=1", "device=cpu", "evaluation.frames=0",
            "evaluation.episodes=1", "log.tensorboard=false", f"run_dir={run}",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        trained = open_run(run, torch.device("cpu"))
        sweep = Sweep([trained], (), EPISODES, EPISODES, device="cpu", say=lambda text: None)
        random, learnt = (cell.values[0] for cell in sweep.at(AGENTS, ["random", "zero_shot"]))
    return {
        "frames": trained.frames,
        "episodes": {name: learnt[name].tolist() for name in ("return_per_agent", "success")},
        "random": {name: float(random[name].mean()) for name in ("return_per_agent", "success")},
    }


def peer(algo: str, lr: float, seed: int, frames: int) -> Training:
    """One training of BenchMARL's."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            str(PEER), str(BENCHMARKS / "peers" / "benchmarl_algorithms.py"), "--algo", algo, "--lr", str(lr),
            "--seed", str(seed), "--frames", str(frames), "--episodes", str(EPISODES), "--out", str(out),
        ]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, check=True, **quiet)
        result = json.loads(out.read_text())
    return {name: result[name] for name in ("frames", "episodes", "versions")}


class Done:
    """Trainings that are done, by who, algorithm, step, seed and frames; others are done when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of: dict[tuple[str, str, float, int, int], Training] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            one = json.loads(line)
            self.of[one["who"], one["algo"], one["lr"], one["seed"], one["asked"]] = one

    def __call__(self, who: str, algo: str, lr: float, seed: int, frames: int) -> Training:
        key = (who, algo, lr, seed, frames)
        if key not in self.of:
            began = time.monotonic()
            result = (ours if who == "gcoord" else peer)(algo, lr, seed, frames)
            seconds = round(time.monotonic() - began, 1)
            named = {"who": who, "algo": algo, "lr": lr, "seed": seed, "asked": frames, "seconds": seconds}
            self.of[key] = named | result
            # Opened to append and written at once, so that a stop leaves whole lines.
            with self.path.open("a") as file:
                file.write(json.dumps(self.of[key]) + "\n")
            print(f"{who} {algo} lr {lr:g} seed {seed}: {score(self.of[key]):.3f} in {seconds:.0f} s", flush=True)
        return self.of[key]


def score(training: Training) -> float:
    """What the step is chosen by."""
    return mean(training["episodes"]["return_per_agent"])


def rows_of(who: str, algo: str, lr: float, trainings: list[Training]) -> list[Row]:
    """Return and success over seeds, each with its interval."""
    rows = []
    for metric in ("return_per_agent", "success"):
        by_run = [one["episodes"][metric] for one in trainings]
        value, low, high = interval(by_run)
        rows.append(
            Row(
                world="vmas/navigation", density="fixed", train_n_agents=str(AGENTS), n_agents=AGENTS,
                method=f"{who} {algo}", mode="zero_shot", condition=f"lr={lr:g}", metric=metric, value=value,
                ci_low=low, ci_high=high, episodes=sum(map(len, by_run)), seeds=len(by_run),
                frames=max(one["frames"] for one in trainings),
            )
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60_000, help="environment steps, summed over teams")
    parser.add_argument("--tuning-frames", type=int, default=20_000, help="of the trainings that choose the step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    given = parser.parse_args()
    if not PEER.exists():
        raise SystemExit(f"expected the peers' interpreter at {PEER} (got none): benchmarks/peers/setup.sh makes it")
    os.environ["OMP_NUM_THREADS"] = "1"
    done = Done(HERE / "runs.jsonl")
    rows: list[Row] = []
    for algo in given.algorithms:
        for who in WHO:
            tried = {rate: score(done(who, algo, rate, TUNING_SEED, given.tuning_frames)) for rate in RATES}
            lr = max(tried, key=lambda rate: tried[rate])
            rows += rows_of(who, algo, lr, [done(who, algo, lr, seed, given.frames) for seed in given.seeds])
            write_csv(rows, HERE / "results.csv")
        mine, theirs = (one for one in rows[-4:] if one.metric == "return_per_agent")
        verdict = "not below" if mine.value >= theirs.ci_low else "BELOW"
        print(
            f"{algo}: {mine.value:.3f} is {verdict} BenchMARL's {theirs.value:.3f} "
            f"[{theirs.ci_low:.3f}, {theirs.ci_high:.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
