"""Promises of the study beside BenchMARL: each training once, both sides tuned alike, equal frames, its own words."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from gcoord.scaleup.report import read_csv

STUDY = Path(__file__).resolve().parents[1] / "experiments" / "peers"


@pytest.fixture
def study(monkeypatch, tmp_path):
    """The study with trainings that take no time: the better the nearer lr is to 1e-3 (ours) or 3e-3 (theirs)."""
    spec = importlib.util.spec_from_file_location("peers_run", STUDY / "run.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.trained = []

    def trainer(who, best):
        def train(algo, lr, seed, frames):
            if loaded.break_at == len(loaded.trained):
                raise KeyboardInterrupt
            loaded.trained.append((who, algo, lr, seed, frames))
            value = 1.0 - abs(lr - best) + 0.1 * seed
            return {"frames": frames - 60, "episodes": {"return_per_agent": [value] * 4, "success": [0.5] * 4}}

        return train

    loaded.break_at = None
    monkeypatch.setattr(loaded, "ours", trainer("gcoord", 1e-3))
    monkeypatch.setattr(loaded, "peer", trainer("benchmarl", 3e-3))
    monkeypatch.setattr(loaded, "HERE", tmp_path)
    monkeypatch.setattr(loaded, "PEER", tmp_path)
    return loaded


def start(study, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["run.py", "--algorithms", "qmix", *options])
    study.main()
    return read_csv(study.HERE / "results.csv")


def test_both_sides_are_tuned_on_the_same_steps_by_a_seed_that_is_not_tested(study, monkeypatch, capsys):
    rows = start(study, monkeypatch)
    for who, best in (("gcoord", 1e-3), ("benchmarl", 3e-3)):
        mine = [key[2:] for key in study.trained if key[0] == who]
        tuned = [(lr, study.TUNING_SEED, 20_000) for lr in study.RATES]
        assert mine == tuned + [(best, seed, 60_000) for seed in (0, 1, 2)]
    told = {(row.method, row.metric): row for row in rows}
    ours = told["gcoord qmix", "return_per_agent"]
    assert ours.condition == "lr=0.001" and ours.seeds == 3 and ours.frames == 59_940
    assert (ours.value, ours.ci_low, ours.ci_high) == pytest.approx((1.1, 1.0, 1.2))
    assert told["benchmarl qmix", "return_per_agent"].condition == "lr=0.003"
    assert "qmix: 1.100 is not below BenchMARL's 1.100 [1.000, 1.200]" in capsys.readouterr().out


def test_a_study_that_was_stopped_trains_only_what_is_missing(study, monkeypatch):
    study.break_at = 4
    with pytest.raises(KeyboardInterrupt):
        start(study, monkeypatch)
    study.break_at = None
    start(study, monkeypatch)
    assert len(study.trained) == len(set(study.trained)) == 12
    start(study, monkeypatch)
    assert len(study.trained) == 12
    start(study, monkeypatch, "--frames", "30000")
    assert len(study.trained) == 18, "other frames are other trainings, by the same steps"


@pytest.mark.parametrize("algo", ["qmix", "ippo"])
def test_ours_never_sees_more_frames_than_the_peer(study, monkeypatch, algo):
    spec = importlib.util.spec_from_file_location("peers_run_again", STUDY / "run.py")
    loaded, asked = importlib.util.module_from_spec(spec), {}
    spec.loader.exec_module(loaded)

    def run(command, **options):
        asked.update(word.split("=", 1) for word in command if "=" in word)
        raise KeyboardInterrupt

    monkeypatch.setattr(loaded.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        loaded.ours(algo, 1e-3, 0, 60_000)
    # A round is begun below the limit and adds so many frames at most.
    a_round = loaded.TEAMS * int(asked["source.steps"]) * int(asked.get("source.bursts", 1))
    assert int(asked["frames"]) - 1 + a_round == 60_000


def test_what_became_of_three_agents_weights_at_nine_is_recorded_in_the_peers_own_words():
    told = json.loads((STUDY / "sizes.json").read_text())
    assert (told["trained_n_agents"], told["n_agents"]) == (3, 9) and told["versions"]["benchmarl"]
    found = {(one["algo"], one["critic"]): one for one in told["attempts"]}
    assert {"qmix", "mappo", "maddpg"} <= {algo for algo, _ in found}
    mixer = found["qmix", "none"]
    assert mixer["weights_load"].startswith("RuntimeError: The size of tensor a (162) must match")
    assert mixer["training_goes_on"] == "not reached"
    page = (STUDY / "README.md").read_text()
    for one in found.values():
        assert one["weights_load"] == "works" or one["weights_load"] in page
