"""Promises of a saved policy: the same acts without its trainer, at any team size, from files that are checked."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gcoord
from gcoord import policy as module
from gcoord.data.playing import acts, play
from gcoord.policy import load, make_agent, save_policy
from gcoord.trajectory import observe

MODEL = {
    "_target_": "gcoord.models.agent.Body",
    "_partial_": True,
    "normalise": True,
    "encoder": {
        "_target_": "gcoord.models.encoder.GraphEncoder",
        "_partial_": True,
        "dim": 16,
        "heads": 2,
        "kernel": {"_target_": "gcoord.models.kernels.RelationKernel", "_partial_": True},
    },
}
MEMORY = {"memory": {"_target_": "gcoord.models.memory.GRU", "_partial_": True, "dim": 8}}
HEAD = {"_target_": "gcoord.models.kinds.policy_head", "_partial_": True}


def saved(folder, recurrent=False, continuous=True):
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    env = gcoord.make_env("native/meet", n_agents=4, num_envs=8, continuous=continuous)
    model = {**MODEL, **MEMORY} if recurrent else MODEL
    parts = {"topology": {"_target_": "gcoord.graph.Auto", "k": 2}, "model": model, "head": HEAD}
    agent = make_agent(parts, env.spec)
    seen = env.reset(0)
    agent.body.normaliser.update(seen.own * 3 + 1, seen.alive)
    for parameter in agent.head.parameters():
        torch.nn.init.normal_(parameter)
    save_policy(folder, agent, parts, env.spec, [4])
    return agent.eval(), env


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
def test_a_loaded_policy_acts_bit_for_bit_as_in_evaluation(tmp_path, recurrent, continuous):
    agent, env = saved(tmp_path, recurrent, continuous)
    taken = []

    def recording(seen, memory, key):
        action, memory = acts(agent)(seen, memory, key)
        taken.append((seen.clone(), action))
        return action, memory

    play(env, recording, agent.body.initial((8,), 4), 8, seed=5)
    policy = gcoord.load(tmp_path)
    policy.reset(8, 4)
    for seen, action in taken:
        if int(seen.batch_size[0]) and torch.equal(seen.own, taken[0][0].own):
            policy.reset(8, 4)
        assert torch.equal(policy.act(seen), action)


@pytest.mark.parametrize("n_agents", [1, 2, 16, 40])
def test_a_policy_saved_at_four_acts_at_any_size(tmp_path, n_agents):
    _, env = saved(tmp_path)
    policy = load(tmp_path)
    other = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=3)
    action = policy.act(other.reset(0))
    assert action.shape == (3, n_agents, env.spec.n_actions)
    assert action.isfinite().all()
    assert torch.equal(action, policy.act(other.reset(0))), "greedy by default"


def test_what_stands_in_dead_slots_changes_no_act(tmp_path):
    saved(tmp_path)
    policy = load(tmp_path)
    own, position = torch.randn(5, 6, policy.spec.own[0]), torch.rand(5, 6, policy.spec.position_dim)
    alive = torch.rand(5, 6) < 0.6
    clean = policy.act(observe(own, alive, position=position))
    own[~alive], position[~alive] = float("nan"), float("inf")
    dirty = policy.act(observe(own, alive, position=position))
    assert torch.equal(clean[alive], dirty[alive])


def test_memory_lives_between_acts_and_can_be_cleared_in_part(tmp_path):
    saved(tmp_path, recurrent=True)
    policy = load(tmp_path)
    own = torch.randn(2, 4, policy.spec.own[0])
    seen = observe(own, position=torch.rand(2, 4, policy.spec.position_dim))
    policy.reset(2, 4)
    first, second = policy.act(seen), policy.act(seen)
    assert not torch.equal(first, second)
    policy.reset(where=torch.tensor([True, False]))
    third = policy.act(seen)
    assert torch.equal(third[0], first[0]) and not torch.equal(third[1], first[1])
    with pytest.raises(ValueError, match=r"call reset"):
        policy.act(observe(torch.randn(2, 7, policy.spec.own[0]), position=torch.rand(2, 7, policy.spec.position_dim)))


def test_loading_and_acting_imports_no_trainer(tmp_path):
    _, env = saved(tmp_path)
    code = f"""
import sys, torch, gcoord
from gcoord.trajectory import observe
policy = gcoord.load({str(tmp_path)!r})
print(policy.act(observe(torch.zeros(9, {env.spec.own[0]}), position=torch.rand(9, {env.spec.position_dim}))).shape)
heavy = ("lightning", "hydra", "vmas", "pettingzoo", "gymnasium", "torch_geometric")
bad = [name for name in heavy if name in sys.modules]
assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[9," in done.stdout


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_missing_policy_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path / "nowhere")
    assert "nowhere" in one_line(error)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "foreign"])
