"""The protocol of a world: a batch of teams that is reset and stepped together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tensordict import TensorDict
from torch import Tensor

from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Outcome, Step


@runtime_checkable
class TeamEnv(Protocol):
    """A batch of B teams with N agent slots.

    `reset(seed)` restarts every team, the random stream too when seed is a number. `step(action)` takes [B, N] long
    (all kinds discrete) or [B, N, A] float and resets finished teams on the *next* step (that step's action is
    ignored and its row invalid). Both return fresh tensors that later steps do not change.
    """

    spec: TeamSpec

    def reset(self, seed: int | None = None) -> Observation: ...

    def step(self, action: Tensor) -> tuple[Observation, Outcome]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class PolicyState:
    """A policy as it travels to the processes that step a world, which know no networks.

    Arguments:
        make: `package.module:function` that builds it, called with `arguments`; what it gives acts by
            `act(seen, memory, key=, epsilon=)` and has `load_state_dict`, as `gcoord.models.agent.Agent`.
        weights: its state now.
        memory: what it remembers of the teams [B, N, D]; None without memory.
        key: of the first row's first team; keys are counted on from it, team by team and row by row.
        epsilon: share of random actions. log_prob: whether its actions' are wanted.
    """

    make: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    memory: Tensor | None
    key: int
    epsilon: float = 0.0
    log_prob: bool = False


@dataclass(frozen=True)
class Fragment:
    """Rows that a world collected by itself: steps [T, B], metrics [T, B] by name, and memory [T + 1, B, N, D] before
    each row and after the last (None without memory)."""

    steps: Step
    metrics: TensorDict
    memory: Tensor | None


@runtime_checkable
class CollectsItself(Protocol):
    """A TeamEnv whose workers act for themselves, a whole fragment at a time.

    `collect(policy, T)` sends the policy to the workers once and returns T rows that follow the ones before, and the
    observation after the last: no message a step, and no policy older than the fragment. Raises PolicyError where the
    workers cannot build it; the world then still steps.
    """

    spec: TeamSpec
    n_workers: int

    def collect(self, policy: PolicyState, T: int) -> tuple[Fragment, Observation]: ...


class PolicyError(RuntimeError):
    """A policy that workers cannot build, in one line."""
