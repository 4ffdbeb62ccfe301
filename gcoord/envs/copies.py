"""Copies of a PettingZoo world, stepped into rows of shared arrays: what runs in a worker, or in-process.

NumPy only: workers import this without torch.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.random import get_bit_generator, set_bit_generator  # type: ignore[attr-defined]

from gcoord.envs.recipe import Recipe, find_function, make_world
from gcoord.envs.spaces import Layout

Seen = Mapping[str, Any]
Fields = dict[str, tuple[tuple[int, ...], str]]
Row = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class WorldError(RuntimeError):
    """A world that failed, or reported what cannot be used; its message says where, in one line."""


def one_line(error: BaseException) -> str:
    """An error's type and message without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Copy:
    """One copy of a world: resets, steps and writes its row of the shared arrays."""

    def __init__(self, recipe: Recipe, layout: Layout, row: Row, index: int) -> None:
        self.recipe, self.layout, self.row, self.index = recipe, layout, row, index
        self.positions = find_function(recipe.positions) if recipe.positions else None
        self.entities = find_function(recipe.entities) if recipe.entities else None
        self.metrics = find_function(recipe.metrics) if recipe.metrics else None
        self.hears = find_function(recipe.hears) if recipe.hears else None
        self.bits, self.python_state = np.random.MT19937(0), random.Random(0).getstate()
        self.senses = [layout.senses[k] for k in layout.kind]
        self.acts = [layout.acts[k] for k in layout.kind]
        # Numbers that the world takes as they are, or from its own first one on, need no look at each.
        self.starts = [act.start for act in self.acts]
        self.numbered = row["action"].ndim == 1 and not any(act.grid for act in self.acts)
        # What has not begun is over: its first step resets it.
        self.seed, self.steps, self.done = -1, 0, True
        with self._own_randomness():
            self.env = make_world(recipe)

    def reset(self, seed: int) -> None:
        """Starts the episode of a seed."""
        # Worlds that draw from the global streams get streams of their own, so that copies never meet.
        self.bits, self.python_state = np.random.MT19937(seed), random.Random(seed).getstate()
        self.seed, self.steps, self.done = seed, 0, False
        row = self.row
        row["reward"][:] = 0
        row["terminated"][()] = row["truncated"][()] = row["valid"][()] = False
        row["metrics"][:] = 0
        with self._named(), self._own_randomness():
            self._begin()

    def step(self) -> None:
        """Acts for one step, or resets where the episode is over."""
        if self.done:
            self.reset(int(self.row["next_seed"]))
            return
        with self._named(), self._own_randomness():
            self._advance()

    def replay(self, seed: int, actions: np.ndarray) -> None:
        """Goes again through an episode's first steps; actions [t, N, ...]."""
        self.reset(seed)
        for action in actions:
            self.row["action"][...] = action
            self.step()

    def picture(self) -> tuple[Any, Any]:
        """The world as it draws itself, and what that shows; twice None where it does not."""
        if self.recipe.picture is None:
            return None, None
        with self._own_randomness():
            image, extent = find_function(self.recipe.picture)(self.env)
        return (None, None) if image is None else (np.ascontiguousarray(image, np.uint8), extent)

    def close(self) -> None:
        """Closes the world."""
        self.env.close()

    def _begin(self) -> None:
        row = self.row
        if self.recipe.anew:
            self.env.close()
            self.env = make_world(self.recipe)
        observations, infos = self.env.reset(seed=self.seed)
        present = set(self.env.agents)
        self._refuse_strangers(present)
        alive = [name in present for name in self.layout.names]
        if not any(alive):
            raise WorldError("expected agents after a reset (got none: the episode is over before it began)")
        row["alive"][:] = alive
        row["own"][:] = 0
        if "position" in row:
            row["position"][:] = 0
        self._see(observations, infos, alive, alive)

    def _advance(self) -> None:
        row, names = self.row, self.layout.names
        before = row["alive"].tolist()
        action = row["action"]
        if self.numbered:
            numbers = zip(names, action.tolist(), self.starts, before, strict=True)
            told: dict[str, Any] = {name: number + start for name, number, start, lives in numbers if lives}
        else:
            told = {name: self.acts[i].read(action[i]) for i, name in enumerate(names) if before[i]}
        observations, rewards, terminations, truncations, infos = self.env.step(told)
        self.steps += 1
        present = set(self.env.agents)
        self._refuse_strangers(present)
        row["reward"][:] = [rewards.get(name, 0.0) if lived else 0.0 for name, lived in zip(names, before, strict=True)]
        if not np.isfinite(row["reward"]).all():
            i = int(np.flatnonzero(~np.isfinite(row["reward"]))[0])
            raise WorldError(f"expected finite rewards (got {row['reward'][i]} for agent {names[i]!r})")
        ended = [bool(terminations.get(name, False)) for name in names]
        cut = [bool(truncations.get(name, False)) and not end for name, end in zip(names, ended, strict=True)]
        after = [name in present and not ended[i] and not cut[i] for i, name in enumerate(names)]
        if not self.recipe.rejoins and any(now and not lived for now, lived in zip(after, before, strict=True)):
            i = next(i for i, now in enumerate(after) if now and not before[i])
            raise WorldError(
                f"expected the dead to stay dead (got agent {names[i]!r} back; say rejoins=true if it may)"
            )
        over = not any(after)
        if over:
            # Who was truncated is alive in the last observation, to be bootstrapped from; a team that ends by
            # terminating together is shown as it was, for nothing is bootstrapped there.
            truncated = any(lived and stopped for lived, stopped in zip(before, cut, strict=True))
            after = [
                lived and name in observations and (cut[i] or not truncated)
                for i, (name, lived) in enumerate(zip(names, before, strict=True))
            ]
        else:
            truncated = self.recipe.max_steps is not None and self.steps >= self.recipe.max_steps
        self.done = over or truncated
        row["terminated"][()], row["truncated"][()], row["valid"][()] = over and not truncated, truncated, True
        row["alive"][:] = after
        for i, (lived, lives) in enumerate(zip(before, after, strict=True)):
            if lived and not lives:
                row["own"][i] = 0
                if "position" in row:
                    row["position"][i] = 0
        self._see(observations, infos, after, before)
        if self.metrics is not None:
            found = self.metrics(self.env)
            row["metrics"][:] = [found[name] for name in self.recipe.reductions]

    def _see(
        self, observations: Mapping[str, Any], infos: Mapping[str, Any], alive: list[bool], had: list[bool]
    ) -> None:
        """Writes what the living sense; `had` are those who have a position from before."""
        row, names = self.row, self.layout.names
        own = row["own"]
        for i, name in enumerate(names):
            if alive[i]:
                if name not in observations:
                    raise WorldError(f"expected an observation of every living agent (got none of {name!r})")
                raw = observations[name]
                sense = self.senses[i]
                sense.write(own[i], raw["observation"] if sense.masked else raw)
        self._require_finite("own", "observations")
        if "available" in row:
            self._see_available(observations, infos, alive)
        if self.positions is not None:
            found = self.positions(self.env)
            for i, name in enumerate(names):
                if alive[i]:
                    if name in found:
                        row["position"][i] = found[name]
                    elif not (self.done and had[i]):
                        raise WorldError(f"expected a position of every living agent (got none of {name!r})")
            self._require_finite("position", "positions")
        if self.entities is not None:
            self._see_entities(self.entities(self.env))
        if self.hears is not None:
            row["hears"][...] = self.hears(self.env)

    def _see_available(self, observations: Seen, infos: Seen, alive: list[bool]) -> None:
        available = self.row["available"]
        available[:] = False
        for i, name in enumerate(self.layout.names):
            if not alive[i]:
                continue
            size = self.acts[i].space.n
            source = observations[name] if self.senses[i].masked else infos.get(name, {})
            available[i, :size] = source.get("action_mask", True)
            if not available[i].any():
                raise WorldError(f"expected a legal action for every living agent (got none for {name!r})")

    def _see_entities(self, found: tuple[Any, ...]) -> None:
        row = self.row
        for name, value in zip(("entities", "entity_position", "entity_present"), (*found, True)[:3], strict=False):
            array = np.asarray(value)
            if name != "entity_present" and array.shape != row[name].shape:
                raise WorldError(f"expected {name} of shape {row[name].shape} (got {array.shape})")
            row[name][...] = array
        if not (np.isfinite(row["entities"]).all() and np.isfinite(row["entity_position"]).all()):
            raise WorldError("expected finite entities (got NaN or infinity)")

    def _require_finite(self, name: str, what: str) -> None:
        values = self.row[name]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            i = int(np.argwhere(~np.isfinite(values))[0][0])
            bad = values[i][~np.isfinite(values[i])][0]
            raise WorldError(f"expected finite {what} (got {bad} for agent {self.layout.names[i]!r})")

    def _refuse_strangers(self, present: set[str]) -> None:
        if strangers := present.difference(self.layout.names):
            raise WorldError(f"expected agents among possible_agents (got {sorted(map(str, strangers))[0]!r} too)")

    def _own_randomness(self) -> contextlib.AbstractContextManager[None]:
        """Inside, Python's and NumPy's global streams are this copy's; the caller restores its own."""
        return self._exchanged()

    @contextlib.contextmanager
    def _exchanged(self) -> Iterator[None]:
        set_bit_generator(self.bits)
        random.setstate(self.python_state)
        try:
            yield
        finally:
            self.python_state = random.getstate()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Inside, an error is raised again as one line that says where it came from."""
        try:
            yield
        except Exception as error:
            where = f"at step {self.steps} of environment {self.index}, episode seed {self.seed}"
            said = str(error) if isinstance(error, WorldError) else f"{self.recipe.maker} raised {one_line(error)}"
            raise WorldError(f"{said} {where}") from error


class ArrayWorld(Protocol):
    """A world that reads and writes whole arrays (`Recipe.arrays`): nothing is done agent by agent.

    layout: its slots. shapes: of position [N, P], hears [N, N] and so on, where it has such. metrics: what it reports.
    It draws from streams of its own only, made anew from each episode's seed.
    """

    layout: Layout
    shapes: Shapes
    metrics: dict[str, float]

    def bind(self, row: Row) -> None:
        """Once, before the first reset: where to read action, and to write own, alive, reward and so on."""

    def reset(self, seed: int) -> None:
        """Starts an episode and writes what is seen."""

    def step(self) -> tuple[bool, bool]:
        """Acts for one step and writes what came of it; gives whether the team terminated, or was truncated."""

    def close(self) -> None: ...


class ArrayCopy(Copy):
    """One copy of an `ArrayWorld`."""

    def __init__(self, recipe: Recipe, layout: Layout, row: Row, index: int) -> None:
        super().__init__(recipe, layout, row, index)
        self.env.bind(row)

    def _begin(self) -> None:
        self.env.reset(self.seed)
        self._require_finite("own", "observations")

    def _advance(self) -> None:
        row = self.row
        terminated, truncated = self.env.step()
        self.steps += 1
        self.done = terminated or truncated
        row["terminated"][()], row["truncated"][()], row["valid"][()] = terminated, truncated, True
        row["metrics"][:] = [self.env.metrics[name] for name in self.recipe.reductions]
        self._require_finite("own", "observations")
        self._require_finite("reward", "rewards")

    def _own_randomness(self) -> contextlib.AbstractContextManager[None]:
        # Such worlds leave the global streams alone: exchanging them costs as much as a small world's step.
        return contextlib.nullcontext()


class Copies:
    """The copies with numbers `rows` of a batch, stepped in this process."""

    def __init__(
        self, recipe: Recipe, layout: Layout, arrays: dict[str, np.ndarray], rows: range, own_process: bool = False
    ) -> None:
        # In a process of its own nobody else draws from the global streams: no need to keep them (80 us a step).
        self._kept = contextlib.nullcontext if own_process or recipe.arrays else kept_randomness
        kind = ArrayCopy if recipe.arrays else Copy
        self._seed = arrays["seed"]
        each = {name: array for name, array in arrays.items() if name != "seed"}
        with self._kept():
            self.copies = [kind(recipe, layout, {name: array[b, ...] for name, array in each.items()}, b) for b in rows]

    def reset(self) -> None:
        """Restarts every copy with its next seed."""
        with self._kept():
            for copy in self.copies:
                copy.reset(int(copy.row["next_seed"]))

    def step(self) -> None:
        """One step of every copy."""
        with self._kept():
            for copy in self.copies:
                copy.step()

    def next_episodes(self, begun: list[bool]) -> None:
        """Counts the episodes that these copies have begun, and gives each the seed of the one after."""
        for copy, yes in zip(self.copies, begun, strict=True):
            if yes:
                row = copy.row
                row["episode"][()] += 1
                row["next_seed"][()] = episode_seed(int(self._seed[0]), copy.index, int(row["episode"]) + 1)

    def replay(self, episodes: dict[int, tuple[int, np.ndarray]]) -> None:
        """Brings the numbered copies back to where they stood: number -> (episode seed, actions [t, N, ...])."""
        with self._kept():
            for copy in self.copies:
                if copy.index in episodes:
                    copy.replay(*episodes[copy.index])

    def picture(self) -> tuple[Any, Any]:
        """The first copy as it draws itself."""
        with self._kept():
            return self.copies[0].picture()

    def close(self) -> None:
        """Closes every copy."""
        for copy in self.copies:
            copy.close()


def episode_seed(seed: int, copy: int, episode: int) -> int:
    """The seed of a copy's episode, a number below 2^31, which every kind of generator takes."""
    return int(np.random.SeedSequence((seed, copy, episode)).generate_state(1)[0]) >> 1


@contextlib.contextmanager
def kept_randomness() -> Iterator[None]:
    """Inside, worlds may do as they like with Python's and NumPy's global random streams."""
    # With the whole state: exchanging the generator forgets the second of a pair of normal draws.
    bits, numpy_state, python_state = get_bit_generator(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        set_bit_generator(bits)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def lay_out(fields: Fields, memory: Any = None) -> dict[str, np.ndarray]:
    """Arrays of given shapes and dtypes over one memory, each at a multiple of 64 bytes; new memory if None."""
    memory = bytearray(size_of(fields)) if memory is None else memory
    arrays, start = {}, 0
    for name, (shape, dtype) in fields.items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(memory, dtype, count, start).reshape(shape)
        start += _rounded(count * np.dtype(dtype).itemsize)
    return arrays


def size_of(fields: Fields) -> int:
    """Bytes that `lay_out` needs."""
    return max(64, sum(_rounded(int(np.prod(shape)) * np.dtype(dtype).itemsize) for shape, dtype in fields.values()))


def _rounded(size: int) -> int:
    return -(-size // 64) * 64
