"""Butterfly's pistonball and cooperative pong, where what an agent senses does not depend on the size of its team."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.pictures import SIZE, STACK, Lens, Stacked, pixels
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.together import Together

if TYPE_CHECKING:
    from torch import Tensor

    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation

View = Literal["image", "vector"]

# Pixels: a piston's width, how far one rises, what an agent's picture spans, the unit of cooperative pong's positions.
WIDTH, RISE, TOP, HEIGHT, PONG_UNIT = 40, 64, 40, 457, 100


def pistonball(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    view: View = "image",
    stack: int = STACK,
    time_penalty: float = -0.1,
    random_drop: bool = True,
    random_rotate: bool = True,
    ball_mass: float = 0.75,
    ball_friction: float = 0.3,
    ball_elasticity: float = 1.5,
    max_cycles: int = 125,
) -> ParallelTeamEnv:
    """Pistons in a row bring a ball to the left wall (https://pettingzoo.farama.org/environments/butterfly/pistonball).

    Reward of the team: 100 times the share of the way that the ball went left in this step, and `time_penalty`.

    Arguments:
        n_agents: pistons, 4 to 40; None: the world's 20 (with 2 or 3 the ball begins at the left wall).
        density: `fixed` alone: the pistons are the arena. A step is one physics step of 1/20 s for each piston, so time
            grows with the way.
        continuous: auto, True: up or down by -1 to 1 times 4 pixels, the world's default; False: down, stay, up.
        view: `image`: own [stack, 84, 84] bytes, one's own piston and one each side, from the ceiling to the pistons,
            grey, the last `stack` frames, the oldest first; `vector`: own [1], how high one's piston is (0 to 1), and
            the ball as an entity of 3 features: velocity and spin (piston widths and radians per physics step). Nothing
            is drawn then.

    Positions are the simulator's, in piston widths of 40 pixels, y downwards.
    Metrics: `success`, whether the ball reached the wall.
    """
    from gcoord.envs.parallel import ParallelTeamEnv

    n = 20 if n_agents is None else n_agents
    if not 4 <= n <= 40:
        raise ValueError(f"expected 4 to 40 agents in butterfly/pistonball (got {n})")
    if density != "fixed":
        raise ValueError(f"expected density=fixed in butterfly/pistonball, whose arena is its team (got {density!r})")
    kwargs = {
        "n_pistons": n,
        "time_penalty": time_penalty,
        "continuous": continuous is not False,
        "random_drop": random_drop,
        "random_rotate": random_rotate,
        "ball_mass": ball_mass,
        "ball_friction": ball_friction,
        "ball_elasticity": ball_elasticity,
        "max_cycles": max_cycles,
    }
    recipe = Recipe(
        "gcoord.envs.butterfly:make_pistonball",
        {"view": checked_view(view, stack), "stack": stack, **kwargs},
        positions="gcoord.envs.butterfly:piston_positions",
        entities="gcoord.envs.butterfly:rolling_ball" if view == "vector" else None,
        metrics="gcoord.envs.butterfly:pistonball_metrics",
        picture="gcoord.envs.screens:pistonball",
        reductions={"success": "last"},
        max_steps=max_cycles,
        channels="first",
        stack=stack if view == "image" else 1,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        n,
        device,
        seed,
        workers,
        reward="team",
        scripted=ramp,
        world="butterfly/pistonball",
        density=density,
    )


def cooperative_pong(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    view: View = "image",
    stack: int = STACK,
    ball_speed: float = 9,
    left_paddle_speed: float = 12,
    right_paddle_speed: float = 12,
    cake_paddle: bool = True,
    max_cycles: int = 900,
    bounce_randomness: bool = False,
    max_reward: float = 100,
    off_screen_penalty: float = -10,
) -> ParallelTeamEnv:
    """Two paddles keep a ball in play (https://pettingzoo.farama.org/environments/butterfly/cooperative_pong).

    Reward of the team: `max_reward / max_cycles` for each step in play, `off_screen_penalty` when the ball is lost.
    Actions: stay, up, down. The paddles are of two kinds, left and right: they see the same picture.

    Arguments:
        n_agents: 2, fixed.
        view: `image`: own [stack, 84, 84] bytes, the whole screen, grey, the last `stack` frames, the oldest first;
            `vector`: own [1], how low one's paddle is (0 to 1), and the ball as an entity with its velocity as 2
            features.

    Positions are the middles of the paddles, in hundreds of pixels of a screen of 4.8 x 2.8, y downwards.
    Metrics: `success`, whether the ball is still in play at the end.
    """
    from gcoord.envs.parallel import ParallelTeamEnv

    if n_agents not in (None, 2):
        raise ValueError(f"expected 2 agents in butterfly/cooperative_pong, which is made for two (got {n_agents})")
    kwargs = {
        "ball_speed": ball_speed,
        "left_paddle_speed": left_paddle_speed,
        "right_paddle_speed": right_paddle_speed,
        "cake_paddle": cake_paddle,
        "max_cycles": max_cycles,
        "bounce_randomness": bounce_randomness,
        "max_reward": max_reward,
        "off_screen_penalty": off_screen_penalty,
    }
    recipe = Recipe(
        "gcoord.envs.butterfly:make_pong",
        {"view": checked_view(view, stack), "stack": stack, **kwargs},
        positions="gcoord.envs.butterfly:paddle_positions",
        entities="gcoord.envs.butterfly:flying_ball" if view == "vector" else None,
        metrics="gcoord.envs.butterfly:pong_metrics",
        picture="gcoord.envs.screens:cooperative_pong",
        reductions={"success": "last"},
        max_steps=max_cycles,
        channels="first",
        kinds=("paddle_0", "paddle_1"),
        stack=stack if view == "image" else 1,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        2,
        device,
        seed,
        workers,
        reward="team",
        scripted=follow_the_ball,
        world="butterfly/cooperative_pong",
    )


def checked_view(view: View, stack: int) -> View:
    """The view, if it is one; raises ValueError."""
    if view not in ("image", "vector"):
        raise ValueError(f"expected view to be image or vector (got {view!r})")
    if stack < 1:
        raise ValueError(f"expected a stack of at least one frame (got {stack})")
    return view


def vector_space(size: int) -> Any:
    """An observation space for every agent: `size` numbers without bounds."""
    from gymnasium.spaces import Box

    space = Box(-np.inf, np.inf, (size,), np.float32)
    return lambda agent: space


def make_pistonball(view: View, stack: int, **kwargs: Any) -> Any:
    """The world itself, drawn only where agents see pictures; without the render mode these would stand still."""
    with quiet_imports():
        raw: Any = find_function("pettingzoo.butterfly.pistonball_v6:raw_env")
    world = raw(render_mode="rgb_array" if view == "image" else None, **kwargs)
    return Stacked(SeenPistons(world), stack) if view == "image" else FeltPistons(world)


class SeenPistons(Together):
    """Pistonball in which each sees its surroundings, grey and small; all pictures are cut from one screen."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._lens = Lens(HEIGHT, 3 * WIDTH)
        self._lefts = WIDTH * np.arange(len(self.possible_agents))

    def look(self, agents: list[str]) -> dict[str, Any]:
        screen = pixels(self.unwrapped.screen)[TOP : TOP + HEIGHT]
        return dict(zip(agents, self._lens.cut(self._lens.rows(screen), self._lefts), strict=True))


class FeltPistons(Together):
    """Pistonball in which each senses how high it is."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.observation_space = vector_space(1)

    def look(self, agents: list[str]) -> dict[str, Any]:
        world = self.unwrapped
        lowest = world.screen_height - world.wall_width - (world.piston_height - world.piston_head_height)
        heights = [(lowest - piston.position[1]) / RISE for piston in world.pistonList]
        return {name: np.array([height], np.float32) for name, height in zip(agents, heights, strict=True)}


def piston_positions(env: Any) -> dict[str, Any]:
    """Where each piston is, in piston widths."""
    base = env.unwrapped
    places = np.array([piston.position for piston in base.pistonList]) / WIDTH
    return dict(zip(base.possible_agents, places, strict=True))


def rolling_ball(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pistonball's ball: velocity and spin [1, 3], position [1, 2]."""
    world = env.unwrapped
    body = world.ball
    x, y = (speed * world.dt / WIDTH for speed in body.velocity)
    return np.array([[x, y, body.angular_velocity * world.dt]]), np.array([body.position]) / WIDTH


def pistonball_metrics(env: Any) -> dict[str, float]:
    """Whether the ball has reached the left wall."""
    return {"success": float(env.unwrapped.terminate)}


def make_pong(view: View, stack: int, **kwargs: Any) -> Any:
    """The world itself, drawn once a step and only where agents see pictures."""
    with quiet_imports():
        raw: Any = find_function("pettingzoo.butterfly.cooperative_pong_v6:raw_env")
    world = raw(render_mode="rgb_array", **kwargs)
    return Stacked(SeenPong(world), stack) if view == "image" else FeltPong(world)


class Pong(Together):
    """Cooperative pong that draws only when asked: the world draws and copies its screen at each paddle's move."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        seen = super().reset(seed, options)
        # A seed has made the game anew.
        self.unwrapped.env.render = lambda: None
        return seen


class SeenPong(Pong):
    """Cooperative pong in which both see the whole screen, grey and small."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        height, width = world.observation_space(self.possible_agents[0]).shape[:2]
        self._lens = Lens(height, width)

    def look(self, agents: list[str]) -> dict[str, Any]:
        game = self.unwrapped.env
        game.draw()
        return dict.fromkeys(agents, self._lens(pixels(game.screen)))


class FeltPong(Pong):
    """Cooperative pong in which each senses how low its paddle is."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.observation_space = vector_space(1)

    def look(self, agents: list[str]) -> dict[str, Any]:
        game = self.unwrapped.env
        places = [paddle.rects[0].centery / game.s_height for paddle in (game.p0, game.p1)]
        return {name: np.array([place], np.float32) for name, place in zip(agents, places, strict=True)}


def paddle_positions(env: Any) -> dict[str, Any]:
    """The middle of each paddle, in hundreds of pixels."""
    game = env.unwrapped.env
    places = [np.array(paddle.rects[0].center) / PONG_UNIT for paddle in (game.p0, game.p1)]
    return dict(zip(env.unwrapped.possible_agents, places, strict=True))


def flying_ball(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pong's ball: velocity in tens of pixels a step [1, 2], position [1, 2]."""
    ball = env.unwrapped.env.ball
    return np.array([ball._speed]) / 10, np.array([ball._rect.center]) / PONG_UNIT


def pong_metrics(env: Any) -> dict[str, float]:
    """Whether the ball is in play."""
    return {"success": float(not env.unwrapped.env.ball.is_out_of_bounds())}


def ramp(spec: TeamSpec, observation: Observation) -> Tensor:
    """The pistons just right of the ball's middle rise and all others sink, so that it is pushed and rolls to the left.

    It knows the whole team's pictures (the ball is what is as grey as it in the rows above all pistons), or its entity.
    """
    import torch

    from gcoord.spec import Discrete

    own, position = observation.own, observation.position
    assert position is not None
    middle = position[..., 0] + 0.375  # of a piston, whose position is 5 pixels right of its left edge
    if observation.entity_position is not None:
        ball = observation.entity_position[..., 0]  # [B, 1]
    else:
        above = own[:, :, -1, : round(SIZE * 0.82)].to(torch.int16)
        columns = ((above - 138).abs() <= 15).any(2)  # [B, N, 84]
        left = middle - 1.5  # of an agent's picture, 3 wide
        x = left.unsqueeze(-1) + (torch.arange(SIZE, device=own.device) + 0.5) * 3 / SIZE
        low = torch.where(columns, x, torch.inf).flatten(1).amin(1)
        high = torch.where(columns, x, -torch.inf).flatten(1).amax(1)
        ball = ((low + high) / 2).unsqueeze(-1)
    up = (middle > ball + 0.3) & (middle < ball + 1.8)
    if isinstance(spec.actions[0], Discrete):
        return torch.where(up, 2, 0)
    return torch.where(up, 1.0, -1.0).unsqueeze(-1)


def follow_the_ball(spec: TeamSpec, observation: Observation) -> Tensor:
    """Each paddle keeps level with the ball, which is the bright spot between the paddles, or the entity."""
    import torch

    position = observation.position
    assert position is not None
    y = position[..., 1] * PONG_UNIT
    if observation.entity_position is not None:
        ball = observation.entity_position[:, :, 1] * PONG_UNIT
    else:
        field = observation.own[:, :1, -1, :, 2:74].float()
        bright = field.sum(-1)  # [B, 1, 84]
        rows = (torch.arange(SIZE, device=y.device) + 0.5) * 280 / SIZE
        # Where the ball is behind the edge of the field, both stay.
        ball = torch.where(bright.sum(-1) > 0, (bright * rows).sum(-1) / bright.sum(-1).clamp(min=1), torch.nan)
    gap = ball - y
    return torch.where(gap < -6, 1, torch.where(gap > 6, 2, 0))


CARDS = {
    "butterfly/pistonball": Card(
        (5, 20, 40),
        "picture of its own piston and one each side, 4 frames; view=vector: its height",
        largest=40,
        entities="view=vector: the ball, with velocity and spin",
        arena="the row of pistons is the arena, and a step lasts one physics step for each",
        extra="petting",
        random=-2.8,
        scripted=97.6,
        note="4 pistons at least: with 2 or 3 the ball begins at the wall. The script also plays from the pictures "
        "(97.7 over 20 episodes).",
    ),
    "butterfly/cooperative_pong": Card(
        (2,),
        "picture of the whole screen, 4 frames; view=vector: how low its paddle is",
        entities="view=vector: the ball, with velocity",
        extra="petting",
        random=-2.1,
        scripted=100.0,
    ),
}
