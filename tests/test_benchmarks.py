"""Promises of the training benchmark: what is done is kept, seeds and step sizes are all there, intervals are told."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def module(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def training(monkeypatch, tmp_path):
    """The benchmark with trainings that take no time: returns are 1 for ours, and grow with the peer's lr."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded, trained = module("training"), []

    def told(level, seed, fast):
        episodes = {"return_per_agent": [level + seed, level + seed], "success": [0.5, 1.0]}
        return {"frames": 600, "frames_per_second": fast, "episodes": episodes, "settings": {}}

    def ours(model, seed, given):
        trained.append((model, seed))
        return {**told(1.0, seed, 300.0), "random": {"return_per_agent": -1.0}}

    def peer(lr, seed, given):
        if loaded.break_at == (lr, seed):
            raise KeyboardInterrupt
        trained.append((lr, seed))
        return told(lr, seed, 100.0)

    loaded.break_at, loaded.trained, loaded.out = None, trained, tmp_path / "training.json"
    monkeypatch.setattr(loaded, "ours", ours)
    monkeypatch.setattr(loaded, "peer", peer)
    monkeypatch.setattr(loaded, "PEER", BENCHMARKS)
    return loaded


def start(training, monkeypatch, *options):
    words = ["training.py", "--seeds", "0", "1", "--peer-lr", "0.5", "0.9", "--out", str(training.out), *options]
    monkeypatch.setattr(sys, "argv", words)
    training.main()
    return json.loads(training.out.read_text())


CELLS = [("relation", 0), ("additive", 0), (0.5, 0), (0.9, 0), ("relation", 1), ("additive", 1), (0.5, 1), (0.9, 1)]


def test_every_seed_and_step_size_is_trained_once_and_a_stopped_benchmark_goes_on(training, monkeypatch):
    training.break_at = (0.9, 0)
    with pytest.raises(KeyboardInterrupt):
        start(training, monkeypatch)
    assert training.trained == CELLS[:3] and not training.out.exists()
    with pytest.raises(SystemExit, match="expected the settings of"):
        start(training, monkeypatch, "--frames", "7")
    training.break_at = None
    result = start(training, monkeypatch)
    assert training.trained == CELLS
    assert [
        (run["who"].rpartition(" ")[2] if run["lr"] is None else run["lr"], run["seed"]) for run in result["runs"]
    ] == CELLS
    # The next one begins anew.
    assert list(training.out.parent.iterdir()) == [training.out]
    start(training, monkeypatch)
    assert training.trained == CELLS * 2


def test_returns_have_intervals_over_seeds_and_the_peer_is_taken_at_its_best(training, monkeypatch):
    result = start(training, monkeypatch)
    rows = {(row["who"], row["lr"]): row for row in result["summary"]}
    assert set(rows) == {
        ("gcoord relation", None),
        ("gcoord additive", None),
        ("benchmarl gatv2", 0.5),
        ("benchmarl gatv2", 0.9),
    }
    # Whole runs are drawn: of two seeds with 1 and 2, the interval is all between.
    assert rows["gcoord relation", None]["return_per_agent"] == {"value": 1.5, "ci_low": 1.0, "ci_high": 2.0}
    assert rows["benchmarl gatv2", 0.9]["seeds"] == [0, 1] and rows["benchmarl gatv2", 0.9]["frames"] == [600, 600]
    verdict = result["verdict"]
    assert verdict["peer_lr"] == 0.9
    assert verdict["ours"]["gcoord relation"] == {"times_as_fast": 3.0, "not_below_the_peers_interval": True}
    assert all("episodes" not in run and run["success"] == 0.75 for run in result["runs"])
    monkeypatch.setattr(training, "PEER", BENCHMARKS / "nothing")
    assert start(training, monkeypatch)["verdict"] is None


def test_the_page_shows_seeds_step_sizes_and_intervals(training, monkeypatch):
    text = module("page").training(start(training, monkeypatch))
    assert "| benchmarl gatv2 | 0.9 | 2 | 600 | 100 | 1.400 (0.900 to 1.900) | 0.750 (0.750 to 0.750) |" in text
    assert "| gcoord relation | its own | 1 | 300 | 2.000 | 0.750 |" in text


def test_the_committed_results_can_be_read_by_the_page():
    assert "| benchmarl gatv2 |" in module("page").page()


