"""Finished runs side by side: who is whose seed, what is left out, and figures worked by hand."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
from matplotlib.image import imread
from omegaconf import OmegaConf

from gcoord.command import run_command
from gcoord.compare import compare, rows, validate
from gcoord.scaleup import marl_eval
from gcoord.scaleup.finished import by_task, find, read
from gcoord.scaleup.matches import standings
from gcoord.scaleup.pictures import curve_of
from gcoord.scaleup.report import read_csv


def make(
    folder, algo="mappo", score=1.0, seed=0, sizes=(4,), world="native/meet", status="finished", lr=3e-4, random=0.0
):
    """A run's folder as training leaves it."""
    folder.mkdir(parents=True)
    cfg = {
        "env": {"_target_": "gcoord.envs.native.meet.Meet"},
        "algo": {"_target_": f"a.{algo}", "lr": lr},
        "seed": seed,
    }
    cfg |= {
        "frames": 1000,
        "n_agents": list(sizes),
        "evaluation": {"episodes": 20, "num_envs": 20, "epsilon": 0.0},
        "run_dir": str(folder),
    }
    OmegaConf.save(OmegaConf.create(cfg), folder / "config.yaml")
    figures = {"return": 4 * score, "return_per_agent": score, "success": 0.5}
    test = {str(n): {"trained": figures, "random": {**figures, "return_per_agent": random}} for n in sizes}
    summary = {"status": status, "world": world, "names": {"algo": algo, "model": "relation"}, "sizes": list(sizes)}
    (folder / "summary.json").write_text(json.dumps({**summary, "frames": 1000, "test": test}))
    names = ["frames", *figures, *(f"evaluation_{name}" for name in figures)]
    lines = [
        [at, *(at / 1000 * value for value in figures.values()), *(at / 1000 * value for value in figures.values())]
        for at in (0, 500, 1000)
    ]
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *lines])
    return folder


@pytest.fixture
def runs(tmp_path):
    for seed, (a, b) in enumerate([(1.0, 0.4), (0.9, 0.5), (0.8, 0.85)]):
        make(tmp_path / f"mappo-{seed}", "mappo", a, seed)
        make(tmp_path / f"ippo-{seed}", "ippo", b, seed)
    return tmp_path


def go(*overrides):
    return run_command("compare", compare, list(overrides), validate=validate)


def test_means_iqm_and_improvement_worked_by_hand(runs):
    found = standings(read(find([f"{runs}/*"]))[0], "return_per_agent")
    (task,) = found.tasks
    assert task == "native/meet, 4 agents" and found.methods == ["ippo relation", "mappo relation"]
    assert found.means[task, "mappo relation"].value == pytest.approx(0.9)
    assert found.iqms[task, "ippo relation"].value == pytest.approx((0.4 + 0.5 + 0.85) / 3)  # of three runs none is cut
    # Of nine pairs mappo is above in eight: .8 is not above .85.
    assert found.improvement["mappo relation", "ippo relation"].value == pytest.approx(8 / 9)
    assert found.improvement["ippo relation", "mappo relation"].value == pytest.approx(1 / 9)
    assert found.normalised["mappo relation"][:, 0] == pytest.approx([1.0, 0.9, 0.8]) and not found.overall


def test_over_tasks_scores_are_between_random_play_and_the_best_run(runs):
    for seed in range(3):
        make(runs / f"mappo8-{seed}", "mappo", 10.0 + seed, seed, sizes=(8,), random=8.0)
        make(runs / f"ippo8-{seed}", "ippo", 9.0, seed, sizes=(8,), random=8.0)
    found = standings(read(find([f"{runs}/*"]))[0], "return_per_agent")
    mappo = found.normalised["mappo relation"]
    assert mappo[:, found.tasks.index("native/meet, 8 agents")] == pytest.approx([0.5, 0.75, 1.0])
    assert found.overall["mappo relation"].value == pytest.approx(
        np.mean([0.75, 0.8, 0.9, 1.0])
    )  # six, one cut at each end
    assert found.improvement["mappo relation", "ippo relation"].value == pytest.approx((8 / 9 + 1) / 2)


def test_a_task_without_a_run_above_random_play_is_named(runs):
    make(runs / "flat", "mappo", -1.0, 0, sizes=(16,))
    found = standings(read(find([f"{runs}/*"]))[0], "return_per_agent")
    assert found.not_normalised == ["native/meet, 16 agents"]


def test_other_settings_make_another_method_and_the_seed_does_not(tmp_path):
    for seed in (0, 1):
        make(tmp_path / f"a{seed}", seed=seed)
        make(tmp_path / f"b{seed}", seed=seed, lr=1e-3)
    (methods,) = by_task(read(find([f"{tmp_path}/*"]))[0]).values()
    assert {name: [run.seed for run in members] for name, members in methods.items()} == {
        "mappo relation lr=0.0003": [0, 1],
        "mappo relation lr=0.001": [0, 1],
    }


def test_runs_that_each_began_from_their_own_seed_of_a_method_are_seeds_of_one_method(tmp_path):
    for seed in (0, 1):
        for name, lr in (("small", 3e-4), ("other", 1e-3)):
            parent = make(tmp_path / name / str(seed), seed=seed, lr=lr)
            tuned = make(tmp_path / "tuned" / f"{name}{seed}", seed=seed, sizes=(8,))
            OmegaConf.save({**OmegaConf.load(tuned / "config.yaml"), "init_from": str(parent)}, tuned / "config.yaml")
        make(tmp_path / "tuned" / f"scratch{seed}", seed=seed, sizes=(8,))

    def names(pattern):
        (methods,) = by_task(read(find([f"{tmp_path}/tuned/{pattern}"]))[0]).values()
        assert all([run.seed for run in members] == [0, 1] for members in methods.values())
        return sorted(methods)

    began = "mappo relation init_from=mappo relation of 4"
    assert names("s*") == ["mappo relation init_from=None", began]
    both = names("*")  # of two methods, one name is not enough
    assert len(both) == 3 and sum(name.startswith(f"{began} #") for name in both) == 2
    for folder in (tmp_path / "small").iterdir():
        (folder / "summary.json").unlink()
    (methods,) = by_task(read(find([f"{tmp_path}/tuned/small*"]))[0]).values()
    assert len(methods) == 2  # what they began from is gone, so nothing tells that it was the same


