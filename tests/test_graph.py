"""Who hears whom: masks, ties, layouts, lost messages, and exact neighbours however many there are."""

from __future__ import annotations

import math

import pytest
import torch

from gcoord.graph import AgentGraph, Complete, Given, Lossy, Nearest, Radius, geometry

NEVER = 10**9
TOPOLOGIES = [
    Complete(),
    Nearest(3),
    Radius(0.4),
    Radius(0.4, limit=3),
    Nearest(3, dense_up_to=0),
    Nearest(2, entity_k=1),
]


def team(*shape: int, n_dims: int = 2, seed: int = 0, dead: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """alive [*shape] and positions of agents evenly spread in the unit square, with NaN in dead slots."""
    random = torch.Generator().manual_seed(seed)
    alive = torch.rand(*shape, generator=random) >= dead
    position = torch.rand(*shape, n_dims, generator=random)
    return alive, torch.where(alive.unsqueeze(-1), position, math.nan)


def by_hand(alive, position, present, others, k=None, r=None, oneself=True) -> torch.Tensor:
    """[N, S] bool for one graph, sender by sender: within r, and no farther than the k-th."""
    hears = torch.zeros(len(alive), len(present), dtype=torch.bool)
    for i in range(len(alive)):
        squared = sum((others[:, p] - position[i, p]) ** 2 for p in range(position.shape[-1]))
        heard = [j for j in range(len(present)) if alive[i] and present[j] and not (oneself and i == j)]
        if r is not None:
            heard = [j for j in heard if squared[j] <= torch.tensor(r) ** 2]
        if k is not None and len(heard) > k:
            last = sorted(squared[j].item() for j in heard)[k - 1]
            heard = [j for j in heard if squared[j].item() <= last]
        hears[i, heard] = True
    return hears


@pytest.mark.parametrize("n", [*range(1, 12), 33, 40])
@pytest.mark.parametrize("dense_up_to", [0, 128])
def test_nearest_and_radius_hear_whom_a_plain_loop_finds(n, dense_up_to):
    alive, position = team(2, n, seed=n)
    entity_present, entity_position = team(2, 5, seed=n + 100)
    near = Nearest(3, entity_k=2, dense_up_to=dense_up_to)(alive, position, entity_present, entity_position)
    within = Radius(0.5, limit=None if dense_up_to else 10**4)(alive, position, entity_present, entity_position)
    assert (near.index is None) == (dense_up_to > 0)
    for b in range(2):
        agents = (alive[b], position[b], alive[b], position[b])
        entities = (alive[b], position[b], entity_present[b], entity_position[b])
        expected = torch.cat([by_hand(*agents, k=3), by_hand(*entities, k=2, oneself=False)], -1)
        assert torch.equal(near.hears()[b], expected)
        expected = torch.cat([by_hand(*agents, r=0.5), by_hand(*entities, r=0.5, oneself=False)], -1)
        assert torch.equal(within.hears()[b], expected)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=repr)
def test_no_agent_hears_itself_and_the_dead_neither_hear_nor_are_heard(topology):
    alive, position = team(6, 9, dead=0.4)
    entity_present, entity_position = team(6, 4, seed=1)
    graph = topology(alive, position, entity_present, entity_position)
    hears = graph.hears()
    present = torch.cat([alive, entity_present], -1)
    assert hears.shape == (6, 9, 13) and graph.n_entities == 4 and torch.equal(graph.present, present)
    assert not hears[..., :9].diagonal(dim1=-2, dim2=-1).any()
    assert not hears[~alive].any() and not hears.transpose(-1, -2)[~present].any()
    assert hears.any()


