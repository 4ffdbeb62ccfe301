"""Who hears whom: graphs of a team, derived from where agents stand, in batches and on the tensors' device."""

from __future__ import annotations

from tensordict import TensorClass
from torch import Tensor


class AgentGraph(TensorClass["nocast"]):  # type: ignore[misc]
    """Receivers and the senders they hear; batch size `[*]`.

    index [*, N, K] long: receiver i hears in slot k sender `index[i, k]`; None: dense, every sender in order, K = N + M.
    mask [*, N, K] bool: whether slot k is heard. edge [*, N, K, E]: features of each message's way.
    present [*, N + M] bool: senders that may be read at all (None: all); the rows of others may hold anything.
    dropped [*] long: edges that a limit left out (None: no limit).
    n_entities: M. Senders are the N agents, then the M entities; nobody hears oneself.
    """

    mask: Tensor
    index: Tensor | None = None
    edge: Tensor | None = None
    present: Tensor | None = None
    dropped: Tensor | None = None
    n_entities: int = 0
