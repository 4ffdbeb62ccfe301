"""Rows of a replay on disk: files that are written once and never changed, so that a checkpoint is a list of names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcoord.checkpoint import read_tensors, write_tensors

Device = torch.device | str


class RowFiles:
    """What checkpoints hold of a replay's rows, each file a run of rows.

    Files are deleted by `committed` alone, when the checkpoint that no longer names them is on disk: however many saves
    fail before, the last good checkpoint's files stay in place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[dict[str, Any]] = []
        self._written = 0

    def rewrite_from(self, row: int) -> None:
        """Say that rows from `row` on have changed since they were saved."""
        self._written = min(self._written, max(row, 0))

    def save(self, oldest: int, end: int, rows: Callable[[int, int], dict[str, Tensor]]) -> list[dict[str, Any]]:
        """Write what is new of rows oldest to end, read by `rows(first, end)`; returns the list of files to save.

        Raises OSError when the disk refuses; the list saved before then stays good.
        """
        first = max(self._written, oldest)
        files = [file for file in self._files if file["end"] > oldest]
        self.folder.mkdir(parents=True, exist_ok=True)
        if end > first:
            try:
                name, digest = write_tensors(self.folder, f"rows-{first}-{end}", rows(first, end))
            except OSError as error:
                raise OSError(f"expected to save replay rows in {self.folder} (got: {error})") from error
            files.append({"name": name, "first": first, "end": end, "sha256": digest})
        self._files, self._written = files, end
        return [dict(file) for file in files]

    def committed(self) -> None:
        """Say that the list saved last is in a checkpoint on disk; deletes what it does not name."""
        needed = {file["name"] for file in self._files}
        for path in self.folder.glob("rows-*"):
            if path.name not in needed:
                path.unlink()

    def load(self, files: list[dict[str, Any]], device: Device) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """First row and tensors of each saved file, in the order in which they are to be put back.

        Raises ValueError naming the file that is absent or damaged.
        """
        for file in files:
            yield file["first"], read_tensors(self.folder / file["name"], file["sha256"], device)
        self._files = [dict(file) for file in files]
        self._written = max((file["end"] for file in files), default=0)
