"""Promises of points, proposals and codes: closed forms, reparameterised samples, one row for every kind's action."""

import math

import pytest
import torch

from gcoord.models.heads import CategoricalChoice, TanhNormalChoice
from gcoord.models.kinds import MixedChoice, point_head, policy_head
from gcoord.models.points import PointChoice, TanhPoint
from gcoord.models.proposals import ActionCode, Every, Gumbel
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import observe

BOX = Continuous((-2.0, 0.0), (2.0, 10.0))
LOW, HIGH = torch.tensor(BOX.low), torch.tensor(BOX.high)


def spec(*actions):
    names = tuple(f"kind{k}" for k in range(len(actions)))
    return TeamSpec(num_envs=2, n_agents=4, own=(4,), actions=actions, kinds=names, reward=("own",) * len(actions))


def seen_of(n_kinds, alive=None):
    kind = torch.arange(4).expand(2, 4) % n_kinds
    return observe(torch.zeros(2, 4, 4), kind=kind, alive=alive)


def test_closed_form_expects_what_enumeration_does_and_never_proposes_what_is_not_available():
    logits = torch.randn(2, 4, 3, requires_grad=True)
    available = torch.ones(2, 4, 3, dtype=torch.bool)
    available[..., 1] = False
    available[0, 0] = False
    choice = CategoricalChoice(logits, available)
    proposals = Every()(choice)
    x = torch.randn(3, 2, 4)
    by_hand = sum(choice.probs[..., a] * x[a] for a in range(3))
    torch.testing.assert_close(proposals.mean(x), by_hand)
    assert (proposals.weight[1, available.any(-1)] == 0).all()
    living = available.any(-1)
    torch.testing.assert_close(proposals.entropy()[living], choice.entropy()[living])
    # A large temperature times the lowest logarithm would overflow, and 0 times infinity is no number.
    loss = proposals.mean(1e4 * proposals.log_prob - x)[living].sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all() and (gradient[..., 1] == 0).all()


