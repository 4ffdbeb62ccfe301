"""No mixing, or a plain sum: IQL and VDN."""

from __future__ import annotations

from torch import Tensor

from gcoord.models.mixers.base import Mixed, Mixer, Reduce, Utilities, checked, total_of


class Each(Mixer):
    """No mixing: every agent learns from its own value (independent Q-learning), 0 for the dead.

    Arguments:
        dim: features of a node, which it does not read.
    """

    per_agent = True

    def __init__(self, dim: int = 0) -> None:
        super().__init__()

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_i [*, N] at the chosen actions."""
        return Mixed(utilities.chosen())


class Sum(Mixer):
    """Value decomposition: Q_tot = sum_i Q_i over the living (VDN, https://arxiv.org/abs/1706.05296).

    Arguments:
        reduce: `sum`, the paper's, or `mean`, for a team reward that does not grow with the number of agents.
        dim: features of a node, which it does not read.
    """

    def __init__(self, reduce: Reduce = "sum", dim: int = 0) -> None:
        super().__init__()
        self.reduce = checked(reduce)

    def forward(self, utilities: Utilities, key: Tensor | None = None) -> Mixed:
        """Q_tot [*]."""
        return Mixed(total_of(utilities.chosen(), utilities.alive, self.reduce))
