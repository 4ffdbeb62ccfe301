"""DGN's battle and jungle on MAgent2's engine, by the rules of the paper's authors (https://arxiv.org/abs/1810.09202).

A square map with walls round it, everybody placed at random. An agent senses the 11 x 11 squares about it, own
[7, 11, 11]: walls, then of its own group and of the other where its members stand, their health, and how they are
spread over the map. `view=dgn` gives the numbers that the paper's network reads instead. Attacks cost whether they hit
or not. The paper's graph is that of the three nearest: `topology=nearest topology.k=3`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.copies import Row
from gcoord.envs.gridworld import GridTeam, Group, Kind, Squad
from gcoord.envs.magent import by_script
from gcoord.envs.opponents import make_opponents
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.spaces import Layout, Sense

if TYPE_CHECKING:
    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import Reduction

# The paper's team, its foes or food, and its map.
AGENTS, OTHERS, SIDE = 20, 12, 30
SMALLEST, LARGEST = 12, 2000
DENSITIES, VIEWS, WHO = ("fixed", "arena"), ("channels", "dgn"), ("script", "random")
OURS = Kind("agent", speed=1, attack=1, view=5)
ENEMY = Kind("enemy", speed=2, attack=1.5, view=6)
FOOD = Kind("food", speed=0, attack=0, view=1)
STAY = int((OURS.moves == 0).all(-1).argmax())
PLAIN, SEATS = "gcoord.envs.scripts:plain", "gcoord.envs.scripts:seats"


def dgn_battle(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    view: Literal["channels", "dgn"] = "channels",
    opponents: Literal["script", "random"] = "script",
    max_steps: int = 300,
) -> ParallelTeamEnv:
    """20 agents against 12 enemies who are quicker, see farther and strike around themselves, but bear less.

    Ours: 12 health, 0.4 back a step, 5 moves, 4 attacks that take 2; theirs: 8 health, 13 moves, 8 attacks that take 2.
    An attack earns 5 where it hits and costs 0.01; dying costs 2, in place of the 0.01. Who dies is replaced at once at
    a random place. Here a slot whose agent died is dead in the next observation (so that learning is cut there)
    while its successor, already on the map, stays put; after that the successor has the slot.

    Arguments:
        n_agents: of our side; None: the paper's 20.
        density: `fixed`: enemies grow with n / 20 from 12, and the map's sides with sqrt(n / 20) from 30; `arena`: 12
            on 30 x 30 squares whatever the team.
        view: `dgn`: own [123], where fellows stand less what share of their health enemies have, by square, then
            row / 30 and column / 30. An enemy whose health is exactly 0 lives on and cannot be seen in it, so no
            script is offered with it.
        opponents: `script`: each attacks one of ours beside it, else goes to the nearest in view; or `random`. The
            paper's enemy, a trained network, cannot be had.

    Metrics: `kills` and `deaths` (of bodies that were replaced), `kill_death_ratio`, and `reward`, the mean over slots
    and steps.
    """
    return _make("battle", (n_agents, num_envs, device, seed, workers), density, continuous, view, opponents, max_steps)


def dgn_jungle(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    view: Literal["channels", "dgn"] = "channels",
    max_steps: int = 120,
) -> ParallelTeamEnv:
    """20 agents share 12 pieces of food, or hurt each other, which pays twice and costs the other four times as much.

    5 moves, 4 attacks: food attacked earns 1, a fellow attacked 2 and costs that fellow 4; an attack costs 0.01. Food
    does not run out; four can feed on each piece. Nobody is replaced (to die takes 400 hits).

    Arguments:
        n_agents: None: the paper's 20, its unseen team is 50 with density=arena.
        density: `fixed`: the food grows with n / 20 from 12, and the map's sides with sqrt(n / 20) from 30; `arena`: 12
            on 30 x 30 squares whatever the team.
        view: `dgn`: own [123], where fellows stand less where food is, by square, then row / 30 and column / 30.

    Metrics: `attacks_on_fellows` per agent, and `reward`, the mean over agents and steps.
    """
    return _make("jungle", (n_agents, num_envs, device, seed, workers), density, continuous, view, "random", max_steps)


class Dgn(GridTeam):
    """What both tasks share: the map, its inhabitants, and what is seen."""

    def __init__(
        self, side: int, rules: Any, theirs: Kind | None, opponents: str, n: int, others: int, view: str, steps: int
    ) -> None:
        grid: Any = find_function("magent2.gridworld:GridWorld")(rules)
        self.world_side = side
        self.handles, self.counts, self.view = grid.get_handles(), (n, others), view
        self.grid = grid
        grid.reset()
        self.populate()
        ours = Squad(grid, [Group(self.handles[0], OURS)], minimap=True)
        them = None if theirs is None else Squad(grid, [Group(self.handles[1], theirs)], minimap=True)
        super().__init__(grid, ours, them, make_opponents(opponents, PLAIN) if them else None, steps)
        if view == "dgn":
            self.layout = _as_numbers(self.layout)

    def populate(self) -> None:
        for handle, count in zip(self.handles, self.counts, strict=True):
            self.grid.add_agents(handle, method="random", n=count)

    def bind(self, row: Row) -> None:
        super().bind(row)
        if self.view == "dgn":
            self.ours.seen["own"] = np.zeros((self.ours.n, *self.ours.own), np.float32)

    def look(self) -> None:
        super().look()
        self.hide()
        if self.view == "dgn":
            own, position = self.ours.seen["own"], self.ours.seen["position"]
            flat = (own[:, 1] - own[:, self.channel]).reshape(len(own), -1)
            self.row["own"][:] = np.concatenate([flat, position[:, ::-1] / SIDE], -1)

    # Of the other group, what `view=dgn` takes from where fellows stand.
    channel = 4

    def hide(self) -> None:
        """Leaves out of what is seen who is not there to learn."""


class Battle(Dgn):
    """Both sides are kept at full strength."""

    reductions: ClassVar[dict[str, Reduction]] = {
        "kills": "sum",
        "deaths": "sum",
        "kill_death_ratio": "last",
        "reward": "mean",
    }
    channel = 5

    def __init__(self, side: int, opponents: str, **rest: Any) -> None:
        super().__init__(side, _battle_rules(side), ENEMY, opponents, **rest)
        self.absent = np.zeros(self.ours.n, bool)

    def reset(self, seed: int) -> None:
        self.kills = self.deaths = 0
        self.absent[:] = False
        super().reset(seed)

    def actions(self) -> np.ndarray:
        return np.where(self.absent, STAY, self.row["action"])

    def judge(self, over: bool) -> bool:
        """Replaces the dead; nobody's end is the end."""
        assert self.theirs is not None
        reward = self.row["reward"]
        mean = float(reward.mean())
        reward[self.absent] = 0
        squads = (self.ours, self.theirs)
        fallen = [squad.fallen()[0] for squad in squads]
        self.grid.clear_dead()
        # At once: to look at an empty group ends the process.
        for squad, dead in zip(squads, fallen, strict=True):
            if len(dead):
                self.grid.add_agents(squad.groups[0].handle, method="random", n=len(dead))
            squad.enlist([dead])
        self.absent[:] = False
        self.absent[fallen[0]] = True
        deaths, kills = len(fallen[0]), len(fallen[1])
        self.kills, self.deaths = self.kills + kills, self.deaths + deaths
        self.metrics = {
            "kills": float(kills),
            "deaths": float(deaths),
            "kill_death_ratio": self.kills / max(1, self.deaths),
            "reward": mean,
        }
        self.look()
        return False

    def hide(self) -> None:
        if self.absent.any():
            for name in ("own", "alive", "position"):
                self.ours.seen[name][self.absent] = 0


