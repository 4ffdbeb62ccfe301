"""How a PettingZoo world's spaces become one team's tensors. NumPy only: workers import this without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gcoord.spec import Action, Continuous, Discrete

Form = Literal["vector", "image", "one_hot"]
Channels = Literal["last", "first"]
Kinds = Literal["spaces", "names"]
MOST_POINTS = 1_000


@dataclass(frozen=True)
class Sense:
    """How one kind's raw observation is written into its slot.

    form: `vector` (flattened), `image` (to C, H, W) or `one_hot`; shape: of the slot's used part; raw: of what the
    world returns; start: number of the first value where one_hot; masked: whether it comes with an action mask.
    """

    form: Form
    shape: tuple[int, ...]
    raw: tuple[int, ...]
    dtype: str
    channels: Channels = "last"
    start: int = 0
    masked: bool = False

    def write(self, slot: np.ndarray, raw: Any) -> None:
        """Writes a raw observation into `slot`, in the middle where the slot's image is larger."""
        if self.form == "one_hot":
            slot[:] = 0
            slot[int(raw) - self.start] = 1
            return
        values = np.asarray(raw)
        if values.shape != self.raw:
            raise ValueError(f"expected an observation of shape {self.raw} (got {values.shape})")
        if self.form == "vector":
            slot[: self.shape[0]] = values.reshape(-1)
            return
        if values.ndim == 2:
            values = values[None]
        elif self.channels == "last":
            values = values.transpose(2, 0, 1)
        channels, height, width = self.shape
        top, left = (slot.shape[1] - height) // 2, (slot.shape[2] - width) // 2
        slot[:channels, top : top + height, left : left + width] = values


@dataclass(frozen=True)
class Act:
    """How one kind's action is handed to the world: `start` is the number of its first discrete action. With a `grid`,
    the values of each component of a box, numbered actions are its points, the last component's values in turn first.
    """

    space: Action
    start: int = 0
    dtype: str = "float32"
    grid: tuple[tuple[float, ...], ...] = ()

    def read(self, row: Any) -> Any:
        """The world's action, from one agent's row of the team's action: a number, or a vector of components."""
        if isinstance(self.space, Discrete):
            number = int(row if np.ndim(row) == 0 else row[0])
            if self.grid:
                places = np.unravel_index(number, [len(values) for values in self.grid])
                return np.array([values[i] for values, i in zip(self.grid, places, strict=True)], dtype=self.dtype)
            return number + self.start
        # A copy: the row is overwritten by the next step, and a world may keep what it was given.
        return np.array(row[: self.space.n], dtype=self.dtype)


@dataclass(frozen=True)
class Layout:
    """A team's slots: names in order, the kind of each, and how each kind senses and acts."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    kind: tuple[int, ...]
    senses: tuple[Sense, ...]
    acts: tuple[Act, ...]
    own: tuple[int, ...]
    own_dtype: str
    masked: bool

    @property
    def actions(self) -> tuple[Action, ...]:
        """The action space of each kind."""
        return tuple(act.space for act in self.acts)

    @property
    def available(self) -> bool:
        """Whether some actions of the widest kind are not everybody's, at all times or at some."""
        sizes = {act.space.n for act in self.acts}
        return any(isinstance(act.space, Discrete) for act in self.acts) and (self.masked or len(sizes) > 1)


