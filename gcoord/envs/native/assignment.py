"""Optimal assignment in batches, in torch alone."""

from __future__ import annotations

import torch
from torch import Tensor


def assign(cost: Tensor) -> Tensor:
    """The matching of least total cost: cost [B, N, M] -> for each row its column, [B, N] long, -1 for none.

    The Hungarian method with potentials (https://doi.org/10.1002/nav.3800020109), by shortest augmenting paths: rows
    enter one after another, and each step extends the paths of all teams of the batch by one column. min(N, M) pairs
    are made; steps grow with min(N, M)^2, whatever B.

    Raises ValueError where a cost is not finite.
    """
    if cost.dim() != 3:
        raise ValueError(f"expected costs [B, N, M] (got {list(cost.shape)})")
    if not bool(cost.isfinite().all()):
        raise ValueError("expected finite costs (got NaN or infinity)")
    if cost.shape[1] <= cost.shape[2]:
        return _rows_to_columns(cost.double())
    column_to_row = _rows_to_columns(cost.double().transpose(1, 2))  # [B, M]
    found = torch.full(cost.shape[:2], -1, dtype=torch.long, device=cost.device)
    columns = torch.arange(cost.shape[2], device=cost.device).expand_as(column_to_row)
    return found.scatter(1, column_to_row, columns)


def _rows_to_columns(cost: Tensor) -> Tensor:
    """cost [B, N, M], N <= M; column 0 of the work arrays is where each augmenting path starts."""
    b, n, m = cost.shape
    device = cost.device
    team = torch.arange(b, device=device)
    padded = torch.cat([cost.new_zeros(b, n, 1), cost], dim=2)
    row_potential, column_potential = cost.new_zeros(b, n), cost.new_zeros(b, m + 1)
    owner = torch.full((b, m + 1), -1, dtype=torch.long, device=device)
    for row in range(n):
        owner[:, 0] = row
        at = torch.zeros(b, dtype=torch.long, device=device)  # the column each path has come to
        least = torch.full((b, m + 1), torch.inf, dtype=cost.dtype, device=device)
        previous = torch.zeros(b, m + 1, dtype=torch.long, device=device)
        used = torch.zeros(b, m + 1, dtype=torch.bool, device=device)
        while True:
            going = owner[team, at] >= 0
            if not bool(going.any()):
                break
            used[team, at] |= going
            of = owner[team, at].clamp(min=0)
            slack = padded[team, of] - row_potential[team, of].unsqueeze(1) - column_potential
            better = (slack < least) & ~used & going.unsqueeze(1)
            least = torch.where(better, slack, least)
            previous = torch.where(better, at.unsqueeze(1), previous)
            delta, following = least.masked_fill(used, torch.inf).min(1)
            delta = torch.where(going, delta, 0.0)
            # The rows of used columns are distinct, so adding by index never meets one twice.
            moved = torch.where(used & going.unsqueeze(1), delta.unsqueeze(1), 0.0)
            row_potential.scatter_add_(1, owner.clamp(min=0), moved)
            column_potential = column_potential - moved
            least = torch.where(used | ~going.unsqueeze(1), least, least - delta.unsqueeze(1))
            at = torch.where(going, following, at)
        # Back along each path: a column gets the row of the one before it.
        while bool((at > 0).any()):
            before = previous[team, at]
            owner[team, at] = torch.where(at > 0, owner[team, before], owner[team, at])
            at = torch.where(at > 0, before, at)
    found = torch.full((b, n + 1), n, dtype=torch.long, device=device)
    columns = torch.arange(m, device=device).expand(b, -1)
    return found.scatter(1, torch.where(owner[:, 1:] < 0, n, owner[:, 1:]), columns)[:, :n]
