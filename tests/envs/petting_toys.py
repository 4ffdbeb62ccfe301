"""Tiny PettingZoo worlds, some of which misbehave on purpose. They need gymnasium's spaces and nothing else."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple


class Line:
    """Agents on a line: actions stay, left, right; own is (place, random number, step, seed of the episode / 2^31).

    Arguments:
        length: steps until who lives is truncated. deaths: step -> agents that terminate in it. leave: step -> agents
        that are gone without a word. back: step -> agents that return. draws: where random numbers come from.
        fault: what goes wrong, at step `at`, in the world whose episode is as unlucky as `unlucky` says.
    """

    def __init__(
        self,
        n_agents: int = 3,
        length: int = 6,
        deaths: dict[int, list[int]] | None = None,
        leave: dict[int, list[int]] | None = None,
        back: dict[int, list[int]] | None = None,
        draws: str = "own",
        fault: str = "",
        at: int = 3,
        unlucky: float = 1.0,
    ) -> None:
        self.possible_agents = [f"walker_{i}" for i in range(n_agents)]
        self.agents: list[str] = []
        self.length, self.deaths, self.leave, self.back = length, deaths or {}, leave or {}, back or {}
        self.draws, self.fault, self.at, self.unlucky = draws, fault, at, unlucky

    def observation_space(self, agent: str) -> Any:
        return Box(-np.inf, np.inf, (4,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        assert seed is not None
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.t = 0
        self.agents = [] if self.fault == "empty" else self.possible_agents[:]
        self.place = {name: self.draw() for name in self.possible_agents}
        return self.see(), {name: {} for name in self.agents}

    def draw(self) -> float:
        if self.draws == "own":
            return float(self.rng.random())
        if self.draws == "global":
            return float(np.random.randn()) + random.random()  # noqa: NPY002 - the global stream is what is meant
        if self.draws == "python":
            return random.random()
        return float(np.random.default_rng().random())

    def see(self) -> dict[str, Any]:
        return {name: self.look(name) for name in self.agents}

    def look(self, name: str) -> Any:
        return np.array([self.place[name], self.draw(), self.t, self.seed / 2**31], np.float32)

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        assert self.agents, "stepped with nobody left"
        assert set(actions) == set(self.agents), "actions for exactly the living"
        self.t += 1
        fault = self.fault if self.t == self.at and self.seed / 2**31 < self.unlucky else ""
        self.misbehave(fault)
        for name, action in actions.items():
            self.place[name] += self.move(action)
        acted = self.agents
        rewards = {name: self.place[name] for name in acted}
        dead = {f"walker_{i}" for i in self.deaths.get(self.t, [])}
        gone = {f"walker_{i}" for i in self.leave.get(self.t, [])}
        terminations = {name: name in dead for name in acted}
        truncations = {name: self.t >= self.length and name not in dead for name in acted}
        seen = self.see()
        self.agents = [n for n in acted if not (terminations[n] or truncations[n] or n in gone)]
        for i in self.back.get(self.t, []):
            name = f"walker_{i}"
            self.agents.append(name)
            seen[name] = self.look(name)
        if fault == "nan_reward":
            rewards[acted[-1]] = float("nan")
        if fault == "nan_own":
            seen[acted[-1]][1] = np.inf
        if fault == "blind":
            del seen[acted[-1]]
        if fault == "shape":
            seen[acted[-1]] = np.zeros(5, np.float32)
        return seen, rewards, terminations, truncations, {name: {} for name in acted}

    def move(self, action: Any) -> float:
        return (0.0, -1.0, 1.0)[action]

    def misbehave(self, fault: str) -> None:
        if fault == "raise":
            raise KeyError("the\nfloor gave way")
        if fault == "exit":
            os._exit(3)
        if fault == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            while True:
                time.sleep(0.01)
        if fault == "slow":
            time.sleep(1.0)
        if fault == "stranger":
            self.agents.append("nobody")
            self.place["nobody"] = 0.0

    def close(self) -> None:
        pass


def fixed() -> Line:
    """A world whose team has three, always."""
    return Line(3)


def sized(walkers: int = 2) -> Line:
    """A world that has its own word for the size of a team."""
    return Line(walkers)


class Zoo(Line):
    """Two kinds: cats see 4 numbers and have 3 actions, mice see 2 and have 2."""

    def __init__(self, n_agents: int = 4, **kwargs: Any) -> None:
        super().__init__(n_agents, **kwargs)
        self.possible_agents = [f"{'cat' if i < n_agents // 2 else 'mouse'}_{i}" for i in range(n_agents)]

    def observation_space(self, agent: str) -> Any:
        return Box(-np.inf, np.inf, (4 if agent.startswith("cat") else 2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(3 if agent.startswith("cat") else 2)

    def look(self, name: str) -> Any:
        return super().look(name)[: 4 if name.startswith("cat") else 2]


class Remembers(Line):
    """A line whose reset leaves something behind: it senses how often it was reset in place of a random number."""

    resets = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.resets += 1
        return super().reset(seed, options)

    def look(self, name: str) -> Any:
        return np.array([self.place[name], self.resets, self.t, self.seed / 2**31], np.float32)


class Mixed(Zoo):
    """Cats choose among actions numbered from 5, mice push in a box."""

    def action_space(self, agent: str) -> Any:
        if agent.startswith("cat"):
            return Discrete(3, start=5)
        return Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 2.0], np.float32))

    def move(self, action: Any) -> float:
        if np.ndim(action) == 0:
            assert action in (5, 6, 7)
            return float(action - 5)
        assert action.shape == (2,) and action.dtype == np.float32 and (action <= (1, 2)).all()
        return float(action.sum())


class Pictures(Line):
    """Sees a byte image 4 high, 5 wide, 3 channels: channel 0 is the step, channel 1 the row, channel 2 random."""

    def observation_space(self, agent: str) -> Any:
        return Box(0, 255, (4, 5, 3), np.uint8)

    def look(self, name: str) -> Any:
        image = np.zeros((4, 5, 3), np.uint8)
        image[..., 0] = self.t
        image[..., 1] = np.arange(4)[:, None] * 10
        image[..., 2] = int(self.draw() * 255)
        return image


class Masked(Line):
    """Left is illegal in even steps, and everything but staying for the last agent."""

    def observation_space(self, agent: str) -> Any:
        return Dict({"observation": super().observation_space(agent), "action_mask": Box(0, 1, (3,), np.int8)})

    def look(self, name: str) -> Any:
        mask = np.array([1, self.t % 2, 1], np.int8)
        if name == self.possible_agents[-1]:
            mask[:] = (self.fault != "no_legal" or self.t < self.at, 0, 0)
        return {"observation": super().look(name), "action_mask": mask}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        assert all(self.t % 2 or action != 1 for action in actions.values()), "an illegal action"
        return super().step(actions)


class Numbers(Line):
    """Sees one of five numbers that start at 2."""

    def observation_space(self, agent: str) -> Any:
        return Discrete(5, start=2)

    def look(self, name: str) -> Any:
        return 2 + int(self.draw() * 5) % 5


class Pairs(Line):
    """Sees what has no place in a tensor."""

    def observation_space(self, agent: str) -> Any:
        return Tuple((Discrete(2), Discrete(2)))


class Process(Line):
    """Sees the process it runs in: torch loaded or not, threads it may use, process id."""

    def look(self, name: str) -> Any:
        threads = float(os.environ.get("OMP_NUM_THREADS", "0"))
        return np.array(["torch" in sys.modules, threads, os.getpid(), self.seed / 2**31], np.float32)


class Sleepy(Line):
    """Takes a minute to close in a worker, and does not listen to SIGTERM."""

    def misbehave(self, fault: str) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        super().misbehave(fault)

    def close(self) -> None:
        if "torch" not in sys.modules:
            time.sleep(60)


def places(env: Any) -> dict[str, Any]:
    return {name: (env.place[name], 0.0) for name in env.agents}


def lamps(env: Any) -> tuple[Any, Any, Any]:
    """Two lamps, of which the second is out in odd steps."""
    return np.array([[1.0], [env.t]]), np.array([[0.0, 1.0], [5.0, 5.0]]), np.array([True, env.t % 2 == 0])


class Threads(Line):
    """Sees how many threads torch may use in this process (0 where it is not loaded), and the process's id."""

    def look(self, name: str) -> Any:
        torch = sys.modules.get("torch")
        return np.array([0 if torch is None else torch.get_num_threads(), 0, os.getpid(), self.t], np.float32)
