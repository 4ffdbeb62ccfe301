from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gcoord.envs.parallel import ParallelTeamEnv, parallel
from gcoord.envs.workers import Workers

DEATHS = {"deaths": {2: [0], 4: [1]}, "draws": "global"}


def toy(num_envs: int = 4, workers: int = 2, name: str = "Line", **kwargs: Any) -> ParallelTeamEnv:
    return parallel("petting_toys:" + name, num_envs=num_envs, workers=workers, maker_kwargs=kwargs)


def stay(env: ParallelTeamEnv) -> Tensor:
    return torch.zeros(env.spec.num_envs, env.spec.n_agents, dtype=torch.long)


def pids(env: ParallelTeamEnv) -> list[int]:
    assert isinstance(env._backend, Workers)
    return env._backend.pids


def runs(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone_within(seconds: float, processes: list[int]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(runs, processes)):
        time.sleep(0.02)
    return not any(map(runs, processes))


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C, as the main thread feels it."""
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("name", ["Line", "Mixed", "Pictures"])
def test_the_number_of_workers_changes_no_bit(name: str) -> None:
    kwargs = DEATHS if name == "Line" else {}
    envs = [toy(5, workers, name, **kwargs) for workers in (0, 2, 3)]
    generator = torch.Generator().manual_seed(0)
    try:
        starts = [env.reset(9) for env in envs]
        for other in starts[1:]:
            assert torch.equal(starts[0].own, other.own)
        for _ in range(20):
            shape = (5, envs[0].spec.n_agents, *envs[0].spec.action_shape)
            action = torch.randint(0, 2, shape, generator=generator)
            action = action if envs[0].spec.discrete else action.float()
            results = [env.step(action) for env in envs]
            for seen, outcome in results[1:]:
                for name in ("own", "alive"):
                    assert torch.equal(getattr(results[0][0], name), getattr(seen, name))
                for name in ("reward", "terminated", "truncated", "valid"):
                    assert torch.equal(getattr(results[0][1], name), getattr(outcome, name))
    finally:
        for env in envs:
            env.close()


def test_a_state_saved_with_two_workers_is_restored_with_three_or_none() -> None:
    envs = [toy(5, workers, **DEATHS) for workers in (2, 3, 0)]
    try:
        envs[0].reset(4)
        for _ in range(8):
            envs[0].step(stay(envs[0]))
        for other in envs[1:]:
            other.load_state_dict(envs[0].state_dict())
        for _ in range(10):
            own = [env.step(stay(env))[0].own for env in envs]
            assert torch.equal(own[0], own[1]) and torch.equal(own[0], own[2])
    finally:
        for env in envs:
            env.close()


def test_workers_use_one_thread_and_load_no_torch() -> None:
    env = toy(4, 2, "Process")
    own = env.reset().own[:, 0]
    assert own[:, 0].tolist() == [0, 0, 0, 0] and own[:, 1].tolist() == [1, 1, 1, 1]
    assert own[:, 2].long().tolist() == [pid for pid in pids(env) for _ in range(2)]
    env.close()


def test_ctrl_c_on_the_terminal_does_not_reach_workers() -> None:
    env = toy(2, 2)
    assert os.getpgid(0) not in {os.getpgid(pid) for pid in pids(env)}
    env.close()


def kill(env: ParallelTeamEnv, worker: int) -> None:
    """A worker is killed from outside, as the system does when memory runs out."""
    os.kill(pids(env)[worker], signal.SIGKILL)
    assert gone_within(5, pids(env)[worker : worker + 1])


def test_a_worker_that_dies_is_started_again_and_its_teams_begin_episodes_of_later_seeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env, untouched = toy(5, 2, length=4), toy(5, 0, length=4)
    seen, _ = env.reset(7), untouched.reset(7)
    met = {float(seed) for seed in seen.own[:2, 0, 3]}
    for _ in range(3):
        env.step(stay(env))
        untouched.step(stay(env))
    kill(env, 0)
    seen, outcome = env.step(stay(env))
    other, expected = untouched.step(stay(env))
    assert env.restarts == 1 and len(caplog.messages) == 1
    assert caplog.messages[0] == (
        "worker 0 died (signal SIGKILL) and is started again: 2 rows of environments 0 to 1 are lost, and episodes of "
        "later seeds begin; another death ends the run"
    )
    # Its teams' row is a reset, the others' is what it would have been.
    assert outcome.valid.tolist() == [False, False, True, True, True]
    assert not (outcome.terminated | outcome.truncated)[:2].any() and not outcome.reward[:2].any()
    assert torch.equal(seen.own[2:], other.own[2:]) and torch.equal(outcome.reward[2:], expected.reward[2:])
    assert seen.own[:2, 0, 2].tolist() == [0, 0] and seen.alive.all()
    for _ in range(5):
        begun = seen.own[:2, 0, 3].tolist()
        assert not met & set(begun), "an episode that a dead worker had met is played again"
        seen, _ = env.step(stay(env))
    restored = toy(5, 0, length=4)
    restored.load_state_dict(env.state_dict())
    for _ in range(7):
        assert torch.equal(env.step(stay(env))[0].own, restored.step(stay(env))[0].own)
    env.close()


@pytest.mark.parametrize(("fault", "how"), [("exit", "exit code 3"), ("segv", "signal SIGSEGV")])
def test_the_second_death_is_named_and_all_stop(fault: str, how: str) -> None:
    env = toy(2, 1, fault=fault, at=2)
    env.reset()
    # The first death is in the second step, whose row is then a reset; the next episode is as deadly.
    for valid in (True, False, True):
        assert env.step(stay(env))[1].valid.tolist() == [valid, valid]
    processes = pids(env)
    with pytest.raises(RuntimeError) as caught:
        env.step(stay(env))
    assert str(caught.value) == (
        f"worker 0 died ({how}), the second death, and with it environments 0 to 1; the workers are stopped"
    )
    assert gone_within(1, processes)
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 0.1


def test_a_worker_that_dies_before_a_reset_is_started_again() -> None:
    env, untouched = toy(4, 2), toy(4, 0)
    env.reset(3), untouched.reset(3)
    kill(env, 1)
    first = untouched.reset().own[:, 0, 3]
    own = env.reset().own[:, 0, 3]
    assert torch.equal(own[:2], first[:2]) and not set(own[2:].tolist()) & set(first[2:].tolist())
    assert env.restarts == 1
    env.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "petting_toys:Line raised KeyError: 'the\\nfloor gave way' at step 1 of environment 0, episode seed"),
        ("nan_reward", "expected finite rewards (got nan for agent 'walker_2') at step 2 of environment 0, episode"),
    ],
)
def test_an_error_in_a_worker_is_one_line_here_with_its_traceback_as_the_cause(fault: str, message: str) -> None:
    env = toy(4, 2, fault=fault, at=2)
    env.reset()
    env.step(stay(env))
    with pytest.raises(RuntimeError) as caught:
        env.step(stay(env))
    assert str(caught.value).startswith(message) and str(caught.value).endswith("(worker 0)")
    assert "\n" not in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__) and "copies.py" in str(caught.value.__cause__)
    env.close()


def test_a_world_that_cannot_be_made_in_a_worker_leaves_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    # Found here, not there: the workers' path is taken from ours as it is when they start.
    env = toy(2, 0)
    before = children()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.endswith("tests/envs")])
    with pytest.raises(RuntimeError, match=r"expected the module 'petting_toys'.*\(worker 0\)"):
        toy(2, 2)
    assert children() == before
    env.close()


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


KILLED = """
import os, signal, sys, time
import torch
from gcoord.envs.parallel import parallel
env = parallel("petting_toys:Line", num_envs=4, workers=2, maker_kwargs={"fault": sys.argv[1], "at": 2})
env.reset()
env.step(torch.zeros(4, 3, dtype=torch.long))
print(*env._backend.pids, flush=True)
if sys.argv[1]:
    env.step(torch.zeros(4, 3, dtype=torch.long))
time.sleep(60)
"""


@pytest.mark.parametrize("fault", ["", "hang"])
def test_kill_9_leaves_no_worker_and_no_shared_memory(fault: str) -> None:
    shared = set(os.listdir("/dev/shm"))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, fault], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(runs, workers))
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within(3, workers)
    assert not {name for name in set(os.listdir("/dev/shm")) - shared if "gcoord" in name or "psm" in name}


@pytest.mark.parametrize("name", ["Line", "Sleepy"])
def test_closing_never_hangs(name: str) -> None:
    env = toy(2, 2, name, fault="hang", at=1)
    env.reset()
    processes = pids(env)
    with interrupted_after(0.3):
        env.step(stay(env))
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 5 and gone_within(1, processes)


def test_a_step_cut_short_by_ctrl_c_is_not_in_the_saved_state() -> None:
    env, other = toy(2, 2, fault="slow", at=3), toy(2, 0)
    env.reset(5)
    for _ in range(2):
        seen, _ = env.step(stay(env))
    with interrupted_after(0.3):
        env.step(stay(env))
    other.load_state_dict(env.state_dict())
    assert torch.equal(other._last.own, seen.own)
    env.close()


def test_an_environment_that_nobody_holds_takes_its_workers_along() -> None:
    env = toy(2, 2)
    processes = pids(env)
    del env
    gc.collect()
    assert gone_within(1, processes)


def test_by_default_there_are_as_many_workers_as_processors_and_none_where_one_would_do() -> None:
    env = parallel("petting_toys:Line", num_envs=64)
    cpus = len(os.sched_getaffinity(0))
    assert isinstance(env._backend, Workers) == (cpus > 1)
    assert cpus == 1 or len(pids(env)) == min(cpus, 64)
    env.close()
    assert not isinstance(parallel("petting_toys:Line", num_envs=1)._backend, Workers)
