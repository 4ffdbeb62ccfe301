"""Promises of a curriculum of sizes: it grows at the threshold, by the timetable, and survives being resumed."""

from __future__ import annotations

import pytest

from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.data.curriculum import Growing
from gcoord.train import train, validate

TOY = ["env=native/meet", "env.max_steps=5", "num_envs=8", "model.encoder.dim=16", "evaluation.episodes=8"]
TOY += ["evaluation.frames=0", "log.tensorboard=false", "n_agents=[2,3,5]", "curriculum=growing"]
ON = ["algo=ippo", "source.steps=10", "source.epochs=1", "source.minibatch=40"]
WHOLE = ["algo=reinforce", "source.steps=10"]
OFF = ["algo=iql", "source.warmup=64", "source.bursts=1", "source.updates=2", "source.batch=8", "source.capacity=9000"]


def go(*overrides):
    return run_command("train", train, list(overrides), validate=validate)


def sizes_of(folder):
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    return [int(float(row["team_size"])) for row in rows], [int(float(row["frames"])) for row in rows]


def hear(growing, value, episodes=10.0, frames=0):
    growing.hear(growing.sizes[growing.pick()], {"episodes": episodes, "return_per_agent": value}, frames)


def test_the_team_grows_when_the_return_is_reached_and_not_before():
    growing = Growing([2, 4, 8], reach=[0.5, 0.8], episodes=20)
    hear(growing, 0.9)
    assert growing.stage == 0, "of 20 episodes only 10 have been heard"
    hear(growing, 0.0)
    assert growing.stage == 0, "their mean is 0.45"
    hear(growing, 0.99)
    assert growing.stage == 0, "the first ten are forgotten: 0.495"
    hear(growing, 0.02)
    hear(growing, 0.98)
    assert growing.stage == 1 and growing.sizes[growing.pick()] == 4, "0.5 is reached"
    hear(growing, 0.79, episodes=40)
    assert growing.stage == 1, "the second goal is higher, and what was earned by two counts for nothing"
    hear(growing, 0.8, episodes=40)
    assert growing.stage == 2
    hear(growing, 5.0, episodes=400)
    assert growing.stage == 2, "there is nothing larger"


def test_by_the_timetable_it_grows_whatever_was_reached():
    growing = Growing([2, 4, 8], frames=100)
    stages = []
    for frames in range(40, 281, 40):
        hear(growing, -1.0, frames=frames)
        stages.append(growing.stage)
    assert stages == [0, 0, 1, 1, 1, 2, 2]


def test_other_figures_can_be_the_goal():
    growing = Growing([2, 4], reach=0.5, metric="success", episodes=1)
    growing.hear(2, {"episodes": 3.0, "success": 0.6, "return_per_agent": -9.0}, 10)
    assert growing.stage == 1


def test_earlier_sizes_are_kept_in_practice_by_the_share_asked_for():
    growing = Growing([2, 4, 8], frames=1, keep=0.4)
    assert {growing.pick() for _ in range(50)} == {0}
    growing.stage = 2
    picks = [growing.pick() for _ in range(2000)]
    assert abs(picks.count(2) / 2000 - 0.6) < 0.05 and abs(picks.count(0) / 2000 - 0.2) < 0.04


def test_saved_in_the_middle_it_goes_on_as_if_nothing_had_happened():
    def walk(growing, start, stop):
        seen = []
        for i in range(start, stop):
            hear(growing, 0.1 * (i % 7), frames=20 * i)
            seen.append((growing.stage, growing.now, growing.mean))
        return seen

    options = dict(reach=0.35, episodes=30, frames=300, keep=0.3)
    whole, first, second = (Growing([2, 3, 5, 9], **options) for _ in range(3))
    expected = walk(whole, 0, 60)
    half = walk(first, 0, 30)
    second.load_state_dict(first.state_dict())
    assert half + walk(second, 30, 60) == expected and expected[-1][0] == 3


@pytest.mark.parametrize("source", [ON, WHOLE, OFF], ids=["rollouts", "episodes", "replay"])
def test_any_source_learns_one_size_after_another(tmp_path, source):
    assert go(*TOY, *source, "curriculum.frames=200", "frames=700", f"run_dir={tmp_path}/r") == 0
    sizes, frames = sizes_of(tmp_path / "r")
    assert sizes == sorted(sizes) and set(sizes) == {2, 3, 5}
    assert frames[sizes.index(3) - 1] >= 200
    counters = load_state(tmp_path / "r" / "checkpoints" / "last")["learner"]["counters"]
    steps = [b - a for a, b in zip([0, *frames], frames, strict=False)]
    assert counters["agent_steps"] == sum(n * size for n, size in zip(steps, sizes, strict=True))


@pytest.mark.parametrize("source", [ON, OFF], ids=["rollouts", "replay"])
def test_a_resumed_run_grows_when_an_uninterrupted_one_does(tmp_path, source):
    options = [*TOY, *source, "curriculum.frames=200", "curriculum.keep=0.3", "checkpoint_frames=80"]
    assert go(*options, "frames=900", f"run_dir={tmp_path}/whole") == 0
    assert go(*options, "frames=450", f"run_dir={tmp_path}/parts") == 0
    assert go(f"resume={tmp_path}/parts", "frames=900") == 0
    assert sizes_of(tmp_path / "parts") == sizes_of(tmp_path / "whole")


BAD = {
    "curriculum.reach=null": "expected curriculum.reach or curriculum.frames",
    "n_agents=4": "expected n_agents=[...] with at least two sizes for a curriculum (got [4])",
    "curriculum.reach=[1,2,3]": "expected curriculum.reach for each of 2 growths",
    "curriculum.keep=1": "keep from 0 to below 1",
    "curriculum.metric=beauty": "expected curriculum.metric among return, return_per_agent, return_worst_agent, length",
    "curriculum.reach=high": "expected curriculum.reach to be",
}


@pytest.mark.parametrize("override", BAD)
def test_curricula_that_cannot_be_are_refused_in_one_line(tmp_path, capfd, override):
    assert go(*TOY, *ON, "curriculum.reach=0.5", override, "frames=100", f"run_dir={tmp_path}/r") == 2
    error = capfd.readouterr().err.strip()
    assert BAD[override] in error and "\n" not in error
    assert not (tmp_path / "r").exists()
