"""The adapter of SMACv2, tried on a stand-in of the same interface; and what is said where the game is not there."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gcoord.conf import make_env
from gcoord.envs import check_team_env
from gcoord.envs.smac import Battle, make_battle, smacv2

GAME = Path(__file__).parent / "game"


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in can be imported, and there is a folder where the game should be."""
    monkeypatch.syspath_prepend(str(GAME))
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "smacv2"]:
        del sys.modules[name]


def battle(n: int = 3, **options: Any) -> Battle:
    """A stand-in's battle on its own."""
    team = {"n_units": n, "n_enemies": 4, "team_gen": {"unit_types": ["marine", "medivac"]}, **options}
    made = make_battle(slots=2, arguments={"capability_config": team, "continuing_episode": True, "obs_own_pos": True})
    made.reset()
    return made


def place(one: Battle, agents: list[tuple[float, float]], enemies: list[tuple[float, float]]) -> dict[str, Any]:
    for units, places in ((one.env.agents, agents), (one.env.enemies, enemies)):
        for unit, (x, y) in zip(units.values(), places, strict=True):
            unit.pos.x, unit.pos.y = x, y
            unit.unit_type = unit.kind = 0
    return {}


@pytest.mark.usefixtures("game")
def test_smacv2_keeps_the_promises_of_a_team_env() -> None:
    check_team_env(partial(smacv2, workers=0), n_agents=(1, 2, 4), steps=30)


@pytest.mark.usefixtures("game")
def test_it_is_made_by_name() -> None:
    env = make_env("smac/smacv2", n_agents=4, num_envs=2, workers=0, n_enemies=6)
    seen = env.reset(0)
    assert seen.own.shape == (2, 4, 6 + 4 + 5 * 8) and seen.available.shape == (2, 4, 10)
    assert seen.entities.shape == (2, 6, 4) and env.spec.shared_reward
    env.close()


@pytest.mark.usefixtures("game")
def test_a_slot_holds_the_nearest_and_a_strike_meets_it() -> None:
    one = battle()
    place(one, [(10, 10), (10, 12), (30, 30)], [(18, 10), (13, 10), (11, 10), (30, 10)])
    one.env.enemies[1].health = 10.0
    seen, infos = one._look()
    slots = seen["unit_0"][6 + 4 :].reshape(2, 8)
    assert one.who[0].tolist() == [2, 1]
    assert slots[:, :5].ravel().tolist() == pytest.approx([1, 1 / 9, 1 / 9, 0, 1, 1, 3 / 9, 3 / 9, 0, 0.5])
    assert infos["unit_0"]["action_mask"].tolist() == [1] * 7
    assert one.who[2].tolist() == [-1, -1] and infos["unit_2"]["action_mask"][5:].tolist() == [0, 0]
    before = [unit.health for unit in one.env.enemies.values()]
    one.step({"unit_0": 6, "unit_1": 5, "unit_2": 6})
    lost = [a - unit.health for a, unit in zip(before, one.env.enemies.values(), strict=True)]
    assert lost == [0, 4, 4, 0]


@pytest.mark.usefixtures("game")
def test_medivacs_heal_fellows_by_their_own_numbers() -> None:
    one = battle()
    place(one, [(10, 10), (10, 12), (10, 13)], [(30, 30)] * 4)
    one.env.agents[1].unit_type, one.env.agents[0].health, one.env.agents[2].health = one.env.medivac_id, 5.0, 7.0
    one._look()
    assert one.who[1].tolist() == [2, 0]
    one.step({"unit_0": 0, "unit_1": 6, "unit_2": 0})
    assert [unit.health for unit in one.env.agents.values()] == [8.0, 20.0, 7.0]


@pytest.mark.usefixtures("game")
def test_walks_are_told_in_the_games_numbers_and_illegal_ones_are_stops() -> None:
    one = battle()
    place(one, [(10, 10), (10, 31), (20, 20)], [(2, 2)] * 4)
    one._look()
    one.step({"unit_0": 1, "unit_1": 1, "unit_2": 4})
    assert [(unit.pos.x, unit.pos.y) for unit in one.env.agents.values()] == [(10, 12), (10, 31), (18, 20)]


@pytest.mark.usefixtures("game")
def test_who_dies_leaves_and_the_battle_ends_as_it_went() -> None:
    one = battle()
    place(one, [(10, 10), (20, 20), (20, 22)], [(11, 10), (2, 2), (2, 2), (2, 2)])
    one.env.agents[1].health = 0.0
    _, reward, ends, cut, _ = one.step(dict.fromkeys(one.agents, 0))
    assert one.agents == ["unit_0", "unit_2"] and ends["unit_1"] and not any(cut.values()) and len(reward) == 3
    for enemy in list(one.env.enemies.values())[1:]:
        enemy.health = 0.0
    one.env.enemies[0].health = 4.0
    one.env.agents[0].health = 20.0
    one._look()
    _, reward, ends, cut, _ = one.step({"unit_0": 5, "unit_2": 0})
    assert one.agents == [] and ends == {"unit_0": True, "unit_2": True} and not any(cut.values())
    assert reward == {"unit_0": 0.4, "unit_2": 0.4}
    assert one.result == {"success": 1.0, "kills": 1.0, "losses": pytest.approx(1 / 3)}


@pytest.mark.usefixtures("game")
def test_a_battle_out_of_time_is_truncated() -> None:
    env = smacv2(n_agents=2, num_envs=1, workers=0)
    env.reset(0)
    world = env._backend.copies[0].env.env
    place(env._backend.copies[0].env, [(2, 2), (2, 4)], [(30, 30), (30, 28)])
    world.steps = 23
    stop = torch.zeros(1, 2, dtype=torch.long)
    _, outcome = env.step(stop)
    assert not (outcome.terminated | outcome.truncated).any()
    seen, outcome = env.step(stop)
    assert outcome.truncated.all() and not outcome.terminated.any() and seen.alive.all()
    assert outcome.metrics["success"] == 0


@pytest.mark.usefixtures("game")
def test_what_nobody_sees_is_not_shown() -> None:
    env = smacv2(n_agents=2, num_envs=1, workers=0)
    env.reset(0)
    one = env._backend.copies[0].env
    place(one, [(2, 2), (2, 6)], [(4, 2), (30, 28)])
    seen, _ = env.step(torch.zeros(1, 2, dtype=torch.long))
    assert seen.entity_present.tolist() == [[True, False]]
    assert seen.entity_position.tolist() == [[[4, 2], [0, 0]]] and (seen.entities[0, 1] == 0).all()
    assert seen.position.tolist() == [[[2, 2], [2, 6]]]


def test_a_missing_package_is_named_in_one_line() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install git\+https://github.com/oxwhirl/smacv2") as caught:
        make_env("smac/smacv2", n_agents=5)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the game's installer says where it is")
@pytest.mark.usefixtures("game")
def test_a_missing_game_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"StarCraft II in .*nowhere .* set SC2PATH") as caught:
        smacv2(n_agents=5)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("game")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"race": "human"}, "race to be terran, protoss, zerg"),
        ({"unit_types": ["zealot"]}, "unit_types of marine, marauder, medivac"),
        ({"weights": [1.0]}, "as many weights"),
        ({"slots": 0}, "at least one agent, enemy and slot"),
        ({"n_agents": 0}, "at least one agent, enemy and slot"),
        ({"continuous": True}, "continuous=false or auto"),
        ({"options": {"conic_fov": True}}, "conic_fov=false"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        smacv2(**options)
    assert "\n" not in str(caught.value)
