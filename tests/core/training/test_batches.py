"""The order of the data is a function of the step; reading it in other processes changes nothing."""

from __future__ import annotations

import os
import signal
from itertools import islice
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectiflow.batch import Batch
from rectiflow.errors import DataError
from rectiflow.training.batches import BatchOrder, read_batches
from rectiflow.training.loop import fit


@settings(deadline=None, max_examples=40, derandomize=True)
@given(length=st.integers(1, 40), batch=st.integers(1, 17), world=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_epoch_of_all_ranks_together_is_a_permutation(length: int, batch: int, world: int, seed: int) -> None:
    orders = [BatchOrder(length, batch, seed, rank, world) for rank in range(world)]
    epochs = 3
    micros = -(-epochs * length // (batch * world))
    stream = [index for micro in range(micros) for order in orders for index in order.indices(micro)]
    for epoch in range(epochs):
        assert sorted(stream[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_and_seeds_shuffle_differently() -> None:
    order = BatchOrder(100, 100, seed=0)
    assert order.indices(0) != order.indices(1)
    assert order.indices(0) != BatchOrder(100, 100, seed=1).indices(0)
    assert order.indices(0) != list(range(100))


def test_any_batch_can_be_asked_for_at_any_time() -> None:
    straight = BatchOrder(37, 8, seed=3)
    expected = [straight.indices(micro) for micro in range(30)]
    for micro in (29, 0, 17, 4, 5):
        assert BatchOrder(37, 8, seed=3).indices(micro) == expected[micro]
        assert straight.indices(micro) == expected[micro]
    assert list(islice(straight.following(7), 3)) == expected[7:10]


def test_ranks_share_no_sample_within_an_epoch() -> None:
    ranks = [BatchOrder(64, 8, 0, rank, 4) for rank in range(4)]
    taken = [index for order in ranks for micro in range(2) for index in order.indices(micro)]
    assert len(set(taken)) == 64


def test_empty_data_is_refused() -> None:
    with pytest.raises(DataError, match="0 samples"):
        BatchOrder(0, 8, 0)


def test_worker_processes_read_the_same_batches(tiny: ModuleType) -> None:
    data, order = tiny.TinyData(), BatchOrder(tiny.SAMPLES, 8, 0)
    here = read_batches(data, order, 3)
    there = read_batches(data, order, 3, workers=2)
    for _ in range(5):
        assert torch.equal(next(here).x1, next(there).x1)
    there.close()


class Unreadable:
    def __init__(self, deadly: bool) -> None:
        self.deadly = deadly
        self.home = os.getpid()

    def __len__(self) -> int:
        return 10

    def __getitems__(self, indices: list[int]) -> Batch:
        if not self.deadly:
            raise DataError("image 7 is truncated")
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("read outside the worker")


def test_an_error_in_a_worker_keeps_its_words(tiny: ModuleType) -> None:
    with pytest.raises(DataError, match=r"^image 7 is truncated$"):
        fit(tiny.TinyTask(), Unreadable(deadly=False), tiny.small_options(workers=1))


@pytest.mark.timeout(60)
def test_a_killed_worker_is_an_error_and_not_a_hang(tiny: ModuleType) -> None:
    with pytest.raises(DataError, match=r"worker process died.*training\.workers"):
        fit(tiny.TinyTask(), Unreadable(deadly=True), tiny.small_options(workers=1))
