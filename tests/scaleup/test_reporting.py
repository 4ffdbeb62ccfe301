"""From a trained run to its report: conditions in the results, the page beside them, the absolute metric."""

from __future__ import annotations

import json
import re

import pytest

from gcoord.command import run_command
from gcoord.compare import compare
from gcoord.compare import validate as validate_comparison
from gcoord.evaluate import evaluate, validate
from gcoord.policy import load
from gcoord.run import EVALUATION_SEED, TEST_SEED
from gcoord.scaleup import marl_eval
from gcoord.scaleup.finished import find, read
from gcoord.scaleup.report import read_csv
from gcoord.train import train

TOY = ["env=native/meet", "num_envs=8", "model.encoder.dim=16", "log.tensorboard=false"]
SHORT = ["source.steps=10", "source.epochs=1", "source.minibatch=40", "frames=160", "evaluation.frames=80"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two seeds, with memory."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        overrides = [*TOY, *SHORT, "memory=gru", "evaluation.episodes=8", f"seed={seed}", f"run_dir={folder}/{seed}"]
        assert run_command("train", train, overrides) == 0
    return folder


def judge(folder, *overrides):
    options = ["episodes=6", "num_envs=3", "processes=1", f"run=[{folder}/0,{folder}/1]", f"out={folder}/scale"]
    return run_command("evaluate", evaluate, [*options, *overrides], validate=validate)


@pytest.fixture(scope="module")
def judged(folder):
    assert judge(folder, "n_agents=[4,7]", 'conditions=[none,cut:1,delay:1+noise:0.1,shuffle,"leave=0.25"]') == 0
    return folder / "scale"


def test_every_condition_has_rows_and_nobody_else_is_tried_under_it(judged):
    rows = [row for row in read_csv(judged / "results.csv") if row.metric == "return_per_agent"]
    told = {(row.mode, row.condition) for row in rows}
    conditions = ("cut=1", "delay=1+noise=0.1", "shuffle", "leave=0.25")
    assert told == {(mode, "") for mode in ("random", "scripted", "zero_shot")} | {
        ("zero_shot", text) for text in conditions
    }
    values = {row.condition: row.value for row in rows if (row.mode, row.n_agents) == ("zero_shot", 4)}
    assert len(set(values.values())) == 5, "each condition makes another game of it"


def test_what_is_heard_under_cut_is_nothing(judged):
    heard = {
        (row.condition, row.n_agents): row.value
        for row in read_csv(judged / "results.csv")
        if row.metric == "neighbours"
    }
    assert heard["cut=1", 4] == heard["cut=1", 7] == 0.0 < heard["leave=0.25", 4] < heard["", 4]


def test_the_report_lies_beside_the_results_with_an_episode_of_each_size(judged):
    assert {"report.html", "communication.png", "scale.png", "results.csv"} <= {path.name for path in judged.iterdir()}
    text = (judged / "report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))
    assert [one["n"] for one in data["replays"]] == [4, 7]
    assert all(one["rows"][0]["heard"] for one in data["replays"])
    assert data["groups"][0]["conditions"][0] == "undisturbed" and len(data["groups"][0]["conditions"]) == 5
    told = dict(data["facts"])
    assert told["Runs that failed"] == "0 of 2" and "2" in told["Training runs (seeds)"]
    assert len(text) < 1_000_000


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ("[cuts:1]", "expected conditions of"),
        ("[delay:soon]", "expected delay to be a whole number"),
        ("[mute]", "expected a world whose agents say words for mute"),
    ],
)
def test_a_condition_that_is_none_is_refused_before_anything_is_played(folder, tmp_path, capfd, conditions, message):
    assert judge(folder, "n_agents=[4]", f"conditions={conditions}", f"out={tmp_path}/out") == 2
    error = capfd.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "out").exists()


def test_the_absolute_metric_is_ten_times_the_episodes_on_seeds_of_its_own(folder, monkeypatch):
    runs, _ = read(find([f"{folder}/[01]"]))
    seeds = []
    played = marl_eval.play

    def play(env, act, memory, episodes, seed):
        seeds.append((episodes, seed))
        return played(env, act, memory, episodes, seed)

    monkeypatch.setattr(marl_eval, "play", play)
    loaded = []
    monkeypatch.setattr(marl_eval, "load", lambda folder, *a, **k: loaded.append(folder) or load(folder, *a, **k))
    values = [marl_eval.absolute(run) for run in runs]
    assert all(len(one["return_per_agent"]) == 10 * 8 for one in values)
    assert [episodes for episodes, _ in seeds] == [80, 80] and len({seed for _, seed in seeds}) == 2
    assert not {seed for _, seed in seeds} & {
        base + run.seed for base in (0, 1000, EVALUATION_SEED, TEST_SEED) for run in runs
    }
    # The policy of a run's folder is the best of its evaluations, as `Run.evaluate` keeps it.
    assert loaded == [run.folder for run in runs]


def test_compared_runs_give_a_file_for_marl_eval(folder, tmp_path):
    options = [f"runs=[{folder}/0,{folder}/1]", f"out={tmp_path}/out", "marl_eval=true"]
    assert run_command("compare", compare, options, validate=validate_comparison) == 0
    content = json.loads((tmp_path / "out" / "marl_eval.json").read_text())
    (seeds,) = content["native/meet"]["4_agents"].values()
    assert list(seeds) == ["seed_0", "seed_1"]
    for steps in seeds.values():
        assert [step["step_count"] for name, step in steps.items() if name != "absolute_metrics"] == [80, 160]
        assert len(steps["absolute_metrics"]["return_per_agent"]) == 80
