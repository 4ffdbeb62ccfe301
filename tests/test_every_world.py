"""Every file of conf/env is learnt in: a policy gradient and a value algorithm make updates, the policy moves to other
team sizes. One process for all; one world of each family is also trained as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gcoord
from gcoord import conf
from gcoord.callbacks import MetricsFile
from gcoord.command import run_command
from gcoord.train import train
from gcoord.worlds import cards

CARDS = cards()
WORLDS = conf.options_of("env")
# Files that take the user's own world are given one of the package's.
OWN = {
    "gym/make": {"id": "MountainCar-v0"},
    "parallel": {"maker": "mpe2.simple_spread_v3:parallel_env"},
    "vmas/custom": {"scenario": "vmas.scenarios.dispersion:Scenario"},
    "vmas/scenario": {"scenario": "dispersion"},
}
# What a world needs to be made in a moment, besides few steps an episode.
SHORT: dict[str, dict[str, Any]] = {
    "butterfly/pistonball": {"stack": 2},
    "butterfly/cooperative_pong": {"stack": 2},
    "atari/space_invaders": {"stack": 2, "noops": 2},
    "gym/space_invaders": {"stack": 2, "noops": 2},
    "vmas/sampling": {"grid_spacing": 0.2},
}
# Smaller than the world's own where that is large, the larger of its sizes where they are larger still.
SIZES = {"butterfly/pistonball": (4, 20), "magent/battle": (6, 12), "magent/combined_arms": (6, 12)}
# Five seconds of one core each: in the whole suite only.
LARGE = {"magent/gather", "vmas/road_traffic"}
ALIKE = [
    "num_envs=2",
    "model.encoder.dim=8",
    "model.encoder.heads=2",
    "evaluation.frames=0",
    "evaluation.episodes=2",
    "evaluation.num_envs=2",
    "log.tensorboard=false",
    "threads=1",
]
# Two batches, and two updates of each.
SOURCES = {
    "ippo": ["source.steps=3", "source.epochs=1", "source.minibatch=6", "frames=12"],
    "vdn": ["source.warmup=6", "source.bursts=1", "source.updates=1", "source.batch=4", "source.steps=3"]
    + ["source.capacity=20", "frames=12"],
}
FAMILIES = {
    "magent": ("magent/tiger_deer", "ippo"),
    "mpe": ("mpe/simple_tag", "vdn"),
    "native": ("native/target", "vdn"),
    "sisl": ("sisl/multiwalker", "ippo"),
    "vmas": ("vmas/dispersion", "ippo"),
}


def shortened(name: str) -> dict[str, Any]:
    """Arguments that make a world small: three steps an episode, no processes."""
    node = conf.env_node(name, **OWN.get(name, {}))
    few = {limit: 3 for limit in ("max_steps", "max_cycles") if limit in node}
    return OWN.get(name, {}) | few | ({"workers": 0} if "workers" in node else {}) | SHORT.get(name, {})


def sizes_of(name: str) -> tuple[int, ...]:
    return SIZES.get(name) or (CARDS[name].sizes if name in CARDS else (3,))


def options(name: str, algo: str, folder: Path) -> list[str]:
    given = [f"env.{key}={value}" for key, value in shortened(name).items()]
    team = [] if len(sizes_of(name)) == 1 else [f"n_agents={sizes_of(name)[0]}"]
    return [f"env={name}", f"algo={algo}", f"run_dir={folder}/r", *given, *team, *ALIKE, *SOURCES[algo]]


def require(name: str) -> None:
    """Skips a world whose extra is not installed."""
    if name == "smac/smacv2":
        pytest.importorskip("smacv2")


@pytest.mark.filterwarnings("ignore:Force limits not specified")
@pytest.mark.parametrize("algo", SOURCES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full if n in LARGE else ()) for n in WORLDS])
def test_every_world_is_learnt_in_and_its_policy_moves(tmp_path: Path, name: str, algo: str) -> None:
    require(name)
    assert run_command("train", train, options(name, algo, tmp_path)) == 0
    rows = MetricsFile(tmp_path / "r", frames=10**12)._read()
    assert float(rows[-1]["updates"]) >= 2 and float(rows[-1]["frames"]) >= 12
    policy = gcoord.load(tmp_path / "r")
    for size in sizes_of(name)[1:]:
        env = gcoord.make_env(name, size, num_envs=1, **shortened(name) | discrete(policy, name))
        seen = env.reset(0)
        action = policy.act(seen)
        assert action.shape == (1, size, *env.spec.action_shape)
        env.step(action)
        env.close()


def discrete(policy: gcoord.Policy, name: str) -> dict[str, Any]:
    """The kind of actions that the policy was trained on, where a world offers both."""
    both = conf.env_node(name, **OWN.get(name, {})).get("continuous") == "auto"
    return {"continuous": False} if both and policy.spec.discrete else {}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_world_of_each_family_is_trained_as_a_user_starts_it(tmp_path: Path, family: str) -> None:
    # The other families' are with their own tests.
    command = [sys.executable, "-W", "default", "-m", "gcoord.train", *options(*FAMILIES[family], tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ.copy(), check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "policy.safetensors").exists()
    for package in ("pettingzoo", "gymnasium", "pygame", "magent2", "mpe2"):
        assert f"{package}/" not in done.stderr, done.stderr


def test_every_world_is_tried() -> None:
    assert set(OWN) | set(CARDS) == set(WORLDS)
    assert LARGE | set(SHORT) | set(SIZES) <= set(CARDS)
    tried = {name.partition("/")[0] for name, _ in FAMILIES.values()}
    elsewhere = {"atari", "butterfly", "gym", "parallel", "smac"}
    assert tried | elsewhere == {name.partition("/")[0] for name in WORLDS}
