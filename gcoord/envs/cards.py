"""What is to be known of a world before it is made; `python -m gcoord.envs` and the tests read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One world's card. Every module of worlds has `CARDS: dict[str, Card]` by the world's name in conf/env.

    Arguments:
        sizes: team sizes at which the world is tested, rising; a single one where it is fixed.
        smallest: lowest team size that is accepted.
        largest: highest team size that is accepted, None where nothing limits it.
        knows: what an agent senses of itself and its surroundings.
        entities: what is heard that is no agent, empty where there is nothing.
        arena: how the world grows with the team, empty where it cannot.
        dies: whether agents may die before the episode ends.
        extra: what has to be installed (`vmas`, `petting`, ...), empty where nothing has.
        random: mean return per agent of random actions at the default size, over at least 100 episodes from seed 0.
        scripted: the same of the world's script or planner, None where it has none.
        note: anything else that a user should know, such as a figure of the literature that turned out otherwise.
    """

    sizes: tuple[int, ...]
    knows: str
    smallest: int = 1
    largest: int | None = None
    entities: str = ""
    arena: str = ""
    dies: bool = False
    extra: str = ""
    random: float | None = None
    scripted: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ValueError(f"expected rising team sizes from 1 on (got {self.sizes})")
