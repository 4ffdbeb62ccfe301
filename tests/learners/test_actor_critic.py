"""Promises of the actor-critic: bandits, gradients and targets by hand, who is due and who is left alone."""

from functools import partial

import pytest
import torch
from torch import nn

import gcoord
from gcoord.data.collect import Collector
from gcoord.data.sources import Replayed
from gcoord.graph import Auto, Complete
from gcoord.learners import actor_critic
from gcoord.learners.actor_critic import ActorCritic
from gcoord.learners.constraints import Dual, Temperature, Toll
from gcoord.models import GraphEncoder, MLPEncoder
from gcoord.models.action_critics import Local, Team
from gcoord.models.agent import Body
from gcoord.models.kinds import point_head, policy_head
from gcoord.models.memory import GRU
from gcoord.models.proposals import Every, Gumbel
from gcoord.spec import Continuous, Discrete, TeamSpec
from gcoord.trajectory import Step, Trajectory, learns, masked_mean, observe

DDPG = {"head": point_head, "relaxation": Gumbel(), "critics": 1}
TD3 = {"head": point_head, "relaxation": Gumbel(), "policy_every": 2, "smoothing": 0.2}
SAC = {
    "head": partial(policy_head, state_std=True),
    "relaxation": Every(),
    "temperature": Temperature,
    "judge": "min",
    "target_policy": False,
}
KINDS = {
    "ddpg": {"critic": Local, **DDPG},
    "td3": {"critic": Local, **TD3},
    "sac": {"critic": Local, **SAC},
    "maddpg": {"critic": Team, **DDPG},
    "masac": {"critic": Team, **SAC},
}


def make(name="sac", memory=None, n_agents=4, env=None, length=None, **options):
    torch.manual_seed(0)
    world = gcoord.make_env("native/meet", n_agents=n_agents, num_envs=4, **(env or {}))
    body = partial(Body, world.spec, Auto(2), partial(GraphEncoder, dim=16, heads=2))
    # Recurrent bodies are asked for as a configuration does: by an argument that the learner overrides for critics.
    learner = ActorCritic(world.spec, partial(body, memory=memory), **{**KINDS[name], **options})
    source = Replayed(
        learner, [Collector(world, 1)], capacity=2000, batch=16, length=length, steps=4, updates=2, bursts=2, warmup=200
    )
    return learner, source


def fit(learner, batch, updates, lr=None):
    """Updates on one batch, as Lightning does them."""
    optimizer = learner.configure_optimizers()
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] if lr is None else lr
    for _ in range(updates):
        step(learner, optimizer, batch)
    return optimizer


def step(learner, optimizer, batch):
    optimizer.zero_grad()
    losses = learner.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    learner.configure_gradient_clipping(optimizer)
    optimizer.step()
    learner.on_train_batch_end(None, None, 0)
    return losses


def targets(learner, batch):
    rows = learner._rows(batch)
    reads = {name: penalty.read(batch, rows.graph, learner.updates) for name, penalty in learner.penalties.items()}
    return learner._targets(batch, rows, learner._acting(batch, rows, due=False), reads)


def gradients(learner, loss):
    learner.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


