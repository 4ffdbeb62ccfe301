"""What the VMAS adapter has to know about a scenario: its class, its agents' actions, what they observe."""

from __future__ import annotations

import importlib
import math
import random
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from gcoord.spec import Action, Continuous, Discrete, Reduction, Reward


class UnknownArgument(ValueError):
    """A scenario was given an argument it does not have."""


class Drive:
    """How one agent's action reaches the simulator: range, multiplier and noise; numbered actions through a table."""

    def __init__(self, agent: Any, dim_c: int, continuous: bool) -> None:
        self.agent = agent
        self.words = 0 if agent.silent else dim_c
        self.size = agent.action.action_size
        self.noise = agent.action.u_noise
        reach = agent.action.u_range_tensor
        self.multiplier = agent.action.u_multiplier_tensor
        self.table: Tensor | None = None
        self.space: Action
        if continuous:
            bound = tuple(reach.tolist())
            self.space = Continuous(tuple(-b for b in bound) + (0.0,) * self.words, bound + (1.0,) * self.words)
            return
        sizes = [*agent.discrete_action_nvec, *([self.words] if self.words else [])]
        self.space = Discrete(math.prod(sizes))
        digits = torch.cartesian_prod(*[torch.arange(size, device=reach.device) for size in sizes])
        digits = digits.view(-1, len(sizes))  # [A, components]
        self.word = digits[:, -1] if self.words else None
        columns = []
        for place, size in enumerate(agent.discrete_action_nvec):
            digit = digits[:, place]
            if size % 2:  # action 0 stays: it changes places with the middle of the range
                digit = torch.where(digit == 0, size // 2, torch.where(digit <= size // 2, digit - 1, digit))
            columns.append((digit / (size - 1)) * (2 * reach[place]) - reach[place])
        # [A, components]; who only speaks has none
        self.table = torch.stack(columns, dim=-1) if columns else digits.new_zeros(len(digits), 0, dtype=torch.float)

    def __call__(self, action: Tensor) -> None:
        """action [B] long or [B, A] float, within range."""
        agent = self.agent
        u = action[:, : self.size] if self.table is None else self.table[action]
        u = u * self.multiplier
        if self.noise > 0:
            u = u + torch.randn_like(u) * self.noise
        agent.action.u = u
        if self.words:
            if self.table is None:
                c = action[:, self.size : self.size + self.words]
            else:
                c = torch.nn.functional.one_hot(cast(Tensor, self.word)[action], self.words).to(u)
            agent.action.c = c + torch.randn_like(c) * agent.c_noise if agent.c_noise > 0 else c


def check_arguments(
    n_agents: int | None,
    num_envs: int,
    device: torch.device,
    continuous: bool | str,
    density: str,
    max_steps: int | None,
) -> None:
    for name, value in (("n_agents", n_agents), ("num_envs", num_envs), ("max_steps", max_steps)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"expected {name} to be a positive whole number (got {value!r})")
    if continuous not in ("auto", True, False):
        raise ValueError(f"expected continuous to be auto, true or false (got {continuous!r})")
    if density not in ("fixed", "arena"):
        raise ValueError(f"expected density to be fixed or arena (got {density!r})")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"expected a device that is there (got {device})")


def scenario_class(scenario: str) -> Any:
    """A scenario's class by its name in the package, or by package.module:Class."""
    try:
        vmas = importlib.import_module("vmas")
    except ModuleNotFoundError as error:
        if error.name != "vmas":
            raise
        raise ImportError(f"vmas/{scenario} needs the vmas extra: pip install 'gcoord[vmas]'") from error
    if ":" in scenario:
        return _own_class(scenario)
    known = sorted([*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios])
    if scenario not in known:
        raise ValueError(
            f"expected a VMAS scenario among {', '.join(known)}, or package.module:Class (got {scenario!r})"
        )
    return importlib.import_module("vmas.scenarios").load(f"{scenario}.py").Scenario


def _own_class(path: str) -> Any:
    """The scenario class at package.module:Class; errors inside the module pass through."""
    module, _, name = path.rpartition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"expected scenario to be package.module:Class of an importable module (got {path!r})"
        ) from None
    base = importlib.import_module("vmas.simulator.scenario").BaseScenario
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"expected scenario to name a subclass of vmas's BaseScenario (got {path!r})")
    return found


