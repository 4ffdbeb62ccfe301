"""Exact nearest neighbours in batches: among all pairs, or in sorted strips."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gcoord.candidates import Query, among_all, joined
from gcoord.strips import in_strips

# Agents and entities of the graphs that are searched at once: the same for the arrays that grow with their number.
GRAPHS_AT_ONCE = 2**19


class Neighbours(NamedTuple):
    """sender [*, R, K] long and mask [*, R, K] bool, nearest first; dropped [*] long: edges within the
    radius that the limit left out."""

    sender: Tensor
    mask: Tensor
    dropped: Tensor


def nearest(
    receivers: Tensor,
    alive: Tensor,
    senders: Tensor | None,
    present: Tensor,
    k: int,
    r: float | None = None,
    key: Tensor | None = None,
    cells_from: int = 512,
    first: int = 0,
) -> Neighbours:
    """The k nearest present senders of every living receiver, within distance r if given.

    Arguments:
        receivers: [*, R, P], with alive [*, R] bool.
        senders: [*, S, P], with present [*, S] bool; None: the receivers themselves, and nobody finds oneself.
        key: [*] long breaks ties at the k-th distance; None: all who stand there are taken and K grows.
        cells_from: senders from which sorted strips are used.
        first: number of the first sender, which the result and the hash count from.
    """
    batch, n_receivers = alive.shape[:-1], alive.shape[-1]
    # At infinity nobody is near: what stood in the slots of the dead is gone from here on.
    away = torch.where(alive.unsqueeze(-1), receivers, torch.inf).reshape(-1, *receivers.shape[-2:])
    others = away
    if senders is not None:
        others = torch.where(present.unsqueeze(-1), senders, torch.inf).reshape(-1, *senders.shape[-2:])
    keys = None if key is None else key.reshape(-1)
    search = in_strips if others.shape[-2] >= cells_from else among_all
    at_once = max(1, GRAPHS_AT_ONCE // (n_receivers + others.shape[-2]))
    parts = []
    for start in range(0, len(away), at_once):
        some = slice(start, start + at_once)
        number = torch.arange(n_receivers, device=alive.device).expand(len(away[some]), -1)
        query = Query(
            receivers=away[some],
            graph=torch.arange(len(away[some]), device=alive.device),
            number=number,
            own=number if senders is None else None,
            k=k,
            squared_r=None if r is None else torch.full((), r, dtype=away.dtype, device=away.device).square(),
            key=None if keys is None else keys[some],
            first=first,
        )
        parts.append(search(query, others[some]))
    found = joined(parts, dim=0)
    heard = found.mask.sum((-2, -1)) if r is not None else 0
    return Neighbours(
        (found.sender + first).view(*batch, n_receivers, -1),
        found.mask.view(*batch, n_receivers, -1),
        (found.within.sum(-1) - heard).view(batch),
    )
