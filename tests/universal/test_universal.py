"""What every algorithm promises with every encoder and memory: order, padding, rubbish, size, batch and distance.

`make test` meets all pairs of choices (algorithm, encoder, memory, kind of actions, and what a team is like),
`make test-all` every algorithm with every encoder, memory and kind of actions. Each cell is judged by what the policy
says and by every loss and every gradient, in double precision.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from pairwise import cover
from teams import (
    TEAMS,
    TOPOLOGIES,
    Learnt,
    N,
    arranged,
    learner_of,
    littered,
    observed,
    padded,
    spec_of,
    takes_actions,
    told,
    trajectory_of,
    twice,
)

from gcoord.conf import options_of
from gcoord.graph import Radius

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
WIDE = {"algo": options_of("algo"), "model": options_of("model")}
PARTS = {**WIDE, "memory": ["none", "gru"], "actions": ["numbers", "boxes", "mixed"]}
TEAM = {
    "topology": list(TOPOLOGIES), "kinds": [1, 2], "deaths": [False, True], "entities": [False, True],
    "reward": ["own", "team"], "limits": [False, True],
}  # fmt: skip


def allowed(cell):
    """Kinds of actions that an algorithm takes; both in one team are of two kinds, whose numbers differ."""
    actions = cell.get("actions")
    if "algo" in cell and actions and not takes_actions(cell["algo"], actions):
        return False
    if actions == "mixed" and cell.get("kinds") == 1:
        return False
    return not (actions == "boxes" and cell.get("limits"))


def named(cell):
    return "-".join(
        str(level) if not isinstance(level, bool) else name if level else "" for name, level in cell.items()
    )


def whole():
    """Every algorithm with every encoder, memory and kind of actions; teams differ from cell to cell."""
    teams = itertools.cycle(cover(TEAM, lambda cell: True))
    for levels in itertools.product(*PARTS.values()):
        parts = dict(zip(PARTS, levels, strict=True))
        if allowed(parts):
            yield next(cell for team in teams if allowed(cell := {**parts, **team}))


PAIRWISE = cover({**PARTS, **TEAM}, allowed)
EVERY = [pytest.param(cell, id=named(cell)) for cell in PAIRWISE]
EVERY += [pytest.param(cell, id="full-" + named(cell), marks=pytest.mark.full) for cell in whole()]


def made(cell, **options):
    """A learner; DGN's regulariser, which needs attention, is left out where the encoder has none."""
    if cell["algo"] == "dgn" and cell["model"] == "mlp":
        with pytest.raises(ValueError, match=r"^expected an encoder with attention .* set algo\.drift=0$"):
            learner_of(cell)
        options["drift"] = 0.0
    return learner_of(cell, **options)


def agree(found, expected, said):
    for name, loss in expected.losses.items():
        torch.testing.assert_close(found.losses[name], loss, **CLOSE, msg=lambda m, n=name: f"{said}, loss {n}: {m}")
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(
            found.gradients[name], gradient, **CLOSE, msg=lambda m, n=name: f"{said}, gradient {n}: {m}"
        )


@pytest.mark.parametrize("cell", EVERY)
def test_what_every_combination_promises(cell):
    learner = made(cell)
    trajectory = trajectory_of(cell, learner)
    learnt = Learnt(learner, trajectory)
    assert learnt.losses and all(loss.isfinite() for loss in learnt.losses.values())
    assert all(gradient.isfinite().all() for gradient in learnt.gradients.values())
    for name, parts in learner.groups().items():
        of_group = {id(p) for part in parts for p in part.parameters()}
        names = [key for key, p in learner.named_parameters() if id(p) in of_group and p.requires_grad]
        assert not names or any(learnt.gradients[key].any() for key in names if key in learnt.gradients), name
    bound = learner.fixed_n is not None
    refused = r"^expected teams of 4, to which this mixer is bound \(got \d agents\)$"
    the_policy_is_the_same(cell, learner, trajectory)
    if cell["deaths"]:
        again = Learnt(learner, littered(trajectory))
        assert all(torch.equal(again.losses[name], loss) for name, loss in learnt.losses.items())
        for name, gradient in learnt.gradients.items():
            assert torch.equal(again.gradients[name], gradient), f"rubbish in slots of the dead, gradient {name}"
    agree(Learnt(learner, twice(trajectory)), learnt, "every team twice")
    if not bound:
        agree(Learnt(learner, arranged(trajectory, torch.randperm(N))), learnt, "another order")
        agree(Learnt(learner, padded(trajectory, 2)), learnt, "two dead slots more")
    for n in (1, 7):
        other = trajectory_of(cell, learner, n)
        if bound:
            with pytest.raises(ValueError, match=refused):
                Learnt(learner, other)
        else:
            found = Learnt(learner, other)
            assert all(x.isfinite().all() for x in (*found.losses.values(), *found.gradients.values()))
    the_policy_is_local(cell, learner)


