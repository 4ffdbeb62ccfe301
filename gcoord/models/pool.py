"""One feature for the whole team, at any team size."""

from __future__ import annotations

import torch
from torch import Tensor


def team_pool(h: Tensor, alive: Tensor) -> Tensor:
    """Mean and maximum of h [*, N, D] over the living, alive [*, N] bool -> g [*, 2D]; zeros where nobody lives.

    The rows of the dead are never read: NaN there changes nothing, neither forward nor in the gradient.
    """
    living = alive.unsqueeze(-1)
    h = torch.where(living, h, 0.0)
    mean = h.sum(-2) / living.sum(-2).clamp(min=1)
    highest = torch.where(living, h, torch.finfo(h.dtype).min).amax(-2)
    return torch.cat([mean, torch.where(living.any(-2), highest, 0.0)], -1)
