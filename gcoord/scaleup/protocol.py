"""How a trained policy does at other team sizes, beside random and scripted ones at the same size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gcoord import conf
from gcoord.arguments import arguments_of
from gcoord.data.collect import Act, acts, play, random_actions
from gcoord.envs.team import TeamEnv
from gcoord.graph import Lossy
from gcoord.policy import Policy, load
from gcoord.run import pick_device, read_config
from gcoord.scaleup.film import film
from gcoord.scaleup.report import Row
from gcoord.scaleup.statistics import interval
from gcoord.trajectory import Observation


@dataclass
class Trained:
    """A finished run: its folder, configuration, policy, and how it is called in tables."""

    folder: Path
    cfg: DictConfig
    policy: Policy
    method: str
    frames: int

    @property
    def sizes(self) -> str:
        """Team sizes it was trained on, as `4` or `2+4+8`."""
        return "+".join(str(n) for n in self.policy.trained_on)


def open_run(folder: str | Path, device: torch.device, trust: Sequence[str] = ()) -> Trained:
    """Raises ValueError or FileNotFoundError, in one line, for what is no finished run."""
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"expected a run folder (got {folder}, which is not there)")
    cfg = read_config(path)
    try:
        summary = json.loads((path / "summary.json").read_text())
        frames, names = int(summary["frames"]), summary.get("names", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected {path / 'summary.json'} of a run (got {error!r})") from error
    method = f"{names.get('algo', 'run')} {names.get('model', '')}".strip()
    return Trained(path, cfg, load(path, device, trust), method, frames)


def latest(root: Path = Path("runs")) -> Path:
    """The run under `root` that finished last. Raises FileNotFoundError where there is none."""
    finished = []
    for path in root.glob("**/summary.json"):
        try:
            if json.loads(path.read_text()).get("status") == "finished":
                finished.append(path)
        except ValueError as error:
            raise ValueError(f"expected {path} to be JSON (got {error})") from error
    if not finished:
        raise FileNotFoundError(f"expected a finished run under {root}/ (got none); train one: python -m gcoord.train")
    return max(finished, key=lambda path: path.stat().st_mtime).parent


@dataclass
class Cell:
    """One policy in one world at one size: values of each figure, one array of episodes a run."""

    method: str
    mode: str
    train_n_agents: str
    n_agents: int
    values: list[dict[str, Tensor]]
    frames: int = 0

    def rows(self, world: str, density: str, condition: str) -> list[Row]:
        """One row a figure, with its interval."""
        rows = []
        for metric in self.values[0]:
            by_run = [run[metric].double().numpy() for run in self.values]
            value, low, high = interval(by_run)
            rows.append(
                Row(
                    world=world,
                    density=density,
                    train_n_agents=self.train_n_agents,
                    n_agents=self.n_agents,
                    method=self.method,
                    mode=self.mode,
                    condition=condition,
                    metric=metric,
                    value=value,
                    ci_low=low,
                    ci_high=high,
                    episodes=sum(len(values) for values in by_run),
                    seeds=len(by_run),
                    frames=self.frames,
                )
            )
        return rows


class Sweep:
    """Evaluates runs of one world at several team sizes.

    Arguments:
        runs: finished runs; those of one method and training size count as its seeds.
        scratch: runs trained from scratch at a size of the sweep, evaluated there only.
        episodes: whole episodes a run and size; every team plays the same number.
        num_envs: teams stepped together.
        seed: of the worlds; the i-th run of every method meets the same episodes, those of seed + i.
        env: changes to the world's configuration, such as `{"density": "arena"}`.
        epsilon: share of random actions; None: as each run was judged while it was trained.
        topology: changes to who hears whom (see `rewired`), such as `{"k": 2}` or `{"drop": 0.3}`.
        device: where everything runs.
        say: hears what is being done.
    """

    def __init__(
        self,
        runs: Sequence[Trained],
        scratch: Sequence[Trained] = (),
        episodes: int = 100,
        num_envs: int = 100,
        seed: int = 1000,
        env: dict[str, Any] | None = None,
        epsilon: float | None = None,
        topology: dict[str, Any] | None = None,
        device: str = "cpu",
        say: Callable[[str], None] = print,
    ) -> None:
        worlds = {run.policy.spec.world for run in (*runs, *scratch)}
        if len(worlds) != 1:
            raise ValueError(f"expected runs of one world (got {sorted(worlds)})")
        if any(run.policy.spec.sizes_any() != runs[0].policy.spec.sizes_any() for run in (*runs, *scratch)):
            raise ValueError("expected runs whose teams see and act alike (got other observations or actions)")
        if any(run.cfg.env != runs[0].cfg.env for run in (*runs, *scratch)):
            raise ValueError("expected runs of the same world (got other arguments under env in their config.yaml)")
        if episodes < 1 or num_envs < 1:
            raise ValueError(f"expected episodes and num_envs of at least 1 (got {episodes} and {num_envs})")
        self.runs, self.scratch = runs, scratch
        self.episodes, self.num_envs, self.seed = episodes, num_envs, seed
        self.env, self.device, self.say = env or {}, pick_device(device), say
        self.density, self.epsilon = "", epsilon
        conf.check(OmegaConf.merge(runs[0].cfg.env, self.env), "env")
        # Density has a column of its own.
        words = told({name: value for name, value in self.env.items() if name != "density"}, runs[0].cfg.env, "env")
        if topology:
            words += told(topology, runs[0].cfg.topology, "topology")
            for run in (*runs, *scratch):
                run.policy.agent.body.topology = conf.build(rewired(run.cfg.topology, topology))
        words += [] if epsilon is None else [f"epsilon={epsilon:g}"]
        self.condition = " ".join(words)

    def world(self, run: Trained, size: int, num_envs: int | None = None) -> TeamEnv:
        """The world a run was trained in, at another size."""
        node = OmegaConf.merge(run.cfg.env, self.env)
        if "continuous" in node:
            node.continuous = not run.policy.spec.discrete
        count = num_envs or min(self.episodes, self.num_envs)
        if count == 1 and "workers" in node:
            # A single team is stepped in this process, where it can also be drawn.
            node.workers = 0
        env: TeamEnv = conf.build(node, n_agents=size, num_envs=count, device=str(self.device), seed=self.seed)
        if env.spec.sizes_any() != run.policy.spec.sizes_any():
            env.close()
            raise ValueError(
                f"expected {env.spec.world} at {size} agents to look as in training, own {run.policy.spec.own} "
                f"(got own {env.spec.own})"
            )
        return env

    def play(self, env: TeamEnv, act: Act, memory: Tensor | None, seed: int) -> dict[str, Tensor]:
        return play(env, act, memory, self.episodes, seed)

    def at(self, size: int, modes: Iterable[str]) -> list[Cell]:
        """All policies at one size: random, scripted where the world has a script, the runs, and those from scratch."""
        first = self.runs[0]
        env = self.world(first, size)
        # A world whose teams come in steps may have another than was asked for, and has said so.
        size = env.spec.n_agents
        try:
            self.density = env.spec.density
            cells = []
            seeds = max(len(self.runs), 1)
            if "random" in modes:
                played = [
                    self.play(env, random_actions(env.spec, self.seed + i, self.device), None, self.seed + i)
                    for i in range(min(seeds, 3))
                ]
                cells.append(Cell("random", "random", "", size, played))
            if "scripted" in modes and hasattr(env, "scripted"):
                cells.append(Cell("script", "scripted", "", size, [self.play(env, scripted(env), None, self.seed)]))
            groups: dict[tuple[str, str], list[Trained]] = {}
            for run in self.runs if "zero_shot" in modes else ():
                groups.setdefault((run.method, run.sizes), []).append(run)
            for (method, sizes), members in groups.items():
                played = [self.trained(env, run, i) for i, run in enumerate(members)]
                cells.append(Cell(method, "zero_shot", sizes, size, played, max(run.frames for run in members)))
            here: dict[str, list[Trained]] = {}
            for run in self.scratch:
                if run.policy.trained_on == [size]:
                    here.setdefault(run.method, []).append(run)
            for method, members in here.items():
                played = [self.trained(env, run, i) for i, run in enumerate(members)]
                cells.append(Cell(method, "scratch", str(size), size, played, max(r.frames for r in members)))
            return cells
        finally:
            env.close()

    def trained(self, env: TeamEnv, run: Trained, index: int) -> dict[str, Tensor]:
        """Greedy episodes of one run's policy."""
        body = run.policy.agent.body
        memory = body.initial((env.spec.num_envs,), env.spec.n_agents, self.device)
        own = run.cfg.evaluation.get("epsilon", 0.0)
        act = acts(run.policy.agent, epsilon=own if self.epsilon is None else self.epsilon)
        torch.manual_seed(self.seed + index)
        return self.play(env, act, memory, self.seed + index)

    def film(self, size: int, folder: Path) -> Path:
        """An episode of the first run at one size, as a film in `folder`; returns the file."""
        first = self.runs[0]
        env = self.world(first, size, num_envs=1)
        try:
            title = f"{env.spec.world}, {size} agents, {first.method}"
            return film(env, first.policy.agent, folder / f"episode-{size}", self.seed, title)
        finally:
            env.close()

    def check(self, sizes: Sequence[int]) -> None:
        """Raises ValueError for a size that the world cannot take, or a scratch run at none of the sizes."""
        for run in self.scratch:
            if not set(run.policy.trained_on) <= set(sizes) or len(run.policy.trained_on) != 1:
                raise ValueError(
                    f"expected scratch runs at one of {list(sizes)} agents (got {run.folder}: {run.sizes})"
                )
        for size in sizes:
            self.world(self.runs[0], size, num_envs=1).close()

    def rows(self, sizes: Sequence[int], modes: Iterable[str] = ("zero_shot", "random", "scripted")) -> list[Row]:
        """The whole sweep, tidy."""
        rows: list[Row] = []
        for size in sizes:
            self.say(f"{size} agents ...")
            for cell in self.at(size, modes):
                rows += cell.rows(self.runs[0].policy.spec.world, self.density, self.condition)
        return rows


