"""Runs trained policies at other team sizes: `python -m gcoord.evaluate 'n_agents=[4,8,16,32]'`.

What happens to a team trained small when it is made large: zero-shot, fine-tuned there, and beside policies trained
there from scratch, a random and a scripted one. `docs/scale-up.md` tells the protocol.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from rich.console import Console

from gcoord import conf
from gcoord.checkpoint import whole_file
from gcoord.command import FAILED, Job, run_command
from gcoord.lock import FolderLock
from gcoord.run import check_epsilon, check_fine_tune, pick_device
from gcoord.scaleup.figures import Results, results, write_curves
from gcoord.scaleup.protocol import Learning, Sweep, latest, open_run, runs_in
from gcoord.scaleup.report import MODES, Row, plot, table, write_csv, write_json
from gcoord.scaleup.reporting import how_it_grows, write_report

# Of these the picture and the printed table are made where they are there; all else is in results.csv.
ASIDE = (
    *("return", "neighbours", "message_bytes", "entities_heard", "act_mb", "agent_steps", "frames_at_size"),
    "curve_area",
)


def evaluate(cfg: DictConfig, job: Job) -> int:
    """Does what is missing of the sweep, prints the table, writes results.csv, results.json, times.csv, curves.csv,
    notes.txt, scale.png and report.html with its pictures into the first run's `scale/`."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    sweep = make_sweep(cfg, console)
    sizes, modes = conf.team_sizes(cfg.n_agents), all_modes(cfg)
    say(f"{sweep.runs[0].policy.spec.world}: {', '.join(str(run.folder) for run in sweep.runs)}")
    began = time.monotonic()
    files = ["results.csv", "results.json", "times.csv", "curves.csv", "scale.png"]
    folder = sweep.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        found = results(sweep.run(sizes, modes, cfg.processes))
        found.notes += [f"failed: {failure.words}: {failure.reason}" for failure in sweep.failures]
        if found.rows:
            write(found, sweep)
            files += people(found, sweep, sizes, time.monotonic() - began)
            plain = undisturbed(found.rows, sweep)
            console.print(table(plain, shown(plain)))
            if len(plain) < len(found.rows):
                trained = [row for row in found.rows if row.mode not in ("random", "scripted")]
                console.print(table(trained, ["return_per_agent"]))
        for note in found.notes:
            say(note)
        if cfg.video:
            for size in sizes:
                say(str(sweep.film(size, folder)))
    finally:
        lock.release()
    say(f"{time.monotonic() - began:.0f} s; {folder}/{', '.join(files)}")
    return FAILED if sweep.failures else 0


def people(found: Results, sweep: Sweep, sizes: Sequence[int], seconds: float) -> list[str]:
    """What is there to be looked at: report.html and its pictures; gives their names."""
    first = sweep.runs[0]
    return write_report(
        sweep.folder,
        [*found.rows, *found.times],
        found.curves,
        [sweep.episode(size) for size in sizes],
        [run.folder for run in (*sweep.runs, *sweep.scratch)],
        [f"{failure.words}: {failure.reason}" for failure in sweep.failures],
        how_it_grows(first.cfg.env, first.policy.spec.world),
        seconds,
    )


def write(found: Results, sweep: Sweep) -> None:
    """The files of a sweep, each whole or not at all."""
    folder = sweep.folder
    write_csv(found.rows, folder / "results.csv")
    write_json(found.rows, folder / "results.json")
    write_csv(found.times, folder / "times.csv")
    write_curves(found.curves, folder / "curves.csv")
    with whole_file(folder / "notes.txt") as aside:
        aside.write_text("".join(f"{note}\n" for note in found.notes))
    plain = undisturbed(found.rows, sweep)
    plot(plain, folder / "scale.png", shown(plain))


def undisturbed(rows: Sequence[Row], sweep: Sweep) -> list[Row]:
    """Rows of no condition of communication: those have a picture and a table of their own."""
    return [row for row in rows if row.condition == sweep.condition]


def shown(rows: Sequence[Row]) -> list[str]:
    """Figures worth a panel, the most telling first."""
    first = ["return_per_agent", "success", "return_worst_agent"]
    last = ["retention", "retention_of_script", "jump_start", "frames_to_90", "messages", "edges_dropped"]
    present = list(dict.fromkeys(row.metric for row in rows))
    world = [name for name in present if name not in (*first, *last, *ASIDE)]
    return [name for name in (*first, *world, *last) if name in present]


def all_modes(cfg: DictConfig) -> list[str]:
    """The modes asked for, and those that stand in every table."""
    asked = [str(mode) for mode in conf.plain(cfg.modes)] if isinstance(cfg.modes, ListConfig) else [str(cfg.modes)]
    if unknown := sorted(set(asked) - set(MODES)):
        raise ValueError(f"expected modes among {', '.join(MODES)} (got {', '.join(unknown)})")
    return list(dict.fromkeys(["random", "scripted", *asked]))


def make_sweep(cfg: DictConfig, console: Console) -> Sweep:
    """The sweep a configuration asks for, its runs opened and checked."""
    conf.team_sizes(cfg.n_agents)
    all_modes(cfg)
    if type(cfg.processes) is not int or cfg.processes < 1:
        raise ValueError(f"expected processes to be a positive whole number (got {cfg.processes!r})")
    try:
        train_sizes = conf.team_sizes(cfg.train_sizes) if cfg.train_sizes else []
    except ValueError as error:
        raise ValueError(str(error).replace("n_agents", "train_sizes")) from error
    if cfg.epsilon is not None:
        check_epsilon("epsilon", cfg.epsilon)
    check_fine_tune(cfg.fine_tune)
    tuning = conf.plain(cfg.fine_tune)
    tuned = {**tuning["changes"], "fine_tune": {"train": tuning["train"], "near": tuning["near"]}}
    device = pick_device(cfg.device)
    runs = [latest()] if cfg.run is None else runs_in(conf.plain(cfg.run))
    scratch = runs_in(conf.plain(cfg.scratch.runs)) if cfg.scratch.runs else []
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
        say=lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False),
        folder=None if cfg.out is None else Path(cfg.out),
        fine_tune=Learning(whole(tuning["frames"]), tuned, cfg.evaluations, "fine_tune"),
        from_scratch=Learning(whole(cfg.scratch.frames), conf.plain(cfg.scratch.changes), cfg.evaluations, "scratch"),
        train_sizes=train_sizes,
        trust=conf.plain(cfg.trust),
        conditions=[cfg.conditions] if isinstance(cfg.conditions, str) else list(map(str, cfg.conditions)),
    )


def whole(value: Any) -> Any:
    """A number that is whole, such as 1e5, as such."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def validate(cfg: DictConfig, job: Job) -> None:
    """All that `evaluate` would refuse, without playing."""
    make_sweep(cfg, Console(quiet=True)).check(conf.team_sizes(cfg.n_agents), all_modes(cfg))


if __name__ == "__main__":
    sys.exit(run_command("evaluate", evaluate, validate=validate))
