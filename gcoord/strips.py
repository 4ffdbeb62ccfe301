"""Exact nearest neighbours in sorted strips: a cell list that adapts to the density.

Symbols: G graphs, R receivers, S senders, P coordinates, C candidates, K neighbour slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gcoord.candidates import PAIRS_AT_ONCE, Found, Query, among_all, joined, select, widened

# So few pairs are sooner compared than narrowed down.
FEW_PAIRS = 2**19
# Shape of strips and windows (see `_plan`), in units of the distance within which the k nearest are expected.
SPARE, WIDTH, HEIGHT = 3.0, 0.9, 1.25


@dataclass
class _Strips:
    """Senders sorted into n strips of m along the first coordinate, and along the second within each strip.

    Arrays are flat over [G, n + 2, m + 2]: an empty strip before the first and after the last, and one place before
    and after each strip, all at infinity. coordinates: P of them; second: the second coordinate, -inf in the places
    before; sender: numbers; place, flat [G, n m]: where each sender went. low, high [G, n + 2]: where strip s
    begins and ends along the first coordinate stands at s + 1; infinite where there is no strip.
    """

    coordinates: list[Tensor]
    second: Tensor
    sender: Tensor
    place: Tensor
    low: Tensor
    high: Tensor
    n: int
    m: int
    n_senders: int


def _sorted_into_strips(senders: Tensor, m: int) -> _Strips:
    n_graphs, n_senders, n_coordinates = senders.shape
    n = -(-n_senders // m)
    planes = F.pad(senders.movedim(-1, 0), (0, n * m - n_senders), value=torch.inf)  # [P, G, n m]
    along, by_first = planes[0].sort(dim=-1)
    second = planes[min(1, n_coordinates - 1)].gather(-1, by_first).view(n_graphs, n, m)
    order = by_first.view(n_graphs, n, m).gather(-1, second.argsort(dim=-1)).view(n_graphs, n * m)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(n * m, device=order.device).expand_as(order))
    around = (1, 1, 1, 1)
    coordinates = [F.pad(plane.gather(-1, order).view(n_graphs, n, m), around, value=torch.inf) for plane in planes]
    second = coordinates[min(1, n_coordinates - 1)].clone()
    second[..., 0] = -torch.inf
    ends = along.view(n_graphs, n, m)
    return _Strips(
        coordinates=[plane.view(-1) for plane in coordinates],
        second=second.view(-1),
        sender=F.pad(order.view(n_graphs, n, m), around).view(-1),
        place=place.view(-1),
        low=F.pad(F.pad(ends[..., 0], (1, 0), value=-torch.inf), (0, 1), value=torch.inf),
        high=F.pad(F.pad(ends[..., -1], (1, 0), value=-torch.inf), (0, 1), value=torch.inf),
        n=n,
        m=m,
        n_senders=n_senders,
    )


def _rank(strips: _Strips, row: Tensor, at: Tensor, shift: Tensor | float) -> Tensor:
    """How many places of each strip lie below: second - at < shift. row [strips, Q]: where the strips begin; at [Q]."""
    last = row + (strips.m + 1)
    found = row
    step = 1 << strips.m.bit_length()
    while step := step >> 1:
        probe = torch.minimum(found + step, last)
        found = torch.where(_at(strips.second, probe) - at < shift, probe, found)
    return found - row


def _ranks_beside(strips: _Strips, sides: int) -> Tensor:
    """[2 sides + 1, G n m]: `_rank` of all senders, where they went, among those of the strips beside their own (0 in
    their own); at most one side."""
    second = strips.second.view(-1, strips.n + 2, strips.m + 2)
    mine = second[:, 1:-1, 1:-1].contiguous()
    ranks = [torch.searchsorted(some.contiguous(), mine) - 1 for some in (second[:, :-2], second[:, 2:])]
    return torch.stack([ranks[0], torch.zeros_like(mine, dtype=torch.long), ranks[1]][1 - sides : 2 + sides]).flatten(1)


def _at(flat: Tensor, place: Tensor) -> Tensor:
    """flat[place]; index_select is the quickest way there."""
    return flat.index_select(0, place.reshape(-1)).view(place.shape)


def _plan(n_senders: int, n_coordinates: int, k: int) -> tuple[int, int]:
    """Senders of a strip and of a window, so that most windows hold the k nearest of evenly spread senders."""
    if n_coordinates == 1:
        return n_senders, 2 * k + 4
    ball = math.pi if n_coordinates == 2 else 4 / 3 * math.pi
    reach = ((k + 1 + SPARE * math.sqrt(k + 1)) / (n_senders * ball)) ** (1 / min(n_coordinates, 3))
    m = math.ceil(n_senders * min(1.0, reach * WIDTH))
    return m, math.ceil(2 * reach * m * HEIGHT) + 1


def _crowd(senders: Tensor, reach: Tensor) -> int:
    """The most senders that stand within `reach` to the right of one, counting along the first coordinate."""
    along = senders[..., 0].double().sort(dim=-1).values
    last = torch.searchsorted(along, along + reach, right=True)
    number = torch.arange(along.shape[-1], device=along.device)
    return int(torch.where(along.isfinite(), last - number, 1).amax())


def in_strips(query: Query, senders: Tensor) -> Found:
    """Candidates are windows of the receiver's strip and of those beside it; receivers whose neighbours could stand
    outside their windows look again in more and larger ones, and at last among all."""
    n_senders, n_coordinates = senders.shape[-2:]
    reach, window = None, None
    if query.squared_r is None:
        m, window = _plan(n_senders, n_coordinates, query.k)
    else:
        # A little more than r, so that rounding leaves out nobody.
        reach = query.squared_r.sqrt() * (1 + 1e-6)
        m = _crowd(senders, reach) if n_coordinates > 1 else n_senders
    strips = _sorted_into_strips(senders, m)
    sides = wider = min(1, strips.n - 1)
    found, missing = _in_windows(query, strips, sides, window, reach)
    graphs, rows = missing.nonzero().unbind(-1)
    while len(rows):
        part, again = query.rows(graphs, rows), None
        if window is not None and len(rows) * n_senders > FEW_PAIRS:
            # Where agents crowd, most lack a longer window; more strips come with the tries that follow.
            sides, window, wider = wider, 2 * window, 2 * wider
            if 2 * (2 * sides + 1) * window < n_senders:
                again, missing = _in_windows(part, strips, sides, window, None)
                missing = missing.squeeze(-1)
        if again is None:
            at_once = max(1, PAIRS_AT_ONCE // n_senders)
            cuts = [part.graphs(slice(start, start + at_once)) for start in range(0, len(rows), at_once)]
            again = joined([among_all(cut, senders[cut.graph]) for cut in cuts], dim=0)
            missing = torch.zeros_like(rows, dtype=torch.bool)
        found = _replaced(found, again, graphs, rows)
        graphs, rows = graphs[missing], rows[missing]
    return found


def _in_windows(
    query: Query, strips: _Strips, sides: int, window: int | None, reach: Tensor | None
) -> tuple[Found, Tensor]:
    """What stands in the windows of `sides` strips on each side, and [G, R] bool: whose neighbours may stand elsewhere.

    window: places of a window, around the receiver's own rank; None: all that are within `reach` of it.
    """
    n, m = strips.n, strips.m
    n_graphs, n_rows, n_coordinates = query.receivers.shape
    x, at = (query.receivers[..., p].reshape(-1) for p in (0, min(1, n_coordinates - 1)))  # [Q = G R]
    graph = query.graph.repeat_interleave(n_rows)
    place = None
    if query.own is None:
        strip = torch.searchsorted(strips.low[query.graph], x.view(n_graphs, -1).contiguous(), right=True).view(-1) - 1
        strip = strip.clamp(1, n)
    else:
        place = _at(strips.place, graph * (n * m) + query.own.reshape(-1))
        source = graph * (n * m) + place
        strip = place // m
        place, strip = place - strip * m, strip + 1
    beside = torch.arange(-sides - 1, sides + 2, device=x.device).unsqueeze(-1)
    # Strips innermost would be three elements a row: they come first.
    around = (strip + beside).clamp_(0, n + 1).add_(graph * (n + 2))  # [strips + 2, Q]
    row = around[1:-1] * (m + 2)
    if window is None:
        assert reach is not None
        start = _rank(strips, row, at, -reach)
        window = max(1, int((_rank(strips, row, at, reach) - start).amax()))
    else:
        if place is not None and n_rows == strips.n_senders and sides <= 1:
            start = _ranks_beside(strips, sides).index_select(1, source)
        else:
            start = _rank(strips, row, at, 0.0)
        if place is not None:
            start[sides] = place
        window = min(window, m)
        start -= window // 2
    start.clamp_(0, m - window)
    first = row + start

    # Who is in no window is at least this far away, in the very arithmetic of the distances.
    left, right = x - _at(strips.high.view(-1), around[: sides + 1]), _at(strips.low.view(-1), around[sides + 2 :]) - x
    bound = torch.minimum(at - _at(strips.second, first), _at(strips.second, first + (window + 1)) - at).square_()
    bound[:sides] += left[1:].square()
    bound[sides + 1 :] += right[:-1].square()
    outside = torch.minimum(bound.amin(0), torch.minimum(left[0], right[-1]).square_())

    # The dead stand nowhere, not even in their own windows.
    own = None if place is None else (place - start[sides]).clamp_(0, window - 1).add_(sides * window)
    first = first.t().contiguous()
    parts = []
    block = max(1, PAIRS_AT_ONCE // (first.shape[1] * window))
    for begin in range(0, len(first), block):
        some = slice(begin, begin + block)
        parts.append(_among_places(query, strips, some, first[some], None if own is None else own[some], window))
    found = joined(parts, dim=0)
    enough = found.kth.squeeze(-1) if query.squared_r is None else query.squared_r
    missing = ~(enough < outside) & x.isfinite()
    return Found(*(part.view(n_graphs, n_rows, *part.shape[1:]) for part in found)), missing.view(n_graphs, n_rows)


def _among_places(query: Query, strips: _Strips, some: slice, first: Tensor, own: Tensor | None, window: int) -> Found:
    """The nearest of the `window` places after first [Q, strips], for some receivers; own [Q]: oneself's column."""
    squared = None
    for plane, receivers in zip(strips.coordinates, query.receivers.flatten(0, 1)[some].unbind(-1), strict=True):
        difference = plane.unfold(0, window, 1).index_select(0, first.view(-1) + 1).view(len(first), -1)
        difference = difference.sub_(receivers.unsqueeze(-1))
        difference.mul_(difference)
        squared = difference if squared is None else squared.add_(difference)
    assert squared is not None
    if own is not None:
        squared.scatter_(-1, own.unsqueeze(-1), torch.inf)

    def sender_of(columns: Tensor) -> Tensor:
        # Dividing whole numbers is slow; half a column keeps the quotient clear of rounding.
        window_of = ((columns + 0.5) / window).long()
        return _at(strips.sender, first.gather(-1, window_of).add_(columns - window_of * window).add_(1))

    graph = query.graph.repeat_interleave(query.number.shape[1])[some]
    return select(query, squared, query.number.reshape(-1)[some], graph, sender_of)


def _replaced(found: Found, again: Found, graphs: Tensor, rows: Tensor) -> Found:
    """`found` with the rows of `again` [U, 1] in their places."""
    width = max(found.mask.shape[-1], again.mask.shape[-1])
    sender, mask = widened(found.sender, width), widened(found.mask, width)
    sender[graphs, rows] = widened(again.sender, width).squeeze(1)
    mask[graphs, rows] = widened(again.mask, width).squeeze(1)
    within = found.within.clone()
    within[graphs, rows] = again.within.squeeze(1)
    return found._replace(sender=sender, mask=mask, within=within)
