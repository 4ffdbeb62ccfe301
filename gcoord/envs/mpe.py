"""MPE worlds, set up so that nothing an agent senses depends on the size of its team."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.together import Together

if TYPE_CHECKING:
    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import Reward

AGENTS, OCCUPIED = 3, 0.1


CARDS = {
    "mpe/simple_spread": Card(
        sizes=(3, 5, 10),
        knows="its velocity",
        entities="the landmarks, each with its position",
        arena="the square's sides grow with sqrt(n / 3) from 2, and the episode with them from 25 steps",
        extra="petting",
        random=-26.1,
        scripted=-9.22,
    ),
}


def simple_spread(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    local_ratio: float = 0.5,
    max_cycles: int | None = None,
    terminate_on_success: bool = False,
) -> ParallelTeamEnv:
    """N agents cover N landmarks without colliding (https://mpe2.farama.org/environments/simple_spread).

    own [2] is the velocity alone. What the raw observation (6 N numbers) adds comes over the graph: the others as
    senders, the landmarks as entities (one constant feature), each with its position; where one stands in the world is
    not sensed. Reward: minus the distance of each landmark to its nearest agent, shared, mixed by `local_ratio` with
    minus one for each agent one collides with.

    Arguments:
        n_agents: agents and landmarks; None: the world's 3.
        density: `fixed`: the square in which all start has sides 2 sqrt(n / 3), and episodes 25 sqrt(n / 3) steps (at
            least 25), so that ways are as long as the time for them; `arena`: 2 x 2 and 25 steps whatever the team.
        continuous: a box of 5 instead of 5 actions; auto: 5 actions.
        local_ratio: share of one's own reward. max_cycles: steps of an episode (None: by `density`).
        terminate_on_success: end as soon as every landmark is occupied.

    Metrics: `success`, the share of landmarks with an agent within 0.1 at the episode's end, and `collisions`, pairs of
    agents in touch, summed over the steps.
    """
    from gcoord.envs.mpe_scripts import share_out
    from gcoord.envs.parallel import ParallelTeamEnv

    n = AGENTS if n_agents is None else n_agents
    if n < 1:
        raise ValueError(f"expected at least one agent in mpe/simple_spread (got {n})")
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    if not 0 <= local_ratio <= 1:
        raise ValueError(f"expected local_ratio between 0 and 1 (got {local_ratio})")
    half = math.sqrt(n / AGENTS) if density == "fixed" else 1.0
    max_cycles = max_cycles or max(25, round(25 * half))
    kwargs = {
        "n": n,
        "half": half,
        "max_cycles": max_cycles,
        "local_ratio": local_ratio,
        "continuous": continuous is True,
        "terminate_on_success": terminate_on_success,
    }
    shares: dict[float, Reward] = {0.0: "team", 1.0: "own"}
    recipe = Recipe(
        "gcoord.envs.mpe:make_spread",
        kwargs,
        positions="gcoord.envs.mpe:agent_positions",
        entities="gcoord.envs.mpe:landmarks",
        metrics="gcoord.envs.mpe:spread_metrics",
        reductions={"success": "last", "collisions": "sum"},
        max_steps=max_cycles,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        n,
        device,
        seed,
        workers,
        reward=shares.get(local_ratio, "mixed"),
        scripted=share_out,
        world="mpe/simple_spread",
        density=density,
    )


def make_spread(
    n: int, half: float, max_cycles: int, local_ratio: float, continuous: bool, terminate_on_success: bool
) -> Any:
    """MPE's simple_spread where agents sense their velocity, and all start within `half` of the middle."""
    with quiet_imports():
        base: Any = find_function("mpe2.simple_spread.simple_spread:Scenario")
        simple_env: Any = find_function("mpe2._mpe_utils.simple_env:SimpleEnv")

    class Spread(base):  # type: ignore[misc]
        def reset_world(self, world: Any, np_random: np.random.Generator) -> None:
            super().reset_world(world, np_random)
            for entity in world.entities:
                entity.state.p_pos = entity.state.p_pos * half

        def observation(self, agent: Any, world: Any) -> np.ndarray:
            return agent.state.p_vel  # type: ignore[no-any-return]

        def reward(self, agent: Any, world: Any) -> float:
            others = np.stack([other.state.p_pos for other in world.agents]) - agent.state.p_pos
            touching = np.sqrt((others**2).sum(-1)) < 2 * agent.size
            return -float(touching.sum() - 1)

        def global_reward(self, world: Any) -> float:
            return -float(_gaps(world).min(0).sum())

    scenario = Spread(terminate_on_success=terminate_on_success)
    world = simple_env(
        scenario=scenario,
        world=scenario.make_world(n),
        max_cycles=max_cycles,
        continuous_actions=continuous,
        local_ratio=local_ratio,
    )
    return Together(world)


def agent_positions(env: Any) -> dict[str, np.ndarray]:
    """Where each agent stands."""
    return {agent.name: agent.state.p_pos for agent in env.unwrapped.world.agents}


def landmarks(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks have nothing but a place: one constant feature [M, 1], and positions [M, 2]."""
    places = np.stack([landmark.state.p_pos for landmark in env.unwrapped.world.landmarks])
    return np.ones((len(places), 1), np.float32), places


def spread_metrics(env: Any) -> dict[str, float]:
    """Share of landmarks occupied, and pairs of agents in touch, now."""
    world = env.unwrapped.world
    agents = np.stack([agent.state.p_pos for agent in world.agents])
    apart = np.sqrt(((agents[:, None] - agents) ** 2).sum(-1))
    touching = int((apart < 2 * world.agents[0].size).sum()) - len(agents)
    occupied = _gaps(world).min(0) < OCCUPIED
    return {"success": float(occupied.mean()), "collisions": touching / 2}


def _gaps(world: Any) -> np.ndarray:
    """[N, M]: distance of each agent to each landmark."""
    agents = np.stack([agent.state.p_pos for agent in world.agents])
    places = np.stack([landmark.state.p_pos for landmark in world.landmarks])
    return np.sqrt(((agents[:, None] - places) ** 2).sum(-1))  # type: ignore[no-any-return]
