"""Any PettingZoo ParallelEnv as a batch of teams, in this process or in worker processes."""

from __future__ import annotations

import functools
import os
import warnings
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs.bounds import Bounds
from gcoord.envs.copies import Copies, episode_seed, lay_out
from gcoord.envs.fragments import SEEN, Plan, assemble, observed, plan, write_policy
from gcoord.envs.probe import fields_of, probe
from gcoord.envs.recipe import Recipe, find_function, takes
from gcoord.envs.spaces import Channels, Kinds
from gcoord.envs.team import Fragment, PolicyError, PolicyState
from gcoord.envs.workers import Workers
from gcoord.spec import Reward, TeamSpec
from gcoord.trajectory import Observation, Outcome

Scripted = Callable[[TeamSpec, Observation], Tensor]


class ParallelTeamEnv:
    """`num_envs` copies of a PettingZoo ParallelEnv as a TeamEnv.

    Slots are `possible_agents` in order; agents with equal spaces are of one kind, `own` is padded to the widest and
    `available` marks the actions that a narrower kind has not. An agent that leaves `agents`, terminates or truncates
    while others go on is dead from the next observation on, and its reward of that step counts. The team terminates
    when all have gone and none of the last was truncated; where some were, it is truncated and these are alive in
    the last observation. Continuous actions are clipped to their bounds, discrete ones out of range are refused.

    Every episode of every copy has a seed of its own, made from (seed, copy, episode number): the number of workers
    changes nothing, and a saved environment is restored by playing its episodes' actions again. With workers it
    `CollectsItself`. A worker that dies is started again once (`Workers`): its teams' row is then a reset, and
    `restarts` counts it.

    Arguments:
        recipe: how a copy is made and read.
        num_envs: copies (B). workers: processes that share them, 0 for none, "auto" for one a CPU.
        n_agents: team size that the world must turn out to have, None for any.
        reward: what the world's rewards are: each agent's own, the team's, or mixed.
        scale: `own` is divided by it; None: by nothing. Images of bytes stay bytes where there is none.
        scripted: (spec, observation) -> action, a hand-written policy; `env.scripted(observation)` where there is one.

    Raises ValueError where the world does not fit, RuntimeError in one line where it fails while running.
    """

    scripted: Callable[[Observation], Tensor]

    def __init__(
        self,
        recipe: Recipe,
        num_envs: int = 1,
        n_agents: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        workers: int | Literal["auto"] = "auto",
        reward: Reward = "own",
        scale: float | None = None,
        scripted: Scripted | None = None,
        world: str = "parallel",
        density: str = "none",
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"expected num_envs to be a positive whole number (got {num_envs})")
        layout, shapes = probe(recipe)
        if n_agents is not None and n_agents != len(layout.names):
            raise ValueError(f"expected n_agents={len(layout.names)}, the team size of {world} (got {n_agents})")
        self.spec = TeamSpec(
            num_envs=num_envs,
            n_agents=len(layout.names),
            own=layout.own,
            actions=layout.actions,
            kinds=layout.kinds,
            reward=(reward,) * len(layout.kinds),
            n_entities=shapes["entities"][0] if "entities" in shapes else 0,
            entity_dim=shapes["entities"][1] if "entities" in shapes else 0,
            position_dim=shapes["position"][1] if "position" in shapes else 0,
            available=layout.available,
            hears="hears" in shapes,
            rejoins=recipe.rejoins,
            stack=recipe.stack,
            max_steps=recipe.max_steps,
            metrics=dict(recipe.reductions),
            world=world,
            density=density,
        )
        self.device = torch.device(device)
        self._layout = layout
        if scripted is not None:
            # Only then: who wants to know whether a world has a script looks for the attribute.
            self.scripted = functools.partial(scripted, self.spec)
        self._scale = scale
        self._fields = fields_of(self.spec, layout, shapes)
        self.n_workers = _count_workers(workers, num_envs)
        self._backend: Workers | Copies
        if self.n_workers:
            self._backend = Workers(recipe, layout, self._fields, num_envs, self.n_workers)
            self._arrays = self._backend.arrays
        else:
            self._arrays = lay_out(self._fields)
            self._backend = Copies(recipe, layout, self._arrays, range(num_envs))
        self._plan: Plan | None = None
        self._fragment: dict[str, np.ndarray] = {}
        self._kind = torch.tensor(layout.kind, device=self.device).expand(num_envs, -1)
        self._bounds = Bounds(self.spec, layout)
        self._seed, self._episode = _checked_seed(seed), np.full(num_envs, -1)
        # Actions since each copy's reset: the last `_since[b]` of `_actions`.
        self._actions: list[np.ndarray] = []
        self._since = np.zeros(num_envs, dtype=np.int64)
        self._last: Observation | None = None
        self._closed = False

    def reset(self, seed: int | None = None) -> Observation:
        """Restarts every team: with the next seeds of the stream, or with the first of a new one."""
        self._require_open()
        if seed is not None:
            self._seed, self._episode[:] = _checked_seed(seed), -1
        self._episode += 1
        self._write_next_seeds(np.arange(self.spec.num_envs), ahead=0)
        self._backend.reset()
        self._skip_lost()
        self._write_next_seeds(np.arange(self.spec.num_envs))
        self._actions, self._since[:] = [], 0
        return self._observe()

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        """action [B, N] long, or [B, N, A] float where a kind acts in a box."""
        self._require_open()
        if self._last is None:
            raise RuntimeError("expected reset before step (got a step first)")
        done = self._arrays["terminated"] | self._arrays["truncated"]
        self._write_action(action, done)
        self._backend.step()
        self._remember(done)
        if (lost := self._skip_lost()).any():
            self._since[lost] = 0
            self._write_next_seeds(np.flatnonzero(lost))
        arrays = self._arrays
        outcome = Outcome(
            reward=self._tensor("reward"),
            terminated=self._tensor("terminated"),
            truncated=self._tensor("truncated"),
            valid=self._tensor("valid"),
            metrics=TensorDict(
                {
                    name: torch.from_numpy(arrays["metrics"][:, i]).to(self.device, copy=True)
                    for i, name in enumerate(self.spec.metrics)
                },
                batch_size=[self.spec.num_envs],
            ),
            batch_size=[self.spec.num_envs],
        )
        return self._observe(), outcome

    def picture(self) -> tuple[np.ndarray, tuple[float, float, float, float] | None] | tuple[None, None]:
        """The first team as its world draws itself, bytes [H, W, 3], and what that shows in the positions' units (left,
        right, bottom, top), None where there are none; twice None for worlds in workers, and those that do not draw."""
        self._require_open()
        return self._backend.picture() if isinstance(self._backend, Copies) else (None, None)

    def collect(self, policy: PolicyState, T: int) -> tuple[Fragment, Observation]:
        """T rows of every team, acted for by `policy` in the worker processes; see `CollectsItself`."""
        self._require_open()
        if self._last is None or not isinstance(self._backend, Workers):
            got = "a collection first" if self._last is None else "none"
            raise RuntimeError(f"expected reset before collect, and worker processes (got {got})")
        before, ours = self._last, plan(policy, T, self.spec, self._layout, self._scale, self._fields)
        if self._plan is None or self._plan.shape != ours.shape:
            self._fragment, failure = self._backend.prepare(ours, ours.fields)
            if failure:
                raise PolicyError(f"expected a policy that workers can build (got {failure})")
            self._plan = ours
        write_policy(policy, self._fragment)
        self._backend.collect(T, policy.key, policy.epsilon)
        fragment = assemble(ours, self._fragment, policy, self._kind, before, self._backend.take_lost())
        self._remember_rows(T)
        self._backend.give_back()
        return fragment, self._observe()

    @property
    def restarts(self) -> int:
        """Workers that died and were started again."""
        return self._backend.restarts if isinstance(self._backend, Workers) else 0

    def close(self) -> None:
        """Closes the worlds and stops the workers; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._backend.close()

    def state_dict(self) -> dict[str, Any]:
        """Where every copy stands: its episode and the actions since its reset, and a checksum of what is seen."""
        if self._last is None:
            return {"seed": self._seed, "episode": torch.from_numpy(self._episode.copy())}
        played = [self._played(b) for b in range(self.spec.num_envs)]
        return {
            "seed": self._seed,
            "episode": torch.from_numpy(self._episode.copy()),
            "since": torch.from_numpy(self._since.copy()),
            "actions": torch.from_numpy(np.concatenate(played)),
            "checksum": torch.from_numpy(self._checksums()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Brings every copy to where it stood; warns where the world shows something else than when it was saved."""
        self._require_open()
        episode = state["episode"].numpy()
        if len(episode) != self.spec.num_envs:
            raise ValueError(f"expected the state of num_envs={self.spec.num_envs} copies (got {len(episode)})")
        self._seed, self._episode = int(state["seed"]), episode.copy()
        self._actions, self._since[:], self._last = [], 0, None
        if "actions" not in state:
            return
        actions, since = state["actions"].numpy(), state["since"].numpy()
        if actions.shape[1:] != self._arrays["action"].shape[1:]:
            raise ValueError(
                f"expected saved actions of shape {self._arrays['action'].shape[1:]} (got {actions.shape[1:]})"
            )
        parts = np.split(actions, np.cumsum(since)[:-1])
        copies = range(self.spec.num_envs)
        self._backend.replay({b: (episode_seed(self._seed, b, int(episode[b])), parts[b]) for b in copies})
        self._write_next_seeds(np.arange(self.spec.num_envs))
        longest = int(since.max())
        self._actions = [np.zeros_like(self._arrays["action"]) for _ in range(longest)]
        for b, part in enumerate(parts):
            for row, action in zip(self._actions[longest - len(part) :], part, strict=True):
                row[b] = action
        self._since[:] = since
        self._observe()
        if strange := np.flatnonzero(self._checksums() != state["checksum"].numpy()).tolist():
            warnings.warn(
                f"{self.spec.world} does not replay exactly: environments {strange} differ from the saved ones, so "
                "the run goes on but is not the same",
                stacklevel=2,
            )

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("expected an open environment (got a closed one)")

    def _write_action(self, action: Tensor, done: np.ndarray) -> None:
        target = self._arrays["action"]
        if tuple(action.shape) != target.shape or action.is_floating_point() != (target.dtype.kind == "f"):
            kind = "float" if target.dtype.kind == "f" else "long"
            raise ValueError(
                f"expected a {kind} action of shape {target.shape} (got {action.dtype} of {tuple(action.shape)})"
            )
        read = self._arrays["alive"] & ~done[:, None]
        np.copyto(target, self._bounds.within(action.detach().cpu().numpy(), read))

    def _remember(self, done: np.ndarray) -> None:
        """Counts the actions since each reset; `done` are the copies that were reset by this step."""
        self._actions.append(self._arrays["action"].copy())
        self._since = np.where(done, 0, self._since + 1)
        self._forget()
        if done.any():
            self._episode += done
            self._write_next_seeds(np.flatnonzero(done))

    def _remember_rows(self, steps: int) -> None:
        """The same of a fragment's rows, whose episodes the workers have counted."""
        valid, alive = self._fragment["valid"], self._fragment["alive"]
        self._actions.extend(self._bounds.within(self._fragment["action"], alive & valid[..., None]).copy())
        for row in valid:
            self._since = np.where(row, self._since + 1, 0)
        self._forget()
        self._episode[:] = self._arrays["episode"]

    def _forget(self) -> None:
        """Drops actions from before every copy's reset, now and then."""
        if len(self._actions) > 2 * self._since.max() + 64:
            del self._actions[: len(self._actions) - int(self._since.max())]

    def _skip_lost(self) -> np.ndarray:
        """[B] bool: copies whose worker was started again, and which are in a later episode than was told."""
        if not isinstance(self._backend, Workers):
            return np.zeros(self.spec.num_envs, dtype=bool)
        lost = self._backend.take_lost()
        self._episode[lost] = self._arrays["episode"][lost] + 1
        return lost

    def _played(self, b: int) -> np.ndarray:
        """Actions [t, N, ...] of copy b since its reset."""
        since = int(self._since[b])
        rows = [action[b] for action in self._actions[len(self._actions) - since :]]
        return (
            np.stack(rows) if rows else np.zeros((0, *self._arrays["action"].shape[1:]), self._arrays["action"].dtype)
        )

    def _write_next_seeds(self, copies: np.ndarray, ahead: int = 1) -> None:
        arrays = self._arrays
        arrays["seed"][0] = self._seed
        for b in copies.tolist():
            arrays["episode"][b] = self._episode[b] + ahead - 1
            arrays["next_seed"][b] = episode_seed(self._seed, b, int(self._episode[b]) + ahead)

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[name]).to(self.device, copy=True)

    def _observe(self) -> Observation:
        arrays = {name: self._tensor(name) for name in SEEN if name in self._arrays}
        self._last = observed(arrays, self._kind.clone(), self._scale)
        return self._last

    def _checksums(self) -> np.ndarray:
        """[B]: of what each copy's team last saw, as it was returned (an interrupted step changes the arrays)."""
        assert self._last is not None
        seen = [getattr(self._last, name).cpu().numpy() for name in SEEN if name in self._arrays]
        return np.array(
            [zlib.crc32(b"".join(part[b].tobytes() for part in seen)) for b in range(self.spec.num_envs)], np.int64
        )


