"""From every agent's value to the team's, at any team size: one class for each paper's way of mixing."""

from __future__ import annotations

from gcoord.models.mixers.attentive import Attentive
from gcoord.models.mixers.base import Mixed, Mixer, Utilities
from gcoord.models.mixers.duplex import Duplex
from gcoord.models.mixers.joint import Joint
from gcoord.models.mixers.monotonic import Monotonic, MonotonicOfN
from gcoord.models.mixers.shapley import Shapley
from gcoord.models.mixers.sums import Each, Sum

__all__ = [
    "Attentive",
    "Duplex",
    "Each",
    "Joint",
    "Mixed",
    "Mixer",
    "Monotonic",
    "MonotonicOfN",
    "Shapley",
    "Sum",
    "Utilities",
]
