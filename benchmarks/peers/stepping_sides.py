"""SuperSuit, TorchRL and plain pipes step the worlds of benchmarks/stepping.py, in the peers' own interpreter.

`python stepping_sides.py '{"world": ..., "maker": ..., "kwargs": ..., "copies": 8, "workers": 2, "who": ...}'` builds
all three, prints a line of JSON with versions, and answers each line `SIDE SECONDS` with environment steps a second,
on the clock and by processor time.
The worlds are gcoord's quicker ones, found by PYTHONPATH: what differs is how they are stepped.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pettingzoo import ParallelEnv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from processor_time import descendants, rates
from small_policy import SmallPolicy

from gcoord.envs.recipe import find_function


class Plain(ParallelEnv):
    """One of gcoord's worlds with all that PettingZoo's users may ask for."""

    metadata: ClassVar[dict[str, Any]] = {"name": "world", "render_modes": []}
    render_mode = None

    def __init__(self, maker: str, kwargs: dict[str, Any]) -> None:
        self.world = find_function(maker)(**kwargs)
        self.possible_agents = list(self.world.possible_agents)

    def observation_space(self, agent: str) -> Any:
        return self.world.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        return self.world.action_space(agent)

    @property
    def agents(self) -> list[str]:
        return self.world.agents

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return self.world.reset(seed=seed, options=options)

    def step(self, actions: dict[str, Any]) -> Any:
        return self.world.step(actions)

    def close(self) -> None:
        self.world.close()


def supersuit_side(given: dict[str, Any], policy: SmallPolicy) -> Iterator[None]:
    """concat_vec_envs with its own worker processes, which reset what ends."""
    import supersuit

    world = supersuit.pettingzoo_env_to_vec_env_v1(Plain(given["maker"], given["kwargs"]))
    env = supersuit.concat_vec_envs_v1(world, given["copies"], num_cpus=given["workers"], base_class="gymnasium")
    own, _ = env.reset(seed=given["seed"])
    while True:
        own, *_ = env.step(policy.choose(torch.as_tensor(own)).numpy())
        yield


def torchrl_side(given: dict[str, Any], policy: SmallPolicy) -> Iterator[None]:
    """ParallelEnv of as many processes as the others have, each with its share of copies in a SerialEnv."""
    from torchrl.envs import ParallelEnv as Processes
    from torchrl.envs import PettingZooWrapper, SerialEnv

    maker, kwargs, share = given["maker"], given["kwargs"], given["copies"] // given["workers"]
    # All agents of a world are one group: one stacked tensor, as quick as this library has it.
    probe = Plain(maker, kwargs)
    groups = {"team": probe.possible_agents}
    probe.close()

    def one() -> Any:
        return PettingZooWrapper(
            env=Plain(maker, kwargs), group_map=groups, use_mask=False, categorical_actions=True, done_on_any=True
        )

    env = Processes(given["workers"], lambda: SerialEnv(share, one))
    env.set_seed(given["seed"])
    state = env.reset()
    while True:
        action = policy.choose(state["team", "observation"])
        state["team", "action"] = action
        _, state = env.step_and_maybe_reset(state)
        yield


def pipes_side(given: dict[str, Any], policy: SmallPolicy) -> Iterator[None]:
    """Worker processes that are sent actions and send back arrays, pickled, one round trip a step."""
    share = given["copies"] // given["workers"]
    ends = []
    for first in range(0, given["copies"], share):
        ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, given["maker"], given["kwargs"], share, given["seed"] + first)
        multiprocessing.Process(target=pipes_worker, args=arguments, daemon=True).start()
        ends.append(ours)
    own = np.concatenate([end.recv() for end in ends])
    while True:
        actions = policy.choose(torch.as_tensor(own)).numpy()
        for end, part in zip(ends, np.split(actions, len(ends)), strict=True):
            end.send(part)
        answers = [end.recv() for end in ends]
        own = np.concatenate([answer[0] for answer in answers])
        yield


def pipes_worker(pipe: Any, maker: str, kwargs: dict[str, Any], share: int, seed: int) -> None:
    """Steps its copies and resets those that end."""
    torch.set_num_threads(1)
    worlds = [Plain(maker, kwargs) for _ in range(share)]
    names = worlds[0].possible_agents
    pipe.send(np.stack([stacked(world.reset(seed + i)[0], names) for i, world in enumerate(worlds)]))
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            own, rewards, dones = [], [], []
            for world, actions in zip(worlds, pipe.recv(), strict=True):
                seen, reward, *_ = world.step(dict(zip(names, actions.tolist(), strict=True)))
                dones.append(not world.agents)
                rewards.append([reward[name] for name in names])
                own.append(stacked(world.reset()[0] if dones[-1] else seen, names))
            pipe.send((np.stack(own), np.array(rewards, np.float32), np.array(dones)))


def stacked(seen: dict[str, Any], names: list[str]) -> np.ndarray:
    return np.stack([seen[name] for name in names])


SIDES = {"supersuit": supersuit_side, "torchrl": torchrl_side, "pipes": pipes_side}


def main() -> None:
    warnings.filterwarnings("ignore")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    given = json.loads(sys.argv[1])
    probe = Plain(given["maker"], given["kwargs"])
    first = probe.possible_agents[0]
    policy = SmallPolicy(
        tuple(probe.observation_space(first).shape), int(probe.action_space(first).n), given["who"]
    ).eval()
    probe.close()
    running: dict[str, tuple[Iterator[None], set[int]]] = {}
    for name, make in SIDES.items():
        others, side = descendants(os.getpid()), make(given, policy)
        next(side)
        running[name] = side, descendants(os.getpid()) - others
    packages = ("torch", "torchrl", "tensordict", "supersuit", "pettingzoo", "gymnasium", "numpy")
    print(json.dumps({name: importlib.metadata.version(name) for name in packages}), flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        side, workers = running[name]

        def step(side: Iterator[None] = side) -> int:
            next(side)
            return int(given["copies"])

        print(json.dumps(rates(step, float(seconds), workers)), flush=True)
    # The sides' own processes are of this one's group: all go at once, and nobody is waited for.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
