"""native/waterworld is the original: its physics, senses and rewards step by step, its returns in distribution."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beside_originals import assert_same_distribution, play_ours, reference

from gcoord import make_env
from gcoord.envs import check_team_env
from gcoord.envs.native.pairs import pairs_within
from gcoord.envs.native.waterworld import CARDS, Waterworld

TRACE = np.load(Path(__file__).parent / "original_figures" / "waterworld_trace.npz")
TRACES: dict[str, dict[str, Any]] = {
    "plain": {"n_agents": 4, "n_sensors": 8, "radius": 0.03},
    "together": {"n_agents": 8, "n_sensors": 8, "radius": 0.03, "n_coop": 2, "local_ratio": 0.25, "n_poisons": 4},
    "slow": {"n_agents": 3, "n_sensors": 5, "speed_features": False, "pursuer_speed": 0.1},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "crowded": {"density": "arena", "radius": 0.04},
    "together": {"n_coop": 2, "radius": 0.04, "as_reference": False, "local_ratio": 0.5},
    "discrete": {"continuous": False, "local_ratio": 0.0},
    "drawn obstacles": {"obstacle_coord": None, "n_obstacles": 2, "speed_features": False, "n_poisons": 0},
}


def random_policy(env: Waterworld, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def act(seen: Any) -> torch.Tensor:
        if env.spec.discrete:
            return torch.randint(env.spec.n_actions, seen.alive.shape, generator=generator)
        return torch.rand(*seen.alive.shape, 2, generator=generator) * 2 - 1

    return act


def play(env: Waterworld, policy: Any, steps: int = 500) -> tuple[float, dict[str, float]]:
    """Mean return per agent, and sums of the metrics per team."""
    seen, total, counts = env.reset(0), 0.0, dict.fromkeys(env.spec.metrics, 0.0)
    for _ in range(steps):
        seen, outcome = env.step(policy(seen))
        total += outcome.reward.mean().item()
        counts = {name: value + outcome.metrics[name].mean().item() for name, value in counts.items()}
    return total, counts


def placed(env: Waterworld, position: Any, velocity: Any = None) -> Waterworld:
    """The world with its moving things put where they are wanted: pursuers, evaders, poisons."""
    env.reset(0)
    state = env.state_dict()
    state["state"]["position"] = torch.as_tensor(position).reshape(1, -1, 2).expand(env.spec.num_envs, -1, -1).clone()
    moving = torch.zeros_like(state["state"]["position"])
    state["state"]["velocity"] = moving if velocity is None else moving + torch.as_tensor(velocity)
    env.load_state_dict(state)
    return env


def still(env: Waterworld) -> torch.Tensor:
    return torch.zeros(env.spec.num_envs, env.spec.n_agents, 2)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_waterworld_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    check_team_env(partial(Waterworld, max_cycles=8, **options), n_agents=(1, 2, 9))


@pytest.mark.parametrize("name", TRACES)
def test_it_is_the_original_step_by_step(name: str) -> None:
    """What starts anew is drawn from another stream, so it is put where the original put it; all else must agree."""
    env = Waterworld(num_envs=1, density="arena", **TRACES[name])
    keys = ("position", "velocity", "own", "action", "reward", "anew")
    position, velocity, own, action, reward, anew = (torch.from_numpy(TRACE[f"{name}.{key}"]) for key in keys)
    env = placed(env, position[0], velocity[0])
    n_rays, counted = env.n_sensors, 0.0
    for t in range(len(action)):
        _, outcome = env.step(action[t].unsqueeze(0))
        counted += outcome.metrics["catches"].item() + outcome.metrics["poisons"].item()
        state = env.state_dict()
        goes_on = anew[t + 1] == 0
        where, speed = state["state"]["position"][0], state["state"]["velocity"][0]
        torch.testing.assert_close(where[goes_on], position[t + 1][goes_on], atol=1e-5, rtol=0)
        torch.testing.assert_close(speed[goes_on], velocity[t + 1][goes_on], atol=1e-5, rtol=0)
        torch.testing.assert_close(outcome.reward[0], reward[t], atol=1e-4, rtol=0)
        assert goes_on.all() == torch.allclose(where, position[t + 1], atol=1e-5)
        where[:], speed[:] = position[t + 1], velocity[t + 1]
        env.load_state_dict(state)
        seen, expected = env._observe().own[0], own[t + 1].clone()
        if env._speed_features:
            # The original gives the speed of the first thing of a kind where none is on a ray.
            for row in (2, 4, 6):
                nobody = expected[:, row * n_rays : (row + 1) * n_rays] == 1
                expected[:, (row + 1) * n_rays : (row + 2) * n_rays][nobody] = 0
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)
    # One thing may be touched by two in one step.
    assert counted >= anew.sum() >= (0 if name == "slow" else 5)


@pytest.mark.parametrize("row", reference("waterworld"), ids=lambda row: f"{row['policy']}-{row['n_agents']}")
def test_returns_catches_and_poisons_are_distributed_as_the_originals(row: dict[str, Any]) -> None:
    n = row["n_agents"]
    env = Waterworld(n_agents=n, num_envs={2: 200, 5: 120, 16: 40}[n], density="arena")
    assert_same_distribution(row, play_ours(env, row["policy"]))


def test_rays_tell_how_far_and_how_fast() -> None:
    env = Waterworld(n_agents=2, num_envs=1, n_evaders=1, n_poisons=1)
    # A pursuer 0.1 left of an evader that comes at 0.05; poison above, fellow and obstacle out of reach, a wall to the
    # left and below.
    places = [[0.1, 0.1], [0.9, 0.9], [0.2, 0.1], [0.1, 0.25]]
    speeds = [[0.0, 0.0], [0.0, 0.0], [-0.05, 0.02], [0.0, 0.1]]
    own = placed(env, places, speeds)._observe().own[0, 0]
    obstacle, wall, evader, evader_speed, poison, poison_speed, fellow, fellow_speed = own[:240].view(8, 30)
    torch.testing.assert_close(evader[0], torch.tensor(0.5))
    torch.testing.assert_close(evader_speed[0], torch.tensor(-0.05 / 0.3))
    angle = 2 * math.pi / 30
    torch.testing.assert_close(evader[1], torch.tensor(0.5 * math.cos(angle)))
    assert (evader < 1).nonzero().flatten().tolist() == [0, 1, 29]
    # 90 degrees lie between rays 7 and 8, too far off both for a disc of 0.01125.
    assert (poison == 1).all() and (poison_speed == 0).all()
    assert (obstacle == 1).all() and (fellow == 1).all() and (fellow_speed == 0).all()
    torch.testing.assert_close(wall[15], torch.tensor(0.5))
    assert (wall < 1).nonzero().flatten().tolist() == list(range(11, 28))
    assert own[240:].tolist() == [0.0, 0.0]


def test_a_wall_gives_back_nearly_all_speed_and_an_obstacle_all() -> None:
    env = Waterworld(n_agents=1, num_envs=1, n_evaders=2, n_poisons=0, density="arena", n_obstacles=1)
    env = placed(env, [[0.9, 0.9], [0.029, 0.5], [0.5, 0.371]], [[0.0, 0.0], [-0.1, 0.05], [0.03, 0.1]])
    env.step(still(env))
    speed = env.state_dict()["state"]["velocity"][0]
    torch.testing.assert_close(speed[1], torch.tensor([0.0999, 0.05]))
    assert speed[2, 1] < -0.09
    torch.testing.assert_close(speed[2].norm(), torch.tensor([0.03, 0.1]).norm())


def test_an_evader_pays_when_touched_and_when_let_go_and_then_starts_anew() -> None:
    env = Waterworld(n_agents=1, num_envs=64, n_evaders=1, n_poisons=0, density="arena")
    env = placed(env, [[0.2, 0.2], [0.24, 0.2]])
    push = torch.tensor([-0.4, 0.0]).expand(64, 1, 2)
    _, first = env.step(still(env))
    assert torch.allclose(first.reward, torch.tensor(10.01)) and (first.metrics["catches"] == 0).all()
    assert (env.state_dict()["state"]["position"][:, 1] - torch.tensor([0.24, 0.2])).abs().max() == 0
    # Letting go takes a push of 0.2, for which the last pursuer, here the only one, pays twice 0.1.
    _, then = env.step(push)
    assert torch.allclose(then.reward, torch.tensor(10 - 0.2)) and (then.metrics["catches"] == 1).all()
    where = env.state_dict()["state"]["position"][:, 1]
    assert where.std(0).min() > 0.2
    _, after = env.step(still(env))
    assert (after.reward[(where - 0.2).norm(dim=-1) > 0.1] == 0).all()


def test_what_starts_anew_is_clear_of_obstacles_and_evenly_spread() -> None:
    env = Waterworld(n_agents=1, num_envs=4000, n_evaders=1, n_poisons=1, density="arena")
    env = placed(env, [[0.2, 0.2], [0.9, 0.9], [0.2, 0.2]])
    env.step(still(env))
    state = env.state_dict()["state"]
    poison, speed = state["position"][:, 2], state["velocity"][:, 2]
    assert torch.linalg.vector_norm(poison - 0.5, dim=-1).min() > 0.1 + 2 * 0.01125
    outer = (poison - 0.5).abs().amax(-1) > 0.25
    assert abs(outer.float().mean() - 0.75 / (1 - math.pi * 0.1225**2)) < 0.03
    assert speed.abs().max() <= 0.1 and abs(speed.square().mean() - 0.01 / 3) < 2e-4


def test_the_faults_of_the_reference_can_be_left_out() -> None:
    thrust = torch.tensor([[[0.2, 0.0]] * 3])
    with_them, without = (
        Waterworld(n_agents=3, num_envs=1, n_evaders=1, n_poisons=0, density="arena", as_reference=rule)
        for rule in (True, False)
    )
    places = [[0.1, 0.1], [0.2, 0.9], [0.9, 0.9], [0.9, 0.1]]
    for env, costs in ((with_them, [0.05, 0.05, 0.1]), (without, [0.05, 0.05, 0.05])):
        assert placed(env, places).step(thrust)[1].reward[0].tolist() == pytest.approx([-cost for cost in costs])
    # Three touch one evader, which is caught when they leave; two of them leave it with a debt, or do not.
    for env, counter in ((with_them, -2), (without, 0)):
        env = placed(env, [[0.2, 0.2], [0.2, 0.21], [0.2, 0.19], [0.24, 0.2]])
        env.step(still(env))
        assert env.state_dict()["state"]["counter"].item() == 3
        env.step(torch.tensor([[[-0.4, 0.0]] * 3]))
        env.step(still(env))
        assert env.state_dict()["state"]["counter"].item() == counter


def test_nothing_far_away_is_sensed_and_slots_do_not_matter() -> None:
    env = Waterworld(n_agents=6, num_envs=2, as_reference=False, n_evaders=7, n_poisons=5)
    env.reset(1)
    state = env.state_dict()
    before = env._observe()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    things = torch.cat([order, 6 + torch.randperm(7), 13 + torch.randperm(5)])
    other = copy.deepcopy(state)
    for key in ("position", "velocity", "push"):
        other["state"][key] = state["state"][key][:, things].clone()
    env.load_state_dict(other)
    torch.testing.assert_close(env._observe().own, before.own[:, order])
    action = random_policy(env)(before)
    moved, paid = env.step(action[:, order])
    env.load_state_dict(state)
    moved_before, paid_before = env.step(action)
    if not (paid.metrics["poisons"] + paid.metrics["catches"]).any():
        torch.testing.assert_close(moved.own, moved_before.own[:, order])
    torch.testing.assert_close(paid.reward, paid_before.reward[:, order])
    # Whatever is moved beyond everybody's rays, but the nearest few, changes nothing for one pursuer.
    far = copy.deepcopy(state)
    place = far["state"]["position"]
    away = torch.linalg.vector_norm(place - place[:, :1], dim=-1) > 0.5
    place[away] = (place[away] - place[:, :1].expand_as(place)[away]) * 1.02 + place[:, :1].expand_as(place)[away]
    env.load_state_dict(far)
    assert away.any() and torch.equal(env._observe().own[:, 0], before.own[:, 0])


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_saved_waterworld_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    env = Waterworld(n_agents=5, num_envs=8, max_cycles=30, **options)
    policy, seen = random_policy(env), env.reset(3)
    for _ in range(20):
        seen, _ = env.step(policy(seen))
    other = Waterworld(n_agents=5, num_envs=8, max_cycles=30, seed=9, **options)
    other.load_state_dict(copy.deepcopy(env.state_dict()))
    for _ in range(40):
        action = policy(seen)
        seen, mine = env.step(action)
        same, theirs = other.step(action)
        assert (seen == same).all() and (mine == theirs).all()


@pytest.mark.parametrize("side", [0.7, 2.0, 9.0])
def test_cells_find_the_pairs_that_all_against_all_finds(side: float) -> None:
    generator = torch.Generator().manual_seed(0)
    receivers, things = (torch.rand(3, n, 2, generator=generator) * side * 1.02 - 0.01 for n in (40, 300))
    reach = 0.1 + 0.15 * torch.rand(300, generator=generator)
    plain, celled = (pairs_within(receivers, things, reach, side, cells=cells) for cells in (False, True))
    numbers = [((part.team * 40 + part.receiver) * 300 + part.thing).tolist() for part in (plain, celled)]
    assert numbers[0] and numbers[0] == sorted(numbers[1])
    distance = (things[plain.team, plain.thing] - receivers[plain.team, plain.receiver]).norm(dim=-1)
    torch.testing.assert_close(plain.squared.sqrt(), distance)


def test_a_thousand_pursuers_in_one_world() -> None:
    env = Waterworld(n_agents=1000, num_envs=2)
    assert (env.n_evaders, env.n_poisons, round(env.side**2)) == (2500, 5000, 500)
    touched = torch.zeros(2)
    seen = env.reset(0)
    env.step(env.scripted(seen))
    for _ in range(5):
        seen, outcome = env.step(random_policy(env)(seen))
        touched += outcome.metrics["poisons"]
    assert seen.own.shape == (2, 1000, 242) and (touched > 0).all()
    near = Waterworld(n_agents=2, num_envs=500)
    # What is sensed does not thin out or thicken as the world grows.
    sensed = [(one.reset(0).own[..., 60:90] < 1).float().mean().item() for one in (env, near)]
    assert sensed[0] == pytest.approx(sensed[1], rel=0.15)


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"n_agents": 2}, 60),
        ({"n_agents": 8, "continuous": False}, 50),
        ({"n_agents": 4, "n_coop": 2, "as_reference": False}, 10),
    ],
    ids=str,
)
def test_the_script_catches_what_chance_does_not(options: dict[str, Any], least: float) -> None:
    env = Waterworld(num_envs=32, **options)
    scripted, counts = play(env, env.scripted, steps=200)
    by_chance, lucky = play(env, random_policy(env), steps=200)
    assert by_chance < 0 and scripted > least
    assert counts["catches"] > 3 * lucky["catches"]
    if not env.spec.discrete:
        assert counts["poisons"] < 0.6 * lucky["poisons"]


def test_numbered_actions_push_from_rest_to_full_speed() -> None:
    env = Waterworld(n_agents=1, num_envs=9, continuous=False, n_evaders=1, n_poisons=0)
    placed(env, [[0.2, 0.2], [0.6, 0.1]]).step(torch.arange(9).unsqueeze(-1))
    speed = env.state_dict()["state"]["velocity"][:, 0]
    assert speed[0].tolist() == [0.0, 0.0]
    assert len(set(map(tuple, speed.tolist()))) == 9
    torch.testing.assert_close(speed[1:5].abs().amax(-1), torch.full((4,), 0.2))


def test_both_names_make_it_and_both_have_a_card() -> None:
    for name in ("native/waterworld", "sisl/waterworld"):
        env = make_env(name, n_agents=8, num_envs=2)
        assert isinstance(env, Waterworld) and env.spec.own == (242,) and env.side == 2.0 and name in CARDS
    listed = make_env("native/waterworld", obstacle_coord=[[0.2, 0.2], [0.7, 0.7]])
    assert listed.reset(0).own.shape == (1, 2, 242) or listed.spec.n_agents == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"continuous": "maybe"}, "continuous to be auto"),
        ({"density": "thin"}, "density to be fixed or arena"),
        ({"n_agents": 0}, "n_agents to be a positive"),
        ({"n_coop": 1.5}, "n_coop to be a positive"),
        ({"n_evaders": 0}, "n_evaders"),
        ({"n_poisons": -1}, "n_poisons"),
        ({"sensor_range": 0.0}, "sensor_range above 0"),
        ({"local_ratio": 2.0}, "local_ratio from 0 to 1"),
        ({"evader_speed": -1.0}, "speeds of at least 0"),
        ({"obstacle_coord": "ring"}, "obstacle_coord to be a list"),
        ({"n_obstacles": 3}, "which has 1 obstacles"),
        ({"obstacle_coord": [[0.5, 0.5]], "n_obstacles": 2}, "as many obstacles as"),
        ({"obstacle_radius": 0.6}, "leave room"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Waterworld(**options)
    assert "\n" not in str(caught.value)
