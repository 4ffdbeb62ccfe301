"""Teams of several kinds: each agent is served by its own kind's network and acts in its own space."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gcoord.models.heads import Categorical, CategoricalChoice, QHead, TanhNormal, TanhNormalChoice, greedy
from gcoord.models.kinds import ByKind, KindHeads, KindQ, policy_head, q_head
from gcoord.spec import Continuous, Discrete, TeamSpec

DIM = 8
MOVE = Continuous((-1.0, 0.0), (1.0, 4.0))
TURN = Continuous((-3.0,), (3.0,))
SPACES = {
    "discrete": (Discrete(3), Discrete(5)),
    "continuous": (MOVE, TURN),
    "mixed": (Discrete(3), MOVE),
    "mixed_wide": (MOVE, Discrete(5), TURN),
}
SIZES = [1, 2, 3, 5, 40]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def spec(*actions: Discrete | Continuous) -> TeamSpec:
    names = tuple(f"kind{k}" for k in range(len(actions)))
    return TeamSpec(num_envs=2, n_agents=3, own=(4,), actions=actions, kinds=names, reward=("own",) * len(actions))


def one_kind(heads: KindHeads, kind: int, h: torch.Tensor) -> CategoricalChoice | TanhNormalChoice:
    return heads.heads[kind](h)


@pytest.mark.parametrize("n", SIZES)
def test_every_row_goes_through_its_kinds_network(n):
    widths = iter([2, 5, 3])
    network = ByKind(lambda: nn.Linear(DIM, next(widths)), 3)
    x, kind = torch.randn(4, n, DIM), torch.randint(3, (4, n))
    out = network(x, kind)
    assert out.shape == (4, n, 5)
    for b in range(4):
        for i in range(n):
            expected = network.networks[kind[b, i]](x[b, i])
            torch.testing.assert_close(out[b, i, : len(expected)], expected)
            assert (out[b, i, len(expected) :] == 0).all()


def test_networks_learn_from_their_own_kind_only():
    network = ByKind(lambda: nn.Linear(DIM, 3), 3)
    network(torch.randn(4, 5, DIM), torch.full((4, 5), 1)).sum().backward()
    assert [bool(layer.weight.grad is not None and layer.weight.grad.any()) for layer in network.networks] == [
        False,
        True,
        False,
    ]


def test_one_kind_is_full_sharing_and_needs_no_kind():
    network = ByKind(lambda: nn.Linear(DIM, 3), 1)
    x = torch.randn(2, 4, DIM)
    assert torch.equal(network(x), network.networks[0](x))
    with pytest.raises(ValueError, match="expected `kind`"):
        ByKind(lambda: nn.Linear(DIM, 3), 2)(x)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("n", SIZES)
def test_heads_by_kind_equal_the_heads_one_by_one(space, n):
    head = policy_head(spec(*space), DIM, gain=1.0)
    h, kind = torch.randn(6, n, DIM), torch.randint(len(space), (6, n))
    choice = head(h, kind=kind)
    action = choice.sample()
    numbers = {name: getattr(choice, name)() for name in ("mode", "entropy")}
    log_prob = choice.log_prob(action)
    width = max(a.n for a in space)
    all_discrete = all(isinstance(a, Discrete) for a in space)
    assert action.shape == (6, n) if all_discrete else action.shape == (6, n, width)
    assert action.dtype == (torch.long if all_discrete else torch.float32)
    for b in range(6):
        for i in range(n):
            kind_action = space[kind[b, i]]
            own = one_kind(head, int(kind[b, i]), h[b : b + 1, i : i + 1])
            if isinstance(kind_action, Discrete):
                index = action[b, i] if all_discrete else action[b, i, 0]
                assert index in range(kind_action.n)
                mode = numbers["mode"][b, i] if all_discrete else numbers["mode"][b, i, 0]
                assert own.mode().item() == mode
                mine = index.long().view(1, 1)
                if not all_discrete:
                    assert (action[b, i, 1:] == 0).all()
            else:
                mine = action[b, i, : kind_action.n].view(1, 1, -1)
                assert (mine >= torch.tensor(kind_action.low)).all() and (mine <= torch.tensor(kind_action.high)).all()
                torch.testing.assert_close(numbers["mode"][b, i, : kind_action.n], own.mode()[0, 0])
                assert (action[b, i, kind_action.n :] == 0).all()
            torch.testing.assert_close(log_prob[b, i], own.log_prob(mine)[0, 0])
            torch.testing.assert_close(numbers["entropy"][b, i], own.entropy()[0, 0])
    torch.testing.assert_close(choice.kl(choice), torch.zeros(6, n))
    assert (choice.kl(head(h + 1.0, kind=kind)) > 0).all()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_stored_actions_keep_their_log_prob_and_gradients_are_finite(space):
    head = policy_head(spec(*space), DIM, gain=3.0)
    h, kind = torch.randn(50, 7, DIM), torch.randint(len(space), (50, 7))
    with torch.no_grad():
        choice = head(h, kind=kind)
        action = choice.sample()
        stored = choice.log_prob(action)
    again = head(h, kind=kind)
    assert ((again.log_prob(action) - stored).exp() - 1).abs().max() < 1e-6
    (again.log_prob(action).sum() + again.entropy().sum()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert all(p.grad.abs().max() > 0 for p in head.parameters())


@pytest.mark.parametrize("space", [SPACES["discrete"], SPACES["mixed"]])
def test_availability_and_the_kinds_own_actions_both_bind(space):
    head = policy_head(spec(*space), DIM)
    width = max(a.n for a in space)
    kind = torch.zeros(300, 4, dtype=torch.long)
    available = torch.ones(300, 4, width, dtype=torch.bool)
    available[..., 1] = False
    action = head(torch.randn(300, 4, DIM), available, kind).sample()
    index = action if action.dim() == 2 else action[..., 0].long()
    assert set(index.flatten().tolist()) == {0, 2}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_dead_slots_may_carry_any_kind_and_nothing_available(space):
    head = policy_head(spec(*space), DIM)
    h = torch.randn(4, 5, DIM)
    kind = torch.tensor([0, 1, 0, 99, -3]).expand(4, 5)
    available = torch.ones(4, 5, max(a.n for a in space), dtype=torch.bool)
    available[:, 3:] = False
    choice = head(h, available, kind)
    for number in (choice.sample().float(), choice.log_prob(choice.mode()), choice.entropy()):
        assert number.isfinite().all()
    torch.testing.assert_close(choice.entropy()[:, :3], head(h[:, :3], available[:, :3], kind[:, :3]).entropy())


def test_the_head_follows_from_the_spec():
    assert isinstance(policy_head(spec(Discrete(4)), DIM), Categorical)
    assert isinstance(policy_head(spec(MOVE), DIM), TanhNormal)
    assert isinstance(policy_head(spec(*SPACES["mixed"]), DIM), KindHeads)
    assert isinstance(q_head(spec(Discrete(4)), DIM), QHead)
    assert isinstance(q_head(spec(*SPACES["discrete"]), DIM), KindQ)
    box = policy_head(spec(MOVE), DIM)
    assert box.low.tolist() == [-1, 0] and box.high.tolist() == [1, 4]
    with pytest.raises(ValueError, match=r"expected discrete actions .*env\.continuous=false") as error:
        q_head(spec(MOVE), DIM)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_values_by_kind_equal_the_heads_one_by_one_and_choose_their_own_actions(dueling, n):
    head = q_head(spec(*SPACES["discrete"]), DIM, dueling=dueling)
    h, kind = torch.randn(6, n, DIM), torch.randint(2, (6, n))
    q, legal = head(h, kind=kind), head.legal(None, kind)
    assert q.shape == legal.shape == (6, n, 5)
    for k, count in enumerate((3, 5)):
        mine = kind == k
        torch.testing.assert_close(q[mine][:, :count], head.heads[k](h)[mine])
        assert legal[mine].sum() == mine.sum() * count and legal[mine][:, :count].all()
        assert (greedy(q - 100, legal)[mine] < count).all()
    available = torch.rand(6, n, 5) < 0.5
    assert torch.equal(head.legal(available, kind), legal & available)


def test_policies_by_kind_survive_a_state_dict():
    first, second = (policy_head(spec(*SPACES["mixed_wide"]), DIM) for _ in range(2))
    second.load_state_dict(first.state_dict())
    h, kind = torch.randn(2, 6, DIM), torch.randint(3, (2, 6))
    assert torch.equal(first(h, kind=kind).mode(), second(h, kind=kind).mode())
