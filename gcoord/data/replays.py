"""Replay of teams of several sizes: one ring for each, every batch from one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcoord.data.priorities import Priorities
from gcoord.data.replay import Device, Replay, available_bytes
from gcoord.trajectory import Step, Trajectory


class Replays:
    """One ring for each team size; every batch holds one size.

    Arguments: as for `Replay`; capacity is divided evenly among the sizes, max_bytes is of all together.
        n_agents: the sizes.
    """

    def __init__(
        self,
        n_agents: Sequence[int],
        capacity: int,
        *,
        max_bytes: int | None = None,
        device: Device = "cpu",
        folder: str | os.PathLike[str] | None = None,
        seed: int = 0,
        stack: int = 1,
        episodes: bool = False,
        priorities: Callable[..., Priorities] | None = None,
        window: int = 1,
    ) -> None:
        if not n_agents or len(set(n_agents)) != len(n_agents):
            raise ValueError(f"expected at least one team size, each once (got {list(n_agents)})")
        # Cells of all rings are numbered together, those of each from a multiple of this on.
        self.share = capacity // len(n_agents)
        self.of_size = {
            n: Replay(
                self.share,
                device=device,
                folder=None if folder is None else Path(folder) / f"n{n}",
                seed=seed + place,
                stack=stack,
                episodes=episodes,
                priorities=priorities,
                window=window,
            )
            for place, n in enumerate(n_agents)
        }
        available = available_bytes(torch.device(device))
        self.max_bytes = available if max_bytes is None else min(max_bytes, available)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Frames held, over all sizes."""
        return sum(len(replay) for replay in self.of_size.values())

    def ready(self, length: int = 1) -> bool:
        """Whether every size can give windows of `length`."""
        return all(replay.ready(length) for replay in self.of_size.values())

    def reserve(self, examples: Iterable[tuple[Step, Tensor | None]]) -> None:
        """Allocate the rings for rows like these, (steps, memory) of each size, as the first `add` of a size does.

        Raises ValueError where they do not fit together.
        """
        for steps, memory in examples:
            self._of(steps).reserve(steps, memory)

    def add(self, steps: Step, memory: Tensor | None = None) -> None:
        """Append rows to the ring of their team size; raises ValueError for a size that has none."""
        self._of(steps).add(steps, memory)

    def cut(self) -> None:
        """Say of every size that what is added next does not follow."""
        for replay in self.of_size.values():
            replay.cut()

    def sample(
        self, batch_size: int, length: int = 1, n_agents: int | None = None, burn_in: int = 0, frames: int = 0
    ) -> Trajectory:
        """Windows of one size: `n_agents`, or one drawn evenly among the sizes that hold enough rows; index [batch]
        tells them from those of other sizes. The other arguments are those of `Replay.sample`."""
        sizes = list(self.of_size)
        if n_agents is None:
            held = [n for n, ring in self.of_size.items() if ring._startable(length + burn_in) > 0]
            if not held:
                raise ValueError(f"expected a team size with more than {length + burn_in} rows (got none)")
            n_agents = held[int(torch.randint(len(held), (), generator=self.generator))]
        batch = self.of_size[n_agents].sample(batch_size, length, burn_in, frames)
        assert batch.index is not None
        batch.index = batch.index + sizes.index(n_agents) * self.share
        return batch

    def feedback(self, index: Tensor, td_error: Tensor) -> None:
        """How surprising the windows of a batch with this index [n] were, td_error [n]."""
        for place, ring in enumerate(self.of_size.values()):
            ring.feedback(index - place * self.share, td_error)

    def state_dict(self) -> dict[str, Any]:
        """State of every ring and of the stream that draws sizes."""
        replays = {n: replay.state_dict() for n, replay in self.of_size.items()}
        return {"replays": replays, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore every ring; raises ValueError for a state of other sizes."""
        if list(state["replays"]) != list(self.of_size):
            raise ValueError(f"expected replays of sizes {list(self.of_size)} (got {list(state['replays'])})")
        self.generator.set_state(state["generator"].cpu())
        for n, replay in self.of_size.items():
            replay.load_state_dict(state["replays"][n])

    def _of(self, steps: Step) -> Replay:
        n = steps.seen.alive.shape[-1]
        if n not in self.of_size:
            raise ValueError(f"expected teams of size {list(self.of_size)} (got {n})")
        replay = self.of_size[n]
        replay.max_bytes = self.max_bytes - sum(other.nbytes for other in self.of_size.values() if other is not replay)
        return replay
