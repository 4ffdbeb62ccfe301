"""VMAS scenarios (https://github.com/proroklab/VectorizedMultiAgentSimulator) as team environments.

`VmasEnv` takes any scenario as it is, a user's own too (see `gcoord.envs.vmas_scenario.Hooks`); the views of
`vmas_views`, `vmas_loads`, `vmas_more` and `vmas_sides` set some up so that nothing depends on the team's size.
"""

from __future__ import annotations

import importlib
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.vmas_cards import CARDS as CARDS
from gcoord.envs.vmas_picture import Camera, Extent
from gcoord.envs.vmas_scenario import (
    Drive,
    Hooks,
    UnknownArgument,
    check_arguments,
    draws_elsewhere,
    scenario_class,
    stem,
)
from gcoord.envs.vmas_state import Layout, Link, Pool, Streams, leaves, restore, snapshot
from gcoord.spec import Action, Continuous, Reduction, Reward, TeamSpec
from gcoord.trajectory import Observation, Outcome

log = logging.getLogger(__name__)


class VmasEnv:
    """B copies of a VMAS scenario. Tensors stay on the simulator's device.

    Finished teams restart together on the next step without a loop over them: initial states come from a pool of full
    resets. Which teams finished is asked of the device once a step, and never where the scenario has no end of its own
    (then `max_steps` ends all episodes together, and the host knows when).

    Arguments:
        scenario: a scenario of the package by name, or "package.module:Class" of a BaseScenario.
        n_agents: team size; None is the scenario's own.
        num_envs: teams (B).
        device: where the simulator's tensors live.
        seed: of this instance's own random streams; nothing else draws from them, and it draws from nothing else.
        continuous: "auto" (continuous), True, or False: numbered combinations of stay, minus and plus per component.
        density: "fixed" (the arena grows with the team where a view says how) or "arena" (it does not).
        max_steps: steps until truncation at the scenario's own team size; where the arena grows, the limit grows with
            its side, so that what was within reach stays so. None: never.
        reward: whether agents earn their "own" or the "team" reward; None: as the scenario's hook says, else "own".
        options: the scenario's own keyword arguments.

    Observation: own is the scenario's, padded to the widest; agents of one name (but for its number) who are alike in
    observation and action sizes form a kind. A scenario of one's own may say more: see `vmas_scenario.Hooks`.
    Raises ValueError in one line for an unknown scenario, an argument the scenario does not know, a team size it cannot
    have, an arena that cannot hold the team, a device that is not there; ImportError where vmas is not installed.
    """

    own_n_agents: ClassVar[int | None] = None  # the team size that the scenario's own arena is meant for
    metrics: ClassVar[dict[str, Reduction]] = {}

    def __init__(
        self,
        scenario: str,
        n_agents: int | None = None,
        num_envs: int = 32,
        device: str | torch.device = "cpu",
        seed: int = 0,
        continuous: bool | str = "auto",
        density: str = "fixed",
        max_steps: int | None = 100,
        reward: Reward | None = None,
        **options: Any,
    ) -> None:
        self.device = torch.device(device)
        check_arguments(n_agents, num_envs, self.device, continuous, density, max_steps)
        self.name = scenario.rpartition(":")[0] or scenario
        self._continuous = continuous in ("auto", True)
        self._options = options
        self._class = scenario_class(scenario)
        self._hooks = Hooks(self._class)
        self._seed = seed

        # All that can be wrong shows on a single team on the CPU, before the batch is allocated.
        self._streams = Streams(torch.device("cpu"), draws_elsewhere(self._class))
        self._density = density
        self._settle_size(n_agents)
        with self._streams, self._must_hold():
            self._restart()
        self._layout = Layout(snapshot(self._roots))
        kinds, kind = self._kinds()
        sample = self._entities()
        n_entities, entity_dim = (0, 0) if sample is None else (sample[0].shape[1], sample[0].shape[2])
        own_dim = self._own().shape[-1]
        terminates = self._class.done is not self._module("simulator.scenario").BaseScenario.done

        self._streams = Streams(self.device, draws_elsewhere(self._class))
        self._build(num_envs, self.device)
        self._pristine = snapshot(self._roots)
        limit = None if max_steps is None else math.ceil(max_steps * self._stretch - 1e-9)
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=self.n_agents,
            own=(own_dim,),
            actions=tuple(kinds.values()),
            kinds=tuple(kinds),
            reward=(reward or self._hooks.reward,) * len(kinds),
            n_entities=n_entities,
            entity_dim=entity_dim,
            position_dim=2,
            max_steps=limit,
            available=not self._continuous and len({space.n for space in kinds.values()}) > 1,
            metrics={**self.metrics, **self._hooks.metrics},
            world=f"vmas/{self.name}",
            density=density if self.own_n_agents else "arena",
        )
        self._kind = torch.tensor(kind, device=self.device).expand(num_envs, -1)  # [B, N]
        self._alive = torch.ones_like(self._kind, dtype=torch.bool)  # [B, N]
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=self.device)  # [B]
        self._drives = [Drive(agent, self.world.dim_c, self._continuous) for agent in self.agents]
        low, high = torch.zeros(2, self.n_agents, self.spec.n_actions, device=self.device)
        for i, action in enumerate(self.spec.actions[k] for k in kind):
            if isinstance(action, Continuous):
                low[i, : action.n] = torch.tensor(action.low)
                high[i, : action.n] = torch.tensor(action.high)
        self._low, self._high = low, high
        self._available: Tensor | None = None
        if self.spec.available:
            sizes = torch.tensor([self.spec.actions[k].n for k in kind], device=self.device)
            legal = torch.arange(self.spec.n_actions, device=self.device) < sizes.unsqueeze(-1)
            self._available = legal.expand(num_envs, -1, -1)  # [B, N, A]

        self._lockstep = not terminates
        self._clock = 0
        self._steps = torch.zeros(num_envs, dtype=torch.long, device=self.device)  # [B]
        self._pending: Tensor | None = None  # [B]: finished in the last step
        self._pool: Pool | None = None
        self._camera: Camera | None = None
        self._streams.seed(seed)
        log.info(self.describe())

    # What a view may replace -----------------------------------------------------------------------------------------

    @property
    def _side(self) -> float:
        """How much longer the arena's side is than the scenario's own."""
        grows = self._density == "fixed" and self.own_n_agents is not None
        return math.sqrt(self.n_agents / cast(int, self.own_n_agents)) if grows else 1.0

    @property
    def _stretch(self) -> float:
        """How much longer an episode may take than the scenario's own."""
        return self._side

    def _arguments(self) -> dict[str, Any]:
        """Keyword arguments for the scenario, by which the arena may grow; raises where it cannot hold the team."""
        return {}

    def _team(self) -> dict[str, Any]:
        """Keyword arguments that give the scenario its team size."""
        return {"n_agents": self.n_agents}

    def _prepare(self) -> None:
        """Change what no argument of the scenario reaches, once the world is made."""

    def _restart(self) -> None:
        """Reset all teams."""
        self.scenario.env_reset_world_at(None)

    def _own(self) -> Tensor:
        """What each agent senses, [B, N, O]."""
        rows = [self._hooks.own(self.scenario, agent) for agent in self.agents]
        widest = max(row.shape[-1] for row in rows)
        return torch.stack([torch.nn.functional.pad(row, (0, widest - row.shape[-1])) for row in rows], dim=1)

    def _entities(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """What is no agent: features [B, M, Oe], position [B, M, 2], present [B, M]."""
        return self._hooks.entities(self.scenario)

    def _judge(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reward [B, N], whether the task is over [B], metrics [B] by name; called once after each step."""
        # Copied one by one: a scenario may write all agents' into one tensor.
        reward = torch.stack([self.scenario.reward(agent).reshape(-1).clone() for agent in self.agents], dim=1)
        return reward, self.scenario.done(), self._hooks.report(self.scenario, self.agents)

    def _world_in_words(self) -> str:
        """The arena, for the log."""
        return "in the scenario's own arena, whatever the team's size"

    # The environment -------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """One line on team, arena and time limit."""
        limit = "no time limit" if self.spec.max_steps is None else f"at most {self.spec.max_steps} steps"
        return f"{self.spec.world}: {self.n_agents} agents {self._world_in_words()}, {limit}"

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self._streams.seed(seed)
            restore(self._roots, self._pristine)
        self._pool = None
        with self._streams:
            return self._begin()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        if self._pending is None:
            raise RuntimeError("expected reset() before step()")
        pending = self._pending
        finished = self._finished(pending)
        if len(finished) == self.spec.num_envs:
            with self._streams:
                seen = self._begin()
            zeros = torch.zeros(self.spec.num_envs, device=self.device)
            metrics = dict.fromkeys(self.spec.metrics, zeros)
            return seen, self._outcome(zeros.new_zeros(self._kind.shape), self._never, self._never, pending, metrics)

        with self._streams:
            self._act(action, pending if len(finished) else None)
            self._steps += 1
            self._clock += 1
            reward, terminated, metrics = self._judge()
            terminated = terminated & ~pending
            truncated = self._never
            if self.spec.max_steps is not None:
                truncated = (self._steps >= self.spec.max_steps) & ~terminated & ~pending
            if len(finished):
                reward = reward.masked_fill(pending.unsqueeze(-1), 0.0)
                metrics = {name: value.masked_fill(pending, 0.0) for name, value in metrics.items()}
                self._restart_some(finished)
            seen = self._observe()
        self._pending = terminated | truncated
        return seen, self._outcome(reward, terminated, truncated, pending, metrics)

    def close(self) -> None:
        """Nothing to release."""

    def picture(self) -> tuple[NDArray[np.uint8], Extent] | tuple[None, None]:
        """The first team as the simulator draws it, [H, W, 3], and what part of the world that shows (left, right,
        bottom, top); twice None where there is no OpenGL to draw with."""
        if self._camera is None:
            self._camera = Camera(self.scenario)
        return self._camera.take()

    def __getattr__(self, name: str) -> Any:
        # Whether there is a script is asked by `hasattr`; views define their own.
        if name == "scripted" and "_hooks" in self.__dict__ and self._hooks.scripted:
            return partial(self.scenario.gcoord_scripted, continuous=self._continuous)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def state_dict(self) -> dict[str, Any]:
        """All that decides what happens next, as tensors and numbers: with it the world goes on bit for bit."""
        state = snapshot(self._roots)
        return {
            "world": {path: value for path, value in state.items() if isinstance(value, Tensor)},
            "numbers": {path: value for path, value in state.items() if not isinstance(value, Tensor | Link)},
            "links": {path: value.path for path, value in state.items() if isinstance(value, Link)},
            "streams": self._streams.state_dict(),
            "pool": {} if self._pool is None else {path: rows.clone() for path, rows in self._pool.rows.items()},
            "cursor": 0 if self._pool is None else self._pool.cursor,
            "steps": self._steps.clone(),
            "clock": self._clock,
            "pending": (self._never if self._pending is None else self._pending).clone(),
            "started": int(self._pending is not None),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is of another world, team size or number of teams."""
        if state["steps"].shape != self._steps.shape:
            raise ValueError(f"expected the state of {self.spec.num_envs} teams (got {len(state['steps'])})")
        if self._pending is None:
            self.reset()  # what a scenario makes on its first reset has to be there
        mine = {leaf.path for leaf in leaves({"world": self.world}) if leaf.path.endswith("_pos")}
        theirs = {path for path in state["world"] if path.startswith("world.") and path.endswith("_pos")}
        if mine != theirs:
            raise ValueError(f"expected the state of a world with {len(mine)} bodies (got {len(theirs)})")
        restore(self._roots, _on(self.device, state["world"]) | state["numbers"])
        restore(self._roots, {path: Link(target) for path, target in state["links"].items()})
        self._streams.load_state_dict(state["streams"])
        self._pool = None
        if state["pool"]:
            rows = _on(self.device, state["pool"])
            self._pool = Pool(self._roots, rows, self._layout, self.spec.num_envs, state["cursor"])
        self._steps = state["steps"].to(self.device, copy=True)
        self._clock = state["clock"]
        self._pending = state["pending"].to(self.device, copy=True) if state["started"] else None

    # Inside ----------------------------------------------------------------------------------------------------------

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"vmas.{name}")

    def _settle_size(self, n_agents: int | None) -> None:
        """Find the team's size and make a single team of it on the CPU; raises where the scenario cannot have it."""
        one = torch.device("cpu")
        if self.own_n_agents is not None:
            self._sized = True
            self.n_agents = self.own_n_agents if n_agents is None else n_agents
            return self._build(1, one)
        self._sized = False
        self._build(1, one)
        self.n_agents = len(self.agents)
        if n_agents in (None, self.n_agents):
            return None
        refusal = f"expected vmas/{self.name} with its own team size {self.n_agents} (got n_agents={n_agents})"
        self._sized, self.n_agents = True, n_agents
        try:
            self._build(1, one)
            with self._streams, self._must_hold():
                self._restart()
        except (AssertionError, IndexError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(refusal) from error
        except UnknownArgument as error:
            raise ValueError(refusal) if "n_agents" in str(error) else error from None
        if len(self.agents) != n_agents:
            raise ValueError(refusal)

    def _build(self, num_envs: int, device: torch.device) -> None:
        """Make scenario and world; what it draws is the same for every seed, so that seeds decide episodes alone."""
        arguments = {**self._options, **self._arguments()}
        if self._sized:
            arguments |= self._team()
        self.scenario = self._class()
        self._streams.seed(0)
        with self._streams, warnings.catch_warnings():
            warnings.filterwarnings("error", message="Scenario kwargs", category=UserWarning)
            try:
                self.world = self.scenario.env_make_world(num_envs, device, **arguments)
            except UserWarning as warning:
                unknown = str(warning).split("{")[-1].split("}")[0]
                raise UnknownArgument(f"expected arguments that vmas/{self.name} knows (got {unknown})") from warning
        self.agents = self.world.policy_agents
        self.extra: dict[str, Tensor] = {}  # a view's own state, [B, ...] each
        self._roots = {"world": self.world, "scenario": self.scenario, "view": self.extra}
        if device.type == "cuda" and not bool(self.world._gravity.any()):
            # The simulator asks of it several times a step whether there is any: that need not wait for the device.
            self.world._gravity = self.world._gravity.cpu()
        self._prepare()

    @contextmanager
    def _must_hold(self) -> Iterator[None]:
        """Turn the simulator's endless search for a free place into an error."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="It is taking many iterations", category=UserWarning)
            try:
                yield
            except UserWarning as warning:
                raise ValueError(
                    f"expected an arena that holds {self.n_agents} agents with what else vmas/{self.name} places in it "
                    f"(got no free place in 50,000 tries at density={self._density})"
                ) from warning

    def _kinds(self) -> tuple[dict[str, Action], list[int]]:
        """Kinds by name with their action space, and each agent's kind."""
        groups: dict[tuple[str, int, Action], list[int]] = {}
        widths = self._own_widths()
        for i, agent in enumerate(self.agents):
            space = Drive(agent, self.world.dim_c, self._continuous).space
            groups.setdefault((stem(agent.name), widths[i], space), []).append(i)
        names = [name for name, _, _ in groups]
        if len(set(names)) < len(names):
            names = [f"kind_{k}" for k in range(len(names))]
        kind = [0] * self.n_agents
        for k, members in enumerate(groups.values()):
            for i in members:
                kind[i] = k
        spaces = [space for _, _, space in groups]
        return dict(zip(["agent"] if len(names) == 1 else names, spaces, strict=True)), kind

    def _own_widths(self) -> list[int]:
        """Numbers each agent senses, before padding."""
        if type(self)._own is not VmasEnv._own:
            return [0] * self.n_agents
        return [self._hooks.own(self.scenario, agent).shape[-1] for agent in self.agents]

    def _finished(self, pending: Tensor) -> Tensor:
        """Numbers of the teams that finished in the last step: the one place where the host asks the device."""
        if not self._lockstep:
            return pending.nonzero().squeeze(-1)
        over = self.spec.max_steps is not None and self._clock >= self.spec.max_steps
        return self._steps if over else self._steps[:0]

    def _begin(self) -> Observation:
        """Reset all teams."""
        with self._must_hold():
            self._restart()
        self._steps = torch.zeros_like(self._steps)
        self._clock = 0
        self._pending = self._never
        return self._observe()

    def _restart_some(self, finished: Tensor) -> None:
        """Reset some teams; the others do not notice."""
        if self._pool is None or self._pool.left < len(finished):
            with self._must_hold():
                self._pool = Pool.fill(self._roots, self._layout, self.spec.num_envs, self._restart)
        self._pool.take(finished)
        self._steps[finished] = 0

    def _act(self, action: Tensor, ignored: Tensor | None) -> None:
        """One step of the simulator; teams `ignored` [B] do nothing."""
        if ignored is not None:
            action = action.masked_fill(ignored.view(-1, *(1,) * (action.ndim - 1)), 0)
        if self._continuous:
            action = torch.minimum(torch.maximum(action, self._low), self._high)
        for drive, one in zip(self._drives, action.unbind(1), strict=True):
            drive(one)
        for agent in self.world.agents:
            self.scenario.env_process_action(agent)
        self.scenario.pre_step()
        self.world.step()
        self.scenario.post_step()

    def _observe(self) -> Observation:
        seen = Observation(
            own=self._own(),
            alive=self._alive,
            kind=self._kind,
            position=torch.stack([agent.state.pos for agent in self.agents], dim=1),
            available=self._available,
            batch_size=[self.spec.num_envs],
        )
        if (entities := self._entities()) is not None:
            seen.entities, seen.entity_position, seen.entity_present = entities
        return seen

    def _outcome(
        self, reward: Tensor, terminated: Tensor, truncated: Tensor, pending: Tensor, metrics: dict[str, Tensor]
    ) -> Outcome:
        size = [self.spec.num_envs]
        return Outcome(
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=~pending,
            metrics=TensorDict(metrics, batch_size=size),
            batch_size=size,
        )


def _on(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
