"""Which team size is learnt next: small ones first, larger ones when those are mastered or their time is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gcoord.spec import TeamSpec

Figures = dict[str, float]


class Growing:
    """Team sizes one after another.

    A round is played at one size. The team grows to the next when the mean of `metric` over the last `episodes`
    episodes at the present size (as the exploring policy plays them) reaches `reach`, or when `frames` environment
    steps were made there. The weights go on as they are. TransfQMix's curriculum (https://arxiv.org/abs/2301.05334) and
    the stages of EPC (https://arxiv.org/abs/2003.10423) are such; EPC's selection among parallel runs is in
    `gcoord.scaleup.evolution`.

    Arguments:
        sizes: in the order in which they are learnt.
        reach: what is to be reached before the team grows, or a list with one number for each growth.
        frames: environment steps at a size after which it grows at the latest; alone: a fixed timetable.
        metric: any figure of the episodes, such as `success`.
        episodes: that the mean is taken over.
        keep: share of rounds that are played at a size learnt before, drawn evenly.
        seed: of those draws.

    Raises ValueError where neither reach nor frames says when to grow, or for numbers that cannot be.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        reach: float | list[float] | None = None,
        frames: int | None = None,
        metric: str = "return_per_agent",
        episodes: int = 100,
        keep: float = 0.0,
        seed: int = 0,
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"expected n_agents=[...] with at least two sizes for a curriculum (got {list(sizes)})")
        if reach is None and frames is None:
            raise ValueError("expected curriculum.reach or curriculum.frames, which say when the team grows (got none)")
        self.goals = [reach] * (len(sizes) - 1) if not isinstance(reach, list) else list(reach)
        if len(self.goals) != len(sizes) - 1:
            raise ValueError(f"expected curriculum.reach for each of {len(sizes) - 1} growths (got {reach})")
        if episodes < 1 or not 0 <= keep < 1 or (frames is not None and frames < 1):
            raise ValueError(
                "expected a curriculum with episodes and frames of at least 1 and keep from 0 to below 1 (got "
                f"{episodes}, {frames} and {keep})"
            )
        self.sizes, self.frames, self.metric = list(sizes), frames, metric
        self.episodes, self.keep = episodes, keep
        self.stage = 0
        self.began = 0
        self.now = 0
        self._heard: list[tuple[float, float]] = []
        self.generator = torch.Generator().manual_seed(seed)

    def check(self, spec: TeamSpec) -> None:
        """Raises ValueError where the world does not report the metric."""
        known = ["return", "return_per_agent", "return_worst_agent", "length", *spec.metrics]
        if self.metric not in known:
            raise ValueError(f"expected curriculum.metric among {', '.join(known)} (got {self.metric!r})")

    def pick(self) -> int:
        """The place in `sizes` of the size of the next round."""
        lot, earlier = torch.rand((), generator=self.generator), int(self.stage)
        self.now = earlier
        if earlier and float(lot) < self.keep:
            self.now = int(torch.randint(earlier, (), generator=self.generator))
        return self.now

    def hear(self, size: int, figures: Figures, frames: int) -> None:
        """How the episodes went that ended in a round at `size`, after `frames` environment steps in all."""
        if size != self.sizes[self.stage] or self.stage == len(self.sizes) - 1:
            return
        count = figures.get("episodes", 0.0)
        if count:
            self._heard.append((count, figures[self.metric]))
        while sum(n for n, _ in self._heard[1:]) >= self.episodes:
            self._heard.pop(0)
        goal, total = self.goals[self.stage], sum(n for n, _ in self._heard)
        reached = goal is not None and total >= self.episodes and self.mean >= goal
        if reached or (self.frames is not None and frames - self.began >= self.frames):
            self.stage, self.began, self._heard = self.stage + 1, frames, []

    @property
    def mean(self) -> float:
        """Of the metric over the episodes it is judged by."""
        return sum(n * value for n, value in self._heard) / max(sum(n for n, _ in self._heard), 1)

    def state_dict(self) -> dict[str, Any]:
        heard = [list(one) for one in self._heard]
        return {"stage": self.stage, "began": self.began, "heard": heard, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.stage, self.began = state["stage"], state["began"]
        self._heard = [(float(n), float(value)) for n, value in state["heard"]]
        self.generator.set_state(state["generator"].cpu())
