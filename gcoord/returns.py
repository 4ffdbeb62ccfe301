"""What an action turned out to be worth: advantages and targets over time, cut where episodes and lives end.

All functions take reward [T, B, N], value [T + 1, B, N] (the value of every row of `Trajectory.seen`), alive
[T + 1, B, N] bool, terminated, truncated and valid [T, B] bool. For a whole team's value leave out the last
dimension and give `alive=None`: then nobody dies.

**Time.** Bootstrap with `1 - terminated`; the recursion stops at `terminated | truncated`. Invalid rows (resets)
contribute 0 and carry nothing.

**Death**, by `shared` (bool, or a bool tensor [N] or [B, N] where some agents share the team's reward and others not):

- Own reward: after its death an agent earns nothing. It bootstraps with `alive_next * V_next`, and its trace ends.
- Team reward: an agent's earlier actions keep earning, so its stream of rewards goes on as the team's. While it is
  dead its reward is the mean over the living and its value is the team's, `team_value` [T + 1, B] (a central critic's
  pooled value) or the mean of V over the living, and 0 once all are dead. Its delta is therefore the team's mean
  delta, `mean r + gamma (1 - terminated) V_team_next - V_team`, and the deltas along its life and after telescope as if
  one agent had lived through. On its return the trace ends and bootstraps with the value of the returned agent.

Means over the living are taken over those who share. Where an agent is dead or the row is invalid the results are 0,
and what those rows hold (NaN, garbage) is never read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class _Streams(NamedTuple):
    """Every agent's rewards and values as one uninterrupted stream, and where it is cut."""

    reward: Tensor  # [T, B, N]
    value: Tensor  # [T + 1, B, N]
    follows: Tensor  # [T, B, N] value of the next row, 0 after termination
    cut: Tensor  # [T, B, N] bool
    learns: Tensor  # [T, B, N] bool


@torch.no_grad()
def gae(
    reward: Tensor,
    value: Tensor,
    alive: Tensor | None,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: float = 0.99,
    lam: float = 0.95,
    shared: bool | Tensor = False,
    team_value: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns they imply (https://arxiv.org/abs/1506.02438).

    delta_t = r_t + gamma (1 - terminated_t) V_{t+1} - V_t; A_t = delta_t + gamma lam (1 - cut_t) A_{t+1};
    returns_t = A_t + V_t. Time and death as the module says.

    Returns: advantage [T, B, N], returns [T, B, N], both 0 where nothing is learnt.
    """
    streams = _streams(reward, value, alive, terminated, truncated, valid, shared, team_value)
    valid = _like(valid, streams.reward)
    delta = torch.where(valid, streams.reward + gamma * streams.follows - streams.value[:-1], 0.0)
    decay = gamma * lam * (~streams.cut).to(delta.dtype)
    carried = torch.zeros_like(delta[0])
    advantages = []
    for delta_t, decay_t in zip(reversed(delta.unbind()), reversed(decay.unbind()), strict=True):
        carried = torch.addcmul(delta_t, decay_t, carried)
        advantages.append(carried)
    advantage = torch.where(streams.learns, torch.stack(advantages[::-1]), 0.0)
    return advantage, torch.where(streams.learns, advantage + streams.value[:-1], 0.0)


def td_lambda(
    reward: Tensor,
    value: Tensor,
    alive: Tensor | None,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: float = 0.99,
    lam: float = 0.8,
    shared: bool | Tensor = False,
    team_value: Tensor | None = None,
) -> Tensor:
    """Lambda-returns [T, B, N], `value` being the target network's value of each row (its Q at the greedy action).

    G_t = r_t + gamma (1 - terminated_t) ((1 - lam_t) V_{t+1} + lam_t G_{t+1}), lam_t = lam (1 - cut_t).
    """
    return gae(reward, value, alive, terminated, truncated, valid, gamma, lam, shared, team_value)[1]


@torch.no_grad()
def n_step(
    reward: Tensor,
    value: Tensor,
    alive: Tensor | None,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    gamma: float = 0.99,
    n: int = 1,
    shared: bool | Tensor = False,
    team_value: Tensor | None = None,
) -> Tensor:
    """n-step targets [T, B, N]: n rewards and then gamma^n V, fewer where the stream is cut or the rows end."""
    if n < 1:
        raise ValueError(f"expected n to be at least 1 (got {n})")
    streams = _streams(reward, value, alive, terminated, truncated, valid, shared, team_value)
    valid, go_on = _like(valid, reward), ~streams.cut
    target = streams.value
    for _ in range(n):
        following = torch.where(go_on, target[1:], streams.follows)
        target = torch.cat(
            [torch.where(valid, streams.reward + gamma * following, streams.value[:-1]), streams.value[-1:]]
        )
    return torch.where(streams.learns, target[:-1], 0.0)


def _streams(
    reward: Tensor,
    value: Tensor,
    alive: Tensor | None,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    shared: bool | Tensor,
    team_value: Tensor | None,
) -> _Streams:
    if value.shape != (reward.shape[0] + 1, *reward.shape[1:]):
        raise ValueError(
            f"expected value to have one row more than reward (got {tuple(value.shape)} and {tuple(reward.shape)})"
        )
    valid = _like(valid, reward)
    ended = _like(terminated, reward)
    cut = (ended | _like(truncated, reward) | ~valid).expand_as(reward)
    learns = valid.expand_as(reward)
    reward = torch.where(valid, reward, 0.0)
    if alive is not None:
        acts, lives_on = alive[:-1], alive[1:]
        learns = learns & acts
        value = torch.where(alive, value, 0.0)
        reward = torch.where(acts, reward, 0.0)
        if shared is False:
            cut = cut | ~lives_on
        else:
            sharing = torch.as_tensor(shared, device=value.device).expand_as(alive)
            living = alive & sharing
            team = _mean_of(value, living) if team_value is None else team_value.unsqueeze(-1)
            team = torch.where(living.any(-1, keepdim=True), team, 0.0)
            value = torch.where(sharing & ~alive, team, value)
            reward = torch.where(sharing[1:] & ~acts, _mean_of(reward, acts & sharing[1:]), reward)
            cut = cut | torch.where(sharing[1:], ~acts & lives_on, ~lives_on)
    return _Streams(reward, value, torch.where(ended, 0.0, value[1:]), cut, learns)


def _mean_of(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [*, N] over mask [*, N], 0 where it is empty -> [*, 1]."""
    return torch.where(mask, x, 0.0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)


def _like(flags: Tensor, x: Tensor) -> Tensor:
    """Flags [T, B] seen as x's number of dimensions."""
    return flags.reshape(*flags.shape, *(1,) * (x.dim() - flags.dim()))
