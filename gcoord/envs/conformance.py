"""The public test of a world: every promise of `TeamEnv`, each with one line that says how it was broken."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gcoord.envs.team import TeamEnv
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Observation, Outcome

Factory = Callable[..., TeamEnv]


class Frame(NamedTuple):
    """What was seen, the action taken on it, and what came of it."""

    seen: Observation
    action: Tensor
    outcome: Outcome


def check_team_env(
    env: TeamEnv | Factory,
    n_agents: Sequence[int] = (),
    num_envs: int = 3,
    seed: int = 0,
    steps: int | None = None,
    stochastic: bool = True,
) -> None:
    """Raises ValueError, in one line, at the first promise of `TeamEnv` that a world breaks.

    Given an environment, plays it (it stays open). Given a factory, called as
    `factory(n_agents=, num_envs=, device="cpu", seed=)`, also holds sizes and instances against one another.

    Arguments:
        n_agents: team sizes to make (none: the world's own).
        num_envs: teams in a batch. seed: of the runs.
        steps: to play in each run; None: until every team was reset once and a little further, at most 200. Rules
            about ends of episodes are tried only where episodes end within: make the world with few steps.
        stochastic: whether seeds make a difference; False skips what relies on it.
    """
    if isinstance(env, TeamEnv):
        _check_spec(env.spec)
        _check_run(env, seed, steps, stochastic)
        return
    specs = []
    for size in n_agents or (None,):
        made: list[TeamEnv] = []

        def make(own_seed: int, size: int | None = size, made: list[TeamEnv] = made) -> TeamEnv:
            made.append(env(n_agents=size, num_envs=num_envs, device="cpu", seed=own_seed))
            return made[-1]

        try:
            specs.append(_check_factory(make, size, num_envs, seed, steps, stochastic))
        finally:
            for one in made:
                one.close()
                # Closing twice is allowed.
                one.close()
    for spec in specs[1:]:
        here, there = specs[0].sizes_any(), spec.sizes_any()
        differing = {key: (here[key], there[key]) for key in here if here[key] != there[key]}
        _require(
            not differing,
            f"the same spec at n_agents={specs[0].n_agents} and {spec.n_agents}, but for sizes",
            differing,
        )


def _require(promise: bool, expected: str, got: object) -> None:
    if not promise:
        raise ValueError(f"expected {expected} (got {got})")


def _check_factory(
    make: Callable[[int], TeamEnv], size: int | None, num_envs: int, seed: int, steps: int | None, stochastic: bool
) -> TeamSpec:
    first, second = make(seed), make(seed)
    spec = first.spec
    _check_spec(spec)
    _require(spec.num_envs == num_envs, f"a spec with num_envs={num_envs}", spec.num_envs)
    if size is not None:
        _require(spec.n_agents == size, f"a spec with n_agents={size}", spec.n_agents)
    frames, last = _check_run(first, seed, steps, stochastic)
    # A fresh instance, while the global streams are stirred and another instance plays on between its steps.
    stranger = make(seed + 1)
    stranger.reset()
    with _kept_global_streams():
        _replay(second, seed, frames, last, "a fresh instance to play as a used one with the same seed", stranger)
    if hasattr(first, "state_dict"):
        _check_state(first, second, seed, frames)
    return spec


def _check_spec(spec: TeamSpec) -> None:
    again = TeamSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    _require(again == spec, "a spec that survives JSON", again)


def _check_run(env: TeamEnv, seed: int, steps: int | None, stochastic: bool) -> tuple[list[Frame], Observation]:
    """Plays twice with the same seed, the actions that must not matter drawn anew; returns the run."""
    spec = env.spec
    frames, last = _play(env, env.reset(seed), seed, steps)
    _replay(env, seed, frames, last, "the same run again after reset with the same seed")
    if stochastic:
        other, following = env.reset(seed + 1), env.reset(None)
        _require(_difference(frames[0].seen, other) is not None, "other seeds to start differently", "the same start")
        _require(_difference(other, following) is not None, "reset(None) to go on to new seeds", "the same start")
        _require(
            _difference(following, (env.reset(seed + 1), env.reset(None))[1]) is None,
            "reset(None) to follow from the seed before it",
            "another start",
        )
        if spec.num_envs > 1:
            start = frames[0].seen
            same = all(_difference(start[:1], start[b : b + 1]) is None for b in range(1, spec.num_envs))
            _require(not same, "the teams of a batch to start differently", f"{spec.num_envs} equal starts")
    return frames, last


def _play(env: TeamEnv, seen: Observation, seed: int, steps: int | None) -> tuple[list[Frame], Observation]:
    spec, generator = env.spec, torch.Generator().manual_seed(seed)
    _check_observation(spec, seen)
    kept: list[tuple[Any, Any]] = [(seen, seen.clone())]
    frames: list[Frame] = []
    done = torch.zeros(spec.num_envs, dtype=torch.bool, device=seen.alive.device)
    was_reset = done.clone()
    _require(bool(seen.alive.any(-1).all()), "a living agent in every team after a reset", "a dead team")
    beyond = 0
    while len(frames) < (200 if steps is None else steps) and not (steps is None and beyond > 3):
        beyond += bool(was_reset.all())
        action = _sample(spec, seen, generator)
        after, outcome = env.step(action)
        _check_observation(spec, after)
        _check_outcome(spec, seen, outcome, done)
        _check_alive(spec, seen, after, outcome)
        frames.append(Frame(seen.clone(), action, outcome.clone()))
        kept += [(after, after.clone()), (outcome, outcome.clone())]
        was_reset |= ~outcome.valid
        seen, done = after, outcome.terminated | outcome.truncated
    for returned, copy in kept:
        changed = [name for name, a, b in _fields(returned, copy) if not torch.equal(a, b)]
        _require(not changed, "returned tensors that later steps leave alone", f"changes in {changed}")
    _check_reset_rows([*frames, Frame(seen, frames[-1].action, frames[-1].outcome)])
    return frames, seen


def _check_observation(spec: TeamSpec, seen: Observation) -> None:
    B, N, M = spec.num_envs, spec.n_agents, spec.n_entities
    given = {"position": spec.position_dim > 0, "available": spec.available, "hears": spec.hears}
    given |= dict.fromkeys(("entities", "entity_position", "entity_present"), M > 0) | {"state": spec.state_dim > 0}
    shapes = {
        "own": (B, N, *spec.own),
        "alive": (B, N),
        "kind": (B, N),
        "position": (B, N, spec.position_dim),
        "entities": (B, M, spec.entity_dim),
        "entity_position": (B, M, spec.position_dim),
        "entity_present": (B, M),
        "hears": (B, N, N + M),
        "available": (B, N, spec.n_actions),
        "state": (B, spec.state_dim),
    }
    _require(tuple(seen.batch_size) == (B,), f"an observation of batch size [{B}]", list(seen.batch_size))
    for name, shape in shapes.items():
        tensor = getattr(seen, name)
        _require(
            (tensor is not None) == given.get(name, True), f"{name} exactly where the spec has it", tensor is not None
        )
        if tensor is None:
            continue
        _require(tuple(tensor.shape) == shape, f"{name} of shape {shape}", tuple(tensor.shape))
        boolean = name in ("alive", "entity_present", "hears", "available")
        _require(boolean == (tensor.dtype == torch.bool), f"{name} {'bool' if boolean else 'not bool'}", tensor.dtype)
        is_image = name == "own" and len(spec.own) == 3 and tensor.dtype == torch.uint8
        _require(tensor.is_floating_point() or boolean or name == "kind" or is_image, f"{name} of floats", tensor.dtype)
        _require(tensor.device == seen.alive.device, f"{name} on {seen.alive.device}", tensor.device)
    _require(seen.kind.dtype == torch.long, "kind of longs", seen.kind.dtype)
    known = (seen.kind >= 0) & (seen.kind < len(spec.kinds))
    _require(bool(known.all()), f"kinds below {len(spec.kinds)}", seen.kind.unique().tolist())
    for name in ("own", "position"):
        tensor = getattr(seen, name)
        if tensor is not None:
            _require(bool(tensor[seen.alive].isfinite().all()), f"finite {name} of the living", "NaN or infinity")
    if M:
        for name in ("entities", "entity_position"):
            finite = getattr(seen, name)[seen.entity_present].isfinite().all()
            _require(bool(finite), f"finite {name} of what is present", "NaN or infinity")
    if seen.available is not None:
        _require(not seen.available[~seen.alive].any(), "available all False for the dead", "legal actions")
        _require(bool(seen.available[seen.alive].any(-1).all()), "a legal action for every living agent", "none")


def _check_outcome(spec: TeamSpec, seen: Observation, outcome: Outcome, done: Tensor) -> None:
    B, N = spec.num_envs, spec.n_agents
    _require(tuple(outcome.reward.shape) == (B, N), f"reward of shape {(B, N)}", tuple(outcome.reward.shape))
    _require(outcome.reward.is_floating_point(), "reward of floats", outcome.reward.dtype)
    _require(bool(outcome.reward[seen.alive].isfinite().all()), "finite rewards of the living", "NaN or infinity")
    for name in ("terminated", "truncated", "valid"):
        flag = getattr(outcome, name)
        _require(flag.dtype == torch.bool and tuple(flag.shape) == (B,), f"{name} bool of shape {(B,)}", flag.dtype)
    devices = {str(getattr(outcome, name).device) for name in ("reward", "terminated", "truncated", "valid")}
    _require(devices == {str(seen.alive.device)}, f"outcomes on {seen.alive.device}", sorted(devices))
    names = set(map(str, outcome.metrics.keys()))
    _require(names == set(spec.metrics), f"the spec's metrics {sorted(spec.metrics)}", sorted(names))
    for name in spec.metrics:
        value = outcome.metrics[name]
        _require(tuple(value.shape) == (B,) and value.is_floating_point(), f"metric {name} float [B]", value.shape)
        _require(bool(value[outcome.valid].isfinite().all()), f"a finite metric {name}", "NaN or infinity")
    _require(not outcome.valid[done].any(), "an invalid row after a final step", "a valid one")
    _require(bool(outcome.valid[~done].all()), "valid rows but for those after a final step", "an invalid one")
    _require(not (outcome.terminated | outcome.truncated)[done].any(), "no end on a reset row", "one")
    _require(not outcome.reward[done].any(), "reward 0 on a reset row", outcome.reward[done].tolist())


def _check_alive(spec: TeamSpec, seen: Observation, after: Observation, outcome: Outcome) -> None:
    valid = outcome.valid.unsqueeze(-1)
    back = after.alive & ~seen.alive & valid
    _require(spec.rejoins or not back.any(), "the dead to stay dead, for spec.rejoins is False", "an agent back")
    moved = (after.kind != seen.kind) & valid & after.alive & seen.alive
    _require(not moved.any(), "kinds that do not change", "a change")
    goes_on = ~(outcome.terminated | outcome.truncated)
    _require(bool(after.alive.any(-1)[goes_on].all()), "a living agent in every team that goes on", "a dead team")


def _check_reset_rows(frames: list[Frame]) -> None:
    """A row after a final step resets: an observation unchanged there was reset too early, or not at all."""
    moves, resets, kept = False, 0, 0
    for frame, after in itertools.pairwise(frames):
        for b in range(frame.outcome.valid.shape[0]):
            same = _difference(frame.seen[b : b + 1], after.seen[b : b + 1]) is None
            if frame.outcome.valid[b]:
                moves |= not same
            else:
                resets, kept = resets + 1, kept + same
    _require(
        not (moves and resets and kept == resets),
        "a reset row to hold the last observation, and the one after it the first of an episode",
        "the same observation in both, every time",
    )


def _sample(spec: TeamSpec, seen: Observation, generator: torch.Generator) -> Tensor:
    """Random actions that the spec allows."""
    kind = seen.kind.cpu()
    noise = torch.rand(*kind.shape, spec.n_actions, generator=generator)
    sizes = torch.tensor([action.n for action in spec.actions])[kind]
    legal = torch.arange(spec.n_actions) < sizes.unsqueeze(-1)
    if seen.available is not None:
        legal &= seen.available.cpu() | ~seen.alive.cpu().unsqueeze(-1)
    number = noise.masked_fill(~legal, -1.0).argmax(-1)
    if spec.discrete:
        return number.to(seen.alive.device)
    action = torch.zeros_like(noise)
    for k, space in enumerate(spec.actions):
        mine = kind == k
        if isinstance(space, Discrete):
            action[..., 0] = torch.where(mine, number.float(), action[..., 0])
        elif isinstance(space, Continuous):
            low, high = torch.tensor(space.low), torch.tensor(space.high)
            drawn = low + noise[..., : space.n] * (high - low)
            action[..., : space.n] = torch.where(mine.unsqueeze(-1), drawn, action[..., : space.n])
    return action.to(seen.alive.device)


def _replay(
    env: TeamEnv, seed: int, frames: list[Frame], last: Observation, expected: str, stranger: TeamEnv | None = None
) -> None:
    """Plays a run's actions again, others where they must not matter: for the dead, and on reset rows."""
    seen, generator = env.reset(seed), torch.Generator().manual_seed(seed + 1)
    done = torch.zeros_like(seen.alive[:, 0])
    for t, frame in enumerate(frames):
        _require_same(frame.seen, seen, f"{expected}, observation {t}")
        other = _sample(env.spec, seen, generator)
        matters = seen.alive & ~done.unsqueeze(-1)
        action = torch.where(matters if other.dim() == 2 else matters.unsqueeze(-1), frame.action, other)
        if stranger is not None:
            stranger.step(other)
            _stir_global_streams(t)
        seen, outcome = env.step(action)
        _require_same(frame.outcome, outcome, f"{expected}, outcome {t}", frame.seen.alive)
        done = outcome.terminated | outcome.truncated
    _require_same(last, seen, f"{expected}, last observation")


def _check_state(first: Any, second: Any, seed: int, frames: list[Frame]) -> None:
    """Saves in the middle of a run and goes on in another instance."""
    first.reset(seed)
    middle = len(frames) // 2
    for frame in frames[:middle]:
        first.step(frame.action)
    second.load_state_dict(first.state_dict())
    for t, frame in enumerate(frames[middle:], start=middle):
        seen, outcome = second.step(frame.action)
        expected = f"a world restored at step {middle} to go on as before, step {t}"
        _require_same(frame.outcome, outcome, expected, frame.seen.alive)
        if t + 1 < len(frames):
            _require_same(frames[t + 1].seen, seen, expected)


def _require_same(a: Any, b: Any, expected: str, alive: Tensor | None = None) -> None:
    difference = _difference(a, b, alive)
    _require(difference is None, expected, f"another {difference}")


def _difference(a: Any, b: Any, alive: Tensor | None = None) -> str | None:
    """The first field that differs; what dead slots hold is not looked at."""
    alive = a.alive & b.alive if isinstance(a, Observation) else alive
    for name, x, y in _fields(a, b):
        if alive is not None and name in ("own", "position", "reward"):
            x, y = x[alive], y[alive]
        if not torch.equal(x, y):
            return name
    return None


def _fields(a: Any, b: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    others = dict(b.to_tensordict().items(include_nested=True, leaves_only=True))
    for name, x in a.to_tensordict().items(include_nested=True, leaves_only=True):
        yield str(name), x, others[name]


def _stir_global_streams(t: int) -> None:
    torch.manual_seed(t)
    np.random.seed(t)  # noqa: NPY002 - the global stream is what is meant
    random.seed(t)


@contextlib.contextmanager
def _kept_global_streams() -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
