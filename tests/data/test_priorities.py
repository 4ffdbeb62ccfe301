"""Promises of prioritised replay: draws in proportion, exact weights, windows that are whole, exact resuming."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gcoord.data.priorities import Priorities, SumTree
from gcoord.data.replay import Replay
from gcoord.data.replays import Replays
from gcoord.trajectory import Observation, Step


def rows(first, count, B=2, N=3, invalid=()):
    """Rows whose key says which row and team they are: 100 * row + team."""
    stamp = 100 * torch.arange(first, first + count).view(-1, 1) + torch.arange(B)
    valid = torch.tensor([[(first + t, b) not in invalid for b in range(B)] for t in range(count)]).view(count, B)
    flag = torch.zeros(count, B, dtype=torch.bool)
    seen = Observation(
        own=torch.zeros(count, B, N, 1),
        alive=torch.ones(count, B, N, dtype=torch.bool),
        kind=torch.zeros(count, B, N, dtype=torch.long),
        batch_size=[count, B],
    )
    return Step(
        seen=seen,
        action=torch.zeros(count, B, N, dtype=torch.long),
        reward=torch.zeros(count, B, N),
        terminated=flag,
        truncated=flag.clone(),
        valid=valid,
        key=stamp,
        batch_size=[count, B],
    )


def prioritised(capacity=14, window=1, **options):
    return Replay(capacity, priorities=partial(Priorities, **options), window=window, seed=5)


def starts(batch):
    return {(int(k) // 100, int(k) % 100) for k in batch.steps.key[0]}


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100])
def test_the_tree_finds_what_a_running_sum_finds(size):
    torch.manual_seed(0)
    tree, plain = SumTree(size), torch.zeros(size, dtype=torch.float64)
    for _ in range(20):
        index = torch.randint(size, (5,)).unique()
        value = torch.rand(len(index), dtype=torch.float64) * (torch.rand(len(index)) > 0.3)
        tree.set(index, value)
        plain[index] = value
    assert torch.equal(tree.numbers, plain)
    torch.testing.assert_close(tree.total, plain.sum())
    if plain.sum() > 0:
        mass = torch.rand(500, dtype=torch.float64) * tree.total
        expected = torch.searchsorted(plain.cumsum(0), mass, right=True)
        assert torch.equal(tree.find(mass), expected)


def test_zeros_are_never_found_even_where_rounding_would_lead_there():
    tree = SumTree(8)
    tree.set(torch.tensor([1, 2]), torch.tensor([1e-17, 1.0], dtype=torch.float64))
    edge = torch.tensor([0.0, 1e-17, 0.5, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert set(tree.find(edge).tolist()) <= {1, 2}


def test_draws_and_weights_are_those_of_the_paper():
    priorities = Priorities(4, alpha=0.5, beta=0.4, beta_frames=100, least=1.0)
    cells = torch.arange(4)
    priorities.admit(cells, torch.tensor([True, True, True, False]))
    priorities.update(cells, torch.tensor([0.0, 3.0, 8.0, 5.0]))  # p = 1, 4, 9; p^alpha = 1, 2, 3; the last stays out
    share = torch.tensor([1 / 6, 2 / 6, 3 / 6], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn, weight = priorities.draw(6000, torch.tensor(3), frames=0, generator=generator)
    counts = drawn.bincount(minlength=4)
    assert counts[3] == 0
    torch.testing.assert_close(counts[:3] / 6000, share.float(), atol=1e-3, rtol=0)  # stratified: hardly any noise
    expected = (3 * share) ** -0.4
    torch.testing.assert_close(weight, (expected / expected.max()).float()[drawn])
    _, full = priorities.draw(6000, torch.tensor(3), frames=100, generator=generator)
    torch.testing.assert_close(full.unique(), torch.tensor([1 / 3, 1 / 2, 1.0]))


def test_alpha_zero_draws_all_alike_with_weights_of_one():
    replay = prioritised(capacity=40, alpha=0.0)
    replay.add(rows(0, 11))
    first = replay.sample(200)
    replay.feedback(first.index, torch.rand(200) * (first.index % 2))
    batch = replay.sample(20_000)
    assert torch.equal(batch.weight, torch.ones(20_000))
    counts = batch.index.bincount(minlength=20)
    assert (counts - 1000).abs().max() < 5


def test_fresh_windows_have_the_highest_priority_there_was():
    replay = prioritised(capacity=40, alpha=1.0, least=1e-6)
    replay.add(rows(0, 3))
    batch = replay.sample(8)
    replay.feedback(batch.index, torch.full((8,), 7.0))
    replay.add(rows(3, 2))
    shares = replay.sample(4000).index.bincount(minlength=8) / 4000
    torch.testing.assert_close(shares[:8], torch.full((8,), 1 / 8), atol=2e-3, rtol=0)
    replay.feedback(torch.tensor([0]), torch.tensor([0.0]))
    assert (replay.sample(4000).index == 0).sum() <= 1


@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_never_cross_the_cursor_nor_start_at_resets(window):
    invalid = {(row, team) for row in range(40) for team in range(2) if (row * 7 + team * 3) % 5 == 0}
    even, replay = Replay(14), prioritised(window=window)
    for row in range(0, 30, 2):
        for one in (even, replay):
            one.add(rows(row, 2, invalid=invalid))
        if replay.ready(window):
            assert starts(replay.sample(400, window)) == starts(even.sample(400, window))
    for one in (even, replay):
        one.cut()
        one.add(rows(60, 3))
    assert starts(replay.sample(400, window)) == starts(even.sample(400, window))
    with pytest.raises(ValueError, match=f"expected windows of {window} rows"):
        replay.sample(4, window + 1)


@pytest.mark.parametrize("persistent", [False, True])
def test_priorities_resume_exactly(tmp_path, persistent):
    def new():
        folder = tmp_path if persistent else None
        return Replay(14, folder=folder, seed=5, priorities=Priorities, window=2)

    def go_on(replay):
        drawn = []
        for turn in range(6):
            replay.add(rows(9 + turn, 1))
            batch = replay.sample(16, 2, frames=turn * 20_000)
            replay.feedback(batch.index, (batch.steps.key[0] % 7).float())
            drawn.append((batch.index, batch.weight))
        return drawn

    replay = new()
    replay.add(rows(0, 9))
    batch = replay.sample(16, 2)
    replay.feedback(batch.index, batch.index.float())
    state = replay.state_dict()
    resumed = new()
    resumed.load_state_dict(state)
    for (a, weight_a), (b, weight_b) in zip(go_on(replay), go_on(resumed), strict=True):
        assert torch.equal(a, b) and torch.equal(weight_a, weight_b)
    with pytest.raises(ValueError, match="expected 14 priorities"):
        Priorities(14).load_state_dict(Priorities(15).state_dict())


def test_feedback_finds_the_ring_of_its_team_size():
    replays = Replays([2, 3], 80, priorities=partial(Priorities, alpha=1.0), window=1)
    for n in (2, 3):
        replays.add(rows(0, 5, N=n))
    batch = replays.sample(30, n_agents=3)
    assert batch.index.min() >= 40
    untouched = replays.of_size[2].priorities.tree.numbers.clone()
    replays.feedback(batch.index, torch.full((30,), 9.0))
    assert torch.equal(replays.of_size[2].priorities.tree.numbers, untouched)
    numbers = replays.of_size[3].priorities.tree.numbers
    assert torch.equal(numbers[batch.index - 40], torch.full((30,), 9.001, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"beta": 1.5}, {"least": 0.0}, {"beta_frames": -1}])
def test_priorities_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^expected alpha and beta_frames of at least 0.*\(got "):
        Priorities(4, **wrong)
