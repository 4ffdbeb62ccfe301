"""Communication under test changes what is heard, and nothing else."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import gcoord
from gcoord.command import one_line
from gcoord.data.playing import acts, play
from gcoord.graph import Auto, Complete, Lossy, Nearest, Radius
from gcoord.models import AdditiveKernel, ConvKernel, EdgeKernel, GraphEncoder, MeanKernel, RelationKernel
from gcoord.models.agent import Agent, Body
from gcoord.models.claims import Claims
from gcoord.models.encoder import MLPEncoder
from gcoord.models.kinds import policy_head
from gcoord.models.memory import GRU
from gcoord.models.relay import Relay
from gcoord.scaleup.conditions import Condition, Disturbed, agent_under, parse
from gcoord.scaleup.speech import Speech
from gcoord.scaleup.wires import swapped, uniform

ENCODERS = {
    **{kernel.__name__: partial(GraphEncoder, kernel=kernel, heads=4) for kernel in (RelationKernel, AdditiveKernel)},
    **{kernel.__name__: partial(GraphEncoder, kernel=kernel) for kernel in (MeanKernel, EdgeKernel, ConvKernel)},
    "MLPEncoder": MLPEncoder,
}
RELAYING = {
    "Relay": partial(GraphEncoder, relay=2, heads=4),
    "Claims": partial(GraphEncoder, claims=2, claim_rounds=3, heads=4),
}
EVERY = ["cut=0.5", "delay=1", "delay=2", "shuffle", "noise=0.5", "leave=0.5", "join=0.5", "r=0.5", "k=1"]
KEY = torch.arange(3) + 7


def agent_for(env, encoder="RelationKernel", topology=None, memory=False) -> Agent:
    torch.manual_seed(0)
    spec = env.spec
    topology = Nearest(2) if topology is None else topology
    body = Body(
        spec, topology, partial({**ENCODERS, **RELAYING}[encoder], dim=16), partial(GRU, dim=8) if memory else None
    )
    return Agent(body, partial(policy_head, spec)).eval().requires_grad_(False)


def meet(n=5, **options):
    return gcoord.make_env("native/meet", n_agents=n, num_envs=3, **options)


def rows(agent, env, steps=6, change=None):
    """Features of every row of an episode played by nobody (all stay where they are, one moves); `change(seen, t)`
    changes what is seen."""
    seen, found = env.reset(3), []
    memory = agent.body.initial((3,), env.spec.n_agents)
    for t in range(steps):
        seen = seen if change is None else change(seen, t)
        features = agent.body(seen, memory, key=KEY + 100 * t)
        memory = features.memory
        found.append(features.h)
        seen, _ = env.step(torch.full((3, env.spec.n_agents), 1 + t % 4))
    return torch.stack(found)


def test_none_is_the_agent_itself():
    agent = agent_for(meet())
    for text in ("none", "cut=0", "delay=0", "noise=0", "cut=0+leave=0"):
        assert agent_under(text, agent) is agent


@pytest.mark.parametrize(
    ("encoder", "memory"),
    [("RelationKernel", False), ("RelationKernel", True), ("ConvKernel", False), ("MLPEncoder", True)],
)
@pytest.mark.parametrize("text", [text for text in EVERY if text != "k=1"])
def test_who_hears_nobody_is_not_changed_by_any_condition(text, encoder, memory):
    env = meet()
    agent = agent_for(env, encoder, Lossy(Complete(), 1.0), memory)
    assert torch.allclose(rows(agent_under(text, agent, 20), meet()), rows(agent, meet()), atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("text", ["delay=1", "shuffle", "noise=0.3", "cut=0.5"])
def test_every_condition_changes_what_is_heard(text, encoder):
    agent = agent_for(meet(), encoder, Complete())
    assert (rows(agent_under(text, agent, 20), meet()) - rows(agent, meet())).abs().max() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_with_everything_cut_it_is_a_policy_without_messages(encoder):
    agent = agent_for(meet(), encoder)
    deaf = agent_for(meet(), encoder, Lossy(Nearest(2), 1.0))
    deaf.load_state_dict(agent.state_dict())
    assert torch.allclose(rows(agent_under("cut=1", agent), meet()), rows(deaf, meet()), atol=1e-6)


def test_entities_are_sensed_and_stay():
    env = meet(entities=3)
    agent = agent_for(env, topology=Complete())
    graph = agent_under("cut=1", agent).body(env.reset(0), key=KEY).graph
    assert not graph.hears()[..., :5].any() and (graph.hears()[..., 5:] == env.reset(0).entity_present[:, None]).all()


def test_a_share_of_messages_is_cut_and_the_same_key_cuts_the_same():
    env = meet(24)
    body = agent_under("cut=0.3", agent_for(env, topology=Complete())).body
    seen = env.reset(0)
    first, again, other = (body(seen, key=key).graph.mask for key in (KEY, KEY, KEY + 50))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs(float(first.float().sum(-1).mean()) / 23 - 0.7) < 0.03


@pytest.mark.parametrize("text", ["cut=1", "shuffle", "noise=0.5"])
def test_what_is_relayed_of_entities_is_a_message_too(text, monkeypatch):
    kept, plain = [], Relay.forward
    monkeypatch.setattr(Relay, "forward", lambda self, h, graph: kept.append(plain(self, h, graph)) or kept[-1])
    env = meet(entities=3)
    agent = agent_for(env, "Relay", Complete())
    for one in (agent, agent_under(text, agent)):
        rows(one, meet(entities=3), steps=1)
    before, after = kept[0], kept[2]  # of the first of two rounds
    assert (before[..., 5:, :] > 0).any() and (before[..., :5, :] == 0).all()
    assert (after == 0).all() if text == "cut=1" else (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("text", ["cut=1", "shuffle", "noise=0.5"])
def test_what_is_claimed_of_entities_is_a_message_too(text, monkeypatch):
    kept, plain = [], Claims.forward
    monkeypatch.setattr(Claims, "forward", lambda *given: kept.append((plain(*given), given[-1])) or kept[-1][0])
    env = meet(entities=3)
    agent = agent_for(env, "Claims", Complete())
    for one in (agent, agent_under(text, agent)):
        rows(one, meet(entities=3), steps=1)
    (before, whole), (after, graph) = kept
    assert (after - before).abs().max() > 1e-3 and after.isfinite().all()
    fellows = graph.mask[..., : after.shape[-3]]
    assert not fellows.any() if text == "cut=1" else torch.equal(graph.mask, whole.mask)


@pytest.mark.parametrize("encoder", ["RelationKernel", "MLPEncoder", "ConvKernel", "Relay", "Claims"])
@pytest.mark.parametrize("delay", [1, 2])
def test_what_is_heard_late_is_what_was_sent_then(encoder, delay):
    meet = partial(globals()["meet"], entities=3 if encoder in RELAYING else 0)
    agent = agent_under(f"delay={delay}", agent_for(meet(), encoder, Complete()))
    plain = rows(agent, meet())

    def others(seen, t, at):
        if t == at:
            seen = seen.clone()
            seen.own[:, 1:] += 1.0
            seen.position[:, 1:] += 0.3
        return seen

    now = 5
    same = rows(agent, meet(), change=partial(others, at=now))
    before = rows(agent, meet(), change=partial(others, at=now - delay))
    assert torch.equal(same[now, :, 0], plain[now, :, 0]), "what the others see now is not heard yet"
    assert (before[now, :, 0] - plain[now, :, 0]).abs().max() > 1e-3, "what they saw then is"
    assert (same[now, :, 1] - plain[now, :, 1]).abs().max() > 1e-3, "and they see themselves at once"


def test_before_the_first_message_arrives_nobody_hears_and_a_new_episode_begins_so():
    agent = agent_under("delay=2", agent_for(meet(), topology=Complete()))
    deaf = agent_for(meet(), topology=Lossy(Complete(), 1.0))
    late, none = rows(agent, meet()), rows(deaf, meet())
    assert torch.allclose(late[:2], none[:2], atol=1e-6) and not torch.allclose(late[2], none[2], atol=1e-4)
    env, memory = meet(), agent.body.initial((3,), 5)
    for t in range(4):
        memory = agent.body(env.reset(0), memory, key=KEY + t).memory
    seen = env.reset(0)
    assert torch.allclose(agent.body(seen, memory * 0, key=KEY).h, deaf.body(seen, key=KEY).h, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_shuffling_messages_that_are_alike_changes_nothing(encoder):
    def alike(seen, t):
        seen = seen.clone()
        seen.own[:] = seen.own[:, :1]
        return seen

    # With one round messages are what agents see; in a second they would differ by whom each hears.
    torch.manual_seed(0)
    options = {} if encoder == "MLPEncoder" else {"rounds": 1}
    body = Body(meet().spec, Nearest(2), partial(ENCODERS[encoder], dim=16, **options))
    agent = Agent(body, partial(policy_head, meet().spec)).eval()
    assert torch.allclose(
        rows(agent_under("shuffle", agent), meet(), change=alike), rows(agent, meet(), change=alike), atol=1e-5
    )


def test_nobody_keeps_the_own_message_and_the_dead_are_left_out():
    alive = torch.rand(200, 7) < 0.6
    order = swapped(torch.arange(200), alive)
    assert torch.equal(order.sort(-1).values, torch.arange(7).expand(200, -1)), "each message is heard once"
    moved = order != torch.arange(7)
    assert torch.equal(moved, alive & (alive.sum(-1, keepdim=True) > 1))
    assert alive.gather(-1, order)[alive].all()


def test_noise_is_as_large_as_it_says_and_is_drawn_from_the_key():
    env = meet(40)
    agent = agent_for(env, topology=Complete())
    wire = agent_under("noise=0.25", agent).body.wire
    x = torch.randn(3, 40, 16)
    wire.key, wire.sent = KEY, []
    off = wire.carry(x) - x
    size = x.square().mean(-1, keepdim=True).sqrt()
    assert float((off / size).std()) == pytest.approx(0.25, rel=0.05) and abs(float((off / size).mean())) < 0.02
    wire.sent = []
    assert torch.equal(wire.carry(x) - x, off)
    assert not torch.equal(wire.carry(x) - x, off), "each round has its own"


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize(("text", "early"), [("leave=0.4", True), ("join=0.4", False)])
def test_a_share_leaves_or_joins_in_the_first_half_and_the_others_stay(text, early, memory):
    env = meet(10)
    agent = agent_under(text, agent_for(env, topology=Complete(), memory=memory), max_steps=20)
    seen, state, heard = env.reset(0), agent.body.initial((3,), 10), []
    for t in range(20):
        features = agent.body(seen, state, key=KEY + 100 * t)
        state = features.memory
        heard.append(features.graph.hears()[..., :10].any(-1))
    heard = torch.stack(heard)  # [T, B, N]
    alone = ~heard
    outside, inside = (alone[-1], alone[0]) if early else (alone[0], alone[-1])
    assert (outside.sum(-1) == 4).all() and not inside.any()
    changes = (heard[1:] != heard[:-1]).sum(0)
    assert torch.equal(changes, outside.long()), "once each"
    assert (heard[11:] == heard[-1]).all(), "in the first half"


def test_nobody_hears_further_than_r_nor_more_than_k():
    env = meet(12)
    seen = env.reset(0)
    graph = agent_under("r=0.6", agent_for(env, topology=Complete())).body(seen, key=KEY).graph
    assert torch.equal(graph.hears(), Radius(0.6)(seen.alive, seen.position).hears())
    for topology in (Nearest(4), Auto(4), Lossy(Nearest(4), 0.0)):
        graph = agent_under("k=2", agent_for(env, topology=topology)).body(seen, key=KEY).graph
        assert (graph.degree() == 2).all()


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("memory", [False, True])
def test_an_episode_under_a_condition_can_be_played_again(text, memory):
    agent = agent_under(text, agent_for(meet(), memory=memory), 20)

    def once():
        env = meet()
        return play(env, acts(agent), agent.body.initial((3,), 5), 6, 11)["return"]

    assert torch.equal(once(), once())


@pytest.mark.parametrize("text", EVERY)
def test_large_teams_hear_by_lists_as_small_ones_by_masks(text):
    env = meet(12)
    dense = agent_for(env, topology=Nearest(3))
    lists = agent_for(env, topology=Nearest(3, dense_up_to=1))
    a, b = (rows(agent_under(text, agent, 20), meet(12)) for agent in (dense, lists))
    assert torch.allclose(a, b, atol=1e-5)


def test_the_dead_may_hold_anything():
    env = meet(6, deaths=0.3)
    agent = agent_under("delay=1+noise=0.2+shuffle", agent_for(env, topology=Complete()))

    def garbage(seen, t):
        seen = seen.clone()
        seen.own[~seen.alive] = torch.nan
        seen.position[~seen.alive] = torch.nan
        return seen

    assert torch.equal(rows(agent, meet(6, deaths=0.3), change=garbage), rows(agent, meet(6, deaths=0.3)))


def test_the_attention_of_a_disturbed_policy_lies_in_the_graphs_own_slots():
    env = meet(4, entities=2)
    for topology in (Complete(), Nearest(2, dense_up_to=1)):
        features = agent_under("noise=0.2", agent_for(env, topology=topology)).body(
            env.reset(0), key=KEY, attention=True
        )
        weights = features.attention[-1]
        assert weights.shape[-1] == features.graph.mask.shape[-1] + 1
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
        assert not weights[..., :-1][~features.graph.mask.unsqueeze(1).expand_as(weights[..., :-1])].any()


def test_conditions_are_read_and_joined():
    assert parse("delay=2+noise=0.1") == Condition(delay=2, noise=0.1)
    assert parse("delay:2+noise:0.1") == parse("delay=2+noise=0.1")
    assert parse("shuffle + k=3") == Condition(shuffle=True, k=3) and parse("none") == Condition()


@pytest.mark.parametrize(
    "text",
    [
        "mute=1",
        "cuts=1",
        "cut",
        "shuffle=1",
        "cut=1.5",
        "delay=0.5",
        "noise=-1",
        "k=0",
        "r=0",
        "cut=x",
        "",
        "cut=1+cut=0",
        "leave=0.1+join=0.1",
        "noise=nan",
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        parse(text)
    assert "\n" not in one_line(caught.value)


def test_conditions_that_a_policy_cannot_meet_are_refused():
    env = meet()
    with pytest.raises(ValueError, match=r"^expected a topology of the k nearest for k=2 \(got Complete"):
        agent_under("k=2", agent_for(env, topology=Complete()))
    agent = agent_for(env)
    agent.body.encoder = torch.nn.Linear(5, 16)
    with pytest.raises(ValueError, match=r"^expected an encoder with `kernels` or a `wire`.*shuffle.*\(got Linear\)"):
        agent_under("shuffle", agent)
    with pytest.raises(ValueError, match=r"^expected the step's key"):
        agent_under("cut=0.5", agent_for(env)).body(env.reset(0))


def test_muted_listeners_hear_no_words_and_the_graph_still():
    env = meet()
    speech = Speech((0, 2), 2, (3, 5))
    agent = agent_for(env, topology=Complete())
    silent = agent_under("mute", agent, speech=speech).body
    seen = env.reset(0)
    without = seen.clone()
    without.own[..., 3:5] = 0.0
    assert torch.allclose(silent(seen, key=KEY).h, agent.body(without, key=KEY).h, atol=1e-6)
    with pytest.raises(ValueError, match=r"^expected a world whose agents say words for mute"):
        agent_under("mute", agent)


def test_the_agent_itself_is_left_as_it_was():
    env = meet()
    agent = agent_for(env)
    before = rows(agent, meet())
    assert isinstance(agent_under("shuffle+k=1", agent).body, Disturbed)
    assert torch.equal(rows(agent, meet()), before) and agent.body.topology == Nearest(2)


def test_hashed_numbers_are_uniform():
    drawn = uniform(torch.arange(2000), 5, 3)
    assert abs(float(drawn.mean()) - 0.5) < 0.01 and abs(float(drawn.var()) - 1 / 12) < 0.003
