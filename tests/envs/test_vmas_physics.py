"""Discs moved all at once move as the simulator moves them one pair after another."""

from __future__ import annotations

import time

import pytest
import torch

pytest.importorskip("vmas")

from gcoord.envs.vmas import VmasEnv
from gcoord.envs.vmas_loads import Balance, Transport
from gcoord.envs.vmas_physics import discs_step
from gcoord.envs.vmas_state import restore, snapshot
from gcoord.envs.vmas_views import Discovery, Dispersion, Flocking, Navigation, SimpleSpread, View


@pytest.mark.parametrize("view", [Navigation, SimpleSpread, Discovery, Dispersion, Flocking])
def test_a_step_of_discs_is_the_simulators_to_rounding(view: type[View]) -> None:
    env = view(n_agents=6, num_envs=32, max_steps=None)
    seen = env.reset(0)
    generator = torch.Generator().manual_seed(0)
    contacts = 0
    for count in range(30):
        # Together, then apart: bodies meet, and are pushed off each other.
        noise = torch.rand(32, 6, 2, generator=generator) * 2 - 1
        action = env._steer(-3 * seen.position) if count % 15 < 10 else noise
        before, stream = snapshot(env._roots), env._streams.state_dict()
        own_step = env.world.__dict__.pop("step")
        with env._streams:
            env._act(action, None)
        theirs = [(body.state.pos, body.state.vel, body.state.rot) for body in env.world.entities]
        env.world.step = own_step
        restore(env._roots, before)
        env._streams.load_state_dict(stream)
        free = [agent.state.vel * 0.75 for agent in env.agents]
        with env._streams:
            env._act(action, None)
        for body, values in zip(env.world.entities, theirs, strict=True):
            for mine, their in zip((body.state.pos, body.state.vel, body.state.rot), values, strict=True):
                torch.testing.assert_close(mine, their, rtol=1e-5, atol=3e-6)
        for agent, coasting in zip(env.agents, free, strict=True):
            pushed = agent.state.vel - coasting - 0.1 * agent.state.force
            contacts += int((pushed.abs() > 1e-3).sum())
        restore(env._roots, before)
        env._streams.load_state_dict(stream)
        seen, _ = env.step(action)
    assert (contacts > 0) == (view is not Dispersion)


def test_worlds_of_other_things_are_left_to_the_simulator() -> None:
    for world in (
        Transport(num_envs=2),
        Balance(num_envs=2),
        VmasEnv("wheel", num_envs=2),
        VmasEnv("drone", num_envs=2),
    ):
        assert discs_step(world.world) is None and "step" not in world.world.__dict__


def test_hundreds_of_agents_are_no_hindrance() -> None:
    env = Navigation(n_agents=300, num_envs=1)
    env.reset(0)
    start = time.perf_counter()
    for _ in range(3):
        seen, _ = env.step(torch.zeros(1, 300, 2))
    assert time.perf_counter() - start < 3  # pair after pair: longer than a second a step
    assert torch.isfinite(seen.own).all()
