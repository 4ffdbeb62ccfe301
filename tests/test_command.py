"""The commands' front-end: groups, overrides, sweeps; one line for bad input; nothing created."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from gcoord.command import Job, run_command

PARTS = """
from __future__ import annotations
from typing import Any, Literal

def world(n_agents: int = 2, num_envs: int = 1, device: str = "cpu", seed: int = 0, max_steps: int = 100,
          density: Literal["fixed", "arena"] = "fixed") -> str:
    return "world"

def encoder(own_dim: int, dim: int = 64, heads: int = 8, rounds: int = 2) -> Any: ...
def mine(own_dim: int, dim: int = 7, width: int = 32, needed: int | None = None, *, must: int) -> Any: ...
def body(spec: Any, encoder: Any, normalise: bool = False) -> Any: ...
def learner(spec: Any, lr: float = 1e-3, lr_of: dict[str, float] | None = None) -> Any: ...
def nearest(k: int = 3) -> Any: ...
def complete() -> Any: ...

class Parent:
    def __init__(self, lr: float = 0.1) -> None: ...

class Child(Parent):
    def __init__(self, clip: float = 0.2, **parent: Any) -> None: ...
"""
FILES = {
    "train": """
        defaults:
          - _self_
          - env: toy/meadow
          - algo: ppo
          - model: small
          - topology: nearest
          - optional experiment: null
          - override hydra/job_logging: none
          - override hydra/hydra_logging: none
        n_agents: null
        seed: 0
        run_dir: null
        name: run-${seed}
        log: {csv: true, board: false}
        hydra: {output_subdir: null, run: {dir: .}}
    """,
    "env/toy/meadow": "_target_: cmdparts.world\nmax_steps: 25",
    "env/toy/lake": "_target_: cmdparts.world\ndensity: arena",
    "algo/ppo": "_target_: cmdparts.learner\n_partial_: true",
    "algo/dqn": "_target_: cmdparts.learner\n_partial_: true\nlr: 0.5",
    "model/small": "_target_: cmdparts.body\n_partial_: true\n"
    "encoder: {_target_: cmdparts.encoder, _partial_: true, dim: 16, rounds: 1}",
    "topology/nearest": "_target_: cmdparts.nearest",
    "topology/complete": "_target_: cmdparts.complete",
    "experiment/long": "# @package _global_\ndefaults:\n  - override /algo: dqn\n  - override /env: toy/lake\n"
    "seed: 5\nmodel: {encoder: {heads: 2}}",
    "needs": "defaults:\n  - _self_\nfrom_user: ???",
}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "conf"
    for name, text in FILES.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        file.write_text("\n".join(line[indent:] for line in lines))
    (tmp_path / "cmdparts.py").write_text(PARTS)
    (tmp_path / "work").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return folder


class Seen(list[tuple[DictConfig, Job]]):
    def __call__(self, cfg: DictConfig, job: Job) -> None:
        self.append((cfg, job))


Compose = Callable[..., tuple[DictConfig, Job]]


@pytest.fixture
def compose(conf: Path) -> Compose:
    def composed(*argv: str, config: str = "train") -> tuple[DictConfig, Job]:
        seen = Seen()
        assert run_command(config, seen, argv, conf=conf) == 0
        (one,) = seen
        return one

    return composed


Refused = Callable[..., str]


@pytest.fixture
def refused(conf: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that must end with exit code 2, one line on stderr, and nothing made or run."""

    def line(*argv: str, config: str = "train", **more: object) -> str:
        seen = Seen()
        assert run_command(config, seen, argv, conf=conf, **more) == 2
        out, err = capsys.readouterr()
        assert not seen and not out and err.count("\n") == 1 and err.startswith("error: ")
        assert not list(Path.cwd().iterdir())
        return err.removeprefix("error: ").rstrip("\n")

    return line


def test_parts_are_filled_from_their_signatures_and_choices_are_told(compose: Compose) -> None:
    cfg, job = compose()
    assert OmegaConf.to_container(cfg) == {
        "n_agents": None,
        "seed": 0,
        "run_dir": None,
        "name": "run-0",
        "log": {"csv": True, "board": False},
        "env": {"_target_": "cmdparts.world", "max_steps": 25, "density": "fixed"},
        "algo": {"_target_": "cmdparts.learner", "_partial_": True, "lr": 1e-3, "lr_of": None},
        "model": {
            "_target_": "cmdparts.body",
            "_partial_": True,
            "normalise": False,
            "encoder": {"_target_": "cmdparts.encoder", "_partial_": True, "dim": 16, "rounds": 1, "heads": 8},
        },
        "topology": {"_target_": "cmdparts.nearest", "k": 3},
    }
    assert job.choices == {
        "env": "toy/meadow",
        "algo": "ppo",
        "model": "small",
        "topology": "nearest",
        "experiment": None,
    }
    assert job.number is None and job.overrides == ()


