"""Who moves the squad that does not learn: at random, by a script, or a trained policy. Loaded in workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcoord.envs.gridworld import Kind, Opponents, Squad
from gcoord.envs.recipe import find_function
from gcoord.envs.scripts import Script, by_kind
from gcoord.spec import Discrete, TeamSpec

NAMES = ("random", "script", "self")


class Random:
    """Draws uniformly among each kind's actions, and looks at nothing."""

    sees = False

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, squad: Squad) -> np.ndarray:
        return (self.rng.random(squad.n) * squad.legal.sum(-1)).astype(np.int64)  # type: ignore[no-any-return]


class Scripted:
    """Acts by a hand-written policy, with a random stream made from the episode's seed."""

    sees = True

    def __init__(self, script: Script) -> None:
        self.script = script

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, squad: Squad) -> np.ndarray:
        return by_kind(self.script, squad.kinds, squad.kind, squad.seen["own"], self.rng, squad.minimap)


class Trained:
    """Acts greedily by the policy of a run folder, one world at a time, so that workers and batches change nothing.

    The policy is found by its name in the process that steps the world: worlds import no networks. Only gcoord's own
    parts are loaded, as the folder may come from anywhere.
    """

    sees = True

    def __init__(self, folder: str) -> None:
        self.policy: Any = find_function("gcoord.policy:load")(folder)
        self.fresh, self.key = True, 0

    def reset(self, seed: int) -> None:
        self.fresh, self.key = True, seed << 20

    def act(self, squad: Squad) -> np.ndarray:
        import torch

        from gcoord.trajectory import Observation

        spec = self.policy.spec
        if self.fresh:
            self.policy.reset(1, squad.n)
            self.fresh = False
        alive = torch.from_numpy(squad.seen["alive"])
        optional: dict[str, Any] = {}
        if spec.available:
            optional["available"] = (torch.from_numpy(squad.legal) & alive[:, None]).unsqueeze(0)
        if spec.hears:
            optional["hears"] = torch.ones(1, squad.n, squad.n, dtype=torch.bool)
        seen = Observation(
            own=torch.from_numpy(squad.seen["own"]).unsqueeze(0),
            alive=alive.unsqueeze(0),
            kind=torch.from_numpy(squad.kind).unsqueeze(0),
            position=torch.from_numpy(squad.seen["position"]).unsqueeze(0),
            **optional,
            batch_size=[1],
        )
        self.key += 1
        return self.policy.act(seen, key=torch.tensor([self.key]))[0].numpy()  # type: ignore[no-any-return]


def make_opponents(name: str, script: str) -> Opponents:
    """`random`, `script` (a function named `package.module:function`), or a run folder."""
    if name == "random":
        return Random()
    return Scripted(find_function(script)) if name == "script" else Trained(name)


def checked(name: str, kinds: Sequence[Kind], own: tuple[int, ...], world: str) -> str:
    """`name`, a run folder as an absolute path; raises ValueError where it is none, or was trained on other bodies."""
    if name in NAMES:
        return name
    path = Path(name) / "policy.json"
    if not path.is_file():
        raise ValueError(f"expected opponents to be random, script, self or a run folder with a policy (got {name!r})")
    spec = TeamSpec.from_dict(json.loads(path.read_text())["spec"])
    wanted = {
        "kinds": tuple(kind.name for kind in kinds),
        "own": own,
        "actions": tuple(Discrete(kind.n_actions) for kind in kinds),
    }
    for key, value in wanted.items():
        if (got := getattr(spec, key)) != value:
            raise ValueError(f"expected opponents in {world} trained with {key} {value} (got {got} in {name})")
    return str(path.parent.resolve())
