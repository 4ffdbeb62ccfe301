"""What every message-passing kernel shares: who is heard in which slot, and what is never read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph


@dataclass(frozen=True)
class Heard:
    """A batch of B graphs as a kernel reads it, oneself among the slots where the kernel has a self-loop.

    mask [B, N, L] bool: whether slot l is heard. index [B, N, L] long: the sender in slot l (oneself where it is
    not heard); None: every sender in order, L = N + M. edge [B, N, L, E]: features of each way, zeros where nothing or
    oneself is heard. In a list oneself is the last slot (L = K + 1), in a dense graph the slot of one's own number.
    """

    mask: Tensor
    index: Tensor | None
    edge: Tensor | None
    self_loop: bool

    def rows(self, n_senders: int) -> Tensor:
        """index as rows of a table [B x S, D], [B, N, L] long; lists only."""
        assert self.index is not None
        offset = torch.arange(len(self.index), device=self.index.device) * n_senders
        return self.index + offset[:, None, None]

    def gather(self, table: Tensor) -> Tensor:
        """What is read in each slot: table [B, S, D] -> [B, N, L, D] (a list) or [B, 1, L, D] (dense)."""
        if self.index is None:
            return table.unsqueeze(1)
        rows = self.rows(table.shape[1])
        return table.reshape(-1, table.shape[-1]).index_select(0, rows.view(-1)).view(*rows.shape, -1)

    def slots(self, weights: Tensor, mask: Tensor, index: Tensor | None) -> Tensor:
        """Weights [B, H, N, L] in the slots of the graph's own mask and index [B, N, K], 0 where nothing is heard, then
        oneself: [B, H, N, K (+ 1)]."""
        if self.index is not None:
            return weights * self.mask.unsqueeze(1)
        others = weights
        if index is not None:
            index = torch.where(mask, index, 0).unsqueeze(1)
            others = weights.gather(-1, index.expand(-1, weights.shape[1], -1, -1))
        others = others * mask.unsqueeze(1)
        own = weights.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        return torch.cat([others, own], -1) if self.self_loop else others

    def others(self) -> Tensor:
        """The mask without oneself, [B, N, K]."""
        if not self.self_loop:
            return self.mask
        if self.index is not None:
            return self.mask[..., :-1]
        return self.mask & ~torch.eye(*self.mask.shape[-2:], dtype=torch.bool, device=self.mask.device)


def dense(mask: Tensor, index: Tensor, edge: Tensor | None, n_senders: int) -> tuple[Tensor, None, Tensor | None]:
    """A list's mask, index and edge [B, N, K] with every sender in order, [B, N, S]."""
    # slots that are not heard write to one column too many, so that they never overwrite a heard one
    column = torch.where(mask, index, n_senders)
    shape = (*column.shape[:2], n_senders + 1)
    if edge is not None:
        wide = edge.new_zeros(*shape, edge.shape[-1])
        edge = wide.scatter(2, column.unsqueeze(-1).expand_as(edge), edge)[:, :, :-1]
    return mask.new_zeros(shape).scatter_(-1, column, True)[..., :-1], None, edge


def heard(mask: Tensor, index: Tensor | None, edge: Tensor | None, self_loop: bool) -> Heard:
    """Adds oneself to the slots of a graph with mask [B, N, K]; what is not heard is never read."""
    if edge is not None:
        edge = torch.where(mask.unsqueeze(-1), edge, edge.new_zeros(()))
    if index is not None:
        # what is not heard is spread over all senders, so that none is sent back to by a crowd
        own = torch.arange(index.shape[1], device=index.device).unsqueeze(-1)
        index = torch.where(mask, index, own)
    if self_loop and index is None:
        mask = mask | torch.eye(*mask.shape[-2:], dtype=torch.bool, device=mask.device)
    elif self_loop and index is not None:
        index = torch.cat([index, own.expand(*index.shape[:-1], 1)], -1)
        mask = F.pad(mask, (0, 1), value=True)
        edge = None if edge is None else F.pad(edge, (0, 0, 0, 1))
    return Heard(mask, index, edge, self_loop)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, present: Tensor) -> Tensor:
        ctx.save_for_backward(present)
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        return (x.view(integer) & present.to(integer).neg_()).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (present,) = ctx.saved_tensors
        return g * present, None


def read(x: Tensor, present: Tensor) -> Tensor:
    """x [*, S, ...] where present [*, S], zeros elsewhere: whatever stands there, NaN included, leaves no trace.

    Does what `torch.where` does, through the bits: on CPUs several times as fast.
    """
    present = present.view(*present.shape, *[1] * (x.ndim - present.ndim))
    if not x.is_floating_point():
        return torch.where(present, x, x.new_zeros(()))
    return _Read.apply(x, present)  # type: ignore[no-any-return, no-untyped-call]