class Hooks:
    """What a scenario of one's own may say to the adapter beyond BaseScenario; all of it is optional, and
    what is None is not there.

    gcoord_own(agent) -> [B, O]: what the agent senses by itself, its size the same in every team, in place of
        `observation(agent)`, which often lists everybody.
    gcoord_entities() -> features [B, M, Oe], position [B, M, 2], present [B, M] bool: what is heard that is no agent.
    gcoord_metrics = {name: "last" | "sum" | "mean" | "any"}: which entries of `info(agent)` are reported, the mean over
        agents, and how an episode reduces them; `success` is the one that curves and reports look for.
    gcoord_reward = "own" | "team" | "mixed": whether agents earn their own or the team's reward ("own" if not said).
    gcoord_scripted(observation, continuous) -> action: a script or planner that solves the task, in boxes or numbers.

    Raises ValueError in one line where they give something else.
    """

    def __init__(self, scenario: Any) -> None:
        self.metrics: dict[str, Reduction] = dict(getattr(scenario, "gcoord_metrics", {}))
        self.reward: Reward = getattr(scenario, "gcoord_reward", "own")
        self.scripted = getattr(scenario, "gcoord_scripted", None) is not None
        self._own = getattr(scenario, "gcoord_own", None) is not None
        self._entities = getattr(scenario, "gcoord_entities", None) is not None

    def own(self, scenario: Any, agent: Any) -> Tensor:
        """What an agent senses, [B, O]."""
        if not self._own:
            return flat(scenario.observation(agent)).clone()
        own = scenario.gcoord_own(agent)
        if own.ndim != 2 or len(own) != scenario.world.batch_dim:
            raise ValueError(f"expected gcoord_own to give [{scenario.world.batch_dim}, O] (got {list(own.shape)})")
        return cast(Tensor, own.clone())

    def entities(self, scenario: Any) -> tuple[Tensor, Tensor, Tensor] | None:
        """Features, position and presence of what is no agent."""
        if not self._entities:
            return None
        features, position, present = scenario.gcoord_entities()
        batch, n = scenario.world.batch_dim, features.shape[1:2]
        if features.ndim != 3 or position.shape != (batch, *n, 2) or present.shape != (batch, *n):
            raise ValueError(
                f"expected gcoord_entities to give [{batch}, M, Oe], [{batch}, M, 2] and [{batch}, M] "
                f"(got {list(features.shape)}, {list(position.shape)} and {list(present.shape)})"
            )
        return features.clone(), position.clone(), present.clone()

    def report(self, scenario: Any, agents: list[Any]) -> dict[str, Tensor]:
        """The named entries of `info`, [B] each: means over the agents who have them."""
        if not self.metrics:
            return {}
        told = [scenario.info(agent) for agent in agents]
        figures = {}
        for name in self.metrics:
            values = [info[name].reshape(scenario.world.batch_dim, -1) for info in told if name in info]
            if not values or values[0].shape[1] != 1:
                raise ValueError(
                    f"expected info(agent) to hold a number for each team under {name!r} (got {list(told[0])})"
                )
            figures[name] = torch.cat(values, -1).float().mean(-1)
        return figures


def stem(name: str) -> str:
    """An agent's name without its number."""
    return name.rstrip("0123456789_ ") or "agent"


def draws_elsewhere(scenario: Any) -> bool:
    """Whether a scenario's code may draw from Python's or NumPy's random streams: one from outside the package may."""
    if not scenario.__module__.startswith("vmas."):
        return True
    for base in scenario.__mro__[:-1]:
        if base.__module__.startswith("vmas.simulator") or base.__module__ == "abc":
            continue
        reset = base.__dict__.get("reset_world_at") or base.__dict__.get("make_world")
        names = {} if reset is None else reset.__globals__
        if reset is None or any(_is_random(value) for value in names.values()):
            return True
    return False


def _is_random(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return value is random or value.__name__.partition(".")[0] == "numpy"
    return getattr(value, "__module__", None) in ("random", "numpy.random")


def flat(observation: Tensor | dict[str, Tensor]) -> Tensor:
    if isinstance(observation, Tensor):
        return observation.flatten(1)
    return torch.cat([flat(part) for part in observation.values()], dim=-1)
