"""Multi-head dot-product attention along neighbour lists: what the dense forms of `gcoord.models.attention` mean.

Nothing is scattered: what an agent sends back is a sum over the edges that leave it, as what it hears is one over those
that arrive, and both are sums over bags of edges once the lists have been turned round.

Symbols: R receivers and S senders of all graphs, H heads, D features, d = D / H, K slots, E edge features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gcoord.models.attention import apply, dot, edge_backward, mix, softmax_backward, three

# Elements gathered at once on a CPU: larger blocks leave the cache, smaller ones pay per call.
BLOCK = 1 << 18
# Elements from which places among them are counted in 64 bits; 32 are half as much to read and to sort.
LONG = 1 << 31


def list_attention(
    qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor, index: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """Attention of R receivers, each over its own K senders.

    qkv [R, 3, D], or [R, 1, D] and kv [S, 2, D], maps [2, H, d, E] with edge [K, E, R] or both None, cap [K, R], index
    [R, K] long -> out [R, D], weights [H, K, R]. Nothing of size R x K x D is kept: senders are gathered again on the
    way back. Differentiable once.
    """
    return apply(_ListAttention, qkv, kv, maps, edge, cap, index, heads)  # type: ignore[no-any-return]


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
        q, keys, values = three(qkv, kv)
        largest = max(index.numel() * heads, qkv.numel(), len(keys) * keys.stride(0))
        index = index.to(torch.int32 if largest < LONG else torch.long)
        logits = _dots(keys, q, index, heads)
        if maps is not None and edge is not None:
            logits += dot((maps[0].mT @ _per_head(q, heads))[:, None, None], edge[None, :, None]).squeeze(2)
        logits = torch.minimum(logits, cap, out=torch.empty_like(logits, memory_format=torch.contiguous_format))
        weights = logits.softmax(1)
        out, edge_mean = q.new_empty(q.shape), None
        _hear(values, weights, index, out)
        if maps is not None and edge is not None:
            edge_mean = mix(weights.unsqueeze(2), edge[None, :, None]).squeeze(1)
            _per_head(out, heads).add_(maps[1] @ edge_mean)
        ctx.save_for_backward(qkv, kv, maps, edge, weights, edge_mean, index)
        ctx.set_materialize_grads(False)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, kv, maps, edge, weights, edge_mean, index = ctx.saved_tensors
        q, keys, values = three(qkv, kv)
        heads = len(weights)
        g = torch.zeros_like(q) if g is None else g.contiguous()
        grad = _dots(values, g, index, heads)
        if edge is not None:
            g_mean = maps[1].mT @ _per_head(g, heads)
            grad += dot(g_mean[:, None, None], edge[None, :, None]).squeeze(2)
        if g_weights is not None:
            grad += g_weights
        grad = softmax_backward(grad.contiguous(), weights, 1)
        grad_qkv, grad_kv = torch.empty_like(qkv), None if kv is None else torch.empty_like(kv)
        grad_q, grad_k, grad_v = three(grad_qkv, grad_kv)
        _hear(keys, grad, index, grad_q)
        ways = _turned_round(index, len(keys))
        _send(q, grad, ways, grad_k)
        _send(g, weights, ways, grad_v)
        if edge is None:
            return grad_qkv, grad_kv, None, None, None, None, None
        grad_edge_q = mix(grad.unsqueeze(2), edge[None, :, None]).squeeze(1)
        _per_head(grad_q, heads).add_(maps[0] @ grad_edge_q)
        grad_maps = torch.stack([_per_head(q, heads) @ grad_edge_q.mT, _per_head(g, heads) @ edge_mean.mT])
        grad_edge = None
        if ctx.needs_input_grad[3]:
            edge_q = maps[0].mT @ _per_head(q, heads)
            grad, weights = grad.transpose(0, 1), weights.transpose(0, 1)
            grad_edge = edge_backward(grad[None], edge_q[None], weights[None], g_mean[None]).squeeze(0)
        return grad_qkv, grad_kv, grad_maps, grad_edge, None, None, None


def _per_head(x: Tensor, heads: int) -> Tensor:
    """x [R, D] seen as [H, d, R]."""
    return x.unflatten(1, (heads, -1)).permute(1, 2, 0)


def _dots(table: Tensor, x: Tensor, index: Tensor, heads: int) -> Tensor:
    """Each receiver's products with those it hears: table [S, D], x [R, D], index [R, K] -> [H, K, R], K innermost."""
    (receivers, slots), dim = index.shape, x.shape[1]
    spread = torch.eye(heads, dtype=x.dtype, device=x.device).repeat_interleave(dim // heads, 1)
    size = max(1, BLOCK // (slots * dim) if x.device.type == "cpu" else receivers)
    near, out = x.new_empty(min(size, receivers) * slots, dim), x.new_empty(heads, receivers * slots)
    parts = index.split(size), x.unsqueeze(1).split(size), out.split(size * slots, 1)
    for some, receiver, into in zip(*parts, strict=True):
        products = torch.index_select(table, 0, some.view(-1), out=near[: some.numel()])
        products.view(-1, slots, dim).mul_(receiver)
        torch.mm(spread, products.t(), out=into)
    return out.view(heads, receivers, slots).transpose(1, 2)


def _hear(table: Tensor, weights: Tensor, index: Tensor, out: Tensor) -> None:
    """Each receiver's sum over those it hears: table [S, D], weights [H, K, R], index [R, K] -> out [R, D]."""
    receivers, slots = index.shape
    first = torch.arange(0, receivers * slots, slots, dtype=index.dtype, device=index.device)
    _sum_bags(table, weights.transpose(1, 2).reshape(len(weights), -1), index.view(-1), first, out)


def _turned_round(index: Tensor, n_senders: int) -> tuple[Tensor, Tensor, Tensor]:
    """The edges of index [R, K], those of one sender after those of another: where each stands among [K, R], whom it
    leads to, both [K x R], and where each sender's begin [S]."""
    number = torch.arange(max(len(index), n_senders), dtype=index.dtype, device=index.device)
    sender, place = index.t().reshape(-1).sort()
    receiver = number[: len(index)].repeat(index.shape[1]).index_select(0, place)
    first = torch.searchsorted(sender, number[:n_senders], out_int32=index.dtype == torch.int32)
    return place, receiver, first


def _send(table: Tensor, weights: Tensor, ways: tuple[Tensor, Tensor, Tensor], out: Tensor) -> None:
    """Each sender's sum over those who hear it: table [R, D], weights [H, K, R], ways of the edges -> out [S, D]."""
    place, receiver, first = ways
    _sum_bags(table, weights.flatten(1).index_select(1, place), receiver, first, out)


def _sum_bags(table: Tensor, weights: Tensor, rows: Tensor, first: Tensor, out: Tensor) -> None:
    """Sums of weighted rows of table [*, D] per head: weights [H, edges], rows [edges], the first edge of each sum
    [sums] -> out [sums, D].

    One pass gathers, weighs and sums. It reads the heads of a row, and rows that stand in a wider table, as rows of
    their own.
    """
    heads, edges = weights.shape
    d, (stride, _) = table.shape[1] // heads, table.stride()
    storage = table.as_strided(((len(table) - 1) * stride // d + heads, d), (d, 1)).detach()
    head = torch.arange(heads, dtype=rows.dtype, device=rows.device).unsqueeze(1)
    rows, first = rows * (stride // d) + head, first + head * edges
    sums = torch.embedding_bag(storage, rows.view(-1), first.view(-1), per_sample_weights=weights.view(-1))[0]
    out.unflatten(1, (heads, d)).copy_(sums.view(heads, len(out), d).transpose(0, 1))
