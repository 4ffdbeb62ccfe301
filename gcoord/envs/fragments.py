"""Whole fragments collected in worker processes: what is shared, and who acts there.

Rows of every copy are written to memory that workers and parent share, time-major; the policy's weights come the same
way, once a fragment, so that no message passes between two steps and no policy is older than its fragment.

**Chance.** A worker acts for its copies as one batch, and what the policy draws in a row comes from torch's generator
seeded by the key of the first of these copies in that row (`stream`). So a fragment follows from keys, weights and the
worlds' seeds alone: there is no random state to save, and a resumed run goes on with the same batches where it has as
many workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.bounds import Bounds
from gcoord.envs.copies import Copies, Fields, lay_out
from gcoord.envs.recipe import find_function
from gcoord.envs.spaces import Layout
from gcoord.envs.team import Fragment, PolicyState
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation, Step

SEEN = ("own", "alive", "position", "entities", "entity_position", "entity_present", "hears", "available")
EARNED = ("reward", "terminated", "truncated", "valid", "metrics")
MASK = 2**64 - 1
Table = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Plan:
    """What workers are told once, before the first fragment: how to build the policy, and what is written where."""

    make: str
    arguments: dict[str, Any]
    spec: TeamSpec
    layout: Layout
    scale: float | None
    weights: Table
    fields: Fields

    @property
    def shape(self) -> tuple[Any, ...]:
        """What another plan must share with this one for the workers to go on by it."""
        return self.make, id(self.arguments), self.weights, self.fields

    def actor(self, copies: Copies, world: dict[str, np.ndarray], memory: Any, rows: range) -> Actor:
        """In a worker: who acts for its rows, over memory that it shares with the parent."""
        return Actor(self, copies, world, lay_out(self.fields, memory), rows)


def plan(policy: PolicyState, steps: int, spec: TeamSpec, layout: Layout, scale: float | None, world: Fields) -> Plan:
    """The plan for fragments of `steps` rows; `world` are the arrays that workers and parent share anyway."""
    teams = (spec.num_envs, spec.n_agents)
    fields = {name: ((steps, *world[name][0]), world[name][1]) for name in (*SEEN, *EARNED, "action") if name in world}
    if policy.log_prob:
        fields["log_prob"] = ((steps, *teams), "float32")
    if policy.memory is not None:
        fields["memory"] = ((steps + 1, *policy.memory.shape), "float32")
    weights = {name: (value.dtype, tuple(value.shape)) for name, value in policy.weights.items()}
    for number, value in enumerate(policy.weights.values()):
        fields[f"weight {number}"] = ((value.numel() * value.element_size(),), "uint8")
    return Plan(policy.make, policy.arguments, spec, layout, scale, weights, fields)


def write_policy(policy: PolicyState, arrays: dict[str, np.ndarray]) -> None:
    """Weights, and the memory before the first row, for all workers at once."""
    for number, value in enumerate(policy.weights.values()):
        plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        arrays[f"weight {number}"][:] = plain.numpy()
    if policy.memory is not None:
        arrays["memory"][0] = policy.memory.detach().cpu().numpy()


def read_weights(table: Table, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The weights as they lie in shared memory, not copied."""
    return {
        name: torch.from_numpy(arrays[f"weight {number}"]).view(dtype).reshape(shape)
        for number, (name, (dtype, shape)) in enumerate(table.items())
    }


def observed(arrays: Mapping[str, Tensor], kind: Tensor, scale: float | None) -> Observation:
    """What teams see, from the arrays' tensors [*, N, ...]; bytes and what has a scale become float32."""
    own = arrays["own"]
    if scale is not None and (scale != 1.0 or own.dtype == torch.uint8):
        own = own.to(torch.float32) / scale
    rest: dict[str, Any] = {name: arrays[name] for name in SEEN[1:] if name in arrays}
    return Observation(own=own, kind=kind, **rest, batch_size=kind.shape[:-1])


def stream(key: int) -> int:
    """The seed of what is drawn in a row whose first copy has this key: splitmix64's mix of it, upper half."""
    # The generator reads 32 bits only: keys that are close, or far apart by a multiple of 2^32, must not meet.
    z = (key + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) >> 32


