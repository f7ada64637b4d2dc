"""Stored pairs are drawn independently and uniformly at each step, as a function of the step."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from rectiflow.batch import Batch
from rectiflow.errors import DataError
from rectiflow.training.batches import BatchOrder, IndependentOrder, order_of


class Numbers:
    def __init__(self, length: int, replacement: bool) -> None:
        self.length, self.replacement = length, replacement

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(torch.tensor(indices))


def test_data_say_how_they_are_drawn() -> None:
    assert type(order_of(Numbers(9, replacement=True), 4, 0)) is IndependentOrder
    assert type(order_of(Numbers(9, replacement=False), 4, 0)) is BatchOrder


def test_frequencies_are_those_of_uniform_draws() -> None:
    bins, batch, micros = 100, 64, 500
    order = IndependentOrder(bins, batch, seed=1)
    drawn = torch.tensor([order.indices(micro) for micro in range(micros)])
    counts = torch.bincount(drawn.flatten(), minlength=bins)
    expected = batch * micros / bins
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = bins - 1
    # An upper bound alone would pass epochs, whose counts are too even.
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def test_an_epochs_worth_of_draws_leaves_out_one_in_e() -> None:
    length = 4096
    order = IndependentOrder(length, 64, seed=2)
    drawn = {index for micro in range(length // 64) for index in order.indices(micro)}
    missed = 1 - len(drawn) / length
    deviation = math.sqrt((math.exp(-1) - 2 * math.exp(-2)) / length)  # of the fraction of empty cells
    assert abs(missed - math.exp(-1)) < 4 * deviation


def test_steps_and_places_are_uncorrelated() -> None:
    order = IndependentOrder(1000, 32, seed=3)
    drawn = torch.tensor([order.indices(micro) for micro in range(600)], dtype=torch.float64)
    z = (drawn - drawn.mean()) / drawn.std()
    for lagged in (z[1:] * z[:-1], z[:, 1:] * z[:, :-1]):
        assert abs(float(lagged.mean())) < 4 / math.sqrt(lagged.numel())


def test_any_batch_can_be_asked_for_at_any_time() -> None:
    order = IndependentOrder(37, 8, seed=3)
    expected = [order.indices(micro) for micro in range(30)]
    assert [IndependentOrder(37, 8, seed=3).indices(micro) for micro in (29, 0, 17)] == [
        expected[i] for i in (29, 0, 17)
    ]
    assert list(islice(order.following(7), 3)) == expected[7:10]


def test_ranks_and_seeds_draw_differently() -> None:
    streams = [IndependentOrder(1000, 16, seed, rank, 2).indices(0) for seed in (0, 1) for rank in (0, 1)]
    assert len({tuple(stream) for stream in streams}) == 4


def test_empty_data_is_refused() -> None:
    with pytest.raises(DataError, match="0 samples"):
        order_of(Numbers(0, replacement=True), 8, 0)