def parallel(
    maker: str,
    n_agents: int | None = None,
    num_envs: int = 1,
    device: str = "cpu",
    seed: int = 0,
    maker_kwargs: dict[str, Any] | None = None,
    positions: str | None = None,
    entities: str | None = None,
    workers: int | Literal["auto"] = "auto",
    reward: Reward = "own",
    max_steps: int | None = None,
    rejoins: bool = False,
    channels: Channels = "last",
    kinds: Kinds = "spaces",
    size_argument: str = "n_agents",
    scale: float | None = None,
    continuous: bool | Literal["auto"] = "auto",
    bins: int = 5,
    anew: bool = False,
) -> ParallelTeamEnv:
    """A PettingZoo world that gcoord has never seen.

    Arguments:
        maker: `package.module:function`, called with `size_argument`=n_agents where its signature takes it (or where
            another `size_argument` is named), and with `maker_kwargs`; returns a ParallelEnv.
        positions: `package.module:function`, env -> {agent: coordinates}; None: agents have no positions.
        entities: `package.module:function`, env -> (features [M, Oe], positions [M, P][, present [M]]).
        reward: whether the world's rewards are each agent's `own`, the `team`'s, or `mixed`.
        max_steps: steps after which we truncate, besides what the world does.
        rejoins: whether dead agents may come back. channels: where images have theirs.
        kinds: agents are of one kind if their `spaces` are equal; `names` also tells them apart by name.
        scale: `own` is divided by it.
        continuous: False: `bins` evenly spaced values of each component make numbered actions of boxes; auto: as the
            world has it, or as the algorithm needs it; True is refused where actions are numbered.
        anew: make the world again for each episode, where a reset leaves something of the one before.
    """
    kwargs = dict(maker_kwargs or {})
    if n_agents is not None and (size_argument != "n_agents" or takes(find_function(maker), size_argument)):
        kwargs[size_argument] = n_agents
    recipe = Recipe(
        maker,
        kwargs,
        positions=positions,
        entities=entities,
        max_steps=max_steps,
        rejoins=rejoins,
        channels=channels,
        kinds=kinds,
        bins=bins if continuous is False else None,
        anew=anew,
    )
    env = ParallelTeamEnv(
        recipe, num_envs, n_agents, device, seed, workers=workers, reward=reward, scale=scale, world=maker
    )
    if continuous is True and env.spec.discrete:
        env.close()
        raise ValueError(f"expected continuous=false or auto in {maker}, whose actions are discrete (got true)")
    return env


def _count_workers(workers: int | Literal["auto"], num_envs: int) -> int:
    if workers == "auto":
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = min(cpus, num_envs)
        # One worker would only add the way to it and back.
        return count if count > 1 else 0
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"expected workers to be 'auto' or a whole number of processes (got {workers!r})")
    return min(workers, num_envs)


def _checked_seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise ValueError(f"expected a seed of at least 0 and below 2^63 (got {seed})")
    return int(seed)
