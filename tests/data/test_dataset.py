"""Promises of recorded teams: what happened is what is read, a kill leaves a whole dataset, damage is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import torch
from tensordict import TensorDict

import gcoord
from gcoord.data.dataset import Dataset, append, begin_shard, check_append, read_manifest
from gcoord.data.playing import random_actions
from gcoord.data.recording import noisy, record
from gcoord.data.shards import steps_of
from gcoord.data.tallies import Episodes
from gcoord.data.windows import Windows
from gcoord.envs.native.meet import _MOVES, _SPEED
from gcoord.scaleup.protocol import scripted
from gcoord.spec import Discrete, TeamSpec
from gcoord.trajectory import Outcome, observe

ENV = {"_target_": "gcoord.envs.native.meet.Meet"}


def add(folder, n_agents=3, episodes=7, seed=0, num_envs=4, act=None, **options):
    """Records one shard of native/meet, by its script unless told otherwise; returns the figures."""
    env = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=num_envs, max_steps=9, **options)
    writer = begin_shard(folder)
    figures = record(env, act(env) if act else scripted(env), None, episodes, seed, writer)
    about = {"spec": env.spec.to_dict(), "policy": {"policy": "scripted"}, "seed": seed, "episodes": episodes}
    append(folder, writer, "native/meet", ENV, {**about, "frames": writer.rows - episodes, "figures": figures})
    return figures


@pytest.fixture
def recorded(tmp_path):
    add(tmp_path / "d")
    return tmp_path / "d"


# What is recorded


def test_every_row_is_followed_by_what_its_actions_led_to_and_episodes_are_whole(tmp_path):
    figures = add(tmp_path, episodes=11, act=lambda env: random_actions(env.spec, 3))
    data = Dataset(tmp_path)
    (shard,) = data.shards
    rows = steps_of(shard.leaves, [shard.entry["rows"]])
    assert len(shard.length) == 11 and data.frames == shard.frames == int(rows.valid.sum())
    place = rows.seen.own[..., :2]
    moved = (place + torch.tensor(_MOVES)[rows.action] * _SPEED).clamp(-1, 1)
    valid = rows.valid.nonzero().squeeze(-1)
    torch.testing.assert_close(place[valid + 1], moved[valid])
    done = rows.terminated | rows.truncated
    # One end an episode, at its last valid row, and what comes after is seen but not done.
    assert (done[valid] == ~rows.valid[valid + 1]).all() and int(done.sum()) == 11
    assert torch.equal(shard.first[1:], (~rows.valid).nonzero().squeeze(-1)[:-1] + 1)
    total = torch.where(rows.valid.unsqueeze(-1), rows.reward, 0.0).sum() / 11 / 3
    assert figures["return_per_agent"] == pytest.approx(float(total), abs=1e-5)
    assert rows.key.unique().numel() == len(rows.key)


def test_short_episodes_are_not_over_represented():
    """Half of the teams end after one step, half after nine: each team's share of the episodes is the same."""

    class Two:
        spec = TeamSpec(2, 1, (1,), (Discrete(2),), max_steps=9)

        def reset(self, seed=None):
            self.t = torch.zeros(2, dtype=torch.long)
            self.over = torch.zeros(2, dtype=torch.bool)
            return self._seen()

        def step(self, action):
            valid = ~self.over
            self.t = torch.where(valid, self.t + 1, 0)
            self.over = valid & (self.t >= torch.tensor([1, 9]))
            flag = torch.zeros(2, dtype=torch.bool)
            metrics = TensorDict({}, batch_size=[2])
            ends = (self.over, flag, valid, metrics)
            return self._seen(), Outcome(torch.zeros(2, 1), *ends, batch_size=[2])

        def _seen(self):
            return observe(self.t.float().view(2, 1, 1))

    class Kept:
        rows = 0

        def __init__(self):
            self.lengths = []

        def add(self, leaves):
            self.lengths.append(int(leaves["valid"].sum()))

    writer = Kept()
    record(Two(), random_actions(Two.spec, 0), None, 9, 0, writer)
    assert sorted(writer.lengths) == [1] * 5 + [9] * 4


def test_noise_replaces_its_share_of_actions_and_only_by_available_ones():
    env = gcoord.make_env("native/meet", n_agents=5, num_envs=400, available=True)
    seen = env.reset(0)
    act, other = scripted(env), noisy(scripted(env), env.spec, 0.5, 0)
    plain, noise = act(seen, None, None)[0], other(seen, None, None)[0]
    legal = seen.available.float().sum(-1)
    expected = 0.5 * (1 - 1 / legal).mean()
    assert (plain != noise).float().mean().item() == pytest.approx(expected.item(), abs=0.03)
    assert seen.available.gather(-1, noise.unsqueeze(-1))[plain != noise].all()


