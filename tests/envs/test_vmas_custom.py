"""A user's own scenario works like a built-in one, and may say more of itself; complex_speaker_listener is one."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vmas")

import gcoord
from gcoord.envs import check_team_env
from gcoord.envs.vmas import VmasEnv

ROOT = Path(__file__).parents[2]
SPEAKERS = "experiments.complex_speaker_listener.scenario:Scenario"
OWN = '''
import torch
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.scenario import BaseScenario
import my_draws

class Gather(BaseScenario):
    """Carriers and watchers gather at a beacon."""
    gcoord_metrics = {"success": "last"}
    gcoord_reward = "team"

    def make_world(self, batch_dim, device, n_agents=3, spread=1.0):
        self.spread = spread
        world = World(batch_dim, device)
        for i in range(n_agents):
            name = "watcher" if i % 3 == 2 else "carrier"
            world.add_agent(Agent(f"{name}_{i}", shape=Sphere(0.05), collide=False))
        world.add_landmark(Landmark("beacon", collide=False))
        return world

    def reset_world_at(self, env_index=None):
        rows = self.world.batch_dim if env_index is None else 1
        for body in self.world.entities:
            drawn = torch.tensor(my_draws.draw((rows, 2)), dtype=torch.float32, device=self.world.device)
            body.set_pos(drawn * self.spread, batch_index=env_index)

    def far(self, agent):
        return (agent.state.pos - self.world.landmarks[0].state.pos).norm(dim=-1)

    def reward(self, agent):
        return -torch.stack([self.far(a) for a in self.world.agents]).mean(0)

    def observation(self, agent):
        return torch.cat([agent.state.vel, *(a.state.pos - agent.state.pos for a in self.world.agents)], dim=-1)

    def info(self, agent):
        return {} if agent.name.startswith("watcher") else {"success": (self.far(agent) < 0.3).unsqueeze(-1)}

    def gcoord_own(self, agent):
        return torch.cat([agent.state.vel, self.far(agent).unsqueeze(-1)], dim=-1)

    def gcoord_entities(self):
        place = self.world.landmarks[0].state.pos.unsqueeze(1)
        return torch.ones_like(place[..., :1]), place, torch.ones_like(place[..., 0], dtype=torch.bool)

    def gcoord_scripted(self, observation, continuous):
        assert continuous
        way = observation.entity_position - observation.position
        return (3 * way - observation.own[..., :2]).clamp(-1, 1)

class Few(Gather):
    def gcoord_own(self, agent):
        return torch.zeros(2, 3)

class Plain(Gather):
    gcoord_own = gcoord_entities = gcoord_scripted = None

class Silent(Gather):
    gcoord_metrics = {"goals": "last"}

class Flat(Gather):
    def gcoord_entities(self):
        features, place, present = super().gcoord_entities()
        return features, place[:, 0], present

class NoScenario:
    pass
'''
DRAWS = "import numpy as np\ndef draw(shape):\n    return np.random.uniform(-1, 1, shape)\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_world.py").write_text(OWN)
    (tmp_path / "my_draws.py").write_text(DRAWS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_world"
    for name in ("my_world", "my_draws"):
        sys.modules.pop(name, None)


def gather(name: str = "Gather", **arguments: Any) -> Any:
    return gcoord.make_env("vmas/custom", scenario=f"my_world:{name}", **{"num_envs": 4, "max_steps": 5, **arguments})


@pytest.mark.parametrize("continuous", [True, False])
def test_ones_own_scenario_keeps_the_promises_of_a_team_env_at_three_sizes(own: str, continuous: bool) -> None:
    check_team_env(lambda **given: gather(max_steps=4, continuous=continuous, **given), n_agents=(3, 4, 7))


def test_ones_own_scenario_says_what_is_sensed_heard_and_reported(own: str) -> None:
    env = gather(n_agents=4, spread=0.1)
    spec = env.spec
    assert spec.kinds == ("carrier", "watcher") and spec.reward == ("team", "team")
    assert spec.own == (3,) and (spec.n_entities, spec.entity_dim) == (1, 1)
    assert spec.metrics == {"success": "last"}
    seen = env.reset(0)
    assert seen.kind[0].tolist() == [0, 0, 1, 0]
    assert seen.position.abs().max() <= 0.1
    torch.testing.assert_close(seen.own[..., 2], (seen.position - seen.entity_position).norm(dim=-1))
    _, outcome = env.step(torch.zeros(4, 4, 2))
    # Watchers report nothing: the share is the carriers'.
    assert outcome.metrics["success"].tolist() == [1.0] * 4


def test_a_scenario_without_hooks_is_taken_as_it_is(own: str) -> None:
    spec = gather("Plain", n_agents=4).spec
    assert spec.own == (2 + 2 * 4,) and spec.n_entities == 0 and not hasattr(gather("Plain"), "scripted")


def test_a_script_of_ones_own_is_the_worlds(own: str) -> None:
    env = gather(n_agents=5, max_steps=60)
    seen = env.reset(0)
    for _ in range(60):
        seen, outcome = env.step(env.scripted(seen))
    assert outcome.metrics["success"].min() == 1.0
    assert not hasattr(VmasEnv("simple", num_envs=1), "scripted")


def test_ones_own_scenario_draws_from_its_own_streams_even_through_helpers(own: str) -> None:
    """The scenario's module does not import NumPy; a helper of it draws from NumPy's global stream."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, three = (gather(seed=seed) for seed in (1, 1, 2))
    seen, same, other = one.reset(), two.reset(), three.reset()
    assert torch.equal(seen.position, same.position) and not torch.equal(seen.position, other.position)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("my_world:Few", r"expected gcoord_own to give \[\d, O\] \(got \[2, 3\]\)"),
        (
            "my_world:Silent",
            r"expected info\(agent\) to hold a number for each team under 'goals' \(got \['success'\]\)",
        ),
        ("my_world:Flat", r"expected gcoord_entities to give \[\d, M, Oe\], \[\d, M, 2\] and \[\d, M\]"),
        ("my_world:NoScenario", "expected scenario to name a subclass of vmas's BaseScenario"),
        ("my_world:Nobody", "expected scenario to name a subclass of vmas's BaseScenario"),
        ("no_such_world:Gather", "package.module:Class of an importable module"),
        ("my_world", "or package.module:Class"),
    ],
)
def test_what_is_wrong_with_ones_own_scenario_is_said_in_one_line(own: str, scenario: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        env = VmasEnv(scenario, num_envs=4)
        env.reset(0)
        env.step(torch.zeros(4, 3, 2))
    assert "\n" not in str(caught.value)


# complex_speaker_listener --------------------------------------------------------------------------------------------


@pytest.fixture
def speakers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield lambda **arguments: gcoord.make_env("vmas/custom", scenario=SPEAKERS, **arguments)
    for name in [name for name in sys.modules if name.startswith("experiments.")]:
        del sys.modules[name]


def test_speakers_and_listeners_keep_the_promises_of_a_team_env(speakers: Any) -> None:
    check_team_env(lambda **given: speakers(max_steps=4, **given), n_agents=(4, 6, 9))
    check_team_env(lambda **given: speakers(max_steps=4, continuous=False, **given), n_agents=(4,))


def test_speakers_and_listeners_are_of_different_kinds_and_as_wide_at_any_size(speakers: Any) -> None:
    small, large = (speakers(n_agents=n, num_envs=2).spec for n in (4, 40))
    assert small.kinds == ("speaker", "scout", "hauler") and [action.n for action in small.actions] == [3, 2, 2]
    assert small.sizes_any() == large.sizes_any() and set(small.reward) == {"team"}
    with pytest.raises(ValueError, match="at least 2 speakers and 2 listeners"):
        speakers(n_agents=3, num_envs=2)


def test_a_listener_hears_the_mean_word_said_to_its_kind_and_no_goal(speakers: Any) -> None:
    env = speakers(n_agents=8, num_envs=5)
    seen = env.reset(0)
    listens = seen.kind[0] > 0
    assert (seen.own[:, listens][..., 5:] == 0).all()  # nothing was said yet, and a goal is not known
    goal = seen.own[:, :2, 5:]  # speakers 0 and 1 serve scouts and haulers
    assert (goal.sum(-1) == 1).all()
    action = torch.zeros(5, 8, 3)
    action[:, 0] = torch.tensor([1.0, 0.0, 0.0])  # to scouts
    action[:, 2] = torch.tensor([0.0, 1.0, 0.0])  # to scouts
    action[:, 3] = torch.tensor([0.0, 0.0, 1.0])  # to haulers
    seen, _ = env.step(action)
    heard = {kind: seen.own[:, seen.kind[0] == kind][..., 5:] for kind in (1, 2)}
    assert torch.equal(heard[1], torch.tensor([0.5, 0.5, 0.0]).expand_as(heard[1]))
    assert torch.equal(heard[2], torch.tensor([0.0, 0.0, 0.5]).expand_as(heard[2]))
    assert torch.equal(seen.own[:, :2, 5:], goal)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("n_agents", [4, 13])
def test_saying_the_colour_and_going_there_solves_it(speakers: Any, n_agents: int, continuous: bool) -> None:
    env = speakers(n_agents=n_agents, num_envs=16, continuous=continuous)
    seen = env.reset(0)
    understood = []
    for _ in range(100):
        seen, outcome = env.step(env.scripted(seen))
        understood.append(outcome.metrics["understood"].mean())
    assert outcome.metrics["success"].mean() > 0.9
    assert min(understood) == 1.0


def test_speakers_and_listeners_are_trained_and_the_policy_acts_in_a_larger_team(speakers: Any, tmp_path: Path) -> None:
    from gcoord.command import run_command
    from gcoord.train import train, validate

    options = [
        "env=vmas/custom", f"env.scenario={SPEAKERS}", "n_agents=4", "num_envs=4", "frames=160", "source.steps=20",
        "source.epochs=1", "source.minibatch=40", "model.encoder.dim=16", "evaluation.frames=0",
        "evaluation.episodes=4", "log.tensorboard=false", f"run_dir={tmp_path / 'run'}", "device=cpu",
    ]  # fmt: skip
    assert run_command("train", train, options, validate=validate) == 0
    policy = gcoord.load(tmp_path / "run")
    env = speakers(n_agents=10, num_envs=3)
    seen = env.reset(0)
    policy.reset(3, 10)
    for _ in range(3):
        seen, outcome = env.step(policy.act(seen))
    assert torch.isfinite(outcome.reward).all()


# Pictures ------------------------------------------------------------------------------------------------------------


def test_a_picture_shows_the_team_and_changes_nothing_or_is_not_there() -> None:
    env, twin = (VmasEnv("dropout", num_envs=2, seed=3) for _ in range(2))
    env.reset(), twin.reset()
    image, extent = env.picture()
    for _ in range(3):
        (seen, _), (same, _) = env.step(torch.ones(2, 4, 2)), twin.step(torch.ones(2, 4, 2))
        later, extent_later = env.picture()
    assert torch.equal(seen.position, same.position)
    if image is None:
        assert extent is None and later is None and extent_later is None
        pytest.skip("no OpenGL here")
    assert image.dtype == np.uint8 and image.shape[2] == 3 and len(np.unique(image)) > 3
    left, right, bottom, top = extent_later
    x, y = seen.position[0].unbind(-1)
    assert (left < x).all() and (x < right).all() and (bottom < y).all() and (y < top).all()
    assert image.shape == later.shape and (image != later).any()


def test_where_there_is_no_opengl_there_is_no_picture_and_no_noise(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyglet", None)
    env = VmasEnv("dropout", num_envs=1)
    env.reset(0)
    assert env.picture() == (None, None) and env.picture() == (None, None)
    assert capfd.readouterr().err == ""