class Actor:
    """Acts for a worker's copies, row after row. The policy is built from the path in the plan: it has
    `act(seen, memory, key=, epsilon=)`, which gives action, log_prob and memory, and `load_state_dict`."""

    def __init__(
        self, plan: Plan, copies: Copies, world: dict[str, np.ndarray], fragment: dict[str, np.ndarray], rows: range
    ) -> None:
        torch.set_num_threads(1)
        self.plan, self.copies, self.rows = plan, copies, slice(rows.start, rows.stop)
        self.policy: Any = find_function(plan.make)(**plan.arguments)
        self.policy.eval()
        self.weights = read_weights(plan.weights, fragment)
        self.world = {name: array[self.rows] for name, array in world.items() if name != "seed"}
        self.seen = {name: torch.from_numpy(self.world[name]) for name in SEEN if name in world}
        self.fragment = {
            name: array[:, self.rows] for name, array in fragment.items() if not name.startswith("weight ")
        }
        self.kind = torch.tensor(plan.layout.kind).expand(len(rows), -1)
        # Made once over the arrays themselves, as making one costs as much as a quick world's step.
        self.observation = observed(self.seen, self.kind, plan.scale)
        scaled = self.observation.own.data_ptr() != self.seen["own"].data_ptr()
        self.scale = plan.scale if scaled else None
        self.offsets = torch.arange(len(rows))
        self.bounds = Bounds(plan.spec, plan.layout)

    @torch.no_grad()
    def collect(self, steps: int, key: int, epsilon: float) -> None:
        """`steps` rows of every copy; `key` belongs to the first row's first team of all."""
        self.policy.load_state_dict(self.weights)
        world, fragment, first = self.world, self.fragment, self.rows.start
        memory = torch.from_numpy(fragment["memory"][0]) if "memory" in fragment else None
        for t in range(steps):
            for name in self.seen:
                fragment[name][t] = world[name]
            start = key + t * self.plan.spec.num_envs + first
            torch.default_generator.manual_seed(stream(start))
            if self.scale is not None:
                self.observation.own.copy_(self.seen["own"]).div_(self.scale)
            acted = self.policy.act(self.observation, memory, key=self.offsets + start, epsilon=epsilon)
            given = acted.action.numpy()
            over = [copy.done for copy in self.copies.copies]
            world["action"][:] = self.bounds.within(given, world["alive"] & ~np.array(over)[:, None], first)
            fragment["action"][t] = given
            if "log_prob" in fragment:
                fragment["log_prob"][t] = acted.log_prob.numpy()
            self.copies.step()
            if any(over):
                self.copies.next_episodes(over)
            for name in EARNED:
                fragment[name][t] = world[name]
            if "memory" in fragment:
                memory = torch.where(torch.from_numpy(world["valid"])[:, None, None], acted.memory, 0.0)
                fragment["memory"][t + 1] = memory.numpy()
            world["progress"] += 1


def assemble(
    plan: Plan, arrays: dict[str, np.ndarray], policy: PolicyState, kind: Tensor, before: Observation, lost: np.ndarray
) -> Fragment:
    """Copies of what the workers wrote, on the device of `before`: what was seen before the first row.

    The first row of the teams that a worker's death has `lost` [B] is the reset that it led to: it shows what was seen
    before, as the row after an episode's end does.
    """
    device = before.own.device
    tensors = {
        name: torch.from_numpy(array).to(device, copy=True)
        for name, array in arrays.items()
        if not name.startswith("weight ")
    }
    steps, teams = tensors["valid"].shape
    seen = observed(tensors, kind.expand(steps, *kind.shape).clone(), plan.scale)
    if lost.any():
        where = torch.from_numpy(lost).to(device)
        seen[0, where] = before[where]
    rows = Step(
        seen=seen,
        action=tensors["action"],
        reward=tensors["reward"],
        terminated=tensors["terminated"],
        truncated=tensors["truncated"],
        valid=tensors["valid"],
        key=(policy.key + torch.arange(steps * teams, device=device)).view(steps, teams),
        log_prob=tensors.get("log_prob"),
        batch_size=[steps, teams],
    )
    names = list(plan.spec.metrics)
    metrics = TensorDict({name: tensors["metrics"][..., i] for i, name in enumerate(names)}, batch_size=[steps, teams])
    return Fragment(rows, metrics, tensors.get("memory"))