def test_arguments_that_no_yaml_names_are_overridden(compose: Compose) -> None:
    cfg, job = compose("env=toy/lake", "env.max_steps=50", "model.encoder.heads=4", "topology.k=5", "n_agents=[2,4]")
    assert (cfg.env.density, cfg.env.max_steps, cfg.model.encoder.heads, cfg.topology.k) == ("arena", 50, 4, 5)
    assert cfg.n_agents == [2, 4]
    assert job.names("env.max_steps") and job.names("env") and not job.names("seed") and not job.names("env.max")
    assert job.choices["env"] == "toy/lake"


def test_values_of_the_command_line_win_over_the_experiment_and_it_over_the_groups(compose: Compose) -> None:
    cfg, job = compose("experiment=long", "algo.lr=0.25", "name=x")
    assert (cfg.seed, cfg.env.density, cfg.model.encoder.heads, cfg.algo.lr, cfg.name) == (5, "arena", 2, 0.25, "x")
    assert (job.choices["algo"], job.choices["env"]) == ("dqn", "toy/lake")
    cfg, job = compose("experiment=long", "algo=ppo", "env=toy/meadow")
    assert (cfg.algo.lr, cfg.env.max_steps, job.choices["algo"]) == (1e-3, 25, "ppo")


def test_a_part_from_outside_the_package_takes_the_place_of_ours(compose: Compose) -> None:
    target = "model.encoder._target_=cmdparts.mine"
    cfg, _ = compose("model.encoder.width=5", target, "model.encoder.must=1", "+model.encoder.needed=2")
    # What both take (dim) stays as the YAML has it, what only the old one takes (rounds) goes.
    assert OmegaConf.to_container(cfg.model.encoder) == {
        "_target_": "cmdparts.mine", "_partial_": True, "dim": 16, "width": 5, "needed": 2, "must": 1,
    }  # fmt: skip
    cfg, _ = compose("topology={_target_:cmdparts.encoder,dim:3}", "topology.heads=2")
    assert OmegaConf.to_container(cfg.topology) == {"_target_": "cmdparts.encoder", "dim": 3, "heads": 2, "rounds": 2}


def test_arguments_of_a_parent_are_set_like_those_of_the_part(compose: Compose, refused: Refused) -> None:
    cfg, _ = compose("topology={_target_:cmdparts.Child}", "topology.lr=0.5")
    assert OmegaConf.to_container(cfg.topology) == {"_target_": "cmdparts.Child", "clip": 0.2, "lr": 0.5}
    refusal = refused("topology={_target_:cmdparts.Child}", "topology.lrr=0.5")
    assert refusal == "expected an argument of cmdparts.Child: clip, lr (got 'topology.lrr'); did you mean 'lr'?"


def test_mappings_given_to_a_part_take_any_key(compose: Compose) -> None:
    assert compose("algo.lr_of={critic:0.1}")[0].algo.lr_of == {"critic": 0.1}
    assert compose("algo.lr_of.critic=0.1")[0].algo.lr_of == {"critic": 0.1}


def test_large_whole_numbers_may_be_written_short(compose: Compose) -> None:
    cfg, _ = compose("seed=1e6", "env.max_steps=2e3", "algo.lr=1", "run_dir=5.0")
    got = (cfg.seed, cfg.env.max_steps, cfg.algo.lr, cfg.run_dir)
    assert got == (1_000_000, 2_000, 1, 5.0) and [type(one) for one in got] == [int, int, int, float]


def test_added_and_deleted_keys(compose: Compose) -> None:
    assert compose("+note=hello")[0].note == "hello"
    assert compose("++seed=3")[0].seed == 3
    assert "board" not in compose("~log.board")[0].log
    assert "env" not in compose("~env")[0]