@pytest.mark.parametrize("topology", [*TOPOLOGIES, Radius(0.4, limit=3, ties="key"), Lossy(Nearest(3), 0.3)], ids=repr)
def test_garbage_in_dead_slots_changes_no_bit(topology):
    alive, position = team(5, 12, dead=0.4)
    entity_present, entity_position = team(5, 6, seed=1, dead=0.5)
    key = torch.arange(5)
    graphs = []
    for garbage in (0.0, math.nan, math.inf, -math.inf, 1e30):
        own = torch.where(alive.unsqueeze(-1), position, garbage)
        others = torch.where(entity_present.unsqueeze(-1), entity_position, garbage)
        graph = topology(alive, own, entity_present, others, key=key)
        graphs.append((graph.hears(), geometry(graph, own, others)))
    for hears, edge in graphs[1:]:
        assert torch.equal(hears, graphs[0][0]) and torch.equal(edge, graphs[0][1])


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=repr)
@pytest.mark.parametrize("where", ["spread", "grid", "together"])
def test_renumbering_agents_renumbers_the_graph(topology, where):
    alive, position = team(3, 20)
    if where != "spread":
        position = (position * (4 if where == "grid" else 0)).floor()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    hears = topology(alive, position).hears()
    assert torch.equal(topology(alive[:, order], position[:, order]).hears(), hears[:, order][:, :, order])


@pytest.mark.parametrize("topology", [*TOPOLOGIES, Lossy(Complete(), 0.5)], ids=repr)
def test_a_batch_is_its_graphs_one_by_one(topology):
    alive, position = team(2, 3, 7)
    entity_present, entity_position = team(2, 3, 2, seed=1)
    key = torch.arange(6).view(2, 3)
    batched = topology(alive, position, entity_present, entity_position, key=key)
    assert batched.batch_size == (2, 3) and batched.degree().shape == (2, 3, 7)
    for a in range(2):
        for b in range(3):
            at = (a, b)
            alone = topology(alive[at], position[at], entity_present[at], entity_position[at], key=key[at])
            assert torch.equal(alone.hears(), batched.hears()[at])


@pytest.mark.parametrize("dense_up_to", [0, 128])
def test_all_who_stand_at_the_kth_distance_are_heard(dense_up_to):
    position = torch.tensor([[0.0, 0.0], [1, 0], [0, 1], [-1, 0], [0, -1], [3, 3]])
    graph = Nearest(2, dense_up_to=dense_up_to)(torch.ones(6, dtype=torch.bool), position)
    assert graph.hears()[0].tolist() == [False, True, True, True, True, False]
    assert graph.degree().tolist() == [4, 3, 3, 3, 3, 2]


@pytest.mark.parametrize("dense_up_to", [0, 128])
def test_ties_broken_by_key_hear_exactly_k_by_turns_and_not_by_slot(dense_up_to):
    alive = torch.ones(400, 9, dtype=torch.bool)
    position = torch.cat([torch.zeros(1, 2), torch.ones(8, 2)]).expand(400, 9, 2)
    topology = Nearest(3, ties="key", dense_up_to=dense_up_to)
    hears = topology(alive, position, key=torch.arange(400)).hears()
    assert (hears.sum(-1) == 3).all()
    share = hears[:, 0, 1:].float().mean(0)
    assert (share - 3 / 8).abs().max() < 0.1
    assert torch.equal(topology(alive, position, key=torch.arange(400)).hears(), hears)


def test_ties_broken_by_key_are_the_same_in_both_layouts():
    alive, position = team(4, 30)
    position = (position * 4).floor()
    entity_position = position[:, :20].nan_to_num()
    key = torch.arange(4) * 7919
    dense, lists, strips = (
        Nearest(4, ties="key", dense_up_to=up_to, cells_from=cells)(
            alive, position, entity_position=entity_position, key=key
        ).hears()
        for up_to, cells in ((128, NEVER), (0, NEVER), (0, 1))
    )
    assert torch.equal(dense, lists) and torch.equal(dense, strips)


def test_two_hundred_agents_in_one_radius_all_hear_each_other():
    alive, position = torch.ones(200, dtype=torch.bool), torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    for topology in (
        Radius(2.0),
        Radius(2.0, limit=199),
        Radius(2.0, limit=199, cells_from=1),
        Nearest(199),
        Complete(),
    ):
        graph = topology(alive, position)
        assert (graph.degree() == 199).all()
        assert graph.dropped is None or graph.dropped == 0
    coincident = Nearest(3)(alive, torch.zeros(200, 2))
    assert (coincident.degree() == 199).all()


