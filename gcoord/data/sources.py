"""Where batches come from: sized, resumable iterables. On-policy and off-policy differ here and in `prepare` only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcoord.data.collect import Collector
from gcoord.data.curriculum import Growing
from gcoord.data.priorities import Priorities
from gcoord.data.replays import Replays
from gcoord.data.sharing import Sharing
from gcoord.learners.base import Learner
from gcoord.trajectory import Trajectory


class Source:
    """Collects with the learner's current policy and yields batches of it.

    One pass over a source is one round: it collects, then yields `len(source)` batches. Counters of frames
    (environment steps summed over teams, reset rows not counted) and agent steps are the learner's.
    """

    on_policy = True
    # Whether worlds are stepped; where not, a source is given their specs and no collectors.
    collects = True

    def __init__(
        self, learner: Learner, collectors: list[Collector], seed: int = 0, sizes: list[int] | None = None
    ) -> None:
        if learner.on_policy != self.on_policy or (self.collects and not learner.explores):
            kind = "rollouts" if learner.on_policy else "replay" if learner.explores else "offline dataset=<folder>"
            raise ValueError(f"expected source={kind} for {type(learner).__name__} (got {type(self).__name__})")
        sizes = [collector.spec.n_agents for collector in collectors] if sizes is None else sizes
        if learner.fixed_n is not None and sizes != [learner.fixed_n]:
            raise ValueError(
                f"expected n_agents={learner.fixed_n} alone, the team size to which a part of this algorithm is bound "
                f"(got n_agents={sizes})"
            )
        self.learner, self.collectors = learner, collectors
        self.recurrent = learner.agent.body.memory is not None
        self.generator = torch.Generator().manual_seed(seed)
        # Set by who trains; without one every round is played at all sizes.
        self.curriculum: Growing | None = None
        self.sharing: Sharing | None = None
        self.playing = list(collectors)
        self._before: list[dict[str, Any]] = []

    def feedback(self, index: Tensor, td_error: Tensor) -> None:
        """Called after each update with what it made of the batch's windows: index [B] and td_error [B]."""

    def begin_round(self) -> None:
        """Chooses whom the round is played with: by the curriculum, else all."""
        if self.curriculum is not None:
            self.playing = [self.collectors[self.curriculum.pick()]]

    @property
    def of_a_round(self) -> list[Collector]:
        """As many collectors as a round is played with: its length does not depend on which."""
        return self.collectors if self.curriculum is None else self.collectors[:1]

    def end_round(self) -> None:
        """Called when the last batch of a round has been learnt from, before anything is saved."""

    def committed(self) -> None:
        """Called when a checkpoint with the last `state_dict` is safely on disk."""

    def attach(self, folder: Path) -> None:
        """Names the folder of the run's checkpoints, before anything is saved or restored."""

    @property
    def told(self) -> str:
        """Where the batches come from, in words."""
        return f"{sum(collector.spec.num_envs for collector in self.collectors)} teams at once"

    def collect(self, steps: int, memories: bool = False) -> list[Trajectory]:
        """`steps` rows from every world, counted."""
        learner = self.learner
        self._before = [collector.state_dict() for collector in self.collectors]
        was_training = learner.agent.training
        learner.agent.eval()
        trajectories = [
            collector.collect(learner.agent, steps, learner.epsilon, learner.needs_log_prob, memories)
            for collector in self.playing
        ]
        if self.sharing is not None:
            trajectories = [self.sharing(trajectory, learner.agent.body) for trajectory in trajectories]
        learner.agent.train(was_training)
        valid = [trajectory.steps.valid for trajectory in trajectories]
        frames = torch.stack([rows.sum() for rows in valid]).tolist()
        sizes = [collector.spec.n_agents for collector in self.playing]
        learner.count(sum(frames), sum(n * size for n, size in zip(frames, sizes, strict=True)))
        return trajectories

    def take_figures(self) -> dict[str, float]:
        """Figures of the episodes that ended; with several team sizes also by size, as `return@8`; and how many worker
        processes were started again, for worlds that have such. The curriculum, if there is one, hears them too."""
        restarts = [count for collector in self.collectors if (count := collector.restarts) is not None]
        restarted = {"workers_restarted": float(sum(restarts))} if restarts else {}
        return self._figures_of_episodes() | restarted

    def _figures_of_episodes(self) -> dict[str, float]:
        by_size = {c.spec.n_agents: c.take_figures() for c in self.collectors}
        if self.curriculum is not None:
            size = self.playing[0].spec.n_agents
            self.curriculum.hear(size, by_size[size], self.learner.frames)
            return self._joint(by_size) | {"team_size": float(size)}
        return self._joint(by_size)

    @staticmethod
    def _joint(by_size: dict[int, dict[str, float]]) -> dict[str, float]:
        if len(by_size) == 1:
            return next(iter(by_size.values()))
        episodes = sum(figures["episodes"] for figures in by_size.values())
        joint: dict[str, float] = {}
        for size, figures in by_size.items():
            joint |= {f"{name}@{size}": value for name, value in figures.items()}
            for name, value in figures.items():
                if name != "episodes":
                    joint[name] = joint.get(name, 0.0) + value * figures["episodes"] / max(episodes, 1)
        return {**joint, "episodes": episodes}

    def state_dict(self, failed: bool = False) -> dict[str, Any]:
        """Where everything stands; after a collection that `failed`, where its worlds stood before it."""
        standing = self._before if failed else [collector.state_dict() for collector in self.collectors]
        grown = None if self.curriculum is None else self.curriculum.state_dict()
        return {"collectors": standing, "generator": self.generator.get_state(), "curriculum": grown}

    @property
    def has_collected(self) -> bool:
        """Whether `state_dict(failed=True)` has something to say."""
        return bool(self._before)

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Goes on from there; False where a world could not be restored and begins new episodes."""
        device = next(self.learner.parameters()).device
        self.generator.set_state(state["generator"].cpu())
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])
        parts = zip(self.collectors, state["collectors"], strict=True)
        restored = [collector.load_state_dict(part, device) for collector, part in parts]
        return all(restored)

    def close(self) -> None:
        for collector in self.collectors:
            collector.env.close()


class Rollouts(Source):
    """Fresh rollouts, each learnt from a few times and thrown away.

    Arguments:
        learner: whose policy acts and whose `prepare` is called once a rollout.
        collectors: one for each team size.
        steps: rows a rollout has of every team (T).
        epochs: passes over a rollout.
        minibatch: environment steps in a batch; a recurrent policy gets whole sequences of as many teams as fit.
        seed: of the order of batches.
    """

    def __init__(
        self,
        learner: Learner,
        collectors: list[Collector],
        steps: int = 100,
        epochs: int = 6,
        minibatch: int = 1600,
        seed: int = 0,
    ) -> None:
        super().__init__(learner, collectors, seed)
        if min(steps, epochs, minibatch) < 1:
            raise ValueError(f"expected steps, epochs and minibatch of at least 1 (got {steps}, {epochs}, {minibatch})")
        self.steps, self.epochs, self.minibatch = steps, epochs, minibatch
        self._fresh: list[Trajectory] = []

    def end_round(self) -> None:
        for trajectory in self._fresh:
            self.learner.observe(trajectory)
        self._fresh = []

    def _batches_of(self, collector: Collector) -> int:
        frames = collector.spec.num_envs * self.steps
        if self.recurrent:
            return math.ceil(collector.spec.num_envs / max(self.minibatch // self.steps, 1))
        return max(round(frames / self.minibatch), 1)

    def __len__(self) -> int:
        return self.epochs * sum(self._batches_of(collector) for collector in self.of_a_round)

    def __iter__(self) -> Iterator[Trajectory]:
        self.end_round()
        self.begin_round()
        self._fresh = self.collect(self.steps)
        prepared = [self.learner.prepare(trajectory) for trajectory in self._fresh]
        if not self.recurrent:
            prepared = [flat(trajectory) for trajectory in prepared]
        for _ in range(self.epochs):
            cuts: list[tuple[Trajectory, Tensor]] = []
            for trajectory, collector in zip(prepared, self.playing, strict=True):
                columns = trajectory.steps.batch_size[1]
                order = torch.randperm(columns, generator=self.generator).to(trajectory.steps.reward.device)
                cuts += [(trajectory, part) for part in order.tensor_split(self._batches_of(collector))]
            for i in torch.randperm(len(cuts), generator=self.generator).tolist():
                yield columns_of(*cuts[i])


class Replayed(Source):
    """Windows drawn from what was ever collected, while more is collected.

    A recurrent policy's windows begin with the memory that was stored at their first row, the target network's too
    (stored state); with `burn_in` memory is first warmed up on the rows before (both:
    https://openreview.net/forum?id=r1lyTjAqYX); with `episodes` windows are whole episodes, which begin without memory.

    Arguments:
        learner: whose policy explores and learns.
        collectors: one for each team size; every batch holds one size.
        capacity: frames kept, over all sizes.
        max_bytes: of the replay; None: what the device has. A replay that cannot fit is refused here.
        batch: windows in a batch.
        length: rows in a window; None: 1, or 10 for a recurrent policy and for targets that look further ahead, or with
            `episodes` the world's longest episode.
        burn_in: rows before a window that only warm memory up.
        episodes: windows begin where episodes do and are not learnt from after an episode's end.
        priorities: called with the number of cells and the device, gives the priorities by which windows are drawn (see
            `gcoord.data.priorities.Priorities`); None: all alike.
        steps: rows collected from every team before each burst of updates.
        updates: batches in a burst.
        bursts: bursts in a round.
        warmup: frames collected before the first update.
        seed: of the draws.
    """

    on_policy = False

    def __init__(
        self,
        learner: Learner,
        collectors: list[Collector],
        capacity: int = 100_000,
        max_bytes: int | None = None,
        batch: int = 64,
        length: int | None = None,
        burn_in: int = 0,
        episodes: bool = False,
        priorities: Callable[..., Priorities] | None = None,
        steps: int = 4,
        updates: int = 4,
        bursts: int = 25,
        warmup: int = 2_000,
        seed: int = 0,
    ) -> None:
        super().__init__(learner, collectors, seed)
        if min(batch, steps, updates, bursts) < 1:
            raise ValueError(
                f"expected batch, steps, updates and bursts of at least 1 (got {batch}, {steps}, {updates}, {bursts})"
            )
        if burn_in < 0 or (burn_in and not self.recurrent) or (burn_in and episodes):
            raise ValueError(
                f"expected burn_in of at least 0, and 0 without memory or where windows are episodes (got {burn_in})"
            )
        self.length = self._length(episodes) if length is None else length
        if self.length < learner.rows:
            raise ValueError(f"expected windows of at least {learner.rows} rows (got length={self.length})")
        self.burn_in = burn_in
        self.batch, self.steps, self.updates, self.bursts, self.warmup = batch, steps, updates, bursts, warmup
        device = next(learner.parameters()).device
        sizes = [collector.spec.n_agents for collector in collectors]
        stack = collectors[0].spec.stack
        self.replays = Replays(
            sizes,
            capacity,
            max_bytes=max_bytes,
            device=device,
            seed=seed,
            stack=stack,
            episodes=episodes,
            priorities=priorities,
            window=burn_in + self.length,
        )
        self.replays.reserve(collector.example(learner.agent) for collector in collectors)
        self._check_room(episodes, stack)

    def _length(self, episodes: bool) -> int:
        if episodes:
            longest = [collector.spec.max_steps for collector in self.collectors]
            known = [steps for steps in longest if steps is not None]
            if len(known) < len(longest):
                raise ValueError("expected length, as the world says no max_steps, for windows of episodes (got none)")
            return max(*known, self.learner.rows)
        return max(10, self.learner.rows) if self.recurrent or self.learner.rows > 1 else 1

    def _check_room(self, episodes: bool, stack: int) -> None:
        """Raises ValueError where no window, or not the warm-up, would ever fit."""
        window = self.burn_in + self.length
        # An episode may begin anywhere in as many rows as it is long, and one is spent on its reset.
        needed = window * (2 if episodes else 1) + stack + episodes
        for ring in self.replays.of_size.values():
            if ring.rows < needed:
                raise ValueError(
                    f"expected a capacity of at least {needed * ring.num_envs:,} frames for windows of {window} rows "
                    f"of {ring.num_envs} teams (got {ring.capacity:,} for teams of that size)"
                )
        room = sum(ring.rows * ring.num_envs for ring in self.replays.of_size.values())
        if self.warmup > room:
            raise ValueError(
                f"expected a warmup of at most {room:,} frames, what the replay holds (got {self.warmup:,})"
            )

    def feedback(self, index: Tensor, td_error: Tensor) -> None:
        self.replays.feedback(index, td_error)

    def committed(self) -> None:
        for replay in self.replays.of_size.values():
            replay.committed()

    def attach(self, folder: Path) -> None:
        for size, replay in self.replays.of_size.items():
            replay.folder = folder / "replay" / f"n{size}"

    def __len__(self) -> int:
        return self.bursts * self.updates

    def _gather(self) -> None:
        for trajectory in self.collect(self.steps, memories=self.recurrent):
            self.learner.observe(trajectory)
            self.replays.add(trajectory.steps, trajectory.memory)

    def __iter__(self) -> Iterator[Trajectory]:
        self.begin_round()
        # Under a curriculum a round also learns from its own size alone.
        size = None if self.curriculum is None else self.playing[0].spec.n_agents
        rings = self.replays if size is None else self.replays.of_size[size]
        while len(self.replays) < self.warmup or not rings.ready(self.burn_in + self.length):
            self._gather()
        for _ in range(self.bursts):
            self._gather()
            for _ in range(self.updates):
                yield self.replays.sample(self.batch, self.length, size, self.burn_in, self.learner.frames)

    def state_dict(self, failed: bool = False) -> dict[str, Any]:
        return {**super().state_dict(failed), "replays": self.replays.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        restored = super().load_state_dict(state)
        self.replays.load_state_dict(state["replays"])
        if not restored:
            self.replays.cut()
        return restored


def flat(trajectory: Trajectory) -> Trajectory:
    """Rows [T, B] laid out as one row of T B columns; only `steps` and what was prepared of them stay."""
    count = trajectory.steps.batch_size.numel()
    parts = {name: getattr(trajectory, name) for name in ("advantage", "returns", "value")}
    return Trajectory(
        steps=trajectory.steps.reshape(1, count),
        last=trajectory.last,
        last_key=trajectory.last_key,
        **{name: None if x is None else x.reshape(1, count, *x.shape[2:]) for name, x in parts.items()},
        batch_size=[],
    )


def columns_of(trajectory: Trajectory, columns: Tensor) -> Trajectory:
    """The teams (columns) of a trajectory that are named; what came after its last row is left out."""
    rows = {name: getattr(trajectory, name) for name in ("advantage", "returns", "value")}
    memory = trajectory.memory
    return Trajectory(
        steps=trajectory.steps[:, columns],
        last=trajectory.last[:0],
        last_key=trajectory.last_key[:0],
        memory=None if memory is None else memory[columns],
        **{name: None if x is None else x[:, columns] for name, x in rows.items()},
        batch_size=[],
    )
