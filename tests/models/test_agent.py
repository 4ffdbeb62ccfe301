"""What an agent does: greedy, exploring, or both."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import gcoord
from gcoord.graph import Nearest
from gcoord.models import GraphEncoder
from gcoord.models.agent import Agent, Body
from gcoord.models.kinds import policy_head, q_head
from gcoord.trajectory import Observation


def agent_and_seen(head: object, **options: object) -> tuple[Agent, Observation]:
    torch.manual_seed(0)
    env = gcoord.make_env("native/meet", n_agents=20, num_envs=200, seed=0, **options)
    body = Body(env.spec, Nearest(2), partial(GraphEncoder, dim=8, heads=2))
    return Agent(body, partial(head, env.spec)).eval(), env.reset(0)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [q_head, partial(policy_head, gain=5.0)])
def test_a_share_of_greedy_actions_is_drawn_at_random(head: object) -> None:
    agent, seen = agent_and_seen(head)
    greedy = agent.act(seen, greedy=True).action
    assert (agent.act(seen, greedy=True, epsilon=0.0).action == greedy).all()
    differing = (agent.act(seen, greedy=True, epsilon=0.25).action != greedy).float().mean()
    always = (agent.act(seen, greedy=True, epsilon=1.0).action != greedy).float().mean()
    # A lot drawn at random may fall on the greedy action; of 4,000 agents the share is known to two percent.
    assert float(differing) == pytest.approx(0.25 * float(always), abs=0.03)
    assert always > 0.3


def test_a_share_of_points_in_a_box_is_drawn_at_random() -> None:
    agent, seen = agent_and_seen(policy_head, continuous=True)
    greedy = agent.act(seen, greedy=True).action
    moved = (agent.act(seen, greedy=True, epsilon=0.25).action != greedy).any(-1).float().mean()
    assert float(moved) == pytest.approx(0.25, abs=0.03)