def read_layout(
    env: Any,
    infos: dict[str, Any],
    channels: Channels = "last",
    kinds: Kinds | tuple[str, ...] = "spaces",
    bins: int | None = None,
) -> Layout:
    """The layout of a freshly reset ParallelEnv; raises ValueError in one line on a space that has no place here.

    Agents with equal spaces are of one kind; `kinds="names"` also separates them by the name before its number. A tuple
    of such names (or whole ones) says which kinds there are, in order, also where a team has nobody of some kind: they
    sense and act like the first agent. With `bins`, boxes of actions become grids of so many evenly spaced values a
    component.
    """
    names = tuple(getattr(env, "possible_agents", None) or ())
    if not names:
        raise ValueError("expected the world to name its possible_agents (got none)")
    masks_in_infos = any("action_mask" in infos.get(name, {}) for name in names)
    groups: list[tuple[Sense, Act, str]] = []
    members: list[list[str]] = []
    kind = []
    if isinstance(kinds, tuple):
        first = (
            _sense(names[0], env.observation_space(names[0]), channels),
            _act(names[0], env.action_space(names[0]), bins),
        )
        groups, members = [(*first, name) for name in kinds], [[name] for name in kinds]
    for name in names:
        sense = _sense(name, env.observation_space(name), channels)
        group = (sense, _act(name, env.action_space(name), bins), _label(name, kinds))
        if group not in groups:
            if isinstance(kinds, tuple):
                raise ValueError(f"expected agents of the kinds {kinds}, who sense and act alike (got {name!r})")
            groups.append(group)
            members.append([])
        kind.append(groups.index(group))
        members[kind[-1]].append(name)
    senses, acts = tuple(group[0] for group in groups), tuple(group[1] for group in groups)
    ranks = {len(sense.shape) for sense in senses}
    if len(ranks) > 1:
        raise ValueError("expected every agent to sense a vector, or every agent an image (got both)")
    own = tuple(max(sizes) for sizes in zip(*(sense.shape for sense in senses), strict=True))
    is_bytes = all(sense.dtype == "uint8" and sense.form == "image" for sense in senses)
    masked = masks_in_infos or any(sense.masked for sense in senses)
    own_dtype = "uint8" if is_bytes else "float32"
    return Layout(names, _kind_names(members), tuple(kind), senses, acts, own, own_dtype, masked)


def _label(name: str, kinds: Kinds | tuple[str, ...]) -> str:
    """What tells an agent's kind apart besides its spaces."""
    if kinds == "spaces":
        return ""
    return name if name in kinds else _prefix(name)


def _prefix(name: str) -> str:
    return re.sub(r"[_\- ]*\d+$", "", str(name)) or "agent"


def _kind_names(members: list[list[str]]) -> tuple[str, ...]:
    """One name per kind: what its members' names share before their numbers, made unique."""
    prefixes = [{_prefix(name) for name in group} for group in members]
    plain = [found.pop() if len(found) == 1 else "agent" for found in prefixes]
    return tuple(name if plain.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(plain))


def _sense(name: str, space: Any, channels: Channels) -> Sense:
    from gymnasium import spaces

    masked = False
    if isinstance(space, spaces.Dict):
        if set(space.spaces) != {"observation", "action_mask"}:
            raise ValueError(
                "expected a Dict observation to hold `observation` and `action_mask` and nothing else "
                f"(got {sorted(space.spaces)} for agent {name!r}); flatten it in the maker"
            )
        masked, space = True, space["observation"]
    if isinstance(space, spaces.Discrete):
        return Sense("one_hot", (int(space.n),), (), "float32", start=int(space.start), masked=masked)
    if not isinstance(space, spaces.Box | spaces.MultiBinary):
        raise ValueError(
            f"expected Box, MultiBinary, Discrete or Dict(observation, action_mask) observations (got "
            f"{type(space).__name__} for agent {name!r}); flatten it in the maker"
        )
    raw = tuple(int(size) for size in space.shape)
    dtype = str(space.dtype)
    if len(raw) == 3:
        shape = raw if channels == "first" else (raw[2], raw[0], raw[1])
        return Sense("image", shape, raw, dtype, channels, masked=masked)
    if len(raw) == 2 and dtype == "uint8":
        return Sense("image", (1, *raw), raw, dtype, channels, masked=masked)
    return Sense("vector", (int(np.prod(raw)),), raw, dtype, masked=masked)


def _act(name: str, space: Any, bins: int | None) -> Act:
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return Act(Discrete(int(space.n)), start=int(space.start))
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"expected Discrete or one-dimensional Box actions (got {space} for agent {name!r}); convert in the maker"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"expected a Box of actions with finite bounds (got {space} for agent {name!r})")
    low, high = tuple(map(float, space.low)), tuple(map(float, space.high))
    if bins is None:
        return Act(Continuous(low, high), dtype=str(space.dtype))
    if bins < 2 or bins ** len(low) > MOST_POINTS:
        raise ValueError(
            f"expected 2 bins or more, and at most {MOST_POINTS:,} actions (got bins={bins} for each of {len(low)} "
            f"components of agent {name!r})"
        )
    grid = tuple(tuple(np.linspace(a, b, bins).tolist()) for a, b in zip(low, high, strict=True))
    return Act(Discrete(bins ** len(low)), dtype=str(space.dtype), grid=grid)
