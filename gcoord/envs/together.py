"""Worlds written for agents that act in turn, but simulated once all have, as worlds in which they act together."""

from __future__ import annotations

from typing import Any


class Together:
    """A ParallelEnv around a PettingZoo AECEnv in which all agents live until the episode ends for all.

    The same as PettingZoo's own conversion, but nobody is asked between the others' moves for an observation that is
    thrown away, and no wrapper checks what is known to hold.
    """

    def __init__(self, world: Any) -> None:
        self.unwrapped = world
        self.possible_agents = list(world.possible_agents)
        self.agents: list[str] = []
        self.observation_space, self.action_space = world.observation_space, world.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], ...]:
        world = self.unwrapped
        world.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return self.look(self.agents), dict(world.infos)

    def look(self, agents: list[str]) -> dict[str, Any]:
        """What each of them senses."""
        return {name: self.unwrapped.observe(name) for name in agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        world, agents = self.unwrapped, self.agents
        rewards: dict[str, float] = dict.fromkeys(agents, 0)
        for name in agents:
            world.step(actions[name])
            for other in agents:
                rewards[other] += world.rewards[other]
        terminations, truncations = dict(world.terminations), dict(world.truncations)
        if any(terminations.values()) or any(truncations.values()):
            self.agents = []
        return self.look(agents), rewards, terminations, truncations, dict(world.infos)

    def close(self) -> None:
        self.unwrapped.close()
