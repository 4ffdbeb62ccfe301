"""Multi-head dot-product attention over a graph, computed in three ways that mean the same.

`few_attention` streams over all pairs with the batch innermost (small teams), `many_attention` multiplies matrices
per head (dense graphs of large teams), `gcoord.models.list_attention` gathers neighbour lists (sparse graphs of large
teams).

A pair's logit is q . (k + U e) and its value v + V e, e being the pair's features (callers scale q by 1 / sqrt(d)).
U e and V e are never formed, since q . U e = (q U) . e and sum a V e = V sum a e. `maps` holds U and V. `qkv` holds
queries, keys and values side by side; where senders are not the receivers it holds the queries alone, and `kv` keys and
values.

`cap` is the highest number of the logits' type where a sender is heard and the lowest where it is not; logits are cut
to it.
Symbols: N receivers, S senders, B batch, H heads, d = D / H, E edge features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of all pairs' products up to which one product and one sum beat a loop of fused multiply-adds.
SMALL = 1 << 17


def caps(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What logits are cut to: the highest number of `dtype` where mask is True, the lowest elsewhere."""
    limits = torch.finfo(dtype)
    low = torch.full((), limits.min, dtype=dtype, device=mask.device)
    return torch.where(mask, low.neg(), low)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a [N, 1, H, d, B] and b [1 | N, S, 1 | H, d, B] -> [N, S, H, B], summed over d."""
    if a.numel() * b.shape[1] <= SMALL:
        return (a * b).sum(3)
    (left, *lefts), (right, *rights) = a.unbind(3), b.unbind(3)
    total = left * right
    for left, right in zip(lefts, rights, strict=True):
        total.addcmul_(left, right)
    return total


def mix(weights: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """weights [N, S, H, B] and values [1 | N, S, 1 | H, d, B] -> [N, H, d, B], summed over S."""
    weights = weights.unsqueeze(3)
    if weights.numel() * values.shape[3] <= SMALL:
        return torch.sum(weights * values, 1, out=out)
    (weight, *others), (value, *rest) = weights.unbind(1), values.unbind(1)
    total = torch.mul(weight, value, out=out)
    for weight, value in zip(others, rest, strict=True):
        total.addcmul_(weight, value)
    return total


def three(qkv: Tensor, kv: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: slices of dimension 1."""
    if kv is None:
        q, k, v = qkv.unbind(1)
        return q, k, v
    k, v = kv.unbind(1)
    return qkv[:, 0], k, v


def softmax_backward(grad: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Gradient of the logits, given that of their softmax over `dim`."""
    product = grad * weights
    return product.addcmul_(weights, product.sum(dim, keepdim=True), value=-1)


def edge_backward(grad: Tensor, edge_q: Tensor, weights: Tensor, g_mean: Tensor) -> Tensor:
    """Gradient of edge features [N, S, E, B] from that of the logits and of their mean [N, H, E, B]."""
    return (grad.unsqueeze(3) * edge_q.unsqueeze(1)).sum(2) + (weights.unsqueeze(3) * g_mean.unsqueeze(1)).sum(2)


class _FewAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k, v = three(qkv, kv)
        logits = dot(q.unsqueeze(1), k.unsqueeze(0))
        if maps is not None and edge is not None:
            logits += dot((maps[0].mT @ q).unsqueeze(1), edge.unsqueeze(2))
        weights = torch.minimum(logits, cap, out=logits).softmax(1)
        out, edge_mean = mix(weights, v.unsqueeze(0)), None
        if maps is not None and edge is not None:
            edge_mean = mix(weights, edge.unsqueeze(2))
            out += maps[1] @ edge_mean
        ctx.save_for_backward(qkv, kv, maps, edge, weights, edge_mean)
        ctx.set_materialize_grads(False)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, g_weights: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, kv, maps, edge, weights, edge_mean = ctx.saved_tensors
        q, k, v = three(qkv, kv)
        g = torch.zeros_like(q) if g is None else g
        grad = dot(g.unsqueeze(1), v.unsqueeze(0))
        if edge is not None:
            g_mean = maps[1].mT @ g
            grad += dot(g_mean.unsqueeze(1), edge.unsqueeze(2))
        if g_weights is not None:
            grad += g_weights
        grad = softmax_backward(grad, weights, 1)
        grad_qkv, grad_kv = torch.empty_like(qkv), None if kv is None else torch.empty_like(kv)
        grad_q, grad_k, grad_v = three(grad_qkv, grad_kv)
        mix(grad, k.unsqueeze(0), out=grad_q)
        mix(grad.transpose(0, 1), q.unsqueeze(0), out=grad_k)
        mix(weights.transpose(0, 1), g.unsqueeze(0), out=grad_v)
        if edge is None:
            return grad_qkv, grad_kv, None, None, None
        grad_edge_q = mix(grad, edge.unsqueeze(2))
        grad_q += maps[0] @ grad_edge_q
        grad_maps = torch.stack([(q @ grad_edge_q.mT).sum(0), (g @ edge_mean.mT).sum(0)])
        grad_edge = None
        if ctx.needs_input_grad[3]:
            grad_edge = edge_backward(grad, maps[0].mT @ q, weights, g_mean)
        return grad_qkv, grad_kv, grad_maps, grad_edge, None


def apply(function: Any, x: Tensor, *others: Any) -> Any:
    """An own function of x and others. Where autocast is on, floating tensors come in its type and the function runs
    outside of it, as the way back does: what was saved then fits what arrives there."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return function.apply(x, *others)
    dtype = torch.get_autocast_dtype(device)
    cast = (y.to(dtype) if isinstance(y, Tensor) and y.is_floating_point() else y for y in (x, *others))
    with torch.autocast(device, enabled=False):
        return function.apply(*cast)


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
    return apply(_ProjectIn, x, weight, bias)  # type: ignore[no-any-return]


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
    return apply(_ProjectOut, x, weight, bias)  # type: ignore[no-any-return]


def few_attention(
    qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention over all pairs, batch innermost: every pass streams over contiguous memory.

    qkv [N, 3, H, d, B], or [N, 1, H, d, B] and kv [S, 2, H, d, B], maps [2, H, d, E] with edge [N, S, E, B] or both
    None, cap [N, S, 1, B] -> out [N, H, d, B], weights [N, S, H, B]. Differentiable once.
    """
    return apply(_FewAttention, qkv, kv, maps, edge, cap)  # type: ignore[no-any-return]


def many_attention(
    qkv: Tensor, kv: Tensor | None, maps: Tensor | None, edge: Tensor | None, cap: Tensor, weigh: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention over all pairs by matrix products, one per graph and head.

    qkv [B, 3, H, N, d], or [B, 1, H, N, d] and kv [B, 2, H, S, d], maps [2, H, d, E] with edge [B, N, S, E] or both
    None, cap [B, 1, N, S] -> out [B, H, N, d], weights [B, H, N, S] (None unless `weigh`). With neither edges nor
    `weigh` nothing of size N x S is kept per head.
    """
    q, k, v = three(qkv, kv)
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
