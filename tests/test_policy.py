"""Promises of a saved policy: the same acts without its trainer, at any team size, from files that are checked."""

import json
import subprocess
import sys

import pytest
import torch

import gcoord
from gcoord.data.collect import acts, play
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
