"""Promises of stacks stored once: what is read is what was seen, in less room, through cuts and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gcoord.data.replay import Replay
from gcoord.trajectory import Observation, Step

STACK, B, N = 4, 2, 3


def story(count: int) -> Step:
    """Rows [count, B] of teams that end and begin again; agent 2 dies in every episode, agent 1 dies and comes back.

    A frame's number is unique, and stacks are made as a world makes them: the first frame of an agent fills its stack.
    """
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(256, (count, B, N, 1, 2, 2), generator=generator, dtype=torch.uint8)
    clock = (torch.arange(count).unsqueeze(1) + torch.tensor([0, 3])) % torch.tensor([9, 7])  # [T, B]
    valid = clock != torch.tensor([8, 6])
    alive = torch.ones(count, B, N, dtype=torch.bool)
    alive[..., 2] = clock < 5
    alive[..., 1] = (clock != 3) & (clock != 4)
    own = torch.zeros(count, B, N, STACK, 2, 2, dtype=torch.uint8)
    for t in range(count):
        for b in range(B):
            for i in range(N):
                if not alive[t, b, i]:
                    continue
                goes_on = t > 0 and valid[t - 1, b] and alive[t - 1, b, i]
                own[t, b, i] = torch.cat([own[t - 1, b, i, 1:], frame[t, b, i]]) if goes_on else frame[t, b, i]
    seen = Observation(own=own, alive=alive, kind=torch.zeros(count, B, N, dtype=torch.long), batch_size=[count, B])
    flag = torch.zeros(count, B, dtype=torch.bool)
    key = 100 * torch.arange(count).unsqueeze(1) + torch.arange(B)
    zero = torch.zeros(count, B, N)
    return Step(seen, zero.long(), zero, flag, flag.clone(), valid, key, batch_size=[count, B])


def require_same(batch, steps: Step, length: int) -> None:
    row, team = batch.steps.key[0] // 100, batch.steps.key[0] % 100
    for ahead in range(length + 1):
        own = batch.last.own if ahead == length else batch.steps.seen.own[ahead]
        alive = steps.seen.alive[row + ahead, team]
        assert torch.equal(own[alive], steps.seen.own[row + ahead, team][alive])


@pytest.mark.parametrize("length", [1, 3])
def test_every_window_holds_the_stacks_that_were_seen(length: int) -> None:
    steps = story(70)
    for total in (5 + length, 20, 21, 40, 70):
        replay = Replay(20 * B, stack=STACK)
        replay.add(steps[:total])
        batch = replay.sample(300, length)
        require_same(batch, steps, length)
        # All but the oldest three rows and what would cross the cursor.
        rows = set((batch.steps.key[0] // 100).tolist())
        assert min(rows) == max(total - 20, 0) + STACK - 1 and max(rows) < total - length


def test_a_stack_takes_the_room_of_one_frame() -> None:
    sizes = []
    for stack in (1, STACK):
        replay = Replay(100, stack=stack)
        replay.add(story(10))
        sizes.append(replay._ring["seen.own"].nbytes)
    assert sizes[0] == STACK * sizes[1]


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_restored_replay_reads_the_same_stacks(tmp_path: Path, on_disk: bool) -> None:
    folder = tmp_path if on_disk else None
    steps = story(60)
    replay = Replay(20 * B, stack=STACK, folder=folder)
    replay.add(steps[:33])
    again = Replay(20 * B, stack=STACK, folder=folder)
    again.load_state_dict(replay.state_dict())
    for one in (replay, again):
        one.add(steps[33:37])
    a, b = replay.sample(200, 2), again.sample(200, 2)
    assert torch.equal(a.index, b.index) and torch.equal(a.steps.seen.own, b.steps.seen.own)
    require_same(b, steps, 2)


def test_a_stack_does_not_reach_over_a_cut() -> None:
    steps = story(12)
    replay = Replay(40 * B, stack=STACK)
    replay.add(steps[:4])
    replay.cut()
    replay.add(steps[4:])
    batch = replay.sample(300, 1)
    after = batch.steps.key[0] // 100 == 4
    own, alive = batch.steps.seen.own[0][after], batch.steps.seen.alive[0][after]
    assert after.any() and torch.equal(own[alive], own[alive][:, -1:].expand(-1, STACK, -1, -1))


def test_a_replay_too_short_for_its_stack_is_not_ready_and_says_so() -> None:
    replay = Replay(20 * B, stack=STACK)
    replay.add(story(4))
    assert not replay.ready(1)
    with pytest.raises(ValueError, match=r"expected more than 4 rows to draw windows of 1 from \(got 4"):
        replay.sample(1)
