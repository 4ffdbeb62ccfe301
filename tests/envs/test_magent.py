"""MAgent2's worlds: the engine's own rules read as arrays, sides and opponents, teams by map."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gcoord
from gcoord import policy as policies
from gcoord.command import run_command
from gcoord.conf import make_env, options_of
from gcoord.data.playing import play, random_actions
from gcoord.envs import TeamEnv, check_team_env, magent, magent_dgn
from gcoord.envs.copies import episode_seed
from gcoord.scaleup.playing import scripted
from gcoord.train import train, validate

pytest.importorskip("magent2")

from gcoord.envs.magent_worlds import FAMILIES, team_sizes

# Worlds whose episodes all start alike.
ALIKE = ("battle", "battlefield", "combined_arms", "gather")
SIZES: dict[str, list[int]] = {
    "battle": [6, 12, 81],
    "battlefield": [12],
    "adversarial_pursuit": [1, 5, 25],
    "combined_arms": [6, 12, 36],
    "tiger_deer": [1, 4, 20],
    "gather": [495],
}
TWO_SIDED = [name for name in FAMILIES if name != "gather"]


def world(name: str, **options: Any) -> Any:
    return getattr(magent, name)(workers=0, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_world_keeps_every_promise_at_three_sizes(name: str) -> None:
    factory = partial(world, name, max_cycles=8)
    check_team_env(factory, n_agents=SIZES[name], num_envs=2, steps=12, stochastic=name not in ALIKE)


@pytest.mark.parametrize("name", TWO_SIDED)
@pytest.mark.parametrize(
    "options", [{"side": "both", "foes_heard": False}, {"opponents": "script", "minimap": True}, {"side": "other"}]
)
def test_sides_and_opponents_keep_every_promise(name: str, options: dict[str, Any]) -> None:
    if options.get("side") == "other":
        options = {"side": list(FAMILIES[name].sides)[1]}
    size = {} if FAMILIES[name].fixed else {"map_size": 18}
    env = world(name, max_cycles=8, num_envs=2, **size, **options)
    check_team_env(env, steps=20, stochastic=name not in ALIKE)


def raw(name: str, **options: Any) -> Any:
    import importlib

    return importlib.import_module(f"magent2.environments.{FAMILIES[name].module}").parallel_env(**options)


@pytest.mark.parametrize("minimap", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_world_is_the_raw_one_bit_for_bit_with_the_engines_positions(name: str, minimap: bool) -> None:
    options = {} if FAMILIES[name].fixed else {"map_size": 18}
    steps = 12 if name == "gather" else 60
    side = {} if name == "gather" else {"side": "both"}
    env = world(name, max_cycles=steps, minimap=minimap, **options, **side)
    theirs = raw(name, max_cycles=steps, minimap_mode=minimap, **options)
    seen = env.reset(4)
    raw_seen, _ = theirs.reset(seed=episode_seed(env._seed, 0, 0))
    generator, engine = torch.Generator().manual_seed(0), theirs.env
    counts = torch.tensor([env.spec.actions[k].n for k in seen.kind[0]])
    # In the first step of an episode MAgent2's wrapper (0.3.4) hands every group the first group's actions, having
    # counted its teams before they were on the map: only where all do the same is it right.
    died, first = 0, True
    while True:
        alive = seen.alive[0]
        assert [a for a, lives in zip(theirs.possible_agents, alive, strict=True) if lives] == list(raw_seen)
        for i, agent in enumerate(theirs.possible_agents):
            if not alive[i]:
                continue
            picture = raw_seen[agent].transpose(2, 0, 1)
            margin = (seen.own.shape[-1] - picture.shape[-1]) // 2
            inner = slice(margin, margin + picture.shape[-1])
            np.testing.assert_array_equal(seen.own[0, i, :, inner, inner].numpy(), picture)
        places = {
            id_: place
            for h in theirs.handles
            for id_, place in zip(engine.get_agent_id(h).tolist(), engine.get_pos(h).tolist(), strict=True)
        }
        assert {i: seen.position[0, i].tolist() for i in alive.nonzero().flatten().tolist()} == places
        action = (torch.rand(1, len(counts), generator=generator) * (counts - 1) * (not first)).long()
        at_random = torch.rand(1, len(counts), generator=generator) < 0.3
        action, first = action if first else torch.where(at_random, action, env.scripted(seen)), False
        raw_seen, reward, ended, cut, _ = theirs.step(
            {a: int(action[0, i]) for i, a in enumerate(theirs.possible_agents) if alive[i]}
        )
        raw_seen = {a: o for a, o in raw_seen.items() if not ended[a]}
        seen, outcome = env.step(action)
        ours = dict(zip(theirs.possible_agents, outcome.reward[0].tolist(), strict=True))
        assert {a: ours[a] for a in reward} == pytest.approx(reward)
        died += sum(ended.values())
        if not theirs.agents:
            assert bool(outcome.truncated[0]) == any(cut.values()) and bool(
                outcome.truncated[0] | outcome.terminated[0]
            )
            break
    assert died > 0 or name in ("adversarial_pursuit", "battlefield")


@pytest.mark.parametrize("name", FAMILIES)
def test_bodies_are_the_engines(name: str) -> None:
    theirs = raw(name)
    engine, handles = theirs.env, theirs.env.get_handles()
    for kind, handle in zip(FAMILIES[name].kinds, handles, strict=True):
        if kind is None:
            continue
        base, cells = engine.get_view2attack(handle)
        assert (kind.side, kind.side) == cells.shape == engine.get_view_space(handle)[:2]
        assert kind.n_actions == engine.get_action_space(handle)[0] and base == len(kind.moves)
        order = cells[cells >= 0].argsort()
        np.testing.assert_array_equal(np.argwhere(cells >= 0)[order] - kind.corner, kind.attacks)
        # Alone on the map, so that every move succeeds; somebody else far off keeps the engine going.
        others = [h for h in handles if h is not handle]
        for action, (down, right) in enumerate(kind.moves):
            engine.reset()
            engine.add_agents(handle, "custom", pos=[(8, 9)])
            for other in others:
                engine.add_agents(other, "custom", pos=[(2 + other.value, 2)])
            engine.set_action(handle, np.array([action], np.int32))
            engine.step()
            assert engine.get_pos(handle)[0].tolist() == [8 + right, 9 + down]


@pytest.mark.parametrize("name", FAMILIES)
def test_team_sizes_are_what_the_engine_puts_on_its_map(name: str) -> None:
    sizes = team_sizes(name)
    smallest = min(sizes)
    assert all(min(n for n, kind in zip(sizes[m], FAMILIES[name].kinds, strict=True) if kind) > 0 for m in sizes)
    for size in {smallest, 21, 47, FAMILIES[name].default} & set(sizes):
        theirs = raw(name, **({} if FAMILIES[name].fixed else {"map_size": size}))
        counts = tuple(
            theirs.env.get_num(h) if kind else 0
            for h, kind in zip(theirs.env.get_handles(), FAMILIES[name].kinds, strict=True)
        )
        assert counts == tuple(n if kind else 0 for n, kind in zip(sizes[size], FAMILIES[name].kinds, strict=True))


def test_the_nearest_map_is_taken_and_said() -> None:
    with pytest.warns(
        UserWarning, match=r"magent/battle has teams by its map: 12 agents on 20 x 20 squares .* n_agents=10"
    ):
        env = world("battle", n_agents=10)
    assert env.spec.n_agents == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert world("battle", n_agents=81).spec.n_agents == world("battle").spec.n_agents == 81
        assert world("battle", map_size=16).spec.n_agents == 6
        assert world("adversarial_pursuit", n_agents=6, side="prey").spec.kinds == ("prey",)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("battle", {"n_agents": 0}, r"expected n_agents from 1 to 3600 in magent/battle \(got 0\)"),
        ("battle", {"n_agents": 5000}, r"expected n_agents from 1 to 3600"),
        ("battle", {"map_size": 11}, r"expected map_size from 12 to 300 in magent/battle \(got 11\)"),
        ("adversarial_pursuit", {"map_size": 8}, r"expected map_size from 9 to 300"),
        ("battle", {"map_size": 16, "n_agents": 7}, r"expected n_agents=6, the team of magent/battle on its map of 16"),
        ("battlefield", {"n_agents": 13}, r"expected n_agents=12, the team of magent/battlefield"),
        ("gather", {"n_agents": 4}, r"expected n_agents=495"),
        ("battle", {"density": "arena"}, r"expected density=fixed in magent/battle, where the map's size"),
        ("battle", {"continuous": True}, r"expected continuous=false or auto"),
        ("battle", {"side": "green"}, r"expected side to be red, blue or both in magent/battle \(got 'green'\)"),
        ("battle", {"side": "both", "opponents": "script"}, r"expected opponents only where a side"),
        ("battle", {"foes_heard": False}, r"expected foes_heard=false only where both sides"),
        (
            "battle",
            {"opponents": "nowhere"},
            r"expected opponents to be random, script, self or a run folder .*'nowhere'",
        ),
    ],
)
def test_what_a_world_cannot_be_is_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        world(name, **options)
    assert "\n" not in str(caught.value)


def test_self_play_is_both_sides_in_one_team_where_foes_need_not_be_heard() -> None:
    env = world("battle", map_size=16, opponents="self")
    assert env.spec.n_agents == 12 and not env.spec.hears and list(env.spec.metrics) == ["deaths"]
    seen = world("combined_arms", map_size=16, side="both", foes_heard=False).reset(0)
    sides = torch.arange(12) // 6
    assert torch.equal(seen.hears[0], sides[:, None] == sides)
    assert seen.kind[0].tolist() == [0, 0, 0, 1, 1, 1] * 2
    # A melee body has 9 of the 25 actions.
    assert seen.available[0].sum(-1).tolist() == [9, 9, 9, 25, 25, 25] * 2


MODEL = {
    "_target_": "gcoord.models.agent.Body",
    "_partial_": True,
    "encoder": {
        "_target_": "gcoord.models.encoder.GraphEncoder",
        "_partial_": True,
        "dim": 16,
        "heads": 2,
        "kernel": {"_target_": "gcoord.models.kernels.RelationKernel", "_partial_": True},
    },
    "memory": {"_target_": "gcoord.models.memory.GRU", "_partial_": True, "dim": 8},
}


def untrained(folder: Path, env: TeamEnv) -> Path:
    """The folder of an untrained policy with memory for a world."""
    torch.manual_seed(0)
    head = {"_target_": "gcoord.models.kinds.policy_head", "_partial_": True}
    parts = {"topology": {"_target_": "gcoord.graph.Nearest", "k": 3}, "model": MODEL, "head": head}
    agent = policies.make_agent(parts, env.spec)
    for parameter in agent.head.parameters():
        torch.nn.init.normal_(parameter)
    folder.mkdir()
    policies.save_policy(folder, agent, parts, env.spec, [env.spec.n_agents])
    return folder


@pytest.mark.parametrize("name", ["battle", "combined_arms"])
def test_a_checkpoint_moves_the_opponents_as_it_would_act_for_them(tmp_path: Path, name: str) -> None:
    size = {"map_size": 16, "max_cycles": 25}
    folder = untrained(tmp_path / "run", world(name, **size))
    against = world(name, opponents=str(folder), **size)
    both = world(name, side="both", **size)
    policy, n = gcoord.load(folder), against.spec.n_agents
    policy.reset(1, n)
    generator = torch.Generator().manual_seed(0)
    seen, all_seen = against.reset(5), both.reset(5)
    for _ in range(60):
        ours = torch.randint(9, (1, n), generator=generator)
        view = all_seen
        theirs = policy.act(
            type(view)(
                own=view.own[:, n:],
                alive=view.alive[:, n:],
                kind=view.kind[:, n:],
                position=view.position[:, n:],
                available=None if view.available is None else view.available[:, n:],
                batch_size=[1],
            )
        )
        seen, outcome = against.step(ours)
        all_seen, all_outcome = both.step(torch.cat([ours, theirs], 1))
        assert torch.equal(outcome.reward, all_outcome.reward[:, :n])
        assert torch.equal(seen.alive, all_seen.alive[:, :n]) and torch.equal(seen.position, all_seen.position[:, :n])
        if not outcome.valid:
            # The first observation of an episode: memory of the one before is gone.
            policy.reset(1, n)
    check_team_env(world(name, opponents=str(folder), num_envs=2, **size), steps=12, stochastic=False)


def test_a_checkpoint_of_other_bodies_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "run", world("battle", map_size=16))
    with pytest.raises(ValueError, match=r"expected opponents in magent/tiger_deer trained with kinds \('deer',\)"):
        world("tiger_deer", opponents=str(folder))


def figures(env: Any, by_script: bool) -> dict[str, float]:
    act = scripted(env) if by_script else random_actions(env.spec, 0)
    return {name: float(values.mean()) for name, values in play(env, act, None, env.spec.num_envs, 0).items()}


def test_the_script_wins_battles_that_random_armies_do_not() -> None:
    env = world("battle", map_size=16, num_envs=10, max_cycles=200)
    script, random = figures(env, True), figures(env, False)
    assert script["success"] == 1 and script["kills"] == 6 and script["length"] < 200
    assert random["success"] < 0.5 and script["return_per_agent"] > random["return_per_agent"] + 3


@pytest.mark.parametrize(
    ("name", "options", "metric", "times"),
    [
        ("battlefield", {"max_cycles": 400}, "kills", 5),
        ("combined_arms", {"map_size": 20, "max_cycles": 100}, "kills", 3),
        ("adversarial_pursuit", {"map_size": 20, "max_cycles": 60}, "tags", 3),
        ("tiger_deer", {"map_size": 20, "max_cycles": 60}, "kills", 3),
        ("gather", {"max_cycles": 20}, "eaten", 5),
    ],
)
def test_scripts_do_what_their_world_is_about(name: str, options: dict[str, Any], metric: str, times: float) -> None:
    env = world(name, num_envs=2 if name == "gather" else 6, **options)
    script, random = figures(env, True), figures(env, False)
    assert script[metric] > times * random[metric] and script["return_per_agent"] > random["return_per_agent"]


def test_prey_that_flees_is_tagged_less() -> None:
    env = world("adversarial_pursuit", map_size=20, max_cycles=60, side="prey", opponents="script", num_envs=6)
    assert figures(env, True)["tags"] < figures(env, False)["tags"] * 0.8


def test_metrics_count_the_dead_of_both_sides_to_the_end() -> None:
    env = world("battle", map_size=16, opponents="script", max_cycles=300)
    seen = env.reset(0)
    totals = {"kills": 0.0, "deaths": 0.0}
    while True:
        seen, outcome = env.step(torch.full((1, 6), 6))
        totals = {name: totals[name] + float(outcome.metrics[name]) for name in totals}
        assert totals["deaths"] == 6 - int(seen.alive.sum())
        if outcome.terminated | outcome.truncated:
            break
    # Six who only stand are killed to the last, which ends the episode and is no success.
    assert outcome.terminated and totals == {"kills": 0, "deaths": 6} and outcome.metrics["success"] == 0
    # Nobody is stepped after the end: the next step begins anew.
    seen, outcome = env.step(torch.zeros(1, 6, dtype=torch.long))
    assert not outcome.valid and seen.alive.all()


def test_workers_change_nothing() -> None:
    runs = []
    for workers in (0, 2):
        env = magent.battle(map_size=16, num_envs=2, workers=workers, opponents="script", max_cycles=30)
        seen, act = env.reset(0), random_actions(env.spec, 0)
        rows = []
        for t in range(40):
            seen, outcome = env.step(act(seen, None, torch.tensor([t]))[0])
            rows.append((seen.clone(), outcome.reward.clone()))
        env.close()
        runs.append(rows)
    for (seen, reward), (other, other_reward) in zip(*runs, strict=True):
        assert torch.equal(seen.own, other.own) and torch.equal(seen.alive, other.alive)
        assert torch.equal(reward, other_reward)


SMALL = {
    "battle": (6, 30, []),
    "battlefield": (12, 12, []),
    "adversarial_pursuit": (1, 9, []),
    "combined_arms": (6, 36, []),
    "tiger_deer": (1, 4, []),
    "gather": (495, 495, ["env.max_cycles=2"]),
    "dgn_battle": (5, 40, ["env.max_steps=20"]),
    "dgn_jungle": (5, 50, ["env.max_steps=20"]),
}
LEAN = [
    "num_envs=2",
    "env.workers=0",
    "model.encoder.dim=16",
    "model.encoder.heads=2",
    "evaluation.episodes=2",
    "evaluation.num_envs=2",
    "evaluation.frames=0",
    "log.tensorboard=false",
]
SOURCES = {
    "mappo": ["source.steps=6", "source.epochs=1", "source.minibatch=6"],
    "qmix": ["source.warmup=8", "source.bursts=1", "source.updates=2", "source.batch=2", "source.capacity=50"],
    "dgn": ["source.warmup=8", "source.bursts=1", "source.updates=2", "source.batch=2", "source.capacity=50"],
}


@pytest.mark.parametrize("algo", ["mappo", "dgn"])
@pytest.mark.parametrize("name", SMALL)
def test_two_updates_and_the_small_teams_policy_acts_in_a_large_one(tmp_path: Path, name: str, algo: str) -> None:
    small, large, options = SMALL[name]
    options = options or ["env.max_cycles=20"]
    value = "qmix" if name in ("battle", "dgn_jungle") and algo == "dgn" else algo
    code = run_command(
        "train",
        train,
        [
            *LEAN,
            *SOURCES[value],
            *options,
            f"env=magent/{name}",
            f"algo={value}",
            f"n_agents={small}",
            f"frames={4 if name == 'gather' else 24}",
        ]
        + [f"run_dir={tmp_path}/r"],
        validate=validate,
    )
    assert code == 0
    policy = gcoord.load(tmp_path / "r")
    assert policy.trained_on == [small]
    env = make_env(f"magent/{name}", n_agents=large, workers=0)
    seen = env.reset(0)
    policy.reset(1, large)
    env.step(policy.act(seen))


def test_every_world_of_conf_has_a_card_of_the_sizes_tried_here() -> None:
    cards = {**magent.CARDS, **magent_dgn.CARDS}
    assert set(cards) == {name for name in options_of("env") if name.startswith("magent/")}
    for name, sizes in SIZES.items():
        groups = FAMILIES[name].groups(next(iter(FAMILIES[name].sides)))
        card = cards[f"magent/{name}"]
        assert list(card.sizes) == sizes and card.extra == "magent"
        assert card.largest == max(sum(counts[g] for g in groups) for counts in team_sizes(name).values())
