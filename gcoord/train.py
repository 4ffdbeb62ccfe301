"""Trains a team: `python -m gcoord.train n_agents=4`. See `--help` for every option."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.table import Table

from gcoord import conf
from gcoord import run as runs
from gcoord.command import Job, run_command
from gcoord.envs.copies import WorldError
from gcoord.fitting import fit
from gcoord.run_folder import read_config, refuse_taken
from gcoord.warm_start import initialise


def train(cfg: DictConfig, job: Job) -> int:
    """One run: build everything, then make its folder, then train, then say how it went and what to type next."""
    console = Console()
    if cfg.get("evolution") is not None:
        return evolve(cfg, job, console)
    if cfg.resume is not None:
        folder = Path(cfg.resume)
        run = runs.resume(folder, **may_change(cfg, job))
    else:
        run = runs.build(cfg)
        run.names = {group: choice for group, choice in job.choices.items() if choice}
        try:
            folder = run_folder(cfg, run, job)
            if cfg.init_from is not None and (told := initialise(run, Path(cfg.init_from))):
                console.print(told, highlight=False, soft_wrap=True)
        except BaseException:
            run.close()
            raise
    for line in about(run, folder):
        console.print(line, highlight=False, soft_wrap=True)
    go_on = f"python -m gcoord.train resume={folder}"
    try:
        summary = fit(run, folder, console)
    except WorldError as error:
        print(f"error: {error}; what was learnt is saved, go on with: {go_on}", file=sys.stderr)
        return 1
    finally:
        run.close()
    if summary["status"] == "interrupted":
        console.print(f"stopped; go on with: {go_on}", soft_wrap=True, highlight=False)
        return 130
    console.print(results(summary["test"], run))
    sizes = ",".join(str(n) for n in [*run.sizes, *larger(run)])
    for line in (
        f"{summary['seconds']:.0f} s of training; the policy is in {folder}",
        f"next: python -m gcoord.evaluate run={folder} 'n_agents=[{sizes}]'",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def evolve(cfg: DictConfig, job: Job, console: Console) -> int:
    """Many runs, size after size, of which the best go on; see `gcoord.scaleup.evolution`."""
    folder = evolution_folder(cfg)
    names = {group: choice for group, choice in job.choices.items() if choice}
    sizes = conf.team_sizes(cfg.n_agents)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    one = cfg.copy()
    conf.build(cfg.evolution).run(one, names, sizes, folder, say)
    say(f"next: python -m gcoord.evaluate run={folder}")
    return 0


def evolution_folder(cfg: DictConfig) -> Path:
    """Where an evolution lies: named by the user, so that the same command goes on with it."""
    if cfg.run_dir is None:
        raise ValueError("expected run_dir=<folder> for an evolution, which the same command goes on with (got none)")
    return Path(cfg.run_dir)


def validate(cfg: DictConfig, job: Job) -> None:
    """All that `train` would refuse, without making anything."""
    if cfg.resume is not None:
        may_change(cfg, job)
        read_config(Path(cfg.resume))
        return
    if cfg.get("evolution") is not None:
        conf.build(cfg.evolution).check(cfg, conf.team_sizes(cfg.n_agents), evolution_folder(cfg))
    small = cfg.copy()
    if isinstance(cfg.num_envs, int) and cfg.num_envs > 1:
        small.num_envs = len(cfg.n_agents) if isinstance(cfg.n_agents, ListConfig) else 1
    run = runs.build(small)
    try:
        run_folder(cfg, run, job)
        if cfg.init_from is not None:
            initialise(run, Path(cfg.init_from))
    finally:
        run.close()


def may_change(cfg: DictConfig, job: Job) -> dict[str, Any]:
    """What resume= was given besides: frames and device may be changed, anything else is refused."""
    allowed = ("resume", "frames", "device")
    for override in job.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key not in allowed:
            raise ValueError(f"expected resume= with frames= and device= at most (got {override!r})")
    return {key: cfg[key] for key in ("frames", "device") if job.names(key)}


def run_folder(cfg: DictConfig, run: runs.Run, job: Job) -> Path:
    """run_dir, or one under runs/ named by time, world, algorithm, team and seed; with the job's number in a multirun.

    Raises ValueError for a folder that already holds a run: it is gone on with by resume=.
    """
    sizes = "-".join(str(n) for n in run.sizes)
    algo = str(job.choices.get("algo", cfg.algo._target_.rpartition(".")[2].lower()))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{run.spec.world.replace('/', '-')}-{algo}-n{sizes}-s{cfg.seed}"
    folder = Path(cfg.run_dir) if cfg.run_dir is not None else Path("runs") / name
    if job.number is not None:
        folder = folder / str(job.number) if cfg.run_dir is not None else Path(f"{folder}-{job.number}")
    refuse_taken(folder)
    return folder


def about(run: runs.Run, folder: Path) -> list[str]:
    """What is about to be trained, in words."""
    spec = run.spec
    team = " and ".join(str(n) for n in run.sizes)
    weights = sum(p.numel() for p in run.learner.agent.parameters())
    actions = "numbered" if spec.discrete else "continuous" if spec.continuous else "mixed"
    workers = sum(getattr(collector.env, "n_workers", 0) for collector in run.source.collectors)
    there = all(collector.policy is not None for collector in run.source.collectors)
    stepped = [
        f"{workers} worker process{'es' * (workers > 1)}: "
        + ("whole fragments are collected there" if there else "asked step by step (collect=worker is quicker)")
    ]
    return [
        f"{spec.world}: {team} agents, {run.source.told}, {actions} actions, density {spec.density}",
        f"{type(run.learner).__name__} with {weights:,} weights in the policy, on {run.device}, into {folder}",
        *(stepped if workers else []),
    ]


def larger(run: runs.Run) -> list[int]:
    """Two, four and eight times the largest team trained, as far as the world takes them."""
    sizes: list[int] = []
    for size in (max(run.sizes) * times for times in (2, 4, 8)):
        try:
            # A world whose teams come in steps warns that it has another: that is then the size to offer.
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                env = runs.make_world(run.cfg, size, 1, run.device, 0)
        except ValueError:
            break
        env.close()
        sizes.append(env.spec.n_agents)
    return list(dict.fromkeys(sizes))


def results(test: dict[str, dict[str, dict[str, float]]], run: runs.Run) -> Table:
    """Random and trained side by side, in episodes that no choice was based on: a figure a line."""
    table = Table(title=f"{run.cfg.evaluation.episodes} test episodes, the trained policy greedy", title_justify="left")
    players = list(next(iter(test.values())))
    for name in ("agents", "figure", *players):
        table.add_column(name, justify="left" if name == "figure" else "right", no_wrap=True)
    for size, row in test.items():
        table.add_section()
        for place, name in enumerate(name for name in row["trained"] if name != "length"):
            told = (f"{row[who][name]:.3f}" for who in players)
            table.add_row("" if place else size, name.replace("_", " "), *told)
    return table


if __name__ == "__main__":
    sys.exit(run_command("train", train, validate=validate))
