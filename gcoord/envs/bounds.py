"""What actions a team's slots take: checked and clipped before a world sees them. NumPy only: workers import this."""

from __future__ import annotations

import numpy as np

from gcoord.envs.spaces import Layout
from gcoord.spec import Discrete, TeamSpec


class Bounds:
    """The bounds of every slot's actions.

    low and high [N, A], NaN where a slot has no such component; whole [N]: whose column 0 is a number.
    """

    def __init__(self, spec: TeamSpec, layout: Layout) -> None:
        self.spec, self.layout = spec, layout
        self.low = np.full((spec.n_agents, spec.n_actions), np.nan, np.float32)
        self.high = self.low.copy()
        self.whole = np.array([isinstance(spec.actions[k], Discrete) for k in layout.kind])
        for i, k in enumerate(layout.kind):
            space = spec.actions[k]
            if isinstance(space, Discrete):
                self.low[i, 0], self.high[i, 0] = 0, space.n - 1
            else:
                self.low[i, : space.n], self.high[i, : space.n] = space.low, space.high

    def within(self, given: np.ndarray, read: np.ndarray, first: int = 0) -> np.ndarray:
        """Actions as worlds get them: given [*, N] whole or [*, N, A] float, clipped to boxes where `read` [*, N].

        Raises ValueError for a number that is none of an agent's, or NaN; environments are counted from `first` on.
        """
        if self.spec.discrete:
            wrong = ((given < 0) | (given > self.high[..., 0])) & read
        else:
            # Column 0 holds the number of a discrete action; a box clips, and reads no column beyond its own.
            number = given[..., 0]
            outside = (number < 0) | (number > self.high[..., 0]) | (number != np.floor(number))
            used = np.isnan(given) & ~np.isnan(self.low)
            wrong = ((outside & self.whole) | used.any(-1)) & read
        if wrong.any():
            *_, b, i = place = tuple(map(int, np.argwhere(wrong)[0]))
            space, name = self.spec.actions[self.layout.kind[i]], self.layout.names[i]
            raise ValueError(
                f"expected an action in {space} (got {given[place].tolist()} for agent {name!r} of environment "
                f"{first + b})"
            )
        if self.spec.discrete:
            return given
        clipped: np.ndarray = np.where(
            read[..., None] & ~np.isnan(self.low), np.clip(given, self.low, self.high), np.float32(0)
        )
        return clipped
