"""Multi-head dot-product attention over a graph, computed in three ways that mean the same.

`few_attention` streams over all pairs with the batch innermost (small teams), `many_attention` multiplies matrices
per head (dense graphs of large teams), `list_attention` gathers neighbour lists (sparse graphs of large teams).

A pair's logit is q . (k + U e) / sqrt(d_head) and its value v + V e, e being the pair's features. U e and V e are never
formed, since q . U e = (q U) . e and sum a V e = V sum a e: callers pass `edge_q` = q U and get `edge_mean` = sum a e.
`cap` is the highest number of the logits' type where a sender is heard and the lowest where it is not; logits are cut
to it.
Symbols: N receivers, S senders, B batch, R = B x N, H heads, d = D / H, K slots, E edge features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of all pairs' products up to which one product and one sum beat a loop of fused multiply-adds.
SMALL = 1 << 17
# Elements gathered at once on a CPU: larger blocks leave the cache, smaller ones pay per call.
BLOCK = 1 << 18


def caps(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What logits are cut to: the highest number of `dtype` where mask is True, the lowest elsewhere."""
    limits = torch.finfo(dtype)
    low = torch.full((), limits.min, dtype=dtype, device=mask.device)
    return torch.where(mask, low.neg(), low)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """a [N, 1, H, d, B] and b [1 | N, S, 1 | H, d, B] -> [N, S, H, B], summed over d."""
    if a.numel() * b.shape[1] <= SMALL:
        return (a * b).sum(3)
    (left, *lefts), (right, *rights) = a.unbind(3), b.unbind(3)
    total = left * right
    for left, right in zip(lefts, rights, strict=True):
        total.addcmul_(left, right)
    return total