@pytest.mark.parametrize("cells_from", [1, NEVER])
def test_a_limited_radius_keeps_the_nearest_and_counts_what_it_dropped(cells_from):
    alive, position = team(3, 150)
    entity_present, entity_position = team(3, 60, seed=1)
    everything = (alive, position, entity_present, entity_position)
    unlimited = Radius(0.25)(*everything)
    limited = Radius(0.25, limit=5, entity_limit=2, cells_from=cells_from)(*everything)
    assert (limited.hears() & ~unlimited.hears()).sum() == 0
    assert torch.equal(limited.dropped, unlimited.degree().sum(-1) - limited.degree().sum(-1))
    assert limited.dropped.min() > 0 and limited.degree().max() == 7
    nearest = Nearest(5, entity_k=2)(*everything)
    assert torch.equal(limited.hears(), nearest.hears() & unlimited.hears())


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_far_from_the_origin_distances_are_those_of_direct_differences(offset):
    alive, position = team(2, 40, dead=0.1)
    position = (position * 64).floor() + offset  # exact in float32 at every offset
    expected = Nearest(4)(alive, position - offset).hears()
    for topology in (Nearest(4), Nearest(4, dense_up_to=0), Nearest(4, dense_up_to=0, cells_from=1)):
        assert torch.equal(topology(alive, position).hears(), expected)


def test_a_lonely_agent_hears_nobody():
    position = torch.tensor([[0.0, 0.0], [9.0, 9.0], [9.1, 9.0]])
    for topology in (Radius(1.0), Radius(1.0, limit=2), Radius(1.0, limit=2, cells_from=1)):
        assert topology(torch.ones(3, dtype=torch.bool), position).degree().tolist() == [0, 1, 1]
    for topology in TOPOLOGIES:
        alone = topology(torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1, 2))
        assert alone.degree().tolist() == [[0], [0]] and alone.mask.shape[-1] >= 1


POINTS = {
    "uniform": lambda x: x,
    "clustered": lambda x: (x * 5).floor() * 100 + x**8,
    "grid": lambda x: (x * 23).floor(),
    "coincident": lambda x: (x * 3).floor(),
    "line": lambda x: x * torch.tensor([0.0, 1.0, 0.0])[: x.shape[-1]],
    "stretched": lambda x: x**6 * torch.tensor([1e4, 1.0, 1e-3])[: x.shape[-1]],
}


@pytest.mark.parametrize("n_dims", [1, 2, 3])
@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("dead", [0.0, 0.5])
def test_sorted_strips_find_exactly_whom_all_pairs_find(n_dims, where, dead):
    alive, position = team(2, 600, n_dims=n_dims, dead=dead)
    entity_present, entity_position = team(2, 520, n_dims=n_dims, dead=dead, seed=1)
    position, entity_position = POINTS[where](position), POINTS[where](entity_position)
    everything = (alive, position, entity_present, entity_position)
    spread = position[alive].amax() - position[alive].amin()
    for fast, slow in (
        (Nearest(8), Nearest(8, cells_from=NEVER)),
        (Radius(0.1 * spread.item() + 0.01, limit=6), Radius(0.1 * spread.item() + 0.01, limit=6, cells_from=NEVER)),
    ):
        ours, expected = fast(*everything), slow(*everything)
        assert torch.equal(ours.hears(), expected.hears())
        assert ours.dropped is None or torch.equal(ours.dropped, expected.dropped)


