"""What becomes of messages between being sent and being heard: late, swapped, noisy.

A kernel reads what its agents know of themselves and what they hear of others from the same rows. To change the second
alone, every message is heard from a copy of its sender: the copies are further senders, behind the agents themselves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.hashing import edge_hash

SHUFFLE, NOISE, PLACE = 21, 22, 23


def from_copies(graph: AgentGraph) -> AgentGraph:
    """The same graph where sender j is number N + j: what is heard is a copy, and 0 to N - 1 are never heard."""
    n = graph.mask.shape[-2]
    edge, mask, index = graph.edge, graph.mask, graph.index
    if index is None:
        mask = F.pad(mask, (n, 0))
        edge = None if edge is None else F.pad(edge, (0, 0, n, 0))
    present = graph.present
    return AgentGraph(
        mask=mask,
        index=None if index is None else index + n,
        edge=edge,
        present=None if present is None else torch.cat([present[..., :n], present], -1),
        dropped=graph.dropped,
        n_entities=n + graph.n_entities,
        batch_size=graph.batch_size,
    )


def bits(key: Tensor, rows: Tensor, columns: Tensor | int, stream: int) -> Tensor:
    """53 random bits by a hash of key, row and column, which broadcast; each stream has rows of its own."""
    return edge_hash(key, rows + stream * 2**24, torch.as_tensor(columns, device=key.device), salt=2)


def uniform(key: Tensor, count: int, stream: int) -> Tensor:
    """[*, count] numbers in (0, 1) for each of `count` slots: a hash of the keys [*], the same on every device."""
    slots = torch.arange(count, device=key.device)
    return (bits(key.unsqueeze(-1), slots, 0, stream).double() + 0.5) / 2**53


def normal(key: Tensor, rows: Tensor, columns: Tensor, stream: int) -> Tensor:
    """Standard normal numbers by a hash of key, row and column, which broadcast."""
    u = (bits(key, rows, columns, stream).double() + 0.5) / 2**53
    return torch.erfinv(2 * u - 1) * 2**0.5


def swapped(key: Tensor, alive: Tensor) -> Tensor:
    """[*, N] long: whose message is heard in place of each living agent's own: a random round of all the living, in
    which nobody keeps the own but who is alone. The dead stay themselves."""
    n = alive.shape[-1]
    lot = torch.where(alive, uniform(key, n, SHUFFLE), 2.0)
    order = torch.sort(lot, dim=-1, stable=True).indices
    place = torch.arange(n, device=alive.device)
    count = alive.sum(-1, keepdim=True)
    following = torch.where(place < count, (place + 1) % count.clamp(min=1), place)
    return torch.empty_like(order).scatter(-1, order, order.gather(-1, following))


class Wire:
    """One step's messages on their way, round by round; `Disturbed` sets it before each step.

    order [*, N]: whose message is heard in place of each agent's (None: the own). late: each round's messages as they
    were sent some steps before (None: no delay). noise: of each message, as a share of its root mean square. `sent`
    collects what was sent in this step.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.order: Tensor | None = None
        self.late: list[Tensor] | None = None
        self.key: Tensor | None = None
        self.sent: list[Tensor] = []

    def carry(self, x: Tensor) -> Tensor:
        """What is heard of x [*, N, D], the messages of the next round; x itself where nothing becomes of it."""
        number = len(self.sent)
        self.sent.append(x)
        message = x if self.late is None else self.late[number].reshape(x.shape)
        if self.order is not None:
            message = message.gather(-2, self.order.reshape(*x.shape[:-1], 1).expand_as(message))
        if self.noise and self.key is not None:
            n, width = x.shape[-2:]
            slots = torch.arange(n, device=x.device).unsqueeze(-1)
            columns = torch.arange(width, device=x.device) + number * width
            drawn = normal(self.key.reshape(*x.shape[:-2], 1, 1), slots, columns, NOISE).to(x.dtype)
            message = message + self.noise * drawn * message.square().mean(-1, keepdim=True).sqrt()
        return message


class Wired(nn.Module):
    """A kernel whose receivers hear the others over a wire, and themselves as they are."""

    def __init__(self, kernel: nn.Module, wire: Wire) -> None:
        super().__init__()
        self.kernel, self.wire = kernel, wire

    def forward(
        self, x: Tensor, graph: AgentGraph, senders: Tensor | None = None, return_attention: bool = False
    ) -> Any:
        message = self.wire.carry(x)
        if message is x:
            return self.kernel(x, graph, senders, return_attention)
        n = x.shape[-2]
        table = [x, message] if senders is None else [x, message, senders[..., n:, :]]
        out = self.kernel(x, from_copies(graph), torch.cat(table, -2), return_attention)
        if not return_attention:
            return out
        h, weights = out
        # A dense graph's slots are its senders, the agents themselves among them.
        return h, weights[..., n:] if graph.index is None else weights


class Copied(nn.Module):
    """What stands in an encoder's `wire`: messages [*, N, D] -> what is heard of them."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire.carry(x)


def lay(encoder: nn.Module, wire: Wire, condition: str) -> None:
    """Lays a wire into an encoder: around its `kernels` and into its relays and claims, or in the place of its `wire`.
    Raises ValueError for one that has neither, since nobody can tell what is a message in it."""
    kernels = getattr(encoder, "kernels", None)
    if isinstance(kernels, nn.ModuleList):
        for i, kernel in enumerate(kernels):
            kernels[i] = Wired(kernel, wire)
        claims = getattr(encoder, "claims", None)
        for part in (*getattr(encoder, "relays", ()), *([] if claims is None else [claims])):
            part.wire = Copied(wire)
    elif isinstance(getattr(encoder, "wire", None), nn.Module):
        encoder.wire = Copied(wire)
    else:
        raise ValueError(
            f"expected an encoder with `kernels` or a `wire`, where messages pass, for {condition} (got "
            f"{type(encoder).__name__})"
        )
