"""Neighbours' rewards are learnt from and never reported."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.sharing import Sharing
from gcoord.data.sources import Rollouts
from gcoord.graph import Complete, Nearest
from gcoord.learners.policy_gradient import PolicyGradient
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.critics import Local
from gcoord.trajectory import Trajectory


def rollouts(topology: Any, sharing: Sharing | None = None, n: int = 5, **options: Any) -> Rollouts:
    torch.manual_seed(0)
    world = gcoord.make_env("native/meet", n_agents=n, num_envs=4, **options)
    body = partial(Body, world.spec, topology, partial(GraphEncoder, dim=16, heads=2))
    source = Rollouts(PolicyGradient(world.spec, body, Local), [Collector(world, 3)], steps=12)
    source.sharing = sharing
    return source


def expected(plain: Trajectory, body: Body, alpha: float) -> torch.Tensor:
    """Row by row and agent by agent, as the definition says."""
    steps = plain.steps
    shared = steps.reward.clone()
    hears = body.bare_graph(steps.seen, steps.key).hears()
    for t, b, i in steps.seen.alive.nonzero().tolist():
        if steps.valid[t, b]:
            for j in range(shared.shape[-1]):
                if hears[t, b, i, j]:
                    shared[t, b, i] += alpha * steps.reward[t, b, j]
    return shared


@pytest.mark.parametrize("topology", [Complete(), Nearest(2), Nearest(2, dense_up_to=0)], ids=["all", "dense", "lists"])
@pytest.mark.parametrize("options", [{}, {"deaths": 0.2}, {"entities": 3}], ids=str)
def test_an_agent_earns_a_share_of_what_those_earn_whom_it_hears(topology: Any, options: dict[str, Any]) -> None:
    (plain,) = rollouts(topology, **options).collect(12)
    source = rollouts(topology, Sharing(0.5), **options)
    (told,) = source.collect(12)
    assert torch.equal(told.steps.action, plain.steps.action)
    want = expected(plain, source.learner.agent.body, 0.5)
    assert not torch.allclose(want, plain.steps.reward)
    torch.testing.assert_close(told.steps.reward, want)


def test_figures_are_the_worlds_own() -> None:
    figures = []
    for sharing in (None, Sharing(1.0)):
        source = rollouts(Complete(), sharing)
        source.collect(60)
        figures.append(source.take_figures())
    assert figures[0] == figures[1] and figures[0]["episodes"] > 0


def test_what_cannot_be_shared_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"expected sharing\.neighbours from 0 to 1"):
        Sharing(2.0)
    spec = gcoord.make_env("native/skirmish", n_agents=3, num_envs=1).spec
    with pytest.raises(ValueError, match=r"expected a world whose agents earn for themselves .*\(got rewards team in"):
        Sharing(1.0).check(spec)
    assert not Sharing() and Sharing(0.1)
