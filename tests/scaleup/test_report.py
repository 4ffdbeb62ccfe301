"""Promises of the report: rows survive files, scores are stated where defined, pictures show what the rows say."""

from __future__ import annotations

import dataclasses
import json
import math
from io import StringIO

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from gcoord.scaleup.curves import Curve
from gcoord.scaleup.pictures import tuning
from gcoord.scaleup.report import Row, normalised, plot, read_csv, table, write_csv, write_json

SCHEMA = "world,density,train_n_agents,n_agents,method,mode,condition,metric,value,ci_low,ci_high,episodes,seeds,frames"


def row(n=4, mode="zero_shot", value=1.0, half=0.1, metric="return_per_agent", method="mappo relation", **changes):
    trained = "" if mode in ("random", "scripted") else str(n) if mode == "scratch" else "4"
    values = {
        "world": "vmas/navigation",
        "density": "fixed",
        "train_n_agents": trained,
        "n_agents": n,
        "method": method,
        "mode": mode,
        "condition": "",
        "metric": metric,
        "value": value,
        "ci_low": value - half,
        "ci_high": value + half,
        "episodes": 300,
        "seeds": 3,
        "frames": 600_000,
    }
    return Row(**{**values, **changes})


def sweep():
    rows = []
    for n in (4, 8, 16):
        rows += [row(n, "scratch", 2.0), row(n, "zero_shot", 1.9), row(n, "scripted", 1.5), row(n, "random", -1.0)]
        rows += [row(n, mode, 0.5, 0.01, "success") for mode in ("random", "zero_shot")]
        rows += [row(n, "random", -1.0 * n, metric="return")]
    return rows


def printed(rows, metrics=None, width=120) -> str:
    out = StringIO()
    Console(file=out, width=width).print(table(rows, metrics))
    return out.getvalue()


def test_rows_survive_csv_exactly(tmp_path):
    rows = [row(value=1 / 3, half=1e-17, condition='dropped, "half"'), row(value=math.nan, half=math.inf), row(1000)]
    write_csv(rows, tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == SCHEMA
    loaded = read_csv(tmp_path / "results.csv")
    assert [loaded[0], loaded[2]] == [rows[0], rows[2]]
    assert math.isnan(loaded[1].value) and isinstance(loaded[1].n_agents, int)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_json_is_the_same_rows_and_strictly_json(tmp_path):
    rows = [row(), row(value=math.nan)]
    write_json(rows, tmp_path / "results.json")
    loaded = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert Row(**loaded[0]) == rows[0] and loaded[1]["value"] is None and ",".join(loaded[0]) == SCHEMA


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "results.csv"
    write_csv([row()], path)
    with pytest.raises(AttributeError):
        write_csv([row(5), None], path)
    assert read_csv(path) == [row()] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "to begin with world,density"),
        ("a,b\n1,2\n", "to begin with world,density"),
        (f"{SCHEMA}\nw,fixed,4,four,m,random,,success,1,1,1,1,1,1\n", "line 2 .*four"),
        (f"{SCHEMA}\nw,fixed,4,4,m,randomly,,success,1,1,1,1,1,1\n", "line 2 .*expected mode among"),
        (f"{SCHEMA}\nw,fixed,4\n", "line 2"),
    ],
)
def test_files_that_are_no_results_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "results.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^expected .*results.csv.*{message}") as caught:
        read_csv(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"^expected mode among .*zero_shot.* \(got 'zero-shot'\)$"):
        row(mode="zero-shot")


def test_the_normalised_score_by_hand():
    random, scratch = row(mode="random", value=-1.0), row(mode="scratch", value=2.0)
    assert normalised(0.5, random, scratch) == 0.5 and normalised(2.0, random, scratch) == 1.0
    assert normalised(-1.0, random, scratch) == 0.0
    overlapping = row(mode="scratch", value=-0.85, half=0.1)
    assert normalised(0.5, random, overlapping) is None
    assert normalised(0.5, random, row(mode="scratch", value=-3.0)) is None


def test_the_table_says_every_value_with_its_interval_and_score():
    text = printed(sweep())
    lines = [line.strip() for line in text.splitlines()]
    assert "the arena grows with the team" in lines[0]
    assert lines.index("return per agent") < lines.index("success") < lines.index("normalised")
    assert text.count("1.80, 2.00") == 3 and text.count("-1.10, -0.90") == 3
    assert text.count("0.97") == 3  # (1.9 + 1) / (2 + 1)
    assert "return\n" not in text  # hidden beside the return per agent
    assert "3 runs of 100 episodes" in text and "0 is random play" in text
    assert printed(sweep(), ["return"]).count("-4.00") == 1


def test_without_a_policy_from_scratch_no_score_is_stated():
    text = printed([other for other in sweep() if other.mode != "scratch"])
    assert "ormalised" not in text


def test_a_scratch_run_that_learnt_nothing_gives_no_score_at_its_size():
    rows = [other for other in sweep() if (other.mode, other.n_agents) != ("scratch", 16)]
    assert printed([*rows, row(16, "scratch", -0.95)]).count("0.97") == 2


