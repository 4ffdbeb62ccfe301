"""Plays whole episodes to judge by: a trained agent, or random actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gcoord.data.collect import clear
from gcoord.data.tallies import Episodes, Keys
from gcoord.envs.team import TeamEnv
from gcoord.models.agent import Agent
from gcoord.spec import Continuous, TeamSpec
from gcoord.trajectory import Observation

Act = Callable[[Observation, Tensor | None, Tensor], tuple[Tensor, Tensor | None]]


@torch.no_grad()
def play(
    env: TeamEnv, act: Act, memory: Tensor | None, episodes: int, seed: int, limit: int = 100_000
) -> dict[str, Tensor]:
    """Plays whole episodes and gives each figure's values [E], E >= `episodes`, the same number from every team.

    `act(seen, memory, key) -> (action, memory)`; `memory` is the one to start from. Every team plays
    ceil(episodes / B) episodes, so that short episodes are not over-represented. Raises RuntimeError if that takes
    more than `limit` steps.
    """
    spec = env.spec
    quota = -(-episodes // spec.num_envs)
    seen = env.reset(seed)
    device = seen.own.device
    running = Episodes(spec, device)
    played = torch.zeros(spec.num_envs, dtype=torch.long, device=device)
    values: dict[str, list[Tensor]] = {}
    keys = Keys(seed, spec.num_envs)
    for _ in range(limit):
        action, memory = act(seen, memory, keys.take(device))
        following, outcome = env.step(action)
        memory = clear(memory, ~outcome.valid)
        done, figures = running.add(seen, outcome)
        counted = done & (played < quota)
        if counted.any():
            for name, value in figures.items():
                values.setdefault(name, []).append(value[counted])
            played += counted
            if bool((played >= quota).all()):
                return {name: torch.cat(parts).cpu() for name, parts in values.items()}
        seen = following
    raise RuntimeError(
        f"expected {quota} episodes of every team within {limit} steps of {spec.world} (set env.max_steps)"
    )


def acts(agent: Agent, greedy: bool = True, epsilon: float = 0.0) -> Act:
    """`play`'s act of an agent: greedy but for a share `epsilon`, or sampling (see `Agent.act`)."""

    def act(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        acted = agent.act(seen, memory, key=key, greedy=greedy, epsilon=epsilon)
        return acted.action, acted.memory

    return act


def random_actions(spec: TeamSpec, seed: int, device: Any = "cpu") -> Act:
    """`play`'s act of a policy that draws uniformly among what is available."""
    generator = torch.Generator(device).manual_seed(seed)
    wide = (len(spec.actions), spec.n_actions)
    low, high, counts = torch.zeros(wide), torch.ones(wide), torch.ones(len(spec.actions), dtype=torch.long)
    discrete = torch.zeros(len(spec.actions), dtype=torch.bool)
    for kind, space in enumerate(spec.actions):
        if isinstance(space, Continuous):
            low[kind, : space.n], high[kind, : space.n] = torch.tensor(space.low), torch.tensor(space.high)
        else:
            counts[kind], discrete[kind] = space.n, True
    low, high, counts, discrete = (x.to(device) for x in (low, high, counts, discrete))

    def act(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        kind = torch.where(seen.alive, seen.kind, 0)
        shape = (*kind.shape, spec.n_actions)
        noise = torch.rand(shape, generator=generator, device=device)
        box = low[kind] + noise * (high[kind] - low[kind])
        legal = torch.arange(spec.n_actions, device=device) < counts[kind].unsqueeze(-1)
        if seen.available is not None:
            legal = legal & (seen.available | ~seen.available.any(-1, keepdim=True))
        number = torch.where(legal, noise, -1.0).argmax(-1)
        if spec.discrete:
            return number, memory
        first = torch.zeros_like(box)
        first[..., 0] = number
        return torch.where(discrete[kind].unsqueeze(-1), first, box), memory

    return act
