"""Steps a world with a policy: trajectories to learn from."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import Tensor

from gcoord.data.tallies import Episodes, Keys
from gcoord.envs.team import CollectsItself, PolicyError, PolicyState, TeamEnv
from gcoord.models.agent import Agent
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Step, Trajectory, learns


class Collector:
    """One world, where it stands, and the policy's memory of it.

    Arguments:
        env: the world; `reset(seed)` is called on the first collection.
        seed: of the world, and of the rows' random keys.
        policy: `package.module:function` that builds the agent collected with, and its arguments. Given both that and
            worker processes that can (`CollectsItself`), they collect whole fragments; else the agent acts here, and
            every step is one round trip to them.
    """

    def __init__(self, env: TeamEnv, seed: int, policy: tuple[str, dict[str, Any]] | None = None) -> None:
        self.env, self.seed = env, seed
        self.policy = policy if getattr(env, "n_workers", 0) else None
        self.keys = Keys(seed, env.spec.num_envs)
        self.seen: Observation | None = None
        self.memory: Tensor | None = None
        self.episodes: Episodes
        self._ended: dict[str, Tensor] = {}

    @property
    def spec(self) -> TeamSpec:
        return self.env.spec

    def begin(self, agent: Agent) -> Observation:
        """What is seen now; the first call resets the world."""
        if self.seen is None:
            self.seen = self.env.reset(self.seed)
            self.memory = agent.body.initial((self.spec.num_envs,), self.spec.n_agents, self.seen.own.device)
            self.episodes = Episodes(self.spec, self.seen.own.device)
        return self.seen

    def restart(self) -> None:
        """New episodes of every team; does nothing before the first collection, which starts some anyway."""
        if self.seen is not None:
            self.seen = self.env.reset(None)
            self.memory = None if self.memory is None else torch.zeros_like(self.memory)
            self.episodes = Episodes(self.spec, self.seen.own.device)

    def example(self, agent: Agent) -> tuple[Step, Tensor | None]:
        """No rows, but of the shapes and types that `collect` will give: steps [0, B] and memory [0, B, N, D]."""
        seen = self.begin(agent)
        spec, device = self.spec, seen.own.device
        shape = (0, spec.num_envs)
        flag = torch.zeros(shape, dtype=torch.bool, device=device)
        steps = Step(
            seen=seen.unsqueeze(0)[:0],
            action=torch.zeros(
                *shape,
                spec.n_agents,
                *spec.action_shape,
                dtype=torch.long if spec.discrete else torch.float32,
                device=device,
            ),
            reward=torch.zeros(*shape, spec.n_agents, device=device),
            terminated=flag,
            truncated=flag.clone(),
            valid=flag.clone(),
            key=torch.zeros(shape, dtype=torch.long, device=device),
            batch_size=list(shape),
        )
        return steps, None if self.memory is None else self.memory.unsqueeze(0)[:0]

    @staticmethod
    def _remembered(memories: list[Tensor | None], every: bool) -> Tensor | None:
        rows = [memory for memory in memories if memory is not None]
        if not rows:
            return None
        return torch.stack(rows[:-1]) if every else rows[0]

    @torch.no_grad()
    def collect(
        self, agent: Agent, steps: int, epsilon: float = 0.0, log_prob: bool = False, memories: bool = False
    ) -> Trajectory:
        """`steps` rows of every team, acting by `agent` (samples; `epsilon` for action values).

        With `memories`, what a recurrent policy remembered before each row is kept: memory is [T, B, N, D].
        """
        self.begin(agent)
        trajectory = self._collect_there(agent, steps, epsilon, log_prob, memories) if self.policy is not None else None
        if trajectory is None:
            trajectory = self._collect_here(agent, steps, epsilon, log_prob, memories)
        check_finite(trajectory, self.spec)
        return trajectory

    def _collect_here(self, agent: Agent, steps: int, epsilon: float, log_prob: bool, memories: bool) -> Trajectory:
        seen = self.begin(agent)
        remembered, rows = [self.memory], []
        for _ in range(steps):
            key = self.keys.take(seen.own.device)
            acted = agent.act(seen, self.memory, key=key, epsilon=epsilon)
            following, outcome = self.env.step(acted.action)
            rows.append(
                Step(
                    seen=seen,
                    action=acted.action,
                    reward=outcome.reward,
                    terminated=outcome.terminated,
                    truncated=outcome.truncated,
                    valid=outcome.valid,
                    key=key,
                    log_prob=acted.log_prob if log_prob else None,
                    batch_size=[self.spec.num_envs],
                )
            )
            self.memory = clear(acted.memory, ~outcome.valid)
            if memories:
                remembered.append(self.memory)
            self._end(*self.episodes.add(seen, outcome))
            seen = following
        self.seen = seen
        return Trajectory(
            steps=cast(Step, torch.stack(cast(Any, rows))),
            last=seen,
            last_key=self.keys.peek(seen.own.device),
            memory=self._remembered(remembered, memories),
            batch_size=[],
        )

    def _collect_there(
        self, agent: Agent, steps: int, epsilon: float, log_prob: bool, memories: bool
    ) -> Trajectory | None:
        """The same from the worker processes; None where they cannot build the policy, which then acts here."""
        assert self.policy is not None
        state = PolicyState(
            *self.policy,
            weights=agent.state_dict(),
            memory=self.memory,
            key=self.keys.next,
            epsilon=epsilon,
            log_prob=log_prob,
        )
        try:
            fragment, self.seen = cast(CollectsItself, self.env).collect(state, steps)
        except PolicyError as error:
            logging.getLogger("gcoord").warning("%s; it acts here, one round trip to the workers a step", error)
            self.policy = None
            return None
        self.keys.skip(steps)
        for done, figures in self.episodes.add_rows(fragment.steps, fragment.metrics):
            self._end(done, figures)
        memory = fragment.memory
        if memory is not None:
            self.memory, memory = memory[-1].clone(), memory[:-1] if memories else memory[0]
        return Trajectory(
            steps=fragment.steps,
            last=self.seen,
            last_key=self.keys.peek(self.seen.own.device),
            memory=memory,
            batch_size=[],
        )

    def _end(self, done: Tensor, figures: dict[str, Tensor]) -> None:
        ended = {name: torch.where(done, value, 0.0).sum() for name, value in figures.items()}
        ended["episodes"] = done.sum().to(self.episodes.reward.dtype)
        self._ended = {name: self._ended[name] + value for name, value in ended.items()} if self._ended else ended

    def take_figures(self) -> dict[str, float]:
        """Means over the episodes that ended since the last call, and their number."""
        if not self._ended:
            return {"episodes": 0.0}
        values = dict(zip(self._ended, torch.stack(list(self._ended.values())).tolist(), strict=True))
        self._ended = {}
        episodes = values.pop("episodes")
        figures = {name: value / episodes for name, value in values.items()} if episodes else {}
        return {**figures, "episodes": episodes}

    @property
    def restarts(self) -> int | None:
        """Workers of the world that died and were started again; None for a world without workers."""
        return getattr(self.env, "restarts", 0) if getattr(self.env, "n_workers", 0) else None

    def state_dict(self) -> dict[str, Any]:
        """Where the world stands (where it can say), what was seen last, and the memory of it."""
        state: dict[str, Any] = {"key": self.keys.next, "seen": None, "memory": self.memory}
        if self.seen is not None:
            state["seen"] = {name: value for name, value in self.seen.to_dict().items() if value is not None}
            state["episodes"] = self.episodes.state_dict()
            state["env"] = self.env.state_dict() if hasattr(self.env, "state_dict") else None
        return state

    def load_state_dict(self, state: dict[str, Any], device: Any = "cpu") -> bool:
        """Goes on from there on `device`; False where the world cannot be restored and starts new episodes."""
        self.keys.next = state["key"]
        self.memory = None if state["memory"] is None else state["memory"].to(device)
        if state["seen"] is None:
            return True
        self.episodes = Episodes(self.spec, device)
        if state["env"] is None or not hasattr(self.env, "load_state_dict"):
            self.seen = self.env.reset(self.seed + self.keys.next)
            self.memory = None if self.memory is None else torch.zeros_like(self.memory)
            return False
        self.env.load_state_dict(state["env"])
        self.episodes.load_state_dict(state["episodes"])
        self.seen = Observation(**state["seen"], batch_size=[self.spec.num_envs]).to(device)
        return True


def clear(memory: Tensor | None, where: Tensor) -> Tensor | None:
    """memory [B, N, D] zeroed for the teams `where` [B]."""
    return None if memory is None else torch.where(where[:, None, None], memory.new_zeros(()), memory)


def check_finite(trajectory: Trajectory, spec: TeamSpec) -> None:
    """Raises ValueError naming world, team, agent and step if a living agent saw or earned what is no number."""
    steps = trajectory.steps
    mask = learns(steps)
    fields = {"reward": steps.reward.unsqueeze(-1), "own": steps.seen.own, "position": steps.seen.position}
    present = steps.seen.entity_present
    for name in ("entities", "entity_position"):
        value = getattr(steps.seen, name)
        if value is not None and not (value.isfinite().all(-1) | (~present if present is not None else False)).all():
            raise ValueError(
                f"expected finite numbers from {spec.world or 'the world'} (got {name} with NaN or infinity)"
            )
    for name, value in fields.items():
        if value is None or not value.is_floating_point():
            continue
        bad = mask & ~value.isfinite().flatten(3).all(-1)
        if bad.any():
            step, team, agent = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"expected finite numbers from {spec.world or 'the world'} (got {name} with NaN or infinity for agent "
                f"{agent} of team {team}, {step} steps into the rollout)"
            )
