"""Configuration without Hydra: where it lies, how it is filled, checked and built.

A node is a mapping that names a part by its dotted path, `_target_: package.module.Name`, and gives its arguments;
`_partial_: true` makes the part a partial that is called later with what only the program knows.
An argument's default lives in the Python signature alone: `fill` writes it into the node, `check` holds every value
against its annotation, `build` calls the target.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from gcoord.arguments import NONE, Arguments, arguments_of, described, fits, fitted, nearest

if TYPE_CHECKING:
    from gcoord.envs.team import TeamEnv

Node = Mapping[str, Any] | DictConfig | ListConfig

# Given by the program at build time, never by configuration unless a YAML file names them.
GIVEN = frozenset(
    ["spec", "n_agents", "n_actions", "num_envs", "device", "seed"]
    + ["own_dim", "entity_dim", "edge_dim", "in_dim", "sender_dim"]
)


def conf_dir() -> Path:
    """The folder of the YAML files: the checkout's own, or the copy that lies inside an installed wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # Another project's conf/ may lie beside an installed package, so the checkout is known by its pyproject.toml.
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf").is_dir():
        return checkout / "conf"
    return package / "_conf"


def options_of(group: str, conf: Path | None = None) -> list[str]:
    """Names of the YAML files of a group, those in its subfolders with their path: `vmas/navigation`."""
    folder = (conf or conf_dir()) / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def plain(node: Any, resolve: bool = True) -> Any:
    """A node as plain dicts, lists and values."""
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, resolve=resolve)
    return node


def locate(path: str, trust: Sequence[str] | None = None) -> Any:
    """The class or function that `package.module.Name` (or `package.module:Name`) names.

    Arguments:
        trust: prefixes of modules that may be imported and called; None: any.

    Raises:
        ValueError: there is no such module or name, or it is not trusted. Errors inside the module pass through.
    """
    module_path, _, names = path.partition(":")
    parts = module_path.split(".")
    cuts = [len(parts)] if names else range(len(parts) - 1, 0, -1)
    if trust is not None and not _trusted(module_path, trust):
        raise ValueError(f"expected _target_ to lie in {' or '.join(trust)} (got {path!r})")
    for cut in cuts:
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only the absence of the named module itself is looked past: its own missing imports pass through.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            continue
        for name in names.split(".") if names else parts[cut:]:
            if not hasattr(found, name):
                near = nearest(name, [known for known in dir(found) if not known.startswith("_")])
                raise ValueError(f"expected _target_ to name something in {module_name} (got {path!r}){near}")
            found = getattr(found, name)
        if not callable(found):
            raise ValueError(f"expected _target_ to name a class or a function (got {path!r})")
        # A trusted module also holds what it imported: that is not trusted with it.
        if trust is not None and not _trusted(getattr(found, "__module__", "") or "", trust):
            raise ValueError(f"expected _target_ to lie in {' or '.join(trust)} (got {path!r})")
        return found
    raise ValueError(f"expected _target_ to be importable, such as package.module.Name (got {path!r})")


def _trusted(module: str, trust: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{prefix}.") for prefix in trust)


def build(node: Node, *args: Any, trust: Sequence[str] | None = None, **extra: Any) -> Any:
    """Makes what `node` names, its nested parts first.

    Arguments:
        node: a mapping with `_target_`; with `_partial_: true` a `functools.partial` is made.
        args, extra: given to the outermost target, over what the node says.
        trust: prefixes of modules that may be imported (see `locate`); None: any.

    Raises:
        ValueError: no `_target_`, one that cannot be found, or arguments it does not take or lacks. Errors that the
            target itself raises pass through.
    """
    values = plain(node)
    if not isinstance(values, Mapping) or "_target_" not in values:
        raise ValueError(f"expected a mapping with _target_ (got {_short(values)})")
    return _call(dict(values), args, extra, trust)


def _call(values: dict[str, Any], args: tuple[Any, ...], extra: dict[str, Any], trust: Sequence[str] | None) -> Any:
    path, partial = values.pop("_target_"), values.pop("_partial_", False)
    if not isinstance(path, str):
        raise ValueError(f"expected _target_ to be a dotted path (got {_short(path)})")
    target = locate(path, trust)
    takes = arguments_of(target)
    known = {name: argument.annotation for name, argument in takes.named.items()}
    given = {name: fitted(_built(value, trust), known.get(name, Any)) for name, value in values.items()} | extra
    if unknown := [name for name in given if name not in takes]:
        raise ValueError(unknown_argument(path, unknown[0], takes))
    if partial:
        return functools.partial(target, *args, **given)
    lacking = [a.name for a in list(takes)[len(args) :] if a.default is NONE and a.name not in given]
    if lacking:
        raise ValueError(f"expected {path} to be given {', '.join(lacking)} (got {', '.join(given) or 'nothing'})")
    return target(*args, **given)


def _built(value: Any, trust: Sequence[str] | None) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _call(dict(value), (), {}, trust)
        return {key: _built(one, trust) for key, one in value.items()}
    return [_built(one, trust) for one in value] if isinstance(value, list) else value


def unknown_argument(path: str, name: str, takes: Arguments, key: str = "") -> str:
    """The message for an argument (at `key` in the configuration) that the target at `path` does not take."""
    accepted = [known for known in takes.named if known not in GIVEN]
    listed = ", ".join(accepted) or "none"
    return f"expected an argument of {path}: {listed} (got {(key or name)!r}){nearest(name, accepted)}"


def fill(node: Node) -> DictConfig:
    """A copy of `node` in which every part also names the arguments that its signature has defaults for.

    Plain defaults only (numbers, text, true and false, null, lists of them); what the program gives at build time is
    left out, as is what has no default.
    """
    return cast(DictConfig, OmegaConf.create(_filled(plain(node, resolve=False))))


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    filled = {key: _filled(one) for key, one in value.items()}
    path = filled.get("_target_")
    if isinstance(path, str) and "${" not in path and path != "???":
        for argument in arguments_of(locate(path)):
            if argument.name not in filled and argument.name not in GIVEN and _is_plain(argument.default):
                default = argument.default
                filled[argument.name] = list(default) if isinstance(default, tuple) else default
    return filled


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)


