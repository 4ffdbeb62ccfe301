"""Trains BenchMARL's IPPO with its PyG GATv2 network on VMAS navigation and writes speed and test return as JSON.

Run with the peers' interpreter (see setup.sh):
    benchmarks/.venv-peers/bin/python benchmarks/peers/benchmarl_navigation.py --seed 0 --frames 600000 --out x.json

What differs from BenchMARL's defaults is on the command line or in `experiment`; the optimiser's, GAE's and clipping's
own values stay as BenchMARL ships them unless named here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch_geometric
from benchmarl.algorithms import IppoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models import GnnConfig, MlpConfig, SequenceModelConfig
from torchrl.envs.utils import ExplorationType, set_exploration_type

AGENTS, ENVS, MAX_STEPS, FRAMES_PER_BATCH, MINIBATCH, EPOCHS = 4, 60, 100, 6_000, 1_500, 5
EVALUATION_SEED = 1_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=600_000, help="environment steps, summed over environments")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1, help="of message passing, each between linear layers")
    parser.add_argument("--lr", type=float, default=5e-4, help="Adam's step; BenchMARL's own default is 5e-5")
    parser.add_argument("--entropy", type=float, default=0.0, help="BenchMARL's own default")
    parser.add_argument("--gae-lambda", type=float, default=0.9, help="BenchMARL's own default")
    parser.add_argument("--envs", type=int, default=ENVS)
    parser.add_argument("--episodes", type=int, default=200, help="deterministic test episodes")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def hardware(device: str) -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cuda = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"cpu": names[0] if names else platform.processor(), "cpus": os.cpu_count(), "cuda": cuda}


def network(args: argparse.Namespace) -> SequenceModelConfig:
    """Linear, tanh, linear; then rounds of GATv2 over the full graph with self loops, each followed by an MLP."""

    def mlp() -> MlpConfig:
        return MlpConfig(num_cells=[args.width], activation_class=torch.nn.Tanh, layer_class=torch.nn.Linear)

    layers = [mlp()]
    for _ in range(args.rounds):
        # Positions are node features; as in BenchMARL's gnn.yaml no key makes edge features of them.
        gnn = GnnConfig(
            topology="full",
            self_loops=True,
            gnn_class=torch_geometric.nn.conv.GATv2Conv,
            gnn_kwargs={},
            position_key=None,
            pos_features=0,
            velocity_key=None,
            vel_features=0,
            exclude_pos_from_node_features=False,
            edge_radius=None,
        )
        layers += [gnn, mlp()]
    return SequenceModelConfig(model_configs=layers, intermediate_sizes=[args.width] * (len(layers) - 1))


class Clock(Callback):
    """When each iteration had collected and when it had trained."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.collected: list[float] = []
        self.trained: list[float] = []
        self.returns: list[float] = []

    def now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_batch_collected(self, batch) -> None:
        self.collected.append(self.now())
        ended = batch["next", "done"].squeeze(-1)
        returns = batch["next", "agents", "episode_reward"][ended]
        self.returns.append(returns.mean().item() if returns.numel() else float("nan"))

    def on_train_end(self, training_td, group) -> None:
        self.trained.append(self.now())


def experiment(args: argparse.Namespace, folder: str, clock: Clock) -> Experiment:
    config = ExperimentConfig.get_from_yaml()
    config.sampling_device = config.train_device = config.buffer_device = args.device
    config.max_n_frames = args.frames
    config.on_policy_collected_frames_per_batch = args.envs * MAX_STEPS
    config.on_policy_n_envs_per_worker = args.envs
    config.on_policy_minibatch_size = args.envs * MAX_STEPS * MINIBATCH // FRAMES_PER_BATCH
    config.on_policy_n_minibatch_iters = EPOCHS
    config.lr = args.lr
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    config.save_folder = folder
    algorithm = IppoConfig.get_from_yaml()
    algorithm.entropy_coef = args.entropy
    algorithm.lmbda = args.gae_lambda
    task = VmasTask.NAVIGATION.get_from_yaml()
    task.config.update(n_agents=AGENTS, max_steps=MAX_STEPS, collisions=True, shared_rew=False)
    return Experiment(
        task=task,
        algorithm_config=algorithm,
        model_config=network(args),
        critic_model_config=network(args),
        seed=args.seed,
        config=config,
        callbacks=[clock],
    )


