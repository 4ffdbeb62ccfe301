"""Films of episodes: who hears whom and how much, drawn where everyone stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import gcoord
from gcoord.graph import Nearest
from gcoord.models import GraphEncoder, MeanKernel
from gcoord.models.agent import Agent, Body
from gcoord.models.kinds import policy_head
from gcoord.scaleup.film import bounds, draw, film, heard, scenes
from gcoord.spec import TeamSpec


def agent_for(spec: TeamSpec, **options: object) -> Agent:
    torch.manual_seed(0)
    body = Body(spec, Nearest(2), partial(GraphEncoder, dim=16, heads=4, **options))
    return Agent(body, partial(policy_head, spec)).eval()


def meet(**options: object) -> gcoord.envs.TeamEnv:
    return gcoord.make_env("native/meet", n_agents=5, num_envs=2, **options)


def test_scenes_show_the_episode_to_its_end() -> None:
    env = meet()
    shots = list(scenes(env, agent_for(env.spec), seed=0))
    assert [shot.step for shot in shots] == list(range(len(shots)))
    assert 2 <= len(shots) <= env.spec.max_steps + 1
    replayed = meet()
    assert np.array_equal(shots[0].position, replayed.reset(0).position[0].numpy())


def test_edges_are_the_graphs_and_the_most_attended_weighs_one() -> None:
    env = meet()
    agent = agent_for(env.spec)
    features = agent.body(env.reset(0), attention=True)
    edges, weights = heard(features)
    hears = features.graph.hears()[0]
    assert {(int(s), int(r)) for s, r in edges} == {(int(s), int(r)) for r, s in hears.nonzero()}
    for receiver in range(5):
        assert weights[edges[:, 1] == receiver].max() == pytest.approx(1.0)
    assert 0 <= weights.min() < 1


def test_edges_weigh_alike_where_nobody_attends() -> None:
    env = meet()
    features = agent_for(env.spec, kernel=MeanKernel).body(env.reset(0), attention=True)
    assert (heard(features)[1] > 0).all()


def test_the_dead_are_neither_drawn_nor_heard() -> None:
    env = meet(deaths=0.3)
    for shot in scenes(env, agent_for(env.spec), seed=1):
        gone = np.flatnonzero(~shot.alive)
        assert not np.isin(shot.edges[shot.edges < 5], gone).any()


def test_the_frame_holds_everyone_at_all_times() -> None:
    env = meet(entities=3)
    shots = list(scenes(env, agent_for(env.spec, entity_dim=3), seed=0))
    (left, right), (bottom, top) = bounds(shots)
    every = np.concatenate([shot.position for shot in shots] + [shot.entity_position for shot in shots])
    assert left < every[:, 0].min() and every[:, 0].max() < right
    assert bottom < every[:, 1].min() and every[:, 1].max() < top
    assert right - left == pytest.approx(top - bottom)


def test_pictures_differ_where_agents_moved() -> None:
    env = meet()
    first, second, *_ = draw(list(scenes(env, agent_for(env.spec), seed=0))[:3], "a team", size=2.0)
    assert first.shape == second.shape and first.dtype == np.uint8
    assert (first != second).any() and first.std() > 5


@pytest.mark.parametrize("ffmpeg", [True, False])
def test_a_film_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ffmpeg: bool) -> None:
    from gcoord.scaleup import film as module

    if not ffmpeg:
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    env = meet()
    out = film(env, agent_for(env.spec), tmp_path / "episode", seed=0, title="a team", limit=4)
    assert out.suffix == (".mp4" if ffmpeg else ".gif")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    import imageio.v2 as imageio

    assert len(imageio.mimread(out)) >= 2
