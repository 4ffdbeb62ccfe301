"""What a run folder tells: its configuration, and whether its run is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from gcoord import conf


def read_config(folder: Path) -> DictConfig:
    """config.yaml of a run folder; raises ValueError, in one line, where there is none."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"expected a run folder with config.yaml (got {folder})")
    cfg = OmegaConf.load(path)
    if not isinstance(cfg, DictConfig) or "algo" not in cfg or "env" not in cfg:
        raise ValueError(f"expected {path} to be the configuration of a run (got something else)")
    # A run of an earlier version lacks the settings that came later: they are what they are by default.
    later: Any = OmegaConf.load(conf.conf_dir() / "train.yaml")
    known = {name: value for name, value in later.items() if name not in ("defaults", "hydra")}
    return cast(DictConfig, OmegaConf.merge(known, cfg))


def is_finished(folder: Path) -> bool:
    """Whether a run has been tested to its end (one that was stopped during its test has its frames but not that)."""
    path = folder / "summary.json"
    return path.is_file() and json.loads(path.read_text()).get("status") == "finished"


def refuse_taken(folder: Path) -> None:
    """Raises ValueError for a folder that already holds a run: it is gone on with by resume=."""
    if (folder / "config.yaml").exists():
        raise ValueError(f"expected a run_dir without a run (got {folder}); go on with it by resume={folder}")