def evaluate(run: Experiment, episodes: int, continuous: bool = True) -> dict[str, list[float]]:
    """One whole deterministic episode of each of `episodes` environments; values per episode."""
    torch.manual_seed(EVALUATION_SEED)
    device = run.config.sampling_device
    env = run.task.get_env_fun(num_envs=episodes, continuous_actions=continuous, seed=EVALUATION_SEED, device=device)()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        played = env.rollout(max_steps=MAX_STEPS, policy=run.policy, break_when_any_done=False)
    env.close()
    done = played["next", "done"][..., 0]  # [B, T]
    first = (done.cumsum(1) - done.long()) == 0  # rows up to and with the first final one
    reward = played["next", "agents", "reward"][..., 0]  # [B, T, N]
    last = first.sum(1) - 1
    seen = played["next", "agents", "observation"][torch.arange(episodes, device=last.device), last]  # [B, N, O]
    radius = run.task.config["agent_radius"]
    return {
        "return_per_agent": (reward * first.unsqueeze(-1)).sum(1).mean(1).tolist(),
        "success": (seen[..., 4:6].norm(dim=-1) < radius).float().mean(1).tolist(),
        "length": (last + 1).tolist(),
    }


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)

    clock = Clock(args.device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = experiment(args, folder, clock)
        run.run()
    wall = time.perf_counter() - began
    # The first iteration pays for what is made once; times run from the end of one training to the end of the next.
    collecting = [c - t for c, t in zip(clock.collected[1:], clock.trained[:-1], strict=True)]
    training = [t - c for c, t in zip(clock.collected[1:], clock.trained[1:], strict=True)]
    frames = args.envs * MAX_STEPS * len(training)
    values = evaluate(run, args.episodes)
    actor = sum(p.numel() for p in run.policy.parameters())
    result = {
        "peer": "BenchMARL IPPO, PyG GATv2Conv",
        "world": "vmas/navigation",
        "n_agents": AGENTS,
        "num_envs": args.envs,
        "frames": run.total_frames,
        "seed": args.seed,
        "threads": args.threads,
        "device": args.device,
        "settings": {
            "frames_per_batch": args.envs * MAX_STEPS,
            "minibatch": run.config.on_policy_minibatch_size,
            "epochs": EPOCHS,
            "width": args.width,
            "rounds": args.rounds,
            "lr": args.lr,
            "entropy": args.entropy,
            "gae_lambda": args.gae_lambda,
            "gamma": run.config.gamma,
            "max_steps": MAX_STEPS,
            "actor_parameters": actor,
        },
        "speed": {
            "frames_per_second": frames / (sum(collecting) + sum(training)) if training else None,
            "collection_seconds": sum(collecting),
            "training_seconds": sum(training),
            "iterations_timed": len(training),
            "wall_seconds": wall,
        },
        "training_return_per_agent": clock.returns,
        "evaluation": {
            "episodes": args.episodes,
            "seed": EVALUATION_SEED,
            **{name: sum(per_episode) / len(per_episode) for name, per_episode in values.items()},
        },
        "evaluation_by_episode": values,
        "hardware": hardware(args.device),
        "versions": {
            name: version(name)
            for name in ("benchmarl", "torchrl", "tensordict", "torch", "torch-geometric", "vmas", "numpy")
        }
        | {"python": platform.python_version()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    summary = {**result["speed"], **result["evaluation"]}
    print(json.dumps({name: round(value, 4) if value is not None else None for name, value in summary.items()}))


if __name__ == "__main__":
    main()
