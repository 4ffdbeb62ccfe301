"""native/mapf: POGEMA's rules to the letter, and what every world promises."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gcoord.envs import check_team_env
from gcoord.envs.native.grid import BOARD, FREE, WALL, components, draw_maps, resolve
from gcoord.envs.native.mapf import CARDS, Mapf
from gcoord.envs.native.paths import Fields
from gcoord.trajectory import Observation

GAMES = json.loads((Path(__file__).parent / "pogema_games.json").read_text())
RULES = ("priority", "block_both", "soft")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gone": {"on_target": "finish", "collisions": "soft"},
    "for ever": {"on_target": "restart", "collisions": "block_both", "reward": "pogema"},
    "vector": {"view": "vector", "available": True},
}


def play(env: Mapf, policy: Callable[[Observation], Tensor], seed: int = 0) -> dict[str, float]:
    """Means over one episode of each team."""
    seen = env.reset(seed)
    going = torch.ones(env.spec.num_envs, dtype=torch.bool)
    found = {name: torch.zeros(env.spec.num_envs) for name in ("return", *env.spec.metrics)}
    while going.any():
        seen, outcome = env.step(policy(seen))
        found["return"] += outcome.reward.mean(-1) * going
        for name, rule in env.spec.metrics.items():
            now = outcome.metrics[name] + (found[name] if rule == "mean" else 0)
            found[name] = torch.where(going, now, found[name])
        going = going & ~(outcome.terminated | outcome.truncated)
    return {name: value.mean().item() for name, value in found.items()}


def at_random(env: Mapf, seed: int = 0) -> Callable[[Observation], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda _: torch.randint(5, (env.spec.num_envs, env.spec.n_agents), generator=generator)


def set_up(rows: list[str], start: list[list[int]], goal: list[list[int]], **options: Any) -> Mapf:
    """One team on a drawn map, `#` blocked, starts and goals as rows and columns."""
    env = Mapf(n_agents=len(start), num_envs=1, side=len(rows), **options)
    env.reset(0)
    saved = env.state_dict()
    state, border, padded = saved["state"], env._radius, env._padded
    board = torch.full((padded, padded), WALL, dtype=BOARD)
    for x, row in enumerate(rows):
        for y, cell in enumerate(row):
            board[x + border, y + border] = WALL if cell == "#" else FREE
    state["board"], state["alive"] = board.view(1, -1), torch.ones(1, len(start), dtype=torch.bool)
    for name, cells in (("cell", start), ("goal", goal)):
        state[name] = torch.tensor([[(x + border) * padded + y + border for x, y in cells]])
    state["board"][0, state["cell"][0]] = torch.arange(len(start), dtype=BOARD)
    env.load_state_dict(saved)
    return env


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_mapf_keeps_the_promises_of_a_team_env(options: dict[str, Any]) -> None:
    check_team_env(partial(Mapf, max_steps=7, **options), n_agents=(1, 4, 15))


def test_the_card_holds_sizes_that_work() -> None:
    check_team_env(partial(Mapf, max_steps=4), n_agents=CARDS["native/mapf"].sizes)


@pytest.mark.parametrize("game", GAMES, ids=[f"{game['collisions']} {game['on_target']}" for game in GAMES])
def test_agents_move_as_they_did_in_pogema(game: dict[str, Any]) -> None:
    env = set_up(
        game["map"], game["start"], game["goal"], collisions=game["collisions"], on_target=game["on_target"],
        max_steps=1000,
    )  # fmt: skip
    moved = 0
    for action, cells, here in zip(game["actions"], game["cells"], game["here"], strict=True):
        seen, outcome = env.step(torch.tensor([[int(a) for a in action]]))
        alive = torch.tensor([[one == "1" for one in here]])
        assert torch.equal(seen.alive, alive)
        place = (seen.position[..., 0] * len(game["map"]) + seen.position[..., 1]).long()
        assert torch.equal(place[alive], torch.tensor([cells])[alive])
        assert outcome.valid.all()
        moved += 1
    assert moved == 40


def one_after_another(rule: str, cells: list[int], targets: list[int], walls: set[int]) -> list[int]:
    """Where each stands afterwards, by the rules as one would tell them."""
    n = len(cells)
    if rule == "priority":
        now = list(cells)
        for i in range(n):
            if targets[i] not in walls and targets[i] not in now:
                now[i] = targets[i]
        return now
    goes = [targets[i] != cells[i] and targets[i] not in walls for i in range(n)]
    if rule == "block_both":
        wanted = [targets[i] for i in range(n) if goes[i]]
        return [
            targets[i] if goes[i] and targets[i] not in cells and wanted.count(targets[i]) == 1 else cells[i]
            for i in range(n)
        ]
    swaps = [
        goes[i] and any(goes[j] and targets[j] == cells[i] and targets[i] == cells[j] for j in range(n))
        for i in range(n)
    ]
    goes = [g and not s for g, s in zip(goes, swaps, strict=True)]
    goes = [g and not any(goes[j] and targets[j] == targets[i] for j in range(i)) for i, g in enumerate(goes)]
    while True:
        stays = [i for i in range(n) if goes[i] and any(not goes[j] and cells[j] == targets[i] for j in range(n))]
        if not stays:
            return [targets[i] if goes[i] else cells[i] for i in range(n)]
        for i in stays:
            goes[i] = False


@pytest.mark.parametrize("rule", RULES)
def test_conflicts_are_settled_at_once_as_one_after_another(rule: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    width, n, teams = 6, 12, 60
    walls = torch.rand(teams, width, width, generator=generator) < 0.15
    walls[:, [0, -1]] = walls[:, :, [0, -1]] = True
    free = torch.rand(teams, width**2, generator=generator).masked_fill(walls.flatten(1), -1)
    free = free[(free >= 0).sum(1) >= n]
    walls = walls[: len(free)] if len(free) == teams else free.view(-1, width, width) < 0
    cell = free.topk(n, dim=1).indices
    step = torch.tensor([0, -width, width, -1, 1])[torch.randint(5, cell.shape, generator=generator)]
    board = torch.where(walls.flatten(1), WALL, FREE).to(BOARD)
    board = board.scatter(1, cell, torch.arange(n, dtype=BOARD).expand_as(cell))
    moves = resolve(rule, board, cell, cell + step, step != 0)
    now = torch.where(moves, cell + step, cell)
    assert len(cell) > 30 and moves.any()
    for b in range(len(cell)):
        blocked = set(walls[b].flatten().nonzero().flatten().tolist())
        assert now[b].tolist() == one_after_another(rule, cell[b].tolist(), (cell + step)[b].tolist(), blocked)


def test_a_ring_turns_and_a_train_follows_only_where_the_rules_say() -> None:
    ring = ([[0, 0], [0, 1], [1, 1], [1, 0]], [[4, 2, 3, 1]])
    train = ([[0, 2], [0, 1], [0, 0]], [[4, 4, 4]])
    back = ([[0, 0], [0, 1], [0, 2]], [[4, 4, 4]])
    swap = ([[0, 0], [0, 1]], [[4, 3]])
    expected = {
        "priority": (0, 3, 1, 0),
        "block_both": (0, 1, 1, 0),
        "soft": (4, 3, 3, 0),
    }
    for rule, counts in expected.items():
        for (start, action), count in zip((ring, train, back, swap), counts, strict=True):
            goal = [[3, i] for i in range(len(start))]
            env = set_up(["...."] * 4, start, goal, collisions=rule)
            seen, _ = env.step(torch.tensor(action))
            assert (seen.position[0] != torch.tensor(start)).any(-1).sum() == count, rule


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("on_target", ["nothing", "finish", "restart"])
def test_no_two_share_a_cell_none_swap_none_leave_the_map(rule: Any, on_target: Any) -> None:
    env = Mapf(n_agents=20, num_envs=40, side=8, collisions=rule, on_target=on_target, max_steps=15)
    seen, act = env.reset(0), at_random(env)
    for t in range(40):
        before = seen
        seen, outcome = env.step(act(seen) if t % 2 else env.scripted(seen))
        cells = (seen.position[..., 0] * 8 + seen.position[..., 1]).long()
        assert (seen.position >= 0).all() and (seen.position < 8).all()
        board = env.state_dict()["state"]["board"].view(40, env._padded, env._padded)[:, 5:-5, 5:-5].flatten(1)
        for b in range(40):
            here = cells[b][seen.alive[b]]
            assert here.unique().numel() == here.numel()
            # The board holds just the living, each on its cell.
            assert torch.equal(board[b][here], seen.alive[b].nonzero().flatten().to(BOARD))
            assert (board[b] >= 0).sum() == here.numel()
            if outcome.valid[b]:
                old = before.position[b]
                same = (
                    (old.unsqueeze(0) == seen.position[b].unsqueeze(1)).all(-1)
                    & before.alive[b]
                    & seen.alive[b, :, None]
                )
                assert not (same & same.T & ~torch.eye(20, dtype=torch.bool)).any()
                assert ((old - seen.position[b]).abs().sum(-1) <= 1).all()


def test_starts_and_goals_are_connected_and_all_different() -> None:
    generator = torch.Generator().manual_seed(1)
    for blocked in (0.0, 0.3, 0.5, 0.9):
        maps = draw_maps(50, 12, side=9, border=2, blocked=blocked, generator=generator)
        free = (maps.ground != WALL).view(50, 13, 13)
        label = components(free)
        assert torch.equal(label.gather(1, maps.start), label.gather(1, maps.goal))
        both = torch.cat([maps.start, maps.goal], dim=1)
        assert free.flatten(1).gather(1, both).all()
        assert (both.sort(1).values.diff() > 0).all()
        inner = free[:, 2:-2, 2:-2].float().mean().item()
        assert free.sum() == free[:, 2:-2, 2:-2].sum()
        if blocked <= 0.3:
            assert abs(inner - (1 - blocked)) < 0.03


def test_components_are_those_of_a_flood() -> None:
    free = torch.rand(20, 15, 15, generator=torch.Generator().manual_seed(0)) < 0.6
    free[:, [0, -1]] = free[:, :, [0, -1]] = False
    label = components(free)
    for b in range(20):
        flat = free[b].flatten().tolist()
        known = [-1] * len(flat)
        for first in range(len(flat)):
            stack = [first] if flat[first] and known[first] < 0 else []
            while stack:
                cell = stack.pop()
                if flat[cell] and known[cell] < 0:
                    known[cell] = first
                    stack += [cell - 1, cell + 1, cell - 15, cell + 15]
        assert [one for one, is_free in zip(label[b].tolist(), flat, strict=True) if is_free] == [
            k for k in known if k >= 0
        ]


def test_fields_know_which_cells_are_nearer() -> None:
    generator = torch.Generator().manual_seed(3)
    n = 70
    maps = draw_maps(3, n, side=18, border=1, blocked=0.25, generator=generator)
    walls = maps.ground == WALL
    fields = Fields(walls, maps.goal, 20)
    for b, i in itertools.product(range(3), (0, 5, 63, 64, 69)):
        distance, front, d = {int(maps.goal[b, i]): 0}, [int(maps.goal[b, i])], 0
        while front:
            d += 1
            front = list(
                {c + s for c in front for s in (-1, 1, -20, 20)}
                - distance.keys()
                - set(walls[b].nonzero().flatten().tolist())
            )
            distance |= dict.fromkeys(front, d)
        for cell in list(distance)[::7]:
            around = torch.tensor([cell - 20, cell + 20, cell - 1, cell + 1])
            nearer = fields.nearer(torch.full((3, n), cell), around.expand(3, n, 4))[b, i].tolist()
            assert nearer == [distance.get(c, 10**6) < distance[cell] for c in around.tolist()]


def test_the_view_shows_what_is_there() -> None:
    rows = ["......", ".#....", "......", "......", "......", "......"]
    env = set_up(rows, [[2, 2], [2, 3]], [[0, 1], [5, 0]], radius=2)
    seen, _ = env.step(torch.tensor([[0, 0]]))
    view = seen.own[0, 0]
    expected = torch.zeros(4, 5, 5)
    expected[0, 1, 1] = 1  # the blocked cell
    expected[1, 2, 3] = 1  # the other agent
    expected[2, 0, 1] = 1  # the own goal
    expected[3, 4, 0] = 1  # the other's, which lies beyond
    torch.testing.assert_close(view[:4], expected)
    way = torch.tensor([-2.0, -1.0])
    torch.testing.assert_close(view[4:6, 0, 0], way / 5**0.5)
    torch.testing.assert_close(view[6], torch.full((5, 5), 5**0.5 / (5**0.5 + 5)))
    corner = set_up(rows, [[0, 0]], [[5, 5]], radius=2).step(torch.tensor([[0]]))[0].own[0, 0]
    outside = torch.zeros(5, 5)
    outside[:2], outside[:, :2], outside[3, 3] = 1, 1, 1
    torch.testing.assert_close(corner[0], outside)
    assert corner[1:4].sum() == 0


def test_a_vector_view_holds_the_same_numbers_once() -> None:
    image, vector = Mapf(seed=4, num_envs=3), Mapf(seed=4, num_envs=3, view="vector")
    a, b = image.reset(1).own, vector.reset(1).own
    torch.testing.assert_close(b[..., :-3], a[:, :, :4].flatten(2))
    torch.testing.assert_close(b[..., -3:], a[:, :, 4:, 0, 0])


def test_rewards_are_primals_and_pogemas() -> None:
    rows, start, goal = ["....", "....", "....", "...#"], [[0, 0], [3, 2], [2, 0]], [[0, 1], [0, 3], [2, 0]]
    action = torch.tensor([[4, 4, 0]])  # arrives, bumps into the blocked cell, stays on its goal
    for on_target, paid in (("nothing", [0, 0, 0]), ("finish", [1, 0, 1]), ("restart", [1, 0, 1])):
        env = set_up(rows, start, goal, on_target=on_target, guide=0)
        _, outcome = env.step(action)
        torch.testing.assert_close(outcome.reward[0], torch.tensor([-0.3, -2.0, 0.0]) + 20.0 * torch.tensor(paid))
        env = set_up(rows, start, goal, on_target=on_target, reward="pogema", guide=0)
        assert env.step(action)[1].reward[0].tolist() == paid
    env = set_up(rows, [[0, 0], [2, 0]], [[0, 1], [2, 1]], guide=0)
    _, idle = env.step(torch.tensor([[4, 0]]))
    torch.testing.assert_close(idle.reward[0], torch.tensor([-0.3, -0.5]))
    assert not idle.terminated and idle.metrics["success"] == 0.5 and idle.metrics["csr"] == 0
    _, done = env.step(torch.tensor([[0, 4]]))
    torch.testing.assert_close(done.reward[0], torch.tensor([20.0, 19.7]))
    assert done.terminated and done.metrics["success"] == 1 and done.metrics["csr"] == 1
    assert done.metrics["makespan"] == 2


def test_the_guide_pays_the_same_for_every_way() -> None:
    plain, guided = (Mapf(num_envs=20, max_steps=30, on_target="finish", guide=guide) for guide in (0.0, 2.0))
    seen, act = plain.reset(0), at_random(plain)
    guided.reset(0)
    first = plain.state_dict()["state"]
    total = torch.zeros(20, 8)
    for _ in range(30):
        action = act(seen)
        seen, outcome = plain.step(action)
        total += guided.step(action)[1].reward - outcome.reward
    last = plain.state_dict()["state"]
    far = [(plain._place(one["cell"]) - plain._place(first["goal"])).abs().sum(-1) for one in (first, last)]
    torch.testing.assert_close(total, 2.0 * (far[0] - far[1]).float())
    assert (total > 0).any() and (total < 0).any()


def test_who_restarts_gets_another_goal_that_it_can_reach() -> None:
    env = Mapf(n_agents=6, num_envs=50, side=7, blocked=0.4, on_target="restart", max_steps=40)
    seen = env.reset(0)
    arrivals = 0
    for _ in range(39):
        old = env.state_dict()["state"]
        seen, outcome = env.step(env.scripted(seen))
        new = env.state_dict()["state"]
        there = new["cell"] == old["goal"]
        changed = new["goal"] != old["goal"]
        assert torch.equal(changed, there)
        label = components((new["board"] != WALL).view(50, env._padded, -1))
        assert torch.equal(label.gather(1, new["goal"]), label.gather(1, new["cell"]))
        arrivals += int(there.sum())
        torch.testing.assert_close(outcome.metrics["throughput"], there.sum(-1).float())
    assert arrivals > 300


@pytest.mark.parametrize(
    ("n_agents", "options"),
    [
        (8, {}),
        (32, {}),
        (8, {"on_target": "finish"}),
        (8, {"on_target": "restart"}),
        (8, {"collisions": "block_both"}),
        (8, {"collisions": "soft"}),
    ],
)
def test_the_planner_solves_what_chance_does_not(n_agents: int, options: dict[str, Any]) -> None:
    env = Mapf(n_agents=n_agents, num_envs=320 // n_agents, **options)
    script, luck = play(env, env.scripted), play(env, at_random(env))
    assert script["success"] > 0.93 and luck["success"] < 0.25
    assert script["return"] > luck["return"] + 30
    assert script["throughput"] > 2 * luck["throughput"]


@pytest.mark.parametrize("rule", RULES)
def test_the_planner_is_never_refused(rule: Any) -> None:
    env = Mapf(n_agents=20, num_envs=10, side=8, collisions=rule, guide=0)
    seen = env.reset(0)
    for _ in range(30):
        seen, outcome = env.step(env.scripted(seen))
        assert (outcome.reward > -2).all()


def test_a_thousand_agents_share_one_world() -> None:
    env = Mapf(n_agents=1000, num_envs=1)
    seen = env.reset(0)
    for _ in range(5):
        seen, _ = env.step(env.scripted(seen))
    assert seen.own.shape == (1, 1000, 7, 11, 11) and env._side == 134


def test_the_arena_grows_or_not() -> None:
    assert [Mapf(n_agents=n)._side for n in (1, 8, 32, 128)] == [4, 12, 24, 48]
    assert [Mapf(n_agents=n, density="arena")._side for n in (1, 32)] == [12, 12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 100, "density": "arena"}, "at most 72 agents on 12 x 12 cells"),
        ({"density": "dense"}, "density to be fixed or arena"),
        ({"on_target": "stay"}, "on_target to be nothing, finish or restart"),
        ({"collisions": "hard"}, "collisions to be priority, block_both or soft"),
        ({"reward": "team"}, "reward to be primal or pogema"),
        ({"view": "grid"}, "view to be image or vector"),
        ({"blocked": 1.0}, "blocked to be a share below 1"),
        ({"n_agents": 40_000}, "at most 32767 agents"),
        ({"radius": 0}, "radius to be at least 1"),
        ({"continuous": True}, "continuous=false or auto"),
        ({"n_agents": 0}, "at least one team and one agent|at most"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Mapf(**options)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_world_is_refused() -> None:
    saved = Mapf(n_agents=4, num_envs=2)
    saved.reset(0)
    with pytest.raises(ValueError, match="expected the state of"):
        Mapf(n_agents=5, num_envs=2).load_state_dict(saved.state_dict())
