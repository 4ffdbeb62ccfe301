"""Stepping PettingZoo worlds on several cores: fragments in our workers, beside SuperSuit, TorchRL and plain pipes.

`python benchmarks/stepping.py` measures pursuit (8 agents) and pistonball (10 agents, pictures), 8 copies, 2 workers,
with random actions and with a small network, and writes benchmarks/results/stepping.json: steps a second on the clock,
and by processor time (see processor_time.py), which other work on the machine disturbs less. All step the same worlds
(gcoord's quicker ones) and act by benchmarks/small_policy.py. Sides take turns, `--seconds` each, `--runs` times: a
run's ratios are of neighbours in time. `--only sisl/pursuit:random` measures one case (about two minutes) and keeps
the others' results. The peers run in an interpreter of their own (benchmarks/peers/setup_stepping.sh, or `--peer`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import about
from processor_time import descendants, rates
from small_policy import SmallPolicy

from gcoord.checkpoint import whole_file
from gcoord.conf import make_env
from gcoord.data.collect import Collector

HERE = Path(__file__).resolve().parent
PEER = HERE / ".venv-stepping" / "bin" / "python"
PEERS = ("supersuit", "torchrl", "pipes")
WORLDS: dict[str, dict[str, Any]] = {
    "sisl/pursuit": {"n_agents": 8},
    "butterfly/pistonball": {"n_agents": 10, "continuous": False},
}
COPIES, WORKERS, STEPS = 8, 2, 25
# Student's t, one-sided 95 %, by degrees of freedom.
T = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}


def lower_bound(values: list[float]) -> float:
    """One-sided 95 % confidence bound of the mean over runs."""
    return statistics.mean(values) - T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def ours(world: str, who: str, seed: int) -> dict[str, tuple[Callable[[], int], set[int]]]:
    """Our sides, and the processes of each: a call collects STEPS rows of every copy and gives how many that are."""
    sides = {}
    for name, workers, there in (("one process", 0, False), ("step", WORKERS, False), ("fragments", WORKERS, True)):
        others = descendants(os.getpid())
        env: Any = make_env(world, num_envs=COPIES, seed=seed, workers=workers, **WORLDS[world])
        given = {"own": env.spec.own, "n_actions": env.spec.n_actions, "who": who}
        agent: Any = SmallPolicy(**given).eval()
        collector = Collector(env, seed, ("small_policy:SmallPolicy", given) if there else None)

        def collect(collector: Collector = collector, agent: Any = agent) -> int:
            collector.collect(agent, STEPS)
            return COPIES * STEPS

        sides[name] = collect, descendants(os.getpid()) - others
    return sides


class Peers:
    """The peers' process: all three are built, and one at a time is asked to step."""

    def __init__(self, python: Path, world: str, who: str, seed: int) -> None:
        # As a copy in this process is made.
        env: Any = make_env(world, workers=0, **WORLDS[world])
        recipe = env._backend.copies[0].recipe
        env.close()
        given = {
            "maker": recipe.maker,
            "kwargs": recipe.kwargs,
            "copies": COPIES,
            "workers": WORKERS,
            "who": who,
            "seed": seed,
        }
        self.process = subprocess.Popen(
            [str(python), str(HERE / "peers" / "stepping_sides.py"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        self.versions: dict[str, str] = json.loads(self._read())

    def rates(self, side: str, seconds: float) -> tuple[float, float]:
        """As `processor_time.rates`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{side} {seconds}\n")
        self.process.stdin.flush()
        clock, processor = json.loads(self._read())
        return clock, processor

    def close(self) -> None:
        """Without more to read, it goes and takes its processes along."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"expected an answer of the peers (got none, exit code {self.process.wait()})")
        return line


def measure(world: str, who: str, given: argparse.Namespace) -> dict[str, Any]:
    """One case: every side's rates in each run, and what our fragments are to one process and to the best peer."""
    sides = ours(world, who, given.seed)
    peers = Peers(given.peer, world, who, given.seed) if given.peer.exists() else None
    timed: dict[str, Callable[[float], tuple[float, float]]] = {
        name: lambda seconds, side=side: rates(side[0], seconds, side[1]) for name, side in sides.items()
    }
    for name in PEERS if peers else ():
        timed[name] = lambda seconds, name=name: peers.rates(name, seconds)
    for one in timed.values():
        one(0.5)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for _ in range(given.runs):
        for name, one in timed.items():
            found[name].append(one(given.seconds))
    if peers:
        peers.close()
    result: dict[str, Any] = {
        "world": world,
        "who": who,
        **WORLDS[world],
        "seed": given.seed,
        "seconds": given.seconds,
        "versions": peers.versions if peers else {},
    }
    for column, clock in enumerate(("clock", "processor_time")):
        by = {name: [pair[column] for pair in pairs] for name, pairs in found.items()}
        result[clock] = {
            "steps_per_second": by,
            "to_one_process": ratios(by["fragments"], by["one process"]),
            "to_step_by_step": ratios(by["fragments"], by["step"]),
        }
        if peers:
            best = max(PEERS, key=lambda name: statistics.mean(by[name]))
            result[clock]["to_best_peer"] = {"peer": best, **ratios(by["fragments"], by[best])}
    return result


def ratios(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """Of neighbouring measurements: their mean over runs and its lower confidence bound."""
    each = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {"mean": statistics.mean(each), "lower_bound": lower_bound(each)}


def main() -> None:
    cases = [f"{world}:{who}" for world in WORLDS for who in ("random", "network")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=cases, default=cases)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", type=Path, default=PEER, help="the peers' interpreter; without it ours alone")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "stepping.json")
    given = parser.parse_args()
    kept = json.loads(given.out.read_text())["cases"] if given.out.exists() else []
    for case in given.only:
        world, _, who = case.partition(":")
        found = measure(world, who, given)
        kept = [old for old in kept if (old["world"], old["who"]) != (world, who)] + [found]
        kept.sort(key=lambda one: cases.index(f"{one['world']}:{one['who']}"))
        report = {**about(), "threads": torch.get_num_threads(), "copies": COPIES, "workers": WORKERS, "cases": kept}
        with whole_file(given.out) as aside:
            aside.write_text(json.dumps(report, indent=1) + "\n")
        for clock in ("clock", "processor_time"):
            by = found[clock]
            speeds = ", ".join(f"{n} {statistics.median(each):,.0f}" for n, each in by["steps_per_second"].items())
            told = {name: ratio for name, ratio in by.items() if name.startswith("to_")}
            print(f"{case} by {clock}, steps/s: {speeds}; {told}", flush=True)


if __name__ == "__main__":
    main()