def test_damaged_files_are_refused_in_one_line(tmp_path, name, harm):
    saved(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if harm == "truncate":
        data = data[: len(data) // 2]
    elif harm == "flip":
        data[len(data) // 2] ^= 0x10
    else:
        data = bytearray(b'{"hello": "world"}')
    before = load(tmp_path)
    path.write_bytes(data)
    try:
        after = load(tmp_path)
    except ValueError as error:
        assert "\n" not in str(error) and "expected" in str(error)
    else:
        # A flipped bit in a description may change a number that is not read: then nothing else may differ.
        assert name == "policy.json" and harm == "flip"
        for a, b in zip(before.agent.parameters(), after.agent.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_newer_format_is_refused(tmp_path):
    saved(tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps({**description, "format_version": 99}))
    with pytest.raises(ValueError, match="format 1 or older"):
        load(tmp_path)


def test_parts_from_elsewhere_need_trust(tmp_path):
    saved(tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    description["parts"]["head"] = {"_target_": "os.system", "_partial_": True}
    (tmp_path / "policy.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="expected _target_ to lie in"):
        load(tmp_path)


def test_other_observations_are_refused_in_one_line(tmp_path):
    saved(tmp_path)
    policy = load(tmp_path)
    own = policy.spec.own[0]
    with pytest.raises(ValueError, match="expected own of shape") as error:
        policy.act(observe(torch.zeros(3, own + 1), position=torch.zeros(3, policy.spec.position_dim)))
    one_line(error)
    with pytest.raises(ValueError, match="position") as error:
        policy.act(observe(torch.zeros(3, own)))
    one_line(error)


def test_writing_fails_without_harm_when_the_disk_is_full(tmp_path, monkeypatch):
    agent, env = saved(tmp_path)
    before = load(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        save_policy(tmp_path, agent, {}, env.spec, [4])
    one_line(error)
    monkeypatch.undo()
    after = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before.agent.parameters(), after.agent.parameters(), strict=True))
    assert not list(tmp_path.glob("*.new"))


class Killed(BaseException):
    """Stands for kill -9: nothing of the program catches it, so the disk stays as it was at that call."""


def instrument(monkeypatch, at):
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

    wrap(module, "write_synced", lambda path, content: path.write_bytes(content[: len(content) // 2]))
    for owner, name in [(os, "replace"), (os, "fsync"), (Path, "unlink")]:
        wrap(owner, name)
    return calls


def stamped(folder):
    """What a folder's policy is marked with: the number of the save that wrote it, in weights and description."""
    policy = load(folder)
    (in_weights,) = {float(p.flatten()[0]) for p in policy.agent.parameters()}
    (described,) = policy.trained_on
    return in_weights, described


def test_a_whole_policy_is_found_whenever_saving_is_killed(tmp_path, monkeypatch):
    agent, env = saved(tmp_path / "model")
    parts = json.loads((tmp_path / "model" / "policy.json").read_text())["parts"]

    def save(folder, number):
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.fill_(number)
        save_policy(folder, agent, parts, env.spec, [number])

    outcomes = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        save(folder, 1)
        with monkeypatch.context() as patch:
            calls = instrument(patch, at)
            with contextlib.suppress(Killed):
                save(folder, 2)
        assert stamped(folder) in {(1, 1), (2, 2)}
        outcomes.append(stamped(folder)[1])
        # The next save, itself killed anywhere, harms neither what was found nor itself.
        for again in range(1, 100):
            with monkeypatch.context() as patch:
                calls_again = instrument(patch, again)
                with contextlib.suppress(Killed):
                    save(folder, 3)
            assert stamped(folder) in {(outcomes[-1], outcomes[-1]), (3, 3)}
            if calls_again[0] < again:
                break
        assert stamped(folder) == (3, 3)
        assert {path.name for path in folder.iterdir()} == {"policy.safetensors", "policy.json"}
        if calls[0] < at:
            break
    assert outcomes == sorted(outcomes) and 6 < len(outcomes) < 99 and set(outcomes) == {1, 2}


def test_the_first_policy_is_whole_or_not_there_whenever_its_saving_is_killed(tmp_path, monkeypatch):
    agent, env = saved(tmp_path / "model")
    parts = json.loads((tmp_path / "model" / "policy.json").read_text())["parts"]
    found = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        with monkeypatch.context() as patch:
            calls = instrument(patch, at)
            with contextlib.suppress(Killed):
                save_policy(folder, agent, parts, env.spec, [4])
        try:
            found.append(load(folder).trained_on == [4])
        except FileNotFoundError as error:
            assert "expected a trained policy" in str(error)
            found.append(False)
        if calls[0] < at:
            break
    assert found == sorted(found) and found[-1] and not found[0]


def test_a_reader_finds_the_newer_policy_when_a_save_overtakes_it(tmp_path, monkeypatch):
    agent, env = saved(tmp_path)
    parts = json.loads((tmp_path / "policy.json").read_text())["parts"]
    original, reads = module._described, []

    def overtaken(path):
        description = original(path)
        if not reads:
            reads.append(1)
            torch.nn.init.ones_(next(agent.parameters()))
            save_policy(tmp_path, agent, parts, env.spec, [9])
        return description

    monkeypatch.setattr(module, "_described", overtaken)
    assert load(tmp_path).trained_on == [9]
