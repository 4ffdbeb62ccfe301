from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from gcoord.envs import TeamEnv, check_team_env
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Observation, Outcome

LENGTH = 5


class Walk:
    """A correct world of walkers, in torch, until `fault` says otherwise. The last agent dies in step 2."""

    def __init__(
        self, n_agents: int | None = None, num_envs: int = 1, device: str = "cpu", seed: int = 0, fault: str = ""
    ) -> None:
        self.fault, self.seed, self.episode = fault, seed, 0
        n = 3 if n_agents is None else n_agents
        own = (3 + n,) if fault == "own grows" else (3,)
        self.spec = TeamSpec(
            num_envs=num_envs + (fault == "num_envs"),
            n_agents=n + (fault == "n_agents"),
            own=own,
            actions=(Discrete(3),),
            position_dim=1,
            n_entities=1,
            entity_dim=1,
            available=True,
            max_steps=LENGTH,
            metrics={"far": "last"},
        )
        if fault == "kind changes":
            self.spec = self.spec.with_(kinds=("a", "b"), actions=(Discrete(3),) * 2, reward=("own",) * 2)
        self.generators: list[torch.Generator] = []

    def reset(self, seed: int | None = None) -> Observation:
        if seed is not None:
            self.seed, self.episode = seed, 0
        elif self.fault != "reset(None) repeats":
            self.episode += 1
        B, N = self.spec.num_envs, self.spec.n_agents
        start = self.episode if self.fault == "seed ignored" else self.seed * 1000 + self.episode * 100
        if self.fault == "reset(None) wanders":
            start += int(np.random.default_rng().integers(1 << 20)) if seed is None else 0
        same = self.fault == "equal teams"
        self.place = torch.zeros(B, N)
        if self.fault != "leftover" or not self.generators:
            self.last = torch.zeros(B, N)
        self.generators = [torch.Generator().manual_seed(start + (0 if same else b)) for b in range(B)]
        self.alive = torch.ones(B, N, dtype=torch.bool)
        self.t = torch.zeros(B, dtype=torch.long)
        self.done = torch.zeros(B, dtype=torch.bool)
        for b in range(B):
            self.restart(b)
        return self.see()

    def restart(self, b: int) -> None:
        if self.fault == "global stream":
            torch.rand(1)
            self.place[b] = torch.rand(self.spec.n_agents)
        else:
            self.place[b] = torch.rand(self.spec.n_agents, generator=self.generators[b])
        if self.fault not in ("leftover", "reset row acts"):
            self.last[b] = 0
        self.alive[b], self.t[b] = True, 0
        if self.fault == "dead start":
            self.alive[b] = False

    def see(self) -> Observation:
        B, N = self.place.shape
        last = self.last
        own = torch.stack([self.place, last, self.t.float().unsqueeze(-1).expand(B, N)], -1)
        own = torch.cat([own, torch.zeros(B, N, self.spec.own[0] - 3)], -1)
        own = own.masked_fill(~self.alive.unsqueeze(-1), 7.0)
        available = self.alive.unsqueeze(-1).repeat(1, 1, 3)
        seen = Observation(
            own=own,
            alive=self.alive.clone(),
            kind=torch.zeros(B, N, dtype=torch.long),
            position=self.place.unsqueeze(-1).clone(),
            entities=torch.ones(B, 1, 1),
            entity_position=torch.zeros(B, 1, 1),
            entity_present=torch.ones(B, 1, dtype=torch.bool),
            available=available,
            batch_size=[B],
        )
        self.spoil_observation(seen)
        return seen

    def spoil_observation(self, seen: Observation) -> None:
        fault, B = self.fault, len(self.place)
        late = bool((self.t > 1).any())
        if fault == "own shape":
            seen.own = seen.own[..., :2]
        if fault == "own dtype":
            seen.own = (seen.own * 10).long()
        if fault == "alive dtype":
            seen.alive = seen.alive.long()
        if fault == "kind dtype":
            seen.kind = seen.kind.int()
        if fault == "kind unknown":
            seen.kind = seen.kind + 1
        if fault == "kind changes" and late:
            seen.kind = seen.kind + 1
        if fault == "nan own":
            seen.own[0, 0, 0] = torch.nan
        if fault == "nan position":
            seen.position[0, 0] = torch.inf
        if fault == "nan entity":
            seen.entities[0, 0] = torch.nan
        if fault == "field missing" and late:
            seen.entities = None
        if fault == "field extra":
            seen.state = torch.zeros(B, 2)
        if fault == "dead may act":
            seen.available = torch.ones_like(seen.available)
        if fault == "living may not":
            seen.available = torch.zeros_like(seen.available)
        if fault == "same tensor":
            seen.position = self.place.unsqueeze(-1)
        if fault == "batch":
            seen.batch_size = torch.Size([])

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        B, N = self.place.shape
        reset = self.done.clone()
        used = torch.where(self.alive & ~reset.unsqueeze(-1), action, 0)
        if self.fault == "dead act":
            used = torch.where(reset.unsqueeze(-1), 0, action)
            used = used.max(-1, keepdim=True).values.expand(B, N)
        if self.fault == "reset row acts":
            used = torch.where(self.alive | reset.unsqueeze(-1), action, 0)
        noise = torch.stack([torch.rand(N, generator=g) for g in self.generators])
        self.place = self.place + used + noise if self.fault != "same tensor" else self.place.add_(used + noise)
        self.last, self.t = used.float(), self.t + 1
        reward = torch.where(self.alive, self.place, 0.0)
        self.alive = self.alive & ~((self.t == 2).unsqueeze(-1) & (torch.arange(N) == N - 1) & (N > 1))
        if self.fault == "comes back":
            self.alive = self.alive | (self.t == 3).unsqueeze(-1)
        if self.fault == "all dead":
            self.alive = self.alive & (self.t < 3).unsqueeze(-1)
        truncated = (self.t >= LENGTH) & ~reset
        for b in torch.nonzero(reset).flatten().tolist():
            self.restart(b)
            self.t[b] = 0
            reward[b] = 1.0 if self.fault == "reset row pays" else 0.0
        valid = ~reset
        if self.fault == "same-step reset":
            for b in torch.nonzero(truncated).flatten().tolist():
                self.restart(b)
            if reset.any():
                self.place, self.t = self.shown.place, self.shown.t
        self.shown = _Kept(self.place.clone(), self.t.clone())
        self.done = truncated
        outcome = Outcome(
            reward=reward,
            terminated=torch.zeros(B, dtype=torch.bool),
            truncated=truncated,
            valid=valid,
            metrics=TensorDict({"far": self.place.mean(-1)}, batch_size=[B]),
            batch_size=[B],
        )
        self.spoil_outcome(outcome, reset)
        return self.see(), outcome

    def spoil_outcome(self, outcome: Outcome, reset: Tensor) -> None:
        fault, B = self.fault, len(reset)
        if fault == "nan reward":
            outcome.reward[0, 0] = torch.nan
        if fault == "reward shape":
            outcome.reward = outcome.reward.unsqueeze(-1)
        if fault == "reward dtype":
            outcome.reward = outcome.reward.long()
        if fault == "done dtype":
            outcome.truncated = outcome.truncated.float()
        if fault == "metric missing":
            outcome.metrics = TensorDict({}, batch_size=[B])
        if fault == "metric extra":
            outcome.metrics["near"] = torch.zeros(B)
        if fault == "metric nan":
            outcome.metrics["far"][0] = torch.nan
        if fault == "reset row valid":
            outcome.valid = torch.ones_like(reset)
        if fault == "row invalid":
            outcome.valid = outcome.valid & (self.t != 1)
        if fault == "reset row ends":
            outcome.terminated = reset.clone()

    def state_dict(self) -> dict[str, Any]:
        state = {"place": self.place, "last": self.last, "t": self.t, "alive": self.alive, "done": self.done}
        kept = {name: value.clone() for name, value in state.items()}
        return kept | {"generators": torch.stack([g.get_state() for g in self.generators])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("place", "last", "t", "alive", "done"):
            setattr(self, name, state[name].clone())
        self.generators = [torch.Generator() for _ in self.t]
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.clone())
        if self.fault == "state forgets":
            self.generators[0].manual_seed(0)

    def close(self) -> None:
        pass