def test_one_run_is_said_to_be_one():
    text = " ".join(printed([dataclasses.replace(other, seeds=1, episodes=100) for other in sweep()]).split())
    assert "1 run of 100 episodes" in text and "over episodes (which tells nothing about another training run)" in text
    mixed = " ".join(printed([*sweep(), row(32, seeds=1, episodes=50)]).split())
    assert (
        "1 to 3 runs of 50 to 100 episodes" in mixed and "over runs, or over episodes where there is one run" in mixed
    )


def test_densities_and_worlds_are_never_in_one_table():
    text = printed([*sweep(), *(dataclasses.replace(other, density="arena") for other in sweep())])
    assert text.count("vmas/navigation, the arena grows with the team") == 1
    assert text.count("vmas/navigation, the arena stays the same") == 1


def test_a_table_of_four_sizes_fits_a_terminal_of_80():
    lines = printed([*sweep(), *(dataclasses.replace(other, n_agents=32) for other in sweep()[:7])], width=80)
    assert "  ".join(["-1.10, -0.90"] * 4) in lines and "zero-shot from 4" in lines


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match=r"^expected metrics among .*success.* \(got speed\)$"):
        table(sweep(), ["speed"])


def test_the_picture_shows_the_rows(tmp_path, drawn):
    plot(sweep(), tmp_path / "scale.png")
    assert imread(tmp_path / "scale.png").std() > 0 and len(list(tmp_path.iterdir())) == 1
    returns, success = drawn[0].axes
    curves = {line.get_label(): line for line in returns.get_lines()}
    assert curves["mappo relation, zero-shot from 4"].get_xydata().tolist() == [[4, 1.9], [8, 1.9], [16, 1.9]]
    assert curves["random"].get_ydata().tolist() == [-1.0] * 3
    band = returns.collections[1].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((1.4, 1.6))
    assert [tick.get_text() for tick in returns.get_xticklabels()] == ["4", "8", "16"]
    assert returns.get_xscale() == "log" and success.get_ylim()[0] < 0 < 1 < success.get_ylim()[1]
    assert returns.get_title("left") == "trained on 4" and returns.get_ylabel() == "return per agent"
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "random",
        "scripted",
        "mappo relation, zero-shot from 4",
        "mappo relation, from scratch",
    ]


@pytest.mark.parametrize("value", [6.0, 0.0, -300.0])
def test_what_is_the_same_at_all_sizes_is_drawn_level_with_whole_numbers_beside_it(tmp_path, drawn, value):
    rows = [row(n, value=value * (1 + 2e-7 * n), half=0.0, metric="messages") for n in (4, 8, 16)]
    plot(rows, tmp_path / "scale.png")
    (ax,) = drawn[0].axes
    low, high = ax.get_ylim()
    assert high - low > 0.15 * (abs(value) or 1) and low < value < high
    assert ax.yaxis.get_offset_text().get_text() == ""


@pytest.mark.parametrize("sizes", [(4,), (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)])
def test_legend_and_panels_lie_inside_the_picture(tmp_path, drawn, sizes):
    rows = [row(n, mode) for n in sizes for mode in ("random", "scripted", "zero_shot", "scratch", "fine_tuned")]
    rows += [row(n, method=f"a method of a longer name {k}", train_n_agents="2+4+8") for n in sizes for k in range(4)]
    plot(rows, tmp_path / "scale.png")
    (figure,) = drawn
    boxes = [figure.legends[0].get_window_extent(), *(ax.get_tightbbox() for ax in figure.axes)]
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)
    assert boxes[0].y1 <= min(box.y0 for box in boxes[1:]) + 1


def test_worlds_get_panels_of_their_own_and_figures_that_are_no_numbers_are_left_out(tmp_path, drawn):
    rows = [*sweep(), row(4, value=math.nan, density="arena"), row(8, value=3.0, density="arena")]
    plot(rows, tmp_path / "scale.png")
    assert [part.get_suptitle() for part in drawn[0].subfigs] == [
        "vmas/navigation, the arena grows with the team",
        "vmas/navigation, the arena stays the same",
    ]
    with pytest.raises(ValueError, match="at least one results row"):
        plot([], tmp_path / "none.png")


def test_the_legend_of_tuning_curves_lies_below_them_and_tells_each_once(tmp_path, drawn):
    frames = np.array([0.0, 100.0])
    curves = [
        Curve("w", "fixed", trained, n, f"method {k}", mode, "", frames, frames + k, frames, frames + 2 * k, 3)
        for n in (8, 16)
        for k in range(4)
        for mode, trained in (("fine_tuned", "4"), ("scratch", str(n)))
        if n == 16 or k != 1  # one is not there at every size
    ]
    assert tuning(curves, tmp_path / "tuning.png")
    (figure,) = drawn
    legend = figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names)) == 8 and "method 0, fine-tuned from 4" in names
    below = min(ax.get_tightbbox().y0 for ax in figure.axes)
    assert legend.get_window_extent().y1 <= below + 1
    colors = {}
    for ax in figure.axes:
        for line in ax.get_lines():
            assert colors.setdefault(line.get_label(), line.get_color()) == line.get_color()