def test_ours_never_sees_more_frames_than_the_peer(training, monkeypatch):
    loaded, asked = module("training"), []

    def run(command, **options):
        asked.extend(word for word in command if word.startswith("frames="))
        raise KeyboardInterrupt

    monkeypatch.setattr(loaded.subprocess, "run", run)
    for frames in (6_000, 60_000, 600_000):
        with pytest.raises(KeyboardInterrupt):
            loaded.ours("relation", 0, argparse.Namespace(frames=frames, threads=1, device="cpu"))
    # A round adds at most a batch to what was below the limit.
    assert [int(word.removeprefix("frames=")) - 1 + loaded.BATCH for word in asked] == [6_000, 60_000, 600_000]


def test_make_bench_measures_the_same_on_cuda_where_there_is_one(monkeypatch):
    run = module("run")
    assert [name for name, _ in run.plan(cuda=False)] == ["graphs", "kernels", "collection", "stepping", "training"]
    there = run.plan(cuda=True)[5:]
    assert [name for name, _ in there] == ["graphs", "kernels", "collection", "training"]
    assert all(given[:2] == ["--device", "cuda"] for _, given in there)
    assert there[2][1][2:5] == ["--num-envs", "4096", "32768"]


# Stepping


@pytest.fixture
def stepping(monkeypatch, tmp_path):
    """The benchmark of stepping, whose sides have rates that are known; the peers' grow from run to run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = module("stepping")
    rates = {"supersuit": 100.0, "torchrl": 50.0, "pipes": 125.0}

    class Peers:
        versions: ClassVar = {"torchrl": "1"}

        def __init__(self, *given):
            pass

        def rates(self, side, seconds):
            rates[side] += 25.0
            return rates[side], 2 * rates[side]

        def close(self):
            pass

    told = {"one process": 100.0, "step": 120.0, "fragments": 200.0}
    monkeypatch.setattr(loaded, "Peers", Peers)
    monkeypatch.setattr(loaded, "ours", lambda *given: {name: (value, {}) for name, value in told.items()})
    monkeypatch.setattr(loaded, "rates", lambda rate, seconds, workers: (rate, 3 * rate))
    monkeypatch.setattr(loaded, "PEER", BENCHMARKS)
    loaded.out = tmp_path / "stepping.json"
    return loaded


def measured(stepping, monkeypatch, *options):
    words = ["stepping.py", "--peer", str(BENCHMARKS), "--out", str(stepping.out), "--runs", "2", *options]
    monkeypatch.setattr(sys, "argv", words)
    stepping.main()
    return json.loads(stepping.out.read_text())


def test_a_case_measured_anew_keeps_the_others_and_all_stay_in_order(stepping, monkeypatch):
    first = measured(stepping, monkeypatch, "--only", "butterfly/pistonball:random")
    both = measured(stepping, monkeypatch, "--only", "sisl/pursuit:network")
    assert [(case["world"], case["who"]) for case in both["cases"]] == [
        ("sisl/pursuit", "network"),
        ("butterfly/pistonball", "random"),
    ]
    assert both["cases"][1] == first["cases"][0]


def test_fragments_are_held_against_the_best_peer_of_the_same_runs_by_a_lower_bound(stepping, monkeypatch):
    (case,) = measured(stepping, monkeypatch, "--only", "sisl/pursuit:random")["cases"]
    assert case["clock"]["steps_per_second"]["pipes"] == [175.0, 200.0], "the first measurement only warms up"
    assert case["clock"]["to_one_process"] == {"mean": 2.0, "lower_bound": 2.0}
    assert case["processor_time"]["to_best_peer"]["mean"] == pytest.approx(1.5 * case["clock"]["to_best_peer"]["mean"])
    best = case["clock"]["to_best_peer"]
    ratios = [200 / 175, 200 / 200]
    # Two runs: Student's t with one degree of freedom is 6.314, the mean's error half their difference.
    low = sum(ratios) / 2 - 6.314 * (ratios[0] - ratios[1]) / 2
    assert best["peer"] == "pipes" and best["mean"] == pytest.approx(sum(ratios) / 2)
    assert best["lower_bound"] == pytest.approx(low)
    text = module("page").stepping(json.loads(stepping.out.read_text()))
    assert (
        "| sisl/pursuit | 8 | random | clock | 100 | 120 | 200 | 162 | 112 | 188 | 2.00 (from 2.00) | 1.07 (from"
        in text
    )
