from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, GCNConv, SAGEConv, TransformerConv

from gcoord.graph import AgentGraph
from gcoord.models import (
    AdditiveKernel,
    ConvKernel,
    EdgeKernel,
    GatedKernel,
    MeanKernel,
    RelationKernel,
    attention,
    list_attention,
)
from gcoord.models.messages import heard, read

DIM, HEADS, EDGE = 16, 4, 3
SIZES = [1, 2, 3, 5, 40]


def conv(of: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda *args, **options: ConvKernel(*args, conv=of, **options)


def apart(*args: Any, **options: Any) -> RelationKernel:
    """A relation kernel that computes as large teams are computed: per head, or along neighbour lists."""
    kernel = RelationKernel(*args, **options)
    kernel.few = 0
    return kernel


def gated(*args: Any, **options: Any) -> GatedKernel:
    """A kernel whose gates are open by chance, each another way."""
    kernel = GatedKernel(*args, openness=0.0, **options)
    nn.init.normal_(kernel.gate.score.weight)
    return kernel


KERNELS: dict[str, Callable[..., nn.Module]] = {
    "relation": RelationKernel,
    "relation_apart": apart,
    "relation_relu": lambda *args, **options: RelationKernel(*args, relu_qkv=True, **options),
    "mean": MeanKernel,
    "sum": lambda *args, **options: MeanKernel(*args, aggregation="sum", **options),
    "gated": gated,
    "additive": AdditiveKernel,
    "edge_mean": EdgeKernel,
    "edge_max": lambda *args, **options: EdgeKernel(*args, aggregation="max", **options),
    "conv": ConvKernel,
    "conv_gatv2": conv(GATv2Conv),
    "conv_transformer": conv(TransformerConv),
}
every_kernel = pytest.mark.parametrize("name", KERNELS)


def team(batch: int, n: int, m: int = 0, share: float = 0.5, dtype: torch.dtype = torch.float32) -> AgentGraph:
    """A random directed dense graph with edge features; agent 0 hears nobody."""
    mask = torch.rand(batch, n, n + m) < share
    mask &= ~torch.eye(n, n + m, dtype=torch.bool)
    mask[:, 0] = False
    present = torch.ones(batch, n + m, dtype=torch.bool)
    edge = torch.randn(batch, n, n + m, EDGE, dtype=dtype)
    return AgentGraph(mask=mask, edge=edge, present=present, n_entities=m, batch_size=[batch])


def listed(graph: AgentGraph) -> AgentGraph:
    """The same graph as neighbour lists in another order, with one slot to spare."""
    order = torch.where(graph.mask, torch.rand(graph.mask.shape), -1.0).argsort(-1, descending=True)
    index = order[..., : int(graph.mask.sum(-1).max()) + 1]
    mask = graph.mask.gather(-1, index)
    edge = graph.edge.gather(2, index.unsqueeze(-1).expand(*index.shape, EDGE))
    return AgentGraph(
        mask=mask,
        index=index,
        edge=edge,
        present=graph.present,
        n_entities=graph.n_entities,
        batch_size=graph.batch_size,
    )


def run(kernel: nn.Module, x: Tensor, graph: AgentGraph, senders: Tensor | None = None) -> list[Tensor]:
    """Output and gradients (of x, senders and parameters) of a fixed weighted sum of the output."""
    x = x.detach().clone().requires_grad_()
    senders = None if senders is None else senders.detach().clone().requires_grad_()
    out = kernel(x, graph, senders)
    weight = torch.linspace(-1, 1, DIM, dtype=x.dtype)
    leaves = [x, *([] if senders is None else [senders]), *kernel.parameters()]
    grads = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
    return [out, *(torch.zeros(()) if grad is None else grad for grad in grads)]


def close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    for left, right in zip(ours, theirs, strict=True):
        assert left.shape == right.shape
        assert (left - right).abs().max() < tolerance * max(1.0, float(right.detach().abs().max()))


def test_relation_is_dgn_by_hand() -> None:
    kernel = RelationKernel(4, heads=2).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[[0, 1, 1], [0, 0, 0], [1, 0, 0]]], dtype=torch.bool)
    out, weights = kernel(x, AgentGraph(mask=mask, batch_size=[1]), return_attention=True)
    key, value = kernel.key_value.weight.chunk(2)
    for i, others in enumerate([[1, 2, 0], [1], [0, 2]]):
        heads = []
        for m in range(2):
            rows = slice(2 * m, 2 * m + 2)
            query = kernel.query.weight[rows] @ x[0, i]
            logits = torch.stack([query @ (key[rows] @ x[0, j]) / 2**0.5 for j in others])
            alpha = logits.exp() / logits.exp().sum()
            heads.append(sum(a * (value[rows] @ x[0, j]) for a, j in zip(alpha, others, strict=True)))
            for a, j in zip(alpha, others, strict=True):
                assert torch.allclose(weights[0, m, i, 3 if j == i else j], a)
        expected = torch.relu(kernel.out.weight @ torch.cat(heads) + kernel.out.bias)
        assert torch.allclose(out[0, i], expected)