def _mix(weights: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """weights [N, S, H, B] and values [1 | N, S, 1 | H, d, B] -> [N, H, d, B], summed over S."""
    weights = weights.unsqueeze(3)
    if weights.numel() * values.shape[3] <= SMALL:
        return torch.sum(weights * values, 1, out=out)
    (weight, *others), (value, *rest) = weights.unbind(1), values.unbind(1)
    total = torch.mul(weight, value, out=out)
    for weight, value in zip(others, rest, strict=True):
        total.addcmul_(weight, value)
    return total


def _softmax_backward(grad: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Gradient of the logits, given that of their softmax over `dim`."""
    product = grad * weights
    return product.addcmul_(weights, product.sum(dim, keepdim=True), value=-1)


def _edge_backward(grad: Tensor, edge_q: Tensor, weights: Tensor, g_mean: Tensor | None) -> Tensor:
    """Gradient of the edge features [N, S, E, B] from that of the logits and of `edge_mean`."""
    total = (grad.unsqueeze(3) * edge_q.unsqueeze(1)).sum(2)
    return total if g_mean is None else total + (weights.unsqueeze(3) * g_mean.unsqueeze(1)).sum(2)


class _FewAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, edge_q: Tensor | None, edge: Tensor | None, cap: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        k, v = kv.unsqueeze(0).unbind(2)
        logits = _dot(q.unsqueeze(1), k)
        if edge_q is not None and edge is not None:
            logits += _dot(edge_q.unsqueeze(1), edge.unsqueeze(2))
        logits *= q.shape[2] ** -0.5
        weights = torch.minimum(logits, cap, out=logits).softmax(1)
        ctx.save_for_backward(q, kv, edge_q, edge, weights)
        ctx.set_materialize_grads(False)
        edge_mean = None if edge is None else _mix(weights, edge.unsqueeze(2))
        return _mix(weights, v), edge_mean, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_weights: Tensor | None) -> tuple[Any, ...]:
        q, kv, edge_q, edge, weights = ctx.saved_tensors
        k, v = kv.unsqueeze(0).unbind(2)
        g = torch.zeros_like(q) if g is None else g
        grad = _dot(g.unsqueeze(1), v)
        if g_mean is not None:
            grad += _dot(g_mean.unsqueeze(1), edge.unsqueeze(2))
        if g_weights is not None:
            grad += g_weights
        grad = _softmax_backward(grad, weights, 1).mul_(q.shape[2] ** -0.5)
        grad_q, grad_kv = _mix(grad, k), torch.empty_like(kv)
        _mix(grad.transpose(0, 1), q.unsqueeze(0), out=grad_kv[:, 0])
        _mix(weights.transpose(0, 1), g.unsqueeze(0), out=grad_kv[:, 1])
        grad_edge_q = None if edge is None else _mix(grad, edge.unsqueeze(2))
        grad_edge = _edge_backward(grad, edge_q, weights, g_mean) if ctx.needs_input_grad[3] else None
        return grad_q, grad_kv, grad_edge_q, grad_edge, None


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Floating tensors in autocast's type where it is on: what torch's own linear maps do, and own functions do not."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


class _ProjectIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        wide, x = weight.expand(x.shape[1], -1, -1), x.permute(1, 2, 0)
        return torch.bmm(wide, x) if bias is None else torch.baddbmm(bias.unsqueeze(1), wide, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = torch.bmm(g.transpose(1, 2), weight.expand(len(g), -1, -1)).transpose(0, 1)
        grad_weight = torch.bmm(g, x.transpose(0, 1)).sum(0)
        return grad_x, grad_weight, g.sum((0, 2)) if ctx.needs_input_grad[2] else None


def project_in(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map that leaves the batch innermost, x [B, N, in] -> [N, out, B]; its gradient arrives batch first."""
    return _ProjectIn.apply(*_autocast(x, weight, bias))  # type: ignore[no-any-return, no-untyped-call]


class _ProjectOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias, x.transpose(1, 2), weight.t().expand(len(x), -1, -1)).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = torch.bmm(weight.t().expand(len(x), -1, -1), g.permute(1, 2, 0))
        return grad_x, torch.bmm(x, g.transpose(0, 1)).sum(0).t(), g.sum((0, 1))


def project_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map from the batch innermost, x [N, in, B] -> [B, N, out]; its gradient arrives batch innermost."""
    return _ProjectOut.apply(*_autocast(x, weight, bias))  # type: ignore[no-any-return, no-untyped-call]


def few_attention(
    q: Tensor, kv: Tensor, edge_q: Tensor | None, edge: Tensor | None, cap: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Attention over all pairs, batch innermost: every pass streams over contiguous memory.

    q [N, H, d, B], keys and values kv [S, 2, H, d, B], edge_q [N, H, E, B] with edge [N, S, E, B] or both None,
    cap [N, S, 1, B] -> out [N, H, d, B], edge_mean [N, H, E, B] or None, weights [N, S, H, B]. Differentiable once.
    """
    return _FewAttention.apply(q, kv, edge_q, edge, cap)  # type: ignore[no-any-return, no-untyped-call]


def many_attention(
    q: Tensor, k: Tensor, v: Tensor, edge_q: Tensor | None, edge: Tensor | None, cap: Tensor, weigh: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Attention over all pairs by matrix products, one per graph and head.

    q [B, H, N, d], k and v [B, H, S, d], edge_q [B, H, N, E] with edge [B, N, S, E] or both None, cap [B, 1, N, S]
    -> out [B, H, N, d], edge_mean [B, H, N, E] or None, weights [B, H, N, S] or None where neither edges nor `weigh`
    ask for them: then nothing of size N x S is kept per head.
    """
    if edge is None and not weigh:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=cap.clamp(max=0)), None, None
    logits = q @ k.transpose(-1, -2)
    if edge_q is not None and edge is not None:
        logits = logits + (edge_q.transpose(1, 2) @ edge.transpose(-1, -2)).transpose(1, 2)
    weights = torch.minimum(logits * q.shape[-1] ** -0.5, cap).softmax(-1)
    edge_mean = None if edge is None else (weights.transpose(1, 2) @ edge).transpose(1, 2)
    return weights @ v, edge_mean, weights


class _Slots:
    """Walks over the K slots of index [K, R], as many at once as `BLOCK` allows, in memory taken once."""

    def __init__(self, index: Tensor, like: Tensor, heads: int) -> None:
        slots, receivers = index.shape
        dim = like.shape[1]
        self.index, self.heads = index, heads
        self.size = slots if like.device.type != "cpu" else max(1, min(slots, BLOCK // (receivers * dim)))
        self.near, self.wide = like.new_empty(2, self.size, receivers, dim)
        self.spread = torch.eye(heads, dtype=like.dtype, device=like.device).repeat_interleave(dim // heads, 1)

    def __iter__(self) -> Iterator[slice]:
        return (slice(start, start + self.size) for start in range(0, len(self.index), self.size))

    def gather(self, table: Tensor, slots: slice) -> Tensor:
        """Rows of table [S, D] that the slots name, [k, R, D]: overwrites what was gathered before."""
        index = self.index[slots]
        near = self.near[: len(index)]
        torch.index_select(table, 0, index.view(-1), out=near.view(-1, near.shape[-1]))
        return near

    def reduce(self, products: Tensor, out: Tensor) -> None:
        """Sums products [k, R, D] over the features of each head into out [k, H, R]."""
        torch.bmm(self.spread.expand(len(products), -1, -1), products.transpose(1, 2), out=out)

    def widen(self, weights: Tensor) -> Tensor:
        """Repeats weights [k, H, R] over the features of each head, [k, R, D]: overwrites what was widened before."""
        wide = self.wide[: len(weights)]
        return torch.bmm(weights.transpose(1, 2), self.spread.expand(len(weights), -1, -1), out=wide)


class _ListAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        kv: Tensor,
        edge_q: Tensor | None,
        edge: Tensor | None,
        cap: Tensor,
        index: Tensor,
        heads: int,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        dim = q.shape[1]
        keys, values = kv[:, :dim], kv[:, dim:]
        walk = _Slots(index, q, heads)
        logits = q.new_empty(len(index), heads, len(q))
        for slots in walk:
            walk.reduce(walk.gather(keys, slots).mul_(q), out=logits[slots])
        if edge_q is not None and edge is not None:
            logits += _dot(edge_q[None, None], edge[None, :, None]).squeeze(0)
        logits *= (dim // heads) ** -0.5
        weights = torch.minimum(logits, cap, out=logits).softmax(0)
        out = torch.zeros_like(q)
        for slots in walk:
            _accumulate(out, walk.gather(values, slots), walk.widen(weights[slots]))
        ctx.save_for_backward(q, kv, edge_q, edge, weights, index)
        ctx.set_materialize_grads(False)
        edge_mean = None if edge is None else _mix(weights[None], edge[None, :, None]).squeeze(0)
        return out, edge_mean, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_weights: Tensor | None) -> tuple[Any, ...]:
        q, kv, edge_q, edge, weights, index = ctx.saved_tensors
        dim, heads = q.shape[1], weights.shape[1]
        keys, values = kv[:, :dim], kv[:, dim:]
        g = torch.zeros_like(q) if g is None else g.contiguous()
        walk = _Slots(index, q, heads)
        grad = torch.empty_like(weights)
        for slots in walk:
            walk.reduce(walk.gather(values, slots).mul_(g), out=grad[slots])
        if g_mean is not None:
            grad += _dot(g_mean[None, None], edge[None, :, None]).squeeze(0)
        if g_weights is not None:
            grad += g_weights
        grad = _softmax_backward(grad, weights, 0).mul_((dim // heads) ** -0.5)
        grad_q, grad_kv = torch.zeros_like(q), torch.zeros_like(kv)
        message = q.new_empty(walk.size, len(q), 2 * dim)
        for slots in walk:
            wide = walk.widen(grad[slots])
            _accumulate(grad_q, walk.gather(keys, slots), wide)
            sent = message[: len(wide)]
            torch.mul(wide, q, out=sent[..., :dim])
            torch.mul(walk.widen(weights[slots]), g, out=sent[..., dim:])
            grad_kv.index_add_(0, index[slots].view(-1), sent.view(-1, 2 * dim))
        grad_edge_q = None if edge is None else _mix(grad[None], edge[None, :, None]).squeeze(0)
        grad_edge = None
        if ctx.needs_input_grad[3]:
            g_mean = None if g_mean is None else g_mean[None]
            grad_edge = _edge_backward(grad[None], edge_q[None], weights[None], g_mean).squeeze(0)
        return grad_q, grad_kv, grad_edge_q, grad_edge, None, None, None


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left x right [k, R, D], slot by slot, to total [R, D]."""
    for a, b in zip(left, right, strict=True):
        total.addcmul_(a, b)


def list_attention(
    q: Tensor, kv: Tensor, edge_q: Tensor | None, edge: Tensor | None, cap: Tensor, index: Tensor, heads: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Attention of R receivers, each over its own K senders.

    q [R, D], kv [S, 2D] keys and values side by side, edge_q [H, E, R] with edge [K, E, R] or both None, cap [K, 1, R],
    index [K, R] long -> out [R, D], edge_mean [H, E, R] or None, weights [K, H, R]. Nothing of size R x K x D is kept:
    senders are gathered again on the way back, a few slots at a time. Differentiable once.
    """
    return _ListAttention.apply(q, kv, edge_q, edge, cap, index, heads)  # type: ignore[no-any-return, no-untyped-call]
