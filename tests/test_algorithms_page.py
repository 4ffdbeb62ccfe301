"""docs/algorithms.md tells of every algorithm in conf/algo, names its parts as they are, and links to what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gcoord.conf import conf_dir, options_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "algorithms.md"
SAID = ["Idea", "Equation", "Parts", "Departs", "Use", "Result"]
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def plain(algo):
    return OmegaConf.to_container(OmegaConf.load(conf_dir() / "algo" / f"{algo}.yaml"))


def parts_of(node):
    """Names of all classes and functions that a file names, and the settings that it states as they would be typed."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from parts_of(value)
        elif name == "_target_":
            yield f"`{value.rpartition('.')[-1]}`"
        elif not name.startswith("_"):
            yield f"{name}={str(value).lower() if isinstance(value, bool) else 'null' if value is None else value}"


def sentences(algo):
    """What is said under each of the bold words, in the order of the page."""
    pieces = re.split(r"\*\*(\w+)\.\*\*", SECTIONS[algo])[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def test_every_algorithm_has_its_paragraph_and_nothing_else_has():
    assert sorted(SECTIONS) == options_of("algo")


@pytest.mark.parametrize("algo", options_of("algo"))
def test_the_paragraph_says_everything_and_names_the_parts_that_the_file_names(algo):
    said = sentences(algo)
    assert list(said) == SAID and all(len(text.split()) >= 2 for text in said.values())
    file = plain(algo)
    parts = list(parts_of(file.get("algo", file)))
    parts += [f"`{name}`" for choice in file.get("defaults", []) for name in choice.values()]
    for part in parts:
        assert part in said["Parts"], f"expected the parts of {algo} to name {part}"
    assert not set(re.findall(r"`\w+`", said["Parts"])) - set(parts)


@pytest.mark.parametrize("algo", options_of("algo"))
def test_results_link_to_what_is_there(algo):
    links = re.findall(r"\]\(([^)#]+)\)", sentences(algo)["Result"])
    assert links and all((PAGE.parent / link).exists() for link in links)
