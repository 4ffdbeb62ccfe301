"""MAgent2's worlds on its own engine: who is on the map, who is whose foe, what is counted. NumPy only."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from gcoord.envs.gridworld import GridTeam, Group, Kind, Squad
from gcoord.envs.opponents import make_opponents
from gcoord.envs.recipe import find_function, quiet_imports
from gcoord.spec import Reduction

# Maps up to this have been tried; battle has 3,600 a side there.
LARGEST = 300
# With a minimap an agent also senses where it stands, column and row as shares of the map.
PLACE = 2
PLAIN = "gcoord.envs.scripts:plain"


@dataclass(frozen=True)
class Family:
    """A world of MAgent2.

    Arguments:
        module: where it is. kinds: of every group of the engine, in its order (None: food, which does not act).
        sides: the groups of each side. default: its map. smallest: the smallest map with somebody on every side.
        world: its class, which says what is counted.
        fixed: members of each group where the map's size is not free (some are put where there is no room, and lost).
    """

    module: str
    kinds: tuple[Kind | None, ...]
    sides: dict[str, tuple[int, ...]]
    default: int
    smallest: int
    world: type[World]
    fixed: tuple[int, ...] = ()

    def groups(self, side: str) -> tuple[int, ...]:
        """The groups of a side, or of both."""
        everybody = tuple(g for g, kind in enumerate(self.kinds) if kind is not None)
        return everybody if side == "both" else self.sides[side]

    def own(self, kinds: tuple[Kind, ...], minimap: bool) -> tuple[int, int, int]:
        """What a team of some kinds sees: [C, H, W]."""
        side = max(kind.side for kind in kinds)
        channels = 1 + 3 * len(self.kinds) + PLACE if minimap else 1 + 2 * len(self.kinds)
        return channels, side, side

    def kinds_of(self, groups: tuple[int, ...]) -> tuple[Kind, ...]:
        """The kinds in some groups."""
        return tuple(dict.fromkeys(kind for g in groups if (kind := self.kinds[g]) is not None))


class World(GridTeam):
    """One of MAgent2's worlds, on its own engine with its own rules."""

    @staticmethod
    def reductions(side: str) -> dict[str, Reduction]:
        """The metrics of a world of which a side, or `both`, is ours, and how an episode reduces each."""
        raise NotImplementedError

    def __init__(
        self,
        world: str,
        map_size: int,
        side: str,
        opponents: str,
        minimap: bool,
        foes_heard: bool,
        max_cycles: int,
        rewards: dict[str, float],
    ) -> None:
        family = FAMILIES[world]
        with quiet_imports():
            maker = find_function(f"magent2.environments.{family.module}:parallel_env")
        size = {} if world == "gather" else {"map_size": map_size}
        self.world = maker(max_cycles=max_cycles, minimap_mode=minimap, **size, **rewards)
        grid = self.world.env
        handles = grid.get_handles()

        def squad(groups: tuple[int, ...]) -> Squad:
            pairs = [(handles[g], kind) for g in groups if (kind := family.kinds[g]) is not None]
            return Squad(grid, [Group(*pair) for pair in pairs], minimap, PLACE * minimap)

        ours, theirs = family.groups(side), tuple(set(family.groups("both")) - set(family.groups(side)))
        us, them = squad(ours), squad(tuple(sorted(theirs))) if theirs else None
        sides = None
        if not foes_heard:
            of = [next(i for i, groups in enumerate(family.sides.values()) if g in groups) for g in ours]
            sides = np.repeat(of, us.sizes)
        super().__init__(grid, us, them, make_opponents(opponents, PLAIN) if them else None, max_cycles, sides)

    def populate(self) -> None:
        self.world.generate_map()

    def judge(self, over: bool) -> bool:
        """Looks before the dead are cleared, as MAgent2 does: its minimap shows them for a step."""
        self.count()
        self.look()
        if not over:
            self.grid.clear_dead()
            for squad in (self.ours, self.theirs):
                if squad is not None:
                    squad.follow()
        return over

    def count(self) -> None:
        """Writes `metrics` of the last step."""
        raise NotImplementedError


