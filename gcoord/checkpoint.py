"""States on disk: nested plain values and tensors as one safetensors file and one JSON file; nothing is pickled.

The JSON file names the tensors' file, and replacing it by one rename is what makes a checkpoint current. At every
instant, even after kill -9 or on a full disk, the folder holds the whole previous checkpoint or the whole new one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = "gcoord state"
FORMAT_VERSION = 1
STATE_FILE = "state.json"

Device = torch.device | str


def save_state(folder: str | os.PathLike[str], state: Any) -> None:
    """Write `state` into `folder` as its current checkpoint, whole or not at all.

    Arguments:
        folder: made if absent; files of others in it are left alone.
        state: dicts with str or int keys, lists, tuples, tensors, numpy arrays and scalars, int, float, str, bool
            and None, nested in any way. Tensors come back detached and unshared.

    Raises ValueError for any other type, named with its place, and OSError with one line when the disk refuses;
    the previous checkpoint then stays as it was.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, "state", tensors)
    aside = folder / f"state.new-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        name, digest = write_tensors(folder, "state", tensors)
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "safetensors": safetensors.__version__,
            },
            "tensors": {"file": name, "bytes": (folder / name).stat().st_size, "sha256": digest},
            "state": tree,
        }
        write_synced(aside, signed(document).encode())
        os.replace(aside, folder / STATE_FILE)
        sync_folder(folder)
    except OSError as error:
        if folder.is_dir():
            aside.unlink(missing_ok=True)
            _remove_leftovers(folder)
        raise OSError(f"expected to save a checkpoint in {folder}, the previous one is kept (got: {error})") from error
    _remove_leftovers(folder)


def load_state(folder: str | os.PathLike[str], device: Device = "cpu") -> Any:
    """The state that `save_state` wrote into `folder`, its tensors on `device` (numpy arrays stay numpy arrays).

    Raises ValueError, one line naming the file and what was expected of it, when the checkpoint is missing, foreign,
    truncated, corrupted or of a newer format.
    """
    folder = Path(folder)
    document = _read_document(folder / STATE_FILE)
    # A run that saves meanwhile has deleted the tensors that were current when the JSON file was read.
    while not (folder / document["tensors"]["file"]).is_file():
        newer = _read_document(folder / STATE_FILE)
        if newer == document:
            break
        document = newer
    part = document["tensors"]
    tensors = read_tensors(folder / part["file"], part["sha256"], device)
    return _decode(document["state"], tensors)


def write_tensors(folder: Path, prefix: str, tensors: dict[str, Tensor]) -> tuple[str, str]:
    """Write tensors as one safetensors file in `folder`, forced to disk; returns its name and its sha256.

    It is named by its content, `<prefix>-<start of the sha256>.safetensors`: a new file never takes the place of one
    that a checkpoint points to. Raises OSError when the disk refuses, leaving nothing behind.
    """
    aside = folder / f"{prefix}.new-{os.getpid()}"
    try:
        aside.touch()
        mode = aside.stat().st_mode
        save_file(_unshared(tensors), aside)
        aside.chmod(mode)  # the library's own choice shuts out everyone but the owner
        with aside.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"{prefix}-{digest[:16]}.safetensors"
        os.replace(aside, folder / name)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    return name, digest


def read_tensors(path: Path, sha256: str, device: Device = "cpu") -> dict[str, Tensor]:
    """Tensors that `write_tensors` wrote; raises ValueError naming the file when it is absent or has changed."""
    if not path.is_file():
        raise ValueError(f"expected the tensors' file {path} (got none)")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"expected {path} whole, with sha256 {sha256[:12]}... (got {digest[:12]}..., damaged)")
    return load_file(path, device=str(torch.device(device)))


