"""Relation kernel with a learnt gate on every edge, which can turn a misleading neighbour off."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.models.attention import caps
from gcoord.models.kernels import RelationKernel
from gcoord.models.messages import Heard


class Gate(nn.Module):
    """How far an edge is open: the logarithm of g_ij = sigmoid(u . relu(A h_i + B h_j + C e_ij) + c).

    Arguments:
        in_dim, sender_dim, edge_dim: features of receiver, sender and edge.
        hidden: width of the layer within.
        openness: c at the beginning, where u = 0: all edges are then open alike, g = sigmoid(c).
    """

    def __init__(self, in_dim: int, sender_dim: int, edge_dim: int, hidden: int, openness: float) -> None:
        super().__init__()
        self.receiver = nn.Linear(in_dim, hidden)
        self.sender = nn.Linear(sender_dim, hidden, bias=False)
        self.edge = nn.Linear(edge_dim, hidden, bias=False) if edge_dim else None
        self.score = nn.Linear(hidden, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, openness)

    def forward(self, x: Tensor, senders: Tensor, graph: Heard) -> Tensor:
        """log g of every slot, [B, N, L]."""
        hidden = graph.gather(self.sender(senders)) + self.receiver(x).unsqueeze(2)
        if self.edge is not None:
            hidden = hidden + self.edge(graph.edge)
        return F.logsigmoid(self.score(F.relu(hidden)).squeeze(-1))


class GatedKernel(RelationKernel):
    """DGN's relation kernel (https://arxiv.org/abs/1810.09202) whose edges have learnt gates.

        alpha_ij^m = g_ij exp(l_ij^m) / (exp(l_ii^m) + sum_j g_ij exp(l_ij^m)),   l_ij^m = tau W_Q^m h_i . W_K^m h_j
        h'_i = relu(W concat_m(sum_j alpha_ij^m W_V^m h_j) + b)

    A closed gate is as if the edge were cut; with every gate open it is `RelationKernel`, whose weights it can take
    over (the gates then begin open). Gates are shared by the heads; oneself is always heard. Compare IC3Net
    (https://arxiv.org/abs/1812.09755): there a hard gate decides whether to speak, here a soft one whom to hear.

    Arguments and shapes as in `Kernel`, and:
        openness: how open gates are at the beginning, in logits: 3 is g = 0.95.
        hidden: width of the gate's layer.
    """

    # Lists stay lists, whatever the size of the team.
    few = 0

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        edge_dim: int = 0,
        in_dim: int | None = None,
        sender_dim: int | None = None,
        self_loop: bool = True,
        openness: float = 3.0,
        hidden: int = 32,
    ) -> None:
        super().__init__(dim, heads, edge_dim, in_dim, sender_dim, self_loop)
        self.gate = Gate(self.in_dim, self.sender_dim, edge_dim, hidden, openness)

    def aggregate(self, x: Tensor, senders: Tensor, graph: Heard, weigh: bool) -> tuple[Tensor, Tensor | None]:
        query = self.query(x) * (self.dim // self.heads) ** -0.5
        pair = graph.gather(self.key_value(senders))  # [B, N or 1, L, 2 D]
        if self.edge is not None:
            pair = pair + self.edge(graph.edge)
        key, value = pair.unflatten(-1, (2, self.heads, -1)).unbind(-3)  # [B, N or 1, L, H, d]
        logits = torch.einsum("bnhd,bnlhd->bnlh", query.unflatten(-1, (self.heads, -1)), _wide(key, x))
        logits = logits + self._open(x, senders, graph).unsqueeze(-1)
        weights = torch.minimum(logits, caps(graph.mask, logits.dtype).unsqueeze(-1)).softmax(2)
        out = self.out(torch.einsum("bnlh,bnlhd->bnhd", weights, _wide(value, x)).flatten(-2))
        return out, weights.permute(0, 3, 1, 2) if weigh else None

    def _open(self, x: Tensor, senders: Tensor, graph: Heard) -> Tensor:
        """log g of every slot [B, N, L], 0 where oneself is heard."""
        log_gate: Tensor = self.gate(x, senders, graph)
        if not graph.self_loop:
            return log_gate
        own = torch.zeros(graph.mask.shape[-2:], dtype=torch.bool, device=x.device)
        if graph.index is None:
            own.fill_diagonal_(True)
        else:
            own[:, -1] = True
        return torch.where(own, 0.0, log_gate)


def _wide(x: Tensor, receivers: Tensor) -> Tensor:
    """x [B, N or 1, ...] for every receiver."""
    return x.expand(-1, receivers.shape[1], *x.shape[2:])