def test_edges_are_added_to_keys_and_values() -> None:
    kernel = RelationKernel(4, heads=1, edge_dim=2).double()
    x, edge = torch.randn(1, 2, 4, dtype=torch.float64), torch.randn(1, 2, 2, 2, dtype=torch.float64)
    mask = torch.tensor([[[False, True], [False, False]]])
    out = kernel(x, AgentGraph(mask=mask, edge=edge, batch_size=[1]))
    kv = x[0] @ kernel.key_value.weight.t()
    kv[1] += kernel.edge.weight @ edge[0, 0, 1]
    alpha = (kv[:, :4] @ kernel.query.weight @ x[0, 0] / 2).softmax(0)
    assert torch.allclose(out[0, 0], torch.relu(kernel.out(alpha @ kv[:, 4:])))


@pytest.mark.parametrize("entities", [0, 3])
@pytest.mark.parametrize("loops", [False, True])
def test_the_three_computations_of_attention_agree(monkeypatch: pytest.MonkeyPatch, entities: int, loops: bool) -> None:
    if loops:
        monkeypatch.setattr(attention, "SMALL", 0)
        monkeypatch.setattr(list_attention, "BLOCK", 2 * 4 * 7 * DIM)
    graph = team(4, 7, entities)
    x, things = torch.randn(4, 7, DIM), torch.randn(4, entities, DIM)
    senders = torch.cat([x, things], 1) if entities else None
    few, others = RelationKernel(DIM, HEADS, EDGE), apart(DIM, HEADS, EDGE)
    others.load_state_dict(few.state_dict())
    expected = run(few, x, graph, senders)
    close(run(others, x, graph, senders), expected)
    close(run(others, x, listed(graph), senders), expected)
    close(run(few, x, listed(graph), senders), expected)


@pytest.mark.parametrize("edges", [0, EDGE])
def test_flash_attention_and_ours_agree(edges: int) -> None:
    graph = team(2, 20)
    graph = graph if edges else AgentGraph(mask=graph.mask, present=graph.present, batch_size=[2])
    kernel = RelationKernel(DIM, HEADS, edges)
    x = torch.randn(2, 20, DIM)
    assert kernel.few < 20
    plain, (weighed, weights) = kernel(x, graph), kernel(x, graph, return_attention=True)
    assert (plain - weighed).abs().max() < 1e-5
    kernel.few = 20
    few, few_weights = kernel(x, graph, return_attention=True)
    assert (plain - few).abs().max() < 1e-5
    assert (weights - few_weights).abs().max() < 1e-5


