"""The page that shows how to add a mixer is executed: its class and its file train, and its mixer keeps its word."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from gcoord.command import run_command
from gcoord.conf import conf_dir
from gcoord.policy import load
from gcoord.train import train, validate

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "adding-a-mixer.md").read_text()
CLASS, TRIED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(FILE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^python -m gcoord\.train (.*?)(?:  +#.*)?$", PAGE, re.MULTILINE)
SMALL = [
    "frames=100", "num_envs=4", "model.encoder.dim=16", "source.warmup=64", "source.bursts=1", "source.capacity=4000",
    "source.batch=8", "evaluation.frames=0", "evaluation.episodes=4", "log.tensorboard=false",
]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "softmax_mixer.py").write_text(CLASS)
    shutil.copytree(conf_dir(), tmp_path / "conf")
    (tmp_path / "conf" / "algo" / "softmax.yaml").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "softmax_mixer", raising=False)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands_train(place, command):
    options = [*command.split(), *SMALL, f"run_dir={place}/run"]
    assert run_command("train", train, options, validate=validate, conf=place / "conf") == 0
    assert "softmax_mixer.Softmax" in (place / "run" / "config.yaml").read_text()
    assert load(place / "run").spec.world == "native/meet"


def test_the_pages_mixer_keeps_the_promises_that_it_tries(place):
    exec(compile(TRIED, "adding-a-mixer.md", "exec"), {})


def test_the_page_shows_both_ways():
    assert len(COMMANDS) == 2
