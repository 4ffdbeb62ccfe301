"""Puts the parts of a configuration together: `build(cfg)`, `resume(folder)`; `gcoord.fitting` trains them.

A run folder holds config.yaml, metrics.csv, policy.safetensors and policy.json, checkpoints/last and checkpoints/best,
summary.json, and a lock that one process at a time holds. Nothing is written before everything is built.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from gcoord import conf
from gcoord.callbacks import Figures, write_json
from gcoord.checkpoint import load_state, rng_state, save_state
from gcoord.data.collect import Collector
from gcoord.data.dataset import manifests_of
from gcoord.data.playing import acts, play, random_actions
from gcoord.data.sharing import Sharing
from gcoord.data.sources import Source
from gcoord.envs.team import TeamEnv
from gcoord.learners.base import Learner
from gcoord.lock import FolderLock
from gcoord.models.agent import Agent, Body
from gcoord.models.dropout import DropOut
from gcoord.policy import load, save_policy
from gcoord.run_folder import is_finished, read_config
from gcoord.spec import TeamSpec

# Worlds that learning never sees: periodic evaluation and the final test have seeds of their own.
EVALUATION_SEED, TEST_SEED = 10_000_019, 20_000_003

# What encoders compute in while training; None: as the weights are.
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}


@dataclass
class Run:
    """A run being trained: its configuration, parts and folder (None until training begins)."""

    cfg: DictConfig
    device: torch.device
    learner: Learner
    source: Source
    parts: dict[str, Any]
    sizes: list[int]
    names: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    best: float = float("-inf")
    evaluated_at: int = 0
    restored: dict[str, Any] | None = None
    judges: dict[int, TeamEnv] = field(default_factory=dict)
    lock: FolderLock | None = None

    @property
    def spec(self) -> TeamSpec:
        return self.learner.spec

    def judge(self, size: int) -> TeamEnv:
        """The world for evaluation at a team size, made when first needed."""
        if size not in self.judges:
            count = min(self.cfg.evaluation.episodes, self.cfg.evaluation.num_envs)
            self.judges[size] = make_world(self.cfg, size, count, self.device, EVALUATION_SEED)
        return self.judges[size]

    def evaluate(self) -> Figures:
        """Greedy episodes at every training size; the best so far is kept as the run's policy and checkpoint."""
        agent = self.learner.agent
        figures = [self.judged(size, EVALUATION_SEED + self.cfg.seed, agent) for size in self.sizes]
        mean = {name: sum(f[name] for f in figures) / len(figures) for name in figures[0]}
        if mean["return_per_agent"] > self.best:
            self.best = mean["return_per_agent"]
            self.save_policy()
            save_state(self._folder / "checkpoints" / "best", {"learner": self.learner.state(), "figures": mean})
        return mean

    def judged(self, size: int, seed: int, agent: Agent | None) -> Figures:
        """Mean figures of greedy episodes of an agent, or of the random policy (None), at a team size."""
        env, episodes = self.judge(size), self.cfg.evaluation.episodes
        if agent is None:
            values = play(env, random_actions(env.spec, seed, self.device), None, episodes, seed)
        else:
            memory = agent.body.initial((env.spec.num_envs,), size, self.device)
            with judging(agent):
                values = play(env, acts(agent, epsilon=self.cfg.evaluation.epsilon), memory, episodes, seed)
        return {name: float(value.double().mean()) for name, value in values.items()}

    def test(self) -> dict[str, dict[str, Figures]]:
        """Random and trained (the saved policy) in episodes that no choice was based on, by team size."""
        policy = load(self._folder, self.device, trust=None)
        seed = TEST_SEED + self.cfg.seed
        return {
            str(size): {"random": self.judged(size, seed, None), "trained": self.judged(size, seed, policy.agent)}
            for size in self.sizes
        }

    @property
    def _folder(self) -> Path:
        if self.folder is None:
            raise RuntimeError("expected a run that has begun (its folder is made by fit)")
        return self.folder

    def save_policy(self) -> None:
        save_policy(self._folder, self.learner.agent, self.parts, self.spec, self.sizes)

    def save(self, optimizer: torch.optim.Optimizer, source: dict[str, Any] | None = None) -> None:
        """checkpoints/last: all that is needed to go on as if nothing had happened."""
        state = {
            "learner": self.learner.state(),
            "optimizer": optimizer.state_dict(),
            "source": self.source.state_dict() if source is None else source,
            "rng": rng_state(),
            "best": self.best,
            "evaluated_at": self.evaluated_at,
            "names": self.names,
        }
        save_state(self._folder / "checkpoints" / "last", state)
        self.source.committed()
        self.summarise("running")

    def is_sound(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(value.isfinite().all()) for value in self.learner.parameters())

    def rescue(self, optimizer: torch.optim.Optimizer) -> None:
        """A checkpoint after something failed: what was learnt, and the worlds as before the collection that failed."""
        self.save(optimizer, self.source.state_dict(failed=True))
        self.summarise("failed")

    def summarise(self, status: str, **more: Any) -> None:
        write_json(
            self._folder / "summary.json",
            {
                "status": status,
                "world": self.spec.world,
                "names": self.names,
                "sizes": self.sizes,
                **self.learner.counters(),
                **more,
            },
        )

    def close(self) -> None:
        self.source.close()
        for env in self.judges.values():
            env.close()
        if self.lock is not None:
            self.lock.release()


