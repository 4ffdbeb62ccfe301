"""What BenchMARL does when what was trained with 3 agents is to go on with 9, in its own words, as JSON.

Run with the peers' interpreter (see setup.sh):
    benchmarks/.venv-peers/bin/python benchmarks/peers/benchmarl_sizes.py --out experiments/peers/sizes.json

For each of its algorithms that ours are asked for (QMIX, MAPPO, MADDPG), and for an IPPO beside them, three attempts:
the policy's weights are loaded at 9 and play, all weights are loaded, and it goes on training with them. The policy is
GATv2 over the full graph, which has no number of agents in it; critics are BenchMARL's default, an MLP, or begin with
that GATv2 layer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from benchmarl.environments import VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig, SequenceModelConfig
from benchmarl_algorithms import ALGORITHMS
from benchmarl_navigation import network

SMALL, LARGE, ENVS, STEPS = 3, 9, 4, 10
TRIED = [("ippo", "gnn"), ("mappo", "mlp"), ("mappo", "gnn"), ("maddpg", "mlp"), ("maddpg", "gnn"), ("qmix", "none")]


def experiment(algo: str, critic: str, n_agents: int, folder: str) -> Experiment:
    config = ExperimentConfig.get_from_yaml()
    config.max_n_iters, config.max_n_frames = 1, None
    config.on_policy_collected_frames_per_batch = config.off_policy_collected_frames_per_batch = ENVS * STEPS
    config.on_policy_n_envs_per_worker = config.off_policy_n_envs_per_worker = ENVS
    config.on_policy_minibatch_size, config.on_policy_n_minibatch_iters = ENVS * STEPS, 1
    config.off_policy_n_optimizer_steps, config.off_policy_train_batch_size = 1, ENVS
    config.off_policy_memory_size = 1_000
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    config.save_folder = folder
    task = VmasTask.NAVIGATION.get_from_yaml()
    task.config.update(n_agents=n_agents, max_steps=STEPS, collisions=True, shared_rew=False)
    shape = SimpleNamespace(width=16, rounds=1)
    # A graph layer of a central critic has to be its first.
    _, graph, last = (policy := network(shape)).model_configs
    critics = {
        "gnn": SequenceModelConfig(model_configs=[graph, last], intermediate_sizes=[shape.width]),
        "mlp": MlpConfig.get_from_yaml(),
    }
    return Experiment(
        task=task,
        algorithm_config=ALGORITHMS[algo].get_from_yaml(),
        model_config=policy,
        critic_model_config=critics.get(critic, policy),
        seed=0,
        config=config,
    )


def attempt(act: Callable[[], object]) -> str:
    """`works`, or the error in its own words: the innermost one's kind and message, in one line."""
    try:
        act()
    except Exception as error:
        while (inner := error.__cause__ or error.__context__) is not None:
            error = inner
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sizes = [line for line in lines[1:] if "size mismatch" in line][:1]
        return " ".join([f"{type(error).__name__}: {lines[0]}", *sizes])[:400]
    return "works"


def tried(algo: str, critic: str, folder: str) -> dict[str, str]:
    small = experiment(algo, critic, SMALL, folder)
    small.run()
    alone, whole = (experiment(algo, critic, LARGE, folder) for _ in range(2))

    def play() -> None:
        alone.policy.load_state_dict(small.policy.state_dict())
        continuous = algo != "qmix"
        env = alone.task.get_env_fun(num_envs=ENVS, continuous_actions=continuous, seed=0, device="cpu")()
        with torch.no_grad():
            played = env.rollout(max_steps=STEPS, policy=alone.policy)
        assert played["agents", "action"].shape[2] == LARGE

    def load() -> None:
        whole.losses["agents"].load_state_dict(small.losses["agents"].state_dict())

    loads = attempt(load)
    return {
        "policy_acts": attempt(play),
        "weights_load": loads,
        "training_goes_on": attempt(whole.run) if loads == "works" else "not reached",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for algo, critic in TRIED:
        with tempfile.TemporaryDirectory() as folder:
            found.append({"algo": algo, "critic": critic, **tried(algo, critic, folder)})
        print(json.dumps(found[-1]), flush=True)
    versions = {name: version(name) for name in ("benchmarl", "torchrl", "torch", "torch-geometric", "vmas")}
    result = {"trained_n_agents": SMALL, "n_agents": LARGE, "versions": versions, "attempts": found}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
