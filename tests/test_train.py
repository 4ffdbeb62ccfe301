"""Promises of the commands: every part composes and learns, runs resume exactly, bad input leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import gcoord
from gcoord import run as runs
from gcoord.callbacks import MetricsFile
from gcoord.checkpoint import load_state
from gcoord.command import run_command
from gcoord.conf import conf_dir, locate, options_of
from gcoord.evaluate import evaluate
from gcoord.evaluate import validate as validate_evaluation
from gcoord.fitting import fit
from gcoord.record import main as record
from gcoord.run import takes
from gcoord.train import train, validate

TOY = [
    "env=native/meet",
    "num_envs=8",
    "model.encoder.dim=16",
    "evaluation.episodes=8",
    "evaluation.frames=0",
    "log.tensorboard=false",
]
ON_POLICY = ["source.steps=10", "source.epochs=1", "source.minibatch=40"]
OFF_POLICY = ["source.warmup=64", "source.bursts=1", "source.updates=2", "source.batch=8", "source.capacity=4000"]


def algo_node(algo: str) -> DictConfig:
    node = OmegaConf.load(conf_dir() / "algo" / f"{algo}.yaml")
    return node.get("algo", node)


def is_offline(algo: str) -> bool:
    defaults = OmegaConf.load(conf_dir() / "algo" / f"{algo}.yaml").get("defaults", [])
    return {"override /source": "offline"} in list(defaults)


def data_of(algo: str, folder: Path, *world: str) -> list[str]:
    """Recorded random teams of native/meet, for algorithms that learn from recorded teams alone; a run to begin from
    for the one that needs it."""
    if algo == "coordinate":
        options = [*TOY, *source_of("bc"), *world, *data_of("bc", folder, *world), "algo=bc", "frames=20"]
        assert go(*options, f"run_dir={folder}-clone") == 0
        return [f"init_from={folder}-clone"]
    if not is_offline(algo):
        return []
    options = ["env=native/meet", "policy=random", "episodes=6", "num_envs=6", f"out={folder}"]
    options += [option for option in world if option.startswith(("env.", "n_agents="))]
    assert run_command("record", record, options) == 0
    return [f"dataset={folder}"]


def source_of(algo: str) -> list[str]:
    if is_offline(algo):
        warming = [name for name in ("clone_updates", "match_updates") if name in algo_node(algo)]
        return ["source.updates=2", "source.minibatch=20", *(f"algo.{name}=1" for name in warming)]
    if algo == "reinforce":
        return ["source.steps=10"]
    return ON_POLICY if locate(algo_node(algo)._target_).on_policy else OFF_POLICY


def go(*overrides: str) -> int:
    return run_command("train", train, list(overrides), validate=validate)


def judge(*overrides: str) -> int:
    return run_command("evaluate", evaluate, ["processes=1", *overrides], validate=validate_evaluation)


def metrics(folder: Path) -> list[dict[str, str]]:
    return MetricsFile(folder, frames=10**12)._read()


@pytest.mark.parametrize("algo", options_of("algo"))
@pytest.mark.parametrize("continuous", [False, True])
def test_every_algorithm_composes_builds_and_makes_updates(tmp_path, capfd, algo, continuous):
    # Three team sizes at once, but where a part is bound to one.
    team = [f"env.continuous={continuous}", *([] if algo == "qmix_paper" else ["n_agents=[2,4,8]"])]
    data = data_of(algo, tmp_path / "data", *team)
    code = go(*TOY, *source_of(algo), *data, f"algo={algo}", *team, "frames=200", f"run_dir={tmp_path}/r")
    if continuous and not takes(algo_node(algo), "continuous"):
        assert code == 2
        assert "expected an algorithm that takes continuous actions" in capfd.readouterr().err
        assert not list(tmp_path.iterdir())
        return
    assert code == 0
    assert float(metrics(tmp_path / "r")[-1]["updates"]) >= 2
    assert gcoord.load(tmp_path / "r").act(gcoord.make_env("native/meet", 9, continuous=continuous).reset(0)).shape[
        :2
    ] == (1, 9)


PAIRS = [
    ("relation", "gru", "mappo"),
    ("mean", "none", "ippo"),
    ("additive", "none", "qmix"),
    ("edge", "gru", "iql"),
    ("conv", "none", "vdn"),
    ("mlp", "gru", "qmix"),
    ("relation", "gru", "dgn"),
    ("mlp", "none", "mappo"),
    ("mean", "gru", "vdn"),
    ("conv", "gru", "ippo"),
    ("relation", "gru", "belief_ppo"),
    ("edge", "none", "belief_ppo"),
    ("additive", "gru", "coma"),
    ("mlp", "none", "coma"),
    ("mean", "none", "a2c"),
    ("conv", "gru", "reinforce"),
    ("mean", "gru", "ddpg"),
    ("conv", "none", "iddpg"),
    ("edge", "gru", "td3"),
    ("additive", "none", "maddpg"),
    ("mlp", "gru", "sac"),
    ("additive", "gru", "isac"),
    ("relation", "none", "masac"),
    ("conv", "gru", "bc"),
    ("mlp", "none", "bc_vae"),
    ("additive", "gru", "brac"),
    ("mean", "none", "bear"),
    ("edge", "none", "coordinate"),
]


@pytest.mark.parametrize("model, memory, algo", PAIRS)
def test_any_encoder_with_any_algorithm_on_a_team_with_kinds_deaths_and_entities(tmp_path, model, memory, algo):
    extra = ["model.encoder.heads=2"] if model != "mlp" else []
    world = ["env.kinds=2", "env.deaths=0.05", "env.entities=3", "env.continuous=false"]
    parts = [f"model={model}", f"memory={memory}", *extra]
    options = [*parts, f"algo={algo}", *world, *data_of(algo, tmp_path / "data", *parts, *world)]
    assert go(*TOY, *source_of(algo), *options, "frames=100", f"run_dir={tmp_path}/r") == 0
    assert all(float(row["updates"]) > 0 for row in metrics(tmp_path / "r"))


@pytest.mark.full
@pytest.mark.parametrize("model", options_of("model"))
@pytest.mark.parametrize("memory", ["none", "gru"])
@pytest.mark.parametrize("algo", options_of("algo"))
def test_the_full_product_of_encoders_memories_and_algorithms(tmp_path, model, memory, algo):
    attends = model != "mlp"
    parts = [f"model={model}", f"memory={memory}", "env.deaths=0.05", "env.entities=3"]
    options = [*parts, f"algo={algo}", *data_of(algo, tmp_path / "data", *parts)]
    expected = 2 if algo == "dgn" and not attends else 0
    assert go(*TOY, *source_of(algo), *options, "frames=100", f"run_dir={tmp_path}/r") == expected


def test_dgns_regulariser_needs_an_encoder_that_attends(tmp_path, capfd):
    assert go(*TOY, *OFF_POLICY, "algo=dgn", "model=mlp", f"run_dir={tmp_path}/r") == 2
    assert "expected an encoder with attention" in capfd.readouterr().err


@pytest.mark.parametrize("algo", ["mappo", "qmix"])
def test_several_team_sizes_train_at_once_and_act_at_sixteen(tmp_path, algo):
    assert go(*TOY, *source_of(algo), f"algo={algo}", "n_agents=[2,4,8]", "frames=400", f"run_dir={tmp_path}/r") == 0
    last = metrics(tmp_path / "r")[-1]
    assert {"return@2", "return@4", "return@8"} <= set(last)
    policy = gcoord.load(tmp_path / "r")
    assert policy.trained_on == [2, 4, 8]
    assert policy.act(gcoord.make_env("native/meet", 16).reset(0)).shape == (1, 16)


@pytest.mark.parametrize("algo", ["mappo", "vdn"])
def test_learning_the_toy_beats_random_clearly(tmp_path, algo):
    fast = {
        "mappo": [
            "frames=40000",
            "algo.lr=2e-3",
            "source.steps=21",
            "source.minibatch=168",
            "source.epochs=4",
            "num_envs=32",
        ],
        "vdn": ["frames=8000", "algo.lr=2e-3", "algo.epsilon_frames=4000", "source.updates=4", "algo.gamma=0.9"],
    }[algo]
    options = [*TOY, f"algo={algo}", "evaluation.episodes=64", "evaluation.num_envs=64", f"run_dir={tmp_path}/r", *fast]
    assert go(*options) == 0
    test = json.loads((tmp_path / "r" / "summary.json").read_text())["test"]["4"]
    # Whoever goes all the way earns about 0.75; knowing agents alone can make half of it.
    assert test["trained"]["return_per_agent"] > test["random"]["return_per_agent"] + 0.25


@pytest.mark.parametrize("experiment", options_of("experiment"))
def test_every_experiment_composes_and_runs(tmp_path, experiment):
    small = ["frames=60", "num_envs=2", "source.warmup=30", "source.bursts=1", "source.capacity=1000", "env.workers=0"]
    quiet = ["evaluation.episodes=2", "evaluation.num_envs=2", "log.tensorboard=false", f"run_dir={tmp_path}/r"]
    cycles = ["env.max_cycles=20"] if experiment.startswith("pursuit") else []
    assert go(f"experiment={experiment}", *small, *quiet, *cycles) == 0


# Resuming


def states_equal(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            states_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            states_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b) or (a.is_floating_point() and a.isnan().any()), where
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), where
    else:
        assert a == b or a != a, where


@pytest.mark.parametrize("algo", ["mappo", "qmix"])
@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_resumed_run_ends_exactly_where_an_uninterrupted_one_does(tmp_path, algo, memory):
    options = [*TOY, *source_of(algo), f"algo={algo}", f"memory={memory}", "env.deaths=0.05"]
    assert go(*options, "frames=900", f"run_dir={tmp_path}/whole", "checkpoint_frames=100") == 0
    assert go(*options, "frames=450", f"run_dir={tmp_path}/parts", "checkpoint_frames=100") == 0
    assert go(f"resume={tmp_path}/parts", "frames=900") == 0
    whole, parts = (load_state(tmp_path / name / "checkpoints" / "last") for name in ("whole", "parts"))
    for state in (whole, parts):
        # Files of the replay are cut where checkpoints were; their rows are compared through the learner.
        for replay in state["source"].get("replays", {}).get("replays", {}).values():
            del replay["files"]
        state.pop("best")
    states_equal(whole, parts)
    frames = [row["frames"] for row in metrics(tmp_path / "parts")]
    assert frames == [row["frames"] for row in metrics(tmp_path / "whole")]


def test_a_finished_run_refuses_to_go_on_by_accident(tmp_path, capfd):
    options = [*TOY, *ON_POLICY, "frames=100", f"run_dir={tmp_path}/r"]
    assert go(*options) == 0
    before = (tmp_path / "r" / "policy.safetensors").read_bytes()
    assert go(f"resume={tmp_path}/r") == 2
    assert "expected frames above" in capfd.readouterr().err
    assert go(*options) == 2
    assert "go on with it by resume=" in capfd.readouterr().err
    assert go(f"resume={tmp_path}/r", "frames=200", "algo.lr=0.1") == 2
    assert "expected resume= with frames= and device= at most" in capfd.readouterr().err
    assert (tmp_path / "r" / "policy.safetensors").read_bytes() == before


def test_fine_tuning_starts_from_the_weights_of_another_size(tmp_path, capfd):
    options = [*TOY, *ON_POLICY]
    assert go(*options, "frames=100", f"run_dir={tmp_path}/small", "n_agents=4") == 0
    assert (
        go(
            *options,
            "frames=1",
            "algo.lr=1e-12",
            f"init_from={tmp_path}/small",
            f"run_dir={tmp_path}/large",
            "n_agents=16",
        )
        == 0
    )
    small, large = gcoord.load(tmp_path / "small"), gcoord.load(tmp_path / "large")
    assert large.trained_on == [16]
    for a, b in zip(small.agent.parameters(), large.agent.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert go(*options, "model.encoder.dim=24", f"init_from={tmp_path}/small", f"run_dir={tmp_path}/other") == 2
    assert "expected the networks of" in capfd.readouterr().err
    assert not (tmp_path / "other").exists()


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "gcoord.train", *options, f"run_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_with_signal_nine_it_goes_on_and_leaves_no_orphans(tmp_path):
    folder = tmp_path / "r"
    shared = set(Path("/dev/shm").iterdir())
    world = ["env=mpe/simple_spread", "env.workers=2", "num_envs=4", "algo=iql", *OFF_POLICY, "model.encoder.dim=16"]
    quiet = ["evaluation.frames=0", "evaluation.episodes=4", "log.tensorboard=false", "checkpoint_frames=50"]
    process = start(folder, *world, *quiet, "frames=1000000")
    try:
        wait_for(lambda: (folder / "checkpoints" / "last" / "state.json").exists() or process.poll() is not None)
        assert process.poll() is None, process.stdout.read()
        workers = children_of(process.pid)
        assert len(workers) >= 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and alive(pid) for pid in workers), 20)
    assert set(Path("/dev/shm").iterdir()) <= shared
    saved = load_state(folder / "checkpoints" / "last")["learner"]["counters"]["frames"]
    assert saved > 0
    assert go(f"resume={folder}", f"frames={saved + 100}") == 0
    assert json.loads((folder / "summary.json").read_text())["frames"] >= saved + 100


def test_a_run_survives_a_workers_death_once_and_the_second_ends_it_with_a_checkpoint(tmp_path):
    folder = tmp_path / "r"
    world = ["env=mpe/simple_spread", "env.workers=2", "num_envs=4", *ON_POLICY, "model.encoder.dim=16"]
    quiet = ["evaluation.frames=0", "evaluation.episodes=4", "log.tensorboard=false", "checkpoint_frames=1000000"]
    process = start(folder, *world, *quiet, "frames=1000000")

    def restarted() -> list[str]:
        return [row["workers_restarted"] for row in metrics(folder)] if (folder / "metrics.csv").exists() else []

    try:
        wait_for(lambda: restarted() or process.poll() is not None)
        assert process.poll() is None, process.stdout.read()
        os.kill(children_of(process.pid)[-1], signal.SIGKILL)
        wait_for(lambda: restarted()[-1] == "1.0" or process.poll() is not None)
        assert process.poll() is None, process.stdout.read()
        os.kill(children_of(process.pid)[-1], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    first, *_, last = [line for line in output.strip().splitlines() if "died" in line]
    assert "SIGKILL" in first and "is started again" in first and "are lost" in first
    assert last == output.strip().splitlines()[-1]
    assert "worker" in last and "the second death" in last and f"resume={folder}" in last
    assert "Traceback" not in output
    saved = load_state(folder / "checkpoints" / "last")["learner"]["counters"]["frames"]
    assert saved > 0
    assert go(f"resume={folder}", f"frames={saved + 50}") == 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_stops_cleanly_with_a_checkpoint(tmp_path):
    folder = tmp_path / "r"
    process = start(folder, *TOY, *ON_POLICY, "frames=100000000")
    try:
        wait_for(lambda: (folder / "metrics.csv").exists() or process.poll() is not None)
        assert process.poll() is None, process.stdout.read()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in output
    assert process.returncode == 130
    assert f"resume={folder}" in output.replace("\n", "")
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert load_state(folder / "checkpoints" / "last")["learner"]["counters"]["frames"] > 0


# Bad input

BAD = {
    "n_agents=[3,3]": "expected every team size once",
    "evaluation.episodes=0": "expected evaluation.episodes",
    "checkpoint_frames=-1": "expected checkpoint_frames",
    "threads=0": "expected threads",
    "evaluation.epsilon=2": "expected evaluation.epsilon",
    "precision=16": "expected precision",
    "precision=half": "expected precision to be 32-true or bf16-mixed",
    "compile=true": "expected compile=false",
    "source=replay": "expected source=rollouts",
    "unknown_key=1": "unknown_key",
    "env.nonsense=1": "nonsense",
    "n_agents=four": "expected n_agents to be a positive whole number or a list of them (got 'four')",
    "n_agents=-1": "expected n_agents to be a positive whole number",
    "n_agents=0": "expected n_agents to be a positive whole number",
    "n_agents=2.5": "expected n_agents to be a positive whole number",
    "frames=0": "expected frames",
    "num_envs=-2": "expected num_envs",
    "device=cuda:77": "device",
    "device=tpu": "expected device",
    "algo.lr=fast": "algo.lr",
    "algo=nothing": "algo",
    "env=vmas/nothing": "env",
    "resume=nowhere": "expected a run folder",
    "init_from=nowhere": "nowhere",
    "model.encoder._target_=nowhere.Encoder": "nowhere.Encoder",
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, override):
    monkeypatch.chdir(tmp_path)
    assert go(*TOY, override) == 2 if not override.startswith("resume") else go(override) == 2
    error = capfd.readouterr().err.strip()
    assert BAD[override] in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_replay_that_cannot_fit_is_refused_before_anything_is_made(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert go(*TOY, "algo=iql", "source.capacity=100000000000") == 2
    error = capfd.readouterr().err.strip()
    assert "expected a replay of at most" in error and "\n" not in error
    assert not list(tmp_path.iterdir())


def test_nan_from_a_world_is_named_with_agent_and_step_and_a_checkpoint_is_left(tmp_path, capfd, monkeypatch):
    from gcoord.envs.native.meet import Meet

    honest, calls = Meet.step, []

    def dishonest(self, action):
        seen, outcome = honest(self, action)
        calls.append(1)
        if len(calls) == 35:
            outcome.reward[2, 1] = float("nan")
        return seen, outcome

    monkeypatch.setattr(Meet, "step", dishonest)
    assert go(*TOY, *ON_POLICY, "frames=10000", f"run_dir={tmp_path}/r", "checkpoint_frames=100000") == 2
    error = capfd.readouterr().err
    assert "agent 1 of team 2, 4 steps into the rollout" in error
    monkeypatch.undo()
    assert load_state(tmp_path / "r" / "checkpoints" / "last")["learner"]["counters"]["frames"] > 0
    assert go(f"resume={tmp_path}/r", "frames=600") == 0


# Evaluation


def test_evaluation_writes_tidy_results_and_a_picture(tmp_path, capfd):
    assert go(*TOY, *ON_POLICY, "frames=100", f"run_dir={tmp_path}/r") == 0
    assert judge(f"run={tmp_path}/r", "n_agents=[2,4,9]", "episodes=8") == 0
    from gcoord.scaleup.report import read_csv

    rows = read_csv(tmp_path / "r" / "scale" / "results.csv")
    assert {row.n_agents for row in rows} == {2, 4, 9}
    assert {row.mode for row in rows} == {"zero_shot", "random", "scripted"}
    assert {"return", "return_per_agent", "success"} <= {row.metric for row in rows}
    assert all(row.ci_low <= row.value <= row.ci_high for row in rows)
    assert (tmp_path / "r" / "scale" / "scale.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "r" / "scale" / "results.json").read_text())


def test_evaluation_twice_gives_the_same_figures(tmp_path):
    assert go(*TOY, *ON_POLICY, "frames=100", f"run_dir={tmp_path}/r") == 0
    texts = []
    for name in ("a", "b"):
        assert judge(f"run={tmp_path}/r", "n_agents=[4,6]", "episodes=8", f"out={tmp_path}/{name}") == 0
        texts.append((tmp_path / name / "results.csv").read_text())
    assert texts[0] == texts[1]


def test_a_share_of_random_actions_is_repeatable_and_told(tmp_path):
    assert go(*TOY, *ON_POLICY, "frames=100", f"run_dir={tmp_path}/r") == 0
    from gcoord.scaleup.report import read_csv

    def rows(name, *overrides):
        assert judge(f"run={tmp_path}/r", "n_agents=[4]", "episodes=8", f"out={tmp_path}/{name}", *overrides) == 0
        return [r for r in read_csv(tmp_path / name / "results.csv") if r.mode == "zero_shot"]

    once, again, greedy = rows("a", "epsilon=0.5"), rows("b", "epsilon=0.5"), rows("c")
    assert once == again
    assert {row.condition for row in once} == {"epsilon=0.5"} and {row.condition for row in greedy} == {""}
    assert [row.value for row in once] != [row.value for row in greedy]


def test_a_run_that_diverges_ends_in_one_line_and_keeps_its_last_sound_checkpoint(tmp_path, capfd):
    code = go(*TOY, *ON_POLICY, "algo.lr=1e30", "frames=5000", f"run_dir={tmp_path}/r", "checkpoint_frames=100000")
    assert code == 2
    assert "expected finite losses and gradients" in capfd.readouterr().err
    assert not (tmp_path / "r" / "checkpoints" / "last" / "state.json").exists()


def test_a_run_stopped_during_its_test_is_tested_when_it_is_resumed(tmp_path):
    assert go(*TOY, *ON_POLICY, "frames=100", f"run_dir={tmp_path}/r") == 0
    path = tmp_path / "r" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "status": "running", "test": {}}))
    assert go(f"resume={tmp_path}/r") == 0
    again = json.loads(path.read_text())
    assert again["test"] == summary["test"] and again["names"] == summary["names"] and again["names"]


@pytest.mark.parametrize("override", ["run=nowhere", "n_agents=[4,four]", "modes=[magic]", "episodes=0", "epsilon=-1"])
def test_bad_evaluations_get_one_line(tmp_path, monkeypatch, capfd, override):
    monkeypatch.chdir(tmp_path)
    assert judge(override) == 2
    error = capfd.readouterr().err.strip()
    assert "expected" in error and "\n" not in error
    assert not list(tmp_path.iterdir())


# Users' own parts


def test_a_users_own_encoder_mixer_and_world_from_outside_the_package(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(
        """
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from gcoord.envs.native.meet import Meet
from gcoord.models.mixers import Mixed, Mixer

