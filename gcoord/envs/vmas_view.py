"""What VMAS views share: bodies' states side by side, square arenas, steering by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gcoord.envs.vmas import VmasEnv
from gcoord.envs.vmas_physics import discs_step


class View(VmasEnv):
    """What the views share: stacked states, square arenas, and steering by hand."""

    def _prepare(self) -> None:
        if (step := discs_step(self.world)) is not None:
            self.world.step = step

    def _stack(self, bodies: list[Any], what: str) -> Tensor:
        """A state of several bodies, [B, bodies, ...]."""
        return torch.stack([getattr(body.state, what) for body in bodies], dim=1)

    def _world_in_words(self) -> str:
        if self._density == "arena":
            return "in the arena meant for " + str(self.own_n_agents) + ", whatever the team's size"
        return f"at fixed density, the arena's side {self._side:.2f} times that of {self.own_n_agents} agents"

    def _room(self, bodies: int, spacing: float, side: float) -> None:
        """Raise where `bodies` points cannot be placed at random in a square of `side` at least `spacing` apart.

        Random placement jams when discs of that diameter cover 0.547 of the plane; near that the search takes forever
        in one of many teams, so 0.77 of it is taken for the limit (seconds for 1,024 teams).
        """
        limit = 0.77 * 0.547 * (side + spacing) ** 2 / (math.pi * spacing**2 / 4)
        if bodies > limit:
            raise ValueError(
                f"expected an arena that holds {self.n_agents} agents: vmas/{self.name} places {bodies} bodies "
                f"{spacing:g} apart on a side of {side:g}, which takes about {int(limit)} (got density={self._density})"
            )

    def _steer(self, force: Tensor) -> Tensor:
        """An action close to the wanted force [B, N, 2]."""
        if self._continuous:
            return torch.minimum(torch.maximum(force, self._low), self._high)
        digit = torch.where(force > 0.1, 2, torch.where(force < -0.1, 1, 0))  # stay, minus, plus
        return digit[..., 0] * 3 + digit[..., 1]


def given(x: Tensor | None) -> Tensor:
    """A field that this world always fills."""
    assert x is not None
    return x


def distances(a: Tensor, b: Tensor) -> Tensor:
    """[B, n, 2], [B, m, 2] -> [B, n, m], by direct difference."""
    return torch.linalg.vector_norm(a.unsqueeze(2) - b.unsqueeze(1), dim=-1)


def others(n: int, device: torch.device) -> Tensor:
    """[n, n] bool: everyone but oneself."""
    return ~torch.eye(n, dtype=torch.bool, device=device)


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """x [B, M, D], index [B, N] -> [B, N, D]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def push_off(position: Tensor, reach: float) -> Tensor:
    """[B, N, 2]: away from, and to the right of, the agents closer than `reach`."""
    apart = position.unsqueeze(2) - position.unsqueeze(1)  # [B, N, N, 2]
    distance = torch.linalg.vector_norm(apart, dim=-1, keepdim=True)
    push = apart / distance.clamp(min=1e-3) * (reach - distance).clamp(min=0) / reach
    return 2.0 * (push + torch.stack([push[..., 1], -push[..., 0]], dim=-1)).sum(2)