@every_kernel
@pytest.mark.parametrize("self_loop", [True, False])
def test_layouts_agree_on_a_directed_graph_with_a_lonely_node(name: str, self_loop: bool) -> None:
    graph = team(3, 6, 2)
    kernel = KERNELS[name](DIM, HEADS, EDGE, self_loop=self_loop)
    x = torch.randn(3, 6, DIM)
    senders = torch.cat([x, torch.randn(3, 2, DIM)], 1)
    lists = listed(graph)
    close(run(kernel, x, lists, senders), run(kernel, x, graph, senders))
    dense, sparse = kernel(x, graph, senders, True)[1], kernel(x, lists, senders, True)[1]
    k = lists.index.shape[-1]
    index = lists.index.unsqueeze(1).expand(-1, dense.shape[1], -1, -1)
    assert (dense.gather(-1, index) * lists.mask.unsqueeze(1) - sparse[..., :k]).abs().max() < 1e-6
    if self_loop:
        assert (dense[..., -1] - sparse[..., -1]).abs().max() < 1e-6


@every_kernel
@pytest.mark.parametrize("n", SIZES)
def test_equivariant_to_the_order_of_agents(name: str, n: int) -> None:
    graph = team(2, n)
    kernel = KERNELS[name](DIM, HEADS, EDGE)
    x, order = torch.randn(2, n, DIM), torch.randperm(n)
    moved = AgentGraph(mask=graph.mask[:, order][:, :, order], edge=graph.edge[:, order][:, :, order], batch_size=[2])
    with torch.no_grad():
        assert (kernel(x[:, order], moved) - kernel(x, graph)[:, order]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["relation", "relation_apart", "mean", "additive", "edge_mean"])
def test_equivariant_with_200_agents_in_one_radius(name: str) -> None:
    mask = ~torch.eye(200, dtype=torch.bool).unsqueeze(0)
    kernel = KERNELS[name](DIM, HEADS)
    x, order = torch.randn(1, 200, DIM), torch.randperm(200)
    graph = AgentGraph(mask=mask, batch_size=[1])
    with torch.no_grad():
        out = kernel(x, graph)
        assert (kernel(x[:, order], graph) - out[:, order]).abs().max() < 1e-5
        # every one of the 199 is heard
        assert (out - kernel(torch.cat([x[:, :-1], -x[:, -1:]], 1), graph)).abs().amax(-1).gt(0).all()


def padded(graph: AgentGraph, x: Tensor, dead: int) -> tuple[AgentGraph, Tensor]:
    batch, n = x.shape[:2]
    mask, present = (torch.zeros(batch, n + dead, *rest, dtype=torch.bool) for rest in ((n + dead,), ()))
    edge = torch.full((batch, n + dead, n + dead, EDGE), torch.nan, dtype=x.dtype)
    mask[:, :n, :n], present[:, :n], edge[:, :n, :n] = graph.mask, True, graph.edge
    wide = torch.cat([x, torch.full((batch, dead, DIM), torch.nan, dtype=x.dtype)], 1)
    return AgentGraph(mask=mask, edge=edge, present=present, batch_size=[batch]), wide


@every_kernel
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", [1, 3, 13])
def test_dead_slots_change_nothing(name: str, dtype: torch.dtype, tolerance: float, n: int) -> None:
    graph, x = team(2, n, dtype=dtype), torch.randn(2, n, DIM, dtype=dtype)
    kernel = KERNELS[name](DIM, HEADS, EDGE).to(dtype)
    # 13 and 5 more cross from one computation of attention to another
    wide, rows = padded(graph, x, 5)
    for form in (wide, listed(wide)):
        out, grad, *rest = run(kernel, rows, form)
        assert (out[:, n:] == 0).all() and (grad[:, n:] == 0).all()
        close([out[:, :n], grad[:, :n], *rest], run(kernel, x, graph), tolerance)


