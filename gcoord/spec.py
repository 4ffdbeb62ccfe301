"""What a team looks like: the one object that sizes every network and buffer.

A `TeamSpec` is immutable, knows no tensors, and survives a trip through JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Reward = Literal["own", "team", "mixed"]
Reduction = Literal["last", "sum", "mean", "any"]
REWARDS: tuple[Reward, ...] = ("own", "team", "mixed")
REDUCTIONS: tuple[Reduction, ...] = ("last", "sum", "mean", "any")


@dataclass(frozen=True)
class Discrete:
    """`n` actions, numbered from 0."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"expected at least one action (got {self.n})")


@dataclass(frozen=True)
class Continuous:
    """A box: one low and one high bound per action component, in the world's units."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise ValueError(f"expected as many lows as highs and at least one (got {self.low} and {self.high})")
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"expected every low below its high (got {self.low} and {self.high})")

    @property
    def n(self) -> int:
        """Number of components."""
        return len(self.low)


Action = Discrete | Continuous


@dataclass(frozen=True)
class TeamSpec:
    """The shapes and rules of a batch of teams.

    Arguments:
        num_envs: teams stepped together (B).
        n_agents: agent slots per team (N).
        own: shape of what one agent senses, `(O,)` or `(C, H, W)`; never depends on N.
        actions: one action space per kind.
        kinds: names of the kinds, in the order of `Observation.kind`.
        reward: per kind, `own` (each agent its own), `team` (all get the team's) or `mixed`.
        n_entities: entity slots (M), 0 where the world has none; may change with N.
        entity_dim: features of an entity (Oe).
        position_dim: coordinates of `position` (P), 0 where agents have none.
        state_dim: size of `Observation.state`, 0 where there is none.
        available: whether `Observation.available` is given.
        hears: whether the world itself decides who hears whom.
        rejoins: whether a dead agent may come back within an episode.
        stack: frames that an image `own` holds, the oldest in its first channels; 1 where it is no stack.
        max_steps: steps after which an episode is truncated, None where it is not.
        metrics: scalars the world reports every step, and how an episode reduces them:
            `last` (value at the final step), `sum`, `mean` or `any` (its maximum).
        world: the name the world is made by.
        density: `fixed` (the arena grows with the team), `arena` (it does not), or `none`.
    """

    num_envs: int
    n_agents: int
    own: tuple[int, ...]
    actions: tuple[Action, ...]
    kinds: tuple[str, ...] = ("agent",)
    reward: tuple[Reward, ...] = ("own",)
    n_entities: int = 0
    entity_dim: int = 0
    position_dim: int = 0
    state_dim: int = 0
    available: bool = False
    hears: bool = False
    rejoins: bool = False
    stack: int = 1
    max_steps: int | None = None
    metrics: dict[str, Reduction] = field(default_factory=dict)
    world: str = ""
    density: str = "none"

    def __post_init__(self) -> None:
        if self.num_envs < 1 or self.n_agents < 1:
            raise ValueError(f"expected at least one team and one agent (got {self.num_envs} and {self.n_agents})")
        if len(self.own) not in (1, 3) or any(size < 1 for size in self.own):
            raise ValueError(f"expected `own` to be (O,) or (C, H, W) (got {self.own})")
        if self.stack < 1 or (self.stack > 1 and (len(self.own) != 3 or self.own[0] % self.stack)):
            raise ValueError(f"expected `own` (C, H, W) with C a multiple of stack={self.stack} (got {self.own})")
        if not len(self.kinds) == len(self.actions) == len(self.reward):
            raise ValueError(
                f"expected one action space and one reward rule per kind (got {len(self.kinds)} kinds, "
                f"{len(self.actions)} action spaces, {len(self.reward)} reward rules)"
            )
        if unknown := [rule for rule in self.reward if rule not in REWARDS]:
            raise ValueError(f"expected reward rules among {REWARDS} (got {unknown})")
        if unknown_reductions := [rule for rule in self.metrics.values() if rule not in REDUCTIONS]:
            raise ValueError(f"expected metric reductions among {REDUCTIONS} (got {unknown_reductions})")
        if (self.n_entities > 0) != (self.entity_dim > 0):
            raise ValueError(
                f"expected entities and their features together (got n_entities={self.n_entities}, "
                f"entity_dim={self.entity_dim})"
            )

    @property
    def discrete(self) -> bool:
        """Whether every kind chooses among numbered actions."""
        return all(isinstance(action, Discrete) for action in self.actions)

    @property
    def continuous(self) -> bool:
        """Whether every kind acts in a box."""
        return all(isinstance(action, Continuous) for action in self.actions)

    @property
    def n_actions(self) -> int:
        """A: the widest kind's number of actions, or of action components."""
        return max(action.n for action in self.actions)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: `()` (long) if all kinds are discrete, else `(A,)` (float)."""
        return () if self.discrete else (self.n_actions,)

    @property
    def shared_reward(self) -> bool:
        """Whether all agents receive the team's reward."""
        return all(rule == "team" for rule in self.reward)

    def with_(self, **changes: Any) -> TeamSpec:
        """The same spec with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def sizes_any(self) -> dict[str, Any]:
        """The part of the spec that must agree for a policy to act here: all that does not depend on N, B or M."""
        skipped = ("num_envs", "n_agents", "n_entities", "max_steps", "metrics", "world", "density")
        return {key: value for key, value in self.to_dict().items() if key not in skipped}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["actions"] = [
            {"discrete": a.n} if isinstance(a, Discrete) else {"low": list(a.low), "high": list(a.high)}
            for a in self.actions
        ]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TeamSpec:
        """The inverse of `to_dict`; raises ValueError on unknown or missing fields."""
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(plain) - names):
            raise ValueError(f"expected the fields of a TeamSpec (got unknown {unknown})")
        if missing := sorted({"num_envs", "n_agents", "own", "actions"} - set(plain)):
            raise ValueError(f"expected a TeamSpec with {missing}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        values["actions"] = tuple(
            Discrete(a["discrete"]) if "discrete" in a else Continuous(tuple(a["low"]), tuple(a["high"]))
            for a in cast(list[dict[str, Any]], plain["actions"])
        )
        return cls(**values)
