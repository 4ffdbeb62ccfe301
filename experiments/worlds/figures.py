"""Random and scripted figures of worlds, as their cards give them.

`python experiments/worlds/figures.py native/meet sisl/pursuit [--episodes 100] [--n-agents 8]` prints the mean return
per agent with its 95 % interval over episodes, and the world's own metrics, of random actions and of the script.
"""

from __future__ import annotations

import argparse

import gcoord
from gcoord import conf
from gcoord.data.playing import play, random_actions
from gcoord.scaleup.playing import scripted
from gcoord.scaleup.statistics import interval


def measure(name: str, n_agents: int | None, episodes: int, num_envs: int, seed: int = 0) -> None:
    """Prints one line a policy."""
    options = {"workers": 0} if "workers" in conf.env_node(name) else {}
    env = gcoord.make_env(name, n_agents=n_agents, num_envs=num_envs, seed=seed, **options)
    policies = {"random": random_actions(env.spec, seed, "cpu")}
    if hasattr(env, "scripted"):
        policies["scripted"] = scripted(env)
    for policy, act in policies.items():
        try:
            figures = play(env, act, None, episodes, seed)
        except NotImplementedError:
            continue
        value, low, high = interval([figures.pop("return_per_agent").double().numpy()])
        rest = ", ".join(f"{key} {float(x.double().mean()):.3g}" for key, x in figures.items())
        print(f"{name} n={env.spec.n_agents} {policy}: {value:.4g} [{low:.4g}, {high:.4g}] ({rest})", flush=True)
    env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--n-agents", type=int)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--num-envs", type=int, default=20)
    given = parser.parse_args()
    for name in given.names:
        measure(name, given.n_agents, given.episodes, given.num_envs)
