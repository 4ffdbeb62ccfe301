"""experiments/worlds: its runs can be stopped anywhere and gone on with, and its table is what was measured."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gcoord.command import run_command
from gcoord.scaleup.report import Row, read_csv, write_csv

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worlds_study", ROOT / "experiments" / "worlds" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


STUDY = load()


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The study with one world in its table and a page of its own."""
    monkeypatch.setattr(STUDY, "HERE", tmp_path / "page")
    (tmp_path / "page").mkdir()
    world = STUDY.World("algo=mappo n_agents=3 frames=100", episodes=4, at_once=2)
    monkeypatch.setattr(STUDY, "WORLDS", {"native/target": world})
    return STUDY


class Commands:
    """Stands in for gcoord's commands: writes what they would, and remembers how they were called."""

    def __init__(self, stops: int = 0) -> None:
        self.called: list[str] = []
        self.stops = stops  # so many of the first trainings are stopped half-way

    def __call__(self, command: str, *options: str, seconds: float | None = None) -> None:
        self.called.append(" ".join((command, *options)))
        values = dict(option.split("=", 1) for option in options)
        if command == "evaluate":
            runs = values["run"].strip("[]").split(",")
            row: dict[str, Any] = dict(
                world="native/target", density="fixed", n_agents=int(values["n_agents"].strip("[]")), condition="",
                metric="return_per_agent", episodes=4, seeds=len(runs), frames=100,
            )  # fmt: skip
            of: dict[Any, tuple[str, str, float]] = {
                "random": ("", "random", -27.6),
                "zero_shot": ("3", "mappo relation", 71.25),
                "scripted": ("", "script", 74.5),
            }
            rows = [
                Row(train_n_agents=size, method=method, mode=mode, value=v, ci_low=v - 2, ci_high=v + 1, **row)
                for mode, (size, method, v) in of.items()
            ]
            write_csv(rows, Path(values["out"]) / "results.csv")
            return
        folder = Path(values.get("resume") or values["run_dir"])
        (folder / "checkpoints" / "last").mkdir(parents=True, exist_ok=True)
        stopped = self.stops > 0
        self.stops -= 1
        with open(folder / "metrics.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["frames", "return_per_agent"])
            # In the fifth round no episode ended.
            writer.writerows([10 * k, "" if k == 5 else k + int(folder.name)] for k in range(1, 11))
        summary = {"status": "interrupted" if stopped else "finished", "sizes": [3], "frames": 100}
        (folder / "summary.json").write_text(json.dumps(summary))
        if stopped:
            sys.exit(130)


def test_what_is_finished_is_kept_and_what_was_stopped_goes_on(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs, commands = tmp_path / "runs", Commands(stops=1)
    monkeypatch.setattr(study.folders, "gcoord", commands)
    with pytest.raises(SystemExit):
        study.main(["native/target"], [0, 1], runs, train=True, seconds=None)
    (runs / "native/target/1").mkdir()
    (runs / "native/target/1" / "config.yaml").touch()  # killed before its first checkpoint
    study.main(["native/target"], [0, 1], runs, train=True, seconds=None)
    study.main(["native/target"], [0, 1], runs, train=True, seconds=None)
    begun = [call.split(" log.")[0].split(" evaluation.")[0] for call in commands.called]
    folder = runs / "native/target"
    assert begun == [
        f"train run_dir={folder}/0 env=native/target seed=0",
        f"train resume={folder}/0",
        f"train run_dir={folder}/1 env=native/target seed=1",
        f"evaluate run=[{folder}/0,{folder}/1] n_agents=[3] out={folder} episodes=4 num_envs=2 device=cpu",
    ]
    assert not (folder / "1" / "config.yaml").exists()
    with pytest.raises(SystemExit):
        study.main(["native/target"], [0, 1, 2], runs, train=True, seconds=0.0)
    assert len(commands.called) == 4  # nothing is begun when the time is up
    study.main(["native/target"], [0, 1, 2], runs, train=True, seconds=None)
    assert [call.split()[0] for call in commands.called[4:]] == ["train", "evaluate"]


def test_page_table_and_curves_are_what_was_measured(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page" / "README.md"
    page.write_text(f"Before.\n{study.MARKS[0]}\nold\n{study.MARKS[1]}\nAfter.\n")
    monkeypatch.setattr(study.folders, "gcoord", Commands())
    study.main(["native/target"], [0, 1], tmp_path / "runs", train=True, seconds=None)
    text = page.read_text()
    assert text.startswith("Before.\n") and text.endswith("\nAfter.\n") and "old" not in text
    line = "| native/target | 3 | mappo relation | 100 | -27.6 [-29.6, -26.6] | 71.2 [69.2, 72.2] | 74.5 [72.5, 75.5] |"
    assert line in text
    curves = read_csv(tmp_path / "page" / "curves.csv")
    assert [row.frames for row in curves[:: len(curves) - 1]] == [10, 100]
    assert (curves[0].value, curves[0].condition, curves[0].seeds) == (1.5, study.EXPLORING, 2)
    assert (curves[-1].value, curves[-1].ci_low, curves[-1].ci_high) == (10.5, 10.0, 11.0)
    # The round in which no episode ended is bridged.
    assert all(row.value == pytest.approx(row.frames / 10 + 0.5, abs=0.05) for row in curves)
    assert (tmp_path / "page" / "curves.png").stat().st_size > 1000
    # Without the run folders, what was written is kept.
    study.main(["native/target"], [0, 1], tmp_path / "elsewhere", train=False, seconds=None)
    assert page.read_text() == text and read_csv(tmp_path / "page" / "curves.csv") == curves


@pytest.mark.parametrize("world", STUDY.WORLDS)
def test_every_run_of_the_table_is_one_that_the_command_takes(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(STUDY.folders, "gcoord", lambda *line, seconds: called.append(line))
    STUDY.Cell(world, 2, Path("nowhere")).train(None)
    ((command, *overrides),) = called
    composed: list[Any] = []
    assert run_command(command, lambda cfg, job: composed.append(cfg), overrides) == 0
    (cfg,) = composed
    assert (cfg.seed, cfg.run_dir) == (2, "nowhere")
    assert 0 < cfg.evaluation.frames < cfg.frames  # the best of several policies is judged
