"""Promises of evolution along sizes: the best of each generation go on, the last is a run, and killed it goes on."""

from __future__ import annotations

import json
import shutil

import pytest

import gcoord
from gcoord.command import run_command
from gcoord.run_folder import read_config
from gcoord.scaleup.trainings import curve, spent
from gcoord.train import train, validate

TOY = ["env=native/meet", "num_envs=8", "model.encoder.dim=16", "evaluation.episodes=8", "log.tensorboard=false"]
TOY += ["source.steps=10", "source.epochs=1", "source.minibatch=40", "frames=200", "evolution=epc"]
TOY += ["evolution.processes=1", "n_agents=[2,3]"]


def go(*overrides):
    return run_command("train", train, [*TOY, *overrides], validate=validate)


def test_of_every_generation_the_fittest_go_on_and_the_last_is_the_run(tmp_path):
    folder = tmp_path / "e"
    assert go("evolution.population=2", "evolution.children=2", f"run_dir={folder}") == 0
    first, last = json.loads((folder / "evolution.json").read_text())
    assert len(first["runs"]) == 4 and len(last["runs"]) == 4
    for generation, told in enumerate((first, last)):
        root = folder / "generations" / f"{generation}-n{told['n_agents']}"
        fit = {name: max(f["return_per_agent"] for n, f in curve(root / name) if n > 0) for name in told["runs"]}
        assert fit == told["runs"]
        assert told["go_on"] == sorted(fit, key=fit.get, reverse=True)[:2]
    parents = [str(read_config(folder / "generations" / "1-n3" / name).init_from) for name in last["runs"]]
    names = [parent.rpartition("/")[2] for parent in parents]
    assert {name: names.count(name) for name in names} == dict.fromkeys(first["go_on"], 2)
    seeds = {read_config(folder / "generations" / "1-n3" / name).seed for name in last["runs"]}
    assert len(seeds) == 4, "children meet other worlds"
    best = gcoord.load(folder)
    assert best.trained_on == [3]
    crowned = folder / "generations" / "1-n3" / last["go_on"][0]
    assert (folder / "policy.safetensors").read_bytes() == (crowned / "policy.safetensors").read_bytes()
    # What all of them cost is its cost.
    assert spent(folder).frames >= 8 * 200 and spent(folder).agent_steps >= 4 * 200 * 2 + 4 * 200 * 3


def test_what_was_trained_is_not_trained_again(tmp_path, capfd):
    folder = tmp_path / "e"
    options = ["evolution.population=1", "evolution.children=2", f"run_dir={folder}"]
    assert go(*options) == 0
    told = (folder / "evolution.json").read_text()
    # As if killed in the second generation.
    (folder / "config.yaml").unlink()
    lost = sorted((folder / "generations" / "1-n3").iterdir())[0]
    shutil.rmtree(lost)
    capfd.readouterr()
    assert go(*options) == 0
    assert "[1/1]" in capfd.readouterr().out and (folder / "evolution.json").read_text() == told


BAD = {
    "n_agents=4": "expected n_agents=[...] with at least two sizes to evolve along (got [4])",
    "evolution.population=0": "expected an evolution of population, children and processes of at least 1 (got 0, 2",
    "curriculum=growing": "expected evolution without curriculum and init_from (got either)",
    "run_dir=null": "expected run_dir=<folder> for an evolution",
}


@pytest.mark.parametrize("override", BAD)
def test_evolutions_that_cannot_be_are_refused_in_one_line(tmp_path, capfd, override):
    assert go(f"run_dir={tmp_path}/e", override) == 2
    error = capfd.readouterr().err.strip()
    assert BAD[override] in error and "\n" not in error
    assert not (tmp_path / "e").exists()
