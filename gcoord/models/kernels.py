"""One round of messages on a graph: relation (DGN), mean, additive (GATv2), edge messages, or any PyG convolution."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.attention import caps, few_attention, many_attention, project_in, project_out
from gcoord.models.list_attention import list_attention
from gcoord.models.messages import Heard, Kernel, check_heads

__all__ = ["AdditiveKernel", "ConvKernel", "EdgeKernel", "Kernel", "MeanKernel", "RelationKernel"]


class RelationKernel(Kernel):
    """DGN's relation kernel: multi-head dot-product attention over whom an agent hears and itself.

    Jiang et al., Graph Convolutional Reinforcement Learning, https://arxiv.org/abs/1810.09202:

        alpha_ij^m = softmax_j in N(i) + {i} of (tau W_Q^m h_i . W_K^m h_j),   tau = 1 / sqrt(d_head)
        h'_i = relu(W concat_m(sum_j alpha_ij^m W_V^m h_j) + b)

    Departures: edge features, where there are some, are added to keys (U e) and values (V e) like a relative position
    encoding; senders may have features of their own. The authors' code, unlike the paper, passes queries, keys and
    values through biases and ReLU: `relu_qkv`.

    Arguments and shapes as in `Kernel`. Small teams, dense graphs and neighbour lists are computed in different ways
    that agree to rounding (see `gcoord.models.attention`); which one is chosen depends on sizes alone. Differentiable
    once: a second backward raises RuntimeError.
    """

    # Up to so many senders all pairs are computed at once, whatever the graph's form; beyond, lists along their slots
    # and dense graphs by matrix products per head are faster (measured at 3 and 8 neighbours, on a CPU).
    few: int = 16

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
        relu_qkv: bool = False,
    ) -> None:
        super().__init__(dim, heads, edge_dim, in_dim, sender_dim, self_loop)
        check_heads(dim, heads)
        self.relu_qkv = relu_qkv
        self.query = nn.Linear(self.in_dim, dim, bias=relu_qkv)
        self.key_value = nn.Linear(self.sender_dim, 2 * dim, bias=relu_qkv)
        self.edge = nn.Linear(edge_dim, 2 * dim, bias=False) if edge_dim else None
        self.out = nn.Linear(dim, dim)

    def prefers_dense(self, n_senders: int) -> bool:
        return n_senders <= self.few

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        if graph.index is not None:
            out, weights = self._list(x, senders, graph)
        elif senders.shape[1] <= self.few:
            out, weights = self._few(x, senders, graph)
        else:
            return self._many(x, senders, graph, weigh)
        return out, weights if weigh else None

    def _qkv(
        self, project: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, senders: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Queries (scaled), keys and values by one map where the senders are the receivers, else queries alone by one
        and keys and values by another."""
        scale = (self.dim // self.heads) ** -0.5
        weight, bias = self.query.weight * scale, None if self.query.bias is None else self.query.bias * scale
        kv = None
        if senders is x:
            weight = torch.cat([weight, self.key_value.weight])
            bias = None if bias is None else torch.cat([bias, self.key_value.bias])
        else:
            kv = project(senders, self.key_value.weight, self.key_value.bias)
        qkv = project(x, weight, bias)
        return (F.relu(qkv), None if kv is None else F.relu(kv)) if self.relu_qkv else (qkv, kv)

    def _maps(self, dtype: torch.dtype) -> Tensor | None:
        """U and V of the edge features as [2, H, d, E]."""
        return None if self.edge is None else self.edge.weight.view(2, self.heads, -1, self.edge_dim).to(dtype)

    def _few(self, x: Tensor, senders: Tensor, graph: Heard) -> tuple[Tensor, Tensor]:
        batch, n, _ = x.shape
        qkv, kv = self._qkv(project_in, x, senders)
        heads = (self.heads, self.dim // self.heads, batch)
        qkv, kv = qkv.view(n, -1, *heads), None if kv is None else kv.view(-1, 2, *heads)
        cap = caps(graph.mask.permute(1, 2, 0).contiguous(), qkv.dtype).unsqueeze(2)
        edge = None if graph.edge is None else graph.edge.permute(1, 2, 3, 0).to(qkv.dtype).contiguous()
        out, weights = few_attention(qkv, kv, self._maps(qkv.dtype), edge, cap)
        out = project_out(out.view(n, self.dim, batch), self.out.weight, self.out.bias)
        return out, weights.permute(3, 2, 0, 1)

    def _many(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        batch, n, _ = x.shape
        qkv, kv = self._qkv(F.linear, x, senders)
        heads = (self.heads, self.dim // self.heads)
        qkv = qkv.view(batch, n, -1, *heads).permute(0, 2, 3, 1, 4)
        kv = None if kv is None else kv.view(batch, -1, 2, *heads).permute(0, 2, 3, 1, 4)
        edge = None if graph.edge is None else graph.edge.to(qkv.dtype)
        cap = caps(graph.mask, qkv.dtype).unsqueeze(1)
        out, weights = many_attention(qkv, kv, self._maps(qkv.dtype), edge, cap, weigh)
        return self.out(out.transpose(1, 2).reshape(batch, n, self.dim)), weights

    def _list(self, x: Tensor, senders: Tensor, graph: Heard) -> tuple[Tensor, Tensor]:
        batch, n, _ = x.shape
        rows = x.reshape(-1, self.in_dim)
        qkv, kv = self._qkv(F.linear, rows, rows if senders is x else senders.reshape(-1, self.sender_dim))
        qkv, kv = qkv.view(len(rows), -1, self.dim), None if kv is None else kv.view(-1, 2, self.dim)
        slots = graph.mask.shape[-1]
        index = graph.rows(senders.shape[1]).view(-1, slots)
        cap = caps(graph.mask.view(-1, slots).t().contiguous(), qkv.dtype)
        edge = None
        if graph.edge is not None:
            edge = graph.edge.view(-1, slots, self.edge_dim).permute(1, 2, 0).to(qkv.dtype).contiguous()
        out, weights = list_attention(qkv, kv, self._maps(qkv.dtype), edge, cap, index, self.heads)
        out = self.out(out).view(batch, n, self.dim)
        return out, weights.view(self.heads, slots, batch, n).permute(2, 0, 3, 1)


class MeanKernel(Kernel):
    """The mean (or sum) over whom an agent hears and itself: DGN without attention ("DGN-M" in its paper).

        h'_i = relu(W mean_j (V h_j + U e_ij) + b)

    https://arxiv.org/abs/1810.09202, section 4. Arguments and shapes as in `Kernel`; `heads` is not used, `aggregation`
    is "mean" or "sum", and the weights returned are uniform, one head: [*, 1, N, K + 1]. x is read as a sender only.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
        aggregation: str = "mean",
    ) -> None:
        super().__init__(dim, heads, edge_dim, in_dim, sender_dim, self_loop)
        if aggregation not in ("mean", "sum"):
            raise ValueError(f"expected aggregation to be mean or sum (got {aggregation!r})")
        self.aggregation = aggregation
        self.value = nn.Linear(self.sender_dim, dim)
        self.edge = nn.Linear(edge_dim, dim, bias=False) if edge_dim else None
        self.out = nn.Linear(dim, dim)

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        value = self.value(senders)
        uniform = _uniform(graph.mask, value.dtype)
        share = uniform if self.aggregation == "mean" else graph.mask.to(value.dtype)
        if graph.index is None:
            total = share @ value
        else:
            total = (share.unsqueeze(-1) * graph.gather(value)).sum(2)
        if self.edge is not None and graph.edge is not None:
            total = total + self.edge((share.unsqueeze(-1) * graph.edge).sum(2))
        return self.out(total), uniform.unsqueeze(1) if weigh else None


def _uniform(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Equal shares of what is heard, [B, N, L]; zeros where nothing is."""
    return mask.to(dtype) / mask.sum(-1, keepdim=True).clamp(min=1)


class AdditiveKernel(Kernel):
    """GATv2's attention: Brody et al., How Attentive are Graph Attention Networks?, https://arxiv.org/abs/2105.14491

        alpha_ij = softmax_j of (a . leaky_relu(W_l h_j + W_r h_i + U e_ij)),   h'_i = relu(sum_j alpha_ij W_l h_j + b)

    The same numbers as PyG's `GATv2Conv(in, dim // heads, heads, fill_value=0.0)` with the same weights, then ReLU.
    Arguments and shapes as in `Kernel`; `negative_slope` is the leaky ReLU's.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(dim, heads, edge_dim, in_dim, sender_dim, self_loop)
        check_heads(dim, heads)
        self.negative_slope = negative_slope
        self.sender = nn.Linear(self.sender_dim, dim)
        self.receiver = nn.Linear(self.in_dim, dim)
        self.edge = nn.Linear(edge_dim, dim, bias=False) if edge_dim else None
        self.attention = nn.Parameter(torch.empty(heads, dim // heads))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.xavier_uniform_(self.attention)

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        near = graph.gather(self.sender(senders))  # [B, N or 1, L, D]
        pair = near + self.receiver(x).unsqueeze(2)
        if self.edge is not None:
            pair = pair + self.edge(graph.edge)
        pair = F.leaky_relu(pair, self.negative_slope).unflatten(-1, (self.heads, -1))
        logits = (pair * self.attention).sum(-1)  # [B, N, L, H]
        weights = torch.minimum(logits, caps(graph.mask, logits.dtype).unsqueeze(-1)).softmax(2)
        near, weights = near.unflatten(-1, (self.heads, -1)), weights.permute(0, 3, 1, 2)
        if graph.index is None:
            out = (weights @ near.squeeze(1).transpose(1, 2)).transpose(1, 2)
        else:
            out = torch.einsum("bhnl,bnlhd->bnhd", weights, near)
        return out.flatten(-2) + self.bias, weights if weigh else None


class EdgeKernel(Kernel):
    """Messages made from sender, receiver and edge by an MLP: Gilmer et al., https://arxiv.org/abs/1704.01212

        h'_i = relu(mean_j W relu(A h_j + B h_i + C e_ij + b))

    Arguments and shapes as in `Kernel`; `heads` is not used, `aggregation` is "mean", "sum" or "max". The weights
    returned are uniform, one head: [*, 1, N, K + 1].
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
        aggregation: str = "mean",
    ) -> None:
        super().__init__(dim, heads, edge_dim, in_dim, sender_dim, self_loop)
        if aggregation not in ("mean", "sum", "max"):
            raise ValueError(f"expected aggregation to be mean, sum or max (got {aggregation!r})")
        self.aggregation = aggregation
        self.sender = nn.Linear(self.sender_dim, dim)
        self.receiver = nn.Linear(self.in_dim, dim, bias=False)
        self.edge = nn.Linear(edge_dim, dim, bias=False) if edge_dim else None
        self.message = nn.Linear(dim, dim)

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        hidden = graph.gather(self.sender(senders)) + self.receiver(x).unsqueeze(2)
        if self.edge is not None:
            hidden = hidden + self.edge(graph.edge)
        message = self.message(F.relu(hidden))  # [B, N, L, D]
        uniform = _uniform(graph.mask, message.dtype)
        if self.aggregation == "max":
            out = torch.minimum(message, caps(graph.mask, message.dtype).unsqueeze(-1)).amax(2)
        else:
            share = uniform if self.aggregation == "mean" else graph.mask.to(message.dtype)
            out = (share.unsqueeze(-1) * message).sum(2)
        return out, uniform.unsqueeze(1) if weigh else None


class ConvKernel(Kernel):
    """Any PyTorch Geometric convolution: h' = relu(conv(nodes, edge_index)), entities being nodes too.

    Arguments and shapes as in `Kernel`, and:
        conv: called as `conv(in, out, **options)` (None: `torch_geometric.nn.SAGEConv`); where it has parameters named
            `heads`, `edge_dim` or `add_self_loops` it is given ours; with heads, `out` is dim // heads. A convolution
            without `edge_dim` hears no edge features.
        options: its further arguments.

    With `sender_dim`, receivers and senders are different nodes, each mapped to `dim` first. The edge list is made from
    the mask, which waits for the device. The weights returned are uniform, one head: [*, 1, N, K + 1].
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
        conv: Callable[..., nn.Module] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, heads, edge_dim, in_dim, sender_dim, self_loop)
        if conv is None:
            from torch_geometric.nn import SAGEConv

            conv = SAGEConv
        takes = inspect.signature(conv).parameters
        if "heads" in takes:
            check_heads(dim, heads)
        self.takes_edge = bool(edge_dim) and "edge_dim" in takes
        ours = {"heads": heads, "edge_dim": edge_dim or None, "add_self_loops": self_loop}
        options = {name: value for name, value in ours.items() if name in takes} | options
        separate = sender_dim is not None
        self.receiver = nn.Linear(self.in_dim, dim) if separate else None
        self.sender = nn.Linear(self.sender_dim, dim) if separate else None
        self.conv = conv(dim if separate else self.in_dim, dim // heads if "heads" in takes else dim, **options)

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        batch, n, _ = x.shape
        nodes, first = senders, 0
        if self.sender is not None and self.receiver is not None:
            nodes, first = torch.cat([self.receiver(x), self.sender(senders)], 1), n
        others = graph.others()
        team, receiver, slot = others.nonzero(as_tuple=True)
        sender = slot if graph.index is None else graph.index[team, receiver, slot]
        start = team * nodes.shape[1]
        edge_index = torch.stack([start + first + sender, start + receiver])
        extra = (graph.edge[team, receiver, slot],) if self.takes_edge and graph.edge is not None else ()
        out = self.conv(nodes.reshape(-1, nodes.shape[-1]), edge_index, *extra)
        out = out.view(batch, nodes.shape[1], self.dim)[:, :n]
        return out, _uniform(graph.mask, out.dtype).unsqueeze(1) if weigh else None
