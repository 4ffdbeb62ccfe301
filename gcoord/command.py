"""The front-end of the commands: Hydra's groups, overrides and sweeps, every job checked before the first runs.

Hydra composes the YAML files; then every part is filled from its Python signature, so that each of its arguments can be
overridden, and only then the values of the command line are put in. Hydra itself creates no folder and no log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gcoord.arguments import arguments_of, described, fits, nearest
from gcoord.conf import GIVEN, check, conf_dir, fill, locate, options_of, plain, unknown_argument

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """How a configuration was asked for.

    overrides: as typed, one value each. choices: the chosen option of each group, such as `{"env": "vmas/navigation"}`.
    number: of this job among those of a sweep, from 0; None outside a sweep.
    """

    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str | None] = field(default_factory=dict)
    number: int | None = None

    def names(self, key: str) -> bool:
        """Whether the user has set this key or one below it."""
        keys = [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in self.overrides]
        return any(f"{one}.".startswith(f"{key}.") for one in keys)


Task = Callable[[DictConfig, Job], int | None]
Validate = Callable[[DictConfig, Job], None]


def run_command(
    config_name: str,
    task: Task,
    argv: Sequence[str] | None = None,
    *,
    validate: Validate | None = None,
    conf: Path | None = None,
    description: str = "",
) -> int:
    """Composes conf/<config_name>.yaml with the overrides of the command line and runs the task on it.

    Arguments:
        task: called with the configuration (resolved, checked, struct mode) and the job; returns an exit code or None.
        argv: the command line without the program's name; None: the process's own.
        validate: raises ValueError, ImportError or OSError, in one line, for a configuration that cannot run. All jobs
            of a sweep are validated before the first one runs.
        conf: folder of the YAML files; None: `gcoord.conf.conf_dir()`.
        description: first lines of `--help`.

    Returns:
        0; 1 where a job failed; 2 where the input is bad (one line on stderr, nothing created); 130 where interrupted.
        HYDRA_FULL_ERROR=1 in the environment lets every error through with its traceback.
    """
    folder = (conf or conf_dir()).resolve()
    try:
        options = _parse(config_name, description, sys.argv[1:] if argv is None else list(argv))
        with initialize_config_dir(str(folder), job_name=config_name, version_base="1.3"):
            if options.help:
                print(_help(config_name, description, folder))
                return 0
            jobs = [
                _compose(config_name, folder, overrides, number if options.multirun else None)
                for number, overrides in enumerate(_sweep(options.overrides, options.multirun))
            ]
        if options.cfg:
            for config, _ in jobs:
                print(OmegaConf.to_yaml(config))
            return 0
        for config, job in jobs:
            if validate is not None:
                validate(config, job)
    except _BAD as error:
        if not _is_line(error):
            raise
        return _refuse(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _run_all(task, jobs) if options.multirun else _run(task, *jobs[0])


_BAD = (HydraException, OmegaConfBaseException, ValueError, ImportError, OSError)
_ASIDES = ("Config search path:", "Search path:", "full_key:", "object_type=", "reference_type=")


def _is_line(error: BaseException) -> bool:
    # An ImportError that somebody raised by hand (a missing extra) has a message for the user and no module's name.
    broken = isinstance(error, ImportError) and error.name is not None
    return not broken and os.environ.get("HYDRA_FULL_ERROR") != "1"


def _refuse(error: BaseException) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return BAD_INPUT


def one_line(error: BaseException) -> str:
    """The message of an error, of Hydra's and OmegaConf's too, on one line."""
    if isinstance(error, OverrideParseException):
        return f"expected overrides such as n_agents=4 (got {error.override!r}): {' '.join(error.message.split())}"
    if isinstance(error, HydraException) and not str(error) and error.__cause__ is not None:
        return one_line(error.__cause__)
    # Below the message Hydra lists where it looked, and OmegaConf its own types.
    told = itertools.takewhile(lambda line: not line.startswith(_ASIDES), map(str.strip, str(error).splitlines()))
    return " ".join(line for line in told if line) or type(error).__name__


def _run(task: Task, config: DictConfig, job: Job) -> int:
    try:
        return task(config, job) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        # What the parts refuse when they meet reads "expected ... (got ...)"; anything else is a fault, shown whole.
        if _is_line(error) and (str(error).startswith("expected ") or not isinstance(error, ValueError)):
            return _refuse(error)
        raise


def _run_all(task: Task, jobs: list[tuple[DictConfig, Job]]) -> int:
    failed: list[Job] = []
    for config, job in jobs:
        print(f"job {job.number} ({len(jobs)} in all): {' '.join(job.overrides)}", flush=True)
        try:
            code = _run(task, config, job)
        except Exception:
            traceback.print_exc()
            code = FAILED
        if code == INTERRUPTED:
            return INTERRUPTED
        if code:
            failed.append(job)
    for job in failed:
        print(f"job {job.number} failed: {' '.join(job.overrides)}", file=sys.stderr)
    return FAILED if failed else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def _parse(config_name: str, description: str, argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"python -m gcoord.{config_name}", description=description, add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    return parser.parse_intermixed_args(argv)


def _help(config_name: str, description: str, folder: Path) -> str:
    config, choices = _composed(config_name, [])
    groups = [name for name in dict.fromkeys([*map(str, config), *choices]) if name in choices]
    lines = [description] if description else []
    lines += ["", f"usage: python -m gcoord.{config_name} [key=value ...] [-m key=value,value ...] [--cfg job]"]
    if groups:
        lines += ["", "Parts (group=option):"]
        lines += [f"  {group}={choices[group] or 'null'}  ({', '.join(options_of(group, folder))})" for group in groups]
    lines += ["", "Values (key=value; --cfg job shows those of the parts too):"]
    values = {key: value for key, value in plain(config, resolve=False).items() if key not in groups}
    lines += [f"  {key}={_text(value)}" for key, value in _leaves("", values)]
    lines += ["", "-m runs every combination of comma-separated values, one after another."]
    return "\n".join(lines).lstrip("\n")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sweep(typed: list[str], multirun: bool) -> list[list[str]]:
    """The overrides of every job: all combinations of the values that each key was given."""
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(typed):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [cast(str, override.input_line)]
            continue
        text = override.get_value_string()
        if not multirun:
            raise ValueError(f"expected one value for {key} (got {text!r}); -m runs several, [{text}] is a list")
        if not override.is_discrete_sweep():
            raise ValueError(f"expected values of {key} that can be counted (got {text!r})")
        values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        if not values[key]:
            raise ValueError(f"expected at least one value for {key} (got {text!r})")
    return [list(job) for job in itertools.product(*values.values())]


def _compose(config_name: str, folder: Path, overrides: list[str], number: int | None = None) -> tuple[DictConfig, Job]:
    parsed = OverridesParser.create().parse_overrides(overrides)
    picks = [one for one in parsed if _picks(one, folder)]
    values = [one for one in parsed if not _picks(one, folder)]
    for override in picks:
        _check_choice(override, folder)
    config, choices = _composed(config_name, [cast(str, one.input_line) for one in picks])
    # A part is exchanged before its arguments are known, so that those of the new one can be set as well.
    for override in values:
        if _names_part(override):
            _exchange(config, override)
    config = fill(config)
    for override in values:
        if not _names_part(override):
            _set(config, override)
    OmegaConf.resolve(config)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"expected a value for {', '.join(missing)} (got none)")
    check(config)
    OmegaConf.set_struct(config, True)
    return config, Job(tuple(overrides), choices, number)


def _composed(config_name: str, picks: list[str]) -> tuple[DictConfig, dict[str, str | None]]:
    """What the YAML files say, and the chosen option of each group."""
    composed = compose(config_name, picks, return_hydra_config=True)
    content = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    choices = content.pop("hydra")["runtime"]["choices"]
    chosen = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    return OmegaConf.create(content), chosen


def _picks(override: Override, folder: Path) -> bool:
    """Whether an override picks an option of a group, as opposed to setting a value."""
    if override.is_hydra_override():
        return True
    return (folder / override.key_or_group).is_dir() and not isinstance(override.value(), dict)


def _check_choice(override: Override, folder: Path) -> None:
    group, option = override.key_or_group, override.value()
    if override.is_hydra_override() or override.is_delete() or not isinstance(option, str):
        return
    options = options_of(group, folder)
    if option not in options:
        listed = ", ".join(options) if len(options) <= 12 else f"the {len(options)} options that --help lists"
        raise ValueError(f"expected {group} to be one of {listed} (got {option!r}){nearest(option, options)}")


def _names_part(override: Override) -> bool:
    value = override.value()
    return override.key_or_group.endswith("._target_") or (isinstance(value, dict | list) and "_target_" in str(value))


def _exchange(config: DictConfig, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    if not key.endswith("._target_"):
        if not (override.is_add() or override.is_force_add()):
            _require(config, key)
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        return
    node = OmegaConf.select(config, key.removesuffix("._target_"))
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ValueError(f"expected {key.removesuffix('._target_')} to be a part with a _target_ (got {node!r})")
    takes = arguments_of(locate(str(value)))
    for name in list(node):
        # What the old part was given and the new one does not take goes with the old one.
        if name not in ("_target_", "_partial_") and name not in takes:
            del node[name]
    node["_target_"] = value


def _set(config: DictConfig, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    if override.package is not None:
        raise ValueError(f"expected a group of conf/ before @ (got {override.input_line!r})")
    if override.is_delete():
        _require(config, key)
        path, _, name = key.rpartition(".")
        del (OmegaConf.select(config, path) if path else config)[name]
        return
    for leaf, one in _leaves(key, value):
        if not (override.is_add() or override.is_force_add()):
            _require(config, leaf)
        OmegaConf.update(config, leaf, _typed(config, leaf, one), merge=True, force_add=True)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values below `key` of a value that may be a mapping."""
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, one in value.items():
        yield from _leaves(f"{key}.{name}" if key else str(name), one)