def pick_device(name: str) -> torch.device:
    """auto: the first CUDA device if there is one. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected device to be auto, cpu or cuda[:i] (got {name!r})") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"expected a device that is there (got {name!r} with {torch.cuda.device_count()} CUDA devices)"
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"expected device to be auto, cpu or cuda[:i] (got {name!r})")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def takes(node: Any, kind: str) -> bool:
    """Whether a part and all parts within take `discrete` or `continuous` actions; those that say nothing do."""
    if not isinstance(node, DictConfig):
        return True
    own = getattr(conf.locate(node._target_), f"takes_{kind}", True) if "_target_" in node else True
    return own and all(takes(value, kind) for value in node.values())


def make_world(cfg: DictConfig, size: int | None, num_envs: int, device: torch.device, seed: int) -> TeamEnv:
    """The configured world, with the kind of actions that the algorithm takes where the world offers both."""
    options: dict[str, Any] = {}
    learner = conf.locate(cfg.algo._target_)
    discrete, continuous = (takes(cfg.algo, kind) for kind in ("discrete", "continuous"))
    if cfg.env.get("continuous") == "auto" and not continuous:
        options["continuous"] = False
    env: TeamEnv = conf.build(cfg.env, n_agents=size, num_envs=num_envs, device=str(device), seed=seed, **options)
    fits = continuous if env.spec.continuous else discrete
    if not (fits or env.spec.discrete):
        env.close()
        kind = "continuous" if env.spec.continuous else "mixed"
        raise ValueError(
            f"expected an algorithm that takes {kind} actions, as {env.spec.world} has them (got {learner.__name__}); "
            "set env.continuous=false or choose another algo"
        )
    return env


def build(cfg: DictConfig) -> Run:
    """Makes worlds, learner and source. Raises ValueError or OSError, in one line, before anything is written."""
    sizes: Sequence[int | None] = [None] if cfg.n_agents is None else conf.team_sizes(cfg.n_agents)
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"expected every team size once (got {sizes})")
    for name in ("frames", "num_envs", "checkpoint_frames", "threads", "evaluation.episodes", "evaluation.num_envs"):
        value = OmegaConf.select(cfg, name)
        if (name != "threads" or value is not None) and (type(value) is not int or value < 1):
            raise ValueError(f"expected {name} to be a positive whole number (got {value!r})")
    check_epsilon("evaluation.epsilon", cfg.evaluation.epsilon)
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise ValueError(f"expected seed to be a whole number from 0 on (got {cfg.seed!r})")
    for name in ("tensorboard", "wandb", "mlflow"):
        if cfg.log[name] and importlib.util.find_spec(name) is None:
            raise ValueError(f"expected {name} to be installed for log.{name}=true (got none): pip install {name}")
    if cfg.precision not in PRECISIONS:
        raise ValueError(f"expected precision to be {' or '.join(PRECISIONS)} (got {cfg.precision!r})")
    if cfg.collect not in ("worker", "step"):
        raise ValueError(f"expected collect to be worker or step (got {cfg.collect!r})")
    if cfg.compile is not False:
        raise ValueError(
            f"expected compile=false (got {cfg.compile!r}): around the kernels' own gradients torch.compile cuts the "
            "network into pieces that run slower than without"
        )
    check_fine_tune(cfg.fine_tune)
    tunes = cfg.fine_tune.train != "all" or (cfg.fine_tune.near or {}).get("weight", 0)
    if tunes and cfg.init_from is None:
        raise ValueError("expected init_from=<run> along with fine_tune (got none): what is to be stayed near?")
    device = pick_device(cfg.device)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    seed_all(cfg.seed)
    collects = getattr(conf.locate(cfg.source._target_), "collects", True)
    if not collects:
        sizes = as_recorded(cfg, sizes)
    curriculum = cfg.get("curriculum")
    if curriculum is not None and not collects:
        raise ValueError("expected a source that plays for a curriculum (got recorded teams)")
    # Under a curriculum all teams are of one size at a time.
    share = -(-cfg.num_envs // (len(sizes) if curriculum is None else 1)) if collects else 1
    worlds: list[TeamEnv] = []
    try:
        for i, size in enumerate(sizes):
            worlds.append(make_world(cfg, size, share, device, cfg.seed * 1_009 + i))
        specs = [world.spec for world in worlds]
        if differing := [spec for spec in specs if spec.sizes_any() != specs[0].sizes_any()]:
            raise ValueError(
                f"expected a world whose observation does not depend on the team's size (got {specs[0].own} at "
                f"{specs[0].n_agents} agents and {differing[0].own} at {differing[0].n_agents})"
            )
        parts = {
            name: OmegaConf.to_container(node, resolve=True)
            for name, node in (("topology", cfg.topology), ("model", cfg.model), ("head", cfg.algo.head))
        }
        body = partial(conf.build(cfg.model), specs[0], conf.build(cfg.topology))
        learner: Learner = conf.build(cfg.algo)(spec=specs[0], body=body).to(device)
        if learner.needs_init and cfg.init_from is None:
            raise ValueError("expected init_from=<a run>, whose agent this algorithm holds on to (got none)")
        dropout: DropOut = conf.build(cfg.dropout)
        for part in learner.modules():
            if isinstance(part, Body):
                part.mixed = PRECISIONS[cfg.precision]
                part.dropout = dropout or None
        if (cfg.fine_tune.near or {}).get("weight", 0):
            learner.near = conf.build(cfg.fine_tune.near)(learner.agent, cfg.frames)
        if cfg.fine_tune.train == "heads":
            learner.freeze_bodies()
        if collects:
            asked = {"parts": parts, "spec": specs[0], "dropout": dropout or None, "mixed": PRECISIONS[cfg.precision]}
            there = ("gcoord.policy:make_actor", asked) if cfg.collect == "worker" else None
            collectors = [Collector(world, cfg.seed * 1_009 + i, there) for i, world in enumerate(worlds)]
            source: Source = conf.build(cfg.source)(learner=learner, collectors=collectors, seed=cfg.seed)
        else:
            source = conf.build(cfg.source)(learner=learner, specs=specs, seed=cfg.seed)
        sharing: Sharing = conf.build(cfg.sharing)
        if sharing:
            if not collects:
                raise ValueError("expected a source that plays for sharing.neighbours (got recorded teams)")
            sharing.check(specs[0])
            source.sharing = sharing
        if curriculum is not None:
            source.curriculum = conf.build(curriculum)([spec.n_agents for spec in specs], seed=cfg.seed)
            source.curriculum.check(specs[0])
    except BaseException:
        close_all(worlds)
        raise
    if not collects:
        # They were made to be compared with what was recorded.
        close_all(worlds)
    return Run(cfg, device, learner, source, parts, [spec.n_agents for spec in specs])


def close_all(worlds: Sequence[TeamEnv]) -> None:
    for world in worlds:
        world.close()


def as_recorded(cfg: DictConfig, sizes: Sequence[int | None]) -> Sequence[int | None]:
    """Team sizes to learn from recorded teams: those asked for, else all that were recorded. Where the world is to
    choose between numbered and continuous actions, it is set to those recorded."""
    manifests = manifests_of(conf.plain(cfg.source.dataset))
    if cfg.env.get("continuous") == "auto" and cfg.env._target_ == manifests[0]["env"].get("_target_"):
        cfg.env.continuous = manifests[0]["env"]["continuous"]
    if sizes != [None]:
        return sizes
    return sorted({shard["spec"]["n_agents"] for manifest in manifests for shard in manifest["shards"]})


@contextmanager
def judging(agent: Agent) -> Iterator[None]:
    """Within, an agent is as its saved policy will be: nothing is left out and everything in full precision."""
    body, was_training = agent.body, agent.training
    dropout, mixed = body.dropout, body.mixed
    body.dropout = body.mixed = None
    agent.eval()
    try:
        yield
    finally:
        body.dropout, body.mixed = dropout, mixed
        agent.train(was_training)


def check_fine_tune(node: Any) -> None:
    """Raises ValueError for what cannot be trained of a run that is taken over."""
    if node.train not in ("all", "heads"):
        raise ValueError(f"expected fine_tune.train to be all or heads (got {node.train!r})")


def check_epsilon(name: str, value: Any) -> None:
    """Raises ValueError for what is no share of random actions."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"expected {name} to be a number from 0 to 1 (got {value!r})")


def resume(folder: Path, frames: int | None = None, device: str | None = None) -> Run:
    """The run of a folder as its last checkpoint left it; `frames` and `device` may be changed.

    Raises ValueError where there is nothing to go on with (no run, no checkpoint, a run that has its frames), or where
    another process trains it.
    """
    cfg = read_config(folder)
    lock = FolderLock(folder)
    try:
        state = load_state(folder / "checkpoints" / "last")
        cfg.frames = cfg.frames if frames is None else frames
        cfg.device = cfg.device if device is None else device
        done = state["learner"]["counters"]["frames"]
        if done >= cfg.frames and is_finished(folder):
            raise ValueError(f"expected frames above {done}, which {folder} already has, to go on (got {cfg.frames})")
        run = build(cfg)
    except BaseException:
        lock.release()
        raise
    run.lock = lock
    try:
        run.source.attach(folder / "checkpoints")
        run.learner.load_state(state["learner"])
        run.source.load_state_dict(state["source"])
    except BaseException:
        run.close()
        raise
    run.best, run.evaluated_at, run.names = state["best"], state["evaluated_at"], state["names"]
    run.restored = state
    return run


def seed_all(seed: int) -> None:
    """Seeds torch, numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (worlds of others draw from it)
    random.seed(seed)
