"""native/routing is DGN's: its network, its order of moves, its figures."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from gcoord.envs import check_team_env
from gcoord.envs.native.network import Network, draw_network
from gcoord.envs.native.routing import CARDS, Routing
from gcoord.graph import Given

# The network that the published code draws, as (end, end, length); taken from running its rules on numpy's seed 476.
PUBLISHED = [
    *((0, 7, 1), (0, 9, 1), (0, 6, 1), (1, 5, 2), (1, 15, 2), (1, 2, 3), (2, 5, 1), (2, 12, 2), (3, 9, 2), (3, 5, 2)),
    *((3, 15, 2), (4, 17, 1), (4, 18, 2), (4, 16, 2), (6, 7, 1), (6, 14, 1), (7, 14, 1), (8, 10, 1), (8, 15, 2)),
    *((8, 14, 2), (9, 18, 2), (10, 13, 3), (10, 11, 5), (11, 12, 1), (11, 19, 2), (12, 19, 1), (13, 17, 3)),
    *((13, 18, 4), (16, 17, 3), (16, 19, 3)),
]


@pytest.mark.parametrize(
    ("density", "view"), [("fixed", "published"), ("arena", "published"), ("fixed", "ways"), ("arena", "tables")]
)
def test_routing_keeps_the_promises_of_a_team_env(density: Any, view: Any) -> None:
    check_team_env(
        partial(Routing, max_steps=25, density=density, view=view), n_agents=(1, *CARDS["native/routing"].sizes)
    )


def test_seed_476_draws_the_published_network() -> None:
    network = draw_network(20, 476)
    assert network.links.tolist() == [list(link) for link in PUBLISHED]
    assert (network.at >= 0).all() and network.usable.all()
    np.testing.assert_allclose(network.place[0], np.random.RandomState(476).random_sample(2))


@pytest.mark.parametrize(("n", "seed"), [(4, 0), (20, 1), (60, 2), (300, 3)])
def test_every_network_obeys_the_rules(n: int, seed: int) -> None:
    network = draw_network(n, seed)
    assert n > 100 or network.usable.all()
    assert network.usable.mean() > 0.8
    degree = np.bincount(network.links[:, :2].flatten(), minlength=n)
    assert (degree <= 3).all() and np.array_equal(degree, (network.at >= 0).sum(1))
    for a, b, length in network.links:
        d = np.linalg.norm(network.place[a] - network.place[b])
        assert a < b and length == np.floor(np.floor(10 * d) / 2 + 1)
    for router, row in enumerate(network.at):
        for link, beyond in zip(row, network.beyond()[router]):
            assert (link < 0 and beyond < 0) or {router, beyond} == set(network.links[link, :2])


def test_shortest_ways_are_floyds() -> None:
    network = draw_network(30, 5)
    for waiting in (0.0, 1.0):
        far = np.full((30, 30), np.inf)
        np.fill_diagonal(far, 0)
        for a, b, length in network.links:
            far[a, b] = far[b, a] = min(far[a, b], length + waiting)
        for k in range(30):
            far = np.minimum(far, far[:, k : k + 1] + far[k])
        assert np.array_equal(far, network.ways(waiting))


class Original:
    """The published rules for one team: packet after packet, links changed in place (DGN's Routing/routers.py)."""

    def __init__(self, network: Network, state: dict[str, Any], b: int) -> None:
        self.network, self.load = network, np.zeros(len(network.links))
        names = ("router", "goal", "size", "link", "left")
        self.router, self.goal, self.size, self.link, self.left = (state[name][b].tolist() for name in names)
        self.n = len(self.router)
        for size, link in zip(self.size, self.link):
            if link >= 0:
                self.load[link] += size

    def step(self, action: Any) -> list[float]:
        reward = [0.0] * self.n
        for i in range(self.n):
            if self.link[i] != -1:
                self.left[i] -= 1
                if self.left[i] == 0:
                    self.load[self.link[i]] -= self.size[i]
                    self.link[i] = -1
            elif action[i] == 0:
                continue
            else:
                link = self.network.at[self.router[i]][action[i] - 1]
                a, b, length = self.network.links[link]
                if self.load[link] + self.size[i] > 1:
                    reward[i] = -0.2
                else:
                    self.link[i], self.left[i] = link, length
                    self.load[link] += self.size[i]
                    self.router[i] = b if a == self.router[i] else a
            if self.router[i] == self.goal[i]:
                reward[i] = 10
        return reward

    def redraw(self, state: dict[str, Any], b: int) -> int:
        """Those who are there become what the world drew; returns how many."""
        there = [i for i in range(self.n) if self.router[i] == self.goal[i]]
        for i in there:
            if self.link[i] != -1:
                self.load[self.link[i]] -= self.size[i]
            self.router[i], self.goal[i], self.size[i] = (
                state[name][b, i].item() for name in ("router", "goal", "size")
            )
            self.link[i] = -1
        return len(there)

    def own(self) -> np.ndarray:
        rows = []
        beyond = self.network.beyond()
        for i in range(self.n):
            row = [self.router[i], self.goal[i], self.link[i], self.size[i], i]
            for link in self.network.at[self.router[i]]:
                row += [link, *self.network.links[link], self.load[link]] if link >= 0 else [-1] * 5
            heard = [
                j
                for j in range(self.n)
                if j != i and (self.router[j] == self.router[i] or self.router[j] in beyond[self.router[i]])
            ]
            for j in heard[:3]:
                row += [self.router[j], self.goal[j], self.link[j], self.size[j], i]
            rows.append(row + [-1] * (35 - len(row)))
        return np.array(rows, dtype=np.float64)


@pytest.mark.parametrize(("n", "density"), [(1, "arena"), (20, "arena"), (60, "arena"), (30, "fixed")])
def test_packets_move_and_are_refused_as_when_they_go_one_after_another(n: int, density: Any) -> None:
    env = Routing(n, num_envs=3, density=density, network=476 if density == "arena" else 2)
    seen, refused = env.reset(0), 0
    state = env.state_dict()["state"]
    peers = [Original(env.network, state, b) for b in range(3)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        # Everybody pushes on, or nobody would stand in anybody's way.
        action = torch.randint(1, 4, (3, n), generator=generator)
        action = torch.where(seen.available.gather(-1, action.unsqueeze(-1)).squeeze(-1), action, 0)
        seen, outcome = env.step(action)
        state = env.state_dict()["state"]
        for b, peer in enumerate(peers):
            reward = peer.step(action[b].tolist())
            np.testing.assert_allclose(outcome.reward[b], reward)
            refused += sum(one == pytest.approx(-0.2) for one in reward)
            assert peer.redraw(state, b) == outcome.metrics["throughput"][b]
            np.testing.assert_allclose(seen.own[b], peer.own(), atol=1e-5)
    assert (refused > 0) == (n > 1)


def test_loads_never_pass_what_a_link_holds() -> None:
    env = Routing(60, num_envs=32, density="arena")
    seen = env.reset(0)
    for _ in range(50):
        seen, _ = env.step(env.scripted(seen))
        state = env.state_dict()["state"]
        load = torch.zeros(32, 31, dtype=torch.float64)
        load.scatter_add_(1, state["link"] % 31, state["size"])
        assert load[:, :30].max() <= 1 + 1e-9
        # What links are seen to hold is what they hold.
        links = seen.own[..., 5:20].unflatten(-1, (3, 5))
        torch.testing.assert_close(
            links[..., 4].double(), load.gather(1, links[..., 0].long().flatten(1)).view(32, 60, 3), atol=1e-6, rtol=0
        )


def test_who_hears_whom_is_what_the_observation_describes() -> None:
    env = Routing(40, num_envs=8, density="arena")
    seen = env.reset(3)
    graph = Given()(seen.alive, hears=seen.hears)
    assert int(graph.hears().sum(-1).max()) == 3
    assert not seen.hears.diagonal(dim1=1, dim2=2).any()
    others = seen.own[..., 20:].unflatten(-1, (3, 5))
    for b in range(8):
        for i in range(40):
            heard = seen.hears[b, i].nonzero().squeeze(-1)
            assert torch.equal(others[b, i, : len(heard), :4], seen.own[b, heard, :4])
            assert (others[b, i, len(heard) :] == -1).all()


def test_a_packet_alone_takes_the_steps_its_way_is_long() -> None:
    env = Routing(1, num_envs=200, density="arena")
    seen = env.reset(0)
    quickest = torch.from_numpy(env.network.ways(1.0))
    router, goal = seen.own[:, 0, :2].long().unbind(-1)
    arrived = torch.full((200,), -1)
    for t in range(60):
        seen, outcome = env.step(env.fastest(seen))
        arrived = torch.where((outcome.reward[:, 0] == 10) & (arrived < 0), t + 1, arrived)
    # The last link is not waited for: who enters it is there.
    last = torch.tensor([[min_last(env, a, b) for b in range(20)] for a in range(20)])
    far = router != goal
    assert torch.equal(arrived[far], (quickest[router, goal] - last[router, goal])[far].long())


def min_last(env: Routing, a: int, b: int) -> int:
    """Length of the last link on the way that `fastest` takes from a to b."""
    first, at = env._links.quickest, a
    while at != b:
        link = env.network.at[at, first[at, b]]
        x, y, length = env.network.links[link]
        at = y if x == at else x
    return int(length) if a != b else 0


def play(env: Routing, policy: Any) -> tuple[float, ...]:
    seen, reward, throughput = env.reset(0), 0.0, 0.0
    for _ in range(env.spec.max_steps or 0):
        seen, outcome = env.step(policy(seen))
        reward += outcome.reward.mean().item()
        throughput += outcome.metrics["throughput"].mean().item()
    steps = env.spec.max_steps or 0
    return reward / steps, outcome.metrics["delay"].mean().item(), throughput / steps


def test_shortest_paths_reach_the_figures_measured_with_the_authors_rules() -> None:
    """ANCHORS of the world, on the published network: reward, delay and throughput of shortest paths at 20, 40, 60."""
    figures = {20: (1.17, 8.3, 2.41), 40: (0.84, 10.9, 3.67), 60: (0.57, 14.4, 4.06)}
    for n, measured in figures.items():
        # Longer than a game, for the network fills slowly at 60.
        env = Routing(n, num_envs=8, density="arena", max_steps=1000)
        assert play(env, env.scripted) == pytest.approx(measured, rel=0.06)
    env = Routing(20, num_envs=64, density="arena")
    assert play(env, env.fastest)[0] > play(env, env.scripted)[0]
    generator = torch.Generator().manual_seed(0)
    reward, delay, throughput = play(env, lambda seen: torch.randint(4, (64, 20), generator=generator))
    assert reward < 0.1 and delay > 50 and throughput < 0.2


def test_other_networks_are_as_long_as_measured() -> None:
    delays = []
    for seed in (1, 2, 3, 4):
        env = Routing(20, num_envs=8, density="arena", network=seed)
        delays.append(play(env, env.scripted)[1])
    assert 7 < min(delays) < max(delays) < 11 and len(set(delays)) == 4


def test_ways_in_the_plane_say_what_the_numbers_stand_for() -> None:
    worlds = [Routing(9, num_envs=2, view=view) for view in ("published", "ways")]
    published, ways = (env.reset(3) for env in worlds)
    network = worlds[0].network
    for _ in range(15):
        action = worlds[0].scripted(published)
        assert torch.equal(action, worlds[1].scripted(ways))
        (published, _), (ways, _) = (env.step(action) for env in worlds)
        for numbers, own in zip(published.own.flatten(0, 1).numpy(), ways.own.flatten(0, 1).numpy()):
            router, goal, link, size = numbers[:4]
            here, there = network.place[int(router)], network.place[int(goal)]
            assert own[:4] == pytest.approx([float(link >= 0), size, *(there - here)], abs=1e-6)
            for known, told in zip(numbers[5:20].reshape(3, 5), own[4:].reshape(3, 6)):
                if known[0] < 0:
                    assert not told.any()
                    continue
                end = network.place[int(known[1] + known[2] - router)]
                left = np.linalg.norm(there - end)
                assert told == pytest.approx([1, *(end - here), left, known[3], known[4]], abs=1e-6)


def test_tables_say_how_many_steps_a_packet_alone_takes_over_each_link() -> None:
    for network in (476, 3):
        env = Routing(1, num_envs=400, density="arena", network=network, view="tables")
        seen = env.reset(0)
        left = seen.own[:, 0, 3].clone()
        arrived = torch.full((400,), -1.0)
        for t in range(40):
            # The least of the links' steps is the packet's, and it leads to where one less the link's is left.
            seen, outcome = env.step(env.detouring(seen))
            arrived = torch.where((outcome.reward[:, 0] == 10) & (arrived < 0), t + 1.0, arrived)
        torch.testing.assert_close(arrived, left)
        over = env.network.over()
        far = env.network.ways(1.0)
        away = ~np.eye(20, dtype=bool)
        assert (over.min(1)[away] <= far[away]).all() and (over.min(1) < far)[away].mean() > 0.5
        assert np.array_equal(np.sort(np.unique(over[over < 2])), [1.0])


CROOKED = 4  # a network in which some routers have fewer than 3 links


def test_tables_tell_of_links_what_the_numbers_stand_for() -> None:
    worlds = [Routing(40, num_envs=2, density="arena", network=CROOKED, view=view) for view in ("published", "tables")]
    published, told = (env.reset(3) for env in worlds)
    network, over = worlds[0].network, worlds[0].network.over()
    assert len(network.links) < 30
    waits = np.zeros(8, dtype=int)
    for _ in range(15):
        numbers, own = published.own.flatten(0, 1).numpy(), told.own.flatten(0, 1).numpy()
        on, left, sizes = (worlds[0].state_dict()["state"][name].numpy() for name in ("link", "left", "size"))
        for i, (one, other) in enumerate(zip(numbers, own)):
            router, goal, link, size = one[:4]
            steps = over[int(router), :, int(goal)]
            assert other[:4] == pytest.approx([float(link >= 0), size, float(router == goal), steps.min()], abs=1e-6)
            for k, (known, tells) in enumerate(zip(one[5:20].reshape(3, 5), other[4:].reshape(3, 5))):
                if known[0] < 0:
                    assert not tells.any() and np.isinf(steps[k])
                    continue
                wait = 0
                while sizes[i // 40][(on[i // 40] == known[0]) & (left[i // 40] > wait)].sum() + size > 1:
                    wait += 1
                waits[wait] += 1
                assert tells == pytest.approx([1, wait, known[4], known[3], steps[k] - steps.min()], abs=1e-5)
        action = worlds[0].scripted(published)
        assert torch.equal(action, worlds[1].scripted(told))
        (published, _), (told, _) = (env.step(action) for env in worlds)
    assert (waits[:4] > 10).all()


def test_packets_that_look_at_loads_beat_shortest_paths() -> None:
    for n in (20, 40, 60):
        env = Routing(n, num_envs=8, density="arena")
        blind, sees = play(env, env.scripted), play(env, env.detouring)
        assert sees[0] > 1.05 * blind[0] and sees[1] < 0.97 * blind[1] and sees[2] > 1.03 * blind[2]


def test_available_names_the_links_that_there_are() -> None:
    env = Routing(15, num_envs=4, network=2)
    assert (env.network.at < 0).any()
    seen = env.reset(0)
    for _ in range(20):
        seen, _ = env.step(env.scripted(seen))
        router, link = seen.own[..., 0].long(), seen.own[..., 2]
        there = torch.from_numpy(env.network.at)[router] >= 0
        assert torch.equal(seen.available[..., 1:], there & (link < 0).unsqueeze(-1))
        assert seen.available[..., 0].all()
        torch.testing.assert_close(seen.position, torch.from_numpy(env.network.place).float()[router])


def test_a_thousand_packets_share_a_network() -> None:
    for density in ("fixed", "arena"):
        env = Routing(1000, num_envs=1, density=density)
        seen = env.reset(0)
        assert len(env.network.at) == (1000 if density == "fixed" else 20)
        for _ in range(3):
            seen, outcome = env.step(torch.randint(4, (1, 1000), generator=torch.Generator().manual_seed(0)))
        assert outcome.reward.isfinite().all() and seen.own.shape == (1, 1000, 35)
        assert env.network.usable[seen.own[0, :, 0].long()].all()


def test_a_saved_game_goes_on_bit_for_bit() -> None:
    env = Routing(20, num_envs=4, max_steps=30)
    seen = env.reset(1)
    for _ in range(20):
        seen, _ = env.step(env.scripted(seen))
    other = Routing(20, num_envs=4, max_steps=30, seed=9)
    other.load_state_dict(copy.deepcopy(env.state_dict()))
    for _ in range(25):
        action = env.scripted(seen)
        seen, mine = env.step(action)
        same, theirs = other.step(action)
        assert (seen == same).all() and (mine == theirs).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 0}, "at least one packet"),
        ({"density": "loose"}, "density to be fixed or arena"),
        ({"network": -1}, "network to be a seed"),
        ({"view": "plane"}, "view to be published, ways, tables"),
        ({"max_steps": 0}, "at least one step"),
    ],
)
def test_bad_arguments_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Routing(**options)
    assert "\n" not in str(caught.value)


def test_fewer_than_four_routers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 routers"):
        draw_network(3, 0)
