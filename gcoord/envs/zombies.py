"""Butterfly's knights, archers and zombies, where what an agent senses does not depend on the size of its team."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.butterfly import View, checked_view, vector_space
from gcoord.envs.cards import Card
from gcoord.envs.pictures import STACK, Lens, Stacked, pixels
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.together import Together

if TYPE_CHECKING:
    from torch import Tensor

    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation

# The world's own team, zombies, arrows and steps from one zombie to the next, whose shares `density="fixed"` keeps.
TEAM, ZOMBIES, ARROWS, DELAY = 4, 10, 10, 20
# Pixels: the unit of positions, and the side of the picture about an agent.
UNIT, SIGHT = 100, 512
FORWARD, BACKWARD, LEFT, RIGHT, ATTACK, NOTHING = range(6)


def knights_archers_zombies(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    n_knights: int | None = None,
    view: View = "vector",
    stack: int = STACK,
    spawn_delay: int | None = None,
    max_zombies: int | None = None,
    max_arrows: int | None = None,
    killable_knights: bool = True,
    killable_archers: bool = True,
    line_death: bool = False,
    max_cycles: int = 900,
) -> ParallelTeamEnv:
    """Knights and archers keep zombies from the lower border
    (https://pettingzoo.farama.org/environments/butterfly/knights_archers_zombies).

    Reward of each: 1 for each zombie that it slays, in the step in which it does: PettingZoo's ParallelEnv pays all but
    the first agent one step late, and loses what is earned in the last step. Who is touched by a zombie is dead; the
    episode ends when all are, or when a zombie has reached the border. Actions: forward, backward, turn left, turn
    right, attack, nothing. Knights and archers are two kinds.

    Arguments:
        n_agents: 1 to 64; None: the world's 4. From the eleventh archer and knight on, several start at one place.
        density: the screen is 1280 x 720 whatever the team. `fixed`: zombies and arrows at a time grow with n / 4 from
            10 each, and zombies come n / 4 times as often as every 20 steps; `arena`: as in a team of 4.
        n_knights: None: half of the team, rounded down. The rest are archers.
        view: `vector`: own [4] is the place (0 to 1) and heading; swords, arrows and zombies are entities of 5
            features: which of the three, and heading. `image`: own [stack, 84, 84] bytes, the 512 x 512 pixels about
            an agent, grey, the last `stack` frames, the oldest first.
        spawn_delay, max_zombies, max_arrows: None: by `density`.

    Positions are middles, in hundreds of pixels, y downwards.
    Metrics: `kills`, zombies slain, summed over the steps, and `survivors`, the share that is alive at the end.
    """
    from gcoord.envs.parallel import ParallelTeamEnv

    n = TEAM if n_agents is None else n_agents
    if not 1 <= n <= 64:
        raise ValueError(f"expected 1 to 64 agents in butterfly/knights_archers_zombies (got {n})")
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    knights = n // 2 if n_knights is None else n_knights
    if not 0 <= knights <= n:
        raise ValueError(f"expected 0 to {n} of {n} agents to be knights (got n_knights={knights})")
    ratio = n / TEAM if density == "fixed" else 1.0
    kwargs = {
        "num_archers": n - knights,
        "num_knights": knights,
        "spawn_delay": spawn_delay or max(1, round(DELAY / ratio)),
        "max_zombies": max_zombies or math.ceil(ZOMBIES * ratio),
        "max_arrows": max_arrows or math.ceil(ARROWS * ratio),
        "killable_knights": killable_knights,
        "killable_archers": killable_archers,
        "line_death": line_death,
        "max_cycles": max_cycles,
    }
    recipe = Recipe(
        "gcoord.envs.zombies:make_zombies",
        {"view": checked_view(view, stack), "stack": stack, **kwargs},
        positions="gcoord.envs.zombies:places",
        entities="gcoord.envs.zombies:things" if view == "vector" else None,
        metrics="gcoord.envs.zombies:zombies_metrics",
        picture="gcoord.envs.screens:knights_archers_zombies",
        reductions={"kills": "sum", "survivors": "last"},
        max_steps=max_cycles,
        channels="first",
        kinds=("archer", "knight"),
        stack=stack if view == "image" else 1,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        n,
        device,
        seed,
        workers,
        scripted=slay,
        world="butterfly/knights_archers_zombies",
        density=density,
    )


def make_zombies(view: View, stack: int, **kwargs: Any) -> Any:
    """The world itself, drawn once a step and only where agents see pictures."""
    with quiet_imports():
        raw: Any = find_function("pettingzoo.butterfly.knights_archers_zombies_v11:raw_env")
    world = raw(obs_method=view, **kwargs)
    return Stacked(SeenZombies(world), stack) if view == "image" else FeltZombies(world)


class Zombies(Together):
    """The world with deaths, its rewards paid in the step in which they are earned."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        # A reset in the middle of an episode leaves these as they were.
        world = self.unwrapped
        world.zombie_spawn_interval.reset()
        world.kill_list, world.kills = [], 0
        return super().reset(seed, options)

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        world, agents = self.unwrapped, self.agents
        for name in agents:
            world.step(actions[name])
        # Raised after the last agent's move; the world sets it back at an agent's own move, so the dead would keep it.
        scores = {name: player.score for name, player in world.agent_map.items()}
        for player in world.agent_map.values():
            player.score = 0
        world.kills = sum(scores.values())
        rewards = {name: float(scores[name]) for name in agents}
        terminations = {name: world.terminations[name] for name in agents}
        truncations = {name: world.truncations[name] for name in agents}
        while world.agents and (world.terminations[world.agent_selection] or world.truncations[world.agent_selection]):
            world.step(None)
        self.agents = world.agents[:]
        return self.look(agents), rewards, terminations, truncations, {name: {} for name in agents}


class FeltZombies(Zombies):
    """The world in which each senses its own place and heading."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.observation_space = vector_space(4)

    def look(self, agents: list[str]) -> dict[str, Any]:
        return {name: self.unwrapped.agent_map[name].vector_state for name in agents}


class SeenZombies(Zombies):
    """The world in which each sees what is about it, grey and small."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._lens = Lens(SIGHT, SIGHT)
        self._margin: np.ndarray | None = None

    def look(self, agents: list[str]) -> dict[str, Any]:
        world = self.unwrapped
        world.draw()
        screen = pixels(world.screen)
        height, width, depth = screen.shape
        if self._margin is None:
            # Black where a picture reaches over the screen.
            self._margin = np.zeros((height + SIGHT, width + SIGHT, depth), np.uint8)
        half = SIGHT // 2
        self._margin[half : half + height, half : half + width] = screen
        corners = {name: world.agent_map[name].rect.topleft for name in agents}
        return {name: self._lens(self._margin[y : y + SIGHT, x : x + SIGHT]) for name, (x, y) in corners.items()}


def places(env: Any) -> dict[str, Any]:
    """The middle of each player, in hundreds of pixels."""
    return {name: np.array(player.rect.center) / UNIT for name, player in env.unwrapped.agent_map.items()}


def things(env: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Swords, arrows and zombies: one of three and heading [M, 5], middles [M, 2], and which there are [M]."""
    world = env.unwrapped
    players = world.agent_map.values()
    swords = [weapon for player in players if player.agent_name.startswith("knight") for weapon in player.weapons]
    arrows = [weapon for player in players if player.agent_name.startswith("archer") for weapon in player.weapons]
    room = (world.num_knights, world.max_arrows, world.max_zombies)
    features = np.zeros((sum(room), 5), np.float32)
    middles, present = np.zeros((sum(room), 2), np.float32), np.zeros(sum(room), bool)
    first = 0
    for which, (found, size) in enumerate(zip((swords, arrows, world.zombie_list.sprites()), room, strict=True)):
        for row, thing in enumerate(found, start=first):
            features[row, which], present[row] = 1, True
            features[row, 3:] = thing.direction
            middles[row] = thing.rect.center
        first += size
    return features, middles / UNIT, present


def zombies_metrics(env: Any) -> dict[str, float]:
    """Zombies slain in this step, and the share of the team that is alive."""
    world = env.unwrapped
    alive = sum(player.is_alive for player in world.agent_map.values())
    return {"kills": float(world.kills), "survivors": alive / len(world.agent_map)}


def slay(spec: TeamSpec, observation: Observation) -> Tensor:
    """Archers turn to where the nearest zombie will be when an arrow gets there, and shoot. Knights close in on theirs,
    turn to it, strike within a sword's reach, and step back where it is too near.
    """
    import torch

    entities, position, own = observation.entities, observation.position, observation.own
    if entities is None or position is None:
        raise NotImplementedError("expected view=vector for the scripted policy (got pictures)")
    present = observation.entity_present
    assert present is not None and observation.entity_position is not None
    is_zombie = present & (entities[..., 2] > 0)
    is_archer = observation.kind == 0
    heading = own[..., 2:]
    way = observation.entity_position.unsqueeze(1) - position.unsqueeze(2)  # [B, N, M, 2]
    distance = way.norm(dim=-1).masked_fill(~is_zombie.unsqueeze(1), torch.inf)
    nearest, which = distance.min(-1)
    target = way.gather(2, which[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
    there = nearest.isfinite()
    # An arrow flies 0.45 a step and a zombie comes down by 0.05.
    drop = torch.where(is_archer, nearest / 0.45 * 0.05, 0.05)
    target = target + torch.stack([torch.zeros_like(drop), torch.where(there, drop, 0.0)], -1)
    target = torch.where(there.unsqueeze(-1), target, torch.tensor([0.0, -1.0], device=own.device))
    across = heading[..., 0] * target[..., 1] - heading[..., 1] * target[..., 0]
    ahead = (heading * target).sum(-1)
    turn = torch.where(across > 0, RIGHT, LEFT)
    angle = torch.atan2(across, ahead).abs()
    aimed = (ahead > 0) & ((across.abs() < 0.15 * heading.norm(dim=-1)) | (angle < math.radians(5)))
    archer = torch.where(aimed & there, ATTACK, torch.where(angle < math.radians(5), NOTHING, turn))
    facing = angle < math.radians(30)
    close = torch.where(nearest > 1.0, FORWARD, torch.where(nearest < 0.55, BACKWARD, ATTACK))
    knight = torch.where(there, torch.where(facing, close, turn), torch.where(angle < math.radians(5), NOTHING, turn))
    return torch.where(is_archer, archer, knight)


CARDS = {
    "butterfly/knights_archers_zombies": Card(
        (1, 4, 16),
        "its place and heading; view=image: picture of 512 x 512 pixels about it, 4 frames",
        largest=64,
        entities="swords, arrows and zombies, with heading; none with view=image",
        arena="the screen stays; density=fixed: zombies and arrows grow with the team, density=arena: they do not",
        dies=True,
        extra="petting",
        random=0.63,
        scripted=10.9,
        note="The script was played for 40 episodes. PettingZoo's own ParallelEnv pays all agents but the first one "
        "step late and loses the rewards of the last step; here they are paid at once.",
    )
}
