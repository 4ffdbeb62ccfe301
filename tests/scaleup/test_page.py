"""The report's page holds what the rows say, needs no network, stays small, and draws without an error."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from gcoord.scaleup.curves import curves
from gcoord.scaleup.facts import facts
from gcoord.scaleup.film import Scene
from gcoord.scaleup.page import base_condition, group, write_page
from gcoord.scaleup.replay import GRID, replay
from gcoord.scaleup.report import Row


def beside(name):
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


opened = beside("browser").opened


def row(n=4, mode="zero_shot", value=1.0, half=0.1, metric="return_per_agent", method="mappo relation", **changes):
    trained = "" if mode in ("random", "scripted") else str(n) if mode == "scratch" else "4"
    method = mode if mode in ("random", "scripted") else method
    values = dict(
        world="vmas/navigation", density="fixed", train_n_agents=trained, n_agents=n, method=method, mode=mode
    )
    values |= dict(condition="", metric=metric, value=value, ci_low=value - half, ci_high=value + half)
    return Row(**{**values, "episodes": 300, "seeds": 3, "frames": 600_000, **changes})


def study():
    """A sweep with something for every section."""
    rows = []
    for n in (4, 8, 16, 32):
        rows += [
            row(n, "random", -1.0),
            row(n, "scripted", 1.5),
            row(n, "zero_shot", 2 - n / 100),
            row(n, "scratch", 2.0),
        ]
        rows += [row(n, metric="success", value=0.9, half=0.05), row(n, metric="messages", value=3.0)]
        rows += [row(n, value=1.5, train_n_agents=trained) for trained in ("2", "2+4+8")]
        rows += [row(n, value=1.0 + i / 10, condition=text) for i, text in enumerate(("cut=0.5", "delay=1", "shuffle"))]
        rows += [row(n, "fine_tuned", 1.9)]
        rows += [row(n, metric="speech_information", value=0.4)]
    return rows


def lines():
    """curves.csv of a fine-tuning and a training from scratch, two runs each."""
    for mode, start in (("fine_tuned", 1.5), ("scratch", -1.0)):
        for n in (8, 16):
            for seed in (0, 1):
                for frames in (0, 20_000, 40_000):
                    yield dict(
                        world="vmas/navigation", density="fixed", train_n_agents="4" if mode == "fine_tuned" else n,
                        n_agents=n, method="mappo relation", mode=mode,
                        condition="", seed=seed, frames=frames, agent_steps=0,
                        metric="return_per_agent", value=start + seed / 10 + frames / 1e5,
                    )  # fmt: skip


def scenes(n=5, steps=6, entities=2, seed=0):
    rng = np.random.default_rng(seed)
    for step in range(steps):
        pairs = np.array([(j, i) for i in range(n) for j in range(n + entities) if i != j])
        alive = np.ones(n, bool)
        alive[-1] = step < 3
        yield Scene(
            step, float(step), rng.normal(size=(n, 2)), alive, np.zeros(n, np.int64), rng.normal(size=(entities, 2)),
            np.ones(entities, bool), pairs, rng.random(len(pairs)),
        )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    episodes = [{**replay(list(scenes(n)), n), "title": f"{n} agents"} for n in (5, 9)]
    write_page(
        path, study(), episodes, facts(study(), grows="sides grow with sqrt(n / 4)"), None, curves(list(lines()))
    )
    return path


def data_of(path):
    text = path.read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1))


def test_the_page_holds_every_row(page):
    (one,) = data_of(page)["groups"]
    told = set()
    for s, n, m, c, value, low, high, episodes, seeds, frames in one["rows"]:
        series = one["series"][s]
        condition = "" if c == 0 else one["conditions"][c]
        told.add((series["mode"], series["method"], n, one["metrics"][m]["name"], condition, value, low, high, frames))
        assert (episodes, seeds) == (300, 3)
    expected = {
        (r.mode, r.method, r.n_agents, r.metric, r.condition,
         *(float(f"{x:.6g}") for x in (r.value, r.ci_low, r.ci_high)), r.frames)
        for r in study()
    }  # fmt: skip
    assert told == expected and len(one["rows"]) == len(study())


def test_curves_are_means_over_runs_with_their_intervals(page):
    told = {
        (one["n"], data_of(page)["groups"][0]["series"][one["series"]]["mode"]): one
        for one in data_of(page)["groups"][0]["curves"]
    }
    assert set(told) == {(n, mode) for n in (8, 16) for mode in ("fine_tuned", "scratch")}
    frames, value, low, high = zip(*told[8, "fine_tuned"]["points"], strict=True)
    assert (
        frames == (0, 20_000, 40_000)
        and value == pytest.approx((1.55, 1.75, 1.95))
        and told[8, "fine_tuned"]["runs"] == 2
    )
    assert low == pytest.approx((1.5, 1.7, 1.9)) and high == pytest.approx((1.6, 1.8, 2.0))


def test_sets_of_weights_have_colours_of_their_own_and_modes_share_them():
    tones = {(s["method"], s["mode"], s["trained"]): s["tone"] for s in group(study())["series"]}
    zero = [tone for (_, mode, _), tone in tones.items() if mode == "zero_shot"]
    assert sorted(zero) == [0, 1, 2]
    assert tones["mappo relation", "fine_tuned", "4"] == tones["mappo relation", "zero_shot", "4"]
    assert tones["random", "random", ""] == -1


def test_figures_that_are_no_numbers_are_null_and_names_cannot_end_the_script(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, [row(value=math.nan), row(8, method="</script><b>{{data}}")])
    (one,) = data_of(path)["groups"]
    assert one["rows"][0][4] is None and one["series"][1]["method"] == "</script><b>{{data}}"


def test_nothing_is_fetched(page):
    text = page.read_text()
    assert "default-src 'none'" in text and "{{" not in text.replace("${{", "")
    for attribute in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert attribute.startswith(("#", "data:")), attribute
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)


def test_the_base_is_what_random_play_met():
    rows = [
        row(mode="random", condition="epsilon=0.05"),
        row(condition="epsilon=0.05"),
        row(condition="epsilon=0.05 cut=1"),
    ]
    assert base_condition(rows) == "epsilon=0.05"
    assert group(rows)["conditions"] == ["undisturbed", "cut=1"]


def test_worlds_and_densities_are_choices_of_the_page(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, [row(), row(density="arena"), row(world="mpe/simple_spread")])
    assert [one["world"] for one in data_of(path)["groups"]] == ["vmas/navigation"] * 2 + ["mpe/simple_spread"]
    with pytest.raises(ValueError, match=r"^expected at least one results row"):
        write_page(path, [])


def test_an_episode_is_told_to_a_thousandth_of_its_frame():
    shots = list(scenes())
    told = replay(shots, 5)
    every = np.concatenate([s.position[s.alive] for s in shots] + [s.entity_position for s in shots])
    half = (every.max(0) - every.min(0)).max() / 2 * 1.08
    low = (every.max(0) + every.min(0)) / 2 - half
    for shot, one in zip(shots, told["rows"], strict=True):
        at = np.array(one["at"]).reshape(-1, 2) / GRID * 2 * half + low
        assert np.abs(at - shot.position)[shot.alive].max() < 2 * half / 1000
        heard = np.array(one["heard"]).reshape(-1, 3)
        assert {tuple(pair) for pair in heard[:, :2]} == {tuple(pair) for pair in shot.edges}
        assert np.abs(heard[:, 2] / 9 - shot.weights).max() < 0.06
        assert one.get("dead", []) == np.flatnonzero(~shot.alive).tolist()


def test_absent_entities_are_neither_drawn_nor_counted():
    (shot,) = scenes(steps=1, entities=3)
    shot.present[0] = False
    shot.edges = np.array([(6, 0), (7, 1)])  # the second and third entity of five agents
    shot.weights = np.ones(2)
    (one,) = replay([shot], 5)["rows"]
    assert len(one["things"]) == 4 and one["heard"] == [5, 0, 9, 6, 1, 9]


def test_a_large_episode_stays_small_and_says_what_it_leaves_out():
    told = replay(list(scenes(n=60, steps=150)), 60)
    text = json.dumps(told, separators=(",", ":"))
    assert len(text) < 2_000_000
    drawn = sum(len(one["heard"]) // 3 for one in told["rows"])
    assert told["edges_left_out"] == 150 * 60 * 61 - drawn and told["edges_left_out"] > 0
    kept = np.array(told["rows"][0]["heard"]).reshape(-1, 3)[:, 2]
    assert kept.min() >= 3, "the most attended stay"


def test_a_world_without_positions_stands_on_a_circle():
    (shot,) = scenes(steps=1, entities=0)
    told = replay([dataclasses.replace(shot, position=None, entity_position=None, present=None)], 5)
    at = np.array(told["rows"][0]["at"]).reshape(-1, 2) / GRID - 0.5
    assert not told["placed"] and np.allclose(np.linalg.norm(at, axis=1), 0.42, atol=1e-3)


def test_the_honesty_block_names_failed_and_single_runs(tmp_path):
    for name, status in (("a", "finished"), ("b", "failed")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"status": status}))
    told = facts([*study(), row(method="qmix mean", seeds=1)], [tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    assert told["Runs that failed"] == "2 of 3: b (failed), c (without a summary)"
    assert "qmix mean, zero-shot" in told["Intervals"] and "mappo" not in told["Intervals"]
    assert "the arena grows" in told["Density rule"] and "torch" in told["Versions"] and "cores" in told["Hardware"]
    assert facts(study())["Runs that failed"] == "not known"


SHOWN = "[...document.querySelectorAll('main > section[id]')].filter((one) => !one.hidden).map((one) => one.id)"
THEME, CHARTS = "document.documentElement.dataset.theme", "document.querySelectorAll('.card svg').length"
WIDE = "document.documentElement.scrollWidth - innerWidth"
# Words of one chart that lie on each other, by more than a pixel.
OVERLAPS = """(() => {
  const found = [];
  for (const chart of document.querySelectorAll(".card svg")) {
    const texts = [...chart.querySelectorAll("text")].map((one) => [one.getBoundingClientRect(), one.textContent]);
    texts.forEach(([a, x], i) => texts.slice(i + 1).forEach(([b, y]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && tall > 1) found.push(chart.getAttribute("aria-label") + ": " + x + " on " + y);
    }));
    const card = chart.closest(".card").getBoundingClientRect();
    for (const [a, x] of texts)
      if (a.left < card.left || a.right > card.right + 1 || a.top < card.top || a.bottom > card.bottom)
        found.push(x + " outside");
  }
  return found;
})()"""
SCRUB = """(() => {
  const canvas = document.getElementById("canvas"), slider = document.getElementById("slider");
  const ink = () => [...canvas.toDataURL()].reduce((s, c) => (s * 31 + c.charCodeAt(0)) % 1000003, 0);
  const seen = [];
  const note = () => seen.push([document.getElementById("clock").textContent, ink()]);
  for (const step of [0, 1, 5]) { slider.value = step; slider.dispatchEvent(new Event("input")); note(); }
  document.querySelectorAll("#replay .tabs button")[1].click();
  note();
  return seen;
})()"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (800, True)])
def test_it_opens_in_a_browser_without_an_error_or_words_on_each_other(page, tmp_path, width, dark):
    probe = f"[{SHOWN}, {WIDE}, {OVERLAPS}, {THEME}, {CHARTS}, {SCRUB}]"
    told, console = opened(page, probe, tmp_path, width, dark)
    assert console == []
    shown, wide, overlaps, theme, charts, scrubbed = json.loads(told)
    assert shown == ["sizes", "matrix", "tuning", "cost", "talk", "speech", "replay", "table", "facts"]
    assert wide <= 0 and overlaps == [] and theme == ("dark" if dark else "light") and charts >= 10
    assert [text for text, _ in scrubbed] == ["step 0 of 5", "step 1 of 5", "step 5 of 5", "step 0 of 5"]
    assert len({ink for _, ink in scrubbed}) == 4, "every step and size is another picture"


def test_an_error_of_the_page_would_be_seen(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("replays(DATA.replays);", "replays(DATA.nothing);"))
    assert any("TypeError" in line for line in opened(broken, "1", tmp_path)[1])
    fetching = tmp_path / "fetching.html"
    fetching.write_text(page.read_text().replace("</main>", '<img src="http://example.org/a.png"></main>'))
    assert opened(fetching, "1", tmp_path)[1]


def test_sections_without_figures_are_not_shown(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, [row(n, mode) for n in (4, 8) for mode in ("random", "zero_shot")])
    told, console = opened(path, SHOWN, tmp_path)
    assert console == [] and json.loads(told) == ["sizes", "matrix", "table"]
