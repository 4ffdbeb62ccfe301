"""Dense graphs: every receiver against every sender, as planes [R, S, G] with the graphs of a batch last.

Symbols: G graphs, R receivers, S senders, N agents, M entities, P coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.candidates import sum_of_squares
from gcoord.hashing import edge_hash


class Planes:
    """Brings tensors [*, rest] into the order [rest, G] and back.

    For many small teams the batch becomes the innermost dimension in memory too: every operation then runs along it
    rather than along a handful of agents, several times as fast. Else it is but a view.
    """

    def __init__(self, batch: torch.Size, n_senders: int) -> None:
        self.batch = batch
        self.batch_inside = n_senders <= 32 and batch.numel() >= 8 * n_senders

    def __call__(self, x: Tensor) -> Tensor:
        rest = x.shape[len(self.batch) :]
        if not self.batch_inside:
            return x.reshape(-1, *rest).movedim(0, -1)
        return x.reshape(-1, rest.numel()).t().contiguous().view(*rest, -1)

    def back(self, x: Tensor) -> Tensor:
        """[rest, G] -> [*, rest], contiguous."""
        if not self.batch_inside:
            return x.movedim(-1, 0).reshape(*self.batch, *x.shape[:-1]).contiguous()
        return x.reshape(-1, x.shape[-1]).t().contiguous().view(*self.batch, *x.shape[:-1])

    def empty(self, like: Tensor, rest: torch.Size, n: int) -> list[Tensor]:
        """n tensors [rest, G] in the memory order that `back_stacked` likes best."""
        n_graphs = self.batch.numel()
        if self.batch_inside:
            return list(like.new_empty(*rest, n, n_graphs).unbind(-2))
        return [like.new_empty(n_graphs, *rest).movedim(0, -1) for _ in range(n)]

    def back_stacked(self, parts: list[Tensor]) -> Tensor:
        """`empty`'s tensors -> [*, rest, n], contiguous."""
        if not self.batch_inside:
            whole = parts[0].new_empty(self.batch.numel(), *parts[0].shape[:-1], len(parts))
            for i, part in enumerate(parts):
                whole[..., i] = part.movedim(-1, 0)
            return whole.view(*self.batch, *whole.shape[1:])
        base = parts[0]._base
        assert base is not None
        return self.back(base)


def audible(alive: Tensor, present: Tensor) -> Tensor:
    """alive [N, G], present [N + M, G] -> [N, N + M, G] bool: living receivers, present senders, never oneself."""
    mask = alive.unsqueeze(1) & present.unsqueeze(0)
    mask.diagonal(dim1=0, dim2=1).fill_(False)
    return mask


def squared_between(receivers: Tensor, senders: Tensor) -> Tensor:
    """Squared direct differences: receivers [R, P, G], senders [S, P, G] -> [R, S, G]."""
    return sum_of_squares(b - a for a, b in zip(receivers.unsqueeze(1).unbind(2), senders.unbind(1), strict=True))


def within_kth(squared: Tensor, valid: Tensor, k: int, key: Tensor | None, first: int = 0) -> Tensor:
    """[R, S, G] bool, of the same squared and valid: senders no farther than the k-th valid one (meaningless where not
    valid). With key [G], exactly k: those at the k-th distance go by a hash of (key, receiver, first + sender)."""
    squared = torch.where(valid, squared, torch.inf)
    kth = _kth(squared, k)
    if key is None:
        return squared <= kth
    receiver = torch.arange(squared.shape[0], device=squared.device).view(-1, 1, 1)
    sender = torch.arange(first, first + squared.shape[1], device=squared.device).view(-1, 1)
    nearer, tied = squared < kth, squared == kth
    hashed = torch.where(tied, edge_hash(key, receiver, sender), 2**53)
    wanted = k - nearer.sum(1, keepdim=True)
    return nearer | (tied & (hashed <= hashed.sort(dim=1).values.gather(1, wanted - 1)))


def _kth(squared: Tensor, k: int) -> Tensor:
    """[R, S, G] -> [R, 1, G]: the k-th smallest of each row."""
    n_rows = squared[:, 0].numel()
    if squared.is_cuda or k > 12 or n_rows < 512 * k or not squared.is_contiguous():
        return squared.topk(k, dim=1, largest=False).values[:, -1:]
    # Many short rows: k running minima over whole planes, several times as fast as selecting row by row.
    least = [torch.full_like(squared[:, 0], torch.inf) for _ in range(k)]
    for plane in squared.unbind(1):
        for i in range(k):
            least[i], plane = torch.minimum(least[i], plane), torch.maximum(least[i], plane)
    return least[-1].unsqueeze(1)
