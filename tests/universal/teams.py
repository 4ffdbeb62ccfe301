"""Learners of any parts, teams to try them on, and what may be done to a team without anything changing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gcoord.conf import build, conf_dir, fill
from gcoord.data.playing import random_actions
from gcoord.graph import Complete, Nearest, Radius
from gcoord.learners.base import Learner
from gcoord.models.agent import Body
from gcoord.models.heads import CategoricalChoice
from gcoord.models.kinds import MixedChoice
from gcoord.models.points import PointChoice
from gcoord.run import takes
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Observation, Step, Trajectory, played, resets

Cell = dict[str, Any]
TEAMS, ROWS, N = 4, 3, 4
OWN, THING, THINGS = 5, 3, 2
TOPOLOGIES = {"complete": Complete(), "nearest": Nearest(2), "lists": Nearest(2, dense_up_to=1), "radius": Radius(1.2)}
ACTIONS = {
    "numbers": (Discrete(3), Discrete(5)),
    "boxes": (Continuous((-1.0, 0.0), (1.0, 4.0)), Continuous((-3.0,), (3.0,))),
    "mixed": (Discrete(3), Continuous((-1.0, 0.0), (1.0, 4.0))),
}
OF_AGENTS = ("own", "alive", "kind", "position", "available")


# Learners


@functools.cache
def algo_node(name: str) -> DictConfig:
    """An algorithm as the command line composes it, filled."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [f"algo={name}"])
    OmegaConf.resolve(config.algo)
    return fill(config.algo)


@functools.cache
def part_node(group: str, name: str) -> DictConfig:
    """The filled part that a YAML file of conf/ names."""
    return fill(OmegaConf.load(conf_dir() / group / f"{name}.yaml"))


@functools.cache
def takes_actions(algo: str, actions: str) -> bool:
    """Whether an algorithm takes numbers, boxes, or both in one team."""
    wanted = {"numbers": ("discrete",), "boxes": ("continuous",), "mixed": ("discrete", "continuous")}[actions]
    return all(takes(algo_node(algo), kind) for kind in wanted)


def spec_of(cell: Cell, n_agents: int = N) -> TeamSpec:
    kinds = cell["kinds"]
    actions = ACTIONS[cell["actions"]][:kinds]
    return TeamSpec(
        TEAMS,
        n_agents,
        (OWN,),
        actions,
        kinds=("walker", "runner")[:kinds],
        reward=(cell["reward"],) * kinds,
        n_entities=THINGS if cell["entities"] else 0,
        entity_dim=THING if cell["entities"] else 0,
        position_dim=2,
        available=cell["limits"] and cell["actions"] != "boxes",
        max_steps=20,
    )


def body_of(cell: Cell, spec: TeamSpec) -> partial[Body]:
    """Makes a small body of the cell's encoder and memory."""
    model = copy.deepcopy(part_node("model", cell["model"]))
    model.encoder.dim = 8
    if "heads" in model.encoder:
        model.encoder.heads = 2
    if cell["memory"] == "gru":
        model.memory = copy.deepcopy(part_node("memory", "gru").memory)
        model.memory.dim = 6
    return partial(build(model), spec, TOPOLOGIES[cell["topology"]])


def learner_of(cell: Cell, **options: Any) -> Learner:
    """A learner in double precision whose weights are none that it begins with, so that all of them matter."""
    spec = spec_of(cell)
    learner: Learner = build(algo_node(cell["algo"]))(spec=spec, body=body_of(cell, spec), **options).double().eval()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    # Past all warm-ups, and what is due every second update only is due at the next.
    learner.updates = 100_001
    return learner


# Teams


def observed(cell: Cell, spec: TeamSpec, alive: Tensor) -> Observation:
    """Something to see, for alive [*, N]."""
    shape, n = alive.shape[:-1], alive.shape[-1]
    seen = Observation(
        own=torch.randn(*alive.shape, OWN, dtype=torch.float64),
        alive=alive,
        kind=(torch.arange(n) % cell["kinds"]).expand(alive.shape).clone(),
        position=torch.rand(*alive.shape, 2, dtype=torch.float64) * 2,
        batch_size=shape,
    )
    if cell["entities"]:
        seen.entities = torch.randn(*shape, THINGS, THING, dtype=torch.float64)
        seen.entity_position = torch.rand(*shape, THINGS, 2, dtype=torch.float64) * 2
        seen.entity_present = torch.rand(*shape, THINGS) < 0.7
    if spec.available:
        seen.available = legal(spec, seen.kind) & alive.unsqueeze(-1)
    return seen


