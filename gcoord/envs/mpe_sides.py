"""MPE's worlds of two sides, set up so that nothing an agent senses depends on the size of its team.

Each side hears its own over the graph; of the other it knows what the world shows, as entities: every agent is an
entity too, for those of the other side alone. `hears` says who is known to whom.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.mpe import OCCUPIED
from gcoord.envs.mpe_fixed import Both, Workers
from gcoord.envs.recipe import Recipe

if TYPE_CHECKING:
    from gcoord.envs.parallel import ParallelTeamEnv, Scripted
    from gcoord.spec import Reduction

Density = Literal["fixed", "arena"]
# The worlds' own teams, whose densities `density="fixed"` keeps.
TAG, ADVERSARY, WORLD = 4, 3, 6


def simple_tag(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    density: Density = "fixed",
    continuous: Both = "auto",
    n_prey: int | None = None,
    n_obstacles: int | None = None,
    max_cycles: int | None = None,
    terminate_on_success: bool = False,
) -> ParallelTeamEnv:
    """Slow predators chase quick prey among obstacles (https://mpe2.farama.org/environments/simple_tag).

    Two kinds: `adversary`, the predators, and `agent`, the prey. own [4]: velocity, and position in half sides of the
    square. Entities [5]: obstacles, and for each side the other's agents (which of the three, and the velocity of
    prey). Reward: predators 10 for each pair in touch, of all of them; prey -10 for each predator that touches it, and
    less beyond 0.9 of the way to the border.

    Arguments:
        n_agents: both kinds, 2 or more; None: the world's 4.
        density: `fixed`: the square's half side is sqrt(n / 4), and obstacles grow with n / 2, episodes with sqrt(n /
            4) from 25 steps on; `arena`: 1, 2 obstacles and 25 steps whatever the team.
        continuous: a box of 5 instead of 5 actions; auto: 5 actions.
        n_prey: None: one of every four agents, at least one. n_obstacles, max_cycles: None: by `density`.
        terminate_on_success: end as soon as all prey is touched at once.

    Metrics: `touches`, predators and prey in touch, per prey and summed over the steps.
    """
    n, half, steps = _team("simple_tag", n_agents, TAG, 2, density, max_cycles)
    prey = _checked_prey("simple_tag", max(1, n // 4) if n_prey is None else n_prey, n - 1)
    layout = {
        "num_good": prey,
        "num_adversaries": n - prey,
        "num_obstacles": max(1, round(2 * half**2)) if n_obstacles is None else n_obstacles,
    }
    options = {"terminate_on_success": terminate_on_success}
    batch = (n, num_envs, device, seed, workers)
    return _sides("simple_tag", batch, density, continuous, half, steps, layout, options, {"touches": "sum"})


def simple_adversary(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    density: Density = "fixed",
    continuous: Both = "auto",
    max_cycles: int | None = None,
) -> ParallelTeamEnv:
    """Agents keep from an adversary which landmark is the goal (https://mpe2.farama.org/environments/simple_adversary).

    Two kinds, one `adversary` and the `agent`s, who are as many as landmarks. own [2]: where the goal is; zeros for the
    adversary. Entities [3]: landmarks, and for each side the other's agents (which of the three). Reward: adversary,
    minus its distance to the goal; agents that distance less the nearest agent's.

    Arguments: as `simple_tag`, with n_agents: both kinds, 2 or more; None: the world's 3; density: `fixed`: half side
        and episode grow with sqrt(n / 3) from 1 and from 25 steps.
    Metrics: `success`, whether an agent is within 0.1 of the goal at the end, and `found`, whether the adversary is.
    """
    n, half, steps = _team("simple_adversary", n_agents, ADVERSARY, 2, density, max_cycles)
    batch = (n, num_envs, device, seed, workers)
    metrics: dict[str, Reduction] = {"success": "last", "found": "last"}
    return _sides("simple_adversary", batch, density, continuous, half, steps, {"N": n - 1}, {}, metrics)


def simple_world_comm(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    density: Density = "fixed",
    continuous: Both = "auto",
    n_prey: int | None = None,
    n_obstacles: int | None = None,
    n_food: int | None = None,
    n_forests: int | None = None,
    max_cycles: int | None = None,
) -> ParallelTeamEnv:
    """Predators led by one of them hunt prey that feeds and hides (https://mpe2.farama.org/environments/simple_world_comm).

    Three kinds: `leadadversary`, `adversary` and the prey, `agent`. own [9]: velocity, position in half sides of the
    square, whether it is in a forest (1 or -1), the leader's word of the step before (4, zeros for prey). Who is in a
    forest is known only to those in the same one and to the leader; who is in none, to those in none and to the leader;
    the same goes for messages of one's own side. Entities [7]: obstacles, food, forests, and for each side the other's
    agents (which of the five, and the velocity of prey). Actions: 5 moves; the leader's are 20, with a word of 4.
    Reward: predators 5 for each pair in touch less a tenth of the distance to the nearest prey; prey 2 for each food it
    touches, -5 for each predator, less a twentieth of the distance to the nearest food, and less near the border.

    Arguments:
        n_agents: all kinds, 3 or more; None: the world's 6.
        density: `fixed`: the square's half side is sqrt(n / 6), obstacles, food and forests grow with n / 6 from 1, 2
            and 2, episodes with sqrt(n / 6) from 25 steps on; `arena`: as the world has it whatever the team.
        continuous: boxes of 5, and of 9 for the leader; auto: numbered actions.
        n_prey: None: one of every three agents. The others: None: by `density`.

    Metrics: `touches`, predators and prey in touch, and `food`, prey and food in touch, both per prey and summed over
    the steps.
    """
    n, half, steps = _team("simple_world_comm", n_agents, WORLD, 3, density, max_cycles)
    prey = _checked_prey("simple_world_comm", max(1, n // 3) if n_prey is None else n_prey, n - 2)
    ratio = half**2
    layout = {
        "num_good_agents": prey,
        "num_adversaries": n - prey,
        "num_landmarks": max(1, round(ratio)) if n_obstacles is None else n_obstacles,
        "num_food": max(1, round(2 * ratio)) if n_food is None else n_food,
        "num_forests": max(1, round(2 * ratio)) if n_forests is None else n_forests,
    }
    if layout["num_food"] < 1:
        raise ValueError(f"expected n_food of at least 1 in mpe/simple_world_comm (got {n_food})")
    batch = (n, num_envs, device, seed, workers)
    metrics: dict[str, Reduction] = {"touches": "sum", "food": "sum"}
    return _sides("simple_world_comm", batch, density, continuous, half, steps, layout, {}, metrics)


def _team(
    name: str, n_agents: int | None, own: int, smallest: int, density: Density, max_cycles: int | None
) -> tuple[int, float, int]:
    """Team size, half side of the square, steps of an episode."""
    n = own if n_agents is None else n_agents
    if n < smallest:
        raise ValueError(f"expected at least {smallest} agents in mpe/{name}, one of each kind (got {n})")
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    half = math.sqrt(n / own) if density == "fixed" else 1.0
    return n, half, max_cycles or max(25, round(25 * half))


def _checked_prey(name: str, prey: int, most: int) -> int:
    if not 1 <= prey <= most:
        raise ValueError(f"expected n_prey from 1 to {most} in mpe/{name} with so many agents (got {prey})")
    return prey


def _sides(
    name: str,
    batch: tuple[int, int, str, int, Workers],
    density: Density,
    continuous: Both,
    half: float,
    max_cycles: int,
    layout: dict[str, int],
    options: dict[str, Any],
    metrics: dict[str, Reduction],
) -> ParallelTeamEnv:
    """batch: n_agents, num_envs, device, seed, workers. layout, options: of the world's scenario."""
    from gcoord.envs import mpe_scripts
    from gcoord.envs.parallel import ParallelTeamEnv

    n, num_envs, device, seed, workers = batch
    scripts: dict[str, Scripted] = {
        "simple_tag": functools.partial(mpe_scripts.tag, half),
        "simple_adversary": mpe_scripts.adversary,
        "simple_world_comm": functools.partial(mpe_scripts.world_comm, half),
    }
    world = {"half": half, "max_cycles": max_cycles, "continuous": continuous is True}
    recipe = Recipe(
        "gcoord.envs.mpe_scenarios:make",
        {"name": name, **world, "layout": layout, "options": options},
        positions="gcoord.envs.mpe:agent_positions",
        entities="gcoord.envs.mpe_scenarios:things",
        hears="gcoord.envs.mpe_scenarios:known",
        metrics=f"gcoord.envs.mpe_sides:{name}_metrics",
        reductions=metrics,
        max_steps=max_cycles,
        kinds="names",
    )
    return ParallelTeamEnv(
        recipe, num_envs, n, device, seed, workers, scripted=scripts[name], world=f"mpe/{name}", density=density
    )


def simple_tag_metrics(env: Any) -> dict[str, float]:
    """Predators and prey in touch now, per prey."""
    touching = env.unwrapped.scenario.touching
    return {"touches": float(touching.sum() / touching.shape[1])}


def simple_world_comm_metrics(env: Any) -> dict[str, float]:
    """Predators and prey, and prey and food, in touch now, per prey."""
    scenario = env.unwrapped.scenario
    prey = scenario.touching.shape[1]
    return {"touches": float(scenario.touching.sum() / prey), "food": float(scenario.eating.sum() / prey)}


def simple_adversary_metrics(env: Any) -> dict[str, float]:
    """Whether an agent, and whether the adversary, is at the goal."""
    agents = env.unwrapped.world.agents
    far = [np.linalg.norm(agent.state.p_pos - agent.goal_a.state.p_pos) for agent in agents]
    return {"success": float(min(far[1:]) < OCCUPIED), "found": float(far[0] < OCCUPIED)}


_GIVEN = "who hears whom is the world's: hear by topology=auto or given"
_SQUARE = "the square's sides and the episode grow with sqrt(n / {}) from 2 and from 25 steps"
CARDS = {
    "mpe/simple_adversary": Card(
        (2, 3, 6),
        "where the goal is; the adversary nothing",
        smallest=2,
        entities="landmarks, one of which is the goal; the other side's agents",
        arena=_SQUARE.format(3),
        extra="petting",
        random=-4.38,
        scripted=-0.14,
        note=f"one adversary against all others; figures are means over all; {_GIVEN}",
    ),
    "mpe/simple_tag": Card(
        (2, 4, 8),
        "its velocity; its place in the square",
        smallest=2,
        entities="obstacles; the other side's agents, prey with its velocity",
        arena=_SQUARE.format(4) + ", the obstacles with n / 2",
        extra="petting",
        random=-0.91,
        scripted=2.58,
        note=f"both kinds act, one of every four agents is prey; figures are means over both; {_GIVEN}",
    ),
    "mpe/simple_world_comm": Card(
        (3, 6, 12),
        "its velocity; its place in the square; whether it is in a forest; predators the leader's word",
        smallest=3,
        entities="obstacles, food and forests; the other side's agents that it sees, prey with its velocity",
        arena=_SQUARE.format(6) + ", obstacles, food and forests with n / 6 from 1, 2 and 2",
        extra="petting",
        random=-5.96,
        scripted=0.66,
        note=f"both sides act, one of every three agents is prey; figures are means over all; {_GIVEN}",
    ),
}
