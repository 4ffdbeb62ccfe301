"""Pairs of agents along a graph: who is heard in which slot, and what belongs to them."""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.graph import AgentGraph


def agents_heard(graph: AgentGraph) -> tuple[Tensor, Tensor]:
    """Slots in which other agents (no entities) are heard: mask [*, N, K] bool, index [*, N, K] long, 0 where not."""
    mask, index = graph.mask, graph.index
    n = mask.shape[-2]
    if index is None:
        mask = mask[..., :n]
        index = torch.arange(n, device=mask.device).expand(mask.shape)
    mask = mask & (index < n)
    return mask, torch.where(mask, index, 0)


def of_senders(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` ([*, N, K] long) of x [*, N, D] -> [*, N, K, D]."""
    shape = index.shape
    flat = index.flatten(-2).unsqueeze(-1).expand(*shape[:-2], -1, x.shape[-1])
    return x.gather(-2, flat).unflatten(-2, shape[-2:])
