from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gcoord.graph import AgentGraph
from gcoord.models import (
    AdditiveKernel,
    ConvKernel,
    EdgeKernel,
    GatedKernel,
    GraphEncoder,
    MeanKernel,
    MLPEncoder,
    RelationKernel,
)
from gcoord.models.senses import cnn, mlp, sense

OWN, DIM, THING, EDGE = 6, 16, 4, 3
SIZES = [1, 2, 3, 5, 40]


def graph_encoder(kernel: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda **sizes: GraphEncoder(OWN, DIM, heads=4, kernel=kernel, **sizes)


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "relation": graph_encoder(RelationKernel),
    "mean": graph_encoder(MeanKernel),
    "gated": graph_encoder(GatedKernel),
    "additive": graph_encoder(AdditiveKernel),
    "edge": graph_encoder(EdgeKernel),
    "conv": graph_encoder(ConvKernel),
    "relay": lambda **sizes: GraphEncoder(OWN, DIM, heads=4, relay=3 if sizes.get("entity_dim") else 0, **sizes),
    "mlp": lambda **sizes: MLPEncoder(OWN, DIM, **sizes),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


class Team:
    """Agents and things at random places, who hear those nearby; the last edge feature is the distance."""

    def __init__(self, batch: int, n: int, m: int = 2, reach: float = 0.6, dtype: torch.dtype = torch.float32) -> None:
        self.own, self.things = torch.randn(batch, n, OWN, dtype=dtype), torch.randn(batch, m, THING, dtype=dtype)
        place = torch.rand(batch, n + m, 2, dtype=dtype)
        way = place.unsqueeze(1) - place[:, :n].unsqueeze(2)
        distance = way.norm(dim=-1, keepdim=True)
        self.mask = (distance.squeeze(-1) < reach) & ~torch.eye(n, n + m, dtype=torch.bool)
        self.edge = torch.cat([way, distance], -1)
        self.present = torch.ones(batch, n + m, dtype=torch.bool)
        self.n, self.m = n, m

    @property
    def graph(self) -> AgentGraph:
        return AgentGraph(
            mask=self.mask, edge=self.edge, present=self.present, n_entities=self.m, batch_size=self.mask.shape[:1]
        )

    @property
    def lists(self) -> AgentGraph:
        order = torch.where(self.mask, torch.rand(self.mask.shape), -1.0).argsort(-1, descending=True)
        index = order[..., : int(self.mask.sum(-1).max()) + 1]
        edge = self.edge.gather(2, index.unsqueeze(-1).expand(*index.shape, EDGE))
        return AgentGraph(
            mask=self.mask.gather(-1, index),
            index=index,
            edge=edge,
            present=self.present,
            n_entities=self.m,
            batch_size=self.mask.shape[:1],
        )

    def reordered(self, agents: Tensor, things: Tensor) -> Team:
        """The same team with its agents and its things in another order."""
        other = Team(1, self.n, self.m)
        columns = torch.cat([agents, self.n + things])
        other.own, other.things = self.own[:, agents], self.things[:, things]
        other.mask, other.edge = self.mask[:, agents][:, :, columns], self.edge[:, agents][:, :, columns]
        other.present = self.present[:, columns]
        return other

    def padded(self, agents: int, things: int) -> Team:
        """The same team with dead agents and absent things between, NaN all over them."""
        batch = len(self.own)
        other = Team(batch, self.n + agents, self.m + things, dtype=self.own.dtype)
        columns = torch.cat([torch.arange(self.n), self.n + agents + torch.arange(self.m)])
        rows = columns[: self.n]
        for name, source in (("own", self.own), ("things", self.things), ("edge", self.edge)):
            getattr(other, name).fill_(torch.nan)
            if name == "own":
                other.own[:, rows] = source
            elif name == "things":
                other.things[:, : self.m] = source
            else:
                other.edge[:, rows[:, None], columns] = source
        other.mask.fill_(False)
        other.present.fill_(False)
        other.mask[:, rows[:, None], columns] = self.mask
        other.present[:, columns] = True
        return other


def run(encoder: nn.Module, team: Team, graph: AgentGraph | None = None) -> list[Tensor]:
    """Features and gradients (of own, entities and parameters) of a fixed weighted sum of them."""
    own, things = team.own.clone().requires_grad_(), team.things.clone().requires_grad_()
    h = encoder(own, team.graph if graph is None else graph, things)
    weight = torch.linspace(-1, 1, h.shape[-1], dtype=h.dtype)
    return [h, *torch.autograd.grad((h * weight).sum(), [own, things, *encoder.parameters()])]


@every_encoder
@pytest.mark.parametrize("edges", [0, EDGE])
@pytest.mark.parametrize("n", SIZES)
def test_equivariant_to_the_order_of_agents_and_entities(name: str, edges: int, n: int) -> None:
    team, encoder = Team(2, n), ENCODERS[name](entity_dim=THING, edge_dim=edges)
    agents, things = torch.randperm(n), torch.randperm(2)
    other = team.reordered(agents, things)
    with torch.no_grad():
        h = encoder(team.own, team.graph, team.things)
        assert h.shape == (2, n, encoder.out_dim)
        assert (encoder(other.own, other.graph, other.things) - h[:, agents]).abs().max() < 1e-5


@every_encoder
def test_equivariant_with_200_agents_in_one_radius(name: str) -> None:
    team, encoder = Team(1, 200, reach=10.0), ENCODERS[name](entity_dim=THING, edge_dim=EDGE)
    agents, things = torch.randperm(200), torch.randperm(2)
    other = team.reordered(agents, things)
    with torch.no_grad():
        h = encoder(team.own, team.graph, team.things)
        assert (encoder(other.own, other.graph, other.things) - h[:, agents]).abs().max() < 1e-5


@every_encoder
@pytest.mark.parametrize("edges", [0, EDGE])
def test_layouts_agree(name: str, edges: int) -> None:
    team, encoder = Team(3, 7), ENCODERS[name](entity_dim=THING, edge_dim=edges)
    for left, right in zip(run(encoder, team, team.lists), run(encoder, team), strict=True):
        assert (left - right).abs().max() < 1e-5 * max(1.0, float(right.detach().abs().max()))


@every_encoder
@pytest.mark.parametrize("edges", [0, EDGE])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_dead_slots_change_nothing(name: str, edges: int, dtype: torch.dtype, tolerance: float) -> None:
    team, encoder = Team(3, 5, dtype=dtype), ENCODERS[name](entity_dim=THING, edge_dim=edges).to(dtype)
    wide = team.padded(14, 3)
    h, own, things, *rest = run(encoder, team)
    for graph in (wide.graph, wide.lists):
        wide_h, wide_own, wide_things, *wide_rest = run(encoder, wide, graph)
        assert (wide_h[:, 5:] == 0).all() and (wide_own[:, 5:] == 0).all() and (wide_things[:, 2:] == 0).all()
        ours = [wide_h[:, :5], wide_own[:, :5], wide_things[:, :2], *wide_rest]
        for left, right in zip(ours, [h, own, things, *rest], strict=True):
            assert (left - right).abs().max() < tolerance * max(1.0, float(right.detach().abs().max()))


@every_encoder
def test_garbage_in_dead_slots_changes_no_bit(name: str) -> None:
    team, encoder = Team(3, 5).padded(4, 2), ENCODERS[name](entity_dim=THING, edge_dim=EDGE)
    expected = run(encoder, team)
    for garbage in (0.0, torch.inf, -1e30):
        for values in (team.own, team.things, team.edge):
            values.nan_to_num_(nan=garbage, posinf=garbage, neginf=garbage)
        got = run(encoder, team)
        assert all(torch.equal(left, right) for left, right in zip(got, expected, strict=True))
        assert all(tensor.isfinite().all() for tensor in got)
        for values in (team.own[:, 5:], team.things[:, 2:], team.edge[:, 5:]):
            values.fill_(torch.nan)


@every_encoder
def test_unrolled_over_time_equals_step_by_step(name: str) -> None:
    team, encoder = Team(6, 4), ENCODERS[name](entity_dim=THING, edge_dim=EDGE)
    h = encoder(team.own, team.graph, team.things)
    rows = encoder(team.own.view(2, 3, 4, OWN), team.graph.reshape(2, 3), team.things.view(2, 3, 2, THING))
    assert (rows.flatten(0, 1) - h).abs().max() < 1e-5
    for i in range(6):
        assert (encoder(team.own[i], team.graph[i], team.things[i]) - h[i]).abs().max() < 1e-5


@every_encoder
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_nobody_outside_the_hops_has_influence(name: str, rounds: int) -> None:
    # a line on which everyone hears the next one only; the thing stands at its end
    n = 7
    mask = torch.zeros(1, n, n + 1, dtype=torch.bool)
    mask[0, range(n - 1), range(1, n)] = True
    mask[0, n - 1, n] = True
    graph = AgentGraph(mask=mask, edge=torch.rand(1, n, n + 1, EDGE), n_entities=1, batch_size=[1])
    if name == "mlp":
        encoder, hops = ENCODERS[name](entity_dim=THING, edge_dim=EDGE), 1
    else:
        encoder, hops = ENCODERS[name](entity_dim=THING, edge_dim=EDGE, rounds=rounds), rounds
    own, thing = torch.randn(1, n, OWN, requires_grad=True), torch.randn(1, 1, THING, requires_grad=True)
    h = encoder(own, graph, thing)
    for i in range(n):
        on_own, on_thing = torch.autograd.grad(h[0, i].sum(), [own, thing], retain_graph=True)
        reach = torch.arange(n).sub(i)
        outside = (reach < 0) | (reach > hops)
        assert (on_own[0, outside] == 0).all()
        assert (on_thing == 0).all() == (n - i > hops)
        assert on_own[0, min(i + 1, n - 1)].abs().sum() > 0


def test_features_of_all_rounds_are_concatenated() -> None:
    team, encoder = Team(2, 4, 0), GraphEncoder(OWN, DIM, rounds=2, heads=4)
    h, attention = encoder(team.own, team.graph, return_attention=True)
    x0 = encoder.sense(team.own)
    x1 = encoder.kernels[0](x0, team.graph)
    assert encoder.out_dim == 3 * DIM
    assert torch.equal(h, torch.cat([x0, x1, encoder.kernels[1](x1, team.graph)], -1))
    assert [weights.shape for weights in attention] == [(2, 4, 4, 5)] * 2


def test_entities_are_heard_in_every_round_and_hear_nothing() -> None:
    team, encoder = Team(2, 4, 3, reach=10.0), GraphEncoder(OWN, DIM, rounds=2, heads=4, entity_dim=THING)
    x = encoder.sense(team.own)
    things = encoder.sense_entity(team.things)
    for kernel in encoder.kernels:
        x = kernel(x, team.graph, torch.cat([x, things], 1))
    assert torch.equal(encoder(team.own, team.graph, team.things)[..., -DIM:], x)


def test_mlp_sees_its_nearest_in_order() -> None:
    encoder = MLPEncoder(OWN, DIM, THING, EDGE, slots=2, entity_slots=1)
    encoder.mlp = nn.Identity()
    own, things = torch.randn(1, 4, OWN), torch.randn(1, 2, THING)
    edge = torch.rand(1, 4, 6, EDGE)
    edge[0, 0, :, -1] = torch.tensor([0.0, 0.3, 0.1, 0.2, 0.9, 0.8])
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 0, 1:] = True
    mask[0, 0, 2] = False
    seen = encoder(own, AgentGraph(mask=mask, edge=edge, n_entities=2, batch_size=[1]), things)
    one = torch.ones(1)
    expected = [
        own[0, 0],
        own[0, 3],
        edge[0, 0, 3],
        one,
        own[0, 1],
        edge[0, 0, 1],
        one,
        things[0, 1],
        edge[0, 0, 5],
        one,
    ]
    assert torch.equal(seen[0, 0], torch.cat(expected))
    # who hears nobody sees itself and zeros
    assert torch.equal(seen[0, 1, :OWN], own[0, 1]) and (seen[0, 1, OWN:] == 0).all()


