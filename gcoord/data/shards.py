"""One shard of recorded teams: rows of one team size as memory-mapped tensors, written once and never changed.

Rows lie episode after episode. Each episode is its valid rows and one more that is not valid and holds what was seen
after the last step: the row after a valid row is what followed it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.checkpoint import sync_folder
from gcoord.trajectory import Observation, Step

SEEN = "seen."
OWN = SEEN + "own"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)
}


def leaves_of(steps: Step) -> dict[str, Tensor]:
    """The tensors of steps by name, those of the observation as `seen.own`; absent optional fields are left out."""
    fields = {field.name: getattr(steps, field.name) for field in dataclasses.fields(Step) if field.name != "seen"}
    seen = {SEEN + field.name: getattr(steps.seen, field.name) for field in dataclasses.fields(Observation)}
    return {name: leaf for name, leaf in {**fields, **seen}.items() if leaf is not None}


def steps_of(leaves: Mapping[str, Any], batch_size: list[int]) -> Step:
    """The inverse of `leaves_of`."""
    seen = {name.removeprefix(SEEN): leaf for name, leaf in leaves.items() if name.startswith(SEEN)}
    rows = {name: leaf for name, leaf in leaves.items() if not name.startswith(SEEN)}
    return Step(seen=Observation(**seen, batch_size=batch_size), **rows, batch_size=batch_size)


class ShardWriter:
    """Takes rows as they come and makes a shard of them; what it holds in memory does not grow.

    Arguments:
        folder: where the shard is put together; must not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self._raw = folder / "raw"
        self._files: dict[str, BinaryIO] = {}
        self._like: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self._raw.mkdir(parents=True)

    def add(self, leaves: Mapping[str, Tensor]) -> None:
        """Appends rows [R, ...] of the CPU by name. Raises OSError when the disk refuses."""
        like = {name: (leaf.shape[1:], leaf.dtype) for name, leaf in leaves.items()}
        if not self._like:
            self._like = like
            self._files = {name: (self._raw / name).open("wb") for name in like}
        if like != self._like:
            raise ValueError(f"expected rows like those before, {self._like} (got {like})")
        for name, leaf in leaves.items():
            self._files[name].write(leaf.contiguous().numpy().tobytes())
        self.rows += len(next(iter(leaves.values())))

    def finish(self) -> dict[str, Any]:
        """Writes the shard and forces it to disk; returns what `open_shard` needs: rows, leaves and files."""
        if not self.rows:
            raise ValueError("expected at least one row in a shard (got none)")
        self._close()
        nested: dict[str, Any] = {"seen": {}}
        for name, (shape, dtype) in self._like.items():
            raw = _mapped(self._raw / name, torch.Size([self.rows, *shape]), dtype)
            where = nested["seen"] if name.startswith(SEEN) else nested
            where[name.removeprefix(SEEN)] = raw
        TensorDict(nested, batch_size=[self.rows]).memmap(str(self.folder))
        shutil.rmtree(self._raw)
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_dir():
                sync_folder(path)
                continue
            with path.open("rb") as file:
                os.fsync(file.fileno())
            name = path.relative_to(self.folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest_of(path)}
        sync_folder(self.folder)
        leaves = {
            name: {"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
            for name, (shape, dtype) in self._like.items()
        }
        return {"rows": self.rows, "leaves": leaves, "files": files}

    def discard(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(OSError):
            self._close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


def open_shard(folder: Path, entry: Mapping[str, Any], verify: bool = True) -> dict[str, Tensor]:
    """The tensors [R, ...] of a shard by name, mapped from disk (writing to them changes no file).

    Arguments:
        entry: what `ShardWriter.finish` returned.
        verify: hold every file against its checksum, not against its size alone.

    Raises ValueError, one line naming the shard's file, where one is absent, truncated or changed.
    """
    for name, told in entry["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"expected {path}, a part of a recorded shard (got none)")
        if (size := path.stat().st_size) != told["bytes"]:
            raise ValueError(f"expected {path} of {told['bytes']:,} bytes (got {size:,}, damaged)")
        if verify and (digest := digest_of(path)) != told["sha256"]:
            raise ValueError(f"expected {path} whole, with sha256 {told['sha256'][:12]}... (got {digest[:12]}...)")
    leaves = {}
    for name, like in entry["leaves"].items():
        file = f"{name.replace('.', '/')}.memmap"
        if like["dtype"] not in DTYPES or file not in entry["files"]:
            raise ValueError(f"expected {folder / file} with a type among {sorted(DTYPES)} (got {like['dtype']!r})")
        shape, dtype = torch.Size([entry["rows"], *like["shape"]]), DTYPES[like["dtype"]]
        if shape.numel() * dtype.itemsize != entry["files"][file]["bytes"]:
            raise ValueError(f"expected {folder / file} to hold {list(shape)} of {dtype} (got another size)")
        leaves[name] = _mapped(folder / file, shape, dtype)
    return leaves


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapped(path: Path, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=dtype).view(shape)