def rng_state() -> dict[str, Any]:
    """State of the global random streams: torch's (CPU and, once used, every CUDA device), numpy's and Python's."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    legacy = np.random.get_state()  # noqa: NPY002 - worlds draw from this stream
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": legacy, "python": random.getstate()}


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue the streams of `rng_state`; streams of CUDA devices that are not here are left out."""
    torch.set_rng_state(state["torch"].cpu())
    for device, stream in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(stream.cpu(), device)
    np.random.set_state(state["numpy"])  # noqa: NPY002 - worlds draw from this stream
    random.setstate(state["python"])


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON: what JSON lacks becomes an object with one key that names its type."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return {"scalar": _keep(torch.as_tensor(np.array(value)), where, tensors)}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if isinstance(value, dict):
        if unknown := [key for key in value if isinstance(key, bool) or not isinstance(key, str | int)]:
            raise ValueError(f"expected keys that are strings or whole numbers in {where} (got {unknown[0]!r})")
        return {"dict": [[key, _encode(item, f"{where}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{where}.{place}", tensors) for place, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Tensor):
        return {"tensor": _keep(value, where, tensors)}
    if isinstance(value, np.ndarray) and value.dtype.isnative and value.dtype.kind in "biufc":
        return {"array": _keep(torch.as_tensor(np.array(value)), where, tensors)}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise ValueError(f"expected tensors, numbers, strings, lists and dicts in {where} (got a {kind})")


def _keep(tensor: Tensor, where: str, tensors: dict[str, Tensor]) -> str:
    if tensor.is_sparse or tensor.is_quantized or tensor.dtype == torch.complex128:
        raise ValueError(f"expected a dense tensor of a plain dtype in {where} (got {tensor.layout}, {tensor.dtype})")
    name = where
    while name in tensors:
        name += "'"
    tensors[name] = tensor.detach()
    return name


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    return _DECODERS[kind](value, tensors)


_DECODERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "dict": lambda pairs, tensors: {key: _decode(item, tensors) for key, item in pairs},
    "tuple": lambda items, tensors: tuple(_decode(item, tensors) for item in items),
    "float": lambda bits, tensors: struct.unpack(">d", bytes.fromhex(bits))[0],
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda name, tensors: tensors[name].cpu().numpy(),
    "scalar": lambda name, tensors: tensors[name].cpu().numpy()[()],
}


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors contiguous and each with memory of its own, as the file format wants them."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        own[name] = tensor
    return own


def signed(document: dict[str, Any]) -> str:
    """The document as text, its own checksum appended; `read_signed` reads it."""
    digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    return json.dumps({**document, "sha256": digest}) + "\n"


def _read_document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"expected a checkpoint with {path} (got none)")
    return read_signed(path, FORMAT, FORMAT_VERSION)


def read_signed(path: Path, wanted: str, newest: int) -> dict[str, Any]:
    """The document in a file, of the format that is `wanted` and its version; raises ValueError, in one line, for any
    other and where a byte of it has changed."""
    try:
        text = path.read_bytes().decode()
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected {path} to be a whole JSON file (got: {error})") from error
    if not isinstance(document, dict) or document.get("format") != wanted:
        raise ValueError(f"expected {path} to be of format {wanted!r} (got another program's file)")
    version = document.get("format_version")
    if version != newest:
        raise ValueError(f"expected {path} of format_version {newest} (got {version!r})")
    document.pop("sha256", None)
    # Compared as text, so that no changed byte passes, not even one that JSON would not mind.
    if signed(document) != text:
        raise ValueError(f"expected {path} as it was written, by its own checksum (got a changed file)")
    return document


def write_synced(path: Path, content: bytes) -> None:
    """A file with this content, forced to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Forces to disk which files the folder holds."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Delete files of interrupted saves and tensors that the current checkpoint does not name."""
    current = folder / STATE_FILE
    try:
        named = json.loads(current.read_bytes())["tensors"]["file"] if current.is_file() else None
    except (ValueError, KeyError, TypeError):
        return  # a damaged checkpoint is for its reader to report; nothing beside it is deleted
    for path in [*folder.glob("state-*.safetensors"), *folder.glob("state.new-*")]:
        if path.name != named:
            path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place when all went well and is removed when not."""
    path = Path(path)
    aside = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
