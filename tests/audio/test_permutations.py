"""Stems without an order: the best of all orders, against SciPy and torchmetrics, and a loss that does not see the order."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchmetrics.functional.audio import permutation_invariant_training, scale_invariant_signal_distortion_ratio

from rectiflow.flow import Flow
from rectiflow_audio.permutations import UnorderedStems, arranged, best_arranged, orders, squared_distances


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_orders_are_scipys_assignments(count: int, generator: torch.Generator) -> None:
    costs = torch.randn(20, count, count, generator=generator)
    expected = torch.stack([torch.from_numpy(linear_sum_assignment(one.numpy())[1]) for one in costs])
    assert torch.equal(orders(costs), expected)


def test_distances_are_those_of_every_pair(generator: torch.Generator) -> None:
    first, second = torch.randn(2, 4, 3, 5, 7, generator=generator)
    expected = (first[:, :, None] - second[:, None]).square().flatten(3).sum(3)
    torch.testing.assert_close(squared_distances(first, second), expected, atol=1e-4, rtol=1e-5)


def test_the_error_is_the_least_over_all_orders(generator: torch.Generator) -> None:
    prediction, target = torch.randn(2, 6, 3, 4, generator=generator)
    prediction.requires_grad_()
    found = UnorderedStems().residual(prediction, target, "data", prediction).square().flatten(1).sum(1)
    every = [
        (prediction - target[:, list(order)]).square().flatten(1).sum(1) for order in itertools.permutations(range(3))
    ]
    torch.testing.assert_close(found, torch.stack(every).amin(0))
    torch.autograd.backward(found.sum())
    assert prediction.grad is not None


def test_the_loss_of_a_flow_does_not_see_the_order(generator: torch.Generator) -> None:
    x1 = torch.randn(5, 3, 8, generator=generator)
    flow = Flow(lambda x, t, **cond: x1[:, [2, 0, 1]] + 0.1, predicts="data", space=UnorderedStems())
    plain = Flow(lambda x, t, **cond: x1[:, [2, 0, 1]] + 0.1, predicts="data")
    assert float(flow.loss(x1, generator=generator)) == pytest.approx(0.01, rel=1e-4)
    assert float(plain.loss(x1, generator=generator)) > 0.5


def test_true_waves_are_ordered_as_torchmetrics_does(generator: torch.Generator) -> None:
    truth = torch.randn(12, 3, 500, generator=generator)
    estimate = 0.4 * truth[:, [1, 2, 0]] + torch.randn(12, 3, 500, generator=generator) * torch.rand(
        12, 1, 1, generator=generator
    )
    found = best_arranged(truth, estimate)
    ratio = scale_invariant_signal_distortion_ratio(estimate, found).mean(1)
    best, _ = permutation_invariant_training(estimate, truth, scale_invariant_signal_distortion_ratio)
    torch.testing.assert_close(ratio, best)
    assert torch.equal(arranged(truth, torch.tensor([[1, 2, 0]]).expand(12, 3)), truth[:, [1, 2, 0]])


def test_a_silent_stem_takes_the_place_that_is_left(generator: torch.Generator) -> None:
    truth = torch.randn(1, 3, 500, generator=generator)
    truth[:, 1] = 0
    estimate = truth[:, [2, 0, 1]] + 0.01 * torch.randn(1, 3, 500, generator=generator)
    assert torch.equal(best_arranged(truth, estimate), truth[:, [2, 0, 1]])
