"""MAgent2's worlds: teams on a grid whose size sets theirs, one side learning against another.

An agent senses the squares around it (own [C, H, W]): obstacles, then of every group, its own first, where its members
stand and their health. With `minimap` also how each group is spread over the map, and where one stands on it.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.magent_worlds import FAMILIES, PLAIN, Family, team_sizes
from gcoord.envs.opponents import checked
from gcoord.envs.recipe import Recipe, find_function
from gcoord.envs.scripts import by_kind

if TYPE_CHECKING:
    from torch import Tensor

    from gcoord.envs.gridworld import Kind
    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation


def battle(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    map_size: int | None = None,
    side: Literal["red", "blue", "both"] = "red",
    opponents: str = "random",
    foes_heard: bool = True,
    minimap: bool = False,
    max_cycles: int = 1000,
    step_reward: float = -0.005,
    dead_penalty: float = -0.1,
    attack_penalty: float = -0.1,
    attack_opponent_reward: float = 0.2,
) -> ParallelTeamEnv:
    """Two armies of equal strength in the open (https://magent2.farama.org/environments/battle).

    Twelve moves and eight attacks; 10 health, 2 lost for each hit, 0.1 back a step. A kill earns 5. The episode ends
    when a side is gone, or after `max_cycles`. All start in two squares: only what is done tells episodes apart.

    Arguments:
        n_agents: of our side (of both, where both are ours): the map with the nearest team is taken, and a warning
            says so where it has another. map_size: 12 to 300, instead. Neither: 45, of 81 against 81.
        density: `fixed` alone: the map grows with the team.
        side: who learns. `both`: both sides are one team under one learner.
        opponents: who moves the other side: `random`, `script`, a run folder whose policy (greedy) was trained in the
            same world, or `self`, which is the same as side=both.
        foes_heard: False, where both sides are ours: the world gives the graph, in which each side hears all of its
            own and no foe; True: the graph is the topology's.
        minimap: adds how both sides are spread over the map, and where one stands on it.

    Metrics: `kills` and `deaths` in the episode, their ratio `kill_death_ratio` (deaths counted as 1 at least), and
    `success`: whether the other side was wiped out. With both sides ours, `deaths` alone.
    Raises ValueError for a team or map that the world cannot have.
    """
    rewards = dict(
        step_reward=step_reward,
        dead_penalty=dead_penalty,
        attack_penalty=attack_penalty,
        attack_opponent_reward=attack_opponent_reward,
    )
    return _make(
        "battle",
        (n_agents, num_envs, device, seed, workers),
        (density, continuous, map_size),
        dict(side=side, opponents=opponents, foes_heard=foes_heard, minimap=minimap, max_cycles=max_cycles),
        rewards,
    )


def battlefield(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    continuous: bool | Literal["auto"] = "auto",
    side: Literal["red", "blue", "both"] = "red",
    opponents: str = "random",
    foes_heard: bool = True,
    minimap: bool = False,
    max_cycles: int = 1000,
    step_reward: float = -0.005,
    dead_penalty: float = -0.1,
    attack_penalty: float = -0.1,
    attack_opponent_reward: float = 0.2,
) -> ParallelTeamEnv:
    """Battle among walls, 12 against 12 on 80 x 80 squares (https://magent2.farama.org/environments/battlefield).

    Everything else as in `battle`.
    """
    rewards = dict(
        step_reward=step_reward,
        dead_penalty=dead_penalty,
        attack_penalty=attack_penalty,
        attack_opponent_reward=attack_opponent_reward,
    )
    return _make(
        "battlefield",
        (n_agents, num_envs, device, seed, workers),
        ("none", continuous, None),
        dict(side=side, opponents=opponents, foes_heard=foes_heard, minimap=minimap, max_cycles=max_cycles),
        rewards,
    )


def combined_arms(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    map_size: int | None = None,
    side: Literal["red", "blue", "both"] = "red",
    opponents: str = "random",
    foes_heard: bool = True,
    minimap: bool = False,
    max_cycles: int = 1000,
    step_reward: float = -0.005,
    dead_penalty: float = -0.1,
    attack_penalty: float = -0.1,
    attack_opponent_reward: float = 0.2,
) -> ParallelTeamEnv:
    """Two armies of two kinds, under one learner each (https://magent2.farama.org/environments/combined_arms).

    `melee` (10 health) move one square and hit those beside them, 9 actions; `ranged` (3 health) two squares each, 25
    actions. Fellows can be hit too. It ends when one kind of a side is gone. Maps from 16 (3 and 3 a side); everything
    else as in `battle`.
    """
    rewards = dict(
        step_reward=step_reward,
        dead_penalty=dead_penalty,
        attack_penalty=attack_penalty,
        attack_opponent_reward=attack_opponent_reward,
    )
    return _make(
        "combined_arms",
        (n_agents, num_envs, device, seed, workers),
        (density, continuous, map_size),
        dict(side=side, opponents=opponents, foes_heard=foes_heard, minimap=minimap, max_cycles=max_cycles),
        rewards,
    )


def adversarial_pursuit(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    map_size: int | None = None,
    side: Literal["predator", "prey", "both"] = "predator",
    opponents: str = "random",
    foes_heard: bool = True,
    minimap: bool = False,
    max_cycles: int = 500,
    tag_penalty: float = -0.2,
) -> ParallelTeamEnv:
    """Slow predators of 2 x 2 squares tag quicker prey (https://magent2.farama.org/environments/adversarial_pursuit).

    A tag earns the predator 1 and costs the prey 1, and costs `tag_penalty` whether it hits or not; nobody dies.
    Predators: 13 actions, own [5, 10, 10]; prey, twice as many: 9 actions, own [5, 9, 9]; both at once are two kinds.
    Walls and all who start stand at random. Maps from 9 (1 and 2); other arguments as in `battle`.

    Metrics: `tags` in the episode.
    """
    return _make(
        "adversarial_pursuit",
        (n_agents, num_envs, device, seed, workers),
        (density, continuous, map_size),
        dict(side=side, opponents=opponents, foes_heard=foes_heard, minimap=minimap, max_cycles=max_cycles),
        dict(tag_penalty=tag_penalty),
    )


def tiger_deer(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    map_size: int | None = None,
    side: Literal["tiger", "deer", "both"] = "tiger",
    opponents: str = "random",
    foes_heard: bool = True,
    minimap: bool = False,
    max_cycles: int = 300,
    tiger_step_recover: float = -0.1,
    deer_attacked: float = -0.1,
) -> ParallelTeamEnv:
    """Tigers that starve without deer (https://magent2.farama.org/environments/tiger_deer).

    Two tigers that attack the same deer at once earn 1 each pair; a deer that is attacked earns `deer_attacked`, one
    that dies -1. Tigers lose 0.1 of 10 health a step and get 8 for a kill: without one they are dead at step 100, which
    ends the episode. Tigers: 9 actions, own [5, 9, 9]; deer, five times as many: 5 actions, own [5, 3, 3]. Maps from 10
    (1 and 5); other arguments and metrics as in `battle`.
    """
    return _make(
        "tiger_deer",
        (n_agents, num_envs, device, seed, workers),
        (density, continuous, map_size),
        dict(side=side, opponents=opponents, foes_heard=foes_heard, minimap=minimap, max_cycles=max_cycles),
        dict(tiger_step_recover=tiger_step_recover, deer_attacked=deer_attacked),
    )


def gather(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    continuous: bool | Literal["auto"] = "auto",
    minimap: bool = False,
    max_cycles: int = 500,
    step_reward: float = -0.01,
    attack_penalty: float = -0.1,
    dead_penalty: float = -1.0,
    attack_food_reward: float = 0.5,
) -> ParallelTeamEnv:
    """495 agents feed on a field of food, or kill for it (https://magent2.farama.org/environments/gather).

    28 moves and four attacks; food takes five bites (0.5 each, 5 more for the last), a fellow dies of one. The team is
    fixed, and so is where all start.

    Metrics: `eaten`, pieces of food, and `deaths`, in the episode.
    """
    rewards = dict(
        step_reward=step_reward,
        attack_penalty=attack_penalty,
        dead_penalty=dead_penalty,
        attack_food_reward=attack_food_reward,
    )
    return _make(
        "gather",
        (n_agents, num_envs, device, seed, workers),
        ("none", continuous, None),
        dict(side="omnivore", opponents="random", foes_heard=True, minimap=minimap, max_cycles=max_cycles),
        rewards,
    )


def _make(
    world: str,
    batch: tuple[int | None, int, str, int, int | Literal["auto"]],
    form: tuple[str, bool | Literal["auto"], int | None],
    options: dict[str, Any],
    rewards: dict[str, float],
) -> ParallelTeamEnv:
    """batch: n_agents, num_envs, device, seed, workers. form: density, continuous, map_size."""
    from gcoord.envs.parallel import ParallelTeamEnv

    name, family = f"magent/{world}", FAMILIES[world]
    (n_agents, num_envs, device, seed, workers), (density, continuous, map_size) = batch, form
    if continuous is True:
        raise ValueError(f"expected continuous=false or auto in {name}, whose actions are discrete (got true)")
    if density == "arena":
        raise ValueError(f"expected density=fixed in {name}, where the map's size sets the team's (got 'arena')")
    side = _side(name, family, options["side"], options["opponents"])
    groups = family.groups(side)
    find_function("magent2:GridWorld")
    map_size = _map_size(world, groups, n_agents, map_size)
    others = tuple(g for g in family.groups("both") if g not in groups)
    opponents = "random"
    if others:
        kinds = family.kinds_of(others)
        opponents = checked(options["opponents"], kinds, family.own(kinds, options["minimap"]), name)
    if not options["foes_heard"] and others:
        raise ValueError(f"expected foes_heard=false only where both sides of {name} are ours (got side={side})")
    recipe = Recipe(
        "gcoord.envs.magent_worlds:make",
        dict(world=world, map_size=map_size, **options | dict(side=side, opponents=opponents), rewards=rewards),
        reductions=family.world.reductions(side),
        max_steps=options["max_cycles"],
        picture="gcoord.envs.screens:grid",
        arrays=True,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        None,
        device,
        seed,
        workers,
        scripted=functools.partial(by_script, PLAIN, family.kinds_of(groups), options["minimap"]),
        world=name,
        density=density,
    )


def _side(name: str, family: Family, side: str, opponents: str) -> str:
    sides = [*family.sides, "both"]
    if side not in sides:
        raise ValueError(f"expected side to be {', '.join(sides[:-1])} or both in {name} (got {side!r})")
    if side == "both" and opponents not in ("random", "self"):
        raise ValueError(f"expected opponents only where a side of {name} is not ours (got {opponents!r}, side=both)")
    return "both" if opponents == "self" else side


def _map_size(world: str, groups: tuple[int, ...], n_agents: int | None, map_size: int | None) -> int:
    """The map that was asked for, or the smallest of those whose team is nearest to the one asked for."""
    family, name = FAMILIES[world], f"magent/{world}"
    teams = {size: sum(counts[g] for g in groups) for size, counts in team_sizes(world).items()}
    if map_size is not None and map_size not in teams:
        raise ValueError(f"expected map_size from {min(teams)} to {max(teams)} in {name} (got {map_size})")
    if n_agents is None:
        return map_size or family.default
    if map_size is not None or len(teams) == 1:
        size = map_size or family.default
        if teams[size] != n_agents:
            raise ValueError(
                f"expected n_agents={teams[size]}, the team of {name} on its map of {size} (got {n_agents})"
            )
        return size
    largest = max(teams.values())
    if not 1 <= n_agents <= largest:
        raise ValueError(f"expected n_agents from 1 to {largest} in {name} (got {n_agents})")
    size = min(teams, key=lambda size: (abs(teams[size] - n_agents), size))
    if teams[size] != n_agents:
        warnings.warn(
            f"{name} has teams by its map: {teams[size]} agents on {size} x {size} squares are the nearest to the "
            f"n_agents={n_agents} asked for",
            stacklevel=4,
        )
    return size


def by_script(script: str, kinds: tuple[Kind, ...], minimap: bool, spec: TeamSpec, observation: Observation) -> Tensor:
    """Actions [B, N] of a script (`package.module:function`), which draws from a stream that torch's seeds."""
    import torch

    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    kind, own = observation.kind[0].cpu().numpy(), observation.own.cpu().numpy()
    action = by_kind(find_function(script), kinds, kind, own, rng, minimap)
    return torch.from_numpy(action).to(observation.own.device)


_AROUND = "the squares around it: obstacles, where its own and other groups stand, and their health"
_GROWS = "by map size: the nearest to the team asked for is taken"
_FIRST = (
    "In the first step of an episode MAgent2's own wrapper (0.3.4) gives every group the first group's actions; here "
    "each has its own."
)
CARDS = {
    "magent/battle": Card(
        sizes=(6, 12, 81),
        largest=3600,
        knows=_AROUND,
        arena=_GROWS,
        dies=True,
        extra="magent",
        random=-40.2,
        scripted=4.89,
        note=f"Figures against random opponents. {_FIRST}",
    ),
    "magent/battlefield": Card(
        sizes=(12,),
        largest=12,
        knows=_AROUND,
        dies=True,
        extra="magent",
        random=-43.0,
        scripted=1.06,
        note="Figures against random opponents.",
    ),
    "magent/adversarial_pursuit": Card(
        sizes=(1, 5, 25),
        largest=1125,
        knows=_AROUND,
        arena=_GROWS,
        extra="magent",
        random=-53.3,
        scripted=272.0,
        note="Figures of predators against random prey.",
    ),
    "magent/combined_arms": Card(
        sizes=(6, 12, 36),
        largest=3600,
        knows=_AROUND,
        arena=_GROWS,
        dies=True,
        extra="magent",
        random=-17.1,
        scripted=3.20,
        note="Figures against random opponents.",
    ),
    "magent/tiger_deer": Card(
        sizes=(1, 4, 20),
        largest=900,
        knows=_AROUND,
        arena=_GROWS,
        dies=True,
        extra="magent",
        random=0.005,
        scripted=3.59,
        note="Figures of tigers against random deer. The episode goes on beyond step 100 where tigers eat.",
    ),
    "magent/gather": Card(sizes=(495,), largest=495, knows=_AROUND, dies=True, extra="magent"),
}