@pytest.mark.parametrize("where", ["uniform", "grid", "clustered"])
@pytest.mark.parametrize("cells_from", [1, NEVER])
def test_working_in_small_portions_changes_nothing(where, cells_from, monkeypatch):
    alive, position = team(5, 60)
    entity_present, entity_position = team(5, 40, seed=1)
    everything = (alive, POINTS[where](position), entity_present, POINTS[where](entity_position))
    topologies = [
        Nearest(4, dense_up_to=0, cells_from=cells_from),
        Nearest(4, ties="key", dense_up_to=0, cells_from=cells_from),
        Radius(3.0 if where == "grid" else 0.2, limit=3, cells_from=cells_from),
    ]
    expected = [topology(*everything, key=torch.arange(5)) for topology in topologies]
    monkeypatch.setattr("gcoord.candidates.PAIRS_AT_ONCE", 300)
    monkeypatch.setattr("gcoord.strips.PAIRS_AT_ONCE", 300)
    monkeypatch.setattr("gcoord.neighbours.GRAPHS_AT_ONCE", 200)
    for topology, whole in zip(topologies, expected, strict=True):
        graph = topology(*everything, key=torch.arange(5))
        assert torch.equal(graph.hears(), whole.hears())
        assert whole.dropped is None or torch.equal(graph.dropped, whole.dropped)


def test_neighbour_lists_are_ordered_by_distance():
    alive, position = team(2, 600)
    for topology in (Nearest(8), Nearest(8, cells_from=NEVER), Radius(0.1, limit=8)):
        graph = topology(alive, position)
        distance = torch.where(graph.mask, geometry(graph, position)[..., -1], math.inf)
        assert (distance.diff(dim=-1).nan_to_num() >= 0).all()


@pytest.mark.parametrize("dense_up_to", [0, 128])
def test_edge_index_points_from_sender_to_receiver_with_graphs_numbered_together(dense_up_to):
    alive, position = team(2, 3, 6)
    entity_present, entity_position = team(2, 3, 4, seed=1)
    graph = Nearest(2, dense_up_to=dense_up_to)(alive, position, entity_present, entity_position)
    source, target = graph.edge_index()
    hears = torch.zeros(6, 6, 10, dtype=torch.bool)
    hears[target // 10, target % 10, source % 10] = True
    assert torch.equal(source // 10, target // 10) and torch.equal(hears.view(2, 3, 6, 10), graph.hears())
    edge = geometry(graph, position, entity_position)
    nodes = torch.cat([position, entity_position], -2).view(-1, 2)
    assert torch.equal(edge[graph.mask][:, :2], nodes[source] - nodes[target])


def test_layouts_convert_into_each_other_with_their_edges():
    alive, position = team(3, 10)
    entity_position = team(3, 4, seed=1, dead=0)[1]
    dense = Radius(0.5)(alive, position, entity_position=entity_position)
    dense = dense.with_edge(geometry(dense, position, entity_position))
    lists = dense.to_lists()
    assert lists.mask.shape[-1] == dense.degree().max()
    assert torch.equal(lists.hears(), dense.hears()) and torch.equal(lists.degree(), dense.degree())
    assert torch.equal(lists.edge * lists.mask.unsqueeze(-1), geometry(lists, position, entity_position))
    assert torch.equal(lists.to_dense().edge, dense.edge) and torch.equal(lists.to_dense().mask, dense.mask)
    assert torch.equal(lists.edge_index(), dense.edge_index())


@pytest.mark.parametrize("batch", [(), (3,), (40, 20)])
@pytest.mark.parametrize("dense_up_to", [0, 128])
def test_geometry_is_the_senders_relative_position_and_distance(batch, dense_up_to):
    alive, position = team(*batch, 5)
    entity_position = team(*batch, 2, seed=1, dead=0)[1]
    graph = Nearest(2, dense_up_to=dense_up_to)(alive, position, entity_position=entity_position)
    edge = geometry(graph, position, entity_position, length=2.0)
    assert edge.shape == (*graph.mask.shape, 3) and (edge[~graph.mask] == 0).all()
    everybody = torch.cat([position, entity_position], -2)
    relative = (everybody.unsqueeze(-3) - position.unsqueeze(-2)) / 2
    expected = torch.cat([relative, relative.norm(dim=-1, keepdim=True)], -1)
    dense = graph.with_edge(edge).to_dense()
    torch.testing.assert_close(dense.edge[dense.mask], expected[graph.hears()])


@pytest.mark.parametrize("batch", [(), (300,)])
@pytest.mark.parametrize("dense_up_to", [0, 128])
def test_gradients_of_geometry_are_free_of_nan_where_agents_stand_together(batch, dense_up_to):
    alive = torch.tensor([True, True, True, False]).expand(*batch, 4)
    position = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0], [math.nan, math.nan]]).repeat(*batch, 1, 1)
    position.requires_grad_(True)
    graph = Nearest(3, dense_up_to=dense_up_to)(alive, position)
    edge = geometry(graph, position)
    assert not graph.mask.requires_grad and edge.isfinite().all()
    edge[..., -1].sum().backward()
    # Both at (1, 2) stand 5 from the third; each edge is counted from either end.
    expected = torch.tensor([[-1.2, -1.6], [-1.2, -1.6], [2.4, 3.2], [0, 0]])
    torch.testing.assert_close(position.grad, expected.expand_as(position))


