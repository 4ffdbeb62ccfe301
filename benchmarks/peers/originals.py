"""The originals of native/waterworld and native/prison, played: figures to hold ours against, and their speed.

Runs without gcoord and torch, in the interpreters that `setup_originals.sh` makes:
`.venv-waterworld/bin/python peers/originals.py waterworld figures --out figures.json`, `... speed`, `... trace`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

Policy = Callable[[np.ndarray, np.random.Generator], np.ndarray]
SENSORS = 30


# Policies for both sides: observations [*, O] -> actions [*, A]; they look at nothing else.


def at_random(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thrust drawn anew each step."""
    return rng.uniform(-1, 1, (*own.shape[:-1], 2)).astype(np.float32)


def drift(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A push at one step in twenty, else none."""
    return at_random(own, rng) * (rng.random((*own.shape[:-1], 1)) < 0.05)


def follow(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some thrust along the ray on which an evader is nearest; where none is, as `drift`."""
    evader = own[..., 2 * SENSORS : 3 * SENSORS]
    angle = evader.argmin(-1) * (2 * np.pi / SENSORS)
    way = 0.3 * np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
    return np.where((evader.min(-1) < 1)[..., None], way, drift(own, rng))


def three(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Left, stay or right."""
    return rng.integers(3, size=own.shape[:-1])


def swing() -> Policy:
    """Fourteen steps to the right, as many to the left; one step in five goes anywhere."""
    steps = 0

    def act(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal steps
        steps += 1
        way = 2 if steps % 28 <= 14 else 0
        return np.where(rng.random(own.shape[:-1]) < 0.2, three(own, rng), way)

    return act


def pixels() -> Policy:
    """Seventeen steps to the right, as many to the left, each by 10 to 24 pixels."""
    steps = 0

    def act(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        nonlocal steps
        steps += 1
        way = 1 if steps % 34 <= 17 else -1
        return (way * rng.uniform(10, 24, (*own.shape[:-1], 1))).astype(np.float32)

    return act


# By world and name: what makes the policy of an episode.
POLICIES: dict[str, dict[str, Callable[[], Policy]]] = {
    "waterworld": {"random": lambda: at_random, "drift": lambda: drift, "follow": lambda: follow},
    "prison": {"random": lambda: three, "swing": swing, "continuous": pixels},
}
BLIND = {"random", "drift"}  # policies of waterworld that need no senses, which cost the original most of its time


def waterworld(n_agents: int, **kwargs: Any) -> Any:
    """The original, which also counts what its agents do in `counts`."""
    from pettingzoo.sisl import waterworld_v4
    from pettingzoo.sisl.waterworld.waterworld_base import WaterworldBase

    class Counted(WaterworldBase):  # type: ignore[misc]
        def reset(self) -> Any:
            self.counts = {"catches": 0, "poisons": 0}
            self.anew: list[Any] = []
            return super().reset()

        def pursuer_poison_begin_callback(self, arbiter: Any, space: Any, data: Any) -> Any:
            self.counts["poisons"] += 1
            self.anew.append(arbiter.shapes[1])
            return super().pursuer_poison_begin_callback(arbiter, space, data)

        def pursuer_evader_separate_callback(self, arbiter: Any, space: Any, data: Any) -> Any:
            if arbiter.shapes[1].counter >= self.n_coop:
                self.counts["catches"] += 1
                self.anew.append(arbiter.shapes[1])
            return super().pursuer_evader_separate_callback(arbiter, space, data)

    env = waterworld_v4.parallel_env(n_pursuers=n_agents, **kwargs)
    base = env.unwrapped
    base.env = Counted(n_pursuers=n_agents, **kwargs)
    return env


def blindfold(env: Any) -> None:
    base = env.unwrapped.env
    nothing = [np.ones(8 * SENSORS + 2, dtype=np.float32)] * base.n_pursuers
    base.observe_list = lambda: nothing


def prison(n_agents: int, **kwargs: Any) -> Any:
    """The original, two prisoners to a floor."""
    from pettingzoo.butterfly import prison_v4

    return prison_v4.parallel_env(vector_observation=True, num_floors=n_agents // 2, **kwargs)


def restart(env: Any, seed: int) -> dict[str, Any]:
    try:
        return env.reset(seed=seed)[0]  # type: ignore[no-any-return]
    except TypeError:  # prison's time: seed() apart, observations alone
        env.seed(seed)
        return env.reset()  # type: ignore[no-any-return]


def play(env: Any, policy: Policy, seed: int) -> dict[str, Any]:
    """One episode: every agent's return, and what the world counted."""
    rng = np.random.default_rng(seed)
    seen, names = restart(env, seed), list(env.possible_agents)
    total = dict.fromkeys(names, 0.0)
    while env.agents:
        action = policy(np.stack([seen[name] for name in names]), rng)
        seen, reward, *_ = env.step(dict(zip(names, action)))
        for name in names:
            total[name] += float(reward[name])
    counts = getattr(getattr(env.unwrapped, "env", None), "counts", {})
    return {"returns": [round(total[name], 4) for name in names], **counts}


def figures(world: str, sizes: list[int], episodes: list[int], out: str) -> None:
    """Returns and counts of each policy's episodes at each size, written row by row; rows that are there are kept."""
    rows: list[dict[str, Any]] = []
    if os.path.exists(out):
        with open(out) as file:
            rows = json.load(file)
    for n, count in zip(sizes, episodes):
        for name, make in POLICIES[world].items():
            if any((row["n_agents"], row["policy"]) == (n, name) for row in rows):
                continue
            env = MAKERS[world](n, **({"continuous": True} if name == "continuous" else {}))
            if world == "waterworld" and name in BLIND:
                blindfold(env)
            played = [play(env, make(), seed) for seed in range(count)]
            row: dict[str, Any] = {"world": world, "n_agents": n, "policy": name, "episodes": count}
            row["return"] = [round(sum(one["returns"]), 3) for one in played]
            row["return_of_last"] = [round(one["returns"][-1], 3) for one in played]
            for key in sorted(played[0].keys() - {"returns"}):
                row[key] = [one[key] for one in played]
            rows.append(row)
            with open(out, "w") as file:
                file.write("[" + ",\n".join(json.dumps(one) for one in rows) + "]\n")


def speed(world: str, n_agents: int, seconds: float) -> dict[str, float]:
    """Agent steps per second of the processor, with random actions drawn beforehand."""
    env = MAKERS[world](n_agents)
    names, rng = list(env.possible_agents), np.random.default_rng(0)
    width = len(next(iter(restart(env, 0).values())))
    drawn = [POLICIES[world]["random"]()(np.zeros((n_agents, width)), rng) for _ in range(100)]
    actions = [dict(zip(names, action)) for action in drawn]
    steps, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        if not env.agents:
            restart(env, steps)
        env.step(actions[steps % 100])
        steps += 1
    spent = time.process_time() - start
    return {"n_agents": n_agents, "agent_steps_per_second": steps * n_agents / spent}


def trace(n_agents: int, steps: int, seed: int, **kwargs: Any) -> dict[str, np.ndarray]:
    """Waterworld step by step: where everything is, what is sensed and earned, and which things start anew."""
    env = waterworld(n_agents, **kwargs)
    base, rng = env.unwrapped.env, np.random.default_rng(seed)
    seen = restart(env, seed)
    rows: dict[str, list[Any]] = {name: [] for name in ("position", "velocity", "own", "action", "reward", "anew")}
    names = list(env.possible_agents)

    def note() -> None:
        things = [*base.pursuers, *base.evaders, *base.poisons]
        rows["position"].append([tuple(thing.body.position) for thing in things])
        rows["velocity"].append([tuple(thing.body.velocity) for thing in things])
        rows["own"].append([seen[name] for name in names])
        rows["anew"].append([thing.shape in base.anew for thing in things])
        base.anew.clear()

    note()
    for _ in range(steps):
        action = drift(np.stack([seen[name] for name in names]), rng)
        seen, reward, *_ = env.step(dict(zip(names, action)))
        rows["action"].append(action)
        rows["reward"].append([reward[name] for name in names])
        note()
    out = {name: np.asarray(value, dtype=np.float32) for name, value in rows.items()}
    out["position"] /= 750
    out["velocity"] /= 750
    return out


def trace_of_prison(n_agents: int, seed: int, policy: str, **kwargs: Any) -> dict[str, np.ndarray]:
    """Prison step by step: what each senses, does and earns."""
    env, rng = prison(n_agents, **kwargs), np.random.default_rng(seed)
    seen, names, act = restart(env, seed), list(env.possible_agents), POLICIES["prison"][policy]()
    rows: dict[str, list[Any]] = {"own": [[seen[name] for name in names]], "action": [], "reward": []}
    while env.agents:
        action = act(np.zeros((n_agents, 1)), rng)
        seen, reward, *_ = env.step(dict(zip(names, action)))
        rows["action"].append(action)
        rows["reward"].append([reward[name] for name in names])
        rows["own"].append([seen[name] for name in names])
    return {name: np.asarray(value, dtype=np.float32) for name, value in rows.items()}


MAKERS: dict[str, Callable[..., Any]] = {"waterworld": waterworld, "prison": prison}
PRISON_TRACES = {
    "random": dict(n_agents=10, seed=1, policy="random"),
    "swing": dict(n_agents=8, seed=2, policy="swing", synchronized_start=True),
    "continuous": dict(n_agents=8, seed=3, policy="continuous", continuous=True),
}
TRACES = {
    "plain": dict(n_agents=4, steps=120, seed=1, n_sensors=8, radius=0.03),
    "together": dict(n_agents=8, steps=120, seed=2, n_sensors=8, radius=0.03, n_coop=2, local_ratio=0.25, n_poisons=4),
    "slow": dict(n_agents=3, steps=60, seed=3, n_sensors=5, speed_features=False, pursuer_speed=0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=sorted(MAKERS))
    parser.add_argument("what", choices=["figures", "speed", "trace"])
    parser.add_argument("--n-agents", type=int, nargs="+", default=[2, 5, 16])
    parser.add_argument("--episodes", type=int, nargs="+", default=[120, 60, 24])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", default="", help="file to write; needed but for speed")
    arguments = parser.parse_args()
    if arguments.what == "trace":
        of, plans = (trace, TRACES) if arguments.world == "waterworld" else (trace_of_prison, PRISON_TRACES)
        parts = {f"{name}.{key}": value for name, kw in plans.items() for key, value in of(**kw).items()}
        np.savez_compressed(arguments.out, **parts)
        return
    if arguments.what == "figures":
        figures(arguments.world, arguments.n_agents, arguments.episodes, arguments.out)
        return
    print(json.dumps([speed(arguments.world, n, arguments.seconds) for n in arguments.n_agents]))


if __name__ == "__main__":
    main()
