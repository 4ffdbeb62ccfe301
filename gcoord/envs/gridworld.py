"""Teams in MAgent2's engine, read and written as whole arrays. NumPy only: workers import this without torch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gcoord.envs.copies import Row, Shapes
from gcoord.envs.spaces import Act, Layout, Sense
from gcoord.spec import Discrete

# Of the engine's groups, in pictures.
TINTS = ((222, 107, 93), (96, 146, 214), (232, 188, 84), (110, 180, 120))


@dataclass(frozen=True)
class Kind:
    """A kind of body: what it does in the engine, and whom it is after.

    Arguments:
        speed, attack: radius of the squares that it may go to, and that it may attack, from its middle.
        view: squares that it sees to each side.
        body: its side, in squares.
        foes: groups that it is after (or flees from), numbered from its own group on, round the engine's groups.
        flees: whether it keeps away from them.
    """

    name: str
    speed: float
    attack: float
    view: int
    body: int = 1
    foes: tuple[int, ...] = (1,)
    flees: bool = False

    @property
    def side(self) -> int:
        """Squares along a side of its view."""
        return 2 * self.view + self.body % 2

    @functools.cached_property
    def moves(self) -> np.ndarray:
        """[actions, 2]: (down, right) of every move, in the order of the engine's actions; one of them is to stay."""
        return _circle(self.speed, 1)

    @functools.cached_property
    def attacks(self) -> np.ndarray:
        """[actions, 2]: (down, right) from its (top left) square of every attack, numbered after the moves."""
        around = _circle(self.attack, self.body)
        inside = ((around >= 0) & (around < self.body)).all(-1)
        return around[~inside]

    @functools.cached_property
    def block(self) -> np.ndarray:
        """[body x body, 2]: (down, right) of its own squares from the top left one."""
        return _grid(np.arange(self.body))

    @functools.cached_property
    def squares(self) -> np.ndarray:
        """[side x side, 2]: (down, right) of the squares of its flattened view from its middle."""
        return _grid(np.arange(self.side)) - self.corner - (self.body - 1) / 2  # type: ignore[no-any-return]

    @property
    def n_actions(self) -> int:
        return len(self.moves) + len(self.attacks)

    @functools.cached_property
    def corner(self) -> int:
        """Row and column of its (top left) square in its view."""
        return (self.side - self.body) // 2

    def cells(self, offsets: np.ndarray) -> np.ndarray:
        """Squares at (down, right) of its own, as numbers in its flattened view."""
        at = offsets + self.corner
        return at[..., 0] * self.side + at[..., 1]  # type: ignore[no-any-return]


def _grid(reach: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2)


def _circle(radius: float, body: int) -> np.ndarray:
    """(down, right) of the squares within `radius` of a body's middle, row by row."""
    reach = np.arange(-int(radius) - body, int(radius) + 2 * body)
    squares = _grid(reach)
    return squares[((squares - (body - 1) / 2) ** 2).sum(-1) <= radius**2 + 1e-9]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Group:
    """A group of the engine: its handle, and the kind of its members."""

    handle: Any
    kind: Kind


class Opponents(Protocol):
    """Who moves the squad that does not learn."""

    sees: bool

    def reset(self, seed: int) -> None:
        """An episode begins."""

    def act(self, squad: Squad) -> np.ndarray:
        """Actions [N] of a squad, whose `seen` is what it sees now where `sees`."""


