"""Batches of recorded teams: no world is stepped, what is learnt from lies on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from gcoord.data.dataset import Dataset, Shard, differing, folders_of
from gcoord.data.sources import Source
from gcoord.data.windows import Windows
from gcoord.learners.base import Learner
from gcoord.spec import TeamSpec
from gcoord.trajectory import Trajectory

# Rows that are read together where all are read.
ROWS_AT_ONCE = 10_000


class Offline(Source):
    """Windows drawn evenly from recorded teams; every batch holds teams of one size, drawn by how much there is of it.

    No environment step is taken, so `frames` counts what is learnt from instead: the valid rows of every batch, those
    that are drawn twice counted twice.

    Running statistics of observations, where the policy keeps some, are those of the whole data and are taken once,
    before the first batch.

    Arguments:
        learner: off-policy.
        specs: of the world at the team sizes to learn from; they must be those that were recorded.
        dataset: a folder that `python -m gcoord.record` wrote, or a list of them.
        minibatch: environment steps in a batch, at least one window.
        length: rows in a window; None: what the learner needs, 1 for most, and for a recurrent policy whole episodes.
        burn_in: rows before a window that only warm memory up; windows begin without memory.
        episodes: windows begin where episodes do; as long as the longest one unless `length` says otherwise.
        updates: batches in a round.
        verify: hold every file against its checksum before anything is learnt.
        seed: of the draws.

    Raises ValueError where the data is damaged, is not of that world, or has no teams of a size.
    """

    on_policy = False
    collects = False

    def __init__(
        self,
        learner: Learner,
        specs: Sequence[TeamSpec],
        dataset: str | list[str],
        minibatch: int = 256,
        length: int | None = None,
        burn_in: int = 0,
        episodes: bool = False,
        updates: int = 100,
        verify: bool = True,
        seed: int = 0,
    ) -> None:
        sizes = [spec.n_agents for spec in specs]
        super().__init__(learner, [], seed, sizes)
        if min(minibatch, updates, 1 if length is None else length) < 1:
            raise ValueError(
                f"expected minibatch, length and updates of at least 1 (got {minibatch}, {length}, {updates})"
            )
        if burn_in < 0 or (burn_in and not self.recurrent):
            raise ValueError(f"expected burn_in of at least 0, and 0 without memory (got {burn_in})")
        self.data = [Dataset(folder, verify) for folder in folders_of(dataset)]
        for data in self.data:
            _check_world(data, specs[0])
        self.minibatch, self.burn_in, self.updates = minibatch, burn_in, updates
        self.whole = episodes or (self.recurrent and length is None and not burn_in)
        self._length = length
        self.windows: dict[int, Windows] = {}
        self._use(sizes, [shard for data in self.data for shard in data.shards if shard.n_agents in sizes])

    def _use(self, sizes: Sequence[int], shards: Sequence[Shard]) -> None:
        """Learn from these shards alone."""
        for n in sizes:
            if not (of_size := [shard for shard in shards if shard.n_agents == n]):
                there = sorted({size for data in self.data for size in data.sizes})
                raise ValueError(f"expected n_agents among {there}, the team sizes recorded (got {n})")
            self.windows[n] = Windows(of_size)
        longest = max(windows.longest for windows in self.windows.values())
        needed = self.learner.rows
        self.length = self._length or max(needed, longest if self.whole else 10 if self.recurrent else 1)
        if self.length < needed:
            raise ValueError(f"expected windows of at least {needed} rows (got length={self.length})")

    @property
    def shards(self) -> list[Shard]:
        """Those that batches are drawn from."""
        return [shard for windows in self.windows.values() for shard in windows.shards]

    @property
    def told(self) -> str:
        episodes = sum(windows.episodes for windows in self.windows.values())
        frames = sum(windows.frames for windows in self.windows.values())
        return f"{frames:,} steps of {episodes:,} recorded episodes"

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[Trajectory]:
        device = next(self.learner.parameters()).device
        if self.learner.frames == 0:
            self._observe(device)
        sizes = list(self.windows)
        share = torch.tensor([self.windows[n].frames for n in sizes], dtype=torch.float64)
        count = max(self.minibatch // self.length, 1)
        for _ in range(self.updates):
            n = sizes[int(torch.multinomial(share, 1, generator=self.generator))]
            windows = self.windows[n]
            start = windows.draw(count, self.generator, self.whole)
            batch, frames = windows.read(*start, self.length, self.burn_in)
            self.learner.count(frames, frames * n)
            yield batch.to(device)

    def _observe(self, device: torch.device) -> None:
        """Statistics of all that was recorded, where anything keeps them."""
        if all(body.normaliser is None for body in self.learner.bodies()):
            return
        for windows in self.windows.values():
            longest = windows.longest
            for episode in torch.arange(windows.episodes).split(max(ROWS_AT_ONCE // longest, 1)):
                self.learner.observe(windows.read(episode, torch.zeros_like(episode), longest)[0].to(device))

    def take_figures(self) -> dict[str, float]:
        """None: no episode is played."""
        return {}

    def state_dict(self, failed: bool = False) -> dict[str, Any]:
        """The stream of draws, and what they are drawn from: shards never change, and more may be recorded."""
        return {"generator": self.generator.get_state(), "shards": [shard.name for shard in self.shards]}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Goes on with the same batches; raises ValueError where a shard is no longer there."""
        there = {shard.name: shard for data in self.data for shard in data.shards}
        if lost := [name for name in state["shards"] if name not in there]:
            raise ValueError(f"expected the recorded shard {lost[0]}, which was learnt from (got none of that name)")
        self._use(list(self.windows), [there[name] for name in state["shards"]])
        self.generator.set_state(state["generator"].cpu())
        return True


def _check_world(data: Dataset, spec: TeamSpec) -> None:
    """Raises ValueError unless the world is the one that was recorded, and its teams see and act alike."""
    if data.world != spec.world:
        raise ValueError(f"expected env={data.world}, the world of {data.folder} (got {spec.world})")
    if difference := differing(data.spec, spec):
        raise ValueError(f"expected the world as in {data.folder}, {difference}")
