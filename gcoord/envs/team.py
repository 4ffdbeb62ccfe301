"""The protocol of a world: a batch of teams that is reset and stepped together."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Outcome, Trajectory


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


@runtime_checkable
class CollectsItself(Protocol):
    """A TeamEnv whose workers act for themselves, a whole fragment at a time.

    `collect(policy_state, T)` sends the policy (the dotted path of what builds it, and its weights) to the workers once
    and returns T rows that follow the ones before: no message a step, and no policy older than the fragment.
    """

    spec: TeamSpec

    def collect(self, policy_state: dict[str, Any], T: int) -> Trajectory: ...
