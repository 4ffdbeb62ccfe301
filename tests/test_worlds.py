"""The list of worlds: every file of conf/env has a card or takes the user's own; the page says what the list says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gcoord import conf
from gcoord.envs.cards import Card
from gcoord.worlds import cards, main, markdown, sizes_of, spec_of

# These take the user's own world and have no card.
OPEN = {"parallel", "vmas/scenario", "vmas/custom", "gym/make"}
PAGE = conf.conf_dir().parent / "docs" / "environments.md"


def test_every_world_has_a_card() -> None:
    assert set(cards()) | OPEN >= set(conf.options_of("env"))


def test_the_default_size_is_one_the_card_allows() -> None:
    for name, card in cards().items():
        if not name.startswith(("native/", "mpe/", "sisl/")):
            continue
        spec = spec_of(name)
        assert spec is not None
        assert card.smallest <= spec.n_agents <= (card.largest or spec.n_agents), name


def test_the_page_of_environments_is_what_the_command_writes() -> None:
    assert PAGE.read_text() == markdown()


def test_a_world_named_in_full_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["native/meet"]) == 0
    said = capsys.readouterr().out
    assert "where to meet" in said and "5 numbered" in said and "0.87" in said


def test_part_of_a_name_lists_its_worlds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["native/me"]) == 0
    said = capsys.readouterr().out
    assert "native/meet" in said and "pursuit" not in said


def test_an_unknown_name_is_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vmas/navigatoin"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sizes_in_words() -> None:
    assert sizes_of(Card((2,), "x")) == "2 (fixed)"
    assert sizes_of(Card((2, 4), "x", smallest=2, largest=8)) == "2 to 8"
    assert sizes_of(Card((2, 4), "x")) == "from 1 on"


def test_a_world_whose_extra_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gcoord import worlds

    monkeypatch.setattr(worlds, "spec_of", lambda name: None)
    assert worlds.main(["sisl/pur"]) == 0 and worlds.main(["sisl/pursuit"]) == 0
    line, _, table = capsys.readouterr().out.partition("\n")
    assert line.endswith("needs gcoord[petting], which is not installed")
    assert "gcoord[petting]" in table and "not installed: with it more is told" in table


@pytest.mark.parametrize("sizes", [(), (0,), (4, 2), (2, 2)])
def test_a_card_refuses_sizes_that_do_not_rise_from_one(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected rising team sizes"):
        Card(sizes, "x")


WITHOUT = """
import importlib.abc, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"pettingzoo", "supersuit", "mpe2", "magent2", "ale_py", "vmas"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
from gcoord.command import run_command
from gcoord.train import train, validate

for world in sys.argv[1:]:
    print(world, run_command("train", train, [f"env={world}"], validate=validate))
"""
NEEDS = {
    "sisl/pursuit": "petting",
    "sisl/multiwalker": "petting",
    "butterfly/pistonball": "petting",
    "mpe/simple_spread": "petting",
    "magent/battle": "magent",
    "magent/dgn_jungle": "magent",
    "atari/space_invaders": "atari",
    "vmas/navigation": "vmas",
}


def test_without_its_extra_training_in_a_world_names_it_in_one_line_and_makes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *NEEDS], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines() == [f"{world} 2" for world in NEEDS], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(NEEDS), done.stderr
    for line, extra in zip(lines, NEEDS.values(), strict=True):
        assert line.startswith("error: ") and f"pip install 'gcoord[{extra}]'" in line
    assert not any(tmp_path.iterdir())