def test_the_task_gets_a_closed_and_resolved_configuration(compose: Compose) -> None:
    cfg, _ = compose("seed=3")
    assert OmegaConf.to_container(cfg, resolve=False)["name"] == "run-3"
    with pytest.raises(AttributeError):
        _ = cfg.sede


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sede=1", "expected a key of the configuration (got 'sede'); did you mean 'seed'?"),
        ("log.tensorbord=true", "expected a key of the configuration (got 'log.tensorbord')"),
        ("log={board:true,x:1}", "expected a key of the configuration (got 'log.x')"),
        ("heads=4", "expected a key of the configuration (got 'heads'); did you mean 'model.encoder.heads'?"),
        ("seed.x=4", "expected a key of the configuration (got 'seed.x')"),
        (
            "model.encoder.head=4",
            "expected an argument of cmdparts.encoder: dim, heads, rounds (got 'model.encoder.head'); did you",
        ),
        ("env.n_agents=4", "expected an argument of cmdparts.world: max_steps, density (got 'env.n_agents')"),
        ("+env.size=4", "expected an argument of cmdparts.world: max_steps, density (got 'env.size')"),
        ("seed=four", "expected seed to be a whole number (got 'four')"),
        ("seed=1.5", "expected seed to be a whole number (got 1.5)"),
        ("log={csv:3}", "expected log.csv to be true or false (got 3)"),
        ("env.max_steps=1.5", "expected env.max_steps to be a whole number (got 1.5)"),
        ("env.max_steps=four", "expected env.max_steps to be a whole number (got 'four')"),
        ("env.density=high", "expected env.density to be one of 'fixed', 'arena' (got 'high')"),
        ("algo.lr_of={critic:fast}", "expected algo.lr_of to be a mapping or null (got {'critic': 'fast'})"),
        (
            "env=toy/medow",
            "expected env to be one of toy/lake, toy/meadow (got 'toy/medow'); did you mean 'toy/meadow'?",
        ),
        ("env=meadow", "expected env to be one of toy/lake, toy/meadow (got 'meadow'); did you mean 'toy/meadow'?"),
        ("algo=ppo,dqn", "expected one value for algo (got 'ppo,dqn'); -m runs several, [ppo,dqn] is a list"),
        ("n_agents", "expected overrides such as n_agents=4 (got 'n_agents'): "),
        ("n_agents=[4", "expected overrides such as n_agents=4 (got 'n_agents=[4'): "),
        ("name=${nowhere}", "Interpolation key 'nowhere' not found"),
        (
            "model.encoder._target_=cmdparts.mein",
            "expected _target_ to name something in cmdparts (got 'cmdparts.mein')",
        ),
        ("seed._target_=cmdparts.mine", "expected seed to be a part with a _target_ (got 0)"),
        ("~nothing", "expected a key of the configuration (got 'nothing')"),
        ("hydra.nothing=1", "Could not override 'hydra.nothing'."),
        ("+env=toy/lake", "Multiple values for env."),
        ("-x", "unrecognized arguments: -x; see --help"),
    ],
)
def test_bad_input_gets_one_line_and_nothing_is_created(refused: Refused, override: str, message: str) -> None:
    assert refused(override).startswith(message)


def test_long_lists_of_options_are_not_recited(refused: Refused, conf: Path) -> None:
    for number in range(20):
        (conf / "env" / f"world{number}.yaml").write_text("_target_: cmdparts.world")
    refusal = refused("env=toy/medow")
    wanted = "expected env to be one of the 22 options that --help lists (got 'toy/medow'); did you mean 'toy/meadow'?"
    assert refusal == wanted


def test_a_value_that_must_be_given_is_named(refused: Refused, compose: Compose) -> None:
    assert refused(config="needs") == "expected a value for from_user (got none)"
    assert compose("from_user=1", config="needs")[0].from_user == 1


def test_an_unknown_command_is_one_line(refused: Refused) -> None:
    assert "nothere" in refused(config="nothere")


def test_what_validation_refuses_is_one_line(refused: Refused) -> None:
    for error in (
        ValueError("expected\nfewer"),
        ImportError("pip install gcoord[toy]"),
        FileNotFoundError("no such run"),
    ):

        def refuse(cfg: DictConfig, job: Job, error: Exception = error) -> None:
            raise error

        assert refused("seed=1", validate=refuse) == " ".join(str(error).split())


def test_faults_keep_their_traceback(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(cfg: DictConfig, job: Job) -> None:
        raise KeyError("a fault")

    def import_fault(cfg: DictConfig, job: Job) -> None:
        import nothing_of_this_name  # noqa: F401

    with pytest.raises(KeyError, match="a fault"):
        run_command("train", fault, [], conf=conf)
    with pytest.raises(KeyError, match="a fault"):
        run_command("train", Seen(), [], conf=conf, validate=fault)
    with pytest.raises(ModuleNotFoundError):
        run_command("train", Seen(), [], conf=conf, validate=import_fault)
    with pytest.raises(ValueError, match="not enough values"):
        run_command("train", lambda cfg, job: next(1 for a, b in [()]), [], conf=conf)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="expected a key of the configuration"):
        run_command("train", Seen(), ["sede=1"], conf=conf)


def test_what_the_parts_refuse_when_they_meet_is_one_line(conf: Path, capsys: pytest.CaptureFixture) -> None:
    def meet(cfg: DictConfig, job: Job) -> None:
        raise ValueError("expected fewer agents (got 99)")

    assert run_command("train", meet, [], conf=conf) == 2
    assert capsys.readouterr().err == "error: expected fewer agents (got 99)\n"