def the_policy_is_the_same(cell, learner, trajectory):
    """In another order, beside dead slots, and alone instead of in a batch of teams."""
    with torch.no_grad():
        seen, memory, key = trajectory.steps.seen[0], trajectory.memory, trajectory.steps.key[0]
        living = seen.alive
        said = told(learner, seen, memory, key)
        order = torch.randperm(N + 2)
        moved = arranged(padded(trajectory, 2), order)
        again = told(learner, moved.steps.seen[0], moved.memory, key)
        back = again[:, order.argsort()][:, :N]
        torch.testing.assert_close(back[living], said[living], **CLOSE, msg=lambda m: f"order and padding: {m}")
        alone = told(learner, seen[1:2], None if memory is None else memory[1:2], key[1:2])
        torch.testing.assert_close(alone[living[1:2]], said[1:2][living[1:2]], **CLOSE, msg=lambda m: f"alone: {m}")


def the_policy_is_local(cell, learner):
    """Seven in a row, each hearing the next: what is further off than messages go reaches nobody's action."""
    n, rows = 7, 8
    body, head = learner.agent.body, learner.agent.head
    seen = observed(cell, spec_of(cell, n), torch.ones(rows, n, dtype=torch.bool))
    seen.position = torch.stack([torch.arange(n), torch.zeros(n)], -1).double().repeat(rows, 1, 1)
    # Who has but one thing to do heeds nobody.
    seen.available = None
    seen.own.requires_grad_()
    topology, body.topology = body.topology, Radius(1.1)
    first = told(learner, seen, None, torch.arange(rows))[:, 0].sum()
    body.topology = topology
    (slope,) = torch.autograd.grad(first, seen.own)
    reached = slope.abs().sum((0, -1)) > 0
    rounds = 1 if cell["model"] == "mlp" else len(body.encoder.kernels)
    # Who reads the features of those it hears looks one step further.
    hops = rounds + getattr(head, "reads_graph", False)
    assert reached.tolist() == [j <= hops for j in range(n)]


def test_every_algorithm_meets_every_encoder_memory_and_kind_of_actions():
    met = {(cell["algo"], cell["model"]) for cell in PAIRWISE}
    assert met == set(itertools.product(*WIDE.values()))
    for other in ("memory", "actions", *TEAM):
        levels = {**PARTS, **TEAM}[other]
        wanted = {(a, level) for a in WIDE["algo"] for level in levels if allowed({"algo": a, other: level})}
        if other == "limits":
            wanted -= {(a, True) for a in WIDE["algo"] if not takes_actions(a, "numbers")}
        assert {(cell["algo"], cell[other]) for cell in PAIRWISE} >= wanted, other


ALGORITHMS = pytest.mark.parametrize("algo", WIDE["algo"])
PLAIN = {
    "model": "mean", "memory": "none", "topology": "complete", "kinds": 2, "deaths": False, "entities": False,
    "reward": "own", "limits": False,
}  # fmt: skip


@ALGORITHMS
@pytest.mark.parametrize("actions", ["numbers", "boxes", "mixed"])
def test_every_kind_has_weights_of_its_own_or_a_clear_error_is_raised(algo, actions):
    cell = {"algo": algo, "actions": actions, **PLAIN}
    if not takes_actions(algo, actions):
        with pytest.raises(ValueError, match=r"^expected discrete actions .* \(got .*\)$"):
            learner_of(cell)
        return
    learner = learner_of(cell)
    seen = observed(cell, learner.spec, torch.ones(TEAMS, N, dtype=torch.bool))
    said = told(learner, seen, None, torch.arange(TEAMS))
    trained = []
    for kind in (0, 1):
        learner.zero_grad()
        said[seen.kind == kind].sum().backward(retain_graph=True)
        head = learner.agent.head.named_parameters()
        trained.append({name for name, p in head if p.grad is not None and p.grad.any()})
    assert trained[0] - trained[1] and trained[1] - trained[0]
