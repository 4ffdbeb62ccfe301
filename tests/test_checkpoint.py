"""Promises of the state on disk: everything comes back exactly, damage is named, no instant is without a checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gcoord import checkpoint
from gcoord.checkpoint import load_state, rng_state, save_state, set_rng_state

DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def same(a, b) -> bool:
    """Equal to the last bit, with equal types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.contiguous().flatten().view(torch.uint8).equal(b.contiguous().flatten().view(torch.uint8))
        )
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return (
            list(a) == list(b)
            and all(type(k) is type(m) for k, m in zip(a, b, strict=True))
            and all(same(a[k], b[k]) for k in a)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def save_and_load(folder, state):
    save_state(folder, state)
    return load_state(folder)


def test_plain_values_come_back_exactly(tmp_path):
    state = {
        "whole": [0, -1, 2**63, -(2**700), True, False, None],
        "real": [0.1, -0.0, 1e-320, math.inf, -math.inf, math.nan, math.pi],
        "text": ["", "naïve \u2603 \ud83d", 'a"b\\c\nd', "state.whole"],
        3: {"3": (), -7: ([], {}, ((1,), [2.0]))},
        "": {"dict": [["tensor", 1]], "tensor": "x"},
    }
    loaded = save_and_load(tmp_path, state)
    assert same(state, loaded)
    assert math.copysign(1, loaded["real"][1]) == -1 and isinstance(loaded["whole"][4], bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
def test_tensors_of_every_dtype_and_shape_come_back_bit_for_bit(tmp_path, dtype, shape):
    tensor = (torch.rand(shape) * 100).to(getattr(torch, dtype))
    assert same(tensor, save_and_load(tmp_path, tensor))


def test_shared_strided_and_expanded_tensors_come_back_with_memory_of_their_own(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    state = {
        "a": base,
        "b": base,
        "t": base.T,
        "row": base[1],
        "wide": base[0, :1].expand(5),
        "p": torch.nn.Parameter(base),
    }
    loaded = save_and_load(tmp_path, state)
    assert same({**state, "p": base}, loaded)  # a parameter comes back as a plain tensor
    loaded["a"] += 1
    assert loaded["b"].equal(base) and load_state(tmp_path)["a"].equal(base)


def test_numpy_arrays_and_scalars_stay_numpy(tmp_path):
    state = [
        np.arange(5, dtype=np.uint32)[::2],
        np.array(3.5),
        np.float32(0.1),
        np.int64(7),
        np.bool_(True),
        np.zeros((0, 2)),
    ]
    assert same([np.ascontiguousarray(state[0]), *state[1:]], save_and_load(tmp_path, state))


@pytest.mark.parametrize(
    "value", [{1.5: 0}, {None: 0}, object(), b"x", {1, 2}, torch.float32, np.array(["a"]), lambda: 0]
)
def test_other_types_are_refused_with_their_place_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"^expected .* in state\.a\.1 \(got .*\)$"):
        save_state(tmp_path / "c", {"a": [0, value]})
    assert not (tmp_path / "c").exists()


def test_random_streams_continue_where_they_were(tmp_path):
    legacy = np.random  # the global stream, on purpose

    def draw():
        return torch.rand(3).tolist(), legacy.rand(), legacy.randn(), random.random(), random.gauss(0, 1)

    draw()  # an odd number of normals: the second of each pair is cached in numpy's and Python's stream
    save_state(tmp_path, rng_state())
    expected = draw()
    assert draw() != expected
    set_rng_state(load_state(tmp_path))
    assert draw() == expected


def test_an_optimizer_continues_exactly(tmp_path):
    def steps(net, adam, n):
        for _ in range(n):
            adam.zero_grad()
            net(torch.ones(2, 3)).square().sum().backward()
            adam.step()

    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    steps(net, adam, 2)
    save_state(tmp_path, {"net": net.state_dict(), "adam": adam.state_dict()})
    steps(net, adam, 3)
    other = torch.nn.Linear(3, 2)
    other_adam = torch.optim.Adam(other.parameters())
    state = load_state(tmp_path)
    other.load_state_dict(state["net"])
    other_adam.load_state_dict(state["adam"])
    steps(other, other_adam, 3)
    assert all(map(torch.equal, net.parameters(), other.parameters()))
    assert load_state(tmp_path)["adam"]["state"][0]["step"].item() == 2  # what was loaded is no window into the file


def test_files_are_two_and_hold_nothing_pickled(tmp_path):
    save_state(tmp_path, {"w": torch.ones(3), "n": 1})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and names[0].endswith(".safetensors") and names[1] == "state.json"
    document = json.loads((tmp_path / "state.json").read_text())
    assert document["format_version"] == 1 and document["versions"]["torch"] == str(torch.__version__)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # readable by whom the user's mask says
    assert document["tensors"]["file"] == names[0] and len(document["tensors"]["sha256"]) == 64


def error_of(folder) -> str:
    with pytest.raises(ValueError) as caught:
        load_state(folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("expected") and "(got" in message
    return message


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_every_flipped_byte_and_every_truncation_is_refused_and_named(tmp_path, suffix):
    save_state(tmp_path, {"w": torch.ones(3), "f": [1.0, math.inf], "s": "x y"})
    (path,) = tmp_path.glob(f"*{suffix}")
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 5):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            assert str(path) in error_of(tmp_path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert str(path) in error_of(tmp_path)
    path.unlink()
    assert str(path) in error_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{}", "format 'gcoord state'"), ("[1]", "format 'gcoord state'"), ("hello", "a whole JSON file")],
)
def test_a_foreign_file_is_refused(tmp_path, content, expected):
    (tmp_path / "state.json").write_text(content)
    assert expected in error_of(tmp_path)


def test_a_newer_format_is_refused_by_its_number(tmp_path):
    save_state(tmp_path, 1)
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert "of format_version 1 (got 2)" in error_of(tmp_path)


def test_missing_checkpoints_are_refused(tmp_path):
    assert "(got none)" in error_of(tmp_path)
    assert "(got none)" in error_of(tmp_path / "absent")


class Killed(BaseException):
    """Stands for kill -9: nothing of the program catches it, so the disk stays as it was at that call."""


def instrument(monkeypatch, at: int) -> list[int]:
    """Every call that touches the disk counts, and the one numbered `at` is cut short half-way or never made."""
    calls = [0]

    def wrap(owner, name, half=None):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            calls[0] += 1
            if calls[0] == at:
                if half is not None:
                    half(*args)
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    wrap(checkpoint, "save_file", lambda tensors, path: Path(path).write_bytes(b"half a file"))
    wrap(checkpoint, "write_synced", lambda path, content: path.write_bytes(content[: len(content) // 2]))
    for owner, name in [(os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir")]:
        wrap(owner, name)
    return calls


def test_a_whole_checkpoint_is_found_whenever_saving_is_killed(tmp_path, monkeypatch):
    outcomes = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        (folder / "others").mkdir(parents=True)
        save_state(folder, {"step": 1, "w": torch.full((100,), 1.0)})
        with monkeypatch.context() as patch:
            calls = instrument(patch, at)
            with contextlib.suppress(Killed):
                save_state(folder, {"step": 2, "w": torch.full((100,), 2.0)})
        loaded = load_state(folder)
        assert loaded["w"].equal(torch.full((100,), float(loaded["step"])))
        outcomes.append(loaded["step"])
        save_state(folder, {"step": 3})
        assert load_state(folder) == {"step": 3} and len(list(folder.iterdir())) == 3
        if calls[0] < at:
            break
    assert outcomes == sorted(outcomes) and 6 < len(outcomes) < 99 and set(outcomes) == {1, 2}


LOOP = """
import sys, torch
from gcoord.checkpoint import save_state
for step in range(10**6):
    save_state(sys.argv[1], {"step": step, "w": torch.full((50_000,), float(step))})
    print(step, flush=True)
"""


def test_a_saving_process_killed_by_signal_9_leaves_its_last_checkpoint(tmp_path):
    for delay in (0.0, 0.013):
        process = subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3):
            told = process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        told = [told, *process.stdout.read().splitlines()][-1]
        process.wait()
        loaded = load_state(tmp_path)
        assert loaded["step"] >= int(told) and loaded["w"].equal(torch.full((50_000,), float(loaded["step"])))


def assert_refused_and_kept(folder, state):
    with pytest.raises(OSError, match="the previous one is kept") as caught:
        save_state(folder, state)
    assert "\n" not in str(caught.value)
    assert load_state(folder) == {"step": 1}
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["save_file", "write_synced", "sync_folder"])
def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch, name):
    def full(path, *_):
        raise OSError(28, "No space left on device")

    save_state(tmp_path, {"step": 1})
    monkeypatch.setattr(checkpoint, name, full)
    assert_refused_and_kept(tmp_path, {"step": 2})


def test_a_real_file_size_limit_keeps_the_previous_checkpoint(tmp_path):
    save_state(tmp_path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        assert_refused_and_kept(tmp_path, {"w": torch.zeros(10_000)})
        assert_refused_and_kept(tmp_path, {"text": "x" * 30_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_really_full_disk_keeps_the_previous_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        save_state(disk / "run", {"step": 1})
        assert_refused_and_kept(disk / "run", {"w": torch.zeros(100_000)})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_path_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="expected to save"):
        save_state(tmp_path / "file", 1)


def test_a_reader_finds_the_newer_checkpoint_when_a_save_overtakes_it(tmp_path, monkeypatch):
    save_state(tmp_path, {"w": torch.zeros(3)})
    original, reads = checkpoint._read_document, []

    def overtaken(path):
        document = original(path)
        if not reads:
            save_state(tmp_path, {"w": torch.ones(3)})
        reads.append(1)
        return document

    monkeypatch.setattr(checkpoint, "_read_document", overtaken)
    assert load_state(tmp_path)["w"].equal(torch.ones(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_and_streams_come_back(tmp_path):
    torch.rand(1, device="cuda")
    save_state(tmp_path, {"w": torch.arange(3, device="cuda"), "rng": rng_state()})
    expected = torch.rand(5, device="cuda")
    state = load_state(tmp_path, device="cuda")
    set_rng_state(state["rng"])
    assert state["w"].device.type == "cuda" and torch.rand(5, device="cuda").equal(expected)
