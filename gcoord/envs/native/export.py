"""Native worlds as PettingZoo ParallelEnvs, for programs that know nothing of gcoord."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from gcoord.envs.recipe import find_function, missing
from gcoord.envs.team import TeamEnv
from gcoord.spec import Continuous, Discrete
from gcoord.trajectory import Observation

try:
    from gymnasium import spaces
    from pettingzoo import ParallelEnv
except ModuleNotFoundError as error:
    raise missing(error, "gcoord.envs.native.export") from error

NATIVE = {
    "mapf": "gcoord.envs.native.mapf:Mapf",
    "meet": "gcoord.envs.native.meet:Meet",
    "prison": "gcoord.envs.native.prison:Prison",
    "routing": "gcoord.envs.native.routing:Routing",
    "skirmish": "gcoord.envs.native.skirmish:Skirmish",
    "spread": "gcoord.envs.native.spread:Spread",
    "target": "gcoord.envs.native.target:Target",
    "waterworld": "gcoord.envs.native.waterworld:Waterworld",
}

View = Literal["whole", "own"]


def as_parallel_env(
    name: str, n_agents: int | None = None, seed: int = 0, view: View = "whole", **options: Any
) -> Exported:
    """A world of `native/` as a PettingZoo ParallelEnv (https://pettingzoo.farama.org/api/parallel) of one team.

    Arguments:
        name: such as "spread" (or "native/spread").
        n_agents: team size; None: the world's own. seed: of the episodes before `reset` is first given one.
        view: what an agent observes where it senses a vector. `whole`: what it senses itself; where there are several
            kinds, which it is (one-hot); of each entity whether it is there, its features and its place relative to
            oneself; of each other agent whether it is alive, and its place relative to oneself (zeros for what is not
            there). That grows with the team. `own`: what it senses itself. Images are observed alone.
        options: the world's own arguments, such as density="arena".

    Raises ValueError, in one line, for a world that is not native, and for options that no ParallelEnv can have.
    """
    short = name.removeprefix("native/")
    if short not in NATIVE:
        raise ValueError(f"expected a world among {', '.join(NATIVE)} (got {name!r})")
    if view not in ("whole", "own"):
        raise ValueError(f"expected view to be whole or own (got {view!r})")
    make: Any = find_function(NATIVE[short])
    return Exported(make(n_agents=n_agents, num_envs=1, device="cpu", seed=seed, **options), view)


class Exported(ParallelEnv):  # type: ignore[misc]
    """A TeamEnv of one team as a ParallelEnv.

    Agents are `agent_0` and so on. Where actions may be illegal, or kinds have unequal many, an observation is a
    dictionary of `observation` and `action_mask`. A dead agent terminates; a team that is cut short truncates those who
    live. Every info holds the world's `metrics` of the step.

    Raises ValueError for teams of more than one, dead who come back, and kinds that act in unequal boxes.
    """

    render_mode = None

    def __init__(self, env: TeamEnv, view: View = "whole") -> None:
        spec = env.spec
        if spec.num_envs != 1 or spec.rejoins:
            raise ValueError(
                "expected one team whose dead stay dead, as PettingZoo has it "
                f"(got num_envs={spec.num_envs}, rejoins={spec.rejoins})"
            )
        if not spec.discrete and len(set(spec.actions)) > 1:
            raise ValueError(f"expected numbered actions, or one box for all kinds (got {spec.actions})")
        self.env, self._whole = env, view == "whole" and len(spec.own) == 1
        self.metadata = {
            "name": f"gcoord_{spec.world.replace('/', '_')}",
            "render_modes": [],
            "is_parallelizable": True,
        }
        self.possible_agents = [f"agent_{i}" for i in range(spec.n_agents)]
        self.agents: list[str] = []
        self._masked = spec.available or (spec.discrete and len({action.n for action in spec.actions}) > 1)
        seen = env.reset(None)
        self._read(seen)
        self.observation_spaces = {name: self._observed_in() for name in self.possible_agents}
        self.action_spaces = {name: self._acts_in() for name in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        """A new episode; `options` are PettingZoo's and mean nothing here."""
        self._read(self.env.reset(seed))
        self.agents = [name for i, name in enumerate(self.possible_agents) if self._alive[i]]
        return self._observations(self.agents), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """One step of all living agents; raises ValueError for an action that is missing or does not exist."""
        if not self.agents:
            raise RuntimeError("expected reset before step: the episode is over, or has not begun")
        lived = self.agents
        seen, outcome = self.env.step(self._action(actions))
        self._read(seen)
        over, cut = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        reward = outcome.reward[0].tolist()
        metrics = {name: float(outcome.metrics[name][0]) for name in self.env.spec.metrics}
        alive = {name: bool(self._alive[i]) for i, name in enumerate(self.possible_agents)}
        self.agents = [] if over or cut else [name for name in lived if alive[name]]
        return (
            self._observations(lived),
            {name: reward[i] for i, name in enumerate(self.possible_agents) if name in set(lived)},
            {name: over or not alive[name] for name in lived},
            {name: cut and alive[name] for name in lived},
            {name: {"metrics": metrics} for name in lived},
        )

    def close(self) -> None:
        self.env.close()

    def _action(self, actions: dict[str, Any]) -> torch.Tensor:
        spec = self.env.spec
        action = torch.zeros(1, spec.n_agents, *spec.action_shape, dtype=torch.long if spec.discrete else torch.float32)
        for i, name in enumerate(self.possible_agents):
            if name not in self.agents:
                continue
            if name not in actions:
                raise ValueError(f"expected an action of every living agent (got none of {name!r})")
            if spec.discrete and not 0 <= int(actions[name]) < spec.n_actions:
                raise ValueError(f"expected an action from 0 to {spec.n_actions - 1} (got {actions[name]} of {name!r})")
            action[0, i] = torch.as_tensor(actions[name])
        return action

    def _read(self, seen: Observation) -> None:
        """Takes what is needed out of an observation of one team."""
        self._alive = seen.alive[0].numpy()
        self._own = seen.own[0].numpy()
        if self._whole:
            self._own = np.concatenate([self._own, *self._surroundings(seen)], -1).astype(np.float32)
        if self._masked:
            sizes = torch.tensor([action.n for action in self.env.spec.actions])[seen.kind[0]]
            legal = torch.arange(self.env.spec.n_actions) < sizes.unsqueeze(-1)
            legal = legal if seen.available is None else seen.available[0]
            self._legal = legal.numpy().astype(np.int8)

    def _surroundings(self, seen: Observation) -> list[np.ndarray]:
        """What `whole` adds to what each senses itself, [N, *] each."""
        n, kinds = self.env.spec.n_agents, len(self.env.spec.kinds)
        parts = []
        if kinds > 1:
            parts.append(np.eye(kinds, dtype=np.float32)[seen.kind[0].numpy()])
        place = None if seen.position is None else seen.position[0].numpy()
        if seen.entities is not None and seen.entity_present is not None:
            there = seen.entity_present[0].numpy()
            features = np.broadcast_to(seen.entities[0].numpy(), (n, *seen.entities.shape[1:]))
            things = [np.broadcast_to(there[:, None], (n, len(there), 1)), features]
            if place is not None and seen.entity_position is not None:
                things.append(seen.entity_position[0].numpy() - place[:, None])
            parts.append(np.where(there[:, None], np.concatenate(things, -1), 0).reshape(n, -1))
        if place is not None and n > 1:
            others = ~np.eye(n, dtype=bool)
            about = np.concatenate([np.ones((n, n, 1)), place - place[:, None]], -1)
            parts.append(np.where(self._alive[:, None], about, 0)[others].reshape(n, -1))
        return parts

    def _observations(self, agents: list[str]) -> dict[str, Any]:
        wanted = set(agents)
        rows = [(i, name) for i, name in enumerate(self.possible_agents) if name in wanted]
        if self._masked:
            return {name: {"observation": self._own[i], "action_mask": self._legal[i]} for i, name in rows}
        return {name: self._own[i] for i, name in rows}

    def _observed_in(self) -> Any:
        shape, bytes_ = self._own.shape[1:], self._own.dtype == np.uint8
        box = spaces.Box(0, 255, shape, np.uint8) if bytes_ else spaces.Box(-np.inf, np.inf, shape, np.float32)
        if not self._masked:
            return box
        mask = spaces.Box(0, 1, (self.env.spec.n_actions,), np.int8)
        return spaces.Dict({"observation": box, "action_mask": mask})

    def _acts_in(self) -> Any:
        widest = max(self.env.spec.actions, key=lambda action: action.n)
        if isinstance(widest, Discrete):
            return spaces.Discrete(widest.n)
        assert isinstance(widest, Continuous)
        return spaces.Box(np.array(widest.low, np.float32), np.array(widest.high, np.float32), dtype=np.float32)
