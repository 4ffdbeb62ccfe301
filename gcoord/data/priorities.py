"""Which windows of a replay are drawn more often: priorities in a tree of sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Device = torch.device | str


class SumTree:
    """Numbers from 0 on that are changed, and drawn in proportion to themselves, in log2(size) steps for a whole batch.

    Node 1 is the total, the children of node i are 2 i and 2 i + 1, the last row of nodes holds the numbers. Every sum
    is made anew from its two children, so equal numbers make equal trees, whatever order they were set in.

    Arguments:
        size: how many numbers, all 0 to begin with.
        device: where they lie.
    """

    def __init__(self, size: int, device: Device = "cpu") -> None:
        if size < 1:
            raise ValueError(f"expected a tree of at least one number (got {size})")
        self.size = size
        self.depth = (size - 1).bit_length()
        self.nodes = torch.zeros(2 << self.depth, dtype=torch.float64, device=device)

    @staticmethod
    def bytes_of(size: int) -> int:
        """What a tree of so many numbers takes."""
        return 16 << (size - 1).bit_length()

    @property
    def numbers(self) -> Tensor:
        """All numbers [size], as a view."""
        first = 1 << self.depth
        return self.nodes[first : first + self.size]

    @property
    def total(self) -> Tensor:
        """Sum of all numbers, []."""
        return self.nodes[1]

    def set(self, index: Tensor, value: Tensor) -> None:
        """Put value [n] at index [n] long; where an index comes twice, so must its value."""
        self.numbers[index] = value.to(self.nodes.dtype)
        node = index + (1 << self.depth)
        for _ in range(self.depth):
            node = node // 2
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def find(self, mass: Tensor) -> Tensor:
        """The index [n] at which the running sum of the numbers first exceeds mass [n], 0 <= mass < total. A number
        that is 0 is never found, whatever is rounded."""
        node = torch.ones_like(mass, dtype=torch.long)
        for _ in range(self.depth):
            left = self.nodes[2 * node]
            right = (mass >= left) & (self.nodes[2 * node + 1] > 0)
            mass = torch.where(right, mass - left, mass)
            node = 2 * node + right
        return node - (1 << self.depth)


class Priorities:
    """Prioritised experience replay (https://arxiv.org/abs/1511.05952), proportional:

        P(i) = p_i^alpha / sum_k p_k^alpha,   p_i = |error_i| + least
        w_i = (n P(i))^-beta / max_j w_j

    n windows may be drawn, the maximum is over the batch, and beta rises to 1. A window that was never learnt from has
    the highest priority seen so far. Draws are stratified: one from each of `batch` equal parts of the total.

    Arguments:
        cells: where a window may start, numbered from 0.
        device: where priorities lie.
        alpha: how much priorities count, 0: not at all.
        beta: how far weights correct for that, to begin with.
        beta_frames: environment steps until they do so in full.
        least: added to every error, so that nothing is never drawn again.
    """

    def __init__(
        self,
        cells: int,
        device: Device = "cpu",
        alpha: float = 0.6,
        beta: float = 0.4,
        beta_frames: int = 100_000,
        least: float = 1e-3,
    ) -> None:
        if not (alpha >= 0 and 0 <= beta <= 1 and beta_frames >= 0 and least > 0):
            raise ValueError(
                f"expected alpha and beta_frames of at least 0, beta between 0 and 1 and least above 0 (got {alpha}, "
                f"{beta_frames}, {beta} and {least})"
            )
        self.alpha, self.beta, self.beta_frames, self.least = alpha, beta, beta_frames, least
        # One more, always 0, takes what is not to be kept.
        self.tree = SumTree(cells + 1, device)
        self.highest = torch.ones((), dtype=torch.float64, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes that the tree takes."""
        return self.tree.nodes.nbytes

    def admit(self, cells: Tensor, may: Tensor) -> None:
        """Let cells [n] long be drawn with the highest priority where `may` [n] bool, and not at all elsewhere."""
        self.tree.set(cells, torch.where(may, self.highest**self.alpha, 0.0))

    def update(self, cells: Tensor, error: Tensor) -> None:
        """Errors [n] of windows that start at cells [n] long; a cell that cannot be drawn stays so, and cells outside
        are left out."""
        last = self.tree.size - 1
        cells = torch.where((cells >= 0) & (cells < last), cells, last)
        priority = error.detach().abs().double() + self.least
        drawn = self.tree.numbers[cells] > 0
        self.highest = torch.maximum(self.highest, torch.where(drawn, priority, 0.0).max())
        self.tree.set(cells, torch.where(drawn, priority**self.alpha, 0.0))

    def draw(self, batch: int, count: Tensor, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cells [batch] and their weights [batch]; `count` [] cells may be drawn, `frames` have passed."""
        part = torch.arange(batch, dtype=torch.float64, device=self.tree.nodes.device)
        luck = torch.rand(batch, dtype=torch.float64, device=part.device, generator=generator)
        cells = self.tree.find((part + luck) / batch * self.tree.total)
        share = self.tree.numbers[cells] / self.tree.total
        gone = min(frames / max(self.beta_frames, 1), 1.0)
        weight = (count * share) ** -(self.beta + gone * (1 - self.beta))
        return cells, (weight / weight.max()).float()

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": self.tree.numbers.clone(), "highest": self.highest.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse; raises ValueError for a state of another size."""
        numbers = state["numbers"].to(self.tree.nodes.device)
        if len(numbers) != self.tree.size:
            raise ValueError(f"expected {self.tree.size - 1:,} priorities (got {len(numbers) - 1:,})")
        self.tree.set(torch.arange(len(numbers), device=numbers.device), numbers)
        self.highest = state["highest"].to(numbers.device)