@every_kernel
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n", [6, 20])
def test_garbage_in_absent_rows_changes_no_bit(name: str, sparse: bool, n: int) -> None:
    graph = team(2, n, 2)
    gone = torch.zeros(2, n + 2, dtype=torch.bool)
    gone[:, 1] = gone[0, -1] = True
    graph.present = ~gone
    graph.mask = graph.mask & ~gone.unsqueeze(1) & ~gone[:, :n].unsqueeze(2)
    graph = listed(graph) if sparse else graph
    kernel = KERNELS[name](DIM, HEADS, EDGE)
    x, things = torch.randn(2, n, DIM), torch.randn(2, 2, DIM)
    expected = None
    for garbage in (0.0, torch.nan, torch.inf, -1e30):
        senders = torch.where(gone.unsqueeze(-1), garbage, torch.cat([x, things], 1))
        graph.edge = torch.where(graph.mask.unsqueeze(-1), graph.edge, garbage)
        got = run(kernel, senders[:, :n], graph, senders)
        expected = got if expected is None else expected
        assert all(torch.equal(left, right) for left, right in zip(got, expected, strict=True))
        assert all(tensor.isfinite().all() for tensor in got)


@every_kernel
def test_batches_equal_one_by_one(name: str) -> None:
    graph, x = team(6, 4), torch.randn(6, 4, DIM)
    kernel = KERNELS[name](DIM, HEADS, EDGE)
    out = kernel(x, graph)
    for i in range(6):
        assert (kernel(x[i : i + 1], graph[i : i + 1]) - out[i : i + 1]).abs().max() < 1e-5
        assert (kernel(x[i], graph[i]) - out[i]).abs().max() < 1e-5
    unrolled, weights = kernel(x.view(2, 3, 4, DIM), graph.reshape(2, 3), return_attention=True)
    assert unrolled.shape == (2, 3, 4, DIM) and weights.shape[:2] == (2, 3)
    assert (unrolled.flatten(0, 1) - out).abs().max() < 1e-5


@every_kernel
@pytest.mark.parametrize("n", [5, 30])
def test_a_lonely_agent_gets_itself_or_zeros(name: str, n: int) -> None:
    x = torch.randn(2, n, DIM)
    nobody = AgentGraph(mask=torch.zeros(2, n, n, dtype=torch.bool), edge=torch.randn(2, n, n, EDGE), batch_size=[2])
    for graph in (nobody, listed(nobody)):
        out, weights = KERNELS[name](DIM, HEADS, EDGE)(x, graph, return_attention=True)
        assert out.isfinite().all() and out.abs().amax(-1).gt(0).float().mean() > 0.9
        assert torch.allclose(weights[..., -1], torch.ones(())) and (weights[..., :-1] == 0).all()
        results = run(KERNELS[name](DIM, HEADS, EDGE, self_loop=False), x, graph)
        assert all((result == 0).all() for result in results)


@every_kernel
@pytest.mark.parametrize("n", [4, 40])
def test_attention_rows_sum_to_one_where_something_is_heard(name: str, n: int) -> None:
    graph, x = team(3, n), torch.randn(3, n, DIM)
    for form in (graph, listed(graph)):
        for self_loop in (True, False):
            weights = KERNELS[name](DIM, HEADS, EDGE, self_loop=self_loop)(x, form, return_attention=True)[1]
            assert weights.shape[-1] == form.mask.shape[-1] + self_loop
            total = torch.ones(3, n) if self_loop else form.mask.any(-1).float()
            assert (weights.sum(-1) - total.unsqueeze(1)).abs().max() < 1e-5
            unheard = ~form.mask.unsqueeze(1).expand(-1, weights.shape[1], -1, -1)
            assert (weights[..., : form.mask.shape[-1]][unheard] == 0).all()


def test_attention_has_gradients() -> None:
    graph, x = team(2, 5), torch.randn(2, 5, DIM)
    few, others = RelationKernel(DIM, HEADS, EDGE), apart(DIM, HEADS, EDGE)
    others.load_state_dict(few.state_dict())
    grads = []
    for kernel, form in ((few, graph), (others, graph), (others, listed(graph))):
        weights = kernel(x, form, return_attention=True)[1]
        grads.append(torch.autograd.grad(weights.square().sum(), [kernel.query.weight, kernel.edge.weight]))
        assert grads[0][0].abs().max() > 0
        close(list(grads[-1]), list(grads[0]))


