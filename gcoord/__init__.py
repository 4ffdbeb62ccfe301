"""gcoord: teams that learn small and work large.

`import gcoord` loads no environment, no Lightning and no Hydra; what is named here is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Policy", "TeamSpec", "__version__", "load", "make_env"]

if TYPE_CHECKING:
    from gcoord.conf import make_env
    from gcoord.policy import Policy, load
    from gcoord.spec import TeamSpec

_homes = {
    "load": "gcoord.policy",
    "Policy": "gcoord.policy",
    "make_env": "gcoord.conf",
    "TeamSpec": "gcoord.spec",
}


def __getattr__(name: str) -> Any:
    if name in _homes:
        return getattr(importlib.import_module(_homes[name]), name)
    raise AttributeError(f"module 'gcoord' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