def test_exit_codes_of_the_task_are_passed_on_and_interruption_is_130(conf: Path) -> None:
    def interrupt(cfg: DictConfig, job: Job) -> None:
        raise KeyboardInterrupt

    assert run_command("train", lambda cfg, job: 3, [], conf=conf) == 3
    assert run_command("train", interrupt, [], conf=conf) == 130
    assert run_command("train", interrupt, ["-m", "seed=1,2"], conf=conf) == 130


# sweeps


def test_a_sweep_runs_every_combination_in_order(conf: Path) -> None:
    seen = Seen()
    assert run_command("train", seen, ["-m", "algo=ppo,dqn", "n_agents=[2,4],8", "seed=range(0,2)"], conf=conf) == 0
    got = [(job.number, job.choices["algo"], cfg.n_agents, cfg.seed) for cfg, job in seen]
    sizes = ([2, 4], 8)
    wanted = [(algo, n, seed) for algo in ("ppo", "dqn") for n in sizes for seed in (0, 1)]
    assert got == [(number, *one) for number, one in enumerate(wanted)]
    assert seen[0][1].overrides == ("algo=ppo", "n_agents=[2,4]", "seed=0")
    assert [cfg.algo.lr for cfg, _ in seen[::4]] == [1e-3, 0.5]


def test_hydras_other_sweeps_are_understood(conf: Path) -> None:
    seen = Seen()
    assert run_command("train", seen, ["--multirun", "algo=glob(*)", "env.max_steps=choice(1,2)"], conf=conf) == 0
    assert [(job.choices["algo"], cfg.env.max_steps) for cfg, job in seen] == [
        ("dqn", 1),
        ("dqn", 2),
        ("ppo", 1),
        ("ppo", 2),
    ]
    assert run_command("train", seen, ["-m", "seed=3"], conf=conf) == 0
    assert (seen[-1][0].seed, seen[-1][1].number) == (3, 0)


def test_all_jobs_are_checked_before_the_first_one_runs(refused: Refused) -> None:
    assert refused("-m", "env.max_steps=1,2,three").startswith("expected env.max_steps to be a whole number")
    assert refused("-m", "algo=ppo,dqn,sac").startswith("expected algo to be one of dqn, ppo (got 'sac')")
    assert refused("-m", "seed=interval(0,1)").startswith("expected values of seed that can be counted")

    def not_two(cfg: DictConfig, job: Job) -> None:
        if cfg.seed == 2:
            raise ValueError("expected no 2")

    assert refused("-m", "seed=1,2", validate=not_two) == "expected no 2"


def test_a_failing_job_is_told_and_the_others_run(conf: Path, capsys: pytest.CaptureFixture) -> None:
    done = []

    def task(cfg: DictConfig, job: Job) -> None:
        if cfg.seed == 1:
            raise ValueError("expected no 1")
        if cfg.seed == 2:
            raise KeyError("a fault")
        done.append(cfg.seed)

    assert run_command("train", task, ["-m", "seed=0,1,2,3"], conf=conf) == 1
    out, err = capsys.readouterr()
    assert done == [0, 3]
    assert (
        "error: expected no 1\n" in err and "Traceback" in err and "job 1 failed: seed=1\njob 2 failed: seed=2\n" in err
    )
    assert "job 3 (4 in all): seed=3" in out


# --help and --cfg


def test_help_lists_parts_and_values(conf: Path, capsys: pytest.CaptureFixture) -> None:
    seen = Seen()
    assert run_command("train", seen, ["--help"], conf=conf, description="Trains a team.") == 0
    out = capsys.readouterr().out
    assert not seen
    for text in (
        "Trains a team.",
        "env=toy/meadow  (toy/lake, toy/meadow)",
        "experiment=null  (long)",
        "seed=0",
        "n_agents=null",
    ):
        assert text in out


def test_cfg_prints_the_whole_configuration_and_runs_nothing(conf: Path, capsys: pytest.CaptureFixture) -> None:
    seen = Seen()
    assert run_command("train", seen, ["--cfg", "job", "seed=7"], conf=conf) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert not seen
    assert (printed.seed, printed.model.encoder.heads, "hydra" in printed) == (7, 8, False)


def test_a_command_creates_nothing_and_sets_up_no_logging(conf: Path, tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        "import logging, sys\nfrom pathlib import Path\nfrom gcoord.command import run_command\n"
        "before = list(logging.getLogger().handlers)\n"
        f"code = run_command('train', lambda cfg, job: print(cfg.seed), conf=Path({str(conf)!r}))\n"
        "assert logging.getLogger().handlers == before\nsys.exit(code)\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(tmp_path)]), "PYTHONDONTWRITEBYTECODE": "1"}
    for argv, code, out in ((["seed=4"], 0, "4\n"), (["-m", "seed=5,6"], 0, None), (["sede=4"], 2, "")):
        done = subprocess.run(
            [sys.executable, str(script), *argv], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        assert out is None or done.stdout == out
        assert not list(Path.cwd().iterdir())
