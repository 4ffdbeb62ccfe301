"""The README's Python runs as it stands, and what it names is there."""

import re
from pathlib import Path

import pytest

from gcoord.command import run_command
from gcoord.train import train

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_the_readmes_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "runs/mine" in block:
        options = ["env=native/meet", "frames=50", "num_envs=4", "source.steps=10", "run_dir=runs/mine"]
        quiet = ["evaluation.frames=0", "evaluation.episodes=4", "log.tensorboard=false"]
        assert run_command("train", train, [*options, *quiet]) == 0
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    if "q_tot" in names:
        assert names["q_tot"].shape == (32,)
        assert names["h"].shape == (32, 10, names["encoder"].out_dim)
    if "policy" in names:
        assert names["action"].shape[0] == 9


def test_there_are_blocks_to_run():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?:docs|experiments|benchmarks)/[^)]+)\)", README))))
def test_what_the_readme_links_to_is_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("folder", sorted(set(re.findall(r"^\| `([a-z/]+/)`", README, re.MULTILINE))))
def test_the_folders_it_describes_are_there(folder):
    assert (ROOT / folder).is_dir()
