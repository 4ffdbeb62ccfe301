"""How one copy of a PettingZoo world is made: plain names and numbers that travel to a worker process."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gcoord.envs.spaces import Channels, Kinds
from gcoord.spec import Reduction

# Which extra brings what: `pip install 'gcoord[petting]'`.
EXTRA = {
    **dict.fromkeys(("pettingzoo", "mpe2", "pygame", "pymunk", "Box2D", "supersuit", "scipy"), "petting"),
    **dict.fromkeys(("ale_py", "multi_agent_ale_py"), "atari"),
    "gymnasium": "gym",
    "magent2": "magent",
}


@dataclass(frozen=True)
class Recipe:
    """How a world is made and read; functions are named `package.module:function`.

    maker(**kwargs) -> ParallelEnv; positions(env) -> {agent: coordinates}; entities(env) -> (features [M, Oe],
    positions [M, P]) or with present [M] besides; metrics(env) -> {name: number}, the names of `reductions`, which
    say how an episode reduces each. hears(env) -> who hears whom [N, N + M]. picture(env) -> (image [H, W, 3] of bytes,
    what it shows in the positions' units (left, right, bottom, top) or None). bins: see `read_layout`. stack: frames
    that an image holds, the oldest first.
    anew: make the world again for each episode, where a reset leaves something of the one before.
    arrays: the maker returns a `copies.ArrayWorld` instead, which needs no hooks.
    """

    maker: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    positions: str | None = None
    entities: str | None = None
    metrics: str | None = None
    hears: str | None = None
    picture: str | None = None
    reductions: dict[str, Reduction] = field(default_factory=dict)
    max_steps: int | None = None
    rejoins: bool = False
    arrays: bool = False
    channels: Channels = "last"
    kinds: Kinds | tuple[str, ...] = "spaces"
    bins: int | None = None
    stack: int = 1
    anew: bool = False


def make_world(recipe: Recipe) -> Any:
    """One copy of the world, not yet reset."""
    maker = find_function(recipe.maker)
    with quiet_imports():
        return maker(**recipe.kwargs)


def find_function(path: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; raises ValueError or ModuleNotFoundError in one line."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"expected a function as 'package.module:function' (got {path!r})")
    try:
        with quiet_imports():
            found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, path) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"expected a function in module {module!r} (got {path!r}, which is not there)")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"expected {path!r} to be a function (got {type(found).__name__})")
    return found  # type: ignore[no-any-return]


def missing(error: ModuleNotFoundError, wanted: str) -> ModuleNotFoundError:
    """The one line to show where a module is not there, which names the extra that brings it."""
    if error.name is None:  # it is such a line already
        return error
    package = (error.name or "").partition(".")[0]
    hint = f"pip install 'gcoord[{EXTRA[package]}]'" if package in EXTRA else "is it installed, or on PYTHONPATH?"
    # Without a name: commands show the line of an error that was raised by hand, and the traceback of any other.
    return ModuleNotFoundError(f"expected the module {error.name!r} for {wanted!r} (not found): {hint}")


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function's signature names an argument."""
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Inside: notes on deprecated ways to import and make PettingZoo's worlds are not shown; all others are."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():
        # The notes are attributed to whoever imports: PettingZoo's loader, importlib, or the module of a maker.
        warnings.filterwarnings("ignore", r"The old environment creation API", DeprecationWarning)
        for module in (r"pettingzoo\b", r"mpe2\b", r"pygame\b", r"pkg_resources\b"):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
        yield
