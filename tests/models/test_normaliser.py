"""Running statistics: exact, masked, frozen at evaluation, whole after a trip through a state dict."""

from __future__ import annotations

import pytest
import torch

from gcoord.models.normaliser import RunningNorm, ValueNorm

nan = float("nan")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_batches_merge_to_the_statistics_of_all_living_rows(shape):
    norm = RunningNorm(shape)
    kept = []
    for n in (1, 2, 3, 5, 40):
        x = torch.randn(6, n, *shape) * 3 + 100
        mask = torch.rand(6, n) < 0.6
        kept.append(x[mask])
        x[~mask] = nan
        norm.update(x, mask)
    rows = torch.cat(kept).double()
    torch.testing.assert_close(norm.mean, rows.mean(0))
    torch.testing.assert_close(norm.m2 / norm.count, rows.var(0, unbiased=False))
    assert norm.count == len(rows)
    normalised = norm(rows)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(shape, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalised.std(0, unbiased=False), torch.ones(shape, dtype=torch.float64))


def test_an_empty_mask_and_eval_mode_leave_the_statistics_as_they_are():
    norm = RunningNorm(3)
    norm.update(torch.randn(10, 4, 3), torch.ones(10, 4, dtype=torch.bool))
    before = {name: x.clone() for name, x in norm.state_dict().items()}
    norm.update(torch.full((10, 4, 3), nan), torch.zeros(10, 4, dtype=torch.bool))
    norm.eval()
    norm.update(torch.randn(10, 4, 3) + 9, torch.ones(10, 4, dtype=torch.bool))
    assert all(torch.equal(x, before[name]) for name, x in norm.state_dict().items())


def test_constant_features_and_first_steps_stay_finite_and_clipped():
    norm = RunningNorm(2, clip=5.0)
    x = torch.tensor([[1.0, 7.0]])
    torch.testing.assert_close(norm(x), torch.tensor([[1.0, 5.0]]))
    norm.update(torch.full((20, 3, 2), 7.0), torch.ones(20, 3, dtype=torch.bool))
    torch.testing.assert_close(norm(torch.tensor([[7.0, 17.0]])), torch.tensor([[0.0, 5.0]]))


def test_the_first_other_value_of_a_constant_feature_is_only_shifted():
    norm = RunningNorm(3)
    rows = torch.tensor([1.0, 0.3, 1e4]).expand(5, 7, 3).clone()
    for _ in range(4):
        norm.update(rows, torch.ones(5, 7, dtype=torch.bool))
    torch.testing.assert_close(
        norm(torch.tensor([0.0, 0.5, 1e4 + 2])), torch.tensor([-1.0, 0.2, 2.0]), atol=1e-2, rtol=0
    )


def test_offsets_far_from_zero_lose_no_variance():
    norm = RunningNorm(1)
    for _ in range(10):
        norm.update(torch.randn(100, 10, 1) * 0.5 + 4096, torch.ones(100, 10, dtype=torch.bool))
    assert abs((norm.m2 / norm.count).sqrt().item() - 0.5) < 0.02


def test_values_go_there_and_back_by_the_statistics_of_their_team_size():
    norm = ValueNorm(beta=0.5)
    everyone = torch.ones(4, dtype=torch.bool)
    norm.update(torch.tensor([1.0, 1.0, 3.0, 3.0]), everyone, 2)
    norm.update(torch.tensor([100.0, 100.0, 120.0, 120.0]), everyone, 8)
    # Debiased: the first batch alone decides.
    torch.testing.assert_close(norm.normalise(torch.tensor([1.0, 2.0, 4.0]), 2), torch.tensor([-1.0, 0.0, 2.0]))
    torch.testing.assert_close(norm.denormalise(torch.tensor([0.0, 1.0]), 8), torch.tensor([110.0, 120.0]))
    # Then (0.25 * 2 + 0.5 * 5) / 0.75 = 4 and (0.25 * 5 + 0.5 * 25) / 0.75 = 55 / 3.
    norm.update(torch.full((4,), 5.0), everyone, 2)
    mean, deviation = norm.statistics(2)
    assert abs(mean.item() - 4) < 1e-12
    assert abs(deviation.item() - (55 / 3 - 16) ** 0.5) < 1e-12


def test_masked_returns_are_never_read():
    first, second = ValueNorm(), ValueNorm()
    returns, mask = torch.randn(7, 3), torch.rand(7, 3) < 0.5
    first.update(returns, mask, 3)
    second.update(returns.masked_fill(~mask, nan), mask, 3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    expected = returns[mask].double()
    torch.testing.assert_close(first.statistics(3)[0], expected.mean())
    torch.testing.assert_close(first.statistics(3)[1], expected.std(unbiased=False))
    first.update(torch.full((7, 3), nan), torch.zeros(7, 3, dtype=torch.bool), 3)
    torch.testing.assert_close(first.statistics(3)[0], expected.mean())


def test_a_size_not_seen_yet_reads_the_nearest_one():
    norm = ValueNorm()
    torch.testing.assert_close(norm.normalise(torch.tensor([3.0]), 4), torch.tensor([3.0]))
    everyone = torch.ones(2, dtype=torch.bool)
    norm.update(torch.tensor([0.0, 2.0]), everyone, 4)
    norm.update(torch.tensor([10.0, 30.0]), everyone, 16)
    assert norm.statistics(5)[0] == norm.statistics(4)[0] == 1
    assert norm.statistics(1000)[0] == norm.statistics(16)[0] == 20
    assert norm.statistics(10)[0] == 1


def test_sizes_survive_a_state_dict_and_training_goes_on_alike():
    norm = ValueNorm()
    everyone = torch.ones(5, dtype=torch.bool)
    for size in (8, 2, 4):
        norm.update(torch.randn(5) + size, everyone, size)
    loaded = torch.nn.ModuleDict({"critic": ValueNorm()})
    loaded["critic"].update(torch.randn(5), everyone, 99)
    loaded.load_state_dict({f"critic.{name}": x for name, x in norm.state_dict().items()})
    more = torch.randn(5)
    for size in (4, 16):
        norm.update(more, everyone, size)
        loaded["critic"].update(more, everyone, size)
    for size in (2, 4, 8, 16, 99):
        assert norm.statistics(size) == loaded["critic"].statistics(size)
    assert loaded["critic"].sizes.tolist() == [8, 2, 4, 16]


def test_value_statistics_are_frozen_in_eval_mode():
    norm = ValueNorm().eval()
    norm.update(torch.randn(5), torch.ones(5, dtype=torch.bool), 4)
    assert norm.sizes.numel() == 0
