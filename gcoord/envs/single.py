"""Gymnasium's environments as teams of one: the ground on which learners meet known results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.copies import Row, Shapes, one_line
from gcoord.envs.pictures import STACK, Shrunk, Stacked
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.spaces import read_layout

if TYPE_CHECKING:
    from torch import Tensor

    from gcoord.envs.parallel import ParallelTeamEnv, Scripted
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation


def cartpole(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    max_steps: int = 500,
) -> ParallelTeamEnv:
    """CartPole-v1 (https://gymnasium.farama.org/environments/classic_control/cart_pole): a cart is pushed left or right
    to keep its pole upright; 1 for each step. own [4]: place and speed of the cart, angle and turn of the pole.

    Arguments:
        n_agents: 1. max_steps: of an episode; 500 is also the highest return.
    """
    game: dict[str, Any] = {"id": "CartPole-v1", "max_steps": max_steps}
    return _team_of_one("gym/cartpole", game, n_agents, num_envs, device, seed, workers, scripted=balance, rows=True)


def pendulum(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    continuous: bool | Literal["auto"] = "auto",
    bins: int = 5,
    max_steps: int = 200,
) -> ParallelTeamEnv:
    """Pendulum-v1 (https://gymnasium.farama.org/environments/classic_control/pendulum): a torque too weak to lift a
    pendulum swings it up. own [3]: cosine and sine of the angle (0 is up), angular speed.

    Arguments:
        n_agents: 1. max_steps: of an episode.
        continuous: auto, True: torque from -2 to 2; False: `bins` evenly spaced torques, -2, -1, 0, 1 and 2.
    """
    grid = bins if continuous is False else None
    game: dict[str, Any] = {"id": "Pendulum-v1", "max_steps": max_steps}
    return _team_of_one("gym/pendulum", game, n_agents, num_envs, device, seed, workers, grid, swing_up, rows=True)


def make(
    id: str,
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    continuous: bool | Literal["auto"] = "auto",
    bins: int = 5,
    max_steps: int | None = None,
    stack: int = STACK,
    make_kwargs: dict[str, Any] | None = None,
) -> ParallelTeamEnv:
    """Any Gymnasium environment with observations in a Box (or Discrete, which become one-hot) as a team of one.

    Arguments:
        id: as `gymnasium.make` takes it, `package.module:Name-v0` where importing a module registers it.
        n_agents: 1, fixed.
        continuous: auto, True: actions as the environment has them; False: `bins` evenly spaced values of each
            component of a box make its numbered actions. True is refused where actions are numbered.
        max_steps: of an episode; None: as it is registered.
        stack: images of bytes are seen grey, 84 x 84, the last `stack` frames, the oldest first.
        make_kwargs: given to `gymnasium.make`.

    Raises ValueError, in one line, for an id that is not registered or spaces that have no place here.
    """
    game = {"id": id, "max_steps": max_steps, "stack": stack, **(make_kwargs or {})}
    grid = bins if continuous is False else None
    env = _team_of_one(f"gym/{id}", game, n_agents, num_envs, device, seed, workers, grid)
    if continuous is True and env.spec.discrete:
        env.close()
        raise ValueError(f"expected continuous=false or auto in {id}, whose actions are discrete (got true)")
    return env


def _team_of_one(
    world: str,
    game: dict[str, Any],
    n_agents: int | None,
    num_envs: int,
    device: str,
    seed: int,
    workers: int | Literal["auto"],
    bins: int | None = None,
    scripted: Scripted | None = None,
    rows: bool = False,
) -> ParallelTeamEnv:
    """`rows`: the environment senses a vector and draws from streams of its own only (see `InRow`)."""
    from gcoord.envs.parallel import ParallelTeamEnv

    if n_agents not in (None, 1):
        raise ValueError(f"expected a team of one in {world}, which is made for one agent (got n_agents={n_agents})")
    try:
        trial = make_alone(**game)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"expected {world} to be made by gymnasium.make (got {one_line(error)})") from error
    limit = game["max_steps"] or getattr(trial.unwrapped.spec, "max_episode_steps", None)
    pictures = isinstance(trial, Stacked)
    if rows:
        read_layout(trial, {}, bins=bins)
    trial.close()
    recipe = Recipe(
        "gcoord.envs.single:InRow" if rows else "gcoord.envs.single:make_alone",
        {**game, "bins": bins} if rows else game,
        picture="gcoord.envs.screens:gymnasium",
        max_steps=limit,
        channels="first" if pictures else "last",
        bins=None if rows else bins,
        arrays=rows,
        stack=game.get("stack", STACK) if pictures else 1,
    )
    return ParallelTeamEnv(recipe, num_envs, 1, device, seed, workers, scripted=scripted, world=world)


def make_alone(id: str, max_steps: int | None = None, stack: int = STACK, **kwargs: Any) -> Any:
    """The environment as a ParallelEnv of one; images of bytes grey, small and stacked."""
    gymnasium_make = find_function("gymnasium:make")
    limit = {} if max_steps is None else {"max_episode_steps": max_steps}
    with quiet_imports():
        world = Alone(gymnasium_make(id, disable_env_checker=True, **limit, **kwargs))
    space = world.observation_space(AGENT)
    if getattr(space, "dtype", None) == np.uint8 and len(space.shape) in (2, 3):
        return Stacked(Shrunk(world), stack)
    return world


AGENT = "agent_0"


class Alone:
    """A Gymnasium environment as a PettingZoo ParallelEnv whose only agent is `agent_0`."""

    def __init__(self, env: Any) -> None:
        self.env, self.unwrapped = env, env.unwrapped
        self.possible_agents = [AGENT]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return self.env.observation_space

    def action_space(self, agent: str) -> Any:
        return self.env.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        seen, info = self.env.reset(seed=seed, options=options)
        self.agents = [AGENT]
        return {AGENT: seen}, {AGENT: info}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        values = self.env.step(actions[AGENT])
        if values[2] or values[3]:
            self.agents = []
        return tuple({AGENT: value} for value in values)

    def close(self) -> None:
        self.env.close()


class InRow:
    """A Gymnasium environment that reads and writes its row itself (`copies.ArrayWorld`), three times as fast as one
    asked agent by agent. Only for those that sense vectors and leave the global random streams alone.
    """

    shapes: ClassVar[Shapes] = {}
    metrics: ClassVar[dict[str, float]] = {}

    def __init__(self, id: str, max_steps: int, bins: int | None = None) -> None:
        self.env = make_alone(id, max_steps).env
        self.unwrapped = self.env.unwrapped
        self.layout = read_layout(Alone(self.env), {}, bins=bins)
        self.act = self.layout.acts[0]

    def bind(self, row: Row) -> None:
        self.row = row

    def reset(self, seed: int) -> None:
        self.row["own"][0], _ = self.env.reset(seed=seed)
        self.row["alive"][:] = True

    def step(self) -> tuple[bool, bool]:
        row = self.row
        row["own"][0], row["reward"][0], ended, cut, _ = self.env.step(self.act.read(row["action"][0]))
        return bool(ended), bool(cut) and not ended

    def close(self) -> None:
        self.env.close()


def balance(spec: TeamSpec, observation: Observation) -> Tensor:
    """Pushes to the side to which the pole falls, by its angle and turn, and a little towards the middle."""
    x, speed, angle, turn = observation.own.unbind(-1)
    return (angle + 0.4 * turn + 0.05 * x + 0.1 * speed > 0).long()


def swing_up(spec: TeamSpec, observation: Observation) -> Tensor:
    """Pumps energy in until it suffices to stand upright, and holds the pendulum when it is nearly there."""
    import torch

    from gcoord.spec import Discrete

    up, side, turn = observation.own.unbind(-1)
    angle = torch.atan2(side, up)
    # A rod of mass 1 and length 1 under gravity 10: energy turn^2 / 6 + 5 cos, 5 when it stands upright.
    lack = 5.0 - (turn**2 / 6 + 5 * up)
    pump = torch.sign(turn + (turn == 0)) * (2 * lack).clamp(-2, 2)
    hold = (-12 * angle - 3 * turn).clamp(-2, 2)
    torque = torch.where((angle.abs() < 0.4) & (turn.abs() < 2.5), hold, pump)
    if isinstance(spec.actions[0], Discrete):
        bins = spec.actions[0].n
        return ((torque + 2) / 4 * (bins - 1)).round().long()
    return torque.unsqueeze(-1)


CARDS = {
    "gym/cartpole": Card(
        (1,),
        "place and speed of the cart, angle and turn of the pole",
        extra="gym",
        random=19.8,
        scripted=500.0,
        note="500 is the most there is.",
    ),
    "gym/pendulum": Card(
        (1,),
        "cosine and sine of the angle, angular speed",
        extra="gym",
        random=-1184.0,
        scripted=-148.0,
        note="With 5 torques (continuous=false): random -1230, scripted -150.",
    ),
    "gym/make": Card(
        (1,),
        "what the environment named by env.id shows; images grey, 84 x 84, 4 frames",
        extra="gym",
        note="Any Gymnasium id with observations in a Box, or Discrete: env.id=Acrobot-v1.",
    ),
}