def test_lossy_drops_the_promised_share_of_edges_independently():
    alive = torch.ones(3000, 6, dtype=torch.bool)
    key = torch.arange(3000)
    for drop in (0.1, 0.5, 0.9):
        hears = Lossy(Complete(), drop)(alive, key=key).hears()
        off = ~torch.eye(6, dtype=torch.bool)
        kept = hears[:, off].double()  # [3000, 30]
        # Within five standard errors, edge by edge and altogether.
        error = math.sqrt(drop * (1 - drop) / 3000)
        assert (kept.mean(0) - (1 - drop)).abs().max() < 5 * error
        assert (kept.mean() - (1 - drop)).abs() < 5 * error / math.sqrt(30)
        correlation = torch.corrcoef(kept.T) - torch.eye(30)
        assert correlation.abs().max() < 5 / math.sqrt(3000)
    assert Lossy(Complete(), 0)(alive, key=key).degree().min() == 5
    assert Lossy(Complete(), 1)(alive, key=key).degree().max() == 0


def test_lossy_repeats_itself_by_key_and_in_every_layout():
    alive, position = team(50, 12)
    entity_position = team(50, 5, seed=1, dead=0)[1]
    key = torch.randint(-(2**62), 2**62, (50,), generator=torch.Generator().manual_seed(0))
    dense, lists = (
        Lossy(Nearest(4, dense_up_to=up_to), 0.4)(alive, position, entity_position=entity_position, key=key)
        for up_to in (128, 0)
    )
    assert torch.equal(dense.hears(), lists.hears())
    again = Lossy(Nearest(4), 0.4)(alive, position, entity_position=entity_position, key=key)
    other = Lossy(Nearest(4), 0.4)(alive, position, entity_position=entity_position, key=key + 1)
    assert torch.equal(again.hears(), dense.hears()) and not torch.equal(other.hears(), dense.hears())
    assert torch.equal(
        Lossy(Nearest(4), 0.4)(alive[7], position[7], None, entity_position[7], key=key[7]).hears(), dense.hears()[7]
    )


def test_lossy_is_the_same_on_every_device_and_for_ever():
    graph = Lossy(Complete(), 0.5)(torch.ones(8, dtype=torch.bool), key=torch.tensor(2026))
    rows = [int("".join(str(int(heard)) for heard in row), 2) for row in graph.hears()]
    assert rows == [58, 174, 156, 44, 210, 136, 33, 198]
    if torch.cuda.is_available():
        there = Lossy(Complete(), 0.5)(torch.ones(8, dtype=torch.bool, device="cuda"), key=torch.tensor(2026).cuda())
        assert torch.equal(there.hears().cpu(), graph.hears())


