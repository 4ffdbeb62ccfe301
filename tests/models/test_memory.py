"""Memory: torch's GRU, step by step or unrolled, cleared at resets and for the dead."""

from __future__ import annotations

import pytest
import torch

from gcoord.models.memory import GRU

nan = float("nan")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def biased() -> GRU:
    """A unit whose biases are not the zeros it starts with: a step from nothing on nothing gives something."""
    gru = GRU(6, 8).double()
    with torch.no_grad():
        gru.cell.bias_ih.normal_()
        gru.cell.bias_hh.normal_()
    return gru


def rows(time: int, teams: int, n: int, dim: int = 6, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(time, teams, n, dim, dtype=dtype),
        "memory": torch.randn(teams, n, 8, dtype=dtype),
        "resets": torch.rand(time, teams) < 0.2,
        "alive": torch.rand(time, teams, n) < 0.7,
    }


def test_one_step_is_torchs_gru_cell():
    gru = biased()
    x, memory = torch.randn(5, 3, 6, dtype=torch.float64), torch.randn(5, 3, 8, dtype=torch.float64)
    out, new = gru.step(x, memory)
    expected = gru.cell(x.flatten(0, 1), memory.flatten(0, 1)).view(5, 3, 8)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert out is new


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("with_dead", [False, True])
def test_unrolling_equals_stepping(n, with_dead):
    gru = biased()
    case = rows(9, 4, n)
    alive = case["alive"] if with_dead else None
    out, last = gru.unroll(case["x"], case["memory"], case["resets"], alive)
    memory = case["memory"]
    for t in range(9):
        memory = memory * ~case["resets"][t][:, None, None]
        expected, memory = gru.step(case["x"][t], memory, None if alive is None else alive[t])
        torch.testing.assert_close(out[t], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, memory, rtol=1e-12, atol=1e-12)


def test_a_reset_forgets_everything_before_it():
    gru = biased()
    case = rows(6, 1, 3)
    resets = torch.zeros(6, 1, dtype=torch.bool)
    resets[3] = True
    out, _ = gru.unroll(case["x"], case["memory"], resets)
    fresh, _ = gru.unroll(case["x"][3:], gru.initial(1, 3), resets[:3])
    torch.testing.assert_close(out[3:], fresh)
    without, _ = gru.unroll(case["x"], case["memory"], torch.zeros_like(resets))
    assert (without[3:] - out[3:]).abs().max() > 1e-3
    torch.testing.assert_close(without[:3], out[:3])


def test_the_dead_remember_nothing_and_start_anew_on_return():
    gru = biased()
    case = rows(5, 1, 2)
    alive = torch.ones(5, 1, 2, dtype=torch.bool)
    alive[1:3, :, 1] = False
    out, _ = gru.unroll(case["x"], case["memory"], torch.zeros(5, 1, dtype=torch.bool), alive)
    assert (out[1:3, :, 1] == 0).all()
    fresh, _ = gru.step(case["x"][3], gru.initial(1, 2))
    torch.testing.assert_close(out[3, :, 1], fresh[:, 1])
    assert (out[3, :, 0] - fresh[:, 0]).abs().max() > 1e-3


def test_garbage_in_dead_slots_changes_no_bit_forward_or_backward():
    gru = biased()
    case = rows(7, 3, 4)
    results = []
    for garbage in (0.0, nan):
        x, memory = case["x"].clone(), case["memory"].clone()
        x[~case["alive"]] = garbage
        memory[~case["alive"][0]] = garbage
        x.requires_grad_()
        out, last = gru.unroll(x, memory, case["resets"], case["alive"])
        gru.zero_grad()
        (out.square().sum() + last.sum()).backward()
        results.append([out, last, x.grad, *(p.grad.clone() for p in gru.parameters())])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


def test_gradients_flow_back_through_time_up_to_the_reset():
    gru = biased()
    case = rows(6, 1, 2)
    resets = torch.zeros(6, 1, dtype=torch.bool)
    resets[2] = True
    x = case["x"].requires_grad_()
    gru.unroll(x, case["memory"], resets)[1].sum().backward()
    reached = x.grad.abs().amax((1, 2, 3))
    assert (reached[:2] == 0).all() and (reached[2:] > 0).all()


def test_initial_memory_has_the_shape_asked_for():
    assert GRU(6, 8).initial(4, 3).shape == (4, 3, 8)
    assert (GRU(6, 8).initial(3) == 0).all()