class _Kept:
    def __init__(self, place: Tensor, t: Tensor) -> None:
        self.place, self.t = place, t


shared = torch.Generator()


class Siblings(Walk):
    """Instances that draw from one stream between them."""

    def step(self, action: Tensor) -> tuple[Observation, Outcome]:
        seen, outcome = super().step(action)
        outcome.reward = outcome.reward + torch.where(outcome.valid, torch.rand(1, generator=shared), 0.0).unsqueeze(-1)
        return seen, outcome

    def reset(self, seed: int | None = None) -> Observation:
        shared.manual_seed(self.seed if seed is None else seed)
        return super().reset(seed)


FAULTS = {
    "num_envs": "expected a spec with num_envs=3",
    "n_agents": "expected a spec with n_agents=2",
    "own grows": "expected the same spec at n_agents=2 and 4, but for sizes",
    "own shape": "expected own of shape",
    "own dtype": "expected own of floats",
    "alive dtype": "expected alive bool",
    "kind dtype": "expected kind of longs",
    "kind unknown": "expected kinds below 1",
    "kind changes": "expected kinds that do not change",
    "nan own": "expected finite own of the living",
    "nan position": "expected finite position of the living",
    "nan entity": "expected finite entities of what is present",
    "field missing": "expected entities exactly where the spec has it",
    "field extra": "expected state exactly where the spec has it",
    "dead may act": "expected available all False for the dead",
    "living may not": "expected a legal action for every living agent",
    "same tensor": "expected returned tensors that later steps leave alone",
    "batch": "expected an observation of batch size",
    "dead start": "expected a living agent in every team after a reset",
    "dead act": "expected the same run again",
    "reset row acts": "expected the same run again",
    "comes back": "expected the dead to stay dead",
    "all dead": "expected a living agent in every team that goes on",
    "same-step reset": "expected the dead to stay dead",
    "reset row pays": "expected reward 0 on a reset row",
    "reset row valid": "expected an invalid row after a final step",
    "reset row ends": "expected no end on a reset row",
    "row invalid": "expected valid rows but for those after a final step",
    "nan reward": "expected finite rewards of the living",
    "reward shape": "expected reward of shape",
    "reward dtype": "expected reward of floats",
    "done dtype": "expected truncated bool",
    "metric missing": "expected the spec's metrics",
    "metric extra": "expected the spec's metrics",
    "metric nan": "expected a finite metric far",
    "equal teams": "expected the teams of a batch to start differently",
    "seed ignored": "expected other seeds to start differently",
    "reset(None) repeats": r"expected reset\(None\) to go on to new seeds",
    "reset(None) wanders": r"expected reset\(None\) to follow from the seed before it",
    "global stream": "expected the same run again|expected a fresh instance to play",
    "leftover": "expected the same run again|expected a fresh instance|expected a world restored",
    "state forgets": "expected a world restored at step",
}


def test_a_correct_world_passes() -> None:
    check_team_env(Walk, n_agents=[1, 2, 4])
    check_team_env(Walk)
    check_team_env(Walk(num_envs=2))
    assert isinstance(Walk(), TeamEnv)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_promise_is_caught_in_one_line(fault: str) -> None:
    with pytest.raises(ValueError, match=f"^({FAULTS[fault]})") as caught:
        check_team_env(partial(Walk, fault=fault), n_agents=[2, 4])
    assert "\n" not in str(caught.value)


def test_a_reset_in_the_final_step_is_caught_where_nobody_dies() -> None:
    with pytest.raises(ValueError, match=r"^expected a reset row to hold the last observation"):
        check_team_env(partial(Walk, fault="same-step reset"), n_agents=[1])


def test_instances_that_share_a_random_stream_are_caught() -> None:
    with pytest.raises(ValueError, match=r"^expected a fresh instance to play as a used one"):
        check_team_env(Siblings)


def test_the_global_streams_are_as_they_were_after_the_check() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    check_team_env(Walk)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
