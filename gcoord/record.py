"""Records teams to learn from: `python -m gcoord.record run=runs/... n_agents=4 episodes=500`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from gcoord import conf
from gcoord.command import Job, run_command
from gcoord.data.dataset import append, begin_shard, check_append, read_manifest
from gcoord.data.playing import Act, acts, random_actions
from gcoord.data.recording import noisy, record
from gcoord.envs.team import TeamEnv
from gcoord.lock import FolderLock
from gcoord.policy import DESCRIPTION
from gcoord.run import check_epsilon, pick_device
from gcoord.scaleup.protocol import Trained, open_run, scripted
from gcoord.spec import TeamSpec

# Worlds that neither training nor any evaluation has seen.
RECORD_SEED = 30_000_001
POLICIES = ("trained", "scripted", "random", "noisy")


@dataclass
class Recording:
    """What is to be recorded, opened and checked."""

    cfg: DictConfig
    device: torch.device
    run: Trained | None
    policy: str
    epsilon: float
    out: Path
    node: DictConfig

    def world(self, size: int | None, num_envs: int, seed: int = 0) -> TeamEnv:
        env: TeamEnv = conf.build(self.node, n_agents=size, num_envs=num_envs, device=str(self.device), seed=seed)
        if self.run is not None and env.spec.sizes_any() != self.run.policy.spec.sizes_any():
            env.close()
            raise ValueError(
                f"expected {env.spec.world} to look as in training, own {self.run.policy.spec.own} (got {env.spec.own})"
            )
        if self.scripts and not hasattr(env, self.cfg.script):
            env.close()
            raise ValueError(
                f"expected a world with a script `{self.cfg.script}` for policy={self.policy} (got {env.spec.world})"
            )
        return env

    @property
    def scripts(self) -> bool:
        """Whether it is the world's script that acts."""
        return self.policy == "scripted" or (self.policy == "noisy" and self.run is None)

    @property
    def sizes(self) -> list[int | None]:
        if self.cfg.n_agents is not None:
            return [*conf.team_sizes(self.cfg.n_agents)]
        return [None] if self.run is None else [*self.run.policy.trained_on]

    def act(self, env: TeamEnv, seed: int) -> tuple[Act, Tensor | None]:
        """Who acts, and its memory to begin with."""
        if self.policy == "random":
            return random_actions(env.spec, seed, self.device), None
        memory = None
        if self.run is None or self.scripts:
            act = scripted(env, self.cfg.script)
        else:
            agent = self.run.policy.agent
            memory = agent.body.initial((env.spec.num_envs,), env.spec.n_agents, self.device)
            act = acts(agent, self.cfg.greedy, 0.0 if self.policy == "noisy" else self.epsilon)
        return (noisy(act, env.spec, self.epsilon, seed, self.device) if self.policy == "noisy" else act), memory

    def env(self, spec: TeamSpec) -> dict[str, Any]:
        """The world's configuration as the manifest holds it: plain JSON, the kind of actions said."""
        kept = {**conf.plain(self.node)}
        if kept.get("continuous") == "auto":
            kept["continuous"] = not spec.discrete
        return cast(dict[str, Any], json.loads(json.dumps(kept)))

    def told(self) -> dict[str, Any]:
        """The policy, as the manifest names it."""
        about: dict[str, Any] = {"policy": self.policy, "epsilon": self.epsilon}
        if self.scripts and self.cfg.script != "scripted":
            about["script"] = self.cfg.script
        if self.run is None or self.policy in ("scripted", "random"):
            return about
        described = json.loads((self.run.folder / DESCRIPTION).read_text())
        about |= {"run": str(self.run.folder), "method": self.run.method, "frames": self.run.frames}
        return {**about, "greedy": bool(self.cfg.greedy), "sha256": described["sha256"]}


def prepare(cfg: DictConfig) -> Recording:
    """Opens and checks everything but the world. Raises ValueError or OSError, in one line."""
    for name in ("episodes", "num_envs"):
        if type(cfg[name]) is not int or cfg[name] < 1:
            raise ValueError(f"expected {name} to be a positive whole number (got {cfg[name]!r})")
    if cfg.seed is not None and (type(cfg.seed) is not int or cfg.seed < 0):
        raise ValueError(f"expected seed to be a whole number from 0 on (got {cfg.seed!r})")
    policy = cfg.policy or ("trained" if cfg.run is not None else None)
    if policy not in POLICIES or (policy == "trained" and cfg.run is None):
        raise ValueError(f"expected run=<folder>, or policy=scripted, random or noisy (got policy={cfg.policy})")
    changes = conf.plain(cfg.get("env")) or {}
    if (cfg.run is None) != ("_target_" in changes):
        raise ValueError("expected run=<folder>, or env=<world> without one (got both or neither)")
    device = pick_device(cfg.device)
    run = None if cfg.run is None else open_run(cfg.run, device, cfg.trust)
    node = OmegaConf.create(changes) if run is None else OmegaConf.merge(run.cfg.env, changes)
    assert isinstance(node, DictConfig)
    conf.check(node, "env")
    if run is not None and node.get("continuous") == "auto":
        node.continuous = not run.policy.spec.discrete
    out = Path(cfg.out) if cfg.out is not None else _folder(cfg, run, policy)
    return Recording(cfg, device, run, policy, _epsilon(cfg, run, policy), out, node)


