"""What is counted while worlds are stepped: figures of the episodes under way, and the rows' random keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Outcome, Step


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
