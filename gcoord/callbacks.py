"""What happens between rounds of training: figures, evaluation, checkpoints, progress, stopping."""

from __future__ import annotations

import csv
import json
import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.loggers.logger import Logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gcoord.checkpoint import whole_file

if TYPE_CHECKING:
    from gcoord.run import Run

Figures = dict[str, float]

# Figures that the bar shows.
SHOWN = ("return_per_agent", "success")


class MetricsFile(Logger):
    """metrics.csv: one line a round, appended; columns that appear later rewrite the file once."""

    def __init__(self, folder: Path, frames: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        if self.path.exists():
            rows = self._read()
            self._write([row for row in rows if float(row["frames"]) <= frames])

    def _read(self) -> list[dict[str, str]]:
        with open(self.path, newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            self.columns = list(reader.fieldnames or [])
        return rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with whole_file(self.path) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml."""

    def log_metrics(self, metrics: Figures, step: int | None = None) -> None:
        row = {"frames": step, **metrics}
        if fresh := [name for name in row if name not in self.columns]:
            rows: list[dict[str, Any]] = list(self._read()) if self.path.exists() else []
            self.columns += fresh
            self._write([*rows, row])
            return
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)


class Rounds(lightning.Callback):
    """After each round (one pass over the source): logs, evaluates, saves, and stops when the frames are there.

    Ctrl-C finishes the round, saves and stops; a second one stops at once.
    """

    def __init__(self, run: Run, bar: Bar) -> None:
        self.run, self.bar = run, bar
        self.interrupted = False
        self.began = time.monotonic()
        self.frames_before = self.saved_at = run.learner.frames
        self._old_handler: Any = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        try:
            self._old_handler = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:
            # Only the main thread may set handlers; elsewhere Ctrl-C is the caller's.
            self._old_handler = None

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self.bar.say("stopping after this round (Ctrl-C again: at once, without saving)")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        error = self.run.learner.td_error
        if error is not None and batch.index is not None:
            self.run.source.feedback(batch.index, error)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        run, learner = self.run, self.run.learner
        run.source.end_round()
        now = time.monotonic()
        frames = learner.frames - self.frames_before
        figures = {
            **run.source.take_figures(),
            **learner.take_figures(),
            "epsilon": learner.epsilon,
            "lr": learner.step_size("actor"),
            "agent_steps": float(learner.agent_steps),
            "updates": float(learner.updates),
            "frames_per_second": frames / max(now - self.began, 1e-9),
        }
        for name, value in figures.items():
            if name.startswith(("loss_", "grad_norm_")) and not math.isfinite(value):
                raise ValueError(
                    f"expected finite losses and gradients (got {name}={value} at {learner.frames} frames)"
                )
        self.began, self.frames_before = now, learner.frames
        finished = learner.frames >= run.cfg.frames
        if run.cfg.evaluation.frames and (finished or learner.frames - run.evaluated_at >= run.cfg.evaluation.frames):
            run.evaluated_at = learner.frames
            figures |= {f"evaluation_{name}": value for name, value in run.evaluate().items()}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=learner.frames)
        self.bar.update(learner.frames, figures)
        stop = finished or self.interrupted
        if stop or learner.frames - self.saved_at >= run.cfg.checkpoint_frames:
            self.saved_at = learner.frames
            run.save(trainer.optimizers[0])
        if stop:
            trainer.should_stop = True
        self.began = time.monotonic()

    def release(self) -> None:
        """Gives Ctrl-C back to whoever had it."""
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)


class Bar:
    """Frames, frames a second, return, success, time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, done: int, console: Console) -> None:
        self.console, self.total = console, total
        self.shown: Figures = {}
        self.live = console.is_terminal
        self.lines_at = 0.0
        self.began, self.start = time.monotonic(), done
        self.bar = Progress(
            TextColumn("{task.completed:>9,.0f}/{task.total:,.0f} frames"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rate]:,.0f}/s  return {task.fields[ret]}  success {task.fields[success]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
            refresh_per_second=4,
        )
        self.task = self.bar.add_task("", total=total, completed=done, rate=0.0, ret="-", success="-")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False)

    def update(self, frames: int, figures: Figures) -> None:
        """Shows the newest figures; a value stays until a newer one is there."""
        self.shown |= {name: value for name, value in figures.items() if value == value}
        if "episodes" not in figures:
            # Where nothing is played while learning, the last evaluation is what is known.
            self.shown |= {n: self.shown[f"evaluation_{n}"] for n in SHOWN if f"evaluation_{n}" in self.shown}
        ret, success = (f"{self.shown[n]:.2f}" if n in self.shown else "-" for n in SHOWN)
        rate = self.shown.get("frames_per_second", 0.0)
        self.bar.update(self.task, completed=min(frames, self.total), rate=rate, ret=ret, success=success)
        now = time.monotonic()
        if not self.live and (now - self.lines_at > 10 or frames >= self.total):
            self.lines_at = now
            left = (self.total - frames) * (now - self.began) / max(frames - self.start, 1)
            self.say(
                f"{frames:>9,}/{self.total:,} frames  {rate:,.0f}/s  return {ret}  success {success}  "
                f"{max(left, 0):.0f} s left"
            )


def write_json(path: Path, content: Any) -> None:
    """Writes aside, then renames."""
    with whole_file(path) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")
