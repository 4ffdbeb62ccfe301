"""Runs trained policies at other team sizes: `python -m gcoord.evaluate 'n_agents=[4,8,16,32]'`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from gcoord import conf
from gcoord.command import Job, run_command
from gcoord.run import check_epsilon, pick_device
from gcoord.scaleup.protocol import Sweep, latest, open_run
from gcoord.scaleup.report import plot, table, write_csv, write_json


def evaluate(cfg: DictConfig, job: Job) -> None:
    """Plays every size, prints the table, writes results.csv, results.json and scale.png into the run's `scale/`."""
    console = Console()
    sweep = make_sweep(cfg, console)
    folder = Path(cfg.out) if cfg.out is not None else sweep.runs[0].folder / "scale"
    names = ", ".join(str(run.folder) for run in sweep.runs)
    console.print(f"{sweep.runs[0].policy.spec.world}: {names}", highlight=False, soft_wrap=True)
    began = time.monotonic()
    rows = sweep.rows(conf.team_sizes(cfg.n_agents), cfg.modes)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(rows, folder / "results.csv")
    write_json(rows, folder / "results.json")
    plot(rows, folder / "scale.png")
    console.print(table(rows))
    if cfg.video:
        for size in conf.team_sizes(cfg.n_agents):
            console.print(f"{sweep.film(size, folder)}", highlight=False, soft_wrap=True)
    console.print(
        f"{time.monotonic() - began:.0f} s; {folder}/results.csv, results.json and scale.png",
        highlight=False,
        soft_wrap=True,
    )


def make_sweep(cfg: DictConfig, console: Console) -> Sweep:
    """The sweep a configuration asks for, its runs opened and checked."""
    conf.team_sizes(cfg.n_agents)
    if unknown := sorted(set(cfg.modes) - {"zero_shot", "random", "scripted"}):
        raise ValueError(f"expected modes among zero_shot, random and scripted (got {unknown})")
    if cfg.epsilon is not None:
        check_epsilon("epsilon", cfg.epsilon)
    device = pick_device(cfg.device)
    runs = [latest()] if cfg.run is None else [cfg.run] if isinstance(cfg.run, str) else list(cfg.run)
    scratch = [] if cfg.scratch is None else [cfg.scratch] if isinstance(cfg.scratch, str) else list(cfg.scratch)
    return Sweep(
        [open_run(folder, device, cfg.trust) for folder in runs],
        [open_run(folder, device, cfg.trust) for folder in scratch],
        episodes=cfg.episodes,
        num_envs=cfg.num_envs,
        seed=cfg.seed,
        env={key: value for key, value in conf.plain(cfg.env).items() if value is not None},
        epsilon=cfg.epsilon,
        topology=conf.plain(cfg.get("topology")),
        device=str(device),
        say=lambda text: console.print(text, highlight=False),
    )


def validate(cfg: DictConfig, job: Job) -> None:
    """All that `evaluate` would refuse, without playing."""
    make_sweep(cfg, Console(quiet=True)).check(conf.team_sizes(cfg.n_agents))


if __name__ == "__main__":
    sys.exit(run_command("evaluate", evaluate, validate=validate))
