"""MPE's worlds of one team size: what an agent senses is what the world says, which does not grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.mpe import OCCUPIED
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.together import Together

if TYPE_CHECKING:
    from torch import Tensor

    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import Reduction, Reward

Workers = int | Literal["auto"]
Both = bool | Literal["auto"]


def simple(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    continuous: Both = "auto",
    max_cycles: int = 25,
) -> ParallelTeamEnv:
    """One agent goes to a landmark (https://mpe2.farama.org/environments/simple).

    own [4]: velocity, and where the landmark is. Reward: minus the squared distance to it. Actions: stay, and a push
    along each axis; continuous: a box of 5, the same as shares.

    Arguments:
        n_agents: 1, fixed. continuous: a box of 5 instead of 5 actions; auto: 5 actions. max_cycles: of an episode.

    Metrics: `success`, whether it is within 0.1 at the end.
    """
    batch = (n_agents, num_envs, device, seed, workers)
    return _fixed("simple", 1, batch, continuous, max_cycles, "own", {"success": "last"}, "to_the_landmark")


def simple_push(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    continuous: Both = "auto",
    max_cycles: int = 25,
) -> ParallelTeamEnv:
    """An adversary pushes an agent away from its landmark (https://mpe2.farama.org/environments/simple_push).

    own: adversary [8] velocity, two landmarks, the other; agent [19] velocity, goal, own colour, landmarks and their
    colours, the other. Reward: agent, minus its distance to the goal; adversary, that distance less its own to it. Each
    senses the other, and neither hears it (`hears`).

    Arguments: as `simple`, with n_agents: 2, fixed.
    Metrics: `success`, whether the agent is within 0.1 of its goal at the end.
    """
    batch = (n_agents, num_envs, device, seed, workers)
    return _fixed("simple_push", 2, batch, continuous, max_cycles, "own", {"success": "last"}, "push", hears="nobody")


def simple_crypto(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    continuous: Both = "auto",
    max_cycles: int = 25,
) -> ParallelTeamEnv:
    """Alice tells Bob a secret in public, Eve listens (https://mpe2.farama.org/environments/simple_crypto).

    own: Eve [4] Alice's word of the step before; Bob [8] the key and that word; Alice [8] the secret and the key, each
    one of two. Actions: 4 words; continuous: a box of 4. Reward: minus the squared distance of what one says to the
    secret for Eve; for Bob and Alice that of what Bob says, less Eve's. A message over the graph would give the secret
    away: nobody hears anybody (`hears`), the word is all.

    Arguments: as `simple`, with n_agents: 3, fixed.
    Metrics: `bob` and `eve`, whether their loudest word is the secret, as shares of the steps.
    """
    batch = (n_agents, num_envs, device, seed, workers)
    metrics: dict[str, Reduction] = {"bob": "mean", "eve": "mean"}
    return _fixed("simple_crypto", 3, batch, continuous, max_cycles, "own", metrics, "crypto", hears="nobody")


def simple_reference(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    continuous: Both = "auto",
    local_ratio: float = 0.5,
    max_cycles: int = 25,
) -> ParallelTeamEnv:
    """Each of two agents knows the other's goal (https://mpe2.farama.org/environments/simple_reference).

    own [21]: velocity, three landmarks, the colour of the other's goal, the other's word of the step before. Actions:
    50, a move of 5 and a word of 10; continuous: a box of 15. Reward: minus the distance of the other to its goal,
    mixed by `local_ratio` with the mean of both. The graph carries messages besides the word.

    Arguments: as `simple`, with n_agents: 2, fixed. local_ratio: share of one's own reward.
    Metrics: `success`, the share of agents within 0.1 of their goal at the end.
    """
    if not 0 <= local_ratio <= 1:
        raise ValueError(f"expected local_ratio between 0 and 1 (got {local_ratio})")
    rule: Reward = "team" if local_ratio == 0 else "own" if local_ratio == 1 else "mixed"
    batch = (n_agents, num_envs, device, seed, workers)
    metrics: dict[str, Reduction] = {"success": "last"}
    given = {"local_ratio": local_ratio}
    return _fixed("simple_reference", 2, batch, continuous, max_cycles, rule, metrics, "reference", given=given)


def simple_speaker_listener(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: Workers = "auto",
    continuous: Both = "auto",
    max_cycles: int = 25,
) -> ParallelTeamEnv:
    """A speaker who cannot move knows the listener's goal (https://mpe2.farama.org/environments/simple_speaker_listener).

    own: speaker [3] the goal's colour; listener [11] velocity, three landmarks, the word of the step before. Actions: 3
    words; 5 moves; continuous: a box of so many. Reward of both: minus the squared distance of the listener to its
    goal. The graph carries messages besides the word.

    Arguments: as `simple`, with n_agents: 2, fixed.
    Metrics: `success`, whether the listener is within 0.1 of its goal at the end.
    """
    batch = (n_agents, num_envs, device, seed, workers)
    metrics: dict[str, Reduction] = {"success": "last"}
    return _fixed("simple_speaker_listener", 2, batch, continuous, max_cycles, "team", metrics, "speaker_listener")


def _fixed(
    name: str,
    n: int,
    batch: tuple[int | None, int, str, int, Workers],
    continuous: Both,
    max_cycles: int,
    reward: Reward,
    metrics: dict[str, Reduction],
    script: str,
    hears: str | None = None,
    given: dict[str, Any] | None = None,
) -> ParallelTeamEnv:
    """batch: n_agents, num_envs, device, seed, workers. script: in `mpe_scripts`; hears: a function of this module."""
    from gcoord.envs import mpe_scripts
    from gcoord.envs.parallel import ParallelTeamEnv

    n_agents, num_envs, device, seed, workers = batch
    if n_agents not in (None, n):
        raise ValueError(f"expected {n} agents in mpe/{name}, which is made for so many (got {n_agents})")
    recipe = Recipe(
        "gcoord.envs.mpe_fixed:make_fixed",
        {"name": name, "max_cycles": max_cycles, "continuous_actions": continuous is True, **(given or {})},
        positions="gcoord.envs.mpe:agent_positions",
        hears=f"gcoord.envs.mpe_fixed:{hears}" if hears else None,
        metrics=f"gcoord.envs.mpe_fixed:{name}_metrics",
        reductions=metrics,
        max_steps=max_cycles,
        kinds="names",
    )
    scripted: Callable[..., Tensor] = getattr(mpe_scripts, script)
    return ParallelTeamEnv(
        recipe, num_envs, n, device, seed, workers, reward=reward, scripted=scripted, world=f"mpe/{name}"
    )


def make_fixed(name: str, **kwargs: Any) -> Any:
    """The world itself."""
    with quiet_imports():
        raw: Any = find_function(f"mpe2.{name}.{name}:raw_env")
    return Together(raw(**kwargs))


def nobody(env: Any) -> np.ndarray:
    """[N, N]: no one is heard."""
    n = len(env.possible_agents)
    return np.zeros((n, n), bool)


def _is_near(one: Any, other: Any) -> bool:
    return bool(np.linalg.norm(one.state.p_pos - other.state.p_pos) < OCCUPIED)


def simple_metrics(env: Any) -> dict[str, float]:
    """Whether the agent is at the landmark."""
    world = env.unwrapped.world
    return {"success": float(_is_near(world.agents[0], world.landmarks[0]))}


def simple_push_metrics(env: Any) -> dict[str, float]:
    """Whether the agent is at its goal."""
    agent = env.unwrapped.world.agents[1]
    return {"success": float(_is_near(agent, agent.goal_a))}


def simple_crypto_metrics(env: Any) -> dict[str, float]:
    """Whether Bob and Eve say the secret loudest."""
    eve, bob, _ = env.unwrapped.world.agents
    return {
        name: float(agent.state.c.any() and agent.state.c.argmax() == agent.goal_a.color.argmax())
        for name, agent in (("bob", bob), ("eve", eve))
    }


def simple_reference_metrics(env: Any) -> dict[str, float]:
    """Share of agents at their goals, which the others know."""
    agents = env.unwrapped.world.agents
    return {"success": float(np.mean([_is_near(agent.goal_a, agent.goal_b) for agent in agents]))}


def simple_speaker_listener_metrics(env: Any) -> dict[str, float]:
    """Whether the listener is at the goal that the speaker knows."""
    speaker = env.unwrapped.world.agents[0]
    return {"success": float(_is_near(speaker.goal_a, speaker.goal_b))}


CARDS = {
    "mpe/simple": Card(
        (1,), "its velocity; where the landmark is", largest=1, extra="petting", random=-37.2, scripted=-7.57
    ),
    "mpe/simple_crypto": Card(
        (3,),
        "Alice a secret and a key, Bob the key and the word said, Eve the word",
        smallest=3,
        largest=3,
        extra="petting",
        random=-12.6,
        scripted=6.93,
        note="nobody is heard over the graph, which would give the secret away (topology=auto or given)",
    ),
    "mpe/simple_push": Card(
        (2,),
        "its velocity; where the landmarks and the other are; the agent which one is its goal",
        smallest=2,
        largest=2,
        extra="petting",
        random=-14.8,
        scripted=-5.8,
        note="nobody is heard over the graph (topology=auto or given); figures are means over both",
    ),
    "mpe/simple_reference": Card(
        (2,),
        "its velocity; where the landmarks are; the other's goal and the word said",
        smallest=2,
        largest=2,
        extra="petting",
        random=-27.4,
        scripted=-9.11,
        note="the graph carries messages besides the word",
    ),
    "mpe/simple_speaker_listener": Card(
        (2,),
        "the speaker the goal's colour; the listener its velocity, the landmarks and the word said",
        smallest=2,
        largest=2,
        extra="petting",
        random=-40.1,
        scripted=-8.58,
        note="the graph carries messages besides the word",
    ),
}