def _typed(config: DictConfig, key: str, value: Any) -> Any:
    """`value`, as a whole number where one is wanted and it is one (1e6).

    Values outside parts have no annotation: they keep the type that the YAML file gives them. Raises ValueError.
    """
    path, _, name = key.rpartition(".")
    above = OmegaConf.select(config, path) if path else config
    if not isinstance(above, DictConfig):
        return value
    if "_target_" in above:
        takes = arguments_of(locate(above["_target_"]))
        wanted = takes.named[name].annotation if name in takes.named else Any
    else:
        now = OmegaConf.to_container(above, resolve=False).get(name)  # type: ignore[union-attr]
        told = isinstance(now, bool | int | float | str) and now != "???" and "${" not in str(now)
        wanted = type(now) if told else Any
    if isinstance(value, float) and value.is_integer() and not fits(value, wanted) and fits(int(value), wanted):
        return int(value)
    if "_target_" not in above and not isinstance(value, dict) and "${" not in str(value) and not fits(value, wanted):
        raise ValueError(f"expected {key} to be {described(wanted)} (got {value!r})")
    return value


def _require(config: DictConfig, key: str) -> None:
    """Raises ValueError unless the configuration has this key, or a part in it takes an argument of this name.

    Mappings that are a part's argument, such as step sizes by group, may be given any key.
    """
    node: Any = OmegaConf.to_container(config, resolve=False)
    everything = list(_keys(node))
    inside = False
    for name in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict) and name in node:
            inside = inside or "_target_" in node
            node = node[name]
        elif isinstance(node, dict) and "_target_" in node:
            takes = arguments_of(locate(node["_target_"]))
            if name in takes and name not in GIVEN:
                return
            raise ValueError(unknown_argument(node["_target_"], name, takes, key))
        elif inside and (node is None or isinstance(node, dict)):
            return
        else:
            raise ValueError(f"expected a key of the configuration (got {key!r}){nearest(key, everything)}")


def _keys(node: Any, above: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name not in ("_target_", "_partial_"):
                yield f"{above}{name}"
                yield from _keys(value, f"{above}{name}.")
