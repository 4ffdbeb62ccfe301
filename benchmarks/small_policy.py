"""The policy that all sides of the stepping benchmark act by: each agent alone, a small network or none. Plain torch.

The peers' interpreter reads this file too, so it needs nothing of gcoord until it acts for ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SmallPolicy(nn.Module):
    """Numbered actions from what an agent senses: own [*, O] or [*, C, H, W] -> long [*].

    who: `random` (even draws, nothing is read), or `network`: two hidden layers of 64, or for pictures three
    convolutions and one.
    """

    def __init__(self, own: tuple[int, ...], n_actions: int, who: str) -> None:
        super().__init__()
        self.own, self.n_actions, self.net = own, n_actions, None
        if who == "network" and own[-1] > 16:
            convolutions = nn.Sequential(
                nn.Conv2d(own[0], 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(),
                nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Flatten(),
            )  # fmt: skip
            width = convolutions(torch.zeros(1, *own)).shape[1]
            self.net = nn.Sequential(convolutions, nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, n_actions))
        elif who == "network":
            width = int(torch.Size(own).numel())
            self.net = nn.Sequential(
                nn.Flatten(), nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n_actions)
            )

    @torch.no_grad()
    def choose(self, own: Tensor) -> Tensor:
        """One sample for each agent."""
        agents = own.shape[: own.dim() - len(self.own)]
        if self.net is None:
            return torch.randint(self.n_actions, agents)
        rows = own.reshape(-1, *self.own)
        rows = rows.float() / 255 if rows.dtype == torch.uint8 else rows.float()
        logits = self.net(rows)
        return (logits - torch.empty_like(logits).exponential_().log_()).argmax(-1).view(agents)

    @property
    def body(self) -> SmallPolicy:
        return self

    def initial(self, *_: Any) -> None:
        """No memory."""

    def act(self, seen: Any, memory: None, key: Any, epsilon: float) -> Any:
        """As `gcoord.models.agent.Agent.act`."""
        from gcoord.models.agent import Acted

        return Acted(self.choose(seen.own), None, None)
