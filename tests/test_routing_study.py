"""experiments/dgn_routing: its runs can be gone on with, and what its page says is what was measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gcoord.scaleup.report import read_csv  # noqa: E402

STUDY = importlib.import_module("experiments.dgn_routing.run")
ROWS = read_csv(ROOT / "experiments" / "dgn_routing" / "results.csv")
LEARNT = next(iter(STUDY.METHODS))


def test_the_tables_of_the_page_are_the_results() -> None:
    page = (ROOT / "experiments" / "dgn_routing" / "README.md").read_text()
    networks = {row.condition.split(" ")[0] for row in ROWS}
    assert STUDY.condition_of(STUDY.PUBLISHED) in networks
    for network in networks:
        assert "\n".join(STUDY.table(ROWS, int(network.removeprefix("network=")))) in page


@pytest.mark.parametrize("n", STUDY.SIZES)
def test_what_was_learnt_beats_shortest_paths_by_more_than_the_intervals(n: int) -> None:
    plain = [row for row in ROWS if row.condition == STUDY.condition_of(STUDY.PUBLISHED) and row.n_agents == n]
    learnt, shortest = ({row.metric: row for row in plain if row.method == name} for name in (LEARNT, "script"))
    assert learnt["reward"].seeds >= 3
    assert learnt["reward"].ci_low > shortest["reward"].ci_high
    assert learnt["delay"].ci_high < shortest["delay"].ci_low
    assert learnt["throughput"].ci_low > shortest["throughput"].ci_high


def test_a_run_is_trained_once_and_goes_on_where_more_frames_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(STUDY.folders, "gcoord", lambda *given, seconds: called.append(given))
    folder = tmp_path / "run"
    STUDY.train("mappo mean", 1, 800, folder)
    assert {"frames=800", "seed=1", "model=mean", f"run_dir={folder}"} < set(called[0])
    (folder / "checkpoints" / "last").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"status": "finished", "frames": 810}))
    STUDY.train("mappo mean", 1, 800, folder)
    assert len(called) == 1
    STUDY.train("mappo mean", 1, 900, folder)
    assert called[1] == ("train", f"resume={folder}", "frames=900")