class _Finish(torch.autograd.Function):
    """relu(x receives), of which only the result is kept; receives [B, N, 1] of zeros and ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, receives: Tensor) -> Tensor:
        out = (x * receives).relu_()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(g, out, 0), None


class Kernel(nn.Module):
    """One round of messages; a subclass says how they are weighed in `aggregate`.

    Arguments:
        dim: features that leave, D.
        heads: attention heads, each of D / heads features.
        edge_dim: features of `graph.edge` that are read, 0 for none.
        in_dim: features of a receiver (None: dim).
        sender_dim: features of a sender where they are not the receivers' (None: in_dim).
        self_loop: every agent hears itself too, over an edge of zeros.

    Shapes: x [*, N, in_dim], senders [*, N + M, sender_dim] (None: x itself, without entities) -> [*, N, dim].
    With `return_attention` also the weights [*, H, N, K + 1] in the graph's slots, oneself last, or [*, H, N, K]
    without self-loop; 0 in slots that are not heard, else each row sums to one.

    Rows of dead receivers and, without self-loop, of those that hear nobody are zeros, weights included. Senders that
    are not `graph.present` are never read. Raises ValueError where sizes do not fit.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.edge_dim, self.self_loop = dim, heads, edge_dim, self_loop
        self.in_dim = dim if in_dim is None else in_dim
        self.sender_dim = self.in_dim if sender_dim is None else sender_dim

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        """x [B, N, in_dim], senders [B, S, sender_dim] -> features before ReLU [B, N, dim] and, if `weigh`, weights
        [B, H, N, L]."""
        raise NotImplementedError

    def prefers_dense(self, n_senders: int) -> bool:
        """Whether lists are better read as dense graphs where there are so many senders."""
        return False

    def forward(
        self, x: Tensor, graph: AgentGraph, senders: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        mask, index, present = graph.mask, graph.index, graph.present
        edge = graph.edge if self.edge_dim else None
        *batch, n, _ = x.shape
        self._check(x, senders, mask, index, edge)
        x = _rows(x, None if present is None else present[..., :n])
        senders = x if senders is None else _rows(senders, present)
        mask = mask.reshape(-1, *mask.shape[-2:])
        index = None if index is None else index.reshape(mask.shape)
        edge = None if edge is None else edge.reshape(*mask.shape, -1).to(x.dtype)
        form = (mask, index, edge)
        if index is not None and self.prefers_dense(senders.shape[1]):
            form = dense(mask, index, edge, senders.shape[1])
        slots = heard(*form, self.self_loop)
        out, weights = self.aggregate(x, senders, slots, return_attention)
        receives = None if present is None else present[..., :n].reshape(-1, n, 1)
        if not self.self_loop:
            hears = mask.any(-1, keepdim=True)
            receives = hears if receives is None else receives & hears
        if receives is not None:
            receives = receives.to(out.dtype)
        out = (F.relu(out) if receives is None else _Finish.apply(out, receives)).reshape(*batch, n, self.dim)
        if weights is None:
            return out
        weights = slots.slots(weights, mask, index)
        if receives is not None:
            weights = weights * receives.unsqueeze(1)
        return out, weights.reshape(*batch, *weights.shape[1:])

    def _check(
        self, x: Tensor, senders: Tensor | None, mask: Tensor, index: Tensor | None, edge: Tensor | None
    ) -> None:
        if x.shape[-1] != self.in_dim or x.shape[:-1] != mask.shape[:-1]:
            shape = (*mask.shape[:-1], self.in_dim)
            raise ValueError(f"expected x of shape {tuple(shape)} for this graph (got {tuple(x.shape)})")
        if index is None and mask.shape[-1] != (x if senders is None else senders).shape[-2]:
            given = "x alone" if senders is None else f"{senders.shape[-2]}"
            raise ValueError(f"expected features of all {mask.shape[-1]} senders of a dense graph (got {given})")
        if senders is None and self.sender_dim != self.in_dim:
            raise ValueError(f"expected senders of {self.sender_dim} features (got none)")
        if senders is not None and senders.shape[-1] != self.sender_dim:
            raise ValueError(f"expected senders of {self.sender_dim} features (got {senders.shape[-1]})")
        if self.edge_dim and (edge is None or edge.shape[-1] != self.edge_dim):
            given = "none" if edge is None else str(edge.shape[-1])
            raise ValueError(f"expected a graph with {self.edge_dim} edge features (got {given})")


def check_heads(dim: int, heads: int) -> None:
    """Raises ValueError where features cannot be shared out among heads."""
    if heads < 1 or dim % heads:
        raise ValueError(f"expected dim to be a multiple of heads (got dim={dim} and heads={heads})")


def _rows(x: Tensor, present: Tensor | None) -> Tensor:
    """x [*, S, D] as [B, S, D], zeros where it must not be read."""
    return (x if present is None else read(x, present)).reshape(-1, *x.shape[-2:])