def test_the_same_run_twice_is_refused_and_an_unfinished_one_is_named(runs, tmp_path, capfd):
    make(runs / "again", "mappo", 1.0, 0)
    assert go(f"runs=[{runs}/*]", f"out={tmp_path}/out") == 2
    error = capfd.readouterr().err.strip()
    assert (
        "expected one run of each method, task and seed" in error
        and "\n" not in error
        and not (tmp_path / "out").exists()
    )
    make(runs / "broken", "qmix", 1.0, 0, status="failed")
    told, left_out = read(find([f"{runs}/mappo-*", f"{runs}/broken"]))
    assert len(told) == 3 and left_out == [f"{runs / 'broken'} (failed)"]


def test_the_command_writes_table_and_picture(runs, tmp_path, capfd):
    out = tmp_path / "out"
    make(runs / "broken", "qmix", 1.0, 0, status="failed")
    assert go(f"runs=[{runs}/*]", f"out={out}") == 0
    said = capfd.readouterr().out
    assert "mappo relation" in said and "0.889" in said and "left out, not finished" in said
    assert sorted(path.name for path in out.iterdir()) == ["compare.csv", "compare.png", "improvement.csv"]
    assert imread(out / "compare.png").std() > 0.05
    (mean,) = [
        r for r in read_csv(out / "compare.csv") if (r.method, r.metric) == ("mappo relation", "return_per_agent")
    ]
    assert mean.value == pytest.approx(0.9) and (mean.seeds, mean.episodes, mean.mode) == (3, 60, "scratch")
    assert {r.mode for r in read_csv(out / "compare.csv")} == {"scratch", "random"}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_long_names_of_methods_lie_beside_each_other(tmp_path, drawn, count):
    for i in range(count):
        make(tmp_path / str(i), lr=0.001 * (i + 1) + 1e-9)
    assert go(f"runs=[{tmp_path}/*]", f"out={tmp_path}/out") == 0
    (ax,) = [ax for ax in drawn[0].axes if "improves" in ax.get_title()]
    corners = [label.get_window_extent() for label in ax.get_xticklabels()]
    if count == 2:
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(corners))
    assert all(box.x0 >= 0 for box in corners) and "lr=0.001" in ax.get_xticklabels()[0].get_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runs=[nowhere]", "expected a run folder (got nowhere"),
        ("runs=[nowhere/*]", "expected run folders that match nowhere/*"),
        ("metric=speed", "expected a metric of"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(runs, tmp_path, capfd, override, message):
    assert go(f"runs=[{runs}/*]", f"out={tmp_path}/out", override) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "out").exists()


def test_learning_curves_are_greedy_evaluations_where_there_are_some(runs):
    members = by_task(read(find([f"{runs}/*"]))[0])["native/meet, 4 agents"]["mappo relation"]
    frames, middle, low, high, told = curve_of(members, "return_per_agent")
    assert told == "greedy evaluation" and frames[0] == 0 and frames[-1] == 1000
    assert (
        middle == pytest.approx(frames / 1000 * 0.9) and (low <= middle + 1e-9).all() and (middle <= high + 1e-9).all()
    )


def test_a_run_of_several_sizes_counts_each_size(tmp_path):
    make(tmp_path / "a", sizes=(2, 4))
    found = rows(read([tmp_path / "a"])[0])
    assert {(r.train_n_agents, r.n_agents, r.mode) for r in found if r.method != "random"} == {
        ("2+4", 2, "zero_shot"),
        ("2+4", 4, "zero_shot"),
    }


# What marl-eval's DiagnoseData and data_process_pipeline ask of a file.
def test_the_marl_eval_file_is_as_marl_eval_asks(runs):
    found = read(find([f"{runs}/*"]))[0]
    asked = []

    def absolute(run):
        asked.append(run.folder)
        return {name: [1.0, 2.0] for name in run.metrics()}

    content = json.loads(json.dumps(marl_eval.content(found, absolute)))
    algorithms = content["native/meet"]["4_agents"]
    assert sorted(algorithms) == ["ippo relation", "mappo relation"] and not any("," in name for name in algorithms)
    for members in algorithms.values():
        assert list(members) == ["seed_0", "seed_1", "seed_2"]
        for steps in members.values():
            assert list(steps) == ["step_0", "step_1", "step_2", "absolute_metrics"]
            assert [steps[f"step_{i}"]["step_count"] for i in range(3)] == [0, 500, 1000]
            names = {tuple(name for name in step if name != "step_count") for step in steps.values()}
            assert names == {("return", "return_per_agent", "success")}
            assert all(isinstance(v, list) for step in steps.values() for k, v in step.items() if k != "step_count")
    assert algorithms["mappo relation"]["seed_1"]["step_1"]["return_per_agent"] == [pytest.approx(0.45)]
    assert sorted(asked) == sorted(run.folder for run in found)


def test_marl_eval_wants_as_many_runs_of_each(runs):
    make(runs / "more", "mappo", 1.0, 3)
    with pytest.raises(ValueError, match=r"^expected as many runs of every method"):
        marl_eval.content(read(find([f"{runs}/*"]))[0], lambda run: {})
