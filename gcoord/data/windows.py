"""Windows of recorded rows: drawn evenly, never over an episode's end, read from disk as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gcoord.data.dataset import Shard
from gcoord.data.frames import stacked
from gcoord.data.shards import OWN, SEEN, steps_of
from gcoord.trajectory import Trajectory


class Windows:
    """What teams of one size were recorded to do, over one shard or several.

    A window is rows of one episode. Where it is longer than what is left of the episode, the row after the last step
    (not valid; what was seen then) is repeated; rows before an episode's beginning are its first one, marked invalid.

    Arguments:
        shards: of one team size, with the same fields.

    Raises ValueError where their fields, or the shapes of these, differ.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self.spec = shards[0].spec
        like = [{name: (leaf.shape[1:], leaf.dtype) for name, leaf in shard.leaves.items()} for shard in shards]
        for shard, one in zip(self.shards, like, strict=True):
            if one != like[0]:
                name = next(name for name in {**like[0], **one} if like[0].get(name) != one.get(name))
                raise ValueError(f"expected {shard.path} with {name} as in {shards[0].path} (got another)")
        self._shard = torch.cat([torch.full_like(shard.first, number) for number, shard in enumerate(shards)])
        self._first = torch.cat([shard.first for shard in shards])  # [E], rows of their own shard
        self._length = torch.cat([shard.length for shard in shards])  # [E]
        self._ends = self._length.cumsum(0)

    @property
    def frames(self) -> int:
        """Valid rows."""
        return int(self._ends[-1])

    @property
    def episodes(self) -> int:
        return len(self._length)

    @property
    def longest(self) -> int:
        """Valid rows of the longest episode."""
        return int(self._length.max())

    def draw(self, count: int, generator: torch.Generator, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Where windows begin: `count` valid rows drawn evenly with replacement, or with `whole` episodes.

        Returns the episode and the row in it, [count] long each.
        """
        if whole:
            episode = torch.randint(self.episodes, (count,), generator=generator)
            return episode, torch.zeros_like(episode)
        drawn = torch.randint(self.frames, (count,), generator=generator)
        episode = torch.searchsorted(self._ends, drawn, right=True)
        return episode, drawn - (self._ends - self._length)[episode]

    def read(self, episode: Tensor, row: Tensor, length: int, burn_in: int = 0) -> tuple[Trajectory, int]:
        """The windows of `length` rows that begin at these rows [W] of these episodes [W], with the `burn_in` rows
        before each, and how many valid rows are in them (those before not counted)."""
        first, size = self._first[episode], self._length[episode]
        ahead = torch.arange(-burn_in, length + 1).unsqueeze(1)  # [burn_in + length + 1, 1]
        within = row + ahead
        cells = first + torch.minimum(within.clamp(min=0), size)
        leaves = self._gather(self._shard[episode], cells)
        missing = within < 0
        for name in ("valid", "terminated", "truncated"):
            leaves[name] = leaves[name] & ~missing
        every = steps_of(leaves, list(cells.shape))
        steps, last = every[burn_in:-1], every[-1]
        valid = int((size - row).clamp(max=length).sum())
        trajectory = Trajectory(
            steps=steps, last=last.seen, last_key=last.key, before=every[:burn_in] if burn_in else None, batch_size=[]
        )
        return trajectory, valid

    def _gather(self, of: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """Every leaf at rows cells [L, W] of the shards `of` [W]."""
        columns = [(shard, (of == number).nonzero().squeeze(-1)) for number, shard in enumerate(self.shards)]
        used = [(shard, where) for shard, where in columns if len(where)]
        if len(used) == 1:
            return {name: self._read(used[0][0], name, cells) for name in used[0][0].leaves}
        leaves: dict[str, Tensor] = {}
        for shard, where in used:
            for name in shard.leaves:
                part = self._read(shard, name, cells[:, where])
                if name not in leaves:
                    leaves[name] = part.new_empty(*cells.shape, *part.shape[2:])
                leaves[name][:, where] = part
        return leaves

    def _read(self, shard: Shard, name: str, cells: Tensor) -> Tensor:
        """One leaf at rows cells [L, W]; of a stack of frames the newest alone is recorded."""
        leaf = shard.leaves[name]
        if name == OWN and self.spec.stack > 1:
            valid, alive = shard.leaves["valid"].unsqueeze(1), shard.leaves[SEEN + "alive"].unsqueeze(1)
            return stacked(leaf.unsqueeze(1), valid, alive, cells, self.spec.stack)
        return leaf.index_select(0, cells.flatten()).unflatten(0, cells.shape)