def test_without_self_loop_no_own_sender_features_come_back() -> None:
    graph = AgentGraph(mask=~torch.eye(5, dtype=torch.bool).unsqueeze(0), batch_size=[1])
    for build in (RelationKernel, GatedKernel, MeanKernel, AdditiveKernel, EdgeKernel, ConvKernel):
        kernel = build(DIM, HEADS, in_dim=6, sender_dim=9, self_loop=False)
        x, senders = torch.randn(1, 5, 6), torch.randn(1, 5, 9, requires_grad=True)
        for i in range(5):
            (grad,) = torch.autograd.grad(kernel(x, graph, senders)[0, i].sum(), senders)
            assert (grad[0, i] == 0).all()
            assert grad[0].abs().sum() > 0


@pytest.mark.parametrize("self_loop", [True, False])
@pytest.mark.parametrize("edges", [0, EDGE])
def test_additive_kernel_equals_gatv2(self_loop: bool, edges: int) -> None:
    graph, x = team(1, 9, share=0.4), torch.randn(1, 9, DIM)
    kernel = AdditiveKernel(DIM, HEADS, edges, self_loop=self_loop)
    nn.init.normal_(kernel.bias)
    layer = GATv2Conv(DIM, DIM // HEADS, HEADS, edge_dim=edges or None, add_self_loops=self_loop, fill_value=0.0)
    with torch.no_grad():
        layer.lin_l.weight.copy_(kernel.sender.weight), layer.lin_l.bias.copy_(kernel.sender.bias)
        layer.lin_r.weight.copy_(kernel.receiver.weight), layer.lin_r.bias.copy_(kernel.receiver.bias)
        layer.att.copy_(kernel.attention.unsqueeze(0)), layer.bias.copy_(kernel.bias)
        if edges:
            layer.lin_edge.weight.copy_(kernel.edge.weight)
    receiver, sender = graph.mask[0].nonzero(as_tuple=True)
    attributes = graph.edge[0, receiver, sender] if edges else None
    theirs = layer(x[0], torch.stack([sender, receiver]), attributes).relu()
    # a lonely agent without self-loop is zeros here, relu(bias) there
    rows = slice(0 if self_loop else 1, None)
    for form in (graph, listed(graph)):
        assert (kernel(x, form)[0, rows] - theirs[rows]).abs().max() < 1e-5


@pytest.mark.parametrize("of", [SAGEConv, GCNConv, GATv2Conv, TransformerConv])
def test_conv_kernel_equals_a_pyg_batch(of: Any) -> None:
    graph, x = team(3, 5, 2), torch.randn(3, 7, DIM)
    kernel = ConvKernel(DIM, HEADS, EDGE, conv=of)
    team_of, receiver, sender = graph.mask.nonzero(as_tuple=True)
    edge_index = torch.stack([team_of * 7 + sender, team_of * 7 + receiver])
    extra = [graph.edge[team_of, receiver, sender]] if kernel.takes_edge else []
    assert kernel.takes_edge == (of in (GATv2Conv, TransformerConv))
    theirs = kernel.conv(x.view(21, DIM), edge_index, *extra).relu().view(3, 7, DIM)[:, :5]
    assert (kernel(x[:, :5], graph, x) - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("loops", [False, True])
def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch, loops: bool) -> None:
    if loops:
        monkeypatch.setattr(attention, "SMALL", 0)
        monkeypatch.setattr(list_attention, "BLOCK", 1)
        monkeypatch.setattr(list_attention, "LONG", 0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    n, s, h, d, b, e, k = 2, 3, 2, 2, 2, 2, 3
    cap = attention.caps(torch.rand(n, s, 1, b) < 0.6, torch.float64)
    two = (leaf(n, 1, h, d, b), leaf(s, 2, h, d, b), leaf(2, h, d, e), leaf(n, s, e, b), cap)
    assert torch.autograd.gradcheck(attention.few_attention, two)
    one = (leaf(s, 3, h, d, b), None, None, None, attention.caps(torch.rand(s, s, 1, b) < 0.6, torch.float64))
    assert torch.autograd.gradcheck(attention.few_attention, one)
    index, cap = torch.randint(0, 4, (5, k)), attention.caps(torch.rand(k, 5) < 0.6, torch.float64)
    apart = (leaf(5, 1, h * d), leaf(4, 2, h * d), leaf(2, h, d, e), leaf(k, e, 5), cap, index, h)
    assert torch.autograd.gradcheck(list_attention.list_attention, apart)
    together = (leaf(5, 3, h * d), None, leaf(2, h, d, e), leaf(k, e, 5), cap, index, h)
    assert torch.autograd.gradcheck(list_attention.list_attention, together)
    assert torch.autograd.gradcheck(attention.project_in, (leaf(b, n, 3), leaf(4, 3), leaf(4)))
    assert torch.autograd.gradcheck(attention.project_out, (leaf(n, 3, b), leaf(4, 3), leaf(4)))
    assert torch.autograd.gradcheck(read, (leaf(3, 2), torch.tensor([True, False, True])))


def test_a_second_backward_raises() -> None:
    graph, x = team(2, 5), torch.randn(2, 5, DIM, requires_grad=True)
    for kernel, form in ((RelationKernel(DIM, HEADS, EDGE), graph), (apart(DIM, HEADS, EDGE), listed(graph))):
        (grad,) = torch.autograd.grad(kernel(x, form).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@pytest.mark.parametrize("n", [4, 40])
def test_relation_runs_under_bfloat16_autocast(n: int) -> None:
    graph, x = team(2, n), torch.randn(2, n, DIM)
    kernel = RelationKernel(DIM, HEADS, EDGE)
    for form in (graph, listed(graph)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = kernel(x, form)
        out.sum().backward()
        assert (out.float() - kernel(x, form)).abs().max() < 0.1


def test_masked_slots_may_hold_any_index() -> None:
    graph, x = listed(team(2, 5)), torch.randn(2, 5, DIM)
    for name in KERNELS:
        kernel = KERNELS[name](DIM, HEADS, EDGE)
        expected = kernel(x, graph)
        wild = graph.clone()
        wild.index = torch.where(graph.mask, graph.index, 10**9)
        assert torch.equal(kernel(x, wild), expected)


@pytest.mark.parametrize("self_loop", [True, False])
def test_slots_that_are_not_heard_are_spread_over_all_senders(self_loop: bool) -> None:
    graph = listed(team(2, 5))
    form = heard(graph.mask, graph.index, None, self_loop)
    own = torch.arange(5).view(1, 5, 1).expand(2, 5, graph.mask.shape[-1] + self_loop)
    others = graph.mask if not self_loop else torch.cat([graph.mask, graph.mask.new_zeros(2, 5, 1)], -1)
    assert not graph.mask.all() and torch.equal(form.index[~others], own[~others])
    assert torch.equal(form.index[others], graph.index[graph.mask])


def test_sizes_that_do_not_fit_are_refused() -> None:
    graph, x = team(2, 5, 2), torch.randn(2, 5, DIM)
    with pytest.raises(ValueError, match="dim to be a multiple of heads"):
        RelationKernel(10, 4)
    kernel = RelationKernel(DIM, HEADS)
    with pytest.raises(ValueError, match="all 7 senders"):
        kernel(x, graph)
    with pytest.raises(ValueError, match="x of shape"):
        kernel(x[..., 1:], graph)
    with pytest.raises(ValueError, match="3 edge features"):
        RelationKernel(DIM, HEADS, EDGE)(x, AgentGraph(mask=graph.mask[..., :5], batch_size=[2]))
    with pytest.raises(ValueError, match="expected aggregation"):
        MeanKernel(DIM, aggregation="max")
