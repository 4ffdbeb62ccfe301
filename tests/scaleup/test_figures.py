"""Promises of a sweep's figures: known answers of what is kept, gained and cost, silence where nothing can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gcoord
from gcoord.data.playing import acts, play
from gcoord.graph import Complete, Lossy, Nearest, Radius
from gcoord.policy import make_agent
from gcoord.scaleup.cells import Cell, Played
from gcoord.scaleup.costs import Largest, Meter
from gcoord.scaleup.figures import Group, Key, area, learning, points, retentions, scores
from gcoord.scaleup.trainings import Spent


def group(mode, *runs, method="mappo relation", train="4", size=16, curves=()):
    """A policy whose runs had these returns per agent, an episode each."""
    key = Key(mode, method, train, size, "")
    cells = [Cell(mode, method, train, size, "", i, {}, 1, 1, 0, run="r") for i in range(len(runs))]
    played = [Played("toy", "fixed", size, {"return_per_agent": list(run)}) for run in runs]
    spent = [Spent(100, 400, 100, 1.0) for _ in runs]
    named = [[(frames, {"return_per_agent": value}) for frames, value in curve] for curve in curves]
    return Group(key, cells, played, spent, named)


def found(rows):
    return {row.metric: row for row in rows}


RANDOM, SCRIPT = group("random", [0.0, 0.2]), group("scripted", [1.9, 2.1])


def test_what_is_kept_is_the_share_of_what_could_be_learnt_with_an_interval_over_runs():
    zero, scratch = group("zero_shot", [1.0, 1.2], [0.6, 0.8]), group("scratch", [1.2, 1.4], [1.0, 1.2], train="16")
    rows, notes = retentions(zero, [RANDOM, SCRIPT, zero, scratch])
    rows = found(rows)
    assert rows["retention"].value == pytest.approx((0.9 - 0.1) / (1.2 - 0.1))
    assert rows["retention_of_script"].value == pytest.approx((0.9 - 0.1) / (2.0 - 0.1))
    # Runs are drawn: at the least the worse run thrice beside the better scratch, at the most the other way round.
    assert (0.7 - 0.2) / (1.3 - 0.2) <= rows["retention"].ci_low < rows["retention"].value
    assert rows["retention"].value < rows["retention"].ci_high <= (1.1 - 0.0) / (1.1 - 0.0)
    assert rows["retention"].seeds == 2 and not notes


def test_where_scratch_learnt_nothing_no_share_is_stated_and_the_reason_is():
    zero, scratch = group("zero_shot", [1.0, 1.2]), group("scratch", [0.1, 0.3], train="16")
    rows, notes = retentions(zero, [RANDOM, SCRIPT, zero, scratch])
    assert set(found(rows)) == {"retention_of_script"}
    assert len(notes) == 1 and "retention of mappo relation zero-shot from 4 at 16 agents is not stated" in notes[0]
    assert "does not lie above that of random play [0, 0.2]" in notes[0]


def test_scratch_of_another_method_or_size_is_no_yardstick():
    zero = group("zero_shot", [1.0, 1.2])
    others = [group("scratch", [1.2, 1.4], method="mappo mlp"), group("scratch", [1.2, 1.4], size=8)]
    assert retentions(zero, [RANDOM, zero, *others]) == ([], [])


def test_intervals_of_one_run_are_over_its_episodes_and_of_several_over_their_means():
    assert scores([[1.0, 2.0, 3.0]]).tolist() == [[1.0], [2.0], [3.0]]
    assert scores([[1.0, 2.0, 3.0], [5.0, 5.0, 8.0]]).tolist() == [[2.0], [6.0]]


def test_curves_tell_where_tuning_begins_when_it_is_there_and_what_it_earns_on_the_way():
    ways = [[(0, 0.8), (10, 1.0), (20, 1.2)], [(0, 0.6), (10, 0.7), (20, 1.1)]]
    tuned = group("fine_tuned", [1.0], [1.0], curves=ways)
    scratch = group(
        "scratch", [1.1, 1.2], [1.0, 1.1], train="16", curves=[[(0, 0.1), (50, 1.1)], [(0, 0.0), (40, 1.0), (50, 1.1)]]
    )
    rows, notes = learning(tuned, [RANDOM, tuned, scratch])
    rows = found(rows)
    assert not notes
    assert rows["jump_start"].value == pytest.approx(0.7 - 0.05)
    assert rows["curve_area"].value == pytest.approx(np.mean([1.0, (0.65 * 10 + 0.9 * 10) / 20]))
    # Random play earns 0.1 and scratch 1.1 at its best: 90 % of the way is 1.0.
    assert rows["frames_to_90"].value == pytest.approx((10 + 20) / 2)
    assert found(learning(scratch, [RANDOM, tuned, scratch])[0])["frames_to_90"].value == pytest.approx((50 + 40) / 2)
    assert "jump_start" not in found(learning(scratch, [RANDOM, tuned, scratch])[0])


def test_what_not_every_run_reached_is_not_stated_and_one_run_has_no_interval():
    tuned = group("fine_tuned", [1.0], curves=[[(0, 0.3), (10, 0.5)]])
    scratch = group("scratch", [1.1, 1.2], train="16", curves=[[(0, 0.1), (50, 1.1)]])
    rows, notes = learning(tuned, [RANDOM, tuned, scratch])
    assert "frames_to_90" not in found(rows) and "0 of 1 runs reached 1" in notes[0]
    assert math.isnan(found(rows)["curve_area"].ci_low) and found(rows)["jump_start"].value == pytest.approx(0.2)


def test_the_area_is_the_mean_height_whatever_the_spacing():
    assert area([(0, 1.0), (10, 1.0), (100, 1.0)]) == pytest.approx(1.0)
    assert area([(0, 0.0), (10, 0.0), (20, 1.0)]) == pytest.approx(0.25)
    assert area([(7, 3.0)]) == 3.0


def test_every_point_of_a_curve_counts_agent_steps_too():
    lines = points(group("fine_tuned", [1.0], curves=[[(0, 0.3), (10, 0.5)]]))
    assert [(line["frames"], line["agent_steps"], line["value"]) for line in lines] == [(0, 0, 0.3), (10, 160, 0.5)]


# What acting costs


def costs(topology, n=8, rounds=2, relay=0, claims=0, **options):
    env = gcoord.make_env("native/meet", n_agents=n, num_envs=4, **options)
    parts = {
        "topology": topology,
        "model": {
            "_target_": "gcoord.models.agent.Body",
            "_partial_": True,
            "encoder": {
                "_target_": "gcoord.models.encoder.GraphEncoder", "_partial_": True, "dim": 16, "rounds": rounds,
                "relay": relay, "claims": claims, "claim_rounds": 5,
            },
        },
        "head": {"_target_": "gcoord.models.kinds.policy_head", "_partial_": True},
    }  # fmt: skip
    agent = make_agent(parts, env.spec)
    meter = Meter(agent)
    with meter.listening():
        play(env, meter.timed(acts(agent)), None, 4, 0)
    return meter.figures()


def part(topology):
    return {"_target_": f"gcoord.graph.{type(topology).__name__}", **vars(topology)}


@pytest.mark.parametrize("topology, heard", [(Nearest(2), 2), (Complete(), 7)])
def test_messages_and_bytes_are_what_the_graph_and_the_encoder_say(topology, heard):
    told = costs(part(topology))
    assert told["neighbours"] == pytest.approx([heard] * 4)
    assert told["messages"] == pytest.approx([2 * heard] * 4)
    assert told["message_bytes"] == pytest.approx([2 * heard * 16 * 4] * 4)
    assert "edges_dropped" not in told and "entities_heard" not in told
    assert costs(part(topology), rounds=1)["messages"] == pytest.approx([heard] * 4)


def test_what_is_relayed_of_every_entity_is_counted_in_bytes():
    told = costs(part(Complete()), relay=3, entities=5)
    assert told["messages"] == pytest.approx([2 * 7] * 4)
    assert told["message_bytes"] == pytest.approx([2 * 7 * (16 + 3 * heard) * 4 for heard in told["entities_heard"]])


def test_every_exchange_of_claims_is_a_message_of_what_is_heard():
    told = costs(part(Complete()), claims=2, entities=5)
    assert told["messages"] == pytest.approx([(2 + 5) * 7] * 4)
    bytes_of = [7 * (2 * 16 + 5 * 2 * heard) * 4 for heard in told["entities_heard"]]
    assert told["message_bytes"] == pytest.approx(bytes_of)


def test_lost_messages_are_not_counted_and_entities_are_no_messages():
    lossy = {"_target_": f"{Lossy.__module__}.Lossy", "topology": part(Complete()), "drop": 1.0}
    assert costs(lossy)["messages"] == [0.0] * 4
    told = costs(part(Complete()), entities=3)
    assert all(1 <= heard <= 3 for heard in told["entities_heard"]) and told["neighbours"] == pytest.approx([7] * 4)


def test_edges_that_a_limit_drops_are_counted():
    told = costs(part(Radius(100.0, limit=3, ties="key")))
    assert told["neighbours"] == pytest.approx([3] * 4) and told["edges_dropped"] == pytest.approx([4] * 4)


def test_the_dead_hear_nothing_and_count_for_nothing():
    told = costs(part(Complete()), deaths=0.3)
    assert all(0 < heard < 7 for heard in told["neighbours"])


def test_memory_is_what_tensors_hold_at_once():
    with Largest() as largest:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)
        c.add_(1)
    assert largest.bytes == 8000
    small, large = (costs(part(Complete()), n=n)["act_mb"][0] for n in (4, 32))
    assert costs(part(Complete()), n=4)["act_mb"][0] == small and large > 4 * small