class Squad:
    """Some groups of the engine, one agent slot after another.

    `seen` holds own [N, C, H, W], alive [N] and position [N, 2] (column, row), zero for the dead. The engine's arrays
    hold the living in an order of its own, and the dead until they are cleared; slots follow their numbers.

    Arguments:
        minimap: whether the engine shows how each group is spread over the map.
        place: last features of the engine's that are shown as channels of their own.
    """

    def __init__(self, grid: Any, groups: Sequence[Group], minimap: bool = False, place: int = 0) -> None:
        self.grid, self.groups, self.minimap, self.place = grid, tuple(groups), minimap, place
        self.sizes = [grid.get_num(group.handle) for group in self.groups]
        self.first = np.cumsum([0, *self.sizes])
        self.n = int(self.first[-1])
        self.kinds = tuple(dict.fromkeys(group.kind for group in self.groups))
        self.kind = np.repeat([self.kinds.index(group.kind) for group in self.groups], self.sizes)
        self.channels = int(grid.get_view_space(self.groups[0].handle)[2]) + place
        side = max(kind.side for kind in self.kinds)
        self.own = (self.channels, side, side)
        counts = np.array([kind.n_actions for kind in self.kinds])
        self.legal = np.arange(counts.max()) < counts[self.kind][:, None]
        self.seen: Row = {
            "own": np.zeros((self.n, *self.own), np.float32),
            "alive": np.zeros(self.n, bool),
            "position": np.zeros((self.n, 2), np.float32),
        }
        # Of the engine's numbers, and of the rows of each group's arrays.
        self._slot_of = np.full(64, -1)
        self._slots: list[np.ndarray] = []

    def layout(self) -> Layout:
        """The slots as the adapter knows them."""
        senses = tuple(
            Sense("image", (self.channels, kind.side, kind.side), (kind.side, kind.side, self.channels), "float32")
            for kind in self.kinds
        )
        return Layout(
            names=tuple(f"{self.kinds[k].name}_{i}" for i, k in enumerate(self.kind)),
            kinds=tuple(kind.name for kind in self.kinds),
            kind=tuple(self.kind.tolist()),
            senses=senses,
            acts=tuple(Act(Discrete(kind.n_actions)) for kind in self.kinds),
            own=self.own,
            own_dtype="float32",
            masked=False,
        )

    def begin(self) -> None:
        """An episode begins: every slot is taken by a group's member, in the engine's order."""
        self._slot_of[:] = -1
        self.seen["alive"][:] = False
        self.enlist([np.arange(*ends) for ends in itertools.pairwise(self.first)])

    def follow(self) -> None:
        """The engine's rows have changed, for its dead were cleared."""
        self.enlist([np.zeros(0, np.int64)] * len(self.groups))

    def enlist(self, free: Sequence[np.ndarray]) -> None:
        """Members of each group who have no slot yet get those in `free`, in order."""
        self._slots = []
        for group, empty in zip(self.groups, free, strict=True):
            ids = self.grid.get_agent_id(group.handle)
            if len(ids) and ids.max() >= len(self._slot_of):
                grown = np.full(2 * int(ids.max()) + 2, -1)
                grown[: len(self._slot_of)] = self._slot_of
                self._slot_of = grown
            slots = self._slot_of[ids]
            new = slots < 0
            if new.any():
                slots[new] = self._slot_of[ids[new]] = empty[: new.sum()]
            self._slots.append(slots)

    def send(self, action: np.ndarray) -> None:
        """Actions [N] to the engine."""
        for group, slots in zip(self.groups, self._slots, strict=True):
            self.grid.set_action(group.handle, action[slots].astype(np.int32))

    def earned(self) -> np.ndarray:
        """[N]: what each earned in the last step, those too who died in it."""
        reward = np.zeros(self.n, np.float32)
        for group, slots in zip(self.groups, self._slots, strict=True):
            reward[slots] = self.grid.get_reward(group.handle)
        return reward

    def fallen(self) -> list[np.ndarray]:
        """The slots of each group's members who died in the last step and are not cleared yet."""
        pairs = zip(self.groups, self._slots, strict=True)
        return [slots[~self.grid.get_alive(group.handle)] for group, slots in pairs]

    def look(self) -> None:
        """Writes `seen`."""
        own, alive, position = self.seen["own"], self.seen["alive"], self.seen["position"]
        before = alive.copy()
        alive[:] = False
        for group, slots in zip(self.groups, self._slots, strict=True):
            living = self.grid.get_alive(group.handle)
            here = slots[living]
            if not len(here):
                continue
            alive[here] = True
            position[here] = self.grid.get_pos(group.handle)[living]
            view, features = self.grid.get_observation(group.handle)
            if len(here) < len(slots):
                view, features = view[living], features[living]
            self._picture(own, group.kind.side, here, view, features)
        gone = before & ~alive
        if gone.any():
            own[gone], position[gone] = 0, 0

    def _picture(self, own: np.ndarray, side: int, slots: np.ndarray, view: np.ndarray, features: np.ndarray) -> None:
        margin = (own.shape[-1] - side) // 2
        part = own[..., margin : margin + side, margin : margin + side]
        # A slice is quicker than an index, and most of the time will do.
        where: Any = slice(slots[0], slots[-1] + 1) if (np.diff(slots) == 1).all() else slots
        part[where, : view.shape[-1]] = view.transpose(0, 3, 1, 2)
        if self.place:
            part[where, view.shape[-1] :] = features[:, -self.place :, None, None]