class Jungle(Dgn):
    """Food that cannot be eaten up, and fellows who can be hurt."""

    reductions: ClassVar[dict[str, Reduction]] = {"attacks_on_fellows": "sum", "reward": "mean"}

    def __init__(self, side: int, opponents: str, **rest: Any) -> None:
        super().__init__(side, _jungle_rules(side), None, opponents, **rest)
        self.map = np.zeros((side, side), bool)

    def actions(self) -> np.ndarray:
        """As they were chosen; counts those that are attacks on a square where a fellow stands."""
        action, seen = self.row["action"], self.ours.seen
        self.map[:] = False
        column, row = seen["position"][seen["alive"]].astype(np.int64).T
        self.map[row, column] = True
        attack = action[seen["alive"]] - len(OURS.moves)
        down, right = OURS.attacks[np.maximum(attack, 0)].T
        self.attacks = int((self.map[row + down, column + right] & (attack >= 0)).sum())
        return action

    def judge(self, over: bool) -> bool:
        self.metrics = {
            "attacks_on_fellows": self.attacks / self.ours.n,
            "reward": float(self.row["reward"].mean()),
        }
        if not over:
            self.grid.clear_dead()
            self.ours.follow()
        self.look()
        return over


def make(task: str, **kwargs: Any) -> Dgn:
    """A copy of a task, in the process that steps it."""
    with quiet_imports():
        return TASKS[task](**kwargs)


TASKS: dict[str, type[Battle | Jungle]] = {"battle": Battle, "jungle": Jungle}


def _config(side: int) -> tuple[Any, Any]:
    gw = importlib.import_module("magent2.gridworld")
    config = gw.Config()
    config.set({"map_width": side, "map_height": side, "minimap_mode": True, "embedding_size": 10})
    return gw, config