def check(node: Any, key: str = "") -> None:
    """Raises ValueError in one line, with the full key, unless every part in `node` exists and takes its arguments."""
    for where, part in _parts(plain(node), key):
        path = part["_target_"]
        if not isinstance(path, str):
            raise ValueError(f"expected {_join(where, '_target_')} to be a dotted path (got {_short(path)})")
        values = {name: value for name, value in part.items() if name not in ("_target_", "_partial_")}
        check_arguments(values, locate(path), where, path)


def check_arguments(values: Mapping[str, Any], target: Callable[..., Any], key: str = "", path: str = "") -> None:
    """Holds `values` against the names and annotations of `target`'s arguments.

    Arguments:
        key: where the values stand in the configuration, for the error.
        path: the target's dotted path, for the error.

    Raises:
        ValueError: an argument the target does not take, or a value that does not fit: "expected model.encoder.dim to
            be a whole number (got 'four')".
    """
    takes = arguments_of(target)
    for name, value in values.items():
        full = _join(key, name)
        if name not in takes:
            raise ValueError(unknown_argument(path or getattr(target, "__qualname__", str(target)), name, takes, full))
        annotation = takes.named[name].annotation if name in takes.named else Any
        if not fits(value, annotation):
            raise ValueError(f"expected {full} to be {described(annotation)} (got {_short(value)})")


def _parts(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        for name, one in value.items():
            yield from _parts(one, _join(key, name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _parts(one, f"{key}[{number}]")


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def team_sizes(value: Any) -> list[int]:
    """`n_agents` as a list of sizes; raises ValueError unless it is a positive whole number or a list of them."""
    sizes = plain(value)
    sizes = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(f"expected n_agents to be a positive whole number or a list of them (got {plain(value)!r})")
    return sizes


def env_node(name: str, **options: Any) -> DictConfig:
    """The filled and checked configuration of a world by its name in conf/env, with some of its arguments changed."""
    file = conf_dir() / "env" / f"{name}.yaml"
    names = options_of("env")
    if name not in names:
        raise ValueError(f"expected env to be a world of conf/env (got {name!r}){nearest(name, names)}")
    node = fill(OmegaConf.load(file))
    path = node["_target_"]
    takes = arguments_of(locate(path))
    for option, value in options.items():
        if option not in takes or option in GIVEN:
            raise ValueError(unknown_argument(path, option, takes))
        OmegaConf.update(node, option, value, merge=True, force_add=True)
    check(node, "env")
    return node


def make_env(
    name: str, n_agents: int | None = None, num_envs: int = 1, device: str = "cpu", seed: int = 0, **options: Any
) -> TeamEnv:
    """Makes a world by its name in conf/env.

    Arguments:
        name: such as "vmas/navigation".
        n_agents: agents in a team; None: the world's own default.
        num_envs: teams stepped together.
        device: where the tensors live.
        seed: of the world's random stream.
        options: any other argument of the world, such as `max_steps=50` or `density="arena"`.

    Raises:
        ValueError: an unknown world or option, a value that does not fit, or a size the world cannot take.
        ImportError: the world belongs to an extra that is not installed; the message names it.
    """
    node = env_node(name, **options)
    given: dict[str, Any] = {} if n_agents is None else {"n_agents": one_team_size(n_agents)}
    return cast("TeamEnv", build(node, num_envs=num_envs, device=device, seed=seed, **given))


def one_team_size(value: Any) -> int:
    """`n_agents` where one size is needed; raises ValueError for anything but one positive whole number."""
    sizes = team_sizes(value)
    if len(sizes) != 1 or not isinstance(value, int):
        raise ValueError(f"expected n_agents to be one positive whole number (got {plain(value)!r})")
    return sizes[0]