class Encoder(nn.Module):
    def __init__(self, own_dim, entity_dim=0, edge_dim=0, width: int = 8):
        super().__init__()
        self.layer, self.out_dim = nn.Linear(own_dim, width), width
    def forward(self, own, graph, entities=None, return_attention=False):
        return torch.tanh(self.layer(torch.where(graph.present[..., : own.shape[-2], None], own, 0.0)))

class Largest(Mixer):
    def __init__(self, dim: int = 64):
        super().__init__()
    def forward(self, utilities, key=None):
        return Mixed(utilities.chosen().amax(-1))

class World(Meet):
    pass
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "runs" / "own"
    code = go(
        "env=native/meet", "num_envs=8", "algo=vdn", *OFF_POLICY, "frames=100", "log.tensorboard=false",
        "evaluation.episodes=8", f"run_dir={folder}", "env._target_=elsewhere.World",
        "model.encoder._target_=elsewhere.Encoder", "model.encoder.width=12", "algo.mixer._target_=elsewhere.Largest",
    )  # fmt: skip
    assert code == 0
    with pytest.raises(ValueError, match="expected _target_ to lie in"):
        gcoord.load(folder)
    assert gcoord.load(folder, trust=["elsewhere"]).agent.body.out_dim == 12


def test_a_run_can_be_built_and_trained_from_python(tmp_path):
    cfg = []
    assert run_command("train", lambda c, job: cfg.append(c), [*TOY, *ON_POLICY, "frames=100"]) == 0
    run = runs.build(cfg[0])
    summary = fit(run, tmp_path / "r")
    run.close()
    assert summary["status"] == "finished"
    assert summary["test"]["4"].keys() == {"random", "trained"}
