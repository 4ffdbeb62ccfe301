"""Trains a run: `fit(run, folder)`, Lightning's Trainer and what it writes its figures to."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers.logger import Logger
from omegaconf import OmegaConf
from rich.console import Console

from gcoord.callbacks import Bar, MetricsFile, Rounds
from gcoord.checkpoint import set_rng_state
from gcoord.lock import FolderLock
from gcoord.run import Run
from gcoord.run_folder import refuse_taken


def fit(run: Run, folder: Path, console: Console | None = None) -> dict[str, Any]:
    """Trains until `frames`, or Ctrl-C. Returns the summary that it also writes: status and test figures.

    Raises ValueError where the folder holds another run. Raises what the world or the disk raise; a checkpoint of the
    last whole round is saved first.
    """
    console = console or Console()
    folder.mkdir(parents=True, exist_ok=True)
    if run.lock is None:
        run.lock = FolderLock(folder)
        refuse_taken(folder)
    run.folder = folder
    OmegaConf.save(run.cfg, folder / "config.yaml", resolve=True)
    run.source.attach(folder / "checkpoints")
    run.summarise("running")
    began = time.monotonic()
    interrupted = run.learner.frames < run.cfg.frames and optimise(run, console)
    seconds = time.monotonic() - began
    if run.best == float("-inf"):
        run.save_policy()
    status, test = ("interrupted", {}) if interrupted else ("finished", run.test())
    run.summarise(status, seconds=round(seconds, 1), test=test)
    return {"status": status, "seconds": seconds, "test": test}


def optimise(run: Run, console: Console) -> bool:
    """Lightning's fit, round by round, until the frames are there; whether Ctrl-C ended it before."""
    with Bar(run.cfg.frames, run.learner.frames, console) as bar:
        rounds = Rounds(run, bar)
        trainer = make_trainer(run, rounds)
        try:
            trainer.fit(run.learner, train_dataloaders=run.source)
        except SystemExit as error:
            # Lightning's answer to a second Ctrl-C.
            raise KeyboardInterrupt from error
        except Exception:
            if trainer.optimizers and run.restored is None and run.source.has_collected and run.is_sound():
                run.rescue(trainer.optimizers[0])
            raise
        finally:
            rounds.release()
    return rounds.interrupted


def make_trainer(run: Run, rounds: Rounds) -> lightning.Trainer:
    """Lightning's Trainer, quiet: its steps are ours, its log lines and checkpoints are `Rounds`'s."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", module="lightning.*")
    return lightning.Trainer(
        accelerator="gpu" if run.device.type == "cuda" else "cpu",
        devices=[run.device.index] if run.device.type == "cuda" else 1,
        max_epochs=-1,
        logger=make_loggers(run),
        callbacks=[rounds, Restore(run)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


class Restore(lightning.Callback):
    """Puts a checkpoint back once Lightning has made the optimiser."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        state = self.run.restored
        if state is not None:
            trainer.optimizers[0].load_state_dict(state["optimizer"])
            set_rng_state(state["rng"])
            self.run.restored = None


def make_loggers(run: Run) -> list[Logger]:
    """metrics.csv always; TensorBoard, W&B and MLflow as `log` says, offline."""
    folder, log = run._folder, run.cfg.log
    loggers: list[Logger] = [MetricsFile(folder, run.learner.frames)]
    if log.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if log.wandb:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(name=folder.name, save_dir=folder, project="gcoord", offline=True))
    if log.mlflow:
        from lightning.pytorch.loggers import MLFlowLogger

        loggers.append(MLFlowLogger("gcoord", run_name=folder.name, tracking_uri=f"sqlite:///{folder}/mlflow.db"))
    return loggers
