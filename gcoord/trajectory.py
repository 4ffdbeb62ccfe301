"""What a team sees and does over time: batched, time-major, masked.

Symbols: T time, B teams, N agent slots, M entities, K neighbour slots, O observation, A actions.

Time follows Gymnasium's next-step auto-reset: after a final step the next `step` ignores its action and
resets. That row has `valid=False` and its `seen` is the true last observation, so row t + 1 always holds
what followed row t.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from tensordict import TensorClass, TensorDict
from torch import Tensor


class Observation(TensorClass["nocast"]):  # type: ignore[misc]
    """What a team senses, `[*]` being any leading dimensions.

    own [*, N, O] or [*, N, C, H, W]; alive [*, N] bool; kind [*, N] long; position [*, N, P] in the world's
    units; entities [*, M, Oe] with entity_position [*, M, P] and entity_present [*, M] bool; hears [*, N, N + M]
    bool (who hears whom where the world decides); available [*, N, A] bool, all False for the dead; state [*, S].
    Optional fields are all there or all absent within a run. Slots of dead agents are never read.
    """

    own: Tensor
    alive: Tensor
    kind: Tensor
    position: Tensor | None = None
    entities: Tensor | None = None
    entity_position: Tensor | None = None
    entity_present: Tensor | None = None
    hears: Tensor | None = None
    available: Tensor | None = None
    state: Tensor | None = None


class Outcome(TensorClass["nocast"]):  # type: ignore[misc]
    """What a step led to: reward [B, N], terminated [B], truncated [B], valid [B] (all bool), and `metrics`,
    one float [B] for each name in `spec.metrics`."""

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    metrics: TensorDict


class Step(TensorClass["nocast"]):  # type: ignore[misc]
    """One row of experience: seen, action [*, N] long or [*, N, A] float, reward [*, N], terminated [*],
    truncated [*], valid [*], key [*] long (the step's own random key), log_prob [*, N] where the learner needs it."""

    seen: Observation
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    key: Tensor
    log_prob: Tensor | None = None

    @property
    def done(self) -> Tensor:
        """[*] bool: where every recursion over time is cut."""
        return self.terminated | self.truncated


class Trajectory(TensorClass["nocast"]):  # type: ignore[misc]
    """T steps of B teams and the observation after the last; its batch size is [].

    steps: Step [T, B]; last: Observation [B]; last_key [B] long. Added on the way: memory [B, N, D] at the first
    row; advantage, returns, value [T, B, N]; weight [B] and index [B] of replay; before: Step [T', B], rows that come
    before the first and are not learnt from, but warm memory up (memory is then the one at their first).
    """

    steps: Step
    last: Observation
    last_key: Tensor
    memory: Tensor | None = None
    advantage: Tensor | None = None
    returns: Tensor | None = None
    value: Tensor | None = None
    weight: Tensor | None = None
    index: Tensor | None = None
    before: Step | None = None

    @property
    def seen(self) -> Observation:
        """Observation [T + 1, B]: every row's, then the last."""
        return cast(Observation, torch.cat(cast(Any, [self.steps.seen, self.last.unsqueeze(0)])))

    @property
    def keys_of_seen(self) -> Tensor:
        """[T + 1, B] long: the random keys that belong to `seen`."""
        return torch.cat([self.steps.key, self.last_key.unsqueeze(0)])


def learns(step: Step) -> Tensor:
    """[*, N] bool: living agents of valid rows, over which every mean is taken."""
    return step.seen.alive & step.valid.unsqueeze(-1)


def played(step: Step) -> Tensor:
    """Actions [*, N] or [*, N, A], 0 for the dead: what stands in their slots is no action."""
    alive = step.seen.alive
    alive = alive if step.action.dim() == alive.dim() else alive.unsqueeze(-1)
    return torch.where(alive, step.action, step.action.new_zeros(()))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [*] over mask [*] (same shape), 0 where the mask is empty. What is masked out is never read:
    NaN there changes nothing, neither forward nor in the gradient."""
    if x.shape != mask.shape:
        raise ValueError(f"expected x and mask of the same shape (got {tuple(x.shape)} and {tuple(mask.shape)})")
    return torch.where(mask, x, x.new_zeros(())).sum() / mask.sum().clamp(min=1)


def resets(valid: Tensor) -> Tensor:
    """[T + 1, B] bool: before which rows of `Trajectory.seen` memory is cleared, given valid [T, B].

    With next-step auto-reset the first observation of an episode follows the invalid row. Memory at row 0 is stored
    with the trajectory and already cleared where it had to be.
    """
    return torch.cat([torch.zeros_like(valid[:1]), ~valid])


def observe(
    own: Tensor,
    alive: Tensor | None = None,
    kind: Tensor | None = None,
    batch_size: torch.Size | None = None,
    **optional: Any,
) -> Observation:
    """An Observation with everybody alive and of the first kind unless said otherwise.

    own [*, N, O]; for images [*, N, C, H, W] give `alive` or `batch_size` (`[*]`).
    """
    if alive is not None:
        shape = alive.shape
    elif batch_size is not None:
        shape = own.shape[: len(batch_size) + 1]
    else:
        shape = own.shape[:-1]
    if alive is None:
        alive = torch.ones(shape, dtype=torch.bool, device=own.device)
    if kind is None:
        kind = torch.zeros(shape, dtype=torch.long, device=own.device)
    return Observation(own=own, alive=alive, kind=kind, **optional, batch_size=shape[:-1])
