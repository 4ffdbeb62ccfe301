"""Runs in the file format of marl-eval, with its absolute metric.

Towards a Standardised Performance Evaluation Protocol for Cooperative MARL, https://arxiv.org/abs/2209.10485; the
format is that of https://github.com/instadeepai/marl-eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gcoord.data.playing import acts, play
from gcoord.policy import load
from gcoord.run import make_world, pick_device
from gcoord.scaleup.finished import Finished, by_task

# Seeds that neither training, periodic evaluation nor the test at the end of a run has met.
ABSOLUTE_SEED = 40_000_003
TIMES = 10
EVALUATION = "evaluation_"


def absolute(run: Finished, device: str = "cpu") -> dict[str, list[float]]:
    """The absolute metric (section 4.1 of the paper): the best policy of the run, ten times the episodes of its
    evaluations, on seeds of their own. Values of every figure, by episode, of all sizes trained on.

    The policy of a run folder is the best that its evaluations found.
    """
    policy = load(run.folder, pick_device(device), trust=None)
    episodes = TIMES * int(run.cfg.evaluation.episodes)
    values: dict[str, list[float]] = {}
    for size in run.summary["sizes"]:
        seed = ABSOLUTE_SEED + run.seed
        env = make_world(run.cfg, size, min(episodes, run.cfg.evaluation.num_envs), policy.device, seed)
        try:
            memory = policy.agent.body.initial((env.spec.num_envs,), size, policy.device)
            act = acts(policy.agent, epsilon=run.cfg.evaluation.epsilon)
            # Every team plays the same number of episodes; what is beyond ten times is not counted.
            for name, value in play(env, act, memory, episodes, seed).items():
                values.setdefault(name, []).extend(value[:episodes].tolist())
        finally:
            env.close()
    return values


def content(
    runs: Sequence[Finished],
    absolutes: Callable[[Finished], dict[str, list[float]]] = absolute,
    metrics: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What marl-eval reads: environment, task, algorithm, run, step; each step's `step_count` in frames and lists of
    values, and `absolute_metrics`.

    Arguments:
        runs: of any tasks; each method has to have the same number of runs of each task, as marl-eval asks.
        absolutes: gives a run's absolute metric.
        metrics: kept; None: those that every run reports.

    The steps are the evaluations that all runs of a task had at the same frames, each with the mean over its episodes.
    Raises ValueError where methods or numbers of runs differ between tasks, or no evaluation is shared.
    """
    tasks = by_task(runs)
    numbers = {task: {method: len(members) for method, members in methods.items()} for task, methods in tasks.items()}
    first = next(iter(numbers.values()), {})
    if not first or len(set(first.values())) > 1 or any(number != first for number in numbers.values()):
        raise ValueError(f"expected as many runs of every method on every task, as marl-eval asks (got {numbers})")
    shared = [name for name in runs[0].metrics() if all(name in run.metrics() for run in runs)]
    kept = shared if metrics is None else list(metrics)
    found: dict[str, Any] = {}
    steps = {task: shared_steps(methods, kept) for task, methods in tasks.items()}
    fewest = min(map(len, steps.values()))
    for task, methods in tasks.items():
        # Every run has the same number of steps: the last ones that all tasks have.
        frames = steps[task][-fewest:]
        for method, members in methods.items():
            for run in members:
                curves = {name: dict(zip(*run.curve(EVALUATION + name), strict=True)) for name in kept}
                told: dict[str, Any] = {
                    f"step_{i}": {"step_count": int(at), **{name: [float(curves[name][at])] for name in kept}}
                    for i, at in enumerate(frames)
                }
                whole = absolutes(run)
                told["absolute_metrics"] = {name: whole[name] for name in kept}
                world = found.setdefault(run.world, {}).setdefault(f"{run.sizes}_agents", {})
                world.setdefault(method, {})[f"seed_{run.seed}"] = told
    return found


def shared_steps(methods: dict[str, list[Finished]], metrics: Sequence[str]) -> list[float]:
    """Frames at which every run was evaluated in every figure, rising. Raises ValueError where there are none."""
    common: set[float] | None = None
    for members in methods.values():
        for run in members:
            for name in metrics:
                at = set(run.curve(EVALUATION + name)[0].tolist())
                common = at if common is None else common & at
    if not common:
        raise ValueError(
            "expected runs that were evaluated at the same frames for marl-eval (got none in common); "
            "evaluation.frames sets how often"
        )
    return sorted(common)