def test_frames_of_a_stack_are_recorded_once_and_stacked_as_they_were_seen(tmp_path):
    class Film:
        """Two frames of one pixel: the time, and the time before (the first twice)."""

        spec = TeamSpec(1, 2, (2, 1, 1), (Discrete(2),), stack=2, max_steps=4)

        def reset(self, seed=None):
            self.t, self.over = 1, False
            return self._seen()

        def step(self, action):
            valid = not self.over
            self.t = self.t + 1 if valid else 1
            self.over = valid and self.t == 4
            flags = [torch.tensor([x]) for x in (self.over, False, valid)]
            return self._seen(), Outcome(torch.ones(1, 2), *flags, TensorDict({}, batch_size=[1]), batch_size=[1])

        def _seen(self):
            frames = torch.tensor([max(self.t - 1, 1), self.t], dtype=torch.uint8).view(1, 1, 2, 1, 1)
            return observe(frames.expand(1, 2, 2, 1, 1).clone(), batch_size=torch.Size([1]))

    writer = begin_shard(tmp_path)
    record(Film(), random_actions(Film.spec, 0), None, 3, 0, writer)
    about = {"spec": Film.spec.to_dict(), "episodes": 3}
    append(tmp_path, writer, "film", {}, about)
    (shard,) = Dataset(tmp_path).shards
    assert shard.leaves["seen.own"].shape == (12, 2, 1, 1, 1)
    batch, _ = Windows([shard]).read(torch.tensor([0, 2]), torch.tensor([0, 1]), 2)
    assert batch.seen.own[..., 0, :, 0, 0].tolist() == [[[1, 1], [1, 2]], [[1, 2], [2, 3]], [[2, 3], [3, 4]]]


# Windows


def by_key(shards):
    """(episode, row in it) of every recorded row by its key, episodes numbered over the shards."""
    found, before = {}, 0
    for shard in shards:
        for episode, (first, length) in enumerate(zip(shard.first.tolist(), shard.length.tolist(), strict=True)):
            for row in range(length + 1):
                found[shard.leaves["key"][first + row].item()] = (before + episode, row)
        before += len(shard.first)
    return found


@pytest.mark.parametrize("burn_in", [0, 3])
def test_windows_never_go_over_an_episodes_end_nor_before_its_beginning(tmp_path, burn_in):
    add(tmp_path, seed=0)
    add(tmp_path, seed=1, episodes=5)
    shards = Dataset(tmp_path).shards
    windows, where = Windows(shards), by_key(shards)
    lengths = torch.cat([shard.length for shard in shards])
    episode, row = windows.draw(300, torch.Generator().manual_seed(0))
    batch, frames = windows.read(episode, row, 6, burn_in)
    keys = batch.keys_of_seen if batch.before is None else torch.cat([batch.before.key, batch.keys_of_seen])
    valid = batch.steps.valid if batch.before is None else torch.cat([batch.before.valid, batch.steps.valid])
    for column in range(300):
        e, r, size = int(episode[column]), int(row[column]), int(lengths[episode[column]])
        told = [where[key] for key in keys[:, column].tolist()]
        wanted = [(e, min(max(r + t, 0), size)) for t in range(-burn_in, 7)]
        assert told == wanted
        assert valid[:, column].tolist() == [0 <= r + t < size for t in range(-burn_in, 6)]
    assert frames == int(batch.steps.valid.sum())
    done = batch.steps.terminated | batch.steps.truncated
    assert not (done & ~batch.steps.valid).any()


def test_rows_are_drawn_evenly_over_shards_and_whole_episodes_from_their_beginning(tmp_path):
    add(tmp_path, seed=0)
    add(tmp_path, seed=1, episodes=3)
    windows = Windows(Dataset(tmp_path).shards)
    generator = torch.Generator().manual_seed(0)
    episode, row = windows.draw(40_000, generator)
    counts = torch.bincount(windows._ends[episode] - windows._length[episode] + row, minlength=windows.frames)
    expected = 40_000 / windows.frames
    assert len(counts) == windows.frames and ((counts - expected).abs() < 6 * expected**0.5).all()
    episode, row = windows.draw(500, generator, whole=True)
    assert not row.any() and set(episode.tolist()) == set(range(10))


def test_shards_of_other_fields_are_not_mixed(tmp_path):
    add(tmp_path / "a")
    add(tmp_path / "b", entities=2)
    shards = [Dataset(tmp_path / name).shards[0] for name in "ab"]
    with pytest.raises(ValueError, match=r"expected .*b/shards/n3-0.* with seen\.\w+ as in .*a/shards") as error:
        Windows(shards)
    assert "\n" not in str(error.value)


# On disk


def test_a_shard_is_a_memory_mapped_tensordict_that_reading_does_not_change_nor_unpickle(recorded, monkeypatch):
    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("something was unpickled"))
    (shard,) = Dataset(recorded).shards
    loaded = TensorDict.load_memmap(shard.path)
    assert torch.equal(loaded["seen", "own"], shard.leaves["seen.own"]) and loaded.batch_size[0] == shard.entry["rows"]
    assert {path.suffix for path in shard.path.rglob("*") if path.is_file()} == {".json", ".memmap"}
    shard.leaves["reward"].zero_()
    Dataset(recorded)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_damaged_truncated_or_missing_file_is_named_in_one_line(recorded):
    for path in files(recorded):
        content = path.read_bytes()
        flipped = bytes([content[0] ^ 1]) + content[1:]
        for damaged in (flipped, content[:-1], content + b"x", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"^expected") as error:
                Dataset(recorded)
            assert str(path) in str(error.value) and "\n" not in str(error.value)
            path.write_bytes(content)
    Dataset(recorded)


