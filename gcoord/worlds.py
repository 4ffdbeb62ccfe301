"""The list of worlds: `python -m gcoord.envs [name or part of it ...]`; `--markdown` writes docs/environments.md.

What a world's card says is known without making it; shapes, actions and rewards are read off the world itself.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gcoord import conf
from gcoord.envs.cards import Card
from gcoord.spec import Action, Discrete, TeamSpec

PAGE_HEAD = """# Environments

Written by `python -m gcoord.envs --markdown > docs/environments.md`; a test keeps it true. Figures are mean returns per
agent of an episode at the default team size: of random actions, and of the world's own script or planner. At
`env.density=fixed`, the default where a team size can be chosen, the world grows with the team as said; at
`env.density=arena` it does not.

Worlds of `native/` are also PettingZoo ParallelEnvs, for other people's programs:

```python
from gcoord.envs.native.export import as_parallel_env

env = as_parallel_env("spread", n_agents=5, density="arena")
observations, infos = env.reset(seed=0)
```

An agent then observes all that it would hear here (itself, the entities and where the others are), which grows with the
team; with `view="own"`, what it senses itself.

"""


@dataclass(frozen=True)
class Entry:
    """A world of conf/env: its card, and its spec at the default size (None where its extra is not installed)."""

    name: str
    card: Card
    spec: TeamSpec | None


def cards() -> dict[str, Card]:
    """Every world's card by its name in conf/env. Files without a card of their own make worlds of the user's."""
    found = {}
    for name in conf.options_of("env"):
        node: Any = OmegaConf.load(conf.conf_dir() / "env" / f"{name}.yaml")
        if OmegaConf.missing_keys(node):
            continue
        module = importlib.import_module(node["_target_"].rpartition(".")[0])
        if card := getattr(module, "CARDS", {}).get(name):
            found[name] = card
    return found


def entries(parts: Sequence[str] = ()) -> Iterator[Entry]:
    """The worlds whose name holds one of `parts` (none: all), one after the other as they are made."""
    for name, card in cards().items():
        if not parts or any(part in name for part in parts):
            yield Entry(name, card, spec_of(name))


def spec_of(name: str) -> TeamSpec | None:
    """The spec of one team of the default size; None where the extra it needs is not installed."""
    options: dict[str, Any] = {"workers": 0} if "workers" in conf.env_node(name) else {}
    try:
        env = conf.make_env(name, num_envs=1, **options)
    except ImportError:
        return None
    try:
        return env.spec
    finally:
        env.close()


def sizes_of(card: Card) -> str:
    """Team sizes in words."""
    if len(card.sizes) == 1 and card.largest in (None, card.sizes[0]):
        return f"{card.sizes[0]} (fixed)"
    return f"{card.smallest} to {card.largest}" if card.largest else f"from {card.smallest} on"


def action_of(action: Action) -> str:
    """An action space in words."""
    return f"{action.n} numbered" if isinstance(action, Discrete) else f"box of {action.n}"


def needed(card: Card) -> str:
    """What has to be installed for it, as pip takes it."""
    return f"gcoord[{card.extra}]" if card.extra.isalnum() else card.extra


def facts(entry: Entry) -> dict[str, str]:
    """All that is to be said of a world, by heading."""
    card, spec = entry.card, entry.spec
    said = {"sizes": sizes_of(card)}
    if spec is not None:
        pairs = list(zip(spec.kinds, spec.actions, strict=True))
        one = len({action_of(action) for action in spec.actions}) == 1
        said |= {
            "default": str(spec.n_agents),
            "observation": " x ".join(map(str, spec.own))
            + (f", {spec.n_entities} entities of {spec.entity_dim}" if spec.n_entities else ""),
            "actions": action_of(spec.actions[0]) if one else ", ".join(f"{k}: {action_of(a)}" for k, a in pairs),
            "kinds": ", ".join(spec.kinds) if len(spec.kinds) > 1 else "one",
            "positions": f"{spec.position_dim}-D" if spec.position_dim else "none",
            "reward": ", ".join(dict.fromkeys(spec.reward)),
            "episode": "no limit" if spec.max_steps is None else f"{spec.max_steps} steps",
        }
    said |= {
        "deaths": "yes" + (", may rejoin" if spec is not None and spec.rejoins else "") if card.dies else "no",
        "metrics": ", ".join(spec.metrics) if spec is not None and spec.metrics else "",
        "agents know": card.knows,
        "entities": card.entities,
        "arena": card.arena,
        "random": "" if card.random is None else f"{card.random:g}",
        "scripted": "" if card.scripted is None else f"{card.scripted:g}",
        "extra": needed(card),
        "note": card.note,
    }
    return said


def line_of(entry: Entry) -> str:
    """A world in one line: name, sizes, what is seen and done."""
    said = facts(entry)
    if entry.spec is None:
        return f"{entry.name:<28} {said['sizes']:<12} needs {said['extra']}, which is not installed"
    parts = [f"sees {said['observation']}", f"does {said['actions']}", f"reward {said['reward']}"]
    parts += [f"kinds {said['kinds']}"] * (said["kinds"] != "one") + ["deaths"] * entry.card.dies
    parts += [f"positions {said['positions']}"] + [said["extra"]] * bool(said["extra"])
    return f"{entry.name:<28} {said['sizes']:<12} (default {said['default']}): " + "; ".join(parts)


def print_list(parts: Sequence[str], console: Console) -> int:
    """A line for each world, or everything about the one that is named in full; the number of worlds."""
    known = cards()
    if len(parts) == 1 and parts[0] in known:
        table = Table(title=parts[0], show_header=False)
        entry = Entry(parts[0], known[parts[0]], spec_of(parts[0]))
        for heading, text in facts(entry).items():
            if text:
                table.add_row(heading, escape(text))
        if entry.spec is None:
            table.add_row("", "not installed: with it more is told")
        console.print(table)
        return 1
    count = 0
    for entry in entries(parts):
        console.print(line_of(entry), highlight=False, soft_wrap=True, markup=False)
        count += 1
    if count:
        hint = "python -m gcoord.envs <name> tells more, python -m gcoord.train env=<name> trains"
        console.print(f"{count} worlds; {hint}", highlight=False, soft_wrap=True)
    return count


def markdown() -> str:
    """docs/environments.md."""
    lines: list[str] = []
    family = ""
    for entry in entries():
        said = facts(entry)
        if entry.name.partition("/")[0] != family:
            family = entry.name.partition("/")[0]
            lines += [f"## {family}", ""]
        lines += [f"### {entry.name}", ""]
        lines += [f"- {heading}: {text}" for heading, text in said.items() if text] + [""]
    return PAGE_HEAD + "\n".join(lines).rstrip() + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 2 where no world is meant."""
    parser = argparse.ArgumentParser(prog="python -m gcoord.envs", description="Lists the worlds.")
    parser.add_argument("name", nargs="*", help="a world, or parts of names")
    parser.add_argument("--markdown", action="store_true", help="print docs/environments.md")
    given = parser.parse_args(argv)
    if given.markdown:
        sys.stdout.write(markdown())
        return 0
    if not print_list(given.name, Console()):
        known = list(cards())
        near = conf.nearest(given.name[0], known)
        print(f"expected a world of conf/env or a part of its name (got {given.name[0]!r}){near}", file=sys.stderr)
        return 2
    return 0
