"""What a PettingZoo world turns out to be: found out on one copy that is thrown away."""

from __future__ import annotations

from typing import Any

import numpy as np

from gcoord.envs.copies import Fields, Shapes, kept_randomness, one_line
from gcoord.envs.recipe import Recipe, find_function, make_world, missing
from gcoord.envs.spaces import Layout, read_layout
from gcoord.spec import TeamSpec


def probe(recipe: Recipe) -> tuple[Layout, Shapes]:
    """A world's layout, and the shapes of position [N, P], entities [M, Oe] and so on where there are such.

    Raises ValueError, or ModuleNotFoundError for a package that is not there, in one line.
    """
    with kept_randomness():
        find_function(recipe.maker)
        try:
            env = make_world(recipe)
            if recipe.arrays:
                return env.layout, env.shapes
            infos = env.reset(seed=0)[1]
        except ModuleNotFoundError as error:
            raise missing(error, recipe.maker) from error
        except Exception as error:
            raise ValueError(f"expected {recipe.maker} to make a ParallelEnv (got {one_line(error)})") from error
        layout = read_layout(env, infos, recipe.channels, recipe.kinds, recipe.bins)
        shapes = _shapes(recipe, env, len(layout.names))
        env.close()
    return layout, shapes


def _shapes(recipe: Recipe, env: Any, n_agents: int) -> Shapes:
    shapes: Shapes = {}
    if recipe.positions:
        sizes = {np.shape(place) for place in _ask(recipe.positions, env).values()}
        if len(sizes) != 1 or len(size := sizes.pop()) != 1:
            raise ValueError(f"expected {recipe.positions} to give each agent's coordinates [P], alike for all")
        shapes["position"] = (n_agents, *size)
    if recipe.entities:
        features, places, *_ = (np.asarray(part) for part in _ask(recipe.entities, env))
        if features.ndim != 2 or places.ndim != 2 or len(features) != len(places):
            raise ValueError(f"expected {recipe.entities} to give features [M, Oe] and positions [M, P]")
        shapes["entities"], shapes["entity_position"] = features.shape, places.shape
        shapes["entity_present"] = features.shape[:1]
    if recipe.hears:
        shapes["hears"] = (n_agents, n_agents + shapes.get("entities", (0,))[0])
        if (got := np.shape(_ask(recipe.hears, env))) != shapes["hears"]:
            raise ValueError(f"expected {recipe.hears} to give who hears whom {shapes['hears']} (got {got})")
    given = sorted(_ask(recipe.metrics, env)) if recipe.metrics else []
    if given != sorted(recipe.reductions):
        raise ValueError(f"expected metrics {sorted(recipe.reductions)} (got {given} from {recipe.metrics})")
    return shapes


def _ask(path: str, env: Any) -> Any:
    hook = find_function(path)
    try:
        return hook(env)
    except Exception as error:
        raise ValueError(f"expected {path} to read the world it is given (got {one_line(error)})") from error


def fields_of(spec: TeamSpec, layout: Layout, shapes: Shapes) -> Fields:
    """Shape and dtype of the arrays through which copies and team talk."""
    b, n = spec.num_envs, spec.n_agents
    fields: Fields = {
        "action": ((b, n, *spec.action_shape), "int64" if spec.discrete else "float32"),
        "next_seed": ((b,), "int64"),
        "seed": ((1,), "int64"),
        "episode": ((b,), "int64"),
        "progress": ((b,), "int64"),
        "own": ((b, n, *layout.own), layout.own_dtype),
        "alive": ((b, n), "bool"),
        "reward": ((b, n), "float32"),
        "terminated": ((b,), "bool"),
        "truncated": ((b,), "bool"),
        "valid": ((b,), "bool"),
        "metrics": ((b, len(spec.metrics)), "float32"),
    }
    for name, shape in shapes.items():
        fields[name] = ((b, *shape), "bool" if name in ("entity_present", "hears") else "float32")
    if spec.available:
        fields["available"] = ((b, n, spec.n_actions), "bool")
    return fields
