"""The nearest of candidates, exactly: what receivers look for, and the search among all pairs.

Distances are always squared direct differences, coordinate by coordinate: every way of computing them gives the same
bits, so equal distances stay equal and ties are seen as ties.

Symbols: G graphs, R receivers, S senders, P coordinates, C candidates, K neighbour slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gcoord.hashing import edge_hash

# Pairs whose distances are held at once, so that they stay in the cache: bounds memory, not results.
PAIRS_AT_ONCE = 2**20
# Candidates that are asked together for the nearest of them: a search among minima costs less than one among all.
GROUP = 8
# Columns of a row that are sorted whole rather than searched.
SORTED_UP_TO = 128


def squared_distances(receivers: Tensor, senders: Tensor) -> Tensor:
    """receivers [*, R, P], senders [*, S, P] -> [*, R, S]."""
    return sum_of_squares(
        b - a
        for a, b in zip(
            receivers.unsqueeze(-2).unbind(-1), senders.movedim(-1, 0).contiguous().unsqueeze(-2), strict=True
        )
    )


def sum_of_squares(differences: Iterable[Tensor]) -> Tensor:
    total = None
    for difference in differences:
        squared = difference.mul_(difference)
        total = squared if total is None else total.add_(squared)
    assert total is not None
    return total


@dataclass
class Query:
    """Receivers [G, R, P] and what they look for. graph [G]: whose senders they look among; number [G, R]: their own
    numbers; own [G, R]: which sender each is oneself; key [number of graphs]."""

    receivers: Tensor
    graph: Tensor
    number: Tensor
    own: Tensor | None
    k: int
    squared_r: Tensor | None
    key: Tensor | None
    first: int

    def graphs(self, some: slice) -> Query:
        """Some graphs."""
        return replace(
            self,
            receivers=self.receivers[some],
            graph=self.graph[some],
            number=self.number[some],
            own=None if self.own is None else self.own[some],
        )

    def rows(self, graphs: Tensor, rows: Tensor) -> Query:
        """Some receivers, each as a graph of its own: graphs [U], rows [U] -> [U, 1]."""
        return replace(
            self,
            receivers=self.receivers[graphs, rows].unsqueeze(1),
            graph=self.graph[graphs],
            number=self.number[graphs, rows].unsqueeze(1),
            own=None if self.own is None else self.own[graphs, rows].unsqueeze(1),
        )


class Found(NamedTuple):
    """sender, mask [G, R, K]; within [G, R]: senders within the radius (0 without one); kth [G, R, 1]: squared distance
    up to which all senders were taken."""

    sender: Tensor
    mask: Tensor
    within: Tensor
    kth: Tensor


def select(
    query: Query, squared: Tensor, number: Tensor, graph: Tensor, sender_of: Callable[[Tensor], Tensor]
) -> Found:
    """The nearest of candidates: squared [*, C], number and graph [*] of receivers, sender_of(columns) -> senders."""
    within = number.new_zeros(()).expand(squared.shape[:-1])
    if query.squared_r is not None:
        inside = squared <= query.squared_r
        squared, within = torch.where(inside, squared, torch.inf), inside.sum(-1)
    k = min(query.k, squared.shape[-1])
    values, columns = _smallest(squared, min(k + 1, squared.shape[-1]))
    kth = values[..., k - 1 : k].clamp(max=torch.finfo(squared.dtype).max)
    tied = bool((values[..., k:] <= kth).any())
    if tied:
        values, columns = squared.topk(int((squared <= kth).sum(-1).amax()), dim=-1, largest=False)
    sender = sender_of(columns)
    if tied and query.key is not None:
        hashed = edge_hash(query.key[graph].unsqueeze(-1), number.unsqueeze(-1), sender + query.first)
        order = hashed.argsort(dim=-1)
        order = order.gather(-1, values.gather(-1, order).argsort(dim=-1, stable=True))
        values, sender = values.gather(-1, order), sender.gather(-1, order)
    if not tied or query.key is not None:
        values, sender = values[..., :k], sender[..., :k]
    mask = values <= kth
    return Found(torch.where(mask, sender, 0), mask, within, kth)


def _smallest(squared: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of [*, C] and their columns, in order: looked for in the k groups that hold the smallest ones."""
    groups = squared.shape[-1] // GROUP
    if groups < 2 * k:
        return _least(squared, k)
    grouped = squared[..., : groups * GROUP].unflatten(-1, (GROUP, groups))
    best = _least(grouped.amin(-2), k)[1].unsqueeze(-2)
    columns = torch.arange(0, groups * GROUP, groups, device=squared.device).unsqueeze(-1) + best  # [*, GROUP, k]
    # The last columns, too few for a group of their own, are always looked at.
    rest = torch.arange(groups * GROUP, squared.shape[-1], device=squared.device).expand(*squared.shape[:-1], -1)
    columns = torch.cat([columns.flatten(-2), rest], dim=-1) if rest.shape[-1] else columns.flatten(-2)
    values, places = _least(squared.gather(-1, columns), k)
    return values, columns.gather(-1, places)


def _least(squared: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of [*, C] and their columns, in order.

    Short rows are sooner sorted whole, by vector instructions (numpy's, https://arxiv.org/abs/2205.05982), with each
    column in the low half of its number; floats that are not negative are in the order of their bits.
    """
    if squared.device.type != "cpu" or squared.dtype != torch.float32 or squared.shape[-1] > SORTED_UP_TO:
        return squared.topk(k, dim=-1, largest=False)
    packed = squared.contiguous().view(torch.int32).long().mul_(2**32)
    packed += torch.arange(squared.shape[-1])
    packed.numpy().sort(axis=-1)
    first = packed[..., :k]
    return (first >> 32).int().view(torch.float32), first & (2**32 - 1)


def among_all(query: Query, senders: Tensor) -> Found:
    """All pairs, in blocks of receivers; senders [G, S, P] of each receivers' graph."""
    block = max(1, PAIRS_AT_ONCE // max(1, senders.shape[0] * senders.shape[1]))
    parts = []
    for start in range(0, query.receivers.shape[1], block):
        rows = slice(start, start + block)
        squared = squared_distances(query.receivers[:, rows], senders)
        if query.own is not None:
            squared.scatter_(-1, query.own[:, rows].unsqueeze(-1), torch.inf)
        number = query.number[:, rows]
        graph = query.graph.unsqueeze(-1).expand_as(number)
        parts.append(select(query, squared, number, graph, lambda columns: columns))
    return joined(parts, dim=1)


def joined(parts: list[Found], dim: int) -> Found:
    if len(parts) == 1:
        return parts[0]
    width = max(part.mask.shape[-1] for part in parts)
    padded = [part._replace(sender=widened(part.sender, width), mask=widened(part.mask, width)) for part in parts]
    return Found(*(torch.cat(same, dim) for same in zip(*padded, strict=True)))


def widened(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
