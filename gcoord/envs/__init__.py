"""Worlds: batches of teams behind one protocol. What is named here is loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["TeamEnv", "check_team_env"]

if TYPE_CHECKING:
    from gcoord.envs.conformance import check_team_env
    from gcoord.envs.team import TeamEnv

_homes = {"TeamEnv": "gcoord.envs.team", "check_team_env": "gcoord.envs.conformance"}


def __getattr__(name: str) -> Any:
    # Lazily, so that worker processes that step worlds never pay for importing torch.
    if name in _homes:
        return getattr(importlib.import_module(_homes[name]), name)
    raise AttributeError(f"module 'gcoord.envs' has no attribute {name!r}")
