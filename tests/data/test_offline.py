"""Promises of learning from recorded teams: the same batches after a resume, one size a batch, other worlds refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.dataset import append, begin_shard
from gcoord.data.offline import Offline
from gcoord.data.recording import record
from gcoord.data.sources import Replayed
from gcoord.graph import Auto
from gcoord.learners.imitation import Imitation
from gcoord.learners.policy_gradient import PolicyGradient
from gcoord.learners.terms import warmed
from gcoord.learners.value import QLearner
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.critics import Local
from gcoord.models.memory import GRU
from gcoord.scaleup.protocol import scripted
from gcoord.trajectory import learns


def add(folder, n_agents=3, episodes=7, seed=0):
    """Records one shard of native/meet by its script."""
    env = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=4, max_steps=9)
    writer = begin_shard(folder)
    record(env, scripted(env), None, episodes, seed, writer)
    about = {"spec": env.spec.to_dict(), "seed": seed, "episodes": episodes, "figures": {}}
    append(folder, writer, "native/meet", {}, about)


def spec_of(n_agents=3, **options):
    return gcoord.make_env("native/meet", n_agents=n_agents, num_envs=1, **options).spec


def source_of(*folders, sizes=(3,), learner=Imitation, memory=None, normalise=False, **options):
    torch.manual_seed(0)
    spec = spec_of()
    body = partial(Body, spec, Auto(2), partial(GraphEncoder, dim=16, heads=2), memory=memory, normalise=normalise)
    options = {"minibatch": 8, "updates": 5, "seed": 3, **options}
    return Offline(learner(spec, body), [spec_of(n) for n in sizes], [str(f) for f in folders], **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    add(folder, n_agents=3, episodes=12)
    add(folder, n_agents=5, episodes=4)
    return folder


def keys(batches):
    return [batch.steps.key.tolist() for batch in batches]


def test_a_resumed_source_gives_the_same_batches_also_when_more_was_recorded_since(tmp_path):
    for seed in (0, 1):
        add(tmp_path, n_agents=3, seed=seed)
    add(tmp_path, n_agents=5)
    first = source_of(tmp_path, sizes=(3, 5))
    list(first)
    state = first.state_dict()
    wanted = keys([*first, *first])
    add(tmp_path, n_agents=3, seed=2)
    later = source_of(tmp_path, sizes=(3, 5), seed=99)
    assert later.load_state_dict(state)
    assert keys([*later, *later]) == wanted
    assert len(source_of(tmp_path, sizes=(3, 5)).shards) == 4 and len(later.shards) == 3


def test_a_shard_that_was_learnt_from_and_is_gone_is_named(tmp_path, folder):
    add(tmp_path, n_agents=3, seed=7)
    state = source_of(tmp_path).state_dict()
    with pytest.raises(ValueError, match=rf"expected the recorded shard {state['shards'][0]}.* \(got none"):
        source_of(folder).load_state_dict(state)


def test_every_batch_holds_one_size_drawn_by_how_much_of_it_was_recorded(folder):
    source = source_of(folder, sizes=(3, 5), updates=400)
    sizes = torch.tensor([batch.steps.seen.alive.shape[-1] for batch in source])
    frames = {n: windows.frames for n, windows in source.windows.items()}
    share = frames[3] / sum(frames.values())
    assert 0.5 < share < 0.95 and set(sizes.tolist()) == {3, 5}
    assert (sizes == 3).float().mean().item() == pytest.approx(share, abs=0.08)
    assert len(source) == 400


def test_sizes_that_were_not_asked_for_are_left_out_and_those_not_recorded_refused(folder):
    assert all(batch.steps.seen.alive.shape[-1] == 5 for batch in source_of(folder, sizes=(5,)))
    with pytest.raises(ValueError, match=r"expected n_agents among \[3, 5\], the team sizes recorded \(got 4\)"):
        source_of(folder, sizes=(4,))


def test_frames_are_the_valid_rows_learnt_from(folder):
    source = source_of(folder, sizes=(3, 5), length=4)
    frames = agent_steps = 0
    for batch in source:
        frames += int(batch.steps.valid.sum())
        agent_steps += int(batch.steps.valid.sum()) * batch.steps.seen.alive.shape[-1]
    assert (source.learner.frames, source.learner.agent_steps) == (frames, agent_steps) and frames < 5 * 8
    assert source.take_figures() == {}


def test_a_recurrent_policy_learns_whole_episodes_from_their_beginning(folder):
    source = source_of(folder, memory=GRU, minibatch=60)
    starts = {shard.leaves["key"][first].item() for shard in source.shards for first in shard.first.tolist()}
    assert source.length == max(shard.length.max() for shard in source.shards)
    for batch in source:
        assert set(batch.steps.key[0].tolist()) <= starts and batch.memory is None
        done = batch.steps.terminated | batch.steps.truncated
        assert (done.sum(0) == 1).all()


def test_memory_is_warmed_up_on_the_rows_before_as_if_it_had_begun_with_the_episode(folder):
    source = source_of(folder, memory=GRU, burn_in=9, length=2)
    whole = source_of(folder, memory=GRU, minibatch=60)
    body = source.learner.agent.body
    by_key = {}
    for batch in [*whole, *whole, *whole]:
        memory = None
        for t, valid in enumerate(batch.steps.valid):
            out = body(batch.steps.seen[t], memory, key=batch.steps.key[t])
            memory = out.memory
            by_key |= {k: h for k, h, ok in zip(batch.steps.key[t].tolist(), out.h, valid, strict=True) if ok}
    batch = next(iter(source))
    h = body(batch.steps.seen[0], warmed(body, batch), key=batch.steps.key[0]).h
    wanted = torch.stack([by_key[key] for key in batch.steps.key[0].tolist()])
    torch.testing.assert_close(h, wanted, atol=1e-5, rtol=0)


def test_statistics_of_observations_are_those_of_everything_recorded_taken_once(folder):
    source = source_of(folder, sizes=(3, 5), normalise=True, updates=1)
    source.learner.train()
    list(source), list(source)
    every = torch.cat([s.leaves["seen.own"][s.leaves["valid"]].flatten(0, 1) for s in source.shards]).double()
    norm = source.learner.agent.body.normaliser
    assert norm.count.item() == len(every)
    torch.testing.assert_close(norm.mean, every.mean(0), atol=1e-6, rtol=0)


def test_values_are_learnt_from_recorded_teams_too(folder):
    source = source_of(folder, learner=QLearner, length=3)
    for batch in source:
        losses = source.learner.losses(batch)
        assert losses["td"].isfinite() and learns(batch.steps).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": 2}, r"expected the world as in .*, actions=.* \(got actions="),
        ({"entities": 2}, r"expected the world as in .*, entity_dim=0 \(got entity_dim=3\)"),
    ],
)
def test_a_world_that_differs_from_the_recorded_one_is_refused_in_one_line(folder, options, message):
    learner = source_of(folder).learner
    with pytest.raises(ValueError, match=message) as error:
        Offline(learner, [spec_of(**options)], str(folder))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"expected env=native/meet, the world of .* \(got native/other\)"):
        Offline(learner, [spec_of().with_(world="native/other")], str(folder))


def test_learners_get_the_source_they_can_learn_from(folder):
    with pytest.raises(ValueError, match=r"expected source=rollouts for PolicyGradient \(got Offline\)"):
        source_of(folder, learner=partial(PolicyGradient, critic=Local))
    learner = source_of(folder).learner
    with pytest.raises(ValueError, match=r"expected source=offline dataset=<folder> for Imitation \(got Replayed\)"):
        Replayed(learner, [Collector(gcoord.make_env("native/meet", n_agents=3, num_envs=2), 0)])


@pytest.mark.parametrize("bad", [{"minibatch": 0}, {"updates": 0}, {"length": 0}, {"burn_in": 2}, {"burn_in": -1}])
def test_bad_arguments_are_refused(folder, bad):
    with pytest.raises(ValueError, match=r"^expected"):
        source_of(folder, **bad)
    with pytest.raises(ValueError, match="each once"):
        source_of(folder, folder)
