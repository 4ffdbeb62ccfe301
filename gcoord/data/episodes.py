"""Whole episodes, each learnt from once: what Monte Carlo returns need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch

from gcoord.data.collect import Collector
from gcoord.data.sources import Rollouts, columns_of, flat
from gcoord.learners.base import Learner
from gcoord.trajectory import Trajectory


class WholeEpisodes(Rollouts):
    """One whole episode of every team a round, in one batch for each team size.

    Every team starts anew with the round and is followed until its episode ends, however long the others' last, so
    short and long episodes count alike; what a team does after its end is not learnt from. Frames count what was
    stepped.

    Arguments:
        learner, collectors, seed: as in `Rollouts`.
        steps: rows collected between two looks at whether all have ended.
        limit: rows after which an episode has to be over. Raises RuntimeError where it is not.
    """

    def __init__(
        self, learner: Learner, collectors: list[Collector], steps: int = 25, limit: int = 10_000, seed: int = 0
    ) -> None:
        super().__init__(learner, collectors, steps=steps, epochs=1, minibatch=steps, seed=seed)
        self.limit = limit

    def __len__(self) -> int:
        return len(self.of_a_round)

    def __iter__(self) -> Iterator[Trajectory]:
        self.end_round()
        self.begin_round()
        for collector in self.playing:
            collector.restart()
        self._fresh = self._whole()
        for trajectory in map(self.learner.prepare, self._fresh):
            if self.recurrent:
                yield columns_of(trajectory, torch.arange(trajectory.steps.batch_size[1]))
            else:
                rows = flat(trajectory)
                yield columns_of(rows, rows.steps.valid[0].nonzero().squeeze(-1))

    def _whole(self) -> list[Trajectory]:
        """Collects until every team's first episode is over; later rows are no longer valid."""
        parts = [[part] for part in self.collect(self.steps)]
        while not all(bool(over(pieces).any(0).all()) for pieces in parts):
            if len(parts[0]) * self.steps >= self.limit:
                world = self.collectors[0].spec.world
                raise RuntimeError(f"expected episodes of {world} to end within {self.limit} rows (set env.max_steps)")
            for pieces, part in zip(parts, self.collect(self.steps), strict=True):
                pieces.append(part)
        return [joined(pieces) for pieces in parts]


def over(pieces: list[Trajectory]) -> torch.Tensor:
    """[T, B] bool: rows with which an episode ends."""
    return torch.cat([piece.steps.terminated | piece.steps.truncated for piece in pieces])


def joined(pieces: list[Trajectory]) -> Trajectory:
    """Consecutive trajectories as one, in which what follows a team's first end is not valid."""
    ends = over(pieces)
    before = ends.cumsum(0) - ends.long() == 0
    steps = cast(Any, torch.cat([cast(Any, piece.steps) for piece in pieces]))
    steps.valid = steps.valid & before
    steps.terminated, steps.truncated = steps.terminated & before, steps.truncated & before
    last = pieces[-1]
    return Trajectory(steps=steps, last=last.last, last_key=last.last_key, memory=pieces[0].memory, batch_size=[])
