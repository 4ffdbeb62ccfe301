"""Studies: cells are trained once, shared by processes, and their page is made from their files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.cells import Cell, claimed, kept, replaced, work  # noqa: E402
from gcoord import conf  # noqa: E402

ALGO = conf.conf_dir() / "algo"
SMALL = (
    "num_envs=2",
    "model.encoder.dim=16",
    "source.steps=5",
    "source.epochs=1",
    "frames=40",
    "evaluation.frames=20",
    "evaluation.episodes=2",
    "evaluation.num_envs=2",
    "log.tensorboard=false",
)


def test_a_cell_is_trained_once_and_kept_as_one_file(tmp_path: Path) -> None:
    rows, runs = tmp_path / "rows", tmp_path / "runs"
    cells = [Cell("native/spread", "ippo", seed, SMALL) for seed in (0, 1)]
    tried = {cell.name: how for cell, how in work(cells, rows, runs)}
    assert list(tried) == ["native-spread-ippo-0", "native-spread-ippo-1"]
    assert all(how.startswith("done") for how in tried.values())
    assert list(work(cells, rows, runs)) == []
    first, second = kept(rows)
    assert (first["seed"], second["seed"]) == (0, 1) and first["trained"] != second["trained"]
    assert first["episodes"] == 100 and first["frames"] >= 40 and first["processor_seconds"] > 0
    assert [frames for frames, _ in first["curve"]] == [20, 40]
    assert set(first["trained"]) == set(first["random"]) >= {"return_per_agent", "success"}
    other = Cell("native/spread", "ippo", 0, (*SMALL, "algo.gamma=0.5"))
    assert [cell.name for cell, _ in work([other], rows, runs)] == ["native-spread-ippo-0"]
    again = json.loads((rows / "native-spread-ippo-0.json").read_text())
    assert again["options"] == [*SMALL, "algo.gamma=0.5"] and again["trained"] != first["trained"]


def test_what_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    cell = Cell("native/spread", "ippo", 0, SMALL)
    with claimed(tmp_path / "native-spread-ippo-0.lock") as mine:
        assert mine
        assert list(work([cell], tmp_path / "rows", tmp_path)) == []
    with claimed(tmp_path / "native-spread-ippo-0.lock") as mine:
        assert mine


def test_a_cell_that_is_stopped_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.cells.run_command", lambda *given, **more: 130)
    cells = [Cell("native/spread", "ippo", seed, SMALL) for seed in (0, 1)]
    assert [how for _, how in work(cells, tmp_path / "rows", tmp_path / "runs")] == ["stopped"]
    assert kept(tmp_path / "rows") == []


def test_a_page_keeps_what_stands_around_its_tables(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# A\n\n<!-- one -->\nold\n<!-- /one -->\nafter\n")
    replaced(page, "one", ["| x |", "|---|"])
    assert page.read_text() == "# A\n\n<!-- one -->\n| x |\n|---|\n<!-- /one -->\nafter\n"
    with pytest.raises(ValueError, match="expected the marks <!-- two -->"):
        replaced(page, "two", [])


def study(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}.run")


def test_the_catalogue_leaves_no_algorithm_out() -> None:
    alone = {algo for _, algo in study("single_agent").SETTINGS}
    # Who learns from recorded teams has no frames to be equal in.
    learning = [
        algo for algo in conf.options_of("algo") if "/source: offline" not in (ALGO / f"{algo}.yaml").read_text()
    ]
    begins_from_another_run = {"coordinate"}
    assert set(learning) == {*study("catalogue").ALGOS} | alone | begins_from_another_run


def test_every_run_of_a_world_in_the_catalogue_has_the_same_frames_and_episodes() -> None:
    catalogue = study("catalogue")
    for world in catalogue.WORLDS:
        for algo in catalogue.ALGOS:
            told = dict(option.split("=", 1) for option in catalogue.cell(world, algo, 0, 10).options)
            assert told["frames"] == str(10 * catalogue.WORLDS[world].frames)
            assert told["evaluation.episodes"] == "20"
