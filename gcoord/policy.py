"""A trained policy without its trainer: no Lightning, no Hydra, no environment.

`gcoord.load(run).act(observation)` is all it takes. Weights are safetensors, the description is JSON; nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from gcoord.checkpoint import sync_folder, write_synced
from gcoord.conf import build
from gcoord.models.agent import Agent
from gcoord.models.dropout import DropOut
from gcoord.spec import TeamSpec
from gcoord.trajectory import Observation

FORMAT_VERSION = 1
WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
OURS = ("gcoord.models", "gcoord.graph")


def make_agent(parts: dict[str, Any], spec: TeamSpec, trust: Sequence[str] | None = None) -> Agent:
    """An untrained agent from its parts: `topology`, `model` (a body) and `head`, each a node with `_target_`.

    With `trust`, only parts whose path starts with one of these prefixes are imported.
    """
    trusted = None if trust is None else tuple(trust)
    topology = build(parts["topology"], trust=trusted)
    body = build(parts["model"], trust=trusted)(spec, topology)
    return Agent(body, partial(build(parts["head"], trust=trusted), spec))


def make_actor(
    parts: dict[str, Any], spec: TeamSpec, dropout: DropOut | None, mixed: torch.dtype | None = None
) -> Agent:
    """What a worker process collects with: an agent of any parts, who leaves out what the learner's does and computes
    in the same precision."""
    agent = make_agent(parts, spec)
    agent.body.dropout, agent.body.mixed = dropout, mixed
    return agent


class Policy:
    """A trained team policy, greedy by default, for any team size.

    Attributes: `spec`, the teams it was trained on; `trained_on`, their sizes; `agent`, the network (in eval mode).
    """

    def __init__(self, agent: Agent, spec: TeamSpec, trained_on: Sequence[int] = ()) -> None:
        self.agent = agent.eval().requires_grad_(False)
        self.spec = spec
        self.trained_on = list(trained_on) or [spec.n_agents]
        self._memory: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are and observations are expected."""
        return next(self.agent.parameters()).device

    @property
    def recurrent(self) -> bool:
        """Whether it keeps memory between acts."""
        return self.agent.body.memory is not None

    def to(self, device: Any) -> Policy:
        """The same policy on another device, its memory forgotten."""
        self.agent.to(device)
        self._memory = None
        return self

    def reset(
        self, batch_size: int | Sequence[int] = (), n_agents: int | None = None, where: Tensor | None = None
    ) -> None:
        """Forgets. With `where` [*] bool, only the memory of those teams is cleared; otherwise memory starts anew for
        teams of `n_agents` in a batch of `batch_size`."""
        if where is not None:
            if self._memory is not None:
                self._memory = torch.where(where[..., None, None], self._memory.new_zeros(()), self._memory)
            return
        shape = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
        self._memory = self.agent.body.initial(shape, n_agents or self.spec.n_agents, self.device)

    @torch.no_grad()
    def act(self, observation: Observation, greedy: bool = True, key: Tensor | None = None) -> Tensor:
        """Actions of every agent: [*, N] long, or [*, N, A] float, as `spec.action_shape` says.

        `observation` may have any leading dimensions, team size and number of entities; `key` [*] long is needed by
        topologies that draw at random. Raises ValueError where the observation is not of the kind trained on.
        """
        self._check(observation)
        memory = self._memory
        if self.recurrent:
            expected = (*observation.batch_size, observation.alive.shape[-1])
            if memory is not None and tuple(memory.shape[:-1]) != expected:
                raise ValueError(
                    f"expected a batch of {tuple(memory.shape[:-2])} with {memory.shape[-2]} agents, as remembered "
                    f"(got {expected[:-1]} with {expected[-1]}); call reset(batch_size, n_agents) first"
                )
        acted = self.agent.act(observation, memory, key=key, greedy=greedy)
        self._memory = acted.memory
        return acted.action

    def _check(self, seen: Observation) -> None:
        spec, own = self.spec, tuple(seen.own.shape)
        if own[-len(spec.own) :] != spec.own or len(own) < 1 + len(spec.own):
            raise ValueError(f"expected own of shape [*, N, {', '.join(map(str, spec.own))}] (got {list(own)})")
        if seen.own.device != self.device:
            raise ValueError(f"expected an observation on {self.device} (got {seen.own.device})")
        needed = {
            "position": spec.position_dim,
            "entities": spec.entity_dim,
            "hears": spec.hears,
            "available": spec.available,
        }
        for name, wanted in needed.items():
            if wanted and getattr(seen, name) is None:
                raise ValueError(f"expected an observation with `{name}`, as in training (got none)")


