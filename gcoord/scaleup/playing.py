"""Plays the cells of a sweep, each in a world of its own seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gcoord import conf
from gcoord.arguments import arguments_of
from gcoord.data.playing import Act, acts, play, random_actions
from gcoord.envs.team import TeamEnv
from gcoord.graph import Lossy
from gcoord.policy import Policy, load
from gcoord.run import pick_device
from gcoord.run_folder import read_config
from gcoord.scaleup.cells import Cell, Played
from gcoord.scaleup.conditions import agent_under
from gcoord.scaleup.costs import Meter
from gcoord.scaleup.speech import WORLDS, Overheard
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation


class Stage:
    """The world that is played in: kept from cell to cell while it is the same one."""

    def __init__(self) -> None:
        self._env: TeamEnv | None = None
        self._made: tuple[Any, ...] = ()

    def world(self, cell: Cell, spec: TeamSpec | None) -> TeamEnv:
        wanted = (cell.env, cell.n_agents, cell.num_envs, cell.device)
        if self._env is None or self._made != wanted:
            self.close()
            self._env = make_world(cell.env, cell.n_agents, cell.num_envs, pick_device(cell.device), cell.seed)
            self._made = wanted
        if spec is not None:
            check_alike(self._env.spec, spec)
        return self._env

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None

    def play(self, cell: Cell) -> Played:
        """Whole episodes of the cell's policy; the same cell gives the same figures, whatever was played before."""
        device = pick_device(cell.device)
        policy = load(cell.run, device, cell.trust) if cell.run else None
        env = self.world(cell, None if policy is None else policy.spec)
        spec = env.spec
        torch.manual_seed(cell.seed)
        costs: dict[str, list[float]] = {}
        heard = Overheard(env, WORLDS[spec.world]) if spec.world in WORLDS else None
        env = env if heard is None else cast(TeamEnv, heard)
        if policy is not None:
            values, costs = played(env, policy, cell, device)
        elif cell.mode == "scripted":
            values = play(env, scripted(env), None, cell.episodes, cell.seed)
        else:
            values = play(env, random_actions(spec, cell.seed, device), None, cell.episodes, cell.seed)
        if heard is not None:
            costs |= heard.figures()
        of_episodes = {name: value.double().tolist() for name, value in values.items()}
        return Played(spec.world, spec.density, spec.n_agents, of_episodes, costs)


def played(
    env: TeamEnv, policy: Policy, cell: Cell, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Greedy episodes of a trained policy, and what they cost."""
    body = policy.agent.body
    if cell.topology:
        body.topology = conf.build(rewired(read_config(Path(cell.run)).topology, cell.topology))
    agent = policy.agent
    if cell.communication:
        spec = env.spec
        agent = agent_under(cell.communication, agent, spec.max_steps, WORLDS.get(spec.world), spec.n_entities)
    memory = agent.body.initial((env.spec.num_envs,), env.spec.n_agents, device)
    meter = Meter(agent)
    act = meter.timed(acts(agent, epsilon=cell.epsilon))
    with meter.listening():
        values = play(env, act, memory, cell.episodes, cell.seed)
    return values, meter.figures()


def make_world(node: Any, size: int, num_envs: int, device: torch.device, seed: int) -> TeamEnv:
    """A world by its configuration, at a team size."""
    env: TeamEnv = conf.build(node, n_agents=size, num_envs=num_envs, device=str(device), seed=seed)
    return env


def check_alike(here: TeamSpec, trained: TeamSpec) -> None:
    """Raises ValueError where a policy cannot see or act in a world."""
    if here.sizes_any() != trained.sizes_any():
        raise ValueError(
            f"expected {here.world} at {here.n_agents} agents to look as in training, own {trained.own} (got own "
            f"{here.own})"
        )


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


def scripted(env: TeamEnv, script: str = "scripted") -> Act:
    """`play`'s act of the world's own script, or of another that it has."""
    chooses = getattr(env, script)

    def act(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        return chooses(seen), memory

    return act
