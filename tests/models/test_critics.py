"""Promises of the critics: values of the living alone, at any team size, and of the team as one."""

from functools import partial

import pytest
import torch

import gcoord
from gcoord.graph import Complete
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.critics import Central, Local
from gcoord.models.pool import team_pool

FACTORIES = {"local": Local, "central": Central}


def make(kind, n_agents=5):
    torch.manual_seed(0)
    world = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=3)
    critic = FACTORIES[kind](Body(world.spec, Complete(), partial(GraphEncoder, dim=16, heads=2))).double()
    for layer in (critic.own, critic.value):
        torch.nn.init.normal_(layer.bias)
    seen = world.reset(0)
    seen.own, seen.position = seen.own.double(), seen.position.double()
    return critic, seen


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("n_agents", [1, 2, 3, 5, 40])
def test_values_turn_with_the_agents_and_read_nothing_of_the_dead(kind, n_agents):
    critic, seen = make(kind, n_agents)
    seen.alive[0, n_agents // 2] = n_agents == 1
    seen.alive[1, :] = False
    members = torch.ones_like(seen.alive)
    values = critic(seen, members=members)
    order = torch.randperm(n_agents)
    turned = seen.clone()
    for name in ("own", "alive", "kind", "position"):
        setattr(turned, name, getattr(seen, name)[:, order])
    again = critic(turned, members=members)
    living = seen.alive
    torch.testing.assert_close(
        again.each[living[:, order]], values.each[:, order][living[:, order]], rtol=1e-12, atol=1e-12
    )
    dirty = seen.clone()
    dirty.own[~living], dirty.position[~living] = float("nan"), float("inf")
    unread = critic(dirty, members=members)
    assert torch.equal(unread.each[living], values.each[living])
    if kind == "local":
        assert values.team is None
    else:
        torch.testing.assert_close(again.team, values.team, rtol=1e-12, atol=1e-12)
        assert torch.equal(unread.team, values.team)


def test_the_team_as_one_is_worth_the_mean_member_in_the_pooled_team():
    critic, seen = make("central")
    seen.alive[0, 1] = False
    members = torch.tensor([True, True, False, True, False]).expand(3, 5)
    team = critic(seen, members=members).team
    h = critic.body(seen).h
    for b in range(3):
        mean = h[b, seen.alive[b] & members[b]].mean(0)
        hidden = critic.own(mean) + critic.team(team_pool(h[b], seen.alive[b]))
        torch.testing.assert_close(team[b], critic.value(torch.tanh(hidden))[0])
    assert critic(seen).team is None, "nobody asked"


def test_a_critic_of_the_pooled_team_alone_values_everyone_as_the_team():
    critic, seen = make("central")
    torch.nn.init.zeros_(critic.own.weight)
    values = critic(seen, members=torch.ones_like(seen.alive))
    torch.testing.assert_close(values.each, values.team.unsqueeze(-1).expand_as(values.each))
    torch.nn.init.normal_(critic.own.weight)
    assert not torch.allclose(critic(seen).each, values.each)
