"""Promises of the replay: windows are what happened, never cross the cursor, are uniform, and resume exactly."""

from __future__ import annotations

import pytest
import torch

from gcoord.checkpoint import load_state, save_state
from gcoord.data import replay as replay_module
from gcoord.data.replay import Replay
from gcoord.data.replays import Replays
from gcoord.trajectory import Observation, Step

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def rows(first, count, B=2, N=3, invalid=(), optional=True, image=False, device="cpu"):
    """Rows whose every number says which row and team it is: 100 * row + team, plus 10,000 for the reward."""
    stamp = 100 * torch.arange(first, first + count).view(-1, 1) + torch.arange(B)  # [T, B]
    per_agent = stamp.unsqueeze(-1) + torch.arange(N) / 10  # [T, B, N]
    valid = torch.tensor(
        [[(first + t, b) not in invalid for b in range(B)] for t in range(count)], dtype=torch.bool
    ).view(count, B)
    own = per_agent.unsqueeze(-1).expand(-1, -1, -1, 4)
    if image:
        own = (stamp % 251).to(torch.uint8).view(count, B, 1, 1, 1, 1).expand(-1, -1, N, 1, 2, 2)
    seen = Observation(
        own=own,
        alive=torch.ones(count, B, N, dtype=torch.bool),
        kind=torch.zeros(count, B, N, dtype=torch.long),
        position=per_agent.unsqueeze(-1).expand(-1, -1, -1, 2) if optional else None,
        batch_size=[count, B],
    )
    step = Step(
        seen=seen,
        action=per_agent.long(),
        reward=per_agent + 10_000,
        terminated=torch.zeros(count, B, dtype=torch.bool),
        truncated=torch.zeros(count, B, dtype=torch.bool),
        valid=valid,
        key=stamp,
        log_prob=per_agent if optional else None,
        batch_size=[count, B],
    )
    return step.to(device)


