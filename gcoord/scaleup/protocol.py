"""What happens at other team sizes: the same weights as they are, fine-tuned, and beside them policies trained there.

A sweep is a plan of trainings and cells (`Sweep.plan`); `Sweep.run` does what is missing of it and `gcoord.scaleup.
figures` makes of it rows with intervals. Every cell and every training lies in a file or folder of its own, so that a
sweep that was killed goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gcoord import conf
from gcoord.envs.team import TeamEnv
from gcoord.policy import Policy, load
from gcoord.run import pick_device
from gcoord.run_folder import is_finished, read_config
from gcoord.scaleup.cells import Cell, Played, told
from gcoord.scaleup.conditions import agent_under, canonical, parse
from gcoord.scaleup.film import film
from gcoord.scaleup.jobs import Failure, Job, do_all
from gcoord.scaleup.playing import Stage, check_alike, make_world, rewired, scripted
from gcoord.scaleup.reporting import episode
from gcoord.scaleup.speech import WORLDS
from gcoord.scaleup.trainings import ASIDE, Training, training

__all__ = ["Learning", "Sweep", "Trained", "latest", "open_run", "rewired", "runs_in", "scripted"]

RANDOM = 3  # how often random play is repeated at most: it has no run behind it


@dataclass
class Trained:
    """A finished run: its folder, configuration, policy, and how it is called in tables."""

    folder: Path
    cfg: DictConfig
    policy: Policy
    method: str
    frames: int
    names: dict[str, str] = field(default_factory=dict)

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
        frames, names = int(summary["frames"]), dict(summary.get("names", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected {path / 'summary.json'} of a run (got {error!r})") from error
    method = f"{names.get('algo', 'run')} {names.get('model', '')}".strip()
    return Trained(path, cfg, load(path, device, trust), method, frames, names)


def latest(root: Path = Path("runs")) -> Path:
    """The run under `root` that finished last. Raises FileNotFoundError where there is none."""
    finished = []
    for path in root.glob("**/summary.json"):
        # What a sweep or an evolution trained is a part of it.
        if (path.parents[2] / "cells").is_dir() or path.parents[2].name == "generations":
            continue
        try:
            if json.loads(path.read_text()).get("status") == "finished":
                finished.append(path)
        except ValueError as error:
            raise ValueError(f"expected {path} to be JSON (got {error})") from error
    if not finished:
        raise FileNotFoundError(f"expected a finished run under {root}/ (got none); train one: python -m gcoord.train")
    return max(finished, key=lambda path: path.stat().st_mtime).parent


def runs_in(given: str | Sequence[str]) -> list[Path]:
    """Run folders: those given, a folder without a run standing for the finished runs in it (a multirun's seeds).

    Raises ValueError where there are none, or the same one twice.
    """
    found: list[Path] = []
    for one in [given] if isinstance(given, str) else given:
        folder = Path(one)
        within = sorted(path.parent for path in folder.glob("*/config.yaml") if is_finished(path.parent))
        found += within if within and not (folder / "config.yaml").exists() else [folder]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"expected at least one run, each once (got {[str(path) for path in found]})")
    return found


@dataclass
class Learning:
    """What a sweep trains in a mode: `frames` (None: nothing) of runs changed by `changes`, watched `evaluations`
    times; `name` is the configuration's, for errors."""

    frames: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    evaluations: int = 10
    name: str = "scratch"

    def __post_init__(self) -> None:
        for name, value in ((f"{self.name}.frames", self.frames), ("evaluations", self.evaluations)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"expected {name} to be a positive whole number (got {value!r})")


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
        folder: where cells and trained runs are kept; None: `scale/` of the first run.
        fine_tune: how runs are fine-tuned to each size, in the mode `fine_tuned`.
        from_scratch: how policies are trained at each size, in the mode `scratch`.
        train_sizes: small sizes to train the same method at, as it was: zero-shot from each of them too.
        trust: modules whose own parts policies may use.
        conditions: what trained policies are also played under, such as `cut=0.5` (see `gcoord.scaleup.conditions`).
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
        folder: Path | None = None,
        fine_tune: Learning | None = None,
        from_scratch: Learning | None = None,
        train_sizes: Sequence[int] = (),
        trust: Sequence[str] = (),
        conditions: Sequence[str] = (),
    ) -> None:
        everyone = [*runs, *scratch]
        worlds = {run.policy.spec.world for run in everyone}
        if len(worlds) != 1:
            raise ValueError(f"expected runs of one world (got {sorted(worlds)})")
        if any(run.policy.spec.sizes_any() != runs[0].policy.spec.sizes_any() for run in everyone):
            raise ValueError("expected runs whose teams see and act alike (got other observations or actions)")
        if any(run.cfg.env != runs[0].cfg.env for run in everyone):
            raise ValueError("expected runs of the same world (got other arguments under env in their config.yaml)")
        if min(episodes, num_envs) < 1:
            raise ValueError(f"expected episodes and num_envs of at least 1 (got {episodes} and {num_envs})")
        self.runs, self.scratch = runs, scratch
        self.episodes, self.num_envs, self.seed = episodes, min(num_envs, episodes), seed
        self.env, self.device, self.say = env or {}, pick_device(device), say
        self.epsilon, self.topology, self.trust = epsilon, topology, list(trust)
        self.folder = runs[0].folder / "scale" if folder is None else folder
        self.fine_tune, self.from_scratch = fine_tune or Learning(), from_scratch or Learning()
        self.train_sizes = list(train_sizes)
        conf.check(OmegaConf.merge(runs[0].cfg.env, self.env), "env")
        # Density has a column of its own.
        words = told({name: value for name, value in self.env.items() if name != "density"}, runs[0].cfg.env, "env")
        if topology:
            words += told(topology, runs[0].cfg.topology, "topology")
            for run in everyone:
                run.policy.agent.body.topology = conf.build(rewired(run.cfg.topology, topology))
        words += [] if epsilon is None else [f"epsilon={epsilon:g}"]
        self.condition = " ".join(words)
        self.conditions = [text for text in dict.fromkeys(map(canonical, conditions)) if not parse(text).nothing]
        for run in everyone:
            for text in self.conditions:
                agent_under(text, run.policy.agent, speech=WORLDS.get(run.policy.spec.world))
        self.failures: list[Failure] = []
        self._scripts: dict[int, bool] = {}

    def world(self, run: Trained, size: int, num_envs: int | None = None) -> TeamEnv:
        """The world a run was trained in, at another size."""
        node = self._env_of(run)
        if num_envs == 1 and "workers" in node:
            # A single team is stepped in this process, where it can also be drawn.
            node["workers"] = 0
        env = make_world(node, size, num_envs or self.num_envs, self.device, self.seed)
        try:
            check_alike(env.spec, run.policy.spec)
        except ValueError:
            env.close()
            raise
        return env

    def film(self, size: int, folder: Path) -> Path:
        """An episode of the first run at one size, as a film in `folder`; returns the file."""
        first = self.runs[0]
        env = self.world(first, size, num_envs=1)
        try:
            title = f"{env.spec.world}, {size} agents, {first.method}"
            return film(env, first.policy.agent, folder / f"episode-{size}", self.seed, title)
        finally:
            env.close()

    def check(self, sizes: Sequence[int], modes: Sequence[str] = ("zero_shot",)) -> None:
        """Raises ValueError for what cannot be: a size that the world does not take, a mode without its frames, a
        scratch run at none of the sizes, changes that a part does not take."""
        if "fine_tuned" in modes and self.fine_tune.frames is None:
            raise ValueError("expected fine_tune.frames=<environment steps> for the mode fine_tuned (got none)")
        if "scratch" in modes and self.from_scratch.frames is None and not self.scratch:
            raise ValueError(
                "expected scratch.frames=<environment steps> or scratch.runs for the mode scratch (got none)"
            )
        for run in self.scratch:
            if not set(run.policy.trained_on) <= set(sizes) or len(run.policy.trained_on) != 1:
                raise ValueError(
                    f"expected scratch runs at one of {list(sizes)} agents (got {run.folder}: {run.sizes})"
                )
        for size in [*sizes, *self.train_sizes]:
            self.has_script(size)
        self.plan(sizes, modes)

    def plan(self, sizes: Sequence[int], modes: Sequence[str]) -> list[Job]:
        """All trainings and cells of the sweep, those that are done too."""
        jobs: list[Job] = []
        for size in sizes:
            for mode in (mode for mode in ("random", "scripted") if mode in modes):
                times = min(len(self.runs), RANDOM) if mode == "random" else 1
                if mode == "random" or self.has_script(size):
                    jobs += [self._job(self._cell(mode, mode, "", size, i)) for i in range(times)]
            if "zero_shot" in modes:
                for run, i in self._numbered(self.runs):
                    jobs.append(self._job(self._of_run(run, "zero_shot", size, i)))
                for run, i in self._numbered(self.runs):
                    jobs += self._small(run, size, i)
            if "fine_tuned" in modes:
                for run, i in self._numbered(self.runs):
                    # Trained there already: more of the same would be no transfer.
                    if run.policy.trained_on != [size]:
                        jobs += self._trained(run, "fine_tuned", size, i)
            if "scratch" in modes and self.from_scratch.frames is not None:
                for run, i in self._numbered(self.runs, by_size=False):
                    jobs += self._trained(run, "scratch", size, i)
            here = [run for run in self.scratch if run.policy.trained_on == [size]]
            jobs += [self._job(self._of_run(run, "scratch", size, i)) for run, i in self._numbered(here)]
        return [one for job in jobs for one in (job, *self._disturbed(job))]

    def _disturbed(self, job: Job) -> list[Job]:
        """A trained policy's cell again under each condition of communication."""
        cell = job.work
        if not isinstance(cell, Cell) or not cell.run:
            return []
        return [
            self._job(
                dataclasses.replace(cell, communication=text, condition=f"{self.condition} {text}".strip()), job.needs
            )
            for text in self.conditions
        ]

    def episode(self, size: int) -> Any:
        """The replay of an episode of the first run at one size."""
        first = self.runs[0]
        return episode(lambda: self.world(first, size, num_envs=1), first.policy.agent, self.seed, first.method)

    def run(self, sizes: Sequence[int], modes: Sequence[str], processes: int = 1) -> list[Job]:
        """Does what is missing and gives the whole plan; `failures` then tells what came to nothing."""
        jobs = self.plan(sizes, modes)
        self.failures = do_all(jobs, processes, self.say)
        return jobs

    def at(self, size: int, modes: Sequence[str]) -> list[tuple[Cell, Played]]:
        """What is there at one size, played here and now and kept nowhere; nothing is trained."""
        stage = Stage()
        try:
            cells = [job.work for job in self.plan([size], modes) if isinstance(job.work, Cell) and not job.needs]
            return [(cell, stage.play(cell)) for cell in cells]
        finally:
            stage.close()

    def has_script(self, size: int) -> bool:
        """Whether the world has a script at a size; raises ValueError where it does not take that size."""
        if size not in self._scripts:
            env = self.world(self.runs[0], size, num_envs=1)
            env.close()
            self._scripts[size] = hasattr(env, "scripted")
        return self._scripts[size]

    @staticmethod
    def _numbered(runs: Sequence[Trained], by_size: bool = True) -> list[tuple[Trained, int]]:
        """Runs with their number among those of their method (and training size), from 0."""
        count: dict[tuple[str, str], int] = {}
        numbered = []
        for run in runs:
            key = (run.method, run.sizes if by_size else "")
            numbered.append((run, count.get(key, 0)))
            count[key] = count.get(key, 0) + 1
        return numbered

    def _small(self, run: Trained, size: int, index: int) -> list[Job]:
        """Zero-shot from the same method trained at the other small sizes."""
        jobs = []
        for small in self.train_sizes:
            if any(other.policy.trained_on == [small] and other.method == run.method for other in self.runs):
                continue
            work = self._training(run, small, Learning(int(run.cfg.frames), {}, self.from_scratch.evaluations))
            cell = self._cell("zero_shot", run.method, str(small), size, index, run, work.folder)
            jobs += [Job(work), self._job(cell, needs=(work.folder,))]
        return jobs

    def _trained(self, run: Trained, mode: str, size: int, index: int) -> list[Job]:
        """A training at a size, and the cell that judges it."""
        tuned = mode == "fine_tuned"
        work = self._training(run, size, self.fine_tune if tuned else self.from_scratch, run.folder if tuned else None)
        train = run.sizes if tuned else str(size)
        if not tuned and _is_same(run, work, size):
            return [self._job(self._of_run(run, "scratch", size, index))]
        cell = self._cell(mode, run.method, train, size, index, run, work.folder)
        return [Job(work), self._job(cell, needs=(work.folder,))]

    def _training(self, run: Trained, size: int, how: Learning, init_from: Path | None = None) -> Training:
        changes = {**how.changes, "env": self._env_of(run), "device": str(self.device)}
        assert how.frames is not None
        root = self.folder / "runs"
        return training(root, run.cfg, run.names, size, how.frames, changes, how.evaluations, init_from)

    def _env_of(self, run: Trained) -> dict[str, Any]:
        """The world of a run, changed as asked for, with the kind of actions that it learnt."""
        node = OmegaConf.merge(run.cfg.env, self.env)
        if "continuous" in node:
            node.continuous = not run.policy.spec.discrete
        plain: dict[str, Any] = conf.plain(node)
        return plain

    def _of_run(self, run: Trained, mode: str, size: int, index: int) -> Cell:
        return self._cell(mode, run.method, run.sizes, size, index, run, str(run.folder))

    def _cell(
        self, mode: str, method: str, train: str, size: int, index: int, run: Trained | None = None, folder: str = ""
    ) -> Cell:
        epsilon = 0.0
        if run is not None:
            epsilon = run.cfg.evaluation.get("epsilon", 0.0) if self.epsilon is None else self.epsilon
        return Cell(
            mode=mode,
            method="script" if mode == "scripted" else method,
            train_n_agents=train,
            n_agents=size,
            condition=self.condition,
            index=index,
            env=self._env_of(self.runs[0] if run is None else run),
            episodes=self.episodes,
            num_envs=self.num_envs,
            seed=self.seed + index,
            run=folder,
            epsilon=float(epsilon),
            topology=None if run is None else self.topology,
            device=str(self.device),
            trust=self.trust,
        )

    def _job(self, cell: Cell, needs: tuple[str, ...] = ()) -> Job:
        return Job(cell, str(self.folder / "cells"), needs)


def _is_same(run: Trained, work: Training, size: int) -> bool:
    """Whether a run is what this training would make."""
    if run.policy.trained_on != [size] or run.cfg.get("init_from") is not None:
        return False
    aside = {*ASIDE, "n_agents", "evaluation", "fine_tune"}

    def rest(cfg: Mapping[str, Any]) -> dict[str, Any]:
        # Whether the world was left to choose its kind of actions makes no difference to what it chose.
        left: dict[str, Any] = {name: value for name, value in cfg.items() if name not in aside and value is not None}
        left["env"] = {name: value for name, value in left["env"].items() if name != "continuous"}
        return left

    return rest(conf.plain(run.cfg)) == rest(work.cfg)