def test_mlp_without_geometry_sees_the_mean() -> None:
    encoder = MLPEncoder(OWN, DIM, THING)
    encoder.mlp = nn.Identity()
    team = Team(1, 4, 2, reach=10.0)
    seen = encoder(team.own, team.graph, team.things)[0, 0]
    one = torch.ones(1)
    expected = torch.cat([team.own[0, 0], team.own[0, 1:].mean(0), one, team.things[0].mean(0), one])
    assert torch.allclose(seen, expected)


@pytest.mark.parametrize("name", ["graph", "mlp"])
@pytest.mark.parametrize("shape", [(3, 7, 7), (4, 84, 84), (2, 13, 9), (1, 1, 1), (3, 20, 40)])
def test_images_of_any_size_are_sensed(name: str, shape: tuple[int, int, int]) -> None:
    encoder = GraphEncoder(shape, DIM, heads=4) if name == "graph" else MLPEncoder(shape, DIM)
    graph = Team(2, 3, 0).graph
    graph.present = torch.tensor([[True, True, False], [True, True, True]])
    graph.mask = graph.mask & graph.present.unsqueeze(1) & graph.present.unsqueeze(2)
    own = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    h = encoder(own, graph)
    assert h.shape == (2, 3, encoder.out_dim) and (h[0, 2] == 0).all()
    assert torch.allclose(encoder(own.float() / 255, graph), h, atol=1e-6)
    other = own.clone()
    other[0, 2] = 7
    assert torch.equal(encoder(other, graph), h)


