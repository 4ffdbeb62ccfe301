"""Plays whole episodes and writes them down: what a dataset's shards are made from."""

from __future__ import annotations

import torch
from torch import Tensor

from gcoord.data.collect import check_finite, clear
from gcoord.data.frames import newest
from gcoord.data.playing import Act, random_actions
from gcoord.data.shards import OWN, ShardWriter, leaves_of, steps_of
from gcoord.data.tallies import Episodes, Keys
from gcoord.envs.team import TeamEnv
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Step, Trajectory


def noisy(act: Act, spec: TeamSpec, epsilon: float, seed: int, device: torch.device | str = "cpu") -> Act:
    """`act`, but for a share `epsilon` of every agent's actions, which are drawn uniformly among the available."""
    anything = random_actions(spec, seed, device)
    generator = torch.Generator(device).manual_seed(seed + 1)

    def noisily(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
        action, memory = act(seen, memory, key)
        other, _ = anything(seen, None, key)
        explores = torch.rand(seen.alive.shape, generator=generator, device=device) < epsilon
        return torch.where(explores.view(*explores.shape, *(1,) * (action.dim() - 2)), other, action), memory

    return noisily


class _Open:
    """The episodes under way: rows of every team since its own began, [B, rows]."""

    def __init__(self, num_envs: int) -> None:
        self.position = torch.zeros(num_envs, dtype=torch.long)
        self.teams = torch.arange(num_envs)
        self.leaves: dict[str, Tensor] = {}

    def add(self, rows: dict[str, Tensor]) -> None:
        """One row [B, ...] of every team."""
        size = next(iter(self.leaves.values())).shape[1] if self.leaves else 0
        if int(self.position.max()) >= size:
            self.leaves = {
                name: torch.cat([self.leaves[name], torch.zeros_like(self.leaves[name])], 1)
                if name in self.leaves
                else torch.zeros(len(row), 64, *row.shape[1:], dtype=row.dtype)
                for name, row in rows.items()
            }
        for name, row in rows.items():
            self.leaves[name][self.teams, self.position] = row
        self.position += 1

    def take(self, team: int) -> dict[str, Tensor]:
        """A team's rows [L, ...]; its next one begins anew."""
        length = int(self.position[team])
        self.position[team] = 0
        return {name: leaf[team, :length] for name, leaf in self.leaves.items()}


@torch.no_grad()
def record(
    env: TeamEnv,
    act: Act,
    memory: Tensor | None,
    episodes: int,
    seed: int,
    writer: ShardWriter,
    limit: int = 100_000,
) -> dict[str, float]:
    """Plays exactly `episodes` whole episodes, writes every one as it ends, and returns the mean of each figure.

    Arguments:
        act, memory: as in `gcoord.data.playing.play`.
        seed: of the world and of the rows' keys.
        limit: steps that no episode may be longer than.

    The teams play the same number of episodes, or one more or less, so that short ones are not over-represented. Raises
    ValueError where the world gives what is no number, RuntimeError where an episode has no end.
    """
    spec = env.spec
    count = spec.num_envs
    quota = episodes // count + (torch.arange(count) < episodes % count)
    seen = env.reset(seed)
    running, keys, open_ = Episodes(spec, seen.own.device), Keys(seed, count), _Open(count)
    total: dict[str, float] = {}
    while bool((quota > 0).any()):
        key = keys.take(seen.own.device)
        action, memory = act(seen, memory, key)
        following, outcome = env.step(action)
        memory = clear(memory, ~outcome.valid)
        step = Step(
            seen=seen,
            action=action,
            reward=outcome.reward,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            valid=outcome.valid,
            key=key,
            batch_size=[count],
        )
        open_.add(_row(step, spec))
        done, figures = running.add(seen, outcome)
        # The row that only resets belongs to no episode: what was seen there is written as the last one's end.
        open_.position[~outcome.valid.cpu()] = 0
        ended = done.cpu().nonzero().squeeze(-1).tolist()
        if ended:
            end = _row(_end(step, following, keys.peek(seen.own.device)), spec)
            told = {name: value.cpu() for name, value in figures.items()}
        for team in ended:
            rows = open_.take(team)
            if quota[team] > 0:
                quota[team] -= 1
                whole = {name: torch.cat([leaf, end[name][team : team + 1]]) for name, leaf in rows.items()}
                _check(whole, spec)
                writer.add(whole)
                for name, value in told.items():
                    total[name] = total.get(name, 0.0) + float(value[team])
        if int(open_.position.max()) > limit:
            raise RuntimeError(f"expected episodes of {spec.world} of at most {limit:,} steps (set env.max_steps)")
        seen = following
    return {name: value / episodes for name, value in total.items()}


def _row(step: Step, spec: TeamSpec) -> dict[str, Tensor]:
    leaves = {name: leaf.cpu() for name, leaf in leaves_of(step).items()}
    if spec.stack > 1:
        leaves[OWN] = newest(leaves[OWN], spec.stack)
    return leaves


def _end(step: Step, following: Observation, key: Tensor) -> Step:
    """The row after an episode's last: what was seen then, and nothing done."""
    flag = torch.zeros_like(step.valid)
    return Step(
        seen=following,
        action=torch.zeros_like(step.action),
        reward=torch.zeros_like(step.reward),
        terminated=flag,
        truncated=flag.clone(),
        valid=flag.clone(),
        key=key,
        batch_size=step.batch_size,
    )


def _check(rows: dict[str, Tensor], spec: TeamSpec) -> None:
    steps = steps_of(rows, [len(rows["valid"])]).unsqueeze(1)
    check_finite(Trajectory(steps=steps, last=steps.seen[0], last_key=steps.key[0], batch_size=[]), spec)
