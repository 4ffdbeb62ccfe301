"""Promises of sequences for memories: whole episodes, and windows with rows before them that warm memory up."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.sources import Replayed
from gcoord.graph import Complete
from gcoord.learners.terms import warmed
from gcoord.learners.value import QLearner
from gcoord.models import GraphEncoder
from gcoord.models.agent import Body
from gcoord.models.memory import GRU
from gcoord.trajectory import resets


def make(memory=True, num_envs=4, max_steps=5, learner=None, env=None, **options):
    torch.manual_seed(0)
    world = gcoord.make_env(
        "native/meet", n_agents=2, num_envs=num_envs, continuous=False, max_steps=max_steps, **(env or {})
    )
    encoder = partial(GraphEncoder, dim=8, heads=2, rounds=1)
    body = partial(Body, world.spec, Complete(), encoder, memory=partial(GRU, dim=8) if memory else None)
    made = QLearner(world.spec, body, **(learner or {}))
    settings = {"capacity": 400, "batch": 16, "steps": 3, "updates": 1, "bursts": 1, "warmup": 200, **options}
    return made, Replayed(made, [Collector(world, 1)], **settings)


def test_windows_of_episodes_begin_where_episodes_do_and_count_nothing_after_their_end():
    learner, source = make(episodes=True, env={"deaths": 0.3})
    assert source.length == 5
    batch = next(iter(source))
    ring = source.replays.of_size[2]._ring
    rows, teams = ring["valid"].shape
    cells = batch.index
    before = ring["valid"].flatten()[(cells - teams) % (rows * teams)]
    assert not before[cells >= teams].any(), "the row before an episode is the one that was spent on its reset"
    assert torch.equal(batch.memory, torch.zeros_like(batch.memory))
    done = batch.steps.terminated | batch.steps.truncated
    ended = torch.cat([torch.zeros_like(done[:1]), done.cumsum(0)[:-1] > 0])
    assert (batch.steps.valid == ~ended).all() and (~batch.steps.valid).any() and done.any(0).all()
    assert learner.losses(batch)["td"].isfinite()


def test_rows_after_an_episodes_end_change_nothing():
    learner, source = make(episodes=True, env={"deaths": 0.3})
    batch = next(iter(source))
    loss = learner.losses(batch)["td"]
    other = batch.clone()
    after = ~batch.steps.valid
    assert after.any()
    other.steps.reward[after] = 77.0
    other.steps.seen.own[after & torch.cat([torch.zeros_like(after[:1]), after[:-1]])] = 5.0
    torch.testing.assert_close(learner.losses(other)["td"], loss)


def test_rows_before_a_window_warm_memory_up_as_one_long_window_would():
    learner, source = make(burn_in=4, length=3)
    for _ in range(3):
        batch = next(iter(source))
    assert batch.before.batch_size == (4, 16) and batch.steps.batch_size == (3, 16)
    assert (~batch.before.valid).any(), "an episode must end within the rows before"
    body = learner.agent.body
    memory = warmed(body, batch)
    whole = torch.cat([batch.before.seen, batch.seen])
    order = resets(torch.cat([batch.before.valid, batch.steps.valid]))
    keys = torch.cat([batch.before.key, batch.keys_of_seen])
    expected = body.unroll(whole, batch.memory, order, key=keys).h[4:]
    # Where the row just before the window ends an episode, `resets` of the window alone does not say so: memory does.
    found = body.unroll(batch.seen, memory, resets(batch.steps.valid), key=batch.keys_of_seen).h
    torch.testing.assert_close(found, expected)
    assert not memory.requires_grad and memory.abs().sum() > 0


def test_memory_before_a_window_that_follows_a_reset_is_empty():
    learner, source = make(burn_in=2, length=2)
    batches = [next(iter(source)) for _ in range(6)]
    ends = torch.cat([~batch.before.valid[-1] for batch in batches])
    memory = torch.cat([warmed(learner.agent.body, batch) for batch in batches])
    assert ends.any() and torch.equal(memory[ends], torch.zeros_like(memory[ends]))
    assert (memory[~ends].abs().amax((-2, -1)) > 0).all()


def test_losses_of_a_window_do_not_depend_on_stored_memory_after_a_long_burn_in_over_a_reset():
    learner, source = make(burn_in=7, length=2)
    batch = next(iter(source))
    loss = learner.losses(batch)["td"]
    wrong = batch.clone()
    wrong.memory = torch.rand_like(wrong.memory)
    torch.testing.assert_close(learner.losses(wrong)["td"], loss)  # every episode is at most 5 rows and a reset


REFUSED = {
    "burn_in without memory": ({"memory": False, "burn_in": 2}, "expected burn_in of at least 0"),
    "burn_in of episodes": ({"episodes": True, "burn_in": 2}, "expected burn_in of at least 0"),
    "windows too short": ({"learner": {"n_step": 4}, "length": 3}, "expected windows of at least 4 rows"),
    "windows too long": ({"length": 100, "capacity": 240, "warmup": 10}, "expected a capacity of at least 404 frames"),
    "warmup too long": ({"warmup": 401}, "expected a warmup of at most 400 frames"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_never_draw_a_window_is_refused(case):
    options, told = REFUSED[case]
    with pytest.raises(ValueError, match=told) as error:
        make(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"episodes": True}, {"burn_in": 3}, {"episodes": True, "priorities": "on"}, {"priorities": "on"}],
    ids=str,
)
def test_a_source_goes_on_exactly_where_it_was_saved(options, tmp_path):
    from gcoord.data.priorities import Priorities

    if "priorities" in options:
        options = {**options, "priorities": Priorities}

    def batches(learner, source, count):
        seen = []
        for _ in range(count):
            for batch in source:
                learner.losses(batch)
                source.feedback(batch.index, learner.td_error)
                seen.append((batch.index, batch.weight, batch.steps.key))
        return seen

    learner, source = make(**options)
    batches(learner, source, 4)
    state, frames, random = source.state_dict(), learner.frames, torch.get_rng_state()
    expected = batches(learner, source, 3)
    again, resumed = make(**options)
    resumed.load_state_dict(state)
    again.frames = frames
    torch.set_rng_state(random)
    for one, other in zip(batches(again, resumed, 3), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