def rewired(topology: DictConfig, changes: dict[str, Any]) -> DictConfig:
    """The configuration of a topology with some of its arguments changed, or another in its place (with `_target_`).

    `drop`, a share of messages that is lost, is understood of every topology. Raises ValueError, in one line, for what
    it does not take.
    """
    whole = "_target_" in changes
    takes = arguments_of(conf.locate(changes["_target_"] if whole else topology._target_))
    lossy = {name: value for name, value in changes.items() if name == "drop" and name not in takes}
    own = {name: value for name, value in changes.items() if name not in lossy}
    node = OmegaConf.create(own) if whole else OmegaConf.merge(topology, own)
    if lossy:
        node = OmegaConf.create({"_target_": f"{Lossy.__module__}.{Lossy.__qualname__}", "topology": node, **lossy})
    conf.check(node, "topology")
    return conf.fill(node)


def told(changes: dict[str, Any], before: Any, key: str) -> list[str]:
    """Changes as `key.name=value`, without those that are none; of a part that was exchanged, what is no default."""
    now: dict[str, Any] = conf.plain(before)
    if "_target_" in changes:
        now = {argument.name: argument.default for argument in arguments_of(conf.locate(changes["_target_"]))}
    words = []
    for name, value in changes.items():
        if name == "_target_":
            words.append(f"{key}={value.rpartition('.')[2]}")
        elif isinstance(value, dict):
            words += told(value, now.get(name) or {}, f"{key}.{name}")
        elif name != "_partial_" and (name not in now or now[name] != value):
            words.append(f"{key}.{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def scripted(env: TeamEnv) -> Act:
    """`play`'s act of the world's own script."""

    def act(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        return env.scripted(seen), memory  # type: ignore[attr-defined]

    return act
