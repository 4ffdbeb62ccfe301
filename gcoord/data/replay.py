"""Replay: a time-major ring of steps, from which windows are drawn that never cross its write cursor.

Row t + 1 of the ring is what followed row t, so every observation is stored once and its successor is read from the
next row. An invalid row (the ignored step before a reset) is never the start of a window.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcoord.data.frames import newest, stacked
from gcoord.data.priorities import Priorities, SumTree
from gcoord.data.rows import RowFiles
from gcoord.trajectory import Observation, Step, Trajectory

Device = torch.device | str

SEEN = "seen."
OWN = SEEN + "own"
MEMORY = "memory"
BEGINS = "begins"


class Replay:
    """The last `capacity` frames of B teams of one size.

    Arguments:
        capacity: frames kept, counted over all teams: `capacity // B` rows of B.
        max_bytes: refused when the ring would be larger; None: what the device has available.
        device: where the ring lies and windows are drawn.
        folder: where checkpoints write the rows that are new since the last one, as files that are never changed
            (see `state_dict`); None: a checkpoint holds every row.
        seed: of the ring's own random stream.
        stack: frames that each image `own` holds, the newest in its last channels: that one alone is stored, and those
            before it are read from the rows before. The oldest stack - 1 rows then start no window.
        episodes: windows begin where episodes do, and what comes after an episode's end is marked invalid in them.
        priorities: called with the number of cells and the device, gives the priorities by which windows are drawn;
            None: evenly.
        window: rows of a window, and of what comes before it, where priorities are given.

    Raises ValueError before anything is allocated when the ring cannot fit.
    """

    def __init__(
        self,
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
        if capacity < 1:
            raise ValueError(f"expected a replay of at least one frame (got {capacity})")
        self.episodes, self.window = episodes, window
        self._make_priorities = priorities
        self.priorities: Priorities | None = None
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.device = torch.device(device)
        self.stack = stack
        self.files: RowFiles | None = None
        self.folder = folder
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.num_envs = 0
        self.rows = 0
        self.added = 0  # rows ever added; row r lies in slot r % rows
        self._ring: dict[str, Tensor] = {}
        # Cells (slot * B + team) that may start a window, in the order of time, as a ring with one more cell that
        # takes what is not to be kept; and how many of them came before each row. Drawing a start is then drawing
        # a number between two of these counts: uniform, and without waiting for the device.
        self._starts = torch.empty(0, dtype=torch.long, device=self.device)
        self._before = torch.empty(0, dtype=torch.long, device=self.device)

    def __len__(self) -> int:
        """Frames held."""
        return min(self.added, self.rows) * self.num_envs

    def ready(self, length: int = 1) -> bool:
        """Whether a window of `length` can start somewhere (waits for the device)."""
        if self._startable(length) < 1:
            return False
        low, high = self._window(length)
        return bool(high > low)

    @property
    def folder(self) -> Path | None:
        """Where checkpoints write rows; may be set until the first `state_dict` or `load_state_dict`."""
        return None if self.files is None else self.files.folder

    @folder.setter
    def folder(self, folder: str | os.PathLike[str] | None) -> None:
        if folder is None or self.folder != Path(folder):
            self.files = None if folder is None else RowFiles(Path(folder))

    def committed(self) -> None:
        """Say that the last `state_dict` is in a checkpoint on disk; files it does not need are deleted."""
        if self.files is not None:
            self.files.committed()

    @property
    def nbytes(self) -> int:
        """Bytes that the ring takes, 0 until it is reserved."""
        tree = 0 if self.priorities is None else self.priorities.nbytes
        return tree + sum(tensor.nbytes for tensor in (*self._ring.values(), self._starts, self._before))

    def reserve(self, steps: Step, memory: Tensor | None = None) -> None:
        """Allocate the ring for rows like those of `steps` [T, B] (T may be 0), as the first `add` does by itself.

        Raises ValueError where it exceeds `max_bytes` or what the device has available.
        """
        self._allocate(self._leaves(steps, memory))

    @torch.no_grad()
    def add(self, steps: Step, memory: Tensor | None = None) -> None:
        """Append rows `steps` [T, B] that follow the last one; memory [T, B, N, D] is what each step began with."""
        leaves = self._leaves(steps, memory)
        if not self._ring:
            self._allocate(leaves)
        self._check(leaves)
        total = len(leaves["valid"])
        for first in range(0, total, self.rows):
            block = slice(first, min(first + self.rows, total))
            self._append({name: leaf[block] for name, leaf in leaves.items()})

    @torch.no_grad()
    def cut(self) -> None:
        """Say that what is added next does not follow: the last row becomes the end of a truncated episode."""
        if self.added == 0:
            return
        last = self.added - 1
        self._ring["valid"][last % self.rows] = False
        if self.episodes:
            self._ring[BEGINS][last % self.rows] = False
        self._before[self.added % (self.rows + 1)] = self._before[last % (self.rows + 1)]
        if self.added > 1:
            slot = (last - 1) % self.rows
            self._ring["truncated"][slot] |= self._ring["valid"][slot] & ~self._ring["terminated"][slot]
        if self.files is not None:
            self.files.rewrite_from(self.added - 2)

    @torch.no_grad()
    def sample(self, batch_size: int, length: int = 1, burn_in: int = 0, frames: int = 0) -> Trajectory:
        """Windows of `length` rows and the `burn_in` rows before them, drawn with replacement among those first rows
        that are valid: evenly, or by priority; `frames` have been collected in all, by which weights grow exact.

        Returns steps [length, batch], last and last_key [batch], weight [batch] (ones without priorities), index
        [batch] (the cell of the first row), before [burn_in, batch] where there are such rows and, where it is stored,
        memory [batch, N, D] of the very first row. Rows inside a window may be invalid. Raises ValueError when too few
        rows are held or, on CPU, none of them may start a window (elsewhere the caller asks `ready` once, so that
        drawing never waits for the device).
        """
        total = burn_in + length
        if self._startable(total) < 1:
            raise ValueError(
                f"expected more than {total + self.stack - 1} rows to draw windows of {total} from "
                f"(got {min(self.added, self.rows)}, at most {self.rows} are held)"
            )
        if self.priorities is not None and total != self.window:
            raise ValueError(f"expected windows of {self.window} rows, which have priorities (got {total})")
        low, high = self._window(total)
        if self.device.type == "cpu" and not high > low:
            raise ValueError(f"expected a valid row to start a window of {total} at (got none)")
        if self.priorities is None:
            draw = torch.rand(batch_size, dtype=torch.float64, device=self.device, generator=self.generator)
            offset = (draw * (high - low)).long().clamp(max=high - low - 1)
            index = self._starts[(low + offset) % (len(self._starts) - 1)]  # [batch]
            weight = torch.ones(batch_size, device=self.device)
        else:
            index, weight = self.priorities.draw(batch_size, high - low, frames, self.generator)
        ahead = torch.arange(total + 1, device=self.device).unsqueeze(1) * self.num_envs
        cells = (index + ahead) % (self.rows * self.num_envs)  # [total + 1, batch]
        return self._read(cells, index, weight, burn_in)

    @torch.no_grad()
    def feedback(self, index: Tensor, td_error: Tensor) -> None:
        """How surprising the windows that start at the cells index [n] were, td_error [n]; those of other rings,
        outside this one's cells, are left out."""
        if self.priorities is not None:
            self.priorities.update(index, td_error)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to restore the replay as it is now, whatever is added to this one later.

        With a folder, the rows that are new since the last call are written there as one file, and the state names
        the files and their checksums. Raises OSError when the disk refuses.
        """
        held = min(self.added, self.rows)
        state: dict[str, Any] = {
            "capacity": self.capacity,
            "added": self.added,
            "device": self.device.type,
            "generator": self.generator.get_state(),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
        }
        if self.files is None:
            return {**state, "rows": self._copies(self.added - held, self.added)}
        return {**state, "files": self.files.save(self.added - held, self.added, self._copies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the replay; its random stream continues on the same type of device, and restarts on another.

        Raises ValueError when the state is of another capacity, or a file is absent or damaged.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"expected a replay of capacity={self.capacity:,} (got {state['capacity']:,})")
        if ("files" in state) != (self.files is not None):
            raise ValueError(
                f"expected a replay saved {'without' if self.files is None else 'with'} a folder (got other)"
            )
        self._ring, self.added, self.priorities = {}, 0, None
        if self.files is not None:
            for first, leaves in self.files.load(state["files"], self.device):
                self._restore(first, leaves)
        elif state["rows"]:
            self._restore(state["added"] - len(state["rows"]["valid"]), state["rows"])
        if self.added != state["added"]:
            raise ValueError(f"expected a replay of {state['added']:,} rows (got {self.added:,})")
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"].cpu())

    def _leaves(self, steps: Step, memory: Tensor | None) -> dict[str, Tensor]:
        """The tensors of rows [T, B] by name, and where episodes begin if windows do so there."""
        leaves = _leaves(steps, memory)
        if self.stack > 1:
            leaves[OWN] = newest(leaves[OWN], self.stack)
        if self.episodes:
            valid = leaves["valid"]
            before = torch.zeros_like(valid[:1].any(0))
            if self.added:
                before = self._ring["valid"][(self.added - 1) % self.rows].to(valid.device)
            leaves[BEGINS] = valid & ~torch.cat([before.unsqueeze(0), valid])[: len(valid)]
        return leaves

    def _allocate(self, leaves: dict[str, Tensor]) -> None:
        num_envs = leaves["valid"].shape[1]
        rows = self.capacity // num_envs
        if rows < 2:
            raise ValueError(
                f"expected a replay of at least two rows of {num_envs} teams, {2 * num_envs} frames "
                f"(got {self.capacity})"
            )
        row = sum(leaf.shape[1:].numel() * leaf.element_size() for leaf in leaves.values())
        cells = rows * num_envs
        needed = rows * (row + 8 * num_envs + 8) + 16
        if self._make_priorities is not None:
            needed += SumTree.bytes_of(cells + 1)
        limit = min(available_bytes(self.device), self.max_bytes if self.max_bytes is not None else sys.maxsize)
        if needed > limit:
            raise ValueError(
                f"expected a replay of at most {limit / 2**20:,.1f} MiB, about {limit * num_envs * rows // needed:,} "
                f"frames (got capacity={self.capacity:,} at {needed / rows / num_envs:,.0f} bytes a frame, "
                f"{needed / 2**20:,.1f} MiB)"
            )
        self.num_envs, self.rows, self.added = num_envs, rows, 0
        self._ring = {
            name: torch.zeros(rows, *leaf.shape[1:], dtype=leaf.dtype, device=self.device)
            for name, leaf in leaves.items()
        }
        self._starts = torch.zeros(rows * num_envs + 1, dtype=torch.long, device=self.device)
        self._before = torch.zeros(rows + 1, dtype=torch.long, device=self.device)
        if self._make_priorities is not None:
            self.priorities = self._make_priorities(cells, self.device)

    def _check(self, leaves: dict[str, Tensor]) -> None:
        if leaves.keys() != self._ring.keys():
            raise ValueError(f"expected steps with {sorted(self._ring)} (got {sorted(leaves)})")
        for name, leaf in leaves.items():
            ring = self._ring[name]
            if leaf.shape[1:] != ring.shape[1:] or leaf.dtype != ring.dtype:
                raise ValueError(
                    f"expected {name} of {list(ring.shape[1:])} {ring.dtype} (got {list(leaf.shape[1:])} {leaf.dtype})"
                )

    def _append(self, leaves: dict[str, Tensor]) -> None:
        """Append at most `rows` rows."""
        total = len(leaves["valid"])
        slot = self.added % self.rows
        split = min(total, self.rows - slot)
        for name, leaf in leaves.items():
            self._ring[name][slot : slot + split].copy_(leaf[:split])
            self._ring[name][: total - split].copy_(leaf[split:])
        may = leaves[BEGINS if self.episodes else "valid"].to(self.device)  # [T, B]
        row = self.added + torch.arange(total, device=self.device)
        before = self._before[self.added % (self.rows + 1)]
        self._before[(row + 1) % (self.rows + 1)] = before + may.sum(1).cumsum(0)
        spare = len(self._starts) - 1
        place = torch.where(may, (before + may.flatten().cumsum(0).view_as(may) - 1) % spare, spare)
        self._starts[place] = (row % self.rows).unsqueeze(1) * self.num_envs + torch.arange(
            self.num_envs, device=self.device
        )
        self.added += total
        if self.priorities is not None:
            self._admit(self.priorities, total)

    def _admit(self, priorities: Priorities, total: int) -> None:
        """Of the last `total` rows none may start a window yet, but as many further back now may."""
        fresh = torch.arange(max(self.added - total, 0), self.added, device=self.device) % self.rows
        team = torch.arange(self.num_envs, device=self.device)
        cells = (fresh.unsqueeze(1) * self.num_envs + team).flatten()
        priorities.admit(cells, torch.zeros_like(cells, dtype=torch.bool))
        oldest, end = max(self.added - self.rows, 0) + self.stack - 1, self.added - self.window
        torn = torch.arange(oldest - self.stack + 1, oldest, device=self.device) % self.rows
        cells = (torn.unsqueeze(1) * self.num_envs + team).flatten()
        priorities.admit(cells, torch.zeros_like(cells, dtype=torch.bool))
        whole = torch.arange(max(end - total, oldest), max(end, oldest), device=self.device) % self.rows
        cells = (whole.unsqueeze(1) * self.num_envs + team).flatten()
        priorities.admit(cells, self._ring[BEGINS if self.episodes else "valid"].flatten()[cells])

    def _window(self, length: int) -> tuple[Tensor, Tensor]:
        """Counts of starts before the oldest row and before the first whose window would cross the cursor."""
        oldest = max(self.added - self.rows, 0) + self.stack - 1
        return self._before[oldest % (self.rows + 1)], self._before[(self.added - length) % (self.rows + 1)]

    def _startable(self, length: int) -> int:
        """Rows that may start a window of `length`, the invalid ones counted too."""
        return min(self.added, self.rows) - length - (self.stack - 1)

    def _read(self, cells: Tensor, index: Tensor, weight: Tensor, burn_in: int) -> Trajectory:
        length, batch = len(cells) - 1, len(index)
        steps: dict[str, Any] = {}
        seen: dict[str, Any] = {}
        memory: Any = None
        last_key: Any = None
        for name, ring in self._ring.items():
            flat = ring.flatten(0, 1)
            if name == MEMORY:
                memory = flat[index]
            elif name == OWN and self.stack > 1:
                ring_of = self._ring
                seen["own"] = stacked(ring, ring_of["valid"], ring_of[SEEN + "alive"], cells, self.stack)
            elif name.startswith(SEEN):
                seen[name.removeprefix(SEEN)] = _gather(flat, cells)
            elif name == "key":
                keys = _gather(flat, cells)
                steps["key"], last_key = keys[:-1], keys[-1]
            elif name != BEGINS:
                steps[name] = _gather(flat, cells[:-1])
        if self.episodes:
            done = (steps["terminated"] | steps["truncated"]).cumsum(0) > 0
            steps["valid"] = steps["valid"] & ~torch.cat([torch.zeros_like(done[:1]), done[:-1]])
        observation = Observation(**seen, batch_size=[length + 1, batch])
        rows = Step(seen=observation[:-1], **steps, batch_size=[length, batch])
        return Trajectory(
            steps=rows[burn_in:],
            before=rows[:burn_in] if burn_in else None,
            last=observation[-1],
            last_key=last_key,
            memory=memory,
            weight=weight,
            index=index,
            batch_size=[],
        )

    def _copies(self, first: int, end: int) -> dict[str, Tensor]:
        """Copies of rows first to end, in the order of time."""
        slots = torch.arange(first, end, device=self.device) % max(self.rows, 1)
        return {name: ring[slots] for name, ring in self._ring.items()}

    @torch.no_grad()
    def _restore(self, first: int, leaves: dict[str, Tensor]) -> None:
        """Put rows back that began at row `first`; they take the place of rows restored before from there on."""
        if not self._ring:
            self._allocate(leaves)
        self._check(leaves)
        self.added = first
        self._append(leaves)


def _leaves(steps: Step, memory: Tensor | None) -> dict[str, Tensor]:
    """The tensors of rows [T, B] by name; optional fields that are absent are left out."""
    if len(steps.batch_size) != 2:
        raise ValueError(f"expected steps of batch size [T, B] (got {list(steps.batch_size)})")
    fields = {field.name: getattr(steps, field.name) for field in dataclasses.fields(Step) if field.name != "seen"}
    seen = {SEEN + field.name: getattr(steps.seen, field.name) for field in dataclasses.fields(Observation)}
    return {name: leaf for name, leaf in {**fields, **seen, MEMORY: memory}.items() if leaf is not None}


def _gather(flat: Tensor, cells: Tensor) -> Tensor:
    """flat [cells, ...] at cells [L, batch]; one flat index is what copies whole rows fastest."""
    return flat.index_select(0, cells.flatten()).unflatten(0, cells.shape)


def available_bytes(device: torch.device) -> int:
    """Memory that can be taken now without pushing anything out."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
