"""Networks of routers as DGN draws them, and shortest ways through them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LINKS = 3  # of a router, at most
_DRAWS = 10  # after which a network in several parts is taken as it is


@dataclass(frozen=True)
class Network:
    """Routers and links, numbered from 0.

    place [R, 2]; links [L, 3]: the two ends, the lower first, and the length in steps; at [R, 3]: the links of each
    router in their order, -1 where there are fewer; usable [R]: routers of the largest part, all as a rule.
    """

    place: np.ndarray
    links: np.ndarray
    at: np.ndarray
    usable: np.ndarray

    def beyond(self) -> np.ndarray:
        """[R, 3]: the router at the other end of each link, -1 where there is none."""
        router = np.arange(len(self.at))[:, None]
        return np.where(self.at >= 0, self.links[self.at, 0] + self.links[self.at, 1] - router, -1)

    def ways(self, waiting: float = 0.0) -> np.ndarray:
        """[R, R]: length of the shortest way between two routers, each link counted as `waiting` longer."""
        over = np.where(self.at >= 0, self.links[self.at, 2] + waiting, np.inf)[..., None]  # [R, 3, 1]
        beyond = self.beyond()
        far = np.full((len(self.at), len(self.at)), np.inf)
        while True:
            np.fill_diagonal(far, 0.0)
            # Bellman's equation, for all ends at once: as many rounds as the longest way has links.
            nearer = far
            for k in range(LINKS):
                nearer = np.minimum(nearer, over[:, k] + far[beyond[:, k]])
            if np.array_equal(nearer, far):
                return far
            far = nearer

    def over(self) -> np.ndarray:
        """[R, 3, R]: steps from each router over each of its links to each destination, where nobody is in the way.

        A link takes one step to enter and those it is long; who enters the last one is there. A packet at its
        destination goes round. inf where there is no link, or no way.
        """
        beyond = self.beyond()
        takes = np.where(self.at >= 0, self.links[self.at, 2] + 1.0, np.inf)[..., None]  # [R, 3, 1]
        there = beyond[..., None] == np.arange(len(self.at))
        left = np.full((len(self.at), len(self.at)), np.inf)
        while True:
            over = np.where(there, 1.0, takes + left[beyond])
            if np.array_equal(left, over.min(1)):
                return over
            left = over.min(1)


def draw_network(n_routers: int, seed: int) -> Network:
    """A network by the rules of DGN's code (https://arxiv.org/abs/1810.09202), from numpy's legacy stream of `seed`.

    Routers lie at uniform random points of a square of sides sqrt(n_routers / 20). Each in turn is linked to the
    nearest of those with fewer than 3 links, until it has 3; some may end with fewer, and two links may join the same
    two routers. A link takes floor(floor(10 d) / 2 + 1) steps. Seed 476 and 20 routers is the network of the published
    figures, for that code seeds the same stream and draws in the same order.

    A network in several parts is redrawn from the stream. Where 10 draws all were (large ones are: of 1,000 routers the
    largest part has about 960), the one with the largest part is kept, and only that part is used.

    Raises ValueError below 4 routers.
    """
    if n_routers < 4:
        raise ValueError(f"expected at least 4 routers, for 3 links each (got {n_routers})")
    stream = np.random.RandomState(seed)
    side = math.sqrt(n_routers / 20)
    best: Network | None = None
    for _ in range(_DRAWS):
        drawn = _link(stream.random_sample((n_routers, 2)) * side)
        if best is None or drawn.usable.sum() > best.usable.sum():
            best = drawn
        if best.usable.all():
            break
    assert best is not None
    return best


def _link(place: np.ndarray) -> Network:
    n = len(place)
    degree = np.zeros(n, dtype=np.int64)
    links: list[tuple[int, int, int]] = []
    at: list[list[int]] = [[] for _ in range(n)]
    joined: list[list[int]] = [[] for _ in range(n)]
    for i in range(n):
        free = np.flatnonzero((degree < LINKS) & (np.arange(n) != i))
        squared = ((place[free] - place[i]) ** 2).sum(-1)
        nearest = np.argsort(squared, kind="stable")[: LINKS - degree[i]]
        for j, square in zip(free[nearest].tolist(), squared[nearest].tolist(), strict=True):
            for one, other in ((i, j), (j, i)):
                at[one].append(len(links))
                joined[one].append(other)
                degree[one] += 1
            length = int(int(math.sqrt(square) * 10) / 2 + 1)
            links.append((min(i, j), max(i, j), length))
    padded = [(row + [-1] * LINKS)[:LINKS] for row in at]
    return Network(place, np.array(links), np.array(padded), _largest_part(joined))


def _largest_part(joined: list[list[int]]) -> np.ndarray:
    """[R]: whether a router is in the largest part."""
    part = np.full(len(joined), -1)
    for start in range(len(joined)):
        reached = [start] if part[start] < 0 else []
        while reached:
            router = reached.pop()
            part[router] = start
            reached += [other for other in joined[router] if part[other] < 0]
    return part == np.bincount(part).argmax()
