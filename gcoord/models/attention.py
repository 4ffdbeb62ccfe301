"""Multi-head dot-product attention over a graph, computed in three ways that mean the same.

`few_attention` multiplies all pairs elementwise with the batch innermost (small teams), `many_attention` multiplies matrices
per head (dense graphs of large teams), `list_attention` gathers neighbour lists (sparse graphs of large teams). All scale
logits by 1/sqrt(d_head), add `bias` to them and fill blocked ones with the lowest finite number of their type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one gathered block on a CPU: larger blocks leave the cache and the allocator's reach, smaller ones pay per call.
BLOCK = 1 << 20


class _FewAttention(torch.autograd.Function):
    """q [N, H, d, B], k and v [S, H, d, B], bias [N, S, H, B]?, blocked [N, S, 1, B] -> out [N, H, d, B], weights [N, S, H, B]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, blocked: Tensor) -> tuple[Tensor, Tensor]:
        logits = (q.unsqueeze(1) * k).sum(3).mul_(q.shape[2] ** -0.5)
        if bias is not None:
            logits += bias
        weights = logits.masked_fill_(blocked, torch.finfo(q.dtype).min).softmax(1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.set_materialize_grads(False)
        return (weights.unsqueeze(3) * v).sum(1), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad_v = None
        if g is not None:
            g = g.unsqueeze(1)
            grad_v = (weights.unsqueeze(3) * g).sum(0)
            of_values = (g * v).sum(3)
            g_weights = of_values if g_weights is None else of_values + g_weights
        if g_weights is None:
            return (None,) * 5
        grad_bias = _softmax_backward(g_weights, weights)
        grad = (grad_bias * q.shape[2] ** -0.5).unsqueeze(3)
        grad_q, grad_k = (grad * k).sum(1), (grad * q.unsqueeze(1)).sum(0)
        return grad_q, grad_k, grad_v, grad_bias if ctx.needs_input_grad[3] else None, None


def _softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the logits of a softmax over dimension 1."""
    product = grad * weights
    return product.addcmul_(weights, product.sum(1, keepdim=True), value=-1)


def few_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, blocked: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of N receivers over S senders, batch innermost: every pass streams over contiguous memory.

    q [N, H, d, B], k and v [S, H, d, B], bias [N, S, H, B] or None, blocked [N, S, B] bool
    -> out [N, H, d, B], weights [N, S, H, B]. Differentiable once.
    """
    return _FewAttention.apply(q, k, v, bias, blocked.unsqueeze(2))  # type: ignore[no-any-return, no-untyped-call]


class _ListAttention(torch.autograd.Function):
    """q [R, D], kv [S, 2D], bias [H, K, R]?, blocked [K, R], index [K, R] -> out [R, D], weights [H, K, R]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, bias: Tensor | None, blocked: Tensor, index: Tensor, heads: int
    ) -> tuple[Tensor, Tensor]:
        slots, dim = len(index), q.shape[1]
        spread = _spread(q, heads)
        scaled = spread * (dim // heads) ** -0.5
        out, weights = torch.empty_like(q), q.new_empty(heads, *index.shape)
        for rows in _blocks(index, 2 * dim):
            near = kv.index_select(0, index[:, rows].reshape(-1)).view(slots, -1, 2 * dim)
            logits = scaled @ (near[..., :dim] * q[rows]).view(-1, dim).t()
            logits = logits.view(heads, slots, -1)
            if bias is not None:
                logits += bias[:, :, rows]
            block = logits.masked_fill_(blocked[:, rows], torch.finfo(q.dtype).min).softmax(1)
            weights[:, :, rows] = block
            out[rows] = (block.view(heads, -1).t() @ spread).view(slots, -1, dim).mul_(near[..., dim:]).sum(0)
        ctx.save_for_backward(q, kv, weights, index)
        ctx.heads = heads
        ctx.set_materialize_grads(False)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        q, kv, weights, index = ctx.saved_tensors
        if g is None and g_weights is None:
            return (None,) * 6
        g = torch.zeros_like(q) if g is None else g
        heads, slots, dim = ctx.heads, len(index), q.shape[1]
        spread = _spread(q, heads)
        grad_q, grad_kv = torch.empty_like(q), torch.zeros_like(kv)
        grad_bias = torch.empty_like(weights) if ctx.needs_input_grad[2] else None
        for rows in _blocks(index, 2 * dim):
            senders = index[:, rows].reshape(-1)
            near = kv.index_select(0, senders).view(slots, -1, 2 * dim)
            block = weights[:, :, rows].contiguous()
            grad = (spread @ (near[..., dim:] * g[rows]).view(-1, dim).t()).view_as(block)
            if g_weights is not None:
                grad += g_weights[:, :, rows]
            grad = _softmax_backward(grad, block)
            if grad_bias is not None:
                grad_bias[:, :, rows] = grad
            wide = (grad.mul_((dim // heads) ** -0.5).view(heads, -1).t() @ spread).view(slots, -1, dim)
            grad_q[rows] = (wide * near[..., :dim]).sum(0)
            # `near` has been read: its memory now takes the messages' gradients
            torch.mul(wide, q[rows], out=near[..., :dim])
            torch.mul((block.view(heads, -1).t() @ spread).view(slots, -1, dim), g[rows], out=near[..., dim:])
            grad_kv.index_add_(0, senders, near.view(-1, 2 * dim))
        return grad_q, grad_kv, grad_bias, None, None, None


def _spread(like: Tensor, heads: int) -> Tensor:
    """[H, D] of zeros and ones: row h is one at the features of head h."""
    return torch.eye(heads, dtype=like.dtype, device=like.device).repeat_interleave(like.shape[1] // heads, 1)


def _blocks(index: Tensor, width: int) -> Iterator[slice]:
    """Slices of the receivers of index [K, R] whose gathered features fit the cache; one slice on other devices."""
    slots, receivers = index.shape
    size = max(1, BLOCK // (slots * width)) if index.device.type == "cpu" else receivers
    return (slice(start, start + size) for start in range(0, receivers, size))


def list_attention(
    q: Tensor, kv: Tensor, bias: Tensor | None, blocked: Tensor, index: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """Attention of R receivers, each over its own K senders.

    q [R, D], kv [S, 2D] keys and values side by side, bias [H, K, R] or None, blocked [K, R] bool, index [K, R] long
    -> out [R, D], weights [H, K, R]. Keys and values are gathered once forward and once more backward, in blocks that
    stay in the cache, so nothing of size R x K x D is kept. Differentiable once.
    """
    return _ListAttention.apply(q, kv, bias, blocked, index, heads)  # type: ignore[no-any-return, no-untyped-call]
