"""Multi-head dot-product attention over a graph, computed in three ways that mean the same.

`few_attention` streams over all pairs with the batch innermost (small teams), `many_attention` multiplies matrices
per head (dense graphs of large teams), `list_attention` gathers neighbour lists (sparse graphs of large teams).

A pair's logit is q . (k + U e) and its value v + V e, e being the pair's features (callers scale q by 1 / sqrt(d)).
U e and V e are never formed, since q . U e = (q U) . e and sum a V e = V sum a e. `maps` holds U and V. `qkv` holds
queries, keys and values side by side; where senders are not the receivers it holds the queries alone, and `kv` keys and
values.

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


def _three(qkv: Tensor, kv: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: slices of dimension 1."""
    if kv is None:
        q, k, v = qkv.unbind(1)
        return q, k, v
    k, v = kv.unbind(1)
    return qkv[:, 0], k, v


def _softmax_backward(grad: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Gradient of the logits, given that of their softmax over `dim`."""
    product = grad * weights
    return product.addcmul_(weights, product.sum(dim, keepdim=True), value=-1)


def _edge_backward(grad: Tensor, edge_q: Tensor, weights: Tensor, g_mean: Tensor) -> Tensor:
    """Gradient of edge features [N, S, E, B] from that of the logits and of their mean [N, H, E, B]."""
    return (grad.unsqueeze(3) * edge_q.unsqueeze(1)).sum(2) + (weights.unsqueeze(3) * g_mean.unsqueeze(1)).sum(2)


class _FewAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k, v = _three(qkv, kv)
        logits = _dot(q.unsqueeze(1), k.unsqueeze(0))
        if maps is not None and edge is not None:
            logits += _dot((maps[0].mT @ q).unsqueeze(1), edge.unsqueeze(2))
        weights = torch.minimum(logits, cap, out=logits).softmax(1)
        out, edge_mean = _mix(weights, v.unsqueeze(0)), None
        if maps is not None and edge is not None:
            edge_mean = _mix(weights, edge.unsqueeze(2))
            out += maps[1] @ edge_mean
        ctx.save_for_backward(qkv, kv, maps, edge, weights, edge_mean)
        ctx.set_materialize_grads(False)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, kv, maps, edge, weights, edge_mean = ctx.saved_tensors
        q, k, v = _three(qkv, kv)
        g = torch.zeros_like(q) if g is None else g
        grad = _dot(g.unsqueeze(1), v.unsqueeze(0))
        if edge is not None:
            g_mean = maps[1].mT @ g
            grad += _dot(g_mean.unsqueeze(1), edge.unsqueeze(2))
        if g_weights is not None:
            grad += g_weights
        grad = _softmax_backward(grad, weights, 1)
        grad_qkv, grad_kv = torch.empty_like(qkv), None if kv is None else torch.empty_like(kv)
        grad_q, grad_k, grad_v = _three(grad_qkv, grad_kv)
        _mix(grad, k.unsqueeze(0), out=grad_q)
        _mix(grad.transpose(0, 1), q.unsqueeze(0), out=grad_k)
        _mix(weights.transpose(0, 1), g.unsqueeze(0), out=grad_v)
        if edge is None:
            return grad_qkv, grad_kv, None, None, None
        grad_edge_q = _mix(grad, edge.unsqueeze(2))
        grad_q += maps[0] @ grad_edge_q
        grad_maps = torch.stack([(q @ grad_edge_q.mT).sum(0), (g @ edge_mean.mT).sum(0)])
        grad_edge = None
        if ctx.needs_input_grad[3]:
            grad_edge = _edge_backward(grad, maps[0].mT @ q, weights, g_mean)
        return grad_qkv, grad_kv, grad_maps, grad_edge, None


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
    qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over all pairs, batch innermost: every pass streams over contiguous memory.

    qkv [N, 3, H, d, B], or [N, 1, H, d, B] and kv [S, 2, H, d, B], maps [2, H, d, E] with edge [N, S, E, B] or both
    None, cap [N, S, 1, B] -> out [N, H, d, B], weights [N, S, H, B]. Differentiable once.
    """
    return _FewAttention.apply(qkv, kv, maps, edge, cap)  # type: ignore[no-any-return, no-untyped-call]


def many_attention(
    qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor, weigh: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention over all pairs by matrix products, one per graph and head.

    qkv [B, 3, H, N, d], or [B, 1, H, N, d] and kv [B, 2, H, S, d], maps [2, H, d, E] with edge [B, N, S, E] or both
    None, cap [B, 1, N, S] -> out [B, H, N, d], weights [B, H, N, S] (None unless `weigh`). With neither edges nor
    `weigh` nothing of size N x S is kept per head.
    """
    q, k, v = _three(qkv, kv)
    if not weigh and edge is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=cap.clamp(max=0), scale=1.0), None
    logits = q @ k.mT
    if maps is not None and edge is not None:
        logits = logits + ((q @ maps[0]).transpose(1, 2) @ edge.mT).transpose(1, 2)
    weights = torch.minimum(logits, cap).softmax(-1)
    out = weights @ v
    if maps is not None and edge is not None:
        out = out + (weights.transpose(1, 2) @ edge).transpose(1, 2) @ maps[1].mT
    return out, weights if weigh else None


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
        qkv: Tensor,
        kv: Tensor | None,
        maps: Tensor | None,
        edge: Tensor | None,
        cap: Tensor,
        index: Tensor,
        heads: int,
    ) -> tuple[Tensor, Tensor]:
        q, keys, values = _three(qkv, kv)
        walk = _Slots(index, q, heads)
        logits = q.new_empty(len(index), heads, len(q))
        for slots in walk:
            walk.reduce(walk.gather(keys, slots).mul_(q), out=logits[slots])
        if maps is not None and edge is not None:
            logits += _dot((maps[0].mT @ _per_head(q, heads))[None, None], edge[None, :, None]).squeeze(0)
        weights = torch.minimum(logits, cap, out=logits).softmax(0)
        out, edge_mean = _bags(values, weights, index), None
        if maps is not None and edge is not None:
            edge_mean = _mix(weights[None], edge[None, :, None]).squeeze(0)
            _per_head(out, heads).add_(maps[1] @ edge_mean)
        ctx.save_for_backward(qkv, kv, maps, edge, weights, edge_mean, index)
        ctx.set_materialize_grads(False)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, kv, maps, edge, weights, edge_mean, index = ctx.saved_tensors
        q, keys, values = _three(qkv, kv)
        heads, dim = weights.shape[1], q.shape[1]
        g = torch.zeros_like(q) if g is None else g.contiguous()
        walk = _Slots(index, q, heads)
        grad = torch.empty_like(weights)
        for slots in walk:
            walk.reduce(walk.gather(values, slots).mul_(g), out=grad[slots])
        if edge is not None:
            g_mean = maps[1].mT @ _per_head(g, heads)
            grad += _dot(g_mean[None, None], edge[None, :, None]).squeeze(0)
        if g_weights is not None:
            grad += g_weights
        grad = _softmax_backward(grad, weights, 0)
        grad_qkv = torch.zeros_like(qkv)
        # index_add_ is several times as fast into contiguous memory
        grad_q, into = grad_qkv[:, 0], q.new_zeros(len(keys), 2 * dim)
        message = q.new_empty(walk.size, len(q), 2 * dim)
        for slots in walk:
            wide = walk.widen(grad[slots])
            for key, weight in zip(walk.gather(keys, slots), wide, strict=True):
                grad_q.addcmul_(key, weight)
            sent = message[: len(wide)]
            torch.mul(wide, q, out=sent[..., :dim])
            torch.mul(walk.widen(weights[slots]), g, out=sent[..., dim:])
            into.index_add_(0, index[slots].view(-1), sent.view(-1, 2 * dim))
        grad_kv = None if kv is None else into.view_as(kv)
        if grad_kv is None:
            grad_qkv[:, 1:] = into.view(-1, 2, dim)
        if edge is None:
            return grad_qkv, grad_kv, None, None, None, None, None
        grad_edge_q = _mix(grad[None], edge[None, :, None]).squeeze(0)
        _per_head(grad_q, heads).add_(maps[0] @ grad_edge_q)
        grad_maps = torch.stack([_per_head(q, heads) @ grad_edge_q.mT, _per_head(g, heads) @ edge_mean.mT])
        grad_edge = None
        if ctx.needs_input_grad[3]:
            edge_q = maps[0].mT @ _per_head(q, heads)
            grad_edge = _edge_backward(grad[None], edge_q[None], weights[None], g_mean[None]).squeeze(0)
        return grad_qkv, grad_kv, grad_maps, grad_edge, None, None, None


def _per_head(x: Tensor, heads: int) -> Tensor:
    """x [R, D] seen as [H, d, R]."""
    return x.unflatten(1, (heads, -1)).permute(1, 2, 0)


def _bags(values: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """Weighted sums of what each receiver hears: values [S, D], weights [K, H, R], index [K, R] -> [R, D].

    One pass per head that gathers, weighs and sums at once.
    """
    slots, heads, receivers = weights.shape
    rows = index.t().reshape(-1)
    first = torch.arange(0, slots * receivers, slots, device=index.device)
    per_head = zip(values.chunk(heads, 1), weights.permute(1, 2, 0).reshape(heads, -1), strict=True)
    sums = [torch.embedding_bag(table, rows, first, per_sample_weights=weight)[0] for table, weight in per_head]
    return torch.cat(sums, 1)


def list_attention(
    qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor, index: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """Attention of R receivers, each over its own K senders.

    qkv [R, 3, D], or [R, 1, D] and kv [S, 2, D], maps [2, H, d, E] with edge [K, E, R] or both None, cap [K, 1, R],
    index [K, R] long -> out [R, D], weights [K, H, R]. Nothing of size R x K x D is kept: senders are gathered again on
    the way back, a few slots at a time. Differentiable once.
    """
    return _ListAttention.apply(qkv, kv, maps, edge, cap, index, heads)  # type: ignore[no-any-return, no-untyped-call]
