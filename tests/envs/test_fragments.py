"""Promises of fragments that workers collect: the step-by-step collector's rows, weights of now, deaths survived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from petting_toys import __file__ as toys
from test_workers import DEATHS, gone_within, kill, pids, runs, toy
from torch import Tensor

from gcoord.callbacks import MetricsFile
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.data.collect import Collector
from gcoord.envs.fragments import stream
from gcoord.envs.parallel import ParallelTeamEnv
from gcoord.envs.workers import Workers
from gcoord.models.agent import Acted, Agent
from gcoord.models.dropout import DropOut
from gcoord.policy import make_actor
from gcoord.train import train, validate
from gcoord.trajectory import Observation, Trajectory, learns, resets

Policy = tuple[str, dict[str, Any]]


def policy(
    env: ParallelTeamEnv, head: str = "policy_head", memory: bool = False, drop: float = 0.0, left_out: float = 0.0
) -> Policy:
    """What `run.build` would give the collectors."""
    dropout = DropOut(agents=left_out) or None
    part = {"_partial_": True}
    encoder = {"_target_": "gcoord.models.GraphEncoder", "dim": 16, "heads": 2, **part}
    model: dict[str, Any] = {"_target_": "gcoord.models.agent.Body", "encoder": encoder, **part}
    if memory:
        model["memory"] = {"_target_": "gcoord.models.memory.GRU", "dim": 8, **part}
    complete = {"_target_": "gcoord.graph.Complete"}
    topology = {"_target_": "gcoord.graph.Lossy", "topology": complete, "drop": drop} if drop else complete
    parts = {"topology": topology, "model": model, "head": {"_target_": f"gcoord.models.kinds.{head}", **part}}
    return "gcoord.policy:make_actor", {"parts": parts, "spec": env.spec, "dropout": dropout}


def agent_of(made: Policy) -> Agent:
    """Made sure of itself, so that what it does depends on all that it sees."""
    agent = make_actor(**made[1]).eval()
    with torch.no_grad():
        for weight in agent.head.parameters():
            weight.add_(torch.randn_like(weight))
    return agent


class ByShare:
    """An agent asked share by share, as workers ask it: as a batch of their copies, by the draws of its first row."""

    def __init__(self, agent: Agent, shares: list[range]) -> None:
        self.agent, self.body, self.shares = agent, agent.body, [slice(rows.start, rows.stop) for rows in shares]

    def act(self, seen: Observation, memory: Tensor | None, key: Tensor, epsilon: float) -> Acted:
        parts = []
        for rows in self.shares:
            torch.manual_seed(stream(int(key[rows][0])))
            own = None if memory is None else memory[rows]
            parts.append(self.agent.act(seen[rows], own, key=key[rows], epsilon=epsilon))
        join: Callable[[str], Any] = lambda name: (  # noqa: E731
            None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])
        )
        return Acted(join("action"), join("log_prob"), join("memory"))


def shares(env: ParallelTeamEnv) -> list[range]:
    assert isinstance(env._backend, Workers)
    return env._backend.rows


def same(ours: Trajectory, theirs: Trajectory) -> None:
    """Every tensor of two trajectories, bit for bit."""
    left, right = (dict(one.to_tensordict().items(True, True)) for one in (ours, theirs))
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(
    ("name", "kwargs", "made", "epsilon"),
    [
        ("Line", DEATHS, {"memory": True, "drop": 0.5}, 0.0),
        ("Masked", {"n_agents": 4}, {"head": "q_head"}, 0.2),
        pytest.param("Mixed", {}, {}, 0.0, marks=pytest.mark.full),
        pytest.param("Pictures", {}, {"head": "q_head", "memory": True}, 0.5, marks=pytest.mark.full),
    ],
)
def test_workers_collect_the_rows_that_the_step_by_step_collector_does(
    name: str, kwargs: dict[str, Any], made: dict[str, Any], epsilon: float
) -> None:
    there, here = toy(5, 2, name, **kwargs), toy(5, 0, name, **kwargs)
    recipe = policy(there, **made)
    agent = agent_of(recipe)
    workers, steps = Collector(there, 4, recipe), Collector(here, 4)
    asked: Any = ByShare(agent, shares(there))
    scored, memories = made.get("head") is None, bool(made.get("memory"))
    for _ in range(3):
        # Nine rows: episodes of six begin and end in the middle of fragments.
        ours = workers.collect(agent, 9, epsilon, scored, memories)
        theirs = steps.collect(asked, 9, epsilon, scored, memories)
        same(ours, theirs)
        # Summed in another order: the last bits differ.
        assert workers.take_figures() == pytest.approx(steps.take_figures(), rel=1e-5)
        with torch.no_grad():
            for weight in agent.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    assert workers.policy is not None, "the workers did not act"
    # The world's own state is that of single steps too, whoever acted.
    ours, theirs = there.state_dict(), here.state_dict()
    assert all(torch.equal(torch.as_tensor(ours[part]), torch.as_tensor(theirs[part])) for part in theirs)
    there.close()


def test_with_one_worker_a_fragment_is_that_of_the_collector_itself_given_the_same_draws() -> None:
    there, here = toy(3, 1, **DEATHS), toy(3, 0, **DEATHS)
    recipe = policy(there)
    agent = agent_of(recipe)
    ours = Collector(there, 8, recipe).collect(agent, 1, log_prob=True)
    torch.manual_seed(stream(int(ours.steps.key[0, 0])))
    same(ours, Collector(here, 8).collect(agent, 1, log_prob=True))
    there.close()


def test_no_policy_is_older_than_its_fragment_and_workers_hear_whom_the_learner_hears() -> None:
    env = toy(4, 1, **DEATHS)
    recipe = policy(env, memory=True, left_out=0.4)
    agent = agent_of(recipe)
    collector = Collector(env, 0, recipe)
    for _ in range(3):
        with torch.no_grad():
            for weight in agent.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
            rows = collector.collect(agent, 7, log_prob=True)
            choice, _ = agent.unroll(rows.seen, rows.memory, resets(rows.steps.valid), key=rows.keys_of_seen)
        said: Any = choice
        action = torch.cat([rows.steps.action, rows.steps.action[:1]])
        now, then = said.log_prob(action)[:-1], rows.steps.log_prob
        assert torch.allclose(now[learns(rows.steps)], then[learns(rows.steps)], atol=1e-5)
    env.close()


def test_a_restored_collector_goes_on_with_the_same_fragments() -> None:
    first, second = toy(3, 1, **DEATHS), toy(3, 1, **DEATHS)
    recipe = policy(first, memory=True)
    agent = agent_of(recipe)
    ours, theirs = Collector(first, 4, recipe), Collector(second, 4, recipe)
    ours.collect(agent, 8)
    assert theirs.load_state_dict(ours.state_dict())
    for _ in range(2):
        torch.rand(7)  # what else is drawn here matters to nobody
        same(ours.collect(agent, 8), theirs.collect(agent, 8))
    first.close(), second.close()


def test_single_steps_and_fragments_of_the_same_world_may_take_turns() -> None:
    env, other = toy(4, 1), toy(4, 0)
    recipe = policy(env)
    agent = agent_of(recipe)
    collector = Collector(env, 1, recipe)
    rows = collector.collect(agent, 8)
    other.reset(1)
    for action in rows.steps.action:
        seen, _ = other.step(action)
    assert torch.equal(seen.own, rows.last.own)
    for _ in range(9):
        action = torch.randint(3, (4, 3))
        assert torch.equal(env.step(action)[0].own, other.step(action)[0].own)
    env.close()


def test_a_large_fragments_memory_is_given_back_once_its_rows_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcoord.envs.workers.LARGE", 0)
    env = toy(3, 1, **DEATHS)
    recipe = policy(env, memory=True)
    agent = agent_of(recipe)
    collector, other = Collector(env, 5, recipe), Collector(toy(3, 0, **DEATHS), 5)
    asked: Any = ByShare(agent, shares(env))
    assert isinstance(env._backend, Workers)
    for _ in range(2):
        same(collector.collect(agent, 7), other.collect(asked, 7))
        assert os.fstat(env._backend._files[1]).st_blocks == 0
    env.close()


def test_workers_act_with_one_thread_each() -> None:
    env = toy(2, 1, "Threads")
    recipe = policy(env)
    own = Collector(env, 0, recipe).collect(agent_of(recipe), 3).steps.seen.own
    assert own[0, :, :, 0].eq(0).all(), "torch is loaded before it is needed"
    assert own[1:, :, :, 0].eq(1).all()
    assert own[:, :, 0, 2].long().tolist() == [pids(env) * 2] * 3
    env.close()


def test_by_step_the_workers_never_load_a_policy() -> None:
    env = toy(4, 2, "Threads")
    collector = Collector(env, 0)
    assert collector.collect(agent_of(policy(env)), 3).steps.seen.own[..., 0].eq(0).all()
    env.close()


def test_a_policy_that_workers_cannot_build_acts_here_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    env, other = toy(4, 1), toy(4, 0)
    recipe = policy(env)
    agent = agent_of(recipe)
    collector = Collector(env, 2, ("no_such_package:make", {}))
    torch.manual_seed(0)
    ours = collector.collect(agent, 7)
    torch.manual_seed(0)
    same(ours, Collector(other, 2).collect(agent, 7))
    (line,) = caplog.messages
    assert line.startswith("expected a policy that workers can build (got ") and "no_such_package" in line
    assert line.endswith("it acts here, one round trip to the workers a step") and "\n" not in line
    env.close()


# Deaths


def test_a_worker_that_dies_in_a_fragment_is_started_again_and_its_rows_are_collected_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = toy(4, 2, length=5)
    recipe = policy(env, memory=True)
    agent = agent_of(recipe)
    asked: Any = ByShare(agent, shares(env))
    ours, theirs = Collector(env, 3, recipe), Collector(toy(4, 0, length=5), 3)
    before = ours.collect(agent, 4, memories=True)
    theirs.collect(asked, 4, memories=True)
    kill(env, 1)
    rows, expected = ours.collect(agent, 8, memories=True), theirs.collect(asked, 8, memories=True)
    assert env.restarts == 1 and ours.restarts == 1
    assert "worker 1 died (signal SIGKILL) and is started again: 2 rows of environments 2 to 3 are lost" in caplog.text
    # The other worker's teams never notice.
    assert torch.equal(rows.steps.seen.own[:, :2], expected.steps.seen.own[:, :2])
    assert torch.equal(rows.steps.action[:, :2], expected.steps.action[:, :2])
    # Its own teams' first row is a reset: what was seen last, then a new episode of a seed that was not met.
    assert rows.steps.valid[:, 2:].tolist() == [[False] * 2] + [[True] * 2] * 5 + [[False] * 2] + [[True] * 2]
    assert torch.equal(rows.steps.seen.own[0, 2:], before.last.own[2:])
    assert rows.steps.seen.own[1, 2:, 0, 2].tolist() == [0, 0]
    met = set(before.steps.seen.own[:, 2:, 0, 3].flatten().tolist())
    assert not met & set(rows.steps.seen.own[1:, 2:, 0, 3].flatten().tolist())
    assert rows.memory is not None and not rows.memory[1, 2:].any(), "memory outlived its episode"
    # Half an episode counts nowhere: the next that end have their whole length.
    assert ours.take_figures()["length"] == 5
    again = Collector(toy(4, 0, length=5), 3)
    again.load_state_dict(ours.state_dict())
    same(ours.collect(agent, 6), again.collect(asked, 6))
    env.close()


def test_rows_lost_within_a_fragment_are_counted_and_the_second_death_ends_the_run_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = toy(2, 1, fault="exit", at=3)
    recipe = policy(env)
    collector = Collector(env, 0, recipe)
    processes = pids(env)
    with pytest.raises(RuntimeError) as caught:
        collector.collect(agent_of(recipe), 10)
    # Two rows of both copies, and the one in which it died.
    assert "6 rows of environments 0 to 1 are lost" in caplog.text
    assert str(caught.value) == (
        "worker 0 died (exit code 3), the second death, and with it environments 0 to 1; the workers are stopped"
    )
    assert gone_within(1, processes)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_fragments import agent_of, policy, toy
from gcoord.data.collect import Collector
env = toy(2, 2, fault="hang", at=3)
recipe = policy(env)
collector, agent = Collector(env, 0, recipe), agent_of(recipe)
collector.collect(agent, 2)
print(*env._backend.pids, flush=True)
collector.collect(agent, 9)
"""