def test_one_proposal_of_many_is_drawn_by_weight():
    choice = CategoricalChoice(torch.tensor([0.2, 0.5, 0.3]).log().expand(20_000, 1, 3))
    drawn = Every()(choice).drawn()
    assert (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean((0, 1)), torch.tensor([0.2, 0.5, 0.3]), atol=0.015, rtol=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_gumbel_draws_by_probability_whole_actions_with_a_gradient(temperature):
    logits = torch.tensor([0.2, 0.5, 0.3, 1.0]).log().expand(20_000, 1, 4).clone().requires_grad_(True)
    available = torch.tensor([True, True, True, False])
    code = Gumbel(temperature)(CategoricalChoice(logits, available.expand(20_000, 1, 4))).code[0]
    assert ((code - code.round()).abs() < 1e-6).all() and (code[..., 3] == 0).all()
    torch.testing.assert_close(code.mean((0, 1)), torch.tensor([0.2, 0.5, 0.3, 0.0]), atol=0.015, rtol=0)
    (gradient,) = torch.autograd.grad(code[..., 1].mean(), logits)
    mean = gradient.sum((0, 1))
    assert mean[1] > 0 and mean[0] < 0 and mean[2] < 0 and mean[3] == 0
    nobody = CategoricalChoice(logits[:2], torch.zeros(2, 1, 4, dtype=torch.bool))
    assert Gumbel(temperature)(nobody).code.isfinite().all()


def test_a_reparameterised_sample_has_the_density_of_its_action_and_moves_with_its_parameters():
    mean, log_std = torch.randn(500, 2, 2).double().requires_grad_(True), torch.full((2,), -0.5).double()
    choice = TanhNormalChoice(mean, log_std, LOW.double(), HIGH.double())
    action, log_prob = choice.rsample()
    torch.testing.assert_close(choice.log_prob(action), log_prob, rtol=1e-4, atol=1e-4)
    half = (HIGH - LOW) / 2
    slope = 1 - ((action - LOW) / half - 1).square()
    (gradient,) = torch.autograd.grad(action.sum(), mean, retain_graph=True)
    torch.testing.assert_close(gradient, half * slope)
    # Raising u by one moves log pi by the slope of -log(1 - tanh(u)^2), which is 2 tanh(u).
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    torch.testing.assert_close(gradient, 2 * ((action - LOW) / half - 1).detach(), rtol=1e-4, atol=1e-6)


def test_far_out_a_reparameterised_sample_still_has_a_gradient():
    mean = torch.full((1, 1, 1), 30.0, requires_grad=True)
    _, log_prob = TanhNormalChoice(mean, torch.zeros(1), -torch.ones(1), torch.ones(1)).rsample()
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert log_prob.isfinite().all() and gradient.item() == pytest.approx(2.0)


def test_a_point_is_certain_within_its_box_and_explored_around():
    head = TanhPoint(3, 2, BOX.low, BOX.high)
    choice = head(torch.zeros(20_000, 1, 3))
    assert torch.equal(choice.mode(), torch.tensor([0.0, 5.0]).expand(20_000, 1, 2))
    assert torch.equal(choice.mode(), choice.sample())
    noisy = choice.explore(0.1)
    torch.testing.assert_close(noisy.std((0, 1)), torch.tensor([0.2, 0.5]), rtol=0.05, atol=0)
    assert (choice.log_prob(choice.mode()) == 0).all() and (choice.log_prob(noisy) == -math.inf).all()
    wild = choice.explore(10.0)
    assert (wild >= LOW).all() and (wild <= HIGH).all()
    elsewhere = PointChoice(choice.squashed + 0.1, LOW, HIGH)
    assert (choice.kl(choice) == 0).all() and (choice.kl(elsewhere) == math.inf).all()


@pytest.mark.parametrize("head", [policy_head, point_head])
def test_exploring_numbers_draws_a_share_evenly_among_what_is_available(head):
    available = torch.tensor([True, True, False, True]).expand(20_000, 1, 4)
    choice = CategoricalChoice(torch.tensor([9.0, 0.0, 0.0, 0.0]).expand(20_000, 1, 4), available)
    share = torch.nn.functional.one_hot(choice.explore(0.6), 4).double().mean((0, 1))
    torch.testing.assert_close(share, torch.tensor([0.6, 0.2, 0.0, 0.2]).double(), atol=0.015, rtol=0)
    box = head(spec(BOX), 3)(torch.zeros(5000, 1, 3)).explore(1.0)
    assert (box >= LOW).all() and (box <= HIGH).all() and (box.std((0, 1)) > (HIGH - LOW) / 6).all()


@pytest.mark.parametrize("head", [policy_head, point_head])
@pytest.mark.parametrize("actions", [(Discrete(3),), (BOX,), (Discrete(3), BOX), (BOX, Discrete(5), Discrete(2))])
def test_what_is_proposed_and_then_done_has_the_same_code(head, actions):
    kinds = len(actions)
    seen, h = seen_of(kinds), torch.randn(2, 4, 8)
    torch.manual_seed(1)
    choice = head(spec(*actions), 8, gain=1.0)(h, None, seen.kind)
    code = ActionCode(spec(*actions))
    proposals = code.propose(choice, seen)
    assert proposals.code.shape[-1] == code.dim == sum(action.n for action in actions)
    torch.testing.assert_close(proposals.weight.sum(0), torch.ones(2, 4))
    first = torch.tensor([0, *torch.tensor([action.n for action in actions]).cumsum(0).tolist()])
    for number, action in enumerate(actions):
        mine = seen.kind == number
        elsewhere = torch.ones(code.dim, dtype=torch.bool)
        elsewhere[first[number] : first[number + 1]] = False
        assert (proposals.code[:, mine][..., elsewhere] == 0).all()
        if isinstance(action, Discrete):
            probs = (choice.numbers if isinstance(choice, MixedChoice) else choice).probs[mine][..., : action.n]
            mean = (proposals.weight.unsqueeze(-1) * proposals.code).sum(0)[mine][..., ~elsewhere]
            torch.testing.assert_close(mean, probs)
    done = code(choice.mode(), seen)
    if head is point_head and not isinstance(actions[0], Discrete):
        mine = seen.kind == 0
        torch.testing.assert_close(done[mine], proposals.code[0][mine], rtol=1e-5, atol=1e-6)
    assert (done.abs() <= 1).all()


def test_the_code_of_the_dead_is_zero_whatever_stands_there():
    alive = torch.tensor([[True, False, True, True], [False, True, True, True]])
    seen = seen_of(2, alive)
    seen.kind[~alive] = 77
    action = torch.rand(2, 4, 2)
    action[..., 0] = 1.0
    action[~alive] = float("nan")
    code = ActionCode(spec(Discrete(2), BOX))(action, seen)
    assert (code[~alive] == 0).all() and code.isfinite().all()
    assert (code[0, 2] == torch.tensor([0.0, 1.0, 0.0, 0.0])).all()


def test_smoothing_moves_points_only_within_its_limit_and_the_box():
    seen = seen_of(2)
    code = ActionCode(spec(Discrete(2), BOX))
    before = code(torch.zeros(2, 4, 2), seen).expand(4000, 2, 4, 4)
    noise = code.smoothed(before, seen, deviation=0.2, limit=0.5) - before
    assert (noise[:, :, 0::2] == 0).all() and (noise[..., :2] == 0).all()
    box = noise[:, :, 1::2, 2:]
    # The second component lies at its lower bound, where noise can only go up.
    assert box[..., 0].std().item() == pytest.approx(0.198, abs=0.01)
    assert box[..., 0].abs().max() <= 0.5 + 1e-6 and (box[..., 1] >= 0).all()


def test_gumbel_needs_a_temperature():
    with pytest.raises(ValueError, match="expected a temperature above 0"):
        Gumbel(0.0)
