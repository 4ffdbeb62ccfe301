"""Promises that need a GPU, checked where there is one: nothing but a flag a step leaves the device in the hot loop."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gcoord
from gcoord import run as runs
from gcoord.command import run_command
from gcoord.data.collect import Collector

DEVICE = "cuda" if torch.cuda.is_available() else "meta"
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")


class Leaving(TorchDispatchMode):
    """Counts what is copied from an accelerator to the host, by number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name()
        source = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if source is not None and source.device.type == "cuda":
            if name == "aten::_local_scalar_dense":
                self.counts["scalars"] += 1
            elif isinstance(out, torch.Tensor) and out.device.type == "cpu":
                self.counts["tensors"] += 1
        return out


def configured(*overrides: str):
    cfg = []
    assert run_command("train", lambda c, job: cfg.append(c), list(overrides)) == 0
    return runs.build(cfg[0])


@needs_cuda
@pytest.mark.parametrize("env", ["vmas/navigation", "native/meet"])
def test_nothing_but_a_flag_a_step_leaves_the_device(env):
    run = configured(f"env={env}", "num_envs=64", "device=cuda", "evaluation.frames=0", "source.steps=20")
    run.source.collect(20)
    with Leaving() as leaving:
        trajectory = Collector.collect(run.source.collectors[0], run.learner.agent, 20)
    assert trajectory.steps.reward.device.type == "cuda"
    assert leaving.counts["tensors"] == 0
    assert leaving.counts["scalars"] <= 2 * 20 + 5
    prepared = run.learner.prepare(trajectory)
    with Leaving() as leaving:
        run.learner.training_step(prepared, 0).backward()
    assert not leaving.counts
    run.close()


@needs_cuda
def test_a_policy_acts_the_same_on_both_devices(tmp_path):
    run = configured("env=native/meet", "device=cuda", "num_envs=8", "evaluation.frames=0")
    run.folder = tmp_path
    run.save_policy()
    seen = gcoord.make_env("native/meet", num_envs=8).reset(0)
    on_host, on_device = gcoord.load(tmp_path), gcoord.load(tmp_path, "cuda")
    assert torch.equal(on_host.act(seen), on_device.act(seen.to("cuda")).cpu())
    run.close()


@needs_cuda
@pytest.mark.parametrize("env", ["native/prison", "native/waterworld"])
def test_native_worlds_go_the_same_way_on_both_devices(env):
    here, there = (gcoord.make_env(env, num_envs=32, device=device) for device in ("cpu", "cuda"))
    here.reset(0), there.reset(0)
    there.load_state_dict(there.state_dict() | {"state": here.state_dict()["state"]})
    shape = (32, here.spec.n_agents)
    action = torch.randint(3, shape) if here.spec.discrete else torch.rand(*shape, 2) * 2 - 1
    seen, mine = here.step(action)
    same, theirs = there.step(action.cuda())
    torch.testing.assert_close(mine.reward, theirs.reward.cpu(), atol=1e-4, rtol=0)
    # What starts anew is drawn from another stream.
    quiet = ~torch.stack(list(mine.metrics.values())).bool().any(0)
    torch.testing.assert_close(seen.own[quiet], same.own.cpu()[quiet], atol=1e-3, rtol=0)


def test_the_counter_sees_what_leaves():
    counter = Leaving()
    assert not counter.counts
    with counter:
        torch.ones(3).sum().item()
    assert not counter.counts, "what is on the host already does not leave a device"