def test_kill_9_in_a_fragment_leaves_no_worker_and_no_shared_memory() -> None:
    shared = set(os.listdir("/dev/shm"))
    folder = str(Path(toys).parent)
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([folder, *sys.path])},
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(runs, workers))
    time.sleep(0.3)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone_within(3, workers)
    assert not {name for name in set(os.listdir("/dev/shm")) - shared if "gcoord" in name or "psm" in name}


# Runs

WORLD = [
    "env=mpe/simple_spread",
    "env.workers=1",
    "env.max_cycles=7",
    "num_envs=4",
    "model.encoder.dim=16",
    "evaluation.frames=0",
    "evaluation.episodes=4",
    "log.tensorboard=false",
    "memory=gru",
]
SOURCES = {
    "ippo": ["source.steps=10", "source.epochs=1", "source.minibatch=20"],
    "iql": ["source.warmup=40", "source.bursts=2", "source.updates=2", "source.batch=8", "source.capacity=2000"],
}


def go(*options: str) -> int:
    return run_command("train", train, list(options), validate=validate)


def plain(state: Any) -> Any:
    """A checkpoint's values, without what a replay's files are called and when what was best was."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items() if name not in ("files", "best")}
    return [plain(one) for one in state] if isinstance(state, list | tuple) else state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b)) if isinstance(a, Tensor) else bool(a is b or (a == b))


@pytest.mark.parametrize("algo", ["ippo", pytest.param("iql", marks=pytest.mark.full)])
def test_a_resumed_run_of_fragments_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, algo: str, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [*WORLD, *SOURCES[algo], f"algo={algo}", "checkpoint_frames=40"]
    assert go(*options, "frames=160", f"run_dir={tmp_path}/whole") == 0
    assert "1 worker process: whole fragments are collected there" in capfd.readouterr().out
    assert go(*options, "frames=80", f"run_dir={tmp_path}/parts") == 0
    assert go(f"resume={tmp_path}/parts", "frames=160") == 0
    whole, parts = (plain(load_state(tmp_path / name / "checkpoints" / "last")) for name in ("whole", "parts"))
    for name in ("learner", "optimizer", "source"):
        assert equal(whole[name], parts[name]), name
    rows = MetricsFile(tmp_path / "whole", frames=10**9)._read()
    assert {row["workers_restarted"] for row in rows} == {"0.0"}


def test_collect_is_worker_or_step_and_step_acts_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = [*WORLD, *SOURCES["ippo"], "algo=ippo", "frames=40"]
    assert go(*options, "collect=sometimes", f"run_dir={tmp_path}/r") == 2
    assert "expected collect to be worker or step (got 'sometimes')" in capfd.readouterr().err
    assert go(*options, "collect=step", f"run_dir={tmp_path}/r") == 0
    assert "1 worker process: asked step by step" in capfd.readouterr().out
