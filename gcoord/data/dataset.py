"""Recorded teams on disk: a folder of shards and the manifest that names them.

    manifest.json                 what is recorded, by whom, and the checksum of every file; signed by its own
    shards/n4-0-1a2b3c4d5e6f/     rows of teams of 4, tensordict's memory map (`gcoord.data.shards`)

A shard is written aside, forced to disk and renamed; then the manifest that names it takes the place of the old one by
a rename. A kill at any instant leaves the dataset as it was or as it was to be; what no manifest names is not read, and
is deleted by the next recording.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from gcoord.checkpoint import read_signed, signed, sync_folder, write_synced
from gcoord.data.shards import ShardWriter, open_shard
from gcoord.spec import TeamSpec

FORMAT = "gcoord dataset"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SHARDS = "shards"
_OURS = re.compile(r"n\d+-\d+-[0-9a-f]{12}|new-\d+")


class Shard:
    """Rows of teams of one size, open.

    Attributes: entry, its part of the manifest; spec; leaves, tensors [R, ...] by name, mapped from disk; first [E] and
    length [E] long, the first row and the number of valid rows of every episode.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any], verify: bool = True) -> None:
        self.name, self.entry = str(entry["name"]), entry
        if not _OURS.fullmatch(self.name):
            raise ValueError(f"expected shards of {folder} to be named like n4-0-1a2b3c4d5e6f (got {self.name!r})")
        self.path = folder / SHARDS / self.name
        self.spec = TeamSpec.from_dict(dict(entry["spec"]))
        self.leaves = open_shard(self.path, entry, verify)
        ends = (~self.leaves["valid"]).nonzero().squeeze(-1)
        self.first = torch.cat([ends.new_zeros(1), ends[:-1] + 1])
        self.length = ends - self.first
        if len(ends) != entry["episodes"] or int(ends[-1]) + 1 != entry["rows"] or int(self.length.min()) < 1:
            raise ValueError(f"expected {self.path} with {entry['episodes']} whole episodes (got other rows)")

    @property
    def n_agents(self) -> int:
        return self.spec.n_agents

    @property
    def frames(self) -> int:
        """Environment steps: valid rows."""
        return int(self.length.sum())


class Dataset:
    """Recorded teams, every file checked, nothing read into memory but where episodes begin.

    Arguments:
        folder: what `python -m gcoord.record` wrote.
        verify: hold every file against its checksum; False: against its size alone.

    Attributes: world, its name; env, its configuration; spec, of the teams of the first shard; shards.

    Raises ValueError, one line naming the file, where the manifest or a shard is absent, damaged or of a newer format.
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.world: str = manifest["world"]
        self.env: dict[str, Any] = manifest["env"]
        self.shards = [Shard(self.folder, entry, verify) for entry in manifest["shards"]]
        self.spec = self.shards[0].spec

    @property
    def sizes(self) -> list[int]:
        """Team sizes, each once, smallest first."""
        return sorted({shard.n_agents for shard in self.shards})

    @property
    def frames(self) -> int:
        """Environment steps over all shards."""
        return sum(shard.frames for shard in self.shards)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a dataset's manifest says; raises ValueError, in one line, where there is none or it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"expected a dataset with {path} (got none); record one: python -m gcoord.record out={folder}")
    return read_signed(path, FORMAT, FORMAT_VERSION)


def manifests_of(dataset: str | Iterable[str]) -> list[dict[str, Any]]:
    """The manifests of one folder or of several."""
    return [read_manifest(Path(folder)) for folder in folders_of(dataset)]


def folders_of(dataset: str | Iterable[str]) -> list[str]:
    """One folder or several as a list; raises ValueError for none, or one twice."""
    folders = [dataset] if isinstance(dataset, str) else [str(folder) for folder in dataset]
    if not folders or len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError(f"expected dataset to be a folder or a list of them, each once (got {dataset!r})")
    return folders


def check_append(folder: Path, world: str, env: Mapping[str, Any], spec: TeamSpec) -> list[dict[str, Any]]:
    """The entries of the shards that are there; raises ValueError, in one line, where what is to be recorded does not
    belong beside them, or the folder is no dataset and not empty."""
    if not (folder / MANIFEST).is_file():
        others = {path.name for path in folder.iterdir()} - {SHARDS, ".lock"} if folder.is_dir() else set()
        if others := {name for name in others if not name.startswith(MANIFEST)}:
            raise ValueError(
                f"expected out to be a dataset, or a new or empty folder (got {folder} with {min(others)})"
            )
        return []
    manifest = read_manifest(folder)
    if manifest["world"] != world:
        raise ValueError(f"expected env={manifest['world']}, the world of {folder} (got {world})")
    for name in sorted({*manifest["env"], *env}):
        was, now = manifest["env"].get(name), env.get(name)
        if was != now:
            raise ValueError(f"expected env.{name}={was}, as in {folder} (got {now}); record into another folder")
    recorded = TeamSpec.from_dict(manifest["shards"][0]["spec"])
    if difference := differing(recorded, spec):
        raise ValueError(f"expected teams as in {folder}, {difference}")
    entries: list[dict[str, Any]] = manifest["shards"]
    return entries


def differing(recorded: TeamSpec, spec: TeamSpec) -> str:
    """What differs first of all that does not depend on the team's size, in words; empty where all agrees."""
    was, now = recorded.sizes_any(), spec.sizes_any()
    return next((f"{name}={was[name]} (got {name}={now[name]})" for name in was if was[name] != now[name]), "")


def begin_shard(folder: Path) -> ShardWriter:
    """A writer for a shard of this dataset, in a place of its own. One process at a time may append; what interrupted
    ones left behind is deleted."""
    shards = folder / SHARDS
    named = {entry["name"] for entry in read_manifest(folder)["shards"]} if (folder / MANIFEST).is_file() else set()
    shards.mkdir(parents=True, exist_ok=True)
    for path in shards.iterdir():
        if path.name not in named and _OURS.fullmatch(path.name):
            shutil.rmtree(path)
    return ShardWriter(shards / f"new-{os.getpid()}")


def append(folder: Path, writer: ShardWriter, world: str, env: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Makes what was written a shard of the dataset, whole or not at all; returns its name.

    Arguments:
        about: what its entry says beside its files: `spec` (a TeamSpec's dict), `episodes`, `policy`, `seed`, ...

    Raises OSError when the disk refuses; the dataset is then as it was.
    """
    entries = read_manifest(folder)["shards"] if (folder / MANIFEST).is_file() else []
    aside = folder / f"{MANIFEST}.new"
    try:
        written = writer.finish()
        digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()
        name = f"n{about['spec']['n_agents']}-{len(entries)}-{digest[:12]}"
        os.replace(writer.folder, folder / SHARDS / name)
        sync_folder(folder / SHARDS)
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "world": world,
            "env": dict(env),
            "shards": [*entries, {"name": name, **about, **written}],
        }
        write_synced(aside, signed(document).encode())
        os.replace(aside, folder / MANIFEST)
        sync_folder(folder)
    except OSError as error:
        writer.discard()
        raise OSError(f"expected to record into {folder}, which is as it was before (got: {error})") from error
    return name