@pytest.mark.parametrize("name", ["graph", "mlp"])
def test_orthogonal_init(name: str) -> None:
    build = GraphEncoder if name == "graph" else MLPEncoder
    encoder = build(OWN, DIM, orthogonal_init=True)
    for layer in encoder.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.t()
            assert torch.allclose(weight @ weight.t(), 2 * torch.eye(len(weight)), atol=1e-5)
            assert layer.bias is None or (layer.bias == 0).all()


def test_same_weights_for_any_number_of_agents_and_entities() -> None:
    for build in ENCODERS.values():
        encoder = build(entity_dim=THING, edge_dim=EDGE)
        for n, m in ((1, 0), (1, 1), (2, 5), (40, 3)):
            team = Team(2, n, m)
            assert encoder(team.own, team.graph, team.things if m else None).shape == (2, n, encoder.out_dim)


def test_sizes_that_do_not_fit_are_refused() -> None:
    team = Team(2, 4)
    for build in (GraphEncoder, MLPEncoder):
        with pytest.raises(ValueError, match="entity_dim of at least 1"):
            build(OWN)(team.own, team.graph, team.things)
        with pytest.raises(ValueError, match="entities of shape"):
            build(OWN, entity_dim=THING)(team.own, team.graph)
        with pytest.raises(ValueError, match="9 edge features"):
            build(OWN, entity_dim=THING, edge_dim=9)(team.own, team.graph, team.things)
    with pytest.raises(ValueError, match="expected rounds"):
        GraphEncoder(OWN, rounds=-1)
    with pytest.raises(ValueError, match="expected own_dim"):
        GraphEncoder((3, 4))


def test_senses() -> None:
    assert mlp(5, 8)(torch.randn(2, 3, 5)).shape == (2, 3, 8) and mlp(5, 8).out_dim == 8
    assert cnn((3, 7, 7), 8)(torch.rand(2, 3, 3, 7, 7)).shape == (2, 3, 8)
    assert sense((5,), 8).rank == 1 and sense((3, 84, 84), 8).rank == 3
    with pytest.raises(ValueError, match="positive sizes"):
        mlp(0, 8)


@pytest.mark.parametrize("side", [3, 5, 7, 11, 12, 13, 14, 15, 16, 17])
def test_every_cell_of_a_grid_is_read(side: int) -> None:
    image = torch.rand(64, 2, side, side, requires_grad=True)
    cnn((2, side, side), 32)(image).sum().backward()
    assert image.grad is not None and (image.grad.abs().amax((0, 1)) > 0).all()
