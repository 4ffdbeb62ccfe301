"""Terms that losses of several learners are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.models.agent import Body, Features
from gcoord.trajectory import Trajectory, masked_mean, resets


@torch.no_grad()
def warmed(body: Body, batch: Trajectory) -> Tensor | None:
    """Memory [B, N, D] before the first row that is learnt from: `batch.memory` where no rows come before it, else what
    `body` makes of it in the rows of `batch.before`, without gradient."""
    if body.memory is None or batch.before is None:
        return batch.memory
    before, order = batch.before, resets(batch.before.valid)
    memory = body.unroll(before.seen, batch.memory, order[:-1], key=before.key).memory
    assert memory is not None
    return torch.where(order[-1][:, None, None], memory.new_zeros(()), memory)


def last_attention(features: Features) -> Tensor:
    """Attention [*, H, N, K + 1] of the last round."""
    assert features.attention is not None
    return features.attention[-1]


def attention_entropy(attention: Tensor) -> Tensor:
    """Entropy in nats of attention [*, H, N, K], mean over heads -> [*, N]."""
    return torch.special.entr(attention).sum(-1).mean(-2)


def drift(now: Features, then: Features, mask: Tensor) -> Tensor:
    """DGN's temporal relation regularisation: KL(attention now || attention next) at the last round, mean over heads
    and over mask [*, N]; the later attention is detached (https://arxiv.org/abs/1810.09202, section 3.3)."""
    p, q = last_attention(now), last_attention(then).detach()  # [*, H, N, K + 1]
    tiny = torch.finfo(p.dtype).tiny
    divergence = (p * (p.clamp(min=tiny).log() - q.clamp(min=1e-8).log())).sum(-1).mean(-2)
    return masked_mean(divergence, mask)


def surprise(error: Tensor, mask: Tensor) -> Tensor:
    """How surprising each window was, for prioritised replay: 0.9 of the largest and 0.1 of the mean absolute error
    over its rows (https://openreview.net/forum?id=r1lyTjAqYX), that of a row being the mean over `mask`.

    error and mask [T, B], or [T, B, N] -> [B].
    """
    error = torch.where(mask, error.detach(), 0.0).abs()
    if error.dim() == 3:
        error = error.sum(-1) / mask.sum(-1).clamp(min=1)
        mask = mask.any(-1)
    return 0.9 * error.amax(0) + 0.1 * error.sum(0) / mask.sum(0).clamp(min=1)