def legal(spec: TeamSpec, kind: Tensor) -> Tensor:
    """[*, N, A]: a random part of every kind's numbers, the first among them; all of a box."""
    sizes = torch.tensor([action.n for action in spec.actions])[kind].unsqueeze(-1)
    is_box = torch.tensor([isinstance(action, Continuous) for action in spec.actions])[kind].unsqueeze(-1)
    number = torch.arange(spec.n_actions)
    drawn = torch.rand(*kind.shape, spec.n_actions) < 0.6
    return (number < sizes) & (drawn | (number == 0) | is_box)


def lives(cell: Cell, n: int) -> Tensor:
    """[ROWS + 1, TEAMS, N]: who lives when; teams 0 and 1 begin anew in rows 2 and 3."""
    alive = torch.ones(ROWS + 1, TEAMS, n, dtype=torch.bool)
    if cell["deaths"]:
        until = torch.randint(0, ROWS + 2, (TEAMS, n))
        until[:, 0] = ROWS + 1
        alive = torch.arange(ROWS + 1).view(-1, 1, 1) < until
        # One team dies out.
        alive[-1, 2] = False
        alive[2:, 0], alive[3:, 1] = True, True
    return alive


def trajectory_of(cell: Cell, learner: Learner, n: int = N) -> Trajectory:
    """Rows of teams of n that the learner can learn from: ends of both sorts, the dead, what is not available."""
    spec = learner.spec.with_(n_agents=n)
    seen = observed(cell, spec, lives(cell, n))
    key = torch.arange((ROWS + 1) * TEAMS).view(ROWS + 1, TEAMS) * 7919
    ends = torch.zeros(2, ROWS, TEAMS, dtype=torch.bool)
    ends[0, 0, 0] = ends[1, 1, 1] = True
    valid = torch.ones(ROWS, TEAMS, dtype=torch.bool)
    valid[1, 0] = valid[2, 1] = False
    act = random_actions(spec, 0)
    reward = torch.randn(ROWS, TEAMS, n, dtype=torch.float64)
    if cell["reward"] == "team":
        reward = reward[..., :1].expand(-1, -1, n).clone()
    action = torch.stack([act(seen[t], None, key[t])[0] for t in range(ROWS)])
    memory = None
    if (start := learner.agent.body.initial((TEAMS,), n)) is not None:
        memory = torch.where(seen.alive[0].unsqueeze(-1), torch.randn_like(start), 0.0)
    steps = Step(
        seen=seen[:-1],
        action=action if spec.discrete else action.double(),
        reward=reward,
        terminated=ends[0],
        truncated=ends[1],
        valid=valid,
        key=key[:-1],
        batch_size=[ROWS, TEAMS],
    )
    found = Trajectory(steps=steps, last=seen[-1], last_key=key[-1], memory=memory, batch_size=[])
    if learner.needs_log_prob:
        with torch.no_grad():
            choice, _ = learner.agent.unroll(steps.seen, memory, resets(valid)[:-1], key=steps.key)
            # Off one, on either side and beyond the clip, so that the ratio matters.
            steps.log_prob = choice.log_prob(played(steps)) + 0.3 * torch.randn(ROWS, TEAMS, n)
    return found


def arranged(trajectory: Trajectory, order: Tensor) -> Trajectory:
    """The agents in another order of slots."""
    found = trajectory.clone()
    for seen in (found.steps.seen, found.last):
        for name in OF_AGENTS:
            if (value := getattr(seen, name)) is not None:
                setattr(seen, name, value.index_select(seen.alive.dim() - 1, order))
    steps = found.steps
    for name in ("action", "reward", "log_prob"):
        if (value := getattr(steps, name)) is not None:
            setattr(steps, name, value.index_select(2, order))
    if found.memory is not None:
        found.memory = found.memory.index_select(1, order)
    return found


