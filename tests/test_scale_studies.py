"""Studies of scale: every training is one that the command takes, and their tables say what their rows say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gcoord.command import run_command  # noqa: E402
from gcoord.scaleup.report import Row  # noqa: E402
from gcoord.train import validate  # noqa: E402

WORLDS = importlib.import_module("experiments.worlds_at_scale.run")
PARTS = importlib.import_module("experiments.ablation.run")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Overrides of the trainings that a study asks for; sweeps give no rows."""
    asked: list[list[str]] = []

    def gcoord(command: str, *options: str, seconds: float | None = None) -> None:
        if command == "train":
            asked.append(list(options))

    monkeypatch.setattr(WORLDS.folders, "gcoord", gcoord)
    monkeypatch.setattr(WORLDS.folders, "read_csv", lambda path: [])
    return asked


def accepted(overrides: list[str]) -> bool:
    return run_command("train", lambda cfg, job: 0, overrides, validate=validate) == 0


@pytest.mark.parametrize("world", WORLDS.WORLDS)
def test_every_world_is_trained_at_the_small_and_at_eight_times_the_size(
    world: str, trainings: list[list[str]], tmp_path: Path
) -> None:
    sizes = WORLDS.WORLDS[world].sizes
    assert sizes[-1] == 8 * sizes[0]
    WORLDS.study(world, [0, 1], tmp_path)
    assert [int(next(o for o in one if o.startswith("n_agents="))[9:]) for one in trainings] == [
        *[sizes[0]] * 2,
        *[sizes[-1]] * 2,
    ]
    assert all(accepted(one) for one in (trainings[0], trainings[-1]))


@pytest.mark.parametrize("part", PARTS.PARTS)
def test_every_variant_is_one_that_the_command_takes_with_the_same_frames(
    part: str, trainings: list[list[str]], tmp_path: Path
) -> None:
    for world in PARTS.WORLDS:
        PARTS.study(world, part, [0], tmp_path)
        assert f"frames={PARTS.WORLDS[world].frames}" in trainings[-1] and accepted(trainings[-1])


def test_the_tables_say_what_the_rows_say() -> None:
    def row(n: int, mode: str, metric: str, value: float, method: str) -> Row:
        figures: dict[str, Any] = {"value": value, "ci_low": value - 1, "ci_high": value + 1}
        shared: dict[str, Any] = {"density": "fixed", "condition": "", "episodes": 100, "seeds": 3, "frames": 1}
        trained = "3" if mode == "zero_shot" else ""
        named = {"world": "native/target", "train_n_agents": trained, "n_agents": n, "method": method, "mode": mode}
        return Row(**named, metric=metric, **figures, **shared)

    rows = [row(24, mode, "return_per_agent", at, mode) for at, mode in enumerate(("random", "scratch", "zero_shot"))]
    rows += [row(24, "zero_shot", "retention", 9.5, "mappo"), row(3, "zero_shot", "retention", 1.0, "mappo")]
    assert WORLDS.table(rows)[-1] == (
        "| native/target | 3 | 24 | 0 [-1, 1] |  | 1 [0, 2] | 2 [1, 3] | 9.5 [8.5, 10.5] |  |"
    )
    rows = [row(n, "zero_shot", "return_per_agent", float(n), part) for n in (3, 12, 24) for part in ("plain", "mean")]
    assert PARTS.table(rows, "native/target")[2:] == [
        f"| {PARTS.PARTS[part][0]} | 3.0 [2.0, 4.0] | 12.0 [11.0, 13.0] | 24.0 [23.0, 25.0] |"
        for part in ("plain", "mean")
    ]