class Fight(World):
    """Two sides that kill each other."""

    @staticmethod
    def reductions(side: str) -> dict[str, Reduction]:
        if side == "both":
            return {"deaths": "sum"}
        return {"kills": "sum", "deaths": "sum", "kill_death_ratio": "last", "success": "last"}

    def reset(self, seed: int) -> None:
        self.kills = self.deaths = 0
        super().reset(seed)

    def count(self) -> None:
        deaths = sum(map(len, self.ours.fallen()))
        self.metrics = {"deaths": float(deaths)}
        if self.theirs is not None:
            kills = sum(map(len, self.theirs.fallen()))
            self.kills, self.deaths = self.kills + kills, self.deaths + deaths
            won = self.kills == self.theirs.n > 0 and self.deaths < self.ours.n
            ratio = self.kills / max(1, self.deaths)
            self.metrics |= {"kills": float(kills), "kill_death_ratio": ratio, "success": float(won)}


class Pursuit(World):
    """Predators that tag prey."""

    @staticmethod
    def reductions(side: str) -> dict[str, Reduction]:
        return {"tags": "sum"}

    def count(self) -> None:
        # Every tag costs the one who is tagged 1.
        prey = self.world.env.get_reward(self.world.handles[1])
        self.metrics = {"tags": -float(prey.sum())}


class Gather(World):
    """A crowd that feeds, and may kill for it."""

    @staticmethod
    def reductions(side: str) -> dict[str, Reduction]:
        return {"eaten": "sum", "deaths": "sum"}

    def count(self) -> None:
        eaten = (~self.grid.get_alive(self.grid.get_handles()[0])).sum()
        self.metrics = {"eaten": float(eaten), "deaths": float(sum(map(len, self.ours.fallen())))}


SOLDIER = Kind("soldier", speed=2, attack=1.5, view=6)
PREDATOR = Kind("predator", speed=1, attack=2, view=5, body=2)
PREY = Kind("prey", speed=1.5, attack=0, view=4, flees=True)
MELEE = Kind("melee", speed=1, attack=1, view=6, foes=(2, 3))
RANGED = Kind("ranged", speed=2, attack=2, view=6, foes=(1, 2))
DEER = Kind("deer", speed=1, attack=0, view=1, flees=True)
TIGER = Kind("tiger", speed=1, attack=1, view=4)
OMNIVORE = Kind("omnivore", speed=3, attack=1, view=7)
ARMIES: dict[str, tuple[int, ...]] = {"red": (0,), "blue": (1,)}

FAMILIES = {
    "battle": Family("battle.battle", (SOLDIER, SOLDIER), ARMIES, 45, 12, Fight),
    "battlefield": Family("battlefield.battlefield", (SOLDIER, SOLDIER), ARMIES, 80, 80, Fight, (12, 12)),
    "adversarial_pursuit": Family(
        "adversarial_pursuit.adversarial_pursuit",
        (PREDATOR, PREY),
        {"predator": (0,), "prey": (1,)},
        45,
        9,
        Pursuit,
    ),
    "combined_arms": Family(
        "combined_arms.combined_arms",
        (MELEE, RANGED, MELEE, RANGED),
        {"red": (0, 1), "blue": (2, 3)},
        45,
        16,
        Fight,
    ),
    "tiger_deer": Family("tiger_deer.tiger_deer", (DEER, TIGER), {"tiger": (1,), "deer": (0,)}, 45, 10, Fight),
    "gather": Family("gather.gather", (None, OMNIVORE), {"omnivore": (1,)}, 200, 200, Gather, (0, 495)),
}


def make(world: str, **kwargs: Any) -> World:
    """A copy of a world, in the process that steps it."""
    return FAMILIES[world].world(world, **kwargs)


class Counter:
    """Stands in for an engine, and counts who is put on the map."""

    def __init__(self, groups: int) -> None:
        self.counts = [0] * groups

    def get_handles(self) -> range:
        return range(len(self.counts))

    def add_walls(self, **_: Any) -> None:
        """Walls count for nothing."""

    def add_agents(self, handle: int, method: str, pos: Any = (), n: float = 0) -> None:
        self.counts[handle] += len(pos) if method == "custom" else int(n)


@functools.cache
def team_sizes(world: str) -> dict[int, tuple[int, ...]]:
    """{map size: members of each group}, by the world's own way to fill its map."""
    family = FAMILIES[world]
    if family.fixed:
        return {family.default: family.fixed}
    layout = find_function(f"magent2.environments.{family.module}:_parallel_env.generate_map")
    return {size: _counts(layout, family, size) for size in range(family.smallest, LARGEST + 1)}


def _counts(layout: Any, family: Family, size: int) -> tuple[int, ...]:
    counter = Counter(len(family.kinds))
    layout(SimpleNamespace(env=counter, map_size=size, handles=counter.get_handles(), leftID=0, rightID=1))
    return tuple(counter.counts)
