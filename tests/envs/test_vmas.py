"""The VMAS adapter: what the simulator computes reaches the learner unchanged, and restarts disturb nobody."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

vmas = pytest.importorskip("vmas")

from gcoord.envs import check_team_env  # noqa: E402
from gcoord.envs.vmas import VmasEnv  # noqa: E402
from gcoord.envs.vmas_loads import Balance, Transport  # noqa: E402
from gcoord.envs.vmas_state import Pool, Streams, restore, snapshot  # noqa: E402
from gcoord.envs.vmas_views import Discovery, Dispersion, Flocking, Navigation, SimpleSpread, View  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Force limits not specified")

SCENARIOS = sorted([*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios])
VIEWS: list[type[View]] = [Navigation, SimpleSpread, Discovery, Dispersion, Flocking, Transport, Balance]
CONF = Path(__file__).parents[2] / "conf/env/vmas"
B = 5
LIGHTER: dict[str, dict[str, Any]] = {"sampling": {"grid_spacing": 0.2}, "road_traffic": {"n_agents": 3}}


def random_action(env: VmasEnv, generator: torch.Generator) -> Tensor:
    spec = env.spec
    if spec.discrete:
        sizes = torch.tensor([spec.actions[k].n for k in env._kind[0].tolist()])
        return torch.randint(2**30, (spec.num_envs, spec.n_agents), generator=generator) % sizes
    u = torch.rand(spec.num_envs, spec.n_agents, spec.n_actions, generator=generator)
    return env._low + (env._high - env._low) * u


def same(x: Any, y: Any) -> bool:
    """Bit for bit, NaN being equal to NaN."""
    if not isinstance(x, Tensor):
        return same_seen(x, y)
    return torch.equal(x, y) if not x.is_floating_point() else torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))


def same_seen(x: Any, y: Any) -> bool:
    return all(same(value, y.get(name)) for name, value in x.items())


# Any scenario ------------------------------------------------------------------------------------------------------


def test_navigation_senses_far_goals_in_their_direction() -> None:
    near, far = (Navigation(n_agents=16, num_envs=4, goal_sight=sight).reset(0).own[..., 2:4] for sight in (0.5, None))
    length = far.norm(dim=-1, keepdim=True)
    assert (length > 0.5).any() and (length < 0.5).any()
    torch.testing.assert_close(near, torch.where(length > 0.5, far / length * 0.5, far))


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_step_is_the_simulators_own(name: str, continuous: bool) -> None:
    env = VmasEnv(name, num_envs=B, max_steps=None, continuous=continuous, **LIGHTER.get(name, {}))
    env.reset(3)
    peer = vmas.make_env(name, num_envs=B, continuous_actions=continuous, seed=0, **LIGHTER.get(name, {}))
    restore({"world": peer.world, "scenario": peer.scenario}, snapshot(env._roots))
    streams = Streams(torch.device("cpu"), others=True)
    streams.load_state_dict(Streams(torch.device("cpu"), others=True).state_dict() | env._streams.state_dict())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        action = random_action(env, generator)
        seen, outcome = env.step(action)
        theirs = [
            action[:, i, : peer.get_agent_action_size(agent)].clone() if continuous else action[:, i : i + 1].clone()
            for i, agent in enumerate(peer.agents)
        ]
        with streams:
            peer.vmas_random_state[:] = [torch.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002
            own, reward, done, _ = peer.step(theirs)
            torch.set_rng_state(peer.vmas_random_state[0])
            np.random.set_state(peer.vmas_random_state[1])  # noqa: NPY002
        for i in range(env.spec.n_agents):
            assert same(outcome.reward[:, i], reward[i].reshape(B))
            assert same(seen.own[:, i, : own[i].shape[-1]], own[i])
            assert (seen.own[:, i, own[i].shape[-1] :] == 0).all()
            assert torch.equal(seen.position[:, i], peer.agents[i].state.pos)
        assert torch.equal(outcome.terminated, done)
        env._pending = torch.zeros(B, dtype=torch.bool)  # the simulator goes on, too


def reset_some_with_twin(make: Any) -> None:
    """Restart two of five teams; all that belongs to the others is as in a twin that restarted nobody."""
    env, twin, whole = make(), make(), make()
    generator = torch.Generator().manual_seed(0)
    for world in (env, twin, whole):
        world.reset(3)
        world._lockstep = False
    for _ in range(3):
        action = random_action(env, generator)
        env.step(action)
        twin.step(action)
    for world in (env, twin):
        world._pending = torch.zeros(B, dtype=torch.bool)
    stream = env._streams.state_dict()
    whole._streams.load_state_dict(stream)
    fresh = whole.reset()
    with env._streams:
        env._pool = Pool.fill(env._roots, env._layout, B, env._restart)
    env._streams.load_state_dict(stream)

    restarted, others = [1, 3], [0, 2, 4]
    env._pending[restarted] = True
    action = random_action(env, generator)
    ignored = action.clone()
    ignored[restarted] = 0
    seen, outcome = env.step(action)
    beside, untouched = twin.step(ignored)

    mine, theirs = snapshot(env._roots), snapshot(twin._roots)
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        if isinstance(value, Tensor):
            dim, twins = env._layout.dim(path, value, B), theirs[path]
            if dim is not None:
                value, twins = (x.movedim(dim, 0)[others] for x in (value, twins))
            assert same(value, twins), path
        elif "timer" not in path:  # the wall clock's time
            assert value == theirs[path] or value != value, path
    assert same_seen(seen[others], beside[others])
    assert same(outcome.reward[others], untouched.reward[others])
    assert outcome.valid.tolist() == [True, False, True, False, True]
    assert (outcome.reward[restarted] == 0).all() and not (outcome.terminated | outcome.truncated)[restarted].any()
    # The first rows of what a full reset would have drawn, save where a goal is one for all teams (the old one stays)
    # or what is seen is noisy.
    assert same(seen.position[restarted], fresh.position[:2])
    if not env.name.startswith(("simple_", "asym_joint", "road_traffic")) or type(env) is not VmasEnv:
        assert same_seen(seen[restarted], fresh[:2])


@pytest.mark.parametrize("name", SCENARIOS)
def test_restarting_some_teams_leaves_the_others_bit_identical(name: str) -> None:
    reset_some_with_twin(partial(VmasEnv, name, num_envs=B, max_steps=None, **LIGHTER.get(name, {})))


@pytest.mark.parametrize("view", VIEWS)
def test_restarting_some_teams_of_a_view_leaves_the_others_bit_identical(view: type[View]) -> None:
    reset_some_with_twin(partial(view, n_agents=5, num_envs=B, max_steps=None))


def goes_on_from_a_saved_state(make: Any, steps: int = 4) -> None:
    env = make()
    generator = torch.Generator().manual_seed(0)
    seen = env.reset(3)
    for _ in range(3):
        env.step(random_action(env, generator))
    state = copy.deepcopy(env.state_dict())
    other = make(seed=99)
    other.load_state_dict(state)
    for _ in range(steps):
        action = random_action(env, generator)
        seen, outcome = env.step(action)
        again, result = other.step(action)
        assert same_seen(seen, again)
        assert same_seen(outcome, result)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_saved_world_goes_on_bit_for_bit(name: str) -> None:
    goes_on_from_a_saved_state(partial(VmasEnv, name, num_envs=B, max_steps=5, **LIGHTER.get(name, {})))


@pytest.mark.parametrize("view", VIEWS)
def test_a_saved_view_goes_on_bit_for_bit_through_partial_restarts(view: type[View]) -> None:
    def make(seed: int = 0) -> VmasEnv:
        env = view(num_envs=B, max_steps=6, seed=seed)
        judge = env._judge

        def ends_early() -> Any:
            reward, done, metrics = judge()
            return reward, done | (env._steps == torch.arange(B) + 1), metrics

        env._judge, env._lockstep = ends_early, False  # type: ignore[method-assign]
        return env

    goes_on_from_a_saved_state(make, steps=15)


def test_a_state_of_another_world_is_refused() -> None:
    env = Navigation(num_envs=B)
    for other, message in ((Navigation(num_envs=3), "5 teams"), (Navigation(n_agents=5, num_envs=B), "8 bodies")):
        other.reset(0)
        with pytest.raises(ValueError, match=message):
            env.load_state_dict(other.state_dict())


def test_the_state_holds_only_tensors_numbers_and_strings() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                assert isinstance(name, str)
                walk(value)
        else:
            assert isinstance(node, Tensor | int | float | str), type(node)

    env = VmasEnv("het_mass", num_envs=B)
    env.reset(0)
    walk(env.state_dict())


# Random streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["navigation", "het_mass", "discovery"])
def test_instances_are_independent_and_the_processs_own_streams_untouched(name: str) -> None:
    def rollout(disturbed: bool) -> list[Tensor]:
        env = VmasEnv(name, num_envs=B, max_steps=3, seed=4)
        other = VmasEnv(name, num_envs=B, max_steps=2, seed=8) if disturbed else None
        seen, generator = [env.reset().own], torch.Generator().manual_seed(1)
        for _ in range(8):
            if other is not None:
                other.reset()
                torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
            seen.append(env.step(random_action(env, generator))[0].own)
        return seen

    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    alone = rollout(False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]  # noqa: NPY002
    assert all(same(x, y) for x, y in zip(alone, rollout(True), strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_seed_gives_the_same_run_in_a_fresh_and_in_a_used_world(name: str) -> None:
    used, fresh = (VmasEnv(name, num_envs=3, max_steps=None, seed=s, **LIGHTER.get(name, {})) for s in (1, 2))
    generator = torch.Generator().manual_seed(0)
    used.reset()
    for _ in range(3):
        used.step(random_action(used, generator))
    x, y = used.reset(7), fresh.reset(7)
    for _ in range(3):
        assert same_seen(x, y)
        action = random_action(used, generator)
        (x, mine), (y, theirs) = used.step(action), fresh.step(action)
        assert same_seen(mine, theirs)


# Team sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "own"), [("wind_flocking", 2), ("give_way", 2), ("simple_push", 2), ("passage", 5)])
def test_a_fixed_team_size_is_refused_in_one_line_unless_it_is_the_one(name: str, own: int) -> None:
    assert VmasEnv(name, n_agents=own, num_envs=2).spec.n_agents == own
    with pytest.raises(ValueError, match=f"with its own team size {own} \\(got n_agents=7\\)") as caught:
        VmasEnv(name, n_agents=7, num_envs=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["wheel", "dropout", "sampling", "reverse_transport"])
def test_other_scenarios_take_the_team_size_asked_for(name: str) -> None:
    assert VmasEnv(name, n_agents=6, num_envs=2).spec.n_agents == 6


def test_navigation_that_cannot_hold_the_team_raises_before_it_searches() -> None:
    with pytest.raises(ValueError, match="expected an arena that holds 28 agents") as caught:
        Navigation(n_agents=28, density="arena")
    assert "\n" not in str(caught.value)
    assert Navigation(n_agents=28, num_envs=4).reset(0).position.abs().max() > 1.5


@pytest.mark.parametrize("n_agents", [1, 2, 3, 9, 40])
def test_navigation_works_at_any_size_and_its_arena_keeps_its_density(n_agents: int) -> None:
    env = Navigation(n_agents=n_agents, num_envs=8)
    seen = env.reset(0)
    side = (n_agents / 4) ** 0.5
    assert seen.own.shape == (8, n_agents, 16) and seen.position.abs().max() <= side
    assert env.spec.max_steps == int(np.ceil(100 * side - 1e-9))
    seen, outcome = env.step(torch.zeros(8, n_agents, 2))
    assert outcome.reward.shape == (8, n_agents) and torch.isfinite(seen.own).all()
    assert Navigation(n_agents=3, density="arena").spec.max_steps == 100


@pytest.mark.parametrize("view", VIEWS)
def test_what_an_agent_senses_does_not_depend_on_the_teams_size(view: type[View]) -> None:
    specs = [view(n_agents=n, num_envs=2).spec for n in (2, 5, 12)]
    assert specs[0].sizes_any() == specs[1].sizes_any() == specs[2].sizes_any()


@pytest.mark.parametrize("view", VIEWS)
def test_a_crowded_arena_raises_or_works_but_never_hangs(view: type[View]) -> None:
    try:
        view(n_agents=60, num_envs=2, density="arena").reset(0)
    except ValueError as error:
        assert "\n" not in str(error) and ("60 agents" in str(error) or "13 agents" in str(error))


def test_an_arena_found_full_only_while_searching_raises_one_line() -> None:
    with pytest.raises(ValueError, match="no free place in 50,000 tries") as caught:
        VmasEnv("navigation", num_envs=1, n_agents=60)
    assert "\n" not in str(caught.value)


# Views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_views_keep_the_promises_of_a_team_env(view: type[View]) -> None:
    check_team_env(partial(view, max_steps=4), n_agents=(2, 4, 6))


@pytest.mark.parametrize("continuous", [True, False])
def test_any_scenario_keeps_the_promises_of_a_team_env(continuous: bool) -> None:
    for name in ("simple_tag", "simple_speaker_listener", "wheel"):
        check_team_env(partial(VmasEnv, name, max_steps=4, continuous=continuous))


@pytest.mark.parametrize("n_agents", [2, 4, 7])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("variant", [0, 1])
def test_rewards_computed_at_once_are_the_scenarios_own(view: type[View], n_agents: int, variant: int) -> None:
    options: dict[type[View], dict[str, Any]] = {
        Navigation: {"shared_rew": True, "lidar": True},
        Discovery: {"shared_reward": True, "time_penalty": -0.1},
        Dispersion: {"share_reward": True, "penalise_by_time": True},
        Transport: {"n_packages": 2},
    }
    env, peer = (
        view(n_agents=n_agents, num_envs=16, max_steps=None, **(options.get(view, {}) if variant else {}))
        for _ in range(2)
    )

    def judged_by_the_scenario() -> Any:
        # The simulator judges a pair of agents only if it overlaps in some team of the batch.
        peer.world.collides = lambda a, b: True
        judged = VmasEnv._judge(peer)
        del peer.world.collides
        return judged

    peer._judge = judged_by_the_scenario  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    seen, _ = env.reset(1), peer.reset(1)
    paid = 0
    for step in range(90 if view is Transport else 15):
        # Towards the middle now and then, so that bodies meet.
        action = env.scripted(seen) if step % 3 == 0 or view is Transport else random_action(env, generator)
        action = env._steer(-2 * seen.position) if step % 3 == 1 and view is not Transport else action
        seen, mine = env.step(action)
        _, theirs = peer.step(action)
        torch.testing.assert_close(mine.reward, theirs.reward, rtol=1e-5, atol=3e-6)
        assert torch.equal(mine.terminated, theirs.terminated)
        paid += int((theirs.reward != 0).sum())
    assert paid > 0


@pytest.mark.parametrize("view", VIEWS)
def test_positions_are_the_simulators(view: type[View]) -> None:
    env = view(n_agents=4, num_envs=3)
    seen = env.reset(0)
    for _ in range(2):
        assert torch.equal(seen.position, torch.stack([agent.state.pos for agent in env.agents], dim=1))
        if env.spec.n_entities:
            landmarks = torch.stack([body.state.pos for body in env.world.landmarks], dim=1)
            near = (seen.entity_position.unsqueeze(2) == landmarks.unsqueeze(1)).all(-1).any(-1)
            assert near.all() or (view is Flocking and near[:, :-1].all())
        seen, _ = env.step(random_action(env, torch.Generator().manual_seed(0)))


def test_navigation_senses_its_velocity_and_its_way_to_the_goal() -> None:
    env = Navigation(num_envs=3, lidar=True, goal_sight=None)
    seen = env.reset(0)
    goal = torch.stack([agent.goal.state.pos for agent in env.agents], dim=1)
    assert torch.equal(seen.own[..., 2:4], goal - seen.position)
    for _ in range(40):
        for i, agent in enumerate(env.agents):
            rays = agent.sensors[0]._max_range - agent.sensors[0].measure()
            torch.testing.assert_close(seen.own[:, i, 4:], rays, rtol=0, atol=3e-6)
        seen, _ = env.step(env._steer(-2 * seen.position))
    assert (seen.own[..., 4:] > 0).any()
    assert seen.own.shape[-1] == 16 and Navigation(num_envs=3, lidar=False).spec.own == (4,)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("view", [Navigation, SimpleSpread, Discovery, Dispersion, Flocking, Balance])
def test_a_script_does_better_than_chance(view: type[View], continuous: bool) -> None:
    env = view(n_agents=4, num_envs=32, continuous=continuous)
    generator = torch.Generator().manual_seed(0)
    returns = []
    for policy in (lambda seen: random_action(env, generator), env.scripted):
        seen = env.reset(5)
        total, going = torch.zeros(32), torch.ones(32, dtype=torch.bool)
        success = torch.zeros(32)
        for _ in range(env.spec.max_steps or 0):
            seen, outcome = env.step(policy(seen))
            total += outcome.reward.mean(-1) * going
            if "success" in env.spec.metrics:
                success = torch.where(going, outcome.metrics["success"], success)
            going = going & ~(outcome.terminated | outcome.truncated)
        returns.append(total.mean().item())
    assert returns[1] > returns[0] + 0.3
    if view in (Navigation, SimpleSpread, Dispersion):
        assert success.mean() > 0.85


# Time --------------------------------------------------------------------------------------------------------------


def test_the_row_after_the_last_is_the_reset_and_counts_for_nothing() -> None:
    env = Navigation(num_envs=4, max_steps=3)
    env.reset(0)
    action = random_action(env, torch.Generator().manual_seed(0))
    for _ in range(2):
        for step in range(3):
            _, outcome = env.step(action)
            assert outcome.valid.all() and outcome.truncated.all() == (step == 2)
        before = torch.stack([agent.state.pos for agent in env.agents], dim=1)
        seen, outcome = env.step(action * float("nan"))
        assert not outcome.valid.any() and not (outcome.truncated | outcome.terminated).any()
        assert (outcome.reward == 0).all() and (outcome.metrics["success"] == 0).all()
        assert (seen.position != before).all() and (seen.own[..., :2] == 0).all()


def test_a_team_at_its_goals_terminates_also_at_the_time_limit() -> None:
    env = Navigation(n_agents=2, num_envs=3, max_steps=5, density="arena")
    env.reset(0)
    for agent in env.agents:
        agent.state.pos[:2] = agent.goal.state.pos[:2]
    env._steps += 4
    _, outcome = env.step(torch.zeros(3, 2, 2))
    assert outcome.terminated.tolist() == [True, True, False]
    assert outcome.truncated.tolist() == [False, False, True]
    assert outcome.metrics["success"][:2].tolist() == [1.0, 1.0]


def test_where_only_the_clock_ends_episodes_nothing_is_asked_of_the_device() -> None:
    env = SimpleSpread(num_envs=3, max_steps=2)
    assert env._lockstep and not Navigation(num_envs=3)._lockstep
    valid = []
    env.reset(0)
    for _ in range(6):
        valid.append(env.step(torch.zeros(3, 3, 2))[1].valid.all().item())
    assert valid == [True, True, False, True, True, False]


# Configuration and errors ------------------------------------------------------------------------------------------


def test_every_scenario_but_the_debugging_ones_has_a_name() -> None:
    names = {path.stem for path in CONF.glob("*.yaml")}
    assert names == {*vmas.scenarios, *vmas.mpe_scenarios, "scenario", "custom"}
    for path in CONF.glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        assert not {"n_agents", "num_envs", "device", "seed"} & node.keys()
        assert node.get("scenario", path.stem) in (path.stem, "???")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VmasEnv("navigatoin"), "expected a VMAS scenario among .*navigation.* \\(got 'navigatoin'\\)"),
        (
            lambda: Navigation(agent_radios=1),
            "expected arguments that vmas/navigation knows \\(got 'agent_radios': 1\\)",
        ),
        (lambda: Navigation(n_agents=0), "n_agents to be a positive whole number \\(got 0\\)"),
        (lambda: Navigation(n_agents=2.5), "n_agents to be a positive whole number \\(got 2.5\\)"),  # type: ignore[arg-type]
        (lambda: Navigation(num_envs=-1), "num_envs to be a positive whole number"),
        (lambda: Navigation(max_steps=0), "max_steps to be a positive whole number"),
        (lambda: Navigation(density="loose"), "density to be fixed or arena"),
        (lambda: Navigation(continuous="maybe"), "continuous to be auto, true or false"),
        (lambda: Navigation(lidar=True, collisions=False), "expected lidar=False with collisions=False"),
        (lambda: Balance(n_agents=1), "at least 2 agents"),
        (lambda: Navigation(device=f"cuda:{torch.cuda.device_count()}"), "expected a device that is there"),
    ],
)
def test_bad_arguments_are_named_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_scenario_of_ones_own_works_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scenario.py").write_text(
        "from vmas.scenarios.wheel import Scenario as Wheel\nclass Mine(Wheel):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = VmasEnv("my_scenario:Mine", n_agents=3, num_envs=2)
    env.reset(0)
    assert env.step(torch.zeros(2, 3, 2))[1].reward.shape == (2, 3)


def test_without_vmas_one_line_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['vmas'] = None\n"
        "from gcoord.envs.vmas_views import Navigation\n"
        "try: Navigation()\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "vmas/navigation needs the vmas extra: pip install 'gcoord[vmas]'"


def test_importing_the_adapter_loads_no_simulator() -> None:
    code = "import sys, gcoord.envs.vmas, gcoord.envs.vmas_loads; print('vmas' in sys.modules, 'gym' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
