"""Steps a world with a policy: trajectories to learn from, episodes to judge by."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from gcoord.envs.team import CollectsItself, PolicyError, PolicyState, TeamEnv
from gcoord.models.agent import Agent
from gcoord.spec import Continuous, TeamSpec
from gcoord.trajectory import Observation, Outcome, Step, Trajectory, learns


class Episodes:
    """Running sums of the episodes under way, on the world's device.

    `add` takes each row; it gives, for the teams whose episode ended with it, the episode's figures: `return` (the
    team's: the shared reward where it is shared, else the sum over agents), `return_per_agent`, `return_worst_agent`
    (of those who ever lived, whoever earned least), `length` and the world's own metrics.
    """

    def __init__(self, spec: TeamSpec, device: Any) -> None:
        self.spec = spec
        self.reward = torch.zeros(spec.num_envs, device=device)
        self.length = torch.zeros(spec.num_envs, device=device)
        self.own = torch.zeros(spec.num_envs, spec.n_agents, device=device)
        self.lived = torch.zeros(spec.num_envs, spec.n_agents, dtype=torch.bool, device=device)
        # The maximum of nothing yet is below every value, also those of metrics that are always negative.
        self.empty = {name: float("-inf") if rule == "any" else 0.0 for name, rule in spec.metrics.items()}
        self.metrics = {name: torch.full((spec.num_envs,), value, device=device) for name, value in self.empty.items()}

    def add(self, seen: Observation, outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
        """One row -> (done [B] bool, figures by name [B], meaningful where done)."""
        done = outcome.terminated | outcome.truncated
        team, own, acts = self.earned(seen.alive, outcome.reward, outcome.valid)
        metrics = {name: outcome.metrics[name].unsqueeze(0) for name in self.spec.metrics}
        rows = (team.unsqueeze(0), own.unsqueeze(0), acts.unsqueeze(0), outcome.valid.unsqueeze(0))
        return done, self._add_stretch(*rows, done, metrics)

    def add_rows(self, steps: Step, metrics: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Rows [T, B] and their metrics [T, B] by name -> what `add` gives of the rows with which episodes ended."""
        team, own, acts = self.earned(steps.seen.alive, steps.reward, steps.valid)
        done, valid = steps.done, steps.valid
        ends = done.any(-1)
        # Rows in which nobody ends or begins anew are summed at once.
        cuts = [0, *((ends[:-1] | ~valid[1:].all(-1)).nonzero().squeeze(-1) + 1).tolist(), len(valid)]
        for start, stop in itertools.pairwise(cuts):
            some = slice(start, stop)
            told = {name: metrics[name][some] for name in self.spec.metrics}
            figures = self._add_stretch(team[some], own[some], acts[some], valid[some], done[stop - 1], told)
            if ends[stop - 1]:
                yield done[stop - 1], figures

    def earned(self, alive: Tensor, reward: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of alive and reward [*, B, N] and valid [*, B] -> what teams earn [*, B], what each agent does
        [*, B, N], and who acts there [*, B, N] bool."""
        acts = alive & valid.unsqueeze(-1)
        own = torch.where(acts, reward, 0.0)
        team = own.sum(-1)
        return team / acts.sum(-1).clamp(min=1) if self.spec.shared_reward else team, own, acts

    def _add_stretch(
        self, team: Tensor, own: Tensor, acts: Tensor, valid: Tensor, done: Tensor, metrics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Rows [R, B] of what was `earned` and of metrics, all valid after the first; done [B] in the last -> figures
        by name [B]."""
        first, now = valid[0], valid.sum(0)
        # A reset that no end came before is that of a world that was lost: what it had begun counts nowhere.
        self.reward, self.length = self.reward * first + team.sum(0), self.length * first + now
        self.own = self.own * first.unsqueeze(-1) + own.sum(0)
        self.lived = self.lived & first.unsqueeze(-1) | acts.any(0)
        for name, rule in self.spec.metrics.items():
            told = metrics[name].to(self.reward.dtype)
            before = torch.where(first, self.metrics[name], self.empty[name])
            if rule == "last":
                before = torch.where(valid[-1], told[-1], before)
            elif rule == "any":
                before = torch.maximum(torch.where(valid, told, self.empty[name]).amax(0), before)
            else:
                before = before + torch.where(valid, told, 0.0).sum(0)
            self.metrics[name] = before
        figures = {
            "return": self.reward.clone(),
            "return_per_agent": self.reward / (1 if self.spec.shared_reward else self.spec.n_agents),
            "return_worst_agent": torch.where(self.lived, self.own, torch.inf).amin(-1).nan_to_num(posinf=0.0),
            "length": self.length.clone(),
        }
        for name, rule in self.spec.metrics.items():
            figures[name] = self.metrics[name] / self.length.clamp(min=1) if rule == "mean" else self.metrics[name]
        keep = (~done).to(self.reward.dtype)
        self.reward, self.length = self.reward * keep, self.length * keep
        self.own, self.lived = self.own * keep.unsqueeze(-1), self.lived & ~done.unsqueeze(-1)
        self.metrics = {name: torch.where(done, self.empty[name], value) for name, value in self.metrics.items()}
        return figures

    def state_dict(self) -> dict[str, Any]:
        # Sums go on in place: what is saved is a copy.
        sums = {name: getattr(self, name).clone() for name in ("reward", "length", "own", "lived")}
        return {**sums, "metrics": dict(self.metrics)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.reward.device
        for name in ("reward", "length", "own", "lived"):
            # Checkpoints of earlier versions lack what each agent earned so far.
            if name in state:
                setattr(self, name, state[name].to(device, copy=True))
        self.metrics = {name: value.to(device, copy=True) for name, value in state["metrics"].items()}


class Keys:
    """The rows' random keys, counted up from a start that belongs to the seed: one for each of B teams and step."""

    def __init__(self, seed: int, num_envs: int) -> None:
        self.next, self.num_envs = seed * 1_000_003, num_envs

    def peek(self, device: Any) -> Tensor:
        """[B] long: the keys that `take` gives next."""
        return torch.arange(self.next, self.next + self.num_envs, device=device)

    def take(self, device: Any) -> Tensor:
        """[B] long: those of the next row."""
        keys = self.peek(device)
        self.next += self.num_envs
        return keys

    def skip(self, rows: int) -> None:
        """Those of so many rows are taken elsewhere."""
        self.next += rows * self.num_envs


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


Act = Callable[[Observation, Tensor | None, Tensor], tuple[Tensor, Tensor | None]]


@torch.no_grad()
def play(
    env: TeamEnv, act: Act, memory: Tensor | None, episodes: int, seed: int, limit: int = 100_000
) -> dict[str, Tensor]:
    """Plays whole episodes and gives each figure's values [E], E >= `episodes`, the same number from every team.

    `act(seen, memory, key) -> (action, memory)`; `memory` is the one to start from. Every team plays
    ceil(episodes / B) episodes, so that short episodes are not over-represented. Raises RuntimeError if that takes
    more than `limit` steps.
    """
    spec = env.spec
    quota = -(-episodes // spec.num_envs)
    seen = env.reset(seed)
    device = seen.own.device
    running = Episodes(spec, device)
    played = torch.zeros(spec.num_envs, dtype=torch.long, device=device)
    values: dict[str, list[Tensor]] = {}
    keys = Keys(seed, spec.num_envs)
    for _ in range(limit):
        action, memory = act(seen, memory, keys.take(device))
        following, outcome = env.step(action)
        memory = clear(memory, ~outcome.valid)
        done, figures = running.add(seen, outcome)
        counted = done & (played < quota)
        if counted.any():
            for name, value in figures.items():
                values.setdefault(name, []).append(value[counted])
            played += counted
            if bool((played >= quota).all()):
                return {name: torch.cat(parts).cpu() for name, parts in values.items()}
        seen = following
    raise RuntimeError(
        f"expected {quota} episodes of every team within {limit} steps of {spec.world} (set env.max_steps)"
    )


def acts(agent: Agent, greedy: bool = True, epsilon: float = 0.0) -> Act:
    """`play`'s act of an agent: greedy but for a share `epsilon`, or sampling (see `Agent.act`)."""

    def act(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        acted = agent.act(seen, memory, key=key, greedy=greedy, epsilon=epsilon)
        return acted.action, acted.memory

    return act


def random_actions(spec: TeamSpec, seed: int, device: Any = "cpu") -> Act:
    """`play`'s act of a policy that draws uniformly among what is available."""
    generator = torch.Generator(device).manual_seed(seed)
    wide = (len(spec.actions), spec.n_actions)
    low, high, counts = torch.zeros(wide), torch.ones(wide), torch.ones(len(spec.actions), dtype=torch.long)
    discrete = torch.zeros(len(spec.actions), dtype=torch.bool)
    for kind, space in enumerate(spec.actions):
        if isinstance(space, Continuous):
            low[kind, : space.n], high[kind, : space.n] = torch.tensor(space.low), torch.tensor(space.high)
        else:
            counts[kind], discrete[kind] = space.n, True
    low, high, counts, discrete = (x.to(device) for x in (low, high, counts, discrete))

    def act(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        kind = torch.where(seen.alive, seen.kind, 0)
        shape = (*kind.shape, spec.n_actions)
        noise = torch.rand(shape, generator=generator, device=device)
        box = low[kind] + noise * (high[kind] - low[kind])
        legal = torch.arange(spec.n_actions, device=device) < counts[kind].unsqueeze(-1)
        if seen.available is not None:
            legal = legal & (seen.available | ~seen.available.any(-1, keepdim=True))
        number = torch.where(legal, noise, -1.0).argmax(-1)
        if spec.discrete:
            return number, memory
        first = torch.zeros_like(box)
        first[..., 0] = number
        return torch.where(discrete[kind].unsqueeze(-1), first, box), memory

    return act