def save_policy(folder: Path, agent: Agent, parts: dict[str, Any], spec: TeamSpec, trained_on: Sequence[int]) -> None:
    """Writes policy.safetensors and policy.json: both aside, then one rename of policy.json makes them current.

    At every instant, even after kill -9, `load` finds the whole previous policy or the whole new one: policy.json names
    its weights by their checksum, and they are looked for under the name they are written under aside as well.
    """
    data = safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in agent.state_dict().items()}
    )
    description = {
        "format_version": FORMAT_VERSION,
        "sha256": _digest(data),
        "spec": spec.to_dict(),
        "trained_on": list(trained_on),
        "parts": parts,
    }
    weights, new_weights = folder / WEIGHTS, folder / f"{WEIGHTS}.new"
    described, new_described = folder / DESCRIPTION, folder / f"{DESCRIPTION}.new"
    if new_weights.is_file() and _digest(new_weights.read_bytes()) == _described(described).get("sha256"):
        # A save was killed between its two renames: what lies aside is the current policy's.
        os.replace(new_weights, weights)
    try:
        write_synced(new_weights, data)
        write_synced(new_described, json.dumps(description, indent=1).encode())
    except OSError as error:
        new_weights.unlink(missing_ok=True)
        new_described.unlink(missing_ok=True)
        raise OSError(f"could not write {weights}: {error.strerror}; what was saved before is untouched") from error
    os.replace(new_described, described)
    sync_folder(folder)
    os.replace(new_weights, weights)
    sync_folder(folder)


def load(run: str | Path, device: Any = "cpu", trust: Sequence[str] | None = ()) -> Policy:
    """The policy of a run folder (or of any folder with policy.safetensors and policy.json).

    `trust` names further modules whose parts may be imported, such as `["my_package"]`; only gcoord's own are by
    default, and any with None. Raises FileNotFoundError or ValueError, in one line, for a missing, foreign, torn or
    newer policy.
    """
    folder = Path(run)
    description, data = _read(folder)
    try:
        parts, spec = description["parts"], TeamSpec.from_dict(description["spec"])
        trained_on = description["trained_on"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected {folder / DESCRIPTION} to describe a gcoord policy (got {error!r})") from error
    agent = make_agent(parts, spec, trust=None if trust is None else (*OURS, *trust))
    agent.load_state_dict(safetensors.torch.load(data))
    return Policy(agent.to(device), spec, trained_on)


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What policy.json says, and the weights that it names by their checksum."""
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"expected a trained policy in {folder} (got no {DESCRIPTION})")
    before: dict[str, Any] = {}
    while True:
        description = _described(folder / DESCRIPTION)
        try:
            version, digest = int(description["format_version"]), description["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"expected {folder / DESCRIPTION} to describe a gcoord policy (got {error!r})") from error
        if version > FORMAT_VERSION:
            raise ValueError(
                f"expected policy format {FORMAT_VERSION} or older (got {version}); install a newer gcoord"
            )
        # Aside first: what is renamed in between is found under its name.
        for path in (folder / f"{WEIGHTS}.new", folder / WEIGHTS):
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                if _digest(data) == digest:
                    return description, data
        if description == before:
            if not (folder / WEIGHTS).is_file():
                raise FileNotFoundError(f"expected a trained policy in {folder} (got no {WEIGHTS})")
            raise ValueError(f"expected {folder / WEIGHTS} as {DESCRIPTION} describes it (got another checksum)")
        # A run that saves meanwhile may have replaced both: then the description is another by now.
        before = description


def _described(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