class Known(nn.Module):
    """A critic that is a known function of the codes of what is proposed and of what the others do."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, h, alive, own, others):
        return self.value(own, others).expand(own.shape[:-1])


def bandit(action, value, available=None, teams=8, **options):
    """A learner of a game of one step and one agent whose action values are known, and a batch of it."""
    torch.manual_seed(0)
    spec = TeamSpec(teams, 1, (2,), (action,), available=available is not None)
    seen = observe(torch.ones(teams, 1, 2))
    if available is not None:
        seen.available = available.expand(teams, 1, -1)
    flag = torch.zeros(1, teams, dtype=torch.bool)
    discrete = isinstance(action, Discrete)
    done = torch.zeros(1, teams, 1, dtype=torch.long) if discrete else torch.zeros(1, teams, 1, action.n)
    steps = Step(
        seen=seen.unsqueeze(0),
        action=done,
        reward=torch.zeros(1, teams, 1),
        terminated=~flag,
        truncated=flag,
        valid=~flag,
        key=torch.zeros(1, teams, dtype=torch.long),
        batch_size=[1, teams],
    )
    batch = Trajectory(steps=steps, last=seen, last_key=torch.zeros(teams, dtype=torch.long), batch_size=[])
    body = partial(Body, spec, Complete(), partial(MLPEncoder, dim=8))
    learner = ActorCritic(spec, body, lambda dim, code_dim: Known(value), **{**SAC, "critics": 1, **options})
    return learner, batch


def test_on_a_bandit_the_policy_is_the_softmax_of_q_over_alpha_and_0_where_nothing_is_available():
    table, available = torch.tensor([1.0, 0.5, 0.0, 3.0]), torch.tensor([True, True, True, False])
    learner, batch = bandit(
        Discrete(4), lambda own, others: own @ table, available, temperature=partial(Temperature, start=0.5)
    )
    learner.temperature.requires_grad_(False)
    fit(learner, batch, 100, lr=0.05)
    fit(learner, batch, 40, lr=0.003)
    choice, _ = learner.agent(batch.last)
    expected = torch.tensor([1.0, 0.5, 0.0, float("-inf")]).div(0.5).softmax(0)
    torch.testing.assert_close(choice.probs[0, 0], expected, atol=2e-3, rtol=0)
    assert choice.probs[0, 0, 3] == 0


def test_on_a_bandit_the_entropy_meets_its_target_a_share_of_what_is_available():
    table, available = torch.tensor([1.0, 0.5, 0.0, 3.0]), torch.tensor([True, True, True, False])
    learner, batch = bandit(
        Discrete(4), lambda own, others: own @ table, available, temperature=partial(Temperature, share=0.6)
    )
    fit(learner, batch, 200, lr=0.03)
    fit(learner, batch, 80, lr=0.003)
    choice, _ = learner.agent(batch.last)
    target = 0.6 * torch.tensor(3.0).log()
    assert choice.entropy()[0, 0].item() == pytest.approx(target.item(), abs=0.02)
    alpha = learner.temperature.dual.value
    torch.testing.assert_close(choice.probs[0, 0, :3], (table[:3] / alpha).softmax(0), atol=0.02, rtol=0)


def test_on_a_bandit_in_a_box_the_policy_finds_the_hill_with_the_entropy_of_its_target():
    box = Continuous((0.0,), (4.0,))
    learner, batch = bandit(
        box, lambda own, others: -2 * (own[..., 0] - 0.5).square(), teams=512, temperature=partial(Temperature, start=1)
    )
    fit(learner, batch, 200, lr=0.03)
    fit(learner, batch, 80, lr=0.003)
    choice, _ = learner.agent(batch.last)
    # 0.5 of [-1, 1] is 3 of [0, 4]; SAC's target of -1 nat is of a box from -1 to 1, and this one is twice as wide.
    assert choice.mode()[0, 0, 0].item() == pytest.approx(3.0, abs=0.12)
    assert choice.entropy()[0, 0].item() == pytest.approx(-1 + torch.tensor(2.0).log().item(), abs=0.1)


@pytest.mark.parametrize("name", ["sac", "ddpg"])
def test_gumbel_and_closed_form_both_find_the_best_number(name):
    table = torch.tensor([0.0, 1.0, 0.5])
    options = {} if name == "sac" else {**DDPG, "temperature": None}
    learner, batch = bandit(Discrete(3), lambda own, others: own @ table, **options)
    fit(learner, batch, 100, lr=0.02)
    choice, _ = learner.agent(batch.last)
    assert choice.mode()[0, 0] == 1 and choice.probs[0, 0, 1] > 0.5


@pytest.mark.parametrize("restraint, best", [(0.0, 1), (1e-3, 0)])
def test_a_policy_that_is_certain_of_the_wrong_number_is_moved_by_its_restraint_alone(restraint, best):
    table = torch.tensor([1.0, 0.0, 0.5])
    learner, batch = bandit(
        Discrete(3), lambda own, others: own @ table, **{**DDPG, "temperature": None, "restraint": restraint}
    )
    with torch.no_grad():
        learner.agent.head.logits.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    fit(learner, batch, 200, lr=0.1)
    assert learner.agent(batch.last)[0].mode()[0, 0] == best


def test_the_restraint_is_its_share_of_the_mean_square_of_available_logits():
    available = torch.tensor([True, True, True, False])
    with_it, batch = bandit(Discrete(4), lambda own, others: own[..., 0], available, restraint=0.5)
    without, _ = bandit(Discrete(4), lambda own, others: own[..., 0], available)
    logits = without.agent(batch.last)[0].logits[0, 0, :3]
    more = with_it.losses(batch)["policy"] - without.losses(batch)["policy"]
    torch.testing.assert_close(more, 0.5 * logits.square().mean())


def test_ddpgs_gradient_is_that_of_q_at_the_policys_action_times_the_policys_own():
    learner, source = make("ddpg", env={"continuous": True})
    nn.init.normal_(learner.agent.head.mean.weight, std=0.5)
    batch = next(iter(source))
    seen = batch.steps.seen
    found = gradients(learner, learner.losses(batch)["policy"])
    with torch.no_grad():
        h = learner.agent.body.unroll(seen, None, None, key=batch.steps.key).h
        point = torch.tanh(learner.agent.head.mean(h))
        h_critic = learner.critic_bodies[0].unroll(seen, None, None, key=batch.steps.key).h
    point.requires_grad_(True)
    q = learner.critics[0](h_critic, seen.alive, point.unsqueeze(0), point.detach())[0]
    (slope,) = torch.autograd.grad(q.sum(), point)  # dQ_i / da_i
    mask = seen.alive & batch.steps.valid.unsqueeze(-1)
    through = (slope * (1 - point.detach().square()))[mask]  # dQ / d(before tanh)
    weight = -(through.unsqueeze(-1) * h[mask].unsqueeze(-2)).mean(0)
    torch.testing.assert_close(found["agent.head.mean.weight"], weight, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found["agent.head.mean.bias"], -through.mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("others", ["replayed", "current"])
@pytest.mark.parametrize("continuous", [True, False])
def test_maddpgs_loss_of_one_agent_has_no_gradient_to_the_others(others, continuous):
    learner, source = make("maddpg", env={"continuous": continuous}, others=others)
    batch = next(iter(source))

    def of_the_others(own, done):
        return done.square().sum(-1).sum(-1, keepdim=True) - done.square().sum(-1) + 0.0 * own.sum(-1)

    learner.critics[0] = Known(of_the_others)
    found = gradients(learner, learner.losses(batch)["policy"])
    assert found and all((gradient == 0).all() for gradient in found.values())
    learner.critics[0] = Known(lambda own, done: own.square().sum(-1) * own[..., 0])
    found = gradients(learner, learner.losses(batch)["policy"])
    assert any((gradient != 0).any() for gradient in found.values())


@pytest.mark.parametrize("name, continuous", [("maddpg", False), ("maddpg", True), ("masac", False)])
def test_what_one_agent_learns_by_does_not_reach_the_others_choices(name, continuous, monkeypatch):
    learner, source = make(name, env={"continuous": continuous})
    batch, told = next(iter(source)), []
    layer = learner.agent.head.mean if continuous else learner.agent.head.logits
    layer.register_forward_hook(lambda module, given, out: told.append(out) if out.requires_grad else None)
    one = torch.tensor([False, True, False, False])
    monkeypatch.setattr(actor_critic, "learns", lambda steps: learns(steps) & one)
    (gradient,) = torch.autograd.grad(learner.losses(batch)["policy"], told[-1])  # dL_i / d(logits of j)
    assert (gradient[..., ~one, :] == 0).all() and (gradient[..., one, :] != 0).any()


def test_the_others_actions_are_the_replayed_ones_or_those_of_now():
    learner, source = make("maddpg", env={"continuous": True}, epsilon_start=0.5, epsilon_end=0.5)
    batch, given = next(iter(source)), []
    learner.critics[0] = Known(lambda own, done: given.append((own.detach()[0], done)) or own.sum(-1))
    learner.losses(batch)
    learner.others = "current"
    learner.losses(batch)
    (_, first), (new, replayed), _, (again, current) = given
    torch.testing.assert_close(replayed, learner.code(batch.steps.action, batch.steps.seen))
    assert torch.equal(first, replayed) and torch.equal(current, again) and not torch.equal(new, replayed)


@pytest.mark.parametrize(
    "name, continuous", [("ddpg", False), ("td3", True), ("sac", True), ("maddpg", True), ("masac", False)]
)
def test_the_policys_loss_leaves_the_critics_gradients_unchanged_and_theirs_the_policys(name, continuous):
    learner, source = make(name, env={"continuous": continuous})
    learner.updates = 1
    losses = learner.losses(next(iter(source)))
    assert {key.split(".")[0] for key in gradients(learner, losses["policy"])} == {"agent"}
    assert {key.split(".")[0] for key in gradients(learner, losses["td"])} == {"critics", "critic_bodies"}
    if "temperature" in losses:
        assert set(gradients(learner, losses["temperature"])) == {"temperature.dual.log"}
    assert all(p.requires_grad for p in learner.critics.parameters())


def test_with_a_shared_encoder_only_the_critics_train_it():
    learner, source = make("sac", share_encoder=True, memory=partial(GRU, dim=8), env={"continuous": True})
    losses = learner.losses(next(iter(source)))
    of_policy, of_critics = gradients(learner, losses["policy"]), gradients(learner, losses["td"])
    assert of_policy and all(name.startswith("agent.head.") for name in of_policy)
    assert {name.split(".")[1] for name in of_critics if name.startswith("agent.")} == {"body"}
    names = {name for group in learner.groups().values() for m in group for name, _ in m.named_parameters()}
    assert names and not len(learner.critic_bodies)


def test_td3s_policy_and_targets_are_left_alone_on_odd_updates_and_adam_skips_them():
    learner, source = make("td3", env={"continuous": True})
    batch = next(iter(source))
    optimizer = learner.configure_optimizers()
    alone = [*learner.agent.parameters(), *learner.target_critics.parameters(), *learner.target_agent.parameters()]
    for update in range(1, 5):
        before = [p.clone() for p in alone]
        critic_before = [p.clone() for p in learner.critics.parameters()]
        state = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in learner.agent.parameters()}
        losses = step(learner, optimizer, batch)
        moved = [not torch.equal(p, old) for p, old in zip(alone, before, strict=True)]
        due = update % 2 == 0
        assert ("policy" in losses) == due
        assert any(moved) if due else not any(moved)
        if not due:
            for p in learner.agent.parameters():
                now = optimizer.state[p]
                assert now.keys() == state[p].keys() and all(torch.equal(now[k], state[p][k]) for k in now)
        assert any(not torch.equal(p, q) for p, q in zip(learner.critics.parameters(), critic_before, strict=True))


def test_td3s_targets_are_smoothed_by_clipped_noise_and_take_the_lower_critic():
    learner, source = make("td3", env={"continuous": True}, gamma=1.0)
    nn.init.zeros_(learner.target_agent.head.mean.weight)
    given = []
    learner.target_critics[0] = Known(lambda own, done: given.append((own[0], done)) or own[..., 0] + 5.0)
    learner.target_critics[1] = Known(lambda own, done: own[..., 0])
    batches = [batch for _, batch in zip(range(4), source, strict=False)]
    noise = []
    for batch in batches:
        y = targets(learner, batch)
        own, others = given.pop()
        goes_on = ~batch.steps.terminated & batch.steps.valid
        torch.testing.assert_close(y[goes_on], (batch.steps.reward + own[..., 0])[goes_on])
        assert torch.equal(own, others)
        noise.append(own.flatten())
    noise = torch.cat(noise)
    assert noise.abs().max() <= 0.5 and noise.std().item() == pytest.approx(0.2, abs=0.02)


def constant(learner, value):
    """Makes every target critic a constant."""
    for number in range(len(learner.target_critics)):
        learner.target_critics[number] = Known(lambda own, done: torch.full((), value))


@pytest.mark.parametrize("name", ["ddpg", "masac"])
@pytest.mark.parametrize("reward", ["own", "team"])
def test_the_target_is_reward_plus_what_the_living_may_expect(name, reward):
    learner, source = make(name, gamma=0.5, env={"deaths": 0.15, "reward": reward}, length=3)
    if learner.temperature is not None:
        learner.temperature.dual.log.data.fill_(-30.0)
    constant(learner, 2.0)
    batch = next(iter(source))
    steps, seen = batch.steps, batch.seen
    mask = steps.seen.alive & steps.valid.unsqueeze(-1)
    assert (mask & ~seen.alive[1:]).any()
    lives_on = seen.alive[1:] if reward == "own" else seen.alive[1:].any(-1, keepdim=True)
    y = steps.reward + 0.5 * 2.0 * (~steps.terminated).unsqueeze(-1) * lives_on
    torch.testing.assert_close(targets(learner, batch)[mask], y[mask], rtol=1e-5, atol=1e-6)


def test_sacs_target_is_the_soft_value_in_closed_form():
    learner, source = make("sac", gamma=0.9, env={"continuous": False})
    table = torch.randn(5)
    for number, shift in enumerate([0.0, 1.0]):
        learner.target_critics[number] = Known(lambda own, done, shift=shift: own @ table + shift)
    batch = next(iter(source))
    steps = batch.steps
    choice, _ = learner.agent(batch.last)
    alpha = learner.temperature.dual.value
    soft = (choice.probs * (table - alpha * choice.log_probs)).sum(-1)
    y = steps.reward[-1] + 0.9 * soft * (~steps.terminated[-1]).unsqueeze(-1)
    row = steps.valid[-1]
    torch.testing.assert_close(targets(learner, batch)[-1][row], y[row].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name, continuous, memory",
    [
        ("td3", True, None),
        ("maddpg", False, partial(GRU, dim=8)),
        ("maddpg", "mixed", None),
        ("masac", False, None),
        ("masac", "mixed", partial(GRU, dim=8)),
    ],
)
def test_garbage_in_dead_slots_changes_no_bit(name, continuous, memory):
    env = {"deaths": 0.2, "continuous": continuous, "kinds": 2}
    learner, source = make(name, memory=memory, env=env, length=4)
    learner.updates = 1
    batch = next(iter(source))
    assert (~batch.steps.seen.alive).any()
    dirty = batch.clone()
    for part in (dirty.steps.seen, dirty.last):
        part.own[~part.alive] = float("nan")
        part.position[~part.alive] = float("nan")
        part.kind[~part.alive] = 9
    dead = ~dirty.steps.seen.alive
    dirty.steps.reward[dead] = float("nan")
    dirty.steps.action[dead] = 99 if continuous is False else float("nan")

    def of(batch):
        torch.manual_seed(3)
        return gradients(learner, torch.stack(list(learner.losses(batch).values())).sum())

    clean, with_garbage = of(batch), of(dirty)
    assert clean.keys() == with_garbage.keys() and clean
    for key, gradient in clean.items():
        assert gradient.isfinite().all() and torch.equal(gradient, with_garbage[key]), key


@pytest.mark.parametrize("name", ["ddpg", "masac"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_order_of_agents_does_not_matter(name, n):
    # Numbers in closed form and points use no chance, so the losses must be the same.
    continuous = name == "ddpg"
    learner, source = make(name, n_agents=n, env={"continuous": continuous}, others="replayed")
    batch = next(iter(source))
    order = torch.randperm(n)
    moved = batch.clone()
    for part in (moved.steps.seen, moved.last):
        for field in ("own", "alive", "kind", "position"):
            value = getattr(part, field)
            setattr(part, field, value.index_select(part.alive.dim() - 1, order))
    moved.steps.action, moved.steps.reward = moved.steps.action[:, :, order], moved.steps.reward[:, :, order]
    if name == "masac":
        constant(learner, 1.0)  # what the others do next is drawn
    losses, again = learner.losses(batch), learner.losses(moved)
    for key, loss in losses.items():
        torch.testing.assert_close(again[key], loss, rtol=1e-4, atol=1e-5)


def test_a_dual_rises_exactly_while_it_is_violated_unclipped_and_held_within_its_bounds():
    dual = Dual(start=1.0, n=2, low=-1.0, high=1.0)
    optimizer = torch.optim.SGD(dual.parameters(), lr=0.5)
    dual.loss(torch.tensor([0.1, -0.1])).backward()
    optimizer.step()
    assert dual.value[0] > 1 > dual.value[1]
    dual.log.data += 100.0
    dual.hold()
    assert (dual.log == 1.0).all()
    with pytest.raises(ValueError, match="expected a start within"):
        Dual(start=0.0)


def test_a_learners_duals_are_a_group_that_is_not_clipped_and_is_clamped_after_the_step():
    learner, source = make("sac", max_grad_norm=1e-4, env={"continuous": False})
    optimizer = learner.configure_optimizers()
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert [p is learner.temperature.dual.log for p in groups["dual"]["params"]] == [True]
    assert groups["dual"].get("weight_decay", 0) == 0
    torch.stack(list(learner.losses(next(iter(source))).values())).sum().backward()
    before = learner.temperature.dual.log.grad.clone()
    learner.configure_gradient_clipping(optimizer)
    assert torch.equal(learner.temperature.dual.log.grad, before) and before.abs() > 1e-3
    for name in ("actor", "critic"):
        assert torch.stack([p.grad.norm() for p in groups[name]["params"]]).norm() <= 1.01e-4
    learner.temperature.dual.log.data.fill_(99.0)
    learner.on_train_batch_end(None, None, 0)
    assert learner.temperature.dual.log.item() == learner.temperature.dual.high


def test_every_kind_has_a_temperature_and_a_target_of_its_own():
    spec = TeamSpec(1, 3, (2,), (Discrete(4), Continuous((0.0, 0.0), (4.0, 4.0))), ("a", "b"), ("own",) * 2)
    seen = observe(torch.zeros(1, 3, 2), kind=torch.tensor([[0, 1, 0]]))
    temperature = Temperature(spec, share=0.5)
    expected = [0.5 * torch.tensor(4.0).log(), 2 * (-1 + torch.tensor(2.0).log()), 0.5 * torch.tensor(4.0).log()]
    torch.testing.assert_close(temperature.target(seen), torch.stack(expected).unsqueeze(0))
    entropy = temperature.target(seen) + torch.tensor([[0.3, -0.2, 0.1]])
    temperature.loss(entropy, seen, seen.alive).backward()
    torch.testing.assert_close(temperature.dual.log.grad, torch.tensor([0.2, -0.2]))


class Leash(nn.Module):
    """A penalty: the distance of the probability of action 0 from one, at a multiplier that is learnt."""

    def __init__(self, spec, body):
        super().__init__()
        self.dual, self.network = Dual(start=2.0), nn.Linear(1, 1)

    needs_init = False

    def followers(self):
        return []

    def fits(self, agent):
        assert isinstance(agent.body, Body)

    def read(self, batch, graph, updates):
        return 7.0 + 0.0 * graph.degree()

    def policy(self, batch, read, choice):
        paid = self.dual.value * (1 - choice.probs[..., 0])
        return Toll(paid, {"dual": self.dual.loss(torch.ones(1))}, {"paid": paid.mean()})

    def value(self, batch, read, choice):
        return read[1:]

    def losses(self, batch, read):
        return {"own": self.network.weight.square().sum()}


def test_penalties_are_paid_by_policy_and_values_and_train_their_own():
    options = {"env": {"continuous": False}, "gamma": 0.5}
    plain, _ = make("ddpg", **options)
    learner, source = make("ddpg", **options, penalties={"leash": Leash})
    batch = next(iter(source))
    learner.load_state_dict(plain.state_dict(), strict=False)
    torch.manual_seed(0)
    y = targets(learner, batch)
    torch.manual_seed(0)
    without = targets(plain, batch)
    goes_on = (~batch.steps.terminated & batch.steps.valid).unsqueeze(-1) & batch.last.alive
    torch.testing.assert_close(without - y, 3.5 * goes_on)
    torch.manual_seed(0)
    losses = learner.losses(batch)
    torch.manual_seed(0)
    choice, _ = learner.agent(batch.steps.seen)
    mask = batch.steps.seen.alive & batch.steps.valid.unsqueeze(-1)
    paid = masked_mean(2 * (1 - choice.probs[..., 0]), mask)
    torch.testing.assert_close(losses["policy"] - plain.losses(batch)["policy"], paid, rtol=1e-3, atol=1e-5)
    assert {"leash_dual", "leash_own"} <= set(losses) and "leash_paid" in learner.take_figures()
    groups = {group["name"]: group["params"] for group in learner.configure_optimizers().param_groups}
    assert len(groups["penalty"]) == 2 and groups["dual"][0] is learner.penalties["leash"].dual.log


def test_exploration_falls_over_frames():
    learner, _ = make("ddpg", epsilon_start=1.0, epsilon_end=0.2, epsilon_frames=100)
    values = []
    for frames in (0, 50, 100, 1000):
        learner.frames = frames
        values.append(learner.epsilon)
    assert values == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize(
    "option",
    [{"gamma": 1.5}, {"critics": 0}, {"policy_every": 0}, {"judge": "mean"}, {"smoothing": -0.1}, {"restraint": -1.0}],
)
def test_bad_input_gets_one_line(option):
    with pytest.raises(ValueError, match=r"^expected .* \(got .*\)$"):
        make("td3", **option)