def test_given_hears_what_the_world_says_of_the_living():
    alive, _ = team(4, 5)
    hears = torch.rand(4, 5, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    graph = Given()(alive, hears=hears)
    assert graph.n_entities == 3 and not (graph.hears() & ~hears).any()
    expected = hears & alive.unsqueeze(-1) & torch.cat([alive, torch.ones(4, 3, dtype=torch.bool)], -1).unsqueeze(-2)
    expected[..., :5] &= ~torch.eye(5, dtype=torch.bool)
    assert torch.equal(graph.hears(), expected)


def test_given_as_lists_hears_the_first_by_number_and_counts_the_others():
    alive, _ = team(6, 5)
    hears = torch.rand(6, 5, 8, generator=torch.Generator().manual_seed(1)) < 0.6
    dense = Given()(alive, hears=hears)
    assert torch.equal(Given(8)(alive, hears=hears).hears(), dense.hears())
    graph = Given(2)(alive, hears=hears)
    assert graph.mask.shape == (6, 5, 2)
    assert torch.equal(graph.hears(), dense.hears() & (dense.hears().cumsum(-1) <= 2))
    assert torch.equal(graph.dropped, (dense.degree() - graph.degree()).sum(-1)) and int(graph.dropped.min()) > 0


def test_entities_are_chosen_separately_and_may_be_left_out():
    alive, position = torch.ones(4, dtype=torch.bool), torch.arange(4.0).unsqueeze(-1)
    entity_position = torch.tensor([[0.1], [0.2], [0.3]])
    graph = Nearest(1, entity_k=2)(alive, position, entity_position=entity_position)
    assert graph.hears()[0].tolist() == [False, True, False, False, True, True, False]
    assert Nearest(1, entity_k=0)(alive, position, entity_position=entity_position).hears()[:, 4:].sum() == 0
    assert Complete()(alive, entity_present=torch.tensor([True, False])).hears()[0].tolist() == [False] + [True] * 4 + [
        False
    ]
    lists = Nearest(1, entity_k=2, dense_up_to=0)(alive, position, entity_position=entity_position)
    assert lists.mask.shape == (4, 1 + 2 + 1) and torch.equal(lists.hears(), graph.hears())  # one tie in the middle


def test_one_graph_of_a_batch_is_a_graph():
    alive, position = team(3, 5)
    graph = Nearest(2, dense_up_to=0)(alive, position, entity_position=torch.zeros(3, 2, 2))
    assert isinstance(graph[1], AgentGraph) and graph[1].n_entities == 2
    assert torch.equal(graph[1].hears(), graph.hears()[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Nearest(0), "expected k to be a whole number of at least 1 (got 0)"),
        (lambda: Nearest(2.0), "expected k to be a whole number of at least 1 (got 2.0)"),
        (lambda: Nearest(True), "expected k to be a whole number of at least 1 (got True)"),
        (lambda: Nearest(2, entity_k=-1), "expected entity_k to be a whole number of at least 0 (got -1)"),
        (lambda: Nearest(2, ties="slot"), "expected ties to be 'admit' or 'key' (got 'slot')"),
        (lambda: Radius(0), "expected a radius r > 0 (got 0)"),
        (lambda: Radius(math.nan), "expected a radius r > 0 (got nan)"),
        (lambda: Radius(1.0, limit=0), "expected limit to be a whole number of at least 1 (got 0)"),
        (lambda: Lossy(Complete(), 1.5), "expected drop between 0 and 1 (got 1.5)"),
        (
            lambda: Nearest(2)(torch.ones(3, dtype=torch.bool)),
            "expected positions [*, N, P] for topology Nearest (got None)",
        ),
        (
            lambda: Radius(2)(torch.ones(3, dtype=torch.bool)),
            "expected positions [*, N, P] for topology Radius (got None)",
        ),
        (
            lambda: Nearest(2)(torch.ones(3, dtype=torch.bool), torch.zeros(3, 2), torch.ones(2, dtype=torch.bool)),
            "expected entity_position [*, M, P] for topology Nearest (got None)",
        ),
        (
            lambda: Nearest(1, ties="key")(torch.ones(3, dtype=torch.bool), torch.zeros(3, 2)),
            "expected the step's key [*] for topology Nearest with ties='key' (got None)",
        ),
        (
            lambda: Lossy(Complete(), 0.5)(torch.ones(3, dtype=torch.bool)),
            "expected the step's key [*] for topology Lossy (got None)",
        ),
        (lambda: Given()(torch.ones(3, dtype=torch.bool)), "expected `hears` [*, N, N + M] from the world"),
        (lambda: Given(0), "expected k to be a whole number of at least 1 (got 0)"),
    ],
)
def test_wrong_use_is_told_in_one_line(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)
