"""Random numbers without a state: hashes of long tensors, the same on every device."""

from __future__ import annotations

from torch import Tensor


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser (https://doi.org/10.1145/2714064.2660195) on int64; products wrap on every device."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def edge_hash(key: Tensor, receiver: Tensor, sender: Tensor, salt: int = 0) -> Tensor:
    """53 random bits for each edge: a stateless hash of long tensors that broadcast, the same on every device."""
    hashed = key
    for part in (salt, receiver, sender):
        hashed = mix(hashed + part * 0x1E3779B97F4A7C15 + 0x632BE59BD9B4E019)
    return (hashed >> 11) & (2**53 - 1)
