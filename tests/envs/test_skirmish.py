"""native/skirmish: fair fights with known outcomes, and what every world promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gcoord.envs import check_team_env
from gcoord.envs.native.skirmish import CARDS, Skirmish
from gcoord.envs.native.units import QUIET, REGROWTH, SIGHT, STATS, Table, distances, enemy_orders, strike
from gcoord.trajectory import Observation

ALL = ("melee", "ranged", "healer")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kinds": {"kinds": ALL, "enemies": "focus"},
    "drawn": {"kinds": ALL, "drawn": True, "surround": 0.5, "slots": 3},
    "outnumbered": {"n_enemies": 7, "density": "arena"},
}


def play(env: Skirmish, policy: Callable[[Observation], Tensor], seed: int = 0) -> dict[str, float]:
    """Means over one episode of each team."""
    seen = env.reset(seed)
    going = torch.ones(env.spec.num_envs, dtype=torch.bool)
    found = {name: torch.zeros(env.spec.num_envs) for name in ("return", *env.spec.metrics)}
    while going.any():
        seen, outcome = env.step(policy(seen))
        found["return"] += outcome.reward[:, 0] * going
        for name in env.spec.metrics:
            found[name] = torch.where(going, outcome.metrics[name], found[name])
        going = going & ~(outcome.terminated | outcome.truncated)
    return {name: value.mean().item() for name, value in found.items()}


def at_random(seed: int = 0) -> Callable[[Observation], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def act(seen: Observation) -> Tensor:
        legal = seen.available.float()
        legal[..., 0] += (~seen.alive).float()
        return torch.multinomial(legal.flatten(0, 1), 1, generator=generator).view(seen.alive.shape)

    return act


def set_up(agents: list[list[float]], enemies: list[list[float]], **options: Any) -> Skirmish:
    """One fight from given places."""
    env = Skirmish(n_agents=len(agents), n_enemies=len(enemies), num_envs=1, density="arena", **options)
    env.reset(0)
    return change(env, position=torch.tensor([agents + enemies]))


def change(env: Skirmish, **values: Tensor) -> Skirmish:
    saved = env.state_dict()
    saved["state"] |= values
    env.load_state_dict(saved)
    # What is in the slots follows from where everybody stands.
    env._observe()
    return env


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_skirmish_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    sizes = (1, 3, 10)
    check_team_env(partial(Skirmish, max_steps=25, **options), n_agents=sizes)


def test_the_card_holds_sizes_that_work() -> None:
    check_team_env(partial(Skirmish, max_steps=4), n_agents=CARDS["native/skirmish"].sizes)


def test_a_blow_takes_the_shield_first_and_healing_comes_before_blows() -> None:
    table = Table.of(ALL, torch.device("cpu"))
    kind = torch.tensor([[0, 1, 2, 0, 1]])
    health = torch.tensor([[80.0, 3.0, 60.0, 80.0, 0.0]])
    shield = torch.tensor([[4.0, 0.0, 0.0, 0.0, 0.0]])
    cooldown = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]])
    # melee 0 strikes 1, ranged 1 strikes 0, the healer heals 1, melee 3 cools down, the last is dead
    target = torch.tensor([[1, 0, 1, 0, 0]])
    blows = strike(table, kind, health, shield, cooldown, target)
    assert blows.struck.tolist() == [[True, True, True, False, False]]
    assert blows.harm.tolist() == [[6.0, 10.0, 0.0, 0.0, 0.0]]
    assert blows.relief.tolist() == [[0.0, 5.0, 0.0, 0.0, 0.0]]
    assert blows.shield.tolist() == [[0.0] * 5]
    assert blows.health.tolist() == [[78.0, 0.0, 60.0, 80.0, 0.0]]


def test_no_life_is_lost_but_by_blows() -> None:
    generator = torch.Generator().manual_seed(0)
    table = Table.of(ALL, torch.device("cpu"))
    kind = torch.randint(3, (500, 8), generator=generator)
    alive = torch.rand(500, 8, generator=generator) < 0.8
    health = torch.where(alive, (table.health[kind] * torch.rand(500, 8, generator=generator)).ceil(), 0.0)
    shield = torch.where(alive, (table.shield[kind] * torch.rand(500, 8, generator=generator)).ceil(), 0.0)
    cooldown = torch.randint(2, (500, 8), generator=generator).float()
    # Of those who live, as orders are.
    target = torch.multinomial(alive.float() + 1e-9, 8, replacement=True, generator=generator)
    target = target.masked_fill(torch.rand(500, 8, generator=generator) < 0.2, -1)
    blows = strike(table, kind, health, shield, cooldown, target)
    may = alive & (cooldown == 0) & (target >= 0)
    assert torch.equal(blows.struck, may)
    for name, wanted in (("harm", ~table.heals[kind]), ("relief", table.heals[kind])):
        given = (table.blow[kind] * (may & wanted)).sum(1)
        torch.testing.assert_close(getattr(blows, name).sum(1), given)
    healed = torch.minimum(health + blows.relief, table.health[kind])
    lost = healed + shield - blows.health - blows.shield
    torch.testing.assert_close(lost[alive], torch.minimum(blows.harm, healed + shield)[alive])
    assert (blows.health[~alive] == 0).all() and (blows.health >= 0).all() and (blows.shield >= 0).all()


def test_nobody_strikes_out_of_range_or_the_dead_or_its_own() -> None:
    for options in VARIANTS.values():
        env = Skirmish(n_agents=5, num_envs=60, max_steps=40, **options)
        seen, act, table, blows = env.reset(0), at_random(), env._table, 0
        for t in range(60):
            before = env.state_dict()["state"]
            action = act(seen) if t % 2 else env.scripted(seen)
            kind, n = before["kind"], env.spec.n_agents
            apart, life = distances(before["position"]), env._life()
            orders, _ = env._agents_orders(action)
            theirs, _ = enemy_orders(env._enemies, table, kind, life, env._worn(), before["position"], apart, n)
            target = torch.cat([orders, theirs], dim=1)
            has = target >= 0
            far = apart.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            assert (far <= table.range[kind])[has].all()
            assert (life > 0)[has].all() and (life.gather(1, target.clamp(min=0)) > 0)[has].all()
            side = torch.arange(kind.shape[1]) >= n
            same = side.expand_as(kind) == side.expand_as(kind).gather(1, target.clamp(min=0))
            assert torch.equal(same[has], table.heals[kind][has])
            blows += int(has.sum())
            seen, _ = env.step(action)
        assert blows > 1000


def test_a_duel_goes_as_reckoned() -> None:
    # Both fire every second step and take 6 of 45: eight blows, the last in step 15; the second enemy only watches.
    env = set_up([[8.0, 8.0]], [[12.0, 8.0], [8.0, 14.0]])
    env._table = env._table._replace(speed=torch.zeros(1))
    seen = env._observe()
    assert seen.available[0, 0].tolist() == [True] * 5 + [True] + [False] * 4
    health = []
    for t in range(15):
        seen, outcome = env.step(torch.tensor([[5]]))
        state = env.state_dict()["state"]
        health.append(state["health"][0].tolist())
        assert outcome.reward[0, 0].item() == pytest.approx(
            (6 if t < 14 and t % 2 == 0 else 3 + 10 if t == 14 else 0) * 20 / (2 * 45 + 20 + 200), abs=1e-5
        )
    assert health[0] == [39, 39, 45] and health[1] == [39, 39, 45] and health[13] == [3, 3, 45]
    assert health[14] == [0, 0, 45]
    assert outcome.terminated.all() and outcome.metrics["success"] == 0
    assert outcome.metrics["kills"] == 0.5 and outcome.metrics["losses"] == 1
    assert not seen.available.any()


def test_a_victory_earns_twenty_in_all_and_nothing_is_earned_twice() -> None:
    env = Skirmish(n_agents=8, num_envs=30, kinds=("melee", "ranged"))
    seen = env.reset(0)
    total, going, won = torch.zeros(30), torch.ones(30, dtype=torch.bool), torch.zeros(30, dtype=torch.bool)
    while going.any():
        seen, outcome = env.step(env.scripted(seen))
        assert (outcome.reward == outcome.reward[:, :1]).all() and (outcome.reward >= 0).all()
        total += outcome.reward[:, 0] * going
        won |= (outcome.metrics["success"] > 0) & going
        going = going & ~(outcome.terminated | outcome.truncated)
    assert won.any() and not won.all()
    torch.testing.assert_close(total[won], torch.full_like(total[won], 20.0))
    assert (total[~won] < 20 - 200 * 20 / (200 + 80 + 8 * 100)).all()


def test_a_shield_grows_again_after_quiet_steps_and_earns_no_second_time() -> None:
    env = set_up([[1.0, 1.0]], [[15.0, 15.0]], kinds=("melee",), max_steps=50)
    env._table = env._table._replace(speed=torch.zeros(1))
    change(env, shield=torch.tensor([[20.0, 5.0]]), lowest=torch.tensor([[85.0]]))
    grown = []
    for _ in range(QUIET + 3):
        _, outcome = env.step(torch.tensor([[0]]))
        grown.append(env.state_dict()["state"]["shield"][0, 1].item())
        assert outcome.reward[0, 0] == 0
    assert grown[: QUIET - 1] == [5.0] * (QUIET - 1)
    assert grown[QUIET - 1 :] == [5.0 + REGROWTH * i for i in range(1, 5)]
    # Struck again from near: what had grown was paid for.
    change(env, position=torch.tensor([[[14.0, 15.0], [15.0, 15.0]]]))
    paid = [env.step(torch.tensor([[5]]))[1].reward[0, 0].item() for _ in range(3)]
    # From 93 to 83 of what was 85 already, and on to 73.
    assert paid == pytest.approx([2 * 20 / 310, 0.0, 10 * 20 / 310], abs=1e-5)


def test_slots_hold_the_nearest_in_sight_in_order() -> None:
    enemies = [[12.0, 8.0], [8.0, 10.0], [8.0, 4.0], [16.0, 8.0], [8.0, 14.0], [8.0, 9.0], [16.0, 16.0]]
    env = set_up([[8.0, 8.0]], enemies, slots=5)
    seen = env._observe()
    slots = seen.own[0, 0, 8:].view(5, 8)
    way = torch.tensor([[0, 1], [0, 2], [4, 0], [0, -4], [0, 6]]) / SIGHT
    torch.testing.assert_close(slots[:, 2:4], way)
    torch.testing.assert_close(slots[:, 4], way.norm(dim=-1))
    assert slots[:, 0].tolist() == [1] * 5 and slots[:, 1].tolist() == [1, 1, 1, 1, 0]
    assert seen.available[0, 0, 5:].tolist() == [True] * 4 + [False]
    # The one at a distance of 11.3 is in nobody's sight.
    assert seen.entity_present[0].tolist() == [True] * 6 + [False]
    assert (seen.entities[0, 6] == 0).all() and (seen.entity_position[0, 6] == 0).all()


def test_healers_heal_fellows_and_cannot_win_alone() -> None:
    # Slots 0 and 2 are melee, 1 is a healer; the enemies are a melee and a healer.
    env = set_up([[4.0, 4.0], [4.0, 5.0], [4.0, 7.0]], [[15.0, 15.0], [15.0, 14.0]], kinds=("melee", "healer"))
    seen = env._observe()
    assert not seen.available[0, 1, 5:].any()
    health = torch.tensor([[80.0, 60.0, 30.0, 80.0, 60.0]])
    seen = change(env, health=health)._observe()
    assert seen.available[0, 1, 5:].tolist() == [False, True, False, False, False]
    env.step(torch.tensor([[0, 6, 0]]))
    assert env.state_dict()["state"]["health"][0].tolist() == [80.0, 60.0, 35.0, 80.0, 60.0]
    health = torch.tensor([[80.0, 60.0, 35.0, 0.0, 60.0]])
    _, outcome = change(env, health=health).step(torch.tensor([[0, 0, 0]]))
    assert outcome.terminated.all() and outcome.metrics["success"] == 1
    env = set_up([[4.0, 4.0], [4.0, 5.0]], [[15.0, 15.0]], kinds=("melee", "healer"))
    _, outcome = change(env, health=torch.tensor([[0.0, 60.0, 80.0]])).step(torch.tensor([[0, 0]]))
    assert outcome.terminated.all() and outcome.metrics["success"] == 0


def test_walks_go_where_they_say_and_not_through_walls() -> None:
    speed = STATS["ranged"].speed
    for action, way in ((0, (0, 0)), (1, (0, 1)), (2, (0, -1)), (3, (1, 0)), (4, (-1, 0)), (7, (0, 0))):
        env = set_up([[8.0, 8.0]], [[16.0, 16.0]])
        seen, _ = env.step(torch.tensor([[action]]))
        torch.testing.assert_close(seen.position[0, 0], 8 + speed * torch.tensor(way))
    env = set_up([[0.0, 0.5]], [[16.0, 16.0]])
    seen = env._observe()
    assert seen.available[0, 0, :5].tolist() == [True, True, True, True, False]
    seen, _ = env.step(torch.tensor([[2]]))
    assert seen.position[0, 0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(seen.own[0, 0, 3:7], torch.tensor([1.0, 0.0, 1.0, 0.0]))


def test_enemies_come_and_strike_the_nearest_or_the_weakest() -> None:
    places = torch.tensor([[[4.0, 0.0], [0.0, 3.0], [0.0, 0.0], [12.0, 0.0]]])
    life = torch.tensor([[20.0, 45.0, 45.0, 45.0]])
    table, kind = Table.of(("ranged",), torch.device("cpu")), torch.zeros(1, 4, dtype=torch.long)
    for rule, whom in (("nearest", 1), ("focus", 0)):
        target, walk = enemy_orders(rule, table, kind, life, 45 - life, places, distances(places), 2)
        assert target.tolist() == [[whom, -1]]
        torch.testing.assert_close(walk, torch.tensor([[[0.0, 0.0], [-STATS["ranged"].speed, 0.0]]]))


def test_sides_are_alike_and_kinds_are_as_told() -> None:
    env = Skirmish(n_agents=7, num_envs=200, kinds=ALL, drawn=True)
    env.reset(0)
    kind = env.state_dict()["state"]["kind"]
    assert torch.equal(kind[:, :7], kind[:, 7:])
    assert (kind[:, 0] != 2).all() and (kind[:, 0] == 0).float().mean() == pytest.approx(0.5, abs=0.12)
    assert [(kind[:, 1:7] == k).float().mean().item() for k in range(3)] == pytest.approx([1 / 3] * 3, abs=0.05)
    env = Skirmish(n_agents=4, n_enemies=2, kinds=ALL)
    assert env.reset(0).kind[0].tolist() == [0, 1, 2, 0]
    assert env.state_dict()["state"]["kind"][0].tolist() == [0, 1, 2, 0, 0, 1]


def test_teams_face_each_other_or_are_surrounded() -> None:
    env = Skirmish(n_agents=6, num_envs=50)
    env.reset(0)
    place = env.state_dict()["state"]["position"] - env._side / 2
    torch.testing.assert_close(place[:, :6], -place[:, 6:], atol=1e-4, rtol=0)
    env = Skirmish(n_agents=6, num_envs=50, surround=1.0)
    env.reset(0)
    place = (env.state_dict()["state"]["position"] - env._side / 2).norm(dim=-1)
    assert (place[:, :6].amax(1) < place[:, 6:].amin(1) - 3).all()
    assert Skirmish(n_agents=12)._side == 32.0 and Skirmish(n_agents=12, density="arena")._side == 16.0


@pytest.mark.parametrize(
    ("n_agents", "options"), [(3, {}), (8, {}), (25, {}), (3, {"enemies": "focus"}), (8, {"kinds": ALL})]
)
def test_the_script_wins_where_chance_does_not(n_agents: int, options: dict[str, Any]) -> None:
    env = Skirmish(n_agents=n_agents, num_envs=40 if n_agents > 8 else 100, **options)
    script, luck = play(env, env.scripted), play(env, at_random())
    assert script["success"] > 0.4 and luck["success"] < 0.03
    assert script["return"] > 3 * luck["return"]
    assert script["kills"] > 0.5 > luck["kills"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("tank",)}, "kinds to be different ones of melee, ranged, healer"),
        ({"kinds": ("melee", "melee")}, "kinds to be different ones"),
        ({"kinds": ("healer", "melee")}, "first kind to be one that fights"),
        ({"enemies": "random"}, "enemies to be nearest or focus"),
        ({"surround": 2.0}, "surround to be a probability"),
        ({"density": "dense"}, "density to be fixed or arena"),
        ({"n_enemies": 0}, "at least one enemy, slot and step"),
        ({"slots": 0}, "at least one enemy, slot and step"),
        ({"continuous": True}, "continuous=false or auto"),
        ({"n_agents": 0}, "at least one team and one agent|at least one enemy"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Skirmish(**options)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_world_is_refused() -> None:
    saved = Skirmish(n_agents=4, num_envs=2)
    saved.reset(0)
    with pytest.raises(ValueError, match="expected the state of"):
        Skirmish(n_agents=5, num_envs=2).load_state_dict(saved.state_dict())
