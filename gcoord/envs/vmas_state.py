"""The state of a VMAS simulator as plain tensors, copied and put back whole or by rows; and its own random streams."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Rewritten by every simulation step, or no state at all.
_SKIPPED = frozenset({"forces_dict", "torques_dict", "entity_index_map", "viewer"})
_OPAQUE = (type, ModuleType, FunctionType, MethodType, Enum, torch.device, torch.dtype, str, bytes)


class Leaf(NamedTuple):
    """One value of a simulator's state: `holder[key]` is where it lives, `path` is its name in every instance. `link`
    is the path of the object it points to where it is no value but one of the world's bodies (an agent's goal)."""

    path: str
    holder: Any
    key: Any
    link: str = ""

    @property
    def value(self) -> Any:
        return self.holder[self.key]


def leaves(roots: dict[str, Any]) -> Iterator[Leaf]:
    """Tensors, numbers and links reachable from `roots`: root by root and breadth first, so that a shortcut that
    appears later (a scenario that remembers one of the world's bodies) renames nothing."""
    visited: dict[int, str] = {}
    for name, root in roots.items():
        yield from _leaves_of(name, root, visited)


def _leaves_of(name: str, root: Any, visited: dict[int, str]) -> Iterator[Leaf]:
    queue: deque[tuple[str, Any]] = deque([(name, root)])
    visited.setdefault(id(root), name)
    while queue:
        prefix, node = queue.popleft()
        holder = node if isinstance(node, dict | list | tuple) else node.__dict__
        settable = not isinstance(holder, tuple)
        for number, (key, value) in enumerate(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if key in _SKIPPED or value is None or isinstance(value, _OPAQUE):
                continue
            path = f"{prefix}.{key if isinstance(key, str) else number}"
            if isinstance(value, Tensor | bool | int | float):
                # Tables by object rather than by name are caches.
                if settable and isinstance(key, str | int):
                    yield Leaf(path, holder, key)
            elif isinstance(value, dict | list | tuple) or hasattr(value, "__dict__"):
                link = visited.setdefault(id(value), path)
                if link == path:
                    queue.append((path, value))
                elif settable and isinstance(key, str) and not isinstance(value, dict | list | tuple):
                    yield Leaf(path, holder, key, link)


class Link(NamedTuple):
    """A saved link: the path of the object that an attribute points to."""

    path: str


def snapshot(roots: dict[str, Any]) -> dict[str, Any]:
    """Copies of all leaves by path."""
    return {leaf.path: Link(leaf.link) if leaf.link else _copy(leaf.value) for leaf in leaves(roots)}


def restore(roots: dict[str, Any], saved: dict[str, Any]) -> None:
    """Put copies of saved leaves back; values that did not exist then stay, attributes that do not exist yet are made.

    Raises ValueError where a path leads nowhere.
    """
    for path, value in saved.items():
        above, _, name = path.rpartition(".")
        node = _find(roots, above)
        holder = node if isinstance(node, dict | list) else node.__dict__
        key = int(name) if isinstance(holder, list) else _key(holder, name)
        holder[key] = _find(roots, value.path) if isinstance(value, Link) else _copy(value)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _key(holder: dict[Any, Any], name: str) -> Any:
    """Keys that are no strings are named by their place."""
    return name if name in holder or not name.isdigit() else list(holder)[int(name)]


def _find(roots: dict[str, Any], path: str) -> Any:
    node: Any = roots
    for name in path.split("."):
        try:
            if isinstance(node, list | tuple):
                node = node[int(name)]
            else:
                holder = node if isinstance(node, dict) else node.__dict__
                node = holder[_key(holder, name)]
        except (KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"expected the state of the same world (got '{path}', which is not part of it)") from error
    return node


def _differs(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors differ anywhere, NaN being equal to NaN."""
    return bool(((x != y) & ((x == x) | (y == y))).any())


class Layout:
    """Which dimension of each value counts the teams: the one in which a world of one team differs."""

    def __init__(self, single: dict[str, Any]) -> None:
        self._shapes = {path: value.shape for path, value in single.items() if isinstance(value, Tensor)}

    def dim(self, path: str, value: Any, size: int) -> int | None:
        """None: not one value for each of `size` teams. What a single team did not have yet has them first."""
        if not isinstance(value, Tensor):
            return None
        single = self._shapes.get(path, (1, *value.shape[1:]))
        if len(single) != value.ndim:
            return None
        different = [d for d in range(value.ndim) if value.shape[d] != single[d]]
        return different[0] if len(different) == 1 and value.shape[different[0]] == size else None


class Pool:
    """Initial states waiting to be used: what a reset left in each of B rows, handed out a few rows at a time.

    A simulator that only knows how to reset everything pays that once for B restarts. Rows are independent draws, so
    any row may start in any place. What a reset leaves alone (a constant of each row) is no part of the pool.
    """

    def __init__(
        self, roots: dict[str, Any], rows: dict[str, Tensor], layout: Layout, size: int, cursor: int = 0
    ) -> None:
        self.cursor, self.rows, self.size = cursor, rows, size
        places = {leaf.path: leaf for leaf in leaves(roots) if leaf.path in rows and not leaf.link}
        if missing := sorted(set(rows) - set(places)):
            raise ValueError(f"expected the state of the same world (got '{missing[0]}', which is not part of it)")
        # Values of one shape are written together: a few operations per restart, however many entities there are.
        grouped: dict[tuple[Any, ...], list[Leaf]] = {}
        for path, leaf in places.items():
            dim = layout.dim(path, rows[path], size)
            grouped.setdefault((dim, rows[path].dtype, *rows[path].shape), []).append(leaf)
        self._groups = [
            (dim, group, torch.stack([rows[leaf.path] for leaf in group]).movedim(dim + 1, 1))
            for (dim, *_), group in grouped.items()
        ]

    @classmethod
    def fill(cls, roots: dict[str, Any], layout: Layout, size: int, reset: Callable[[], None]) -> Pool:
        """Reset the simulator, keep what came out, and put everything back as it was."""
        before = snapshot(roots)
        reset()
        rows = {}
        for path, after in snapshot(roots).items():
            if (dim := layout.dim(path, after, size)) is None:
                continue
            old = before.get(path)
            moved = not isinstance(old, Tensor) or old.shape != after.shape or _differs(old, after)
            if moved or not _differs(after, after.narrow(dim, 0, 1).expand_as(after)):
                rows[path] = after
        restore(roots, before)
        return cls(roots, rows, layout, size)

    @property
    def left(self) -> int:
        """Rows not handed out yet."""
        return self.size - self.cursor

    def take(self, where: Tensor) -> None:
        """Start the rows `where` [k] (numbers) from the next k states; needs `left >= k`."""
        fresh = slice(self.cursor, self.cursor + len(where))
        for dim, group, states in self._groups:
            merged = torch.stack([leaf.value for leaf in group])  # [leaves, B, ...], or B further on
            merged.movedim(dim + 1, 1)[:, where] = states[:, fresh]
            for leaf, value in zip(group, merged.unbind(0), strict=True):
                leaf.holder[leaf.key] = value
        self.cursor += len(where)


class Streams:
    """Random streams of one simulator: `with streams:` puts them in place of the process's own.

    Arguments:
        device: torch's streams of the CPU and of this device are the simulator's own.
        others: Python's and NumPy's too (70 times as slow to exchange, so only for code that may draw from them).
    """

    def __init__(self, device: torch.device, others: bool) -> None:
        self._device = device if device.type == "cuda" else None
        self._others = others
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start all streams anew."""
        self._torch = torch.Generator().manual_seed(seed).get_state()
        if self._device is not None:
            self._cuda = torch.Generator(self._device).manual_seed(seed).get_state()
        if self._others:
            self._python = random.Random(seed).getstate()
            self._numpy: Any = np.random.RandomState(seed % 2**32).get_state(legacy=True)

    def _exchange(self) -> None:
        self._torch, outside = torch.default_generator.get_state(), self._torch
        torch.default_generator.set_state(outside)
        if self._device is not None:
            self._cuda, outside = torch.cuda.get_rng_state(self._device), self._cuda
            torch.cuda.set_rng_state(outside, self._device)
        if self._others:
            self._python, python = random.getstate(), self._python
            random.setstate(python)
            self._numpy, numpy = np.random.get_state(), self._numpy  # noqa: NPY002
            np.random.set_state(numpy)  # noqa: NPY002

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(self, *error: object) -> None:
        self._exchange()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"torch": self._torch.clone()}
        if self._device is not None:
            state["cuda"] = self._cuda.clone()
        if self._others:
            version, words, gauss = self._python
            state["python"] = {"version": version, "words": torch.tensor(words)} | (
                {} if gauss is None else {"gauss": gauss}
            )
            name, keys, place, has_gauss, cached = self._numpy
            words = torch.from_numpy(np.asarray(keys, dtype=np.int64))
            state["numpy"] = {"name": name, "keys": words, "place": place, "has_gauss": has_gauss, "cached": cached}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._torch = state["torch"].clone()
        if self._device is not None:
            self._cuda = state["cuda"].clone()
        if self._others:
            python, numpy = state["python"], state["numpy"]
            self._python = (python["version"], tuple(python["words"].tolist()), python.get("gauss"))
            keys = numpy["keys"].numpy().astype(np.uint32)
            self._numpy = (numpy["name"], keys, numpy["place"], numpy["has_gauss"], numpy["cached"])