class GridTeam:
    """A world of MAgent2 whose squad of ours acts against one of theirs: a `copies.ArrayWorld`.

    Subclasses lay an episode out (`populate`) and say what a step led to (`judge`).

    Arguments:
        grid: the engine, once populated, for its sizes to be read.
        ours, theirs: squads (theirs None: nobody else acts). opponents: who moves theirs.
        max_steps: after which the episode is truncated.
        sides: [N] side of each of our slots, where sides do not hear each other; None: the world decides nothing.
    """

    def __init__(
        self,
        grid: Any,
        ours: Squad,
        theirs: Squad | None,
        opponents: Opponents | None,
        max_steps: int,
        sides: np.ndarray | None = None,
    ) -> None:
        self.grid, self.ours, self.theirs, self.opponents = grid, ours, theirs, opponents
        self.max_steps, self.steps = max_steps, 0
        self.layout = ours.layout()
        self.shapes: Shapes = {"position": (ours.n, 2)}
        self.sides = sides
        if sides is not None:
            self.shapes["hears"] = (ours.n, ours.n)
        self.metrics: dict[str, float] = {}
        self.row: Row = {}

    def populate(self) -> None:
        """Puts everybody on the map of an engine that was just reset."""
        raise NotImplementedError

    def judge(self, over: bool) -> bool:
        """After a step: counts, looks, clears the dead; says whether all is over (`over`: the engine's word)."""
        raise NotImplementedError

    def actions(self) -> np.ndarray:
        """[N]: what each of ours does in this step."""
        return self.row["action"]

    def bind(self, row: Row) -> None:
        """As `ArrayWorld`."""
        self.row = row
        self.ours.seen = {name: row[name] for name in self.ours.seen}
        if self.sides is not None:
            row["hears"][:] = self.sides[:, None] == self.sides

    def reset(self, seed: int) -> None:
        """As `ArrayWorld`."""
        self.steps = 0
        self.grid.set_seed(seed)
        self.grid.reset()
        self.populate()
        for squad in (self.ours, self.theirs):
            if squad is not None:
                squad.begin()
        if self.opponents is not None:
            self.opponents.reset(seed)
        self.look()

    def step(self) -> tuple[bool, bool]:
        """As `ArrayWorld`."""
        self.ours.send(self.actions())
        if self.theirs is not None and self.opponents is not None:
            self.theirs.send(self.opponents.act(self.theirs))
        over = self.grid.step()
        self.steps += 1
        self.row["reward"][:] = self.ours.earned()
        over = self.judge(over)
        # The engine ends the process where it is stepped with nobody left.
        over = over or not self.ours.seen["alive"].any()
        return over, not over and self.steps >= self.max_steps

    def picture(self) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """The map from above, a pixel a square: walls dark, each of the engine's groups in a colour of its own."""
        walls = self.grid._get_walls_info()
        side = int(walls.max()) + 1  # a wall runs round every map
        image = np.full((side, side, 3), 245, np.uint8)
        image[walls[:, 1], walls[:, 0]] = 70
        squads = [squad for squad in (self.ours, self.theirs) if squad is not None]
        blocks = {group.handle.value: group.kind.block for squad in squads for group in squad.groups}
        for number, handle in enumerate(self.grid.get_handles()):
            places = self.grid.get_pos(handle)[self.grid.get_alive(handle)]
            for down, right in blocks.get(handle.value, np.zeros((1, 2), np.int64)):
                image[places[:, 1] + down, places[:, 0] + right] = TINTS[number % len(TINTS)]
        return image, (-0.5, side - 0.5, side - 0.5, -0.5)

    def close(self) -> None:
        """Nothing to release: the engine goes with its last reference."""

    def look(self) -> None:
        """Writes what everybody sees."""
        self.ours.look()
        if self.theirs is not None and self.opponents is not None and self.opponents.sees:
            self.theirs.look()
        if "available" in self.row:
            self.row["available"][:] = self.ours.legal & self.row["alive"][:, None]