def _body(gw: Any, kind: Kind, hp: float, **more: float) -> dict[str, Any]:
    return dict(
        width=1,
        length=1,
        hp=hp,
        speed=kind.speed,
        view_range=gw.CircleRange(kind.view),
        attack_range=gw.CircleRange(kind.attack),
        **more,
    )


def _battle_rules(side: int) -> Any:
    gw, config = _config(side)
    ours = _body(gw, OURS, 12, damage=2, step_recover=0.4, dead_penalty=-2, attack_penalty=-0.01)
    theirs = _body(gw, ENEMY, 8, damage=2, kill_reward=5, attack_penalty=-0.02)
    groups = [config.add_group(config.register_agent_type(f"type{i}", body)) for i, body in enumerate((ours, theirs))]
    us, them = (gw.AgentSymbol(group, index="any") for group in groups)
    config.add_reward_rule(gw.Event(us, "attack", them), receiver=us, value=5)
    return config


def _jungle_rules(side: int) -> Any:
    gw, config = _config(side)
    ours = _body(gw, OURS, 400, damage=1, attack_penalty=-0.01, attack_in_group=1)
    food = _body(gw, FOOD, 500)
    groups = [config.add_group(config.register_agent_type(f"type{i}", body)) for i, body in enumerate((ours, food))]
    us, other, it = (gw.AgentSymbol(groups[g], index="any") for g in (0, 0, 1))
    config.add_reward_rule(gw.Event(us, "attack", it), receiver=us, value=1)
    config.add_reward_rule(gw.Event(us, "attack", other), receiver=[us, other], value=[2, -4])
    return config


def _as_numbers(layout: Layout) -> Layout:
    n = int(np.prod(layout.own[1:])) + 2
    return dataclasses.replace(layout, own=(n,), senses=(Sense("vector", (n,), (n,), "float32"),))


def _make(
    task: str,
    batch: tuple[int | None, int, str, int, int | Literal["auto"]],
    density: str,
    continuous: bool | Literal["auto"],
    view: str,
    opponents: str,
    max_steps: int,
) -> ParallelTeamEnv:
    from gcoord.envs.parallel import ParallelTeamEnv

    name, n = f"magent/dgn_{task}", AGENTS if batch[0] is None else batch[0]
    if continuous is True:
        raise ValueError(f"expected continuous=false or auto in {name}, whose actions are discrete (got true)")
    for option, value, known in (("density", density, DENSITIES), ("view", view, VIEWS), ("opponents", opponents, WHO)):
        if value not in known:
            raise ValueError(f"expected {option} to be {' or '.join(known)} in {name} (got {value!r})")
    ratio = max(n, 1) / AGENTS if density == "fixed" else 1.0
    side, others = max(SMALLEST, round(SIDE * math.sqrt(ratio))), max(1, round(OTHERS * ratio))
    # Beyond that the engine, which draws squares until it finds a free one, takes its time and in the end gives up.
    largest = LARGEST if density == "fixed" else (side - 2) ** 2 // 2 - others
    if not 1 <= n <= largest:
        raise ValueError(f"expected n_agents from 1 to {largest} in {name}, density={density} (got {n})")
    kwargs = dict(task=task, side=side, opponents=opponents, n=n, others=others, view=view, steps=max_steps)
    recipe = Recipe(
        "gcoord.envs.magent_dgn:make",
        kwargs,
        reductions=TASKS[task].reductions,
        max_steps=max_steps,
        rejoins=task == "battle",
        picture="gcoord.envs.screens:grid",
        arrays=True,
    )
    script = functools.partial(by_script, PLAIN if task == "battle" else SEATS, (OURS,), True)
    _, num_envs, device, seed, workers = batch
    return ParallelTeamEnv(
        recipe,
        num_envs,
        n,
        device,
        seed,
        workers,
        scripted=script if view == "channels" else None,
        world=name,
        density=density,
    )


_AROUND = "the 11 x 11 squares around it: walls, where both groups stand, their health and spread over the map"
CARDS = {
    "magent/dgn_battle": Card(
        sizes=(5, 20, 40),
        largest=LARGEST,
        knows=_AROUND,
        arena="the map and the enemies grow with the team",
        dies=True,
        extra="magent",
        random=3.8,
        scripted=257.0,
        note=(
            "Over 100 games the script makes 0.857 +- 0.012 a slot and step, 213 kills and 111 deaths (ratio 1.92); "
            "where successors act at once, as in the paper's games, 0.880 +- 0.015, 219 and 113."
        ),
    ),
    "magent/dgn_jungle": Card(
        sizes=(5, 20, 50),
        largest=LARGEST,
        knows=_AROUND,
        arena="the map and the food grow with the team",
        extra="magent",
        random=-2.2,
        scripted=111.0,
        note="Nobody hurts a fellow by script. 50 agents with 12 pieces of food: density=arena.",
    ),
}