def test_without_checksums_a_changed_size_is_refused_still(recorded):
    path = next(path for path in files(recorded) if path.name == "own.memmap")
    path.write_bytes(b"\0" * path.stat().st_size)
    Dataset(recorded, verify=False)
    path.write_bytes(b"\0" * (path.stat().st_size - 4))
    with pytest.raises(ValueError, match="damaged"):
        Dataset(recorded, verify=False)


def test_a_newer_format_is_refused(recorded):
    path = recorded / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(ValueError, match=r"expected .*manifest\.json of format_version 1 \(got 2\)"):
        Dataset(recorded)


def contents(folder):
    """What the dataset holds, file by file, as its manifest names them."""
    return {
        shard.name: {name: leaf.tolist() for name, leaf in shard.leaves.items()} for shard in Dataset(folder).shards
    }


STEPS = ("fsync", "replace")


def killed_at(folder, step):
    """Appends in a process that is killed before its `step`-th call to the disk; True if it got through."""
    child = os.fork()
    if child == 0:
        calls = [0]

        def counted(original):
            def call(*args, **kwargs):
                calls[0] += 1
                if calls[0] == step:
                    os._exit(9)
                return original(*args, **kwargs)

            return call

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            shutil.rmtree = counted(shutil.rmtree)
            add(folder, seed=5, episodes=2, num_envs=2)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 0


@pytest.mark.parametrize("first", [True, False], ids=["the first shard", "a further shard"])
def test_a_kill_at_any_point_of_recording_leaves_the_dataset_as_it_was_or_whole(tmp_path, first):
    folder, original, seen = tmp_path / "d", tmp_path / "original", set()
    original.mkdir()
    if not first:
        add(original, episodes=2, num_envs=2)
    before = {} if first else contents(original)
    for step in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        through = killed_at(folder, step)
        there = contents(folder) if (folder / "manifest.json").exists() else {}
        new = {name: rows for name, rows in there.items() if name not in before}
        assert {name: rows for name, rows in there.items() if name in before} == before
        assert len(new) <= 1 and (not through or len(new) == 1)
        seen.add(len(new))
        # The next recording works, and sweeps away what was left behind.
        if step % 6 == 0:
            check_append(folder, "native/meet", ENV, gcoord.make_env("native/meet", n_agents=3, num_envs=1).spec)
            add(folder, seed=9, episodes=2, num_envs=2)
            names = {entry["name"] for entry in read_manifest(folder)["shards"]}
            assert {path.name for path in (folder / "shards").iterdir()} == names
            assert len(contents(folder)) == len(there) + 1
        if through:
            break
    assert through and step > 12 and seen == {0, 1}


def test_a_disk_that_refuses_leaves_the_dataset_as_it_was(recorded, monkeypatch):
    before, fsync, replace = contents(recorded), os.fsync, os.replace
    for name, original in (("fsync", fsync), ("replace", replace)):
        for allowed in (0, 1):
            calls = [0]

            def refusing(*args, allowed=allowed, calls=calls, original=original):
                calls[0] += 1
                if calls[0] > allowed:
                    raise OSError(28, "No space left on device")
                return original(*args)

            monkeypatch.setattr(os, name, refusing)
            with pytest.raises(OSError, match=r"expected to record into .*No space left") as error:
                add(recorded, seed=5)
            monkeypatch.undo()
            assert "\n" not in str(error.value) and contents(recorded) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world": "native/spread"}, "expected env=native/meet, the world of"),
        ({"env": {**ENV, "deaths": 0.5}}, r"expected env\.deaths=None, as in"),
        ({"options": {"kinds": 2}}, r"expected teams as in .*, actions="),
    ],
)
def test_what_does_not_belong_to_a_dataset_is_not_added_to_it(recorded, change, message):
    spec = gcoord.make_env("native/meet", n_agents=3, num_envs=1, **change.get("options", {})).spec
    with pytest.raises(ValueError, match=message) as error:
        check_append(recorded, change.get("world", "native/meet"), change.get("env", ENV), spec)
    assert "\n" not in str(error.value)


def test_a_folder_of_something_else_is_not_recorded_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"expected out to be a dataset, or a new or empty folder \(got .*thesis\.tex"):
        check_append(tmp_path, "native/meet", ENV, gcoord.make_env("native/meet", num_envs=1).spec)


def test_figures_of_the_manifest_are_those_of_the_episodes(tmp_path):
    figures = add(tmp_path, episodes=6, n_agents=4)
    (entry,) = read_manifest(tmp_path)["shards"]
    (shard,) = Dataset(tmp_path).shards
    running = Episodes(shard.spec.with_(num_envs=1), "cpu")
    assert set(figures) == {"return", "return_per_agent", "return_worst_agent", "length", *running.metrics}
    assert entry["figures"] == figures and entry["frames"] == shard.frames
    assert figures["length"] == pytest.approx(shard.frames / 6)
