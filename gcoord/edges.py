"""Edge features: where a sender stands as its receiver sees it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gcoord.planes import Planes

if TYPE_CHECKING:
    from gcoord.graph import AgentGraph


# Slots up to which fewer operations count for more than quick ones.
FEW = 4096


def geometry(graph: AgentGraph, position: Tensor, entity_position: Tensor | None = None, length: float = 1.0) -> Tensor:
    """[*, N, K, P + 1]: sender's position relative to the receiver's, in units of `length`, and its distance.

    Unheard slots are zeros; what stands in dead slots is never read, and gradients are free of NaN, also at distance 0.
    """
    if position is None:
        raise ValueError("expected positions [*, N, P] for the geometry of edges (got None)")
    if entity_position is None and graph.n_entities:
        raise ValueError(f"expected positions of {graph.n_entities} entities (got None)")
    senders = position if entity_position is None else torch.cat([position, entity_position], -2)
    if graph.present is not None:
        # What is not there stands at 0, so that a product with the mask is enough: filling by mask is ten times slower.
        senders = torch.where(graph.present.unsqueeze(-1), senders, 0.0)
        position = senders[..., : position.shape[-2], :]
    size = position.shape[-1]
    heard = senders.unsqueeze(-3)
    if graph.index is not None:
        index = graph.index.flatten(-2).unsqueeze(-1).expand(*graph.batch_size, -1, size)
        heard = senders.gather(-2, index).view(*graph.mask.shape, size)
    if graph.mask.numel() <= FEW or (senders.requires_grad and torch.is_grad_enabled()):
        relative = (heard - position.unsqueeze(-2)) * graph.mask.unsqueeze(-1)
        if length != 1.0:
            relative = relative / length
        return torch.cat([relative, torch.linalg.vector_norm(relative, dim=-1, keepdim=True)], -1)
    planes = Planes(graph.batch_size, graph.mask.shape[-1])
    out = planes.empty(position, graph.mask.shape[-2:], size + 1)
    receivers, heard = planes(position).unsqueeze(1), planes(heard)
    mask = planes(graph.mask.view(torch.uint8)).to(position.dtype)
    if length != 1.0:
        mask = mask / length
    for p in range(size):
        part = torch.sub(heard[:, :, p], receivers[:, :, p], out=out[p]).mul_(mask)
        if p == 0:
            torch.mul(part, part, out=out[-1])
        else:
            out[-1].addcmul_(part, part)
    # Roots of 0 are slow too; that of the smallest number is a power of 2, so taking it off again leaves an exact 0.
    tiny = torch.finfo(position.dtype).tiny
    out[-1].clamp_(min=tiny).sqrt_().sub_(math.sqrt(tiny))
    return planes.back_stacked(out)
