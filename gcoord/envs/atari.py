"""Space Invaders for two players (PettingZoo) and for one (Gymnasium); ale-py brings the ROMs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.pictures import STACK, Around, Lens, Stacked
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.single import Alone

if TYPE_CHECKING:
    from gcoord.envs.parallel import ParallelTeamEnv


def space_invaders(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    stack: int = STACK,
    skip: int = 4,
    sticky: float = 0.25,
    noops: int = 30,
    clip: bool = False,
    max_steps: int = 27_000,
    alternating_control: bool = False,
    moving_shields: bool = True,
    zigzaging_bombs: bool = False,
    fast_bomb: bool = False,
    invisible_invaders: bool = False,
) -> ParallelTeamEnv:
    """Two players against the invaders (https://pettingzoo.farama.org/environments/atari/space_invaders).

    own [stack, 84, 84] bytes: the emulator's grey screen, the same for both, of the last `stack` steps, the oldest
    first. Agents have no position, so the graph is complete; first and second player are of two kinds, each with a head
    of its own. Reward of each: its points; who has no life left is dead.

    Arguments:
        n_agents: 2, fixed.
        skip: emulated frames that an action lasts; what is seen is the brighter of the last two, as bombs flicker.
        sticky: probability, at each emulated frame and for each player alone, that the action before is kept
            (https://doi.org/10.1613/jair.5699).
        noops: up to so many frames without action begin an episode.
        clip: rewards become their signs, as where learning is compared on many games; `score` stays the points.
        max_steps: of an episode.
        alternating_control, moving_shields, zigzaging_bombs, fast_bomb, invisible_invaders: switches of the game.

    Metrics: `score`, points of both.
    """
    switches = {
        "alternating_control": alternating_control,
        "moving_shields": moving_shields,
        "zigzaging_bombs": zigzaging_bombs,
        "fast_bomb": fast_bomb,
        "invisible_invaders": invisible_invaders,
    }
    console = {"stack": stack, "skip": skip, "sticky": sticky, "noops": noops, "clip": clip, **switches}
    return _space_invaders("atari/space_invaders", 2, console, n_agents, num_envs, device, seed, workers, max_steps)


def space_invaders_alone(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    stack: int = STACK,
    skip: int = 4,
    sticky: float = 0.25,
    noops: int = 30,
    clip: bool = False,
    max_steps: int = 27_000,
) -> ParallelTeamEnv:
    """One player against the invaders, ALE/SpaceInvaders-v5 of Gymnasium (https://ale.farama.org).

    Arguments: as in `space_invaders`, with one agent. Metrics: `score`, its points.
    """
    console = {"stack": stack, "skip": skip, "sticky": sticky, "noops": noops, "clip": clip}
    return _space_invaders("gym/space_invaders", 1, console, n_agents, num_envs, device, seed, workers, max_steps)


def _space_invaders(
    world: str,
    players: int,
    console: dict[str, Any],
    n_agents: int | None,
    num_envs: int,
    device: str,
    seed: int,
    workers: int | Literal["auto"],
    max_steps: int,
) -> ParallelTeamEnv:
    from gcoord.envs.parallel import ParallelTeamEnv

    if n_agents not in (None, players):
        raise ValueError(f"expected {players} agents in {world}, whose players are so many (got {n_agents})")
    for name in ("stack", "skip"):
        if console[name] < 1:
            raise ValueError(f"expected {name} to be at least 1 (got {console[name]})")
    if not 0 <= console["sticky"] < 1 or console["noops"] < 0:
        raise ValueError(
            f"expected sticky from 0 to below 1 and noops of at least 0 (got {console['sticky']}, {console['noops']})"
        )
    recipe = Recipe(
        f"gcoord.envs.atari:make_{'two' if players == 2 else 'one'}",
        console,
        metrics="gcoord.envs.atari:console_metrics",
        picture="gcoord.envs.screens:emulator",
        reductions={"score": "sum"},
        max_steps=max_steps,
        channels="first",
        kinds="names",
        stack=console["stack"],
    )
    return ParallelTeamEnv(recipe, num_envs, players, device, seed, workers, world=world)


def make_two(stack: int, skip: int, sticky: float, noops: int, clip: bool, **switches: bool) -> Any:
    """The game for two, as its ParallelEnv: PettingZoo's own function takes it there by way of agents in turn."""
    with quiet_imports():
        find_function("ale_py:ALEInterface")
        roms = Path(str(sys.modules["ale_py"].__file__)).parent / "roms"
        raw: Any = find_function("pettingzoo.atari.space_invaders_v2:raw_env")
        world = raw(auto_rom_install_path=str(roms), obs_type="grayscale_image", **switches).env
    return Stacked(Console(world, skip, sticky, noops, clip), stack)


def make_one(stack: int, skip: int, sticky: float, noops: int, clip: bool) -> Any:
    """The game for one."""
    with quiet_imports():
        ale: Any = find_function("ale_py:ALEInterface")
        ale.setLoggerMode(find_function("ale_py:LoggerMode").Error)  # type: ignore[attr-defined]
        # Importing ale_py registered its games.
        env = find_function("gymnasium:make")(
            "ALE/SpaceInvaders-v5",
            obs_type="grayscale",
            frameskip=1,
            repeat_action_probability=0.0,
            disable_env_checker=True,
        )
    return Stacked(Console(Alone(env), skip, sticky, noops, clip), stack)


class Console(Around):
    """An emulated game as it is usually learnt: each action for some frames, now and then the one before, the screen
    small. All players see one screen.

    What SuperSuit's max_observation_v0, sticky_actions_v0, frame_skip_v0 and resize_v1 do one after another; but
    SuperSuit's players repeat their actions in the same frames, for their random streams have one seed.
    """

    def __init__(self, world: Any, skip: int, sticky: float, noops: int, clip: bool) -> None:
        super().__init__(world)
        self._skip, self._sticky, self._noops, self._clip = skip, sticky, noops, clip
        height, width = world.observation_space(world.possible_agents[0]).shape[:2]
        self._lens = Lens(height, width)
        self._random = np.random.default_rng(0)
        self._kept: dict[str, int] = {}
        self._fresh = True
        self.score = 0.0

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        # The emulator draws nothing, and a seed makes it load its game again, which takes as long as 100 steps.
        screens, infos = super().reset(0 if self._fresh else None, options)
        self._fresh = False
        self._random, self.score = np.random.default_rng(seed), 0.0
        self._kept = dict.fromkeys(self.possible_agents, 0)
        for _ in range(self._random.integers(self._noops + 1)):
            screens = super().step(dict.fromkeys(self.agents, 0))[0]
        return dict.fromkeys(screens, self._lens(next(iter(screens.values())))), infos

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        rewards = dict.fromkeys(actions, 0.0)
        terminations, truncations = dict.fromkeys(actions, False), dict.fromkeys(actions, False)
        before = now = None
        for _ in range(self._skip):
            playing = [name for name in actions if not (terminations[name] or truncations[name])]
            if not playing:
                break
            for name in playing:
                if self._random.random() >= self._sticky:
                    self._kept[name] = actions[name]
            screens, paid, ended, cut, _ = super().step({name: self._kept[name] for name in playing})
            before, now = now, next(iter(screens.values()))
            for name in playing:
                rewards[name] += float(paid[name])
                terminations[name], truncations[name] = bool(ended[name]), bool(cut[name])
        assert now is not None
        self.score = sum(rewards.values())
        picture = self._lens(now if before is None else np.maximum(before, now))
        if self._clip:
            rewards = {name: float(np.sign(reward)) for name, reward in rewards.items()}
        infos: dict[str, Any] = {name: {} for name in actions}
        return dict.fromkeys(actions, picture), rewards, terminations, truncations, infos


def console_metrics(env: Any) -> dict[str, float]:
    """Points of all players in this step."""
    return {"score": env.world.score}


CARDS = {
    "atari/space_invaders": Card(
        (2,),
        "picture of the whole screen, the same for both, 4 frames",
        dies=True,
        extra="atari",
        random=410.0,
        note="Over 50 episodes. Who is hit gives the other 200 points. No positions: the graph is complete.",
    ),
    "gym/space_invaders": Card(
        (1,),
        "picture of the whole screen, 4 frames",
        extra="atari",
        random=165.0,
        note="148 is published for random play without sticky actions (https://doi.org/10.1038/nature14236).",
    ),
}
