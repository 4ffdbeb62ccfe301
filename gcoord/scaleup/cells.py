"""Cells of a sweep: one policy in one world at one team size, played once and kept as one file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gcoord
from gcoord import conf
from gcoord.arguments import arguments_of
from gcoord.checkpoint import whole_file
from gcoord.policy import DESCRIPTION

# Raised when what a cell's file holds comes to mean something else: older ones are then played anew.
PROTOCOL = 1


@dataclass(frozen=True)
class Cell:
    """What is to be played, and how it is called in results.

    Arguments:
        mode, method, train_n_agents, n_agents, condition: as in `Row`; n_agents is the size asked for.
        index: which of the method's runs it is, from 0; episodes are those of `seed`.
        run: folder of the policy, empty for random and scripted play.
        env: the world's configuration; episodes, num_envs, seed: what is played of it.
        epsilon: share of random actions.
        topology: changes to who hears whom (see `rewired`), None where there are none.
        communication: what is changed of what agents hear, such as `cut=0.5` (see `gcoord.scaleup.conditions`).
        device: where it runs. trust: modules whose own parts the policy may use.
    """

    mode: str
    method: str
    train_n_agents: str
    n_agents: int
    condition: str
    index: int
    env: dict[str, Any]
    episodes: int
    num_envs: int
    seed: int
    run: str = ""
    epsilon: float = 0.0
    topology: dict[str, Any] | None = None
    communication: str = ""
    device: str = "cpu"
    trust: Sequence[str] = ()

    @property
    def words(self) -> str:
        """What is played, for whoever watches."""
        who = self.mode.replace("_", "-")
        if self.run:
            trained = f" from {self.train_n_agents}" if self.train_n_agents != str(self.n_agents) else ""
            who += f" {self.method} ({self.index}){trained}"
        return f"{who} at {self.n_agents} agents{f', {self.condition}' if self.condition else ''}"

    def configuration(self) -> dict[str, Any]:
        """All that what comes out depends on: a kept cell is used again only where this is the same."""
        policy = None
        if self.run:
            policy = json.loads((Path(self.run) / DESCRIPTION).read_text())["sha256"]
        return {
            "protocol": PROTOCOL,
            "version": gcoord.__version__,
            "mode": self.mode,
            "policy": policy,
            "env": self.env,
            "n_agents": self.n_agents,
            "episodes": self.episodes,
            "num_envs": self.num_envs,
            "seed": self.seed,
            "epsilon": self.epsilon,
            "topology": self.topology,
            "communication": self.communication,
            "device": self.device.partition(":")[0],
        }

    def path(self, folder: Path) -> Path:
        """Its file below `folder`: readable, and another for another configuration."""
        names = [self.mode, slug(self.method), f"s{self.index}", f"t{self.train_n_agents}", f"n{self.n_agents}"]
        if not self.run:
            names = [self.mode, f"s{self.index}", f"n{self.n_agents}"]
        return folder / f"{'-'.join(names)}-{digest(self.configuration())}.json"

    def load(self, folder: Path) -> Played | None:
        """What was played of it before, None where it was not, or not by this configuration."""
        if self.run and not (Path(self.run) / DESCRIPTION).is_file():
            return None
        path = self.path(folder)
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("configuration") != plain(self.configuration()):
            return None
        return Played(**content["played"])

    def save(self, folder: Path, played: Played) -> None:
        """Writes its file aside, then renames it."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"cell": self.words, "configuration": self.configuration(), "played": dataclasses.asdict(played)}
        with whole_file(self.path(folder)) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class Played:
    """What a cell gave: the world's name and density, the team's size there, and values by figure.

    values: of every episode. costs: of every team over all it played, such as messages per agent and step.
    """

    world: str
    density: str
    n_agents: int
    values: dict[str, list[float]]
    costs: dict[str, list[float]] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))


def digest(value: Any) -> str:
    """Eight letters that stand for a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def slug(text: str) -> str:
    """`text` as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+]+", "_", text).strip("_")


def told(changes: dict[str, Any], before: Any, key: str) -> list[str]:
    """Changes as `key.name=value`, without those that are none; of a part that was exchanged, what is no default."""
    now: dict[str, Any] = conf.plain(before)
    if "_target_" in changes:
        now = {argument.name: argument.default for argument in arguments_of(conf.locate(changes["_target_"]))}
    words = []
    for name, value in changes.items():
        if name == "_target_":
            words.append(f"{key}={value.rpartition('.')[2]}")
        elif isinstance(value, dict):
            words += told(value, now.get(name) or {}, f"{key}.{name}")
        elif name != "_partial_" and (name not in now or now[name] != value):
            words.append(f"{key}.{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words
