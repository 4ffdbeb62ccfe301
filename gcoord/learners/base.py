"""What all learners share: networks in parameter groups, one optimiser, losses by name, counters, figures.

A learner is a LightningModule that maps a batch to named losses. It never sees an environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from gcoord.learners.constraints import Dual
from gcoord.learners.near import Near
from gcoord.models.agent import Agent, Body
from gcoord.models.heads import Choice
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Trajectory, learns


class Learner(lightning.LightningModule):
    """Base of the learners.

    Subclasses build `self.agent` (the policy that acts and is saved) and any critics or mixers, then implement
    `losses(batch)` and, where a rollout has to be prepared once, `prepare(trajectory)`.

    Arguments:
        spec: of the teams learnt from.
        lr: step size of Adam, for every group that `lr_of` does not name.
        lr_of: step sizes by group, such as `{critic: 1e-3}`.
        max_grad_norm: each group's gradient is clipped to this norm on its own.
        adam_eps: Adam's epsilon.
        lr_frames, lr_end: every step size falls evenly to its `lr_end`-th part over so many environment steps and stays
            there; None: as they are throughout.
    """

    needs_log_prob = False
    on_policy = False
    # Whether it can learn from what it collects itself; where not, from recorded teams alone.
    explores = True
    takes_discrete = True
    takes_continuous = True
    # Whether it must begin from another run's agent.
    needs_init = False
    # Rows of time that a batch must hold at least for what is learnt, and the team size that a part is bound to.
    rows = 1
    fixed_n: int | None = None

    def __init__(
        self,
        spec: TeamSpec,
        lr: float = 3e-4,
        lr_of: dict[str, float] | None = None,
        max_grad_norm: float = 10.0,
        adam_eps: float = 1e-5,
        lr_frames: int | None = None,
        lr_end: float = 0.0,
    ) -> None:
        super().__init__()
        if lr <= 0 or max_grad_norm <= 0:
            raise ValueError(f"expected lr and max_grad_norm above 0 (got {lr} and {max_grad_norm})")
        if lr_frames is not None and lr_frames < 1:
            raise ValueError(f"expected lr_frames of at least 1, or null (got {lr_frames})")
        if not 0 <= lr_end <= 1:
            raise ValueError(f"expected lr_end between 0 and 1 (got {lr_end})")
        self.spec = spec
        self.lr, self.lr_of, self.max_grad_norm, self.adam_eps = lr, lr_of or {}, max_grad_norm, adam_eps
        self.lr_frames, self.lr_end = lr_frames, lr_end
        self.agent: Agent
        self.frames = 0
        self.agent_steps = 0
        self.updates = 0
        self.td_error: Tensor | None = None
        # Set by who trains: whom the policy is held near, and whether bodies stay as they are.
        self.near: Near | None = None
        self.keeps_bodies = False
        # What the policy chose, or how it valued its actions, in the rows of the batch that was learnt from last.
        self.chosen: Choice | Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    # What subclasses give

    def losses(self, batch: Trajectory) -> dict[str, Tensor]:
        """Named losses that are due on this batch; their sum is minimised."""
        raise TypeError(f"{type(self).__name__} has no losses")

    def prepare(self, trajectory: Trajectory) -> Trajectory:
        """Adds to a fresh trajectory what must be computed once; called by the source."""
        return trajectory

    def observe(self, trajectory: Trajectory) -> None:
        """Updates statistics of what is seen; called by the source when a trajectory has been learnt from, so that
        learner and collector read the same ones."""
        if self.keeps_bodies:
            return
        for body in self.bodies():
            if body.normaliser is not None:
                body.normaliser.update(trajectory.steps.seen.own, learns(trajectory.steps))

    def bodies(self) -> list[Body]:
        """Every body that reads observations."""
        return [self.agent.body]

    def freeze_bodies(self) -> None:
        """From here on only what reads the bodies' features learns: heads of policy and critics, mixers."""
        self.keeps_bodies = True
        for body in self.bodies():
            body.requires_grad_(False)

    def shares_reward(self, seen: Observation) -> Tensor:
        """[*, N] bool: whose reward is the team's, by kind; the kind in a dead slot is not read."""
        rules = torch.tensor([rule == "team" for rule in self.spec.reward], device=seen.kind.device)
        return rules[torch.where(seen.alive, seen.kind, 0)]

    def after_update(self) -> None:
        """Runs after each optimiser step (target networks)."""

    @property
    def epsilon(self) -> float:
        """Share of random actions while exploring; 0 for policies that sample."""
        return 0.0

    def followers(self) -> list[Agent]:
        """Agents beside the policy that begin where it does, when a run begins from another's."""
        return []

    def groups(self) -> dict[str, list[nn.Module]]:
        """Networks by parameter group, trained together and clipped apart."""
        return {"actor": [self.agent]}

    def duals(self) -> list[Dual]:
        """Learnt multipliers: the group `dual`, not clipped, and held within their bounds after each step."""
        return [part for part in self.modules() if isinstance(part, Dual)]

    # What Lightning calls

    def training_step(self, batch: Trajectory, batch_idx: int) -> Tensor:
        self.chosen = None
        terms = self.losses(batch)
        if self.near is not None and self.chosen is not None and (weight := self.near.weight_at(self.frames)):
            divergence = self.near.loss(self.chosen, batch)
            self.figure("divergence", divergence)
            terms["near"] = weight * divergence
        self.chosen = None
        for name, value in terms.items():
            self.figure(f"loss_{name}", value)
        return torch.stack(list(terms.values())).sum()

    def step_size(self, group: str) -> float:
        """Adam's step size of a parameter group after the frames there have been."""
        gone = 0.0 if self.lr_frames is None else min(self.frames / self.lr_frames, 1.0)
        return self.lr_of.get(group, self.lr) * (1 - gone * (1 - self.lr_end))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.lr_frames is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.step_size(group["name"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.updates += 1
        for dual in self.duals():
            dual.hold()
        self.after_update()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        duals = [p for dual in self.duals() for p in dual.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = []
        for name, modules in self.groups().items():
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            parameters = [p for p in parameters if not any(p is dual for dual in duals)]
            if parameters:
                groups.append({"params": parameters, "lr": self.step_size(name), "name": name})
        if duals:
            groups.append({"params": duals, "lr": self.step_size("dual"), "name": "dual"})
        if unknown := sorted(set(self.lr_of) - {*self.groups(), "dual"}):
            raise ValueError(f"expected lr_of to name groups among {sorted(self.groups())} (got {unknown})")
        return torch.optim.Adam(groups, lr=self.lr, eps=self.adam_eps, foreach=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        for group in optimizer.param_groups:
            # What no loss is due for has no gradient: Adam skips it, and its figure is not diluted.
            if group["name"] == "dual" or all(p.grad is None for p in group["params"]):
                continue
            norm = nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm, foreach=True)
            self.figure(f"grad_norm_{group['name']}", norm)

    # Figures: summed on the device, read once a log line

    def figure(self, name: str, value: Tensor) -> None:
        """Adds a scalar to the mean that is logged next."""
        value = value.detach()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def take_figures(self) -> dict[str, float]:
        """Means since the last call, read off the device at once."""
        if not self._sums:
            return {}
        names = list(self._sums)
        values = torch.stack([self._sums[name].float().reshape(()) for name in names]).tolist()
        means = {name: value / self._counts[name] for name, value in zip(names, values, strict=True)}
        self._sums, self._counts = {}, {}
        return means

    def count(self, frames: int, agent_steps: int) -> None:
        """Adds environment steps (summed over teams) and agent steps to the counters."""
        self.frames += frames
        self.agent_steps += agent_steps

    def counters(self) -> dict[str, int]:
        """frames, agent_steps, updates."""
        return {"frames": self.frames, "agent_steps": self.agent_steps, "updates": self.updates}

    def set_counters(self, counters: dict[str, int]) -> None:
        """The inverse of `counters`."""
        self.frames, self.agent_steps = counters["frames"], counters["agent_steps"]
        self.updates = counters["updates"]

    def state(self) -> dict[str, Any]:
        """Everything but the optimiser that goes into a checkpoint."""
        state = {"module": dict(self.state_dict()), "counters": self.counters(), "fixed_n": self.fixed_n}
        return state if self.near is None else state | {"near": dict(self.near.agent.state_dict())}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.load_state_dict(state["module"])
        if self.near is not None:
            self.near.agent.load_state_dict(state["near"])
        self.set_counters(state["counters"])


def soft_update(targets: Iterable[Tensor], sources: Iterable[Tensor], tau: float) -> None:
    """target <- (1 - tau) target + tau source."""
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            if target.is_floating_point():
                target.lerp_(source.to(target.dtype), tau)
            else:
                target.copy_(source)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within, gradients pass through these modules and none goes to their parameters."""
    learnt = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in learnt:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learnt:
            p.requires_grad_(True)