def _epsilon(cfg: DictConfig, run: Trained | None, policy: str) -> float:
    if policy in ("scripted", "random"):
        if cfg.epsilon is not None:
            raise ValueError(f"expected policy=noisy for a share of random actions (got policy={policy})")
        return 0.0 if policy == "scripted" else 1.0
    if cfg.epsilon is not None:
        check_epsilon("epsilon", cfg.epsilon)
        return float(cfg.epsilon)
    if policy == "noisy" or run is None:
        return 0.3
    return float(run.cfg.evaluation.get("epsilon", 0.0)) if cfg.greedy else 0.0


def _folder(cfg: DictConfig, run: Trained | None, policy: str) -> Path:
    if run is not None:
        return run.folder / "data"
    return Path("datasets") / f"{cfg.env._target_.rpartition('.')[2].lower()}-{policy}"


def pick_seed(wanted: int | None, entries: list[dict[str, Any]]) -> int:
    """The seed asked for, or the first that the dataset does not have; raises ValueError for one that it has."""
    taken = {entry["seed"] for entry in entries}
    if wanted in taken:
        raise ValueError(f"expected a seed that was not recorded yet (got {wanted}); leave it out to take a new one")
    return next(n for n in range(len(taken) + 1) if n not in taken) if wanted is None else wanted


def main(cfg: DictConfig, job: Job) -> None:
    """Plays every size, writes a shard for each, says what was recorded and what to type next."""
    console = Console()
    recording = prepare(cfg)
    recording.out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(recording.out, "a dataset that nobody records into")
    try:
        # One seed for all sizes: they are different worlds anyway.
        seed: int | None = None
        for size in recording.sizes:
            seed = write(recording, size, seed, console)
    finally:
        lock.release()
    world = read_manifest(recording.out)["world"]
    console.print(
        f"next: python -m gcoord.train env={world} algo=bc dataset={recording.out}",
        highlight=False,
        soft_wrap=True,
    )


def write(recording: Recording, size: int | None, seed: int | None, console: Console) -> int:
    """Records one size as one shard; returns the seed."""
    cfg, out = recording.cfg, recording.out
    env = recording.world(size, min(cfg.episodes, cfg.num_envs))
    try:
        kept = recording.env(env.spec)
        entries = check_append(out, env.spec.world, kept, env.spec)
        seed = pick_seed(cfg.seed, entries) if seed is None else seed
        began = time.monotonic()
        torch.manual_seed(RECORD_SEED + seed)
        act, memory = recording.act(env, RECORD_SEED + seed)
        writer = begin_shard(out)
        try:
            figures = record(env, act, memory, cfg.episodes, RECORD_SEED + seed, writer)
            frames = writer.rows - cfg.episodes
            about = {
                "spec": env.spec.to_dict(),
                "policy": recording.told(),
                "seed": seed,
                "episodes": cfg.episodes,
                "frames": frames,
                "figures": figures,
            }
            append(out, writer, env.spec.world, kept, about)
        except BaseException:
            writer.discard()
            raise
    finally:
        env.close()
    console.print(
        f"{env.spec.world}, {env.spec.n_agents} agents, {recording.policy}: {cfg.episodes:,} episodes, "
        f"{frames:,} steps, return per agent {figures['return_per_agent']:.3f}, {time.monotonic() - began:.0f} s, "
        f"into {out}",
        highlight=False,
        soft_wrap=True,
    )
    return seed


def validate(cfg: DictConfig, job: Job) -> None:
    """All that recording would refuse, without playing."""
    recording = prepare(cfg)
    for size in recording.sizes:
        env = recording.world(size, 1)
        env.close()
        pick_seed(cfg.seed, check_append(recording.out, env.spec.world, recording.env(env.spec), env.spec))


if __name__ == "__main__":
    sys.exit(run_command("record", main, validate=validate))
