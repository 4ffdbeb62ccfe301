"""experiments/spread and dgn_magent: their pages say what was measured, and what is claimed there holds in it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experiments import folders  # noqa: E402
from gcoord.scaleup.report import read_csv  # noqa: E402

SPREAD, MAGENT = (importlib.import_module(f"experiments.{name}.run") for name in ("spread", "dgn_magent"))
ROWS = {name: read_csv(ROOT / "experiments" / name / "results.csv") for name in ("spread", "dgn_magent")}


def page(name: str) -> str:
    return (ROOT / "experiments" / name / "README.md").read_text()


@pytest.mark.parametrize("metric", ["success", "return_per_agent", "collisions"])
def test_the_tables_of_spreads_page_are_its_results(metric: str) -> None:
    assert "\n".join(SPREAD.table(ROWS["spread"], metric)) in page("spread")


@pytest.mark.parametrize("task", list(MAGENT.TASKS))
def test_the_tables_of_jungle_and_battle_are_their_results(task: str) -> None:
    assert "\n".join(MAGENT.table(ROWS["dgn_magent"], task)) in page("dgn_magent")


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_who_learnt_with_three_occupies_nearly_what_the_planner_does_and_more_than_the_script(n: int) -> None:
    there = [row for row in ROWS["spread"] if (row.density, row.n_agents, row.metric) == ("arena", n, "success")]
    whole = {row.method: row for row in there if "cut" not in row.condition}
    learnt = whole["bc"]
    assert learnt.seeds >= 3 and learnt.train_n_agents == "3"
    assert learnt.value >= 0.95 * {3: 0.94, 4: 0.89, 5: 0.86, 6: 0.85}[n]
    assert learnt.ci_low > whole["script"].ci_high


def of(world: str, n: int, metric: str) -> dict[str, float]:
    rows = [row for row in ROWS["dgn_magent"] if (row.world, row.n_agents, row.metric) == (world, n, metric)]
    return {MAGENT.label(row): row.value for row in rows}


@pytest.mark.parametrize("n, least", [(20, 0.73), (50, 0.52)])
def test_in_the_jungle_what_was_learnt_earns_more_than_the_simple_script(n: int, least: float) -> None:
    assert of("magent/dgn_jungle", n, "reward")["cloned from the script, 100% sampled"] > least


@pytest.mark.parametrize("n", [20, 40])
def test_in_the_battle_what_was_learnt_earns_more_than_its_script(n: int) -> None:
    reward = of("magent/dgn_battle", n, "reward")
    assert reward["cloned, then mappo, 10% sampled"] > 1.1 * reward["scripted"]


def test_what_is_there_is_not_made_again_and_what_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, ...]] = []

    def says(*words: str, seconds: float | None = None) -> None:
        said.append(words)
        if words[0] == "record":
            Path(words[-1].removeprefix("out=")).mkdir(exist_ok=True)

    monkeypatch.setattr(folders, "gcoord", says)
    games, run = tmp_path / "games", tmp_path / "run"
    for _ in range(2):
        folders.record(games, ["policy=scripted", "policy=noisy epsilon=0.1"], "env=a")
    assert [words[2:-1] for words in said] == [("policy=scripted",), ("policy=noisy", "epsilon=0.1")]
    said.clear()
    folders.train(run, "env=a")
    (run / "checkpoints" / "last").mkdir(parents=True)
    folders.train(run, "env=a")
    (run / "summary.json").write_text(json.dumps({"status": "finished", "frames": 1}))
    folders.train(run, "env=a")
    assert said == [("train", f"run_dir={run}", "env=a"), ("train", f"resume={run}")]
