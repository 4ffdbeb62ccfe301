"""A policy that does the opposite of what it learnt: `python experiments/bad_transfer/corrupt.py RUN OUT`.

OUT is a copy of the run whose policy's last layer has the other sign, in its weights, its checkpoints and so in
whatever goes on from it: what was the best action of an agent becomes its worst. Its critic stays right.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

import gcoord
from gcoord.checkpoint import load_state, save_state
from gcoord.policy import DESCRIPTION, save_policy


def negated(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, those of the policy's head but for its spread with the other sign."""
    turned = {name for name in weights if name.startswith("agent.head.") and name.endswith(("weight", "bias"))}
    if not turned:
        raise ValueError(f"expected weights of a policy's head (got {sorted(weights)[:3]})")
    return {name: -value if name in turned else value for name, value in weights.items()}


def corrupt(run: Path, out: Path) -> None:
    """Copies a finished run to `out`, its policy turned round."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("scale", "tensorboard", ".lock"))
    for folder in ("best", "last"):
        path = out / "checkpoints" / folder
        state: dict[str, Any] = load_state(path)
        state["learner"]["module"] = negated(state["learner"]["module"])
        save_state(path, state)
    policy = gcoord.load(run)
    turned = negated({f"agent.{name}": value for name, value in policy.agent.state_dict().items()})
    policy.agent.load_state_dict({name.removeprefix("agent."): value for name, value in turned.items()})
    parts = json.loads((run / DESCRIPTION).read_text())["parts"]
    save_policy(out, policy.agent, parts, policy.spec, policy.trained_on)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    told = parser.parse_args()
    corrupt(told.run, told.out)