def padded(trajectory: Trajectory, more: int) -> Trajectory:
    """With `more` dead slots besides."""
    n = trajectory.last.alive.shape[-1]
    found = arranged(trajectory, torch.cat([torch.arange(n), torch.zeros(more, dtype=torch.long)]))
    for seen in (found.steps.seen, found.last):
        seen.alive = seen.alive & (torch.arange(n + more) < n)
    return littered(found)


def littered(trajectory: Trajectory) -> Trajectory:
    """With rubbish in every slot of the dead."""
    found = trajectory.clone()
    for seen in (found.steps.seen, found.last):
        dead = ~seen.alive
        seen.own[dead], seen.position[dead], seen.kind[dead] = torch.nan, torch.nan, 9
        if seen.available is not None:
            seen.available[dead] = True
    steps, dead = found.steps, ~found.steps.seen.alive
    steps.reward[dead] = torch.nan
    steps.action[dead] = torch.nan if steps.action.is_floating_point() else 99
    if steps.log_prob is not None:
        steps.log_prob[dead] = torch.nan
    if found.memory is not None:
        found.memory[dead[0]] = torch.nan
    return found


def twice(trajectory: Trajectory) -> Trajectory:
    """Every team once more, in the opposite order."""

    def both(x: Any, dim: int) -> Any:
        return torch.cat([x, x.flip(dim) if isinstance(x, Tensor) else _turned(x, dim)], dim)

    return Trajectory(
        steps=both(trajectory.steps, 1),
        last=both(trajectory.last, 0),
        last_key=both(trajectory.last_key, 0),
        memory=None if trajectory.memory is None else both(trajectory.memory, 0),
        batch_size=[],
    )


def _turned(x: Any, dim: int) -> Any:
    order = torch.arange(x.batch_size[dim] - 1, -1, -1)
    return x[:, order] if dim else x[order]


# What comes of them


@contextmanager
def even_chance() -> Iterator[None]:
    """Whatever is drawn within is the same for every agent and every slot."""

    def fill_with(value: float) -> Any:
        return lambda x, *args, **options: x.fill_(value)

    def like(value: float) -> Any:
        return lambda x, *args, **options: torch.full_like(x, value)

    def sized(draw: Any, value: float) -> Any:
        def drawn(*size: Any, **options: Any) -> Tensor:
            found: Tensor = draw(*size, **options)
            # Who brings a stream of one's own asks for the same each time.
            return found if options.get("generator") is not None else found.fill_(value)

        return drawn

    with (
        patch.object(Tensor, "normal_", fill_with(0.4)),
        patch.object(Tensor, "exponential_", fill_with(1.0)),
        patch.object(Tensor, "uniform_", fill_with(0.5)),
        patch.object(torch, "randn", sized(torch.randn, 0.4)),
        patch.object(torch, "randn_like", like(0.4)),
        patch.object(torch, "rand_like", like(0.5)),
    ):
        yield


class Learnt:
    """Losses by name and gradients by weight of one batch; the learner is left as it was."""

    def __init__(self, learner: Learner, trajectory: Trajectory) -> None:
        student = copy.deepcopy(learner)
        with even_chance():
            losses = student.losses(student.prepare(trajectory.clone()))
        torch.stack(list(losses.values())).sum().backward()
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        self.gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def told(learner: Learner, seen: Observation, memory: Tensor | None, key: Tensor) -> Tensor:
    """One number [*, N] for every agent that whatever its policy says enters, with gradient."""
    read, _ = learner.agent(seen, memory, key=key)
    return number_of(read)


def number_of(read: Any) -> Tensor:
    if isinstance(read, Tensor):
        return (read * torch.arange(1, read.shape[-1] + 1)).sum(-1)
    if hasattr(read, "given"):  # what hinges on a latent
        return number_of(read.given(torch.zeros_like(read.drawn())))
    if isinstance(read, MixedChoice):
        return torch.where(read.is_discrete, number_of(read.numbers), number_of(read.points))
    if isinstance(read, CategoricalChoice):
        return (read.probs * torch.arange(1, read.probs.shape[-1] + 1)).sum(-1)
    if isinstance(read, PointChoice):
        used = read.squashed if read.used is None else torch.where(read.used, read.squashed, 0.0)
        return used.sum(-1)
    mean = read.mean if read.used is None else torch.where(read.used, read.mean, 0.0)
    return mean.sum(-1) + read.entropy()
