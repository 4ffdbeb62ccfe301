"""Trains one of BenchMARL's algorithms on VMAS navigation and writes what it learnt in test episodes as JSON.

Run with the peers' interpreter (see setup.sh):
    benchmarks/.venv-peers/bin/python benchmarks/peers/benchmarl_algorithms.py --algo qmix --frames 60000 --out x.json

The acting network is that of benchmarl_navigation.py, GATv2 over the full graph; central critics are BenchMARL's own
default, an MLP of all that the team sees (and does). All that is not named here is as BenchMARL ships it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from benchmarl.algorithms import IppoConfig, MaddpgConfig, MappoConfig, QmixConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from benchmarl_navigation import AGENTS, ENVS, EPOCHS, MAX_STEPS, MINIBATCH, evaluate, network

ALGORITHMS = {"ippo": IppoConfig, "mappo": MappoConfig, "maddpg": MaddpgConfig, "qmix": QmixConfig}
# Rows collected, and updates made of them, before policy gradients and before off-policy learners go on.
ROLLOUT, STEPS, UPDATES, BATCH, MEMORY = 100, 10, 20, 128, 100_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algo", choices=ALGORITHMS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=60_000, help="environment steps, summed over environments")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--lr", type=float, default=5e-5, help="Adam's step; the default is BenchMARL's own")
    parser.add_argument("--episodes", type=int, default=200, help="deterministic test episodes")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(width=64, rounds=1)
    return parser.parse_args()


def experiment(args: argparse.Namespace, folder: str) -> Experiment:
    config = ExperimentConfig.get_from_yaml()
    config.max_n_frames, config.lr = args.frames, args.lr
    config.on_policy_collected_frames_per_batch = ENVS * ROLLOUT
    config.on_policy_n_envs_per_worker = config.off_policy_n_envs_per_worker = ENVS
    config.on_policy_minibatch_size, config.on_policy_n_minibatch_iters = MINIBATCH, EPOCHS
    config.off_policy_collected_frames_per_batch = ENVS * STEPS
    config.off_policy_n_optimizer_steps, config.off_policy_train_batch_size = UPDATES, BATCH
    config.off_policy_memory_size = MEMORY
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    config.save_folder = folder
    task = VmasTask.NAVIGATION.get_from_yaml()
    task.config.update(n_agents=AGENTS, max_steps=MAX_STEPS, collisions=True, shared_rew=False)
    central = args.algo in ("mappo", "maddpg")
    return Experiment(
        task=task,
        algorithm_config=ALGORITHMS[args.algo].get_from_yaml(),
        model_config=network(args),
        critic_model_config=MlpConfig.get_from_yaml() if central else network(args),
        seed=args.seed,
        config=config,
    )


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = experiment(args, folder)
        run.run()
    values = evaluate(run, args.episodes, continuous=args.algo != "qmix")
    names = ("benchmarl", "torchrl", "torch", "torch-geometric", "vmas")
    result = {
        "algo": args.algo,
        "frames": run.total_frames,
        "seconds": time.perf_counter() - began,
        "episodes": {name: values[name] for name in ("return_per_agent", "success")},
        "versions": {name: version(name) for name in names},
    }
    args.out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
