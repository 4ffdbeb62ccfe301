"""SISL worlds, set up so that nothing an agent senses depends on the size of its team."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gcoord.envs.cards import Card
from gcoord.envs.recipe import Recipe, find_function, quiet_imports
from gcoord.envs.together import Together

if TYPE_CHECKING:
    from torch import Tensor

    from gcoord.envs.parallel import ParallelTeamEnv
    from gcoord.spec import TeamSpec
    from gcoord.trajectory import Observation

# The world's own team, quarry and map, whose densities `density="fixed"` keeps.
PURSUERS, EVADERS, SIDE = 8, 30, 16


CARDS = {
    "sisl/pursuit": Card(
        sizes=(4, 8, 16),
        largest=128,
        knows="the 7 x 7 cells about it: walls, pursuers, evaders",
        arena="the map's sides grow with sqrt(n / 8) from 16 cells and the evaders with n / 8 from 30",
        extra="petting",
        random=-46.2,
        scripted=11.1,
    ),
}


def pursuit(
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    workers: int | Literal["auto"] = "auto",
    density: Literal["fixed", "arena"] = "fixed",
    continuous: bool | Literal["auto"] = "auto",
    shared_reward: bool = True,
    max_cycles: int = 500,
    n_evaders: int | None = None,
    x_size: int | None = None,
    y_size: int | None = None,
    surround: bool = True,
    n_catch: int = 2,
    obs_range: int = 7,
    freeze_evaders: bool = False,
    tag_reward: float = 0.01,
    catch_reward: float = 5.0,
    urgency_reward: float = -0.1,
    constraint_window: float = 1.0,
    scale: float = 1.0,
) -> ParallelTeamEnv:
    """Pursuers on a grid surround evaders that move at random (https://pettingzoo.farama.org/environments/sisl/pursuit).

    An agent senses the 7 x 7 cells about it (walls, pursuers, evaders: own [3, 7, 7], counts divided by `scale`, so
    they mean the same in every team) and stands at `position`, in cells. Five actions: left, right, up, down, stay.
    An evader is caught when all free cells beside it hold pursuers. `catch_reward` goes to each of them, `tag_reward`
    to who touches one, `urgency_reward` to all each step, and all is averaged over the team where `shared_reward`.

    Arguments:
        n_agents: pursuers, 1 to 128; None: the world's 8.
        density: `fixed`: the map's sides grow with sqrt(n / 8) from 16 and the evaders with n / 8 from 30; `arena`:
            16 x 16 with 30 evaders whatever the team.
        n_evaders, x_size, y_size: None: by `density`.
        surround: False: `n_catch` pursuers on an evader's own cell catch it.
        constraint_window: share of the map's sides within which all start.

    Metrics: `catches`, evaders removed so far, and `success`, their share; both at the episode's end.
    Raises ValueError for a team that its map cannot hold (the world would search for free cells for ever).
    """
    from gcoord.envs.parallel import ParallelTeamEnv

    if continuous is True:
        raise ValueError("expected continuous=false or auto in sisl/pursuit, whose actions are discrete (got true)")
    n = PURSUERS if n_agents is None else n_agents
    if not 1 <= n <= 128:
        raise ValueError(f"expected 1 to 128 agents in sisl/pursuit (got {n})")
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    ratio = n / PURSUERS if density == "fixed" else 1.0
    side = max(4, round(SIDE * math.sqrt(ratio)))
    x_size, y_size = x_size or side, y_size or side
    n_evaders = n_evaders or max(1, round(EVADERS * ratio))
    _require_room(n, n_evaders, x_size, y_size)
    kwargs = {
        "n_pursuers": n,
        "n_evaders": n_evaders,
        "x_size": x_size,
        "y_size": y_size,
        "shared_reward": shared_reward,
        "surround": surround,
        "n_catch": n_catch,
        "obs_range": obs_range,
        "freeze_evaders": freeze_evaders,
        "tag_reward": tag_reward,
        "catch_reward": catch_reward,
        "urgency_reward": urgency_reward,
        "constraint_window": constraint_window,
        "max_cycles": max_cycles,
    }
    recipe = Recipe(
        "gcoord.envs.sisl:make_pursuit",
        kwargs,
        positions="gcoord.envs.sisl:pursuit_positions",
        metrics="gcoord.envs.sisl:pursuit_metrics",
        picture="gcoord.envs.screens:pursuit",
        reductions={"catches": "last", "success": "last"},
        max_steps=max_cycles,
    )
    return ParallelTeamEnv(
        recipe,
        num_envs,
        n,
        device,
        seed,
        workers,
        reward="team" if shared_reward else "own",
        scale=scale,
        scripted=surround_evaders,
        world="sisl/pursuit",
        density=density,
    )


def make_pursuit(**kwargs: Any) -> Any:
    """The world itself, quicker."""
    with quiet_imports():
        world: Any = find_function("pettingzoo.sisl.pursuit_v5:raw_env")(**kwargs)
    quicken_pursuit(world.env)
    return Together(world)


def quicken_pursuit(world: Any) -> None:
    """Replaces what costs pursuit its time, without changing a bit of what it does.

    The world counts agents cell by cell and asks all rewards anew after each agent's move: 22 steps a second at 32.
    """
    size = np.array([world.x_size, world.y_size])
    beside = world.surround_mask
    needed = np.array([[world.need_to_surround(x, y) for y in range(world.y_size)] for x in range(world.x_size)])
    remove_agents, reset = world.remove_agents, world.reset

    def places(layer: Any) -> np.ndarray:
        return np.array([agent.current_pos for agent in layer.allies], dtype=np.int64).reshape(-1, 2)

    def counts(layer: Any) -> np.ndarray:
        layer.global_state.fill(0)
        np.add.at(layer.global_state, tuple(places(layer).T), 1)
        return layer.global_state  # type: ignore[no-any-return]

    def reward() -> np.ndarray:
        x, y = np.moveaxis(np.clip(places(world.pursuer_layer)[:, None] + beside, 0, size - 1), -1, 0)
        # Evaders move at the end of a step only, and are counted there.
        touched = world.model_state[2].astype(np.int32)[x, y].sum(-1)
        return world.tag_reward * touched  # type: ignore[no-any-return]

    def remove() -> tuple[int, int, np.ndarray]:
        if world.surround:
            held = np.pad(world.model_state[1] > 0, 1)
            around = held[:-2, 1:-1].astype(int) + held[2:, 1:-1] + held[1:-1, :-2] + held[1:-1, 2:]
            if not (around == needed)[tuple(places(world.evader_layer).T)].any():
                return 0, 0, np.zeros(world.n_pursuers, dtype=bool)
        return remove_agents()  # type: ignore[no-any-return]

    def clip(x: int, y: int) -> tuple[int, ...]:
        reach, last_x, last_y = world.obs_offset, world.x_size - 1, world.y_size - 1
        x, y = int(x), int(y)
        xlo, xhi = max(x - reach, 0), min(x + reach, last_x)
        ylo, yhi = max(y - reach, 0), min(y + reach, last_y)
        left, low = max(reach - x, 0), max(reach - y, 0)
        return xlo, xhi + 1, ylo, yhi + 1, left, left + xhi - xlo + 1, low, low + yhi - ylo + 1

    def begin() -> Any:
        seen = reset()
        for layer in (world.pursuer_layer, world.evader_layer):
            layer.get_state_matrix = functools.partial(counts, layer)
        return seen

    world.reward, world.remove_agents, world.obs_clip, world.reset = reward, remove, clip, begin
    begin()


def pursuit_positions(env: Any) -> dict[str, Any]:
    """Each pursuer's cell."""
    base = env.unwrapped
    return dict(zip(base.possible_agents, (p.current_position() for p in base.env.pursuers), strict=True))


def pursuit_metrics(env: Any) -> dict[str, float]:
    """Evaders removed since the reset, and their share."""
    gone = env.unwrapped.env.evaders_gone
    return {"catches": float(gone.sum()), "success": float(gone.mean())}


def surround_evaders(spec: TeamSpec, observation: Observation) -> Tensor:
    """Each goes to a free cell beside an evader in view and waits there: the nearest, where an evader that has more
    pursuers within 2 cells counts as one step nearer for each. Seeing none, and at one step in ten, it moves at random
    (torch's stream), which gets it past walls and waiting fellows. It hears nobody.
    """
    import torch
    from torch.nn.functional import avg_pool2d, pad

    own = observation.own
    middle = own.shape[-1] // 2
    walls, pursuers, evaders = (channel > 0 for channel in own.unbind(2))  # [B, N, y, x], oneself in the middle
    pursuers[..., middle, middle] = False
    helpers = avg_pool2d(pursuers.float(), 5, stride=1, padding=2, divisor_override=1)
    worth = torch.where(evaders, helpers, -torch.inf)
    worth = pad(worth, (1, 1, 1, 1), value=-torch.inf)
    sides = worth[..., 2:, 1:-1], worth[..., :-2, 1:-1], worth[..., 1:-1, 2:], worth[..., 1:-1, :-2]
    beside = torch.stack(sides).amax(0).masked_fill(walls | pursuers, -torch.inf)
    offset = torch.arange(own.shape[-1], device=own.device) - middle
    dy, dx = torch.meshgrid(offset, offset, indexing="ij")
    best, cell = (beside - dx.abs() - dy.abs()).flatten(2).max(-1)
    x, y = dx.flatten()[cell], dy.flatten()[cell]
    # Actions: 0 x - 1, 1 x + 1, 2 y + 1, 3 y - 1, 4 stay.
    toward = torch.where(x.abs() >= y.abs(), torch.where(x > 0, 1, 0), torch.where(y > 0, 2, 3))
    action = torch.where((x == 0) & (y == 0), 4, toward)
    at_random = best.isinf() | (torch.rand_like(best) < 0.1)
    return torch.where(at_random, torch.randint_like(action, 4), action)


def _require_room(n: int, n_evaders: int, x_size: int, y_size: int) -> None:
    """Pursuers keep a cell apart when placed, evaders too; at random that fills some 0.36 of the free cells."""
    two_d_maps = find_function("pettingzoo.sisl.pursuit.utils.two_d_maps:rectangle_map")
    free = int((two_d_maps(x_size, y_size) == 0).sum())
    room = max(1, int(0.3 * free))
    if max(n, n_evaders) > room:
        raise ValueError(
            f"expected at most {room} pursuers and evaders each on {x_size} x {y_size} cells (got {n} and "
            f"{n_evaders}); use density=fixed or a larger x_size and y_size"
        )
