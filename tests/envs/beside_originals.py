"""Our worlds played by the policies that played the originals, and the test that both are distributed alike.

`original_figures/` was made by benchmarks/peers/originals.py from PettingZoo 1.25.0 (waterworld) and 1.17.0 (prison).
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcoord.envs import TeamEnv

HERE = Path(__file__).resolve().parent
PEER = HERE.parents[1] / "benchmarks" / "peers" / "originals.py"


def reference(world: str) -> list[dict[str, Any]]:
    """The originals' figures, one row for each team size and policy; lists hold one value per episode."""
    return json.loads((HERE / "original_figures" / f"{world}.json").read_text())  # type: ignore[no-any-return]


def policy_of(world: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location("peer_originals", PEER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.POLICIES[world][name]()


def play_ours(env: TeamEnv, policy: str, seed: int = 0) -> dict[str, np.ndarray]:
    """One episode of each team: returns and counts by the names that the originals' figures have."""
    act, rng = policy_of(env.spec.world.split("/")[1], policy), np.random.default_rng(seed)
    seen = env.reset(seed)
    total = torch.zeros(env.spec.num_envs, env.spec.n_agents)
    counts = {name: torch.zeros(env.spec.num_envs) for name in env.spec.metrics}
    for _ in range(env.spec.max_steps or 0):
        seen, outcome = env.step(torch.from_numpy(act(seen.own.numpy(), rng)))
        total += outcome.reward
        counts = {name: value + outcome.metrics[name] for name, value in counts.items()}
    assert outcome.truncated.all()
    figures = {"return": total.sum(-1), "return_of_last": total[:, -1], **counts}
    return {name: value.numpy() for name, value in figures.items()}


def assert_same_distribution(row: dict[str, Any], ours: dict[str, np.ndarray]) -> None:
    """Means within 4 standard errors of their difference, and distribution functions no farther apart than samples of
    one distribution are but once in 10,000 (Kolmogorov and Smirnov): some 60 figures are tested, and one false alarm
    among them shall be unlikely. The standard error is the seed-to-seed spread over the root of the episodes."""
    names = [name for name, value in row.items() if isinstance(value, list) and name in ours]
    assert {"return", "return_of_last"} <= set(names)
    for name in names:
        a, b = np.asarray(row[name], dtype=float), np.round(ours[name].astype(float), 3)
        error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        gap = abs(a.mean() - b.mean())
        assert gap <= 4 * error + 1e-9, f"{name}: {a.mean():.3f} and {b.mean():.3f}, standard error {error:.3f}"
        at = np.sort(np.concatenate([a, b]))
        apart = np.abs(
            np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(b)
        )
        bound = math.sqrt(-math.log(1e-4 / 2) / 2 * (1 / len(a) + 1 / len(b)))
        assert apart.max() <= bound, f"{name}: distribution functions {apart.max():.2f} apart, expected {bound:.2f}"
