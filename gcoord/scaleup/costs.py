"""What a policy costs while it acts: messages and bytes, edges that a limit drops, time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from gcoord.data.playing import Act
from gcoord.graph import AgentGraph
from gcoord.models.agent import Agent, Features
from gcoord.trajectory import Observation


class Meter:
    """Counts what an agent hears, and times it, while it plays.

    A message is what one agent hears of another in one round of the encoder; its bytes are those of the features that
    it carries, in the weights' type. Entities are sensed, not spoken to, and counted apart. All are means per living
    agent and step, over all rows of each team [B]. `act_ms` is the policy's time in milliseconds of one core for a step
    of one team (of the device where that is no CPU), `act_mb` the largest number of bytes that tensors of one such step
    hold at once beside weights and observation, in MB of a team.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.sums: dict[str, Tensor] = {}
        self.living: Tensor | None = None
        self.seconds, self.rows, self.bytes = 0.0, 0, 0
        # Features that a message carries in each round, of encoders that say so.
        self.carried: list[int] = list(getattr(agent.body.encoder, "carried", []))
        self.of_entities = sum(getattr(agent.body.encoder, "carried_of_entities", []))
        self.width = next(agent.parameters()).element_size()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within, everything that the agent's body hears is counted."""
        handle = self.agent.body.register_forward_hook(self._hear, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def timed(self, act: Act) -> Act:
        """The same act, its time taken, and once its memory."""

        def measured(seen: Observation, memory: Tensor | None, key: Tensor) -> tuple[Tensor, Tensor | None]:
            on_cpu = seen.own.device.type == "cpu"
            if self.rows == 0:
                # The first step is slower than the others, and slowed further by being looked at.
                with Largest() as largest:
                    out = act(seen, memory, key)
                self.bytes, self.rows = largest.bytes, 1
                return out
            began = _now(on_cpu)
            out = act(seen, memory, key)
            self.seconds += _now(on_cpu) - began
            self.rows += 1
            return out

        return measured

    def figures(self) -> dict[str, list[float]]:
        """Each cost, one value a team (time and memory: one in all)."""
        if self.living is None:
            return {}
        living = self.living.clamp(min=1)
        costs = {name: (total / living).tolist() for name, total in self.sums.items()}
        teams = len(self.living)
        costs["act_ms"] = [1000 * self.seconds / max(self.rows - 1, 1) / teams]
        costs["act_mb"] = [self.bytes / 2**20 / teams]
        return costs

    def _hear(self, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any], features: Features) -> None:
        seen: Observation = args[0] if args else kwargs["seen"]
        graph, alive = features.graph, seen.alive
        agents, entities = heard_of(graph)
        heard = {"neighbours": agents.double()}
        if self.carried:
            heard["messages"] = agents.double() * len(self.carried)
            numbers = agents.double() * sum(self.carried)
            if self.of_entities:
                fellows = graph.hears()[..., : graph.mask.shape[-2]].double()
                numbers = numbers + self.of_entities * (fellows @ entities.double().unsqueeze(-1)).squeeze(-1)
            heard["message_bytes"] = numbers * self.width
        if graph.n_entities:
            heard["entities_heard"] = entities.double()
        for name, count in heard.items():
            self._add(name, torch.where(alive, count, 0.0).sum(-1))
        if graph.dropped is not None:
            self._add("edges_dropped", graph.dropped.double())
        now = alive.sum(-1).double()
        self.living = now if self.living is None else self.living + now

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value


def heard_of(graph: AgentGraph) -> tuple[Tensor, Tensor]:
    """How many agents and how many entities each receiver hears: [*, N] long each."""
    n = graph.mask.shape[-2]
    if graph.index is None:
        return graph.mask[..., :n].sum(-1), graph.mask[..., n:].sum(-1)
    is_agent = graph.index < n
    return (graph.mask & is_agent).sum(-1), (graph.mask & ~is_agent).sum(-1)


class Largest(TorchDispatchMode):
    """`bytes`: the most that tensors made within hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._held: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {StorageWeakRef(x.untyped_storage()) for x in _tensors((args, kwargs or {}))}
        for x in _tensors(out):
            storage = x.untyped_storage()
            reference = StorageWeakRef(storage)
            # Views and what is written in place hold nothing new.
            if reference not in given:
                self._held.setdefault(reference, storage.nbytes())
        self._held = {one: size for one, size in self._held.items() if not one.expired()}
        self.bytes = max(self.bytes, sum(self._held.values()))
        return out


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)


def _now(on_cpu: bool) -> float:
    """Seconds: of processor time, so that what else runs does not count, or of a device that has done its work."""
    if on_cpu:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