def starts(replay, length=1, draws=4000):
    """The set of (row, team) that windows start at."""
    keys = replay.sample(draws, length).steps.key[0]
    return {(int(k) // 100, int(k) % 100) for k in keys.unique()}


def same_batch(a, b):
    a, b = (dict(batch.to_tensordict().flatten_keys().items()) for batch in (a, b))
    return a.keys() == b.keys() and "steps.seen.own" in a and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_window_is_what_happened_and_its_last_observation_is_the_next_row(length, device):
    replay = Replay(14, device=device)  # 7 rows of 2 teams
    for first, count in [(0, 3), (3, 1), (4, 5), (9, 2)]:
        replay.add(rows(first, count, device=device), memory=torch.full((count, 2, 3, 5), float(first), device=device))
    batch = replay.sample(64, length)
    first = batch.steps.key[0]
    expected = first + 100 * torch.arange(length, device=device).unsqueeze(1)
    assert batch.batch_size == torch.Size([]) and batch.steps.batch_size == torch.Size([length, 64])
    assert batch.steps.key.equal(expected) and batch.last_key.equal(first + 100 * length)
    assert batch.steps.seen.own[..., 0, 0].equal(expected.float())
    assert batch.last.own[..., 0, 3].equal((first + 100 * length).float())
    assert batch.last.position[..., 0, 1].equal((first + 100 * length).float())
    assert batch.steps.reward[..., 0].equal(expected + 10_000.0) and batch.steps.log_prob[..., 0].equal(
        expected.float()
    )
    assert batch.steps.action[..., 2].equal(expected) and batch.last.entities is None
    row = first // 100
    added_at = torch.where(row < 9, torch.where(row < 4, 3, 4), 9)
    assert batch.memory.shape == (64, 3, 5) and batch.memory[:, 0, 0].equal(added_at.float())
    assert batch.weight.equal(torch.ones(64, device=device))
    assert batch.index.equal((row % 7) * 2 + first % 100)


def test_windows_never_cross_the_cursor_and_reach_every_other_start():
    for total in range(2, 25):
        replay = Replay(14)  # 7 rows
        for row in range(total):
            replay.add(rows(row, 1))
        oldest = max(total - 7, 0)
        for length in range(1, min(total, 7)):
            expected = {(row, team) for row in range(oldest, total - length) for team in range(2)}
            assert starts(replay, length, 600) == expected
            assert replay.ready(length)
        with pytest.raises(ValueError, match="expected more than"):
            replay.sample(1, min(total, 7))
        assert len(replay) == min(total, 7) * 2


def test_rows_added_at_once_or_one_by_one_are_the_same_replay():
    invalid = {(row, team) for row in range(40) for team in range(2) if (row * 7 + team * 3) % 5 == 0}
    whole, single = Replay(14), Replay(14)
    whole.add(rows(0, 33, invalid=invalid))
    for row in range(33):
        single.add(rows(row, 1, invalid=invalid))
    for length in (1, 3):
        a, b = whole.sample(50, length), single.sample(50, length)
        assert same_batch(a, b)


def test_invalid_rows_start_no_window_but_may_lie_inside_one():
    invalid = {(2, 0), (5, 1), (6, 0), (6, 1)}
    replay = Replay(18)  # 9 rows
    replay.add(rows(0, 12, invalid=invalid))
    assert starts(replay) == {(r, b) for r in range(3, 11) for b in range(2)} - invalid
    assert starts(replay, 4) == {(r, b) for r in range(3, 8) for b in range(2)} - invalid
    batch = replay.sample(2000, 4)
    held = {(int(k) // 100, int(k) % 100) for k in batch.steps.key[~batch.steps.valid]}
    assert held == invalid - {(2, 0)}


def test_starts_are_drawn_uniformly():
    replay = Replay(40, seed=3)
    replay.add(rows(0, 31, invalid={(15, 0), (20, 1), (21, 1)}))
    draws = 60_000
    _, counts = replay.sample(draws).index.unique(return_counts=True)
    expected = draws / (19 * 2 - 3)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert len(counts) == 35 and chi_squared < 66  # 34 degrees of freedom: 0.1 % of uniform draws lie above 65.2


def test_a_replay_where_nothing_can_start_says_so():
    replay = Replay(14)
    replay.add(rows(0, 3, invalid={(row, team) for row in range(3) for team in range(2)}))
    assert not replay.ready()
    with pytest.raises(ValueError, match="expected a valid row"):
        replay.sample(1)
    assert not Replay(14).ready() and len(Replay(14)) == 0


def test_a_cut_ends_the_episode_there():
    replay = Replay(20)
    replay.add(rows(0, 4))
    replay.cut()
    replay.add(rows(50, 3))
    assert starts(replay) == {(r, b) for r in (0, 1, 2, 50, 51) for b in range(2)}
    batch = replay.sample(500)
    at = batch.steps.key[0] // 100
    assert batch.steps.truncated[0].equal(at == 2) and not batch.steps.terminated.any()
    assert batch.last_key[at == 2].div(100, rounding_mode="floor").eq(3).all()  # the observation that was true
    long = replay.sample(500, 3)
    assert (long.steps.valid | (long.steps.key // 100 == 3)).all() and not long.steps.valid.all()
    Replay(20).cut()


def test_integer_images_and_absent_fields_stay_as_they_are():
    replay = Replay(20)
    replay.add(rows(0, 5, image=True, optional=False))
    batch = replay.sample(7)
    assert batch.steps.seen.own.dtype == torch.uint8 and batch.last.own.shape == (7, 3, 1, 2, 2)
    assert batch.steps.log_prob is None and batch.last.position is None and batch.memory is None
    assert replay.nbytes < 20 * (3 * 4 + 3 * (1 + 8 + 8 + 4) + 3 + 8 + 8) + 8 * 20


@pytest.mark.parametrize("change", [{"optional": False}, {"N": 4}, {"B": 3}, {"image": True}])
def test_rows_of_other_fields_or_shapes_are_refused(change):
    replay = Replay(60)
    replay.add(rows(0, 2))
    with pytest.raises(ValueError, match=r"^expected .* \(got .*\)$"):
        replay.add(rows(2, 1, **change))
    with pytest.raises(ValueError, match="memory"):
        replay.add(rows(2, 1), memory=torch.zeros(1, 2, 3, 5))
    assert replay.added == 2


def test_what_is_added_is_copied_and_detached():
    replay = Replay(20)
    step = rows(0, 4)
    step.reward = step.reward.requires_grad_()
    replay.add(step)
    with torch.no_grad():
        step.reward.fill_(-1)
    batch = replay.sample(20)
    assert not batch.steps.reward.requires_grad and (batch.steps.reward > 0).all()
    batch.steps.reward.zero_()
    assert (replay.sample(20).steps.reward > 0).all()


def test_bytes_are_what_is_allocated_and_refused_before(monkeypatch):
    replay = Replay(1000)
    replay.reserve(rows(0, 0))
    # an agent: 4 own, 2 position, log_prob, reward; kind, action; alive. A frame: 3 flags, key, start. A row: a count.
    assert replay.nbytes == 1000 * (3 * (8 * 4 + 2 * 8 + 1) + 3 + 8 + 8) + 500 * 8 + 16
    assert len(replay) == 0
    Replay(1000, max_bytes=replay.nbytes).add(rows(0, 1))
    one = rows(0, 1)
    monkeypatch.setattr(replay_module.torch, "zeros", lambda *_, **__: pytest.fail("allocated before it was refused"))
    refused = r"^expected a replay of at most .* MiB, about 999 frames \(got capacity=1,000 at 170 bytes a frame, .*\)$"
    with pytest.raises(ValueError, match=refused):
        Replay(1000, max_bytes=replay.nbytes - 1).add(one)
    with pytest.raises(ValueError, match=r"^expected a replay of at most .*\(got capacity=10,000,000,000,000 "):
        Replay(10**13).reserve(one)
    with pytest.raises(ValueError, match="expected a replay of at least two rows of 2 teams, 4 frames"):
        Replay(3).add(one)
    with pytest.raises(ValueError, match="at least one frame"):
        Replay(0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("before", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("after", [0, 1, 5, 40])
def test_a_replay_resumes_exactly_although_rows_came_after_the_checkpoint(tmp_path, persistent, before, after, device):
    folder = tmp_path if persistent else None
    invalid = {(row, team) for row in range(99) for team in range(2) if (row * 7 + team * 3) % 5 == 0}

    def new():
        return Replay(14, folder=folder, seed=5, device=device)

    replay = new()
    for first in range(0, before, 2):
        replay.add(rows(first, min(2, before - first), invalid=invalid, device=device))
        if first % 6 == 0:
            replay.state_dict()
    state = replay.state_dict()
    if after:
        replay.add(rows(before, after, invalid=invalid, device=device))
        if replay.ready():
            replay.sample(9)
        replay.state_dict()  # a checkpoint that is written in part, never finished
    resumed, expected = new(), new_reference(before, invalid, device)
    resumed.load_state_dict(state)
    expected.generator.set_state(state["generator"])
    assert len(resumed) == len(expected) and resumed.added == before
    for step in range(3):
        for length in (1, 2):
            if resumed.ready(length):
                assert same_batch(resumed.sample(20, length), expected.sample(20, length))
        for replay in (resumed, expected):
            replay.add(rows(before + 3 * step, 3, invalid=invalid, device=device))
        again = new()
        again.load_state_dict(resumed.state_dict())
        assert same_batch(again.sample(20), expected.sample(20))
        resumed = again


def new_reference(before, invalid, device):
    replay = Replay(14, seed=5, device=device)
    replay.add(rows(0, before, invalid=invalid, device=device))
    return replay


def test_a_cut_after_a_checkpoint_is_in_the_next_one(tmp_path):
    replay = Replay(14, folder=tmp_path)
    replay.add(rows(0, 5))
    state = replay.state_dict()
    replay.cut()
    replay.add(rows(50, 2))
    later = replay.state_dict()
    resumed = Replay(14, folder=tmp_path)
    resumed.load_state_dict(later)
    assert starts(resumed) == {(r, b) for r in (0, 1, 2, 3, 50) for b in range(2)}
    resumed.load_state_dict(state)
    assert starts(resumed) == {(r, b) for r in range(4) for b in range(2)}
    resumed.cut()
    again = Replay(14, folder=tmp_path)
    again.load_state_dict(resumed.state_dict())
    assert starts(again) == {(r, b) for r in range(4) for b in range(2)} and again.sample(99).steps.truncated.any()


def test_a_checkpoint_writes_only_what_is_new_and_files_do_not_pile_up(tmp_path):
    replay = Replay(2000, folder=tmp_path)
    sizes = []
    for turn in range(60):
        replay.add(rows(turn * 100, 100))
        before = {path.name for path in tmp_path.iterdir()}
        state = replay.state_dict()
        new = {path.name for path in tmp_path.iterdir()} - before
        assert len(new) == 1 and sum((tmp_path / name).stat().st_size for name in new) < 100 * 2 * 170 * 1.1
        sizes.append(len(list(tmp_path.iterdir())))
        replay.committed()
    assert max(sizes) == 11 and len(state["files"]) == 10  # 10 hold the ring, 1 only the checkpoint before
    resumed = Replay(2000, folder=tmp_path)
    resumed.load_state_dict(state)
    assert replay.state_dict()["files"] == resumed.state_dict()["files"] == state["files"]
    replay.add(rows(0, 5000))
    assert len(replay.state_dict()["files"]) == 1


@pytest.mark.parametrize("persistent", [False, True])
def test_states_survive_the_disk_in_a_run_s_checkpoint(tmp_path, persistent):
    folder = tmp_path / "rows" if persistent else None
    replays = Replays([2, 3], 40, folder=folder)
    for n in (2, 3):
        replays.add(rows(0, 8, N=n, image=True), memory=torch.rand(8, 2, n, 5))
    save_state(tmp_path / "last", replays.state_dict())
    resumed = Replays([2, 3], 40, folder=folder, seed=9)
    resumed.load_state_dict(load_state(tmp_path / "last"))
    assert all(same_batch(resumed.sample(9, 2), replays.sample(9, 2)) for _ in range(8))


def test_leftovers_of_killed_checkpoints_are_removed(tmp_path):
    replay = Replay(14, folder=tmp_path)
    (tmp_path / "rows-0-3.new-123").write_text("half")
    (tmp_path / "rows-0-3-0123456789abcdef.safetensors").write_text("orphan")
    replay.add(rows(0, 3))
    replay.state_dict()
    replay.committed()
    assert len(list(tmp_path.iterdir())) == 1


def test_however_many_saves_fail_the_last_committed_checkpoint_stays_whole(tmp_path):
    replay = Replay(14, folder=tmp_path)
    replay.add(rows(0, 6))
    good = replay.state_dict()
    replay.committed()
    for first in (6, 12, 18):
        replay.add(rows(first, 6))
        replay.state_dict()  # never committed: the checkpoint around it could not be written
    restored = Replay(14, folder=tmp_path)
    restored.load_state_dict(good)
    assert restored.added == good["added"] == 6


def test_naming_the_same_folder_again_forgets_nothing(tmp_path):
    replay = Replay(14, folder=tmp_path)
    replay.add(rows(0, 6))
    good = replay.state_dict()
    replay.folder = tmp_path
    assert replay.state_dict()["files"] == good["files"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_rows_are_named_and_refused(tmp_path, damage):
    replay = Replay(14, folder=tmp_path)
    for first in (0, 3):
        replay.add(rows(first, 3))
        state = replay.state_dict()
    path = tmp_path / state["files"][1]["name"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink() if damage == "delete" else path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(ValueError, match=f"expected .*{path.name}.*\\(got"):
        Replay(14, folder=tmp_path).load_state_dict(state)


def test_a_full_disk_keeps_the_rows_of_the_checkpoint_before(tmp_path, monkeypatch):
    replay = Replay(14, folder=tmp_path)
    replay.add(rows(0, 3))
    state = replay.state_dict()
    replay.add(rows(3, 30))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gcoord.checkpoint.save_file", full)
        with pytest.raises(OSError, match="expected to save replay rows in") as caught:
            replay.state_dict()
    assert "\n" not in str(caught.value) and len(list(tmp_path.iterdir())) == 1
    resumed = Replay(14, folder=tmp_path)
    resumed.load_state_dict(state)
    assert starts(resumed) == {(r, b) for r in range(2) for b in range(2)}
    replay.state_dict()
    assert starts(replay) == {(r, b) for r in range(26, 32) for b in range(2)}


@pytest.mark.parametrize(
    ("other", "message"), [({"capacity": 16}, "capacity=16"), ({"folder": None}, "without a folder")]
)
def test_a_state_of_another_replay_is_refused(tmp_path, other, message):
    replay = Replay(14, folder=tmp_path)
    replay.add(rows(0, 3))
    with pytest.raises(ValueError, match=message):
        Replay(**{"capacity": 14, "folder": tmp_path, **other}).load_state_dict(replay.state_dict())


def test_every_batch_holds_one_size_and_sizes_come_evenly(tmp_path):
    replays = Replays([2, 5], 60, folder=tmp_path)
    for n in (2, 5):
        replays.add(rows(0, 9, N=n))
    sizes = [replays.sample(4).last.alive.shape[-1] for _ in range(400)]
    assert set(sizes) == {2, 5} and 150 < sizes.count(2) < 250
    assert replays.sample(3, n_agents=5).steps.reward.shape == (1, 3, 5)
    assert len(replays) == 36 and replays.ready() and not replays.ready(9)
    with pytest.raises(ValueError, match=r"expected teams of size \[2, 5\] \(got 3\)"):
        replays.add(rows(0, 1, N=3))
    state = replays.state_dict()
    expected = [replays.sample(4) for _ in range(10)]
    replays.add(rows(9, 50, N=2))
    replays.load_state_dict(state)
    assert all(same_batch(batch, replays.sample(4)) for batch in expected)


def test_sizes_share_the_bytes():
    needed = []
    for n in (2, 5):
        replay = Replay(100)
        replay.reserve(rows(0, 0, N=n))
        needed.append(replay.nbytes)
    Replays([2, 5], 200, max_bytes=sum(needed)).add(rows(0, 1, N=5))
    replays = Replays([2, 5], 200, max_bytes=sum(needed) - 1)
    examples = [(rows(0, 0, N=n), None) for n in (2, 5)]
    with pytest.raises(ValueError, match="expected a replay of at most"):
        replays.reserve(examples)
    Replays([2, 5], 200).reserve(examples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_adding_and_drawing_on_cuda_never_wait_for_the_device():
    replay = Replay(1400, device="cuda")
    replay.add(rows(0, 5, device="cuda"))
    block = rows(5, 3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(300):
            replay.add(block)
            replay.sample(32, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
