"""Which samples each step sees, as a function of the step alone, and reading them, in worker processes if asked."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from rectiflow.batch import Batch
from rectiflow.errors import DataError, RectiflowError
from rectiflow.training.randomness import stream_seed


class Dataset(Protocol):
    """Data that can be read by index, deterministically: random augmentation belongs in the task's loss."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch: ...


class BatchOrder:
    """An endless shuffled stream, cut into batches: each epoch is a fresh permutation, no sample is left out.

    Micro-batch m of all ranks together takes positions [m W B, (m + 1) W B) of the stream (W ranks, B samples each),
    rank r the r-th block of B; a batch may run over into the next epoch.
    """

    def __init__(self, length: int, batch: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if length < 1:
            raise DataError("the training data is empty: 0 samples, at least 1 is needed; check the data's path.")
        self.length = length
        self.batch = batch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.long)

    def indices(self, micro: int) -> list[int]:
        """Sample indices of this rank's micro-batch number `micro`, counted from the start of training."""
        start = (micro * self.world_size + self.rank) * self.batch
        chosen: list[int] = []
        while len(chosen) < self.batch:
            epoch, offset = divmod(start + len(chosen), self.length)
            chosen += self._order(epoch)[offset : offset + self.batch - len(chosen)].tolist()
        return chosen

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "epoch", epoch))
            self._permutation = torch.randperm(self.length, generator=generator)
            self._epoch = epoch
        return self._permutation

    def following(self, micro: int) -> Iterator[list[int]]:
        """Indices of micro-batch `micro` and of all that follow, without end."""
        while True:
            yield self.indices(micro)
            micro += 1


class IndependentOrder(BatchOrder):
    """An endless stream of independent uniform draws, with replacement: each batch is a function of (seed, rank, micro)."""

    def indices(self, micro: int) -> list[int]:
        """Sample indices of this rank's micro-batch number `micro`, counted from the start of training."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "draws", self.rank, micro))
        return torch.randint(self.length, (self.batch,), generator=generator).tolist()


def order_of(dataset: Dataset, batch: int, seed: int, rank: int = 0, world_size: int = 1) -> BatchOrder:
    """The order a dataset is read in: in epochs, or by independent draws if it has a true attribute `replacement`."""
    order = IndependentOrder if getattr(dataset, "replacement", False) else BatchOrder
    return order(len(dataset), batch, seed, rank, world_size)


def read_batches(dataset: Dataset, order: BatchOrder, micro: int, workers: int = 0) -> Generator[Batch, None, None]:
    """Batches from micro-batch `micro` on, without end, read ahead by `workers` processes (0: by this one).

    Raises:
        DataError: whatever the data raises, also out of a worker; a worker that died (`worker_died`) is for the caller,
            since torch may raise that error at any moment.
    """
    if workers == 0:
        for indices in order.following(micro):
            yield dataset.__getitems__(indices)
    loader: DataLoader[Any] = DataLoader(
        _Carrier(dataset),  # type: ignore[arg-type]  # DataLoader reads through __getitems__ alone
        batch_sampler=order.following(micro),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator().manual_seed(stream_seed(order.seed, "workers", order.rank)),
    )
    for item in loader:
        if isinstance(item, RectiflowError):
            raise item
        yield item


def worker_died(error: RuntimeError) -> DataError | None:
    """The error to show when torch reports a lost worker process, else None."""
    if "DataLoader worker" not in str(error):
        return None
    return DataError(
        f"a data worker process died ({' '.join(str(error).split())}); "
        "it was killed or ran out of memory: start again with fewer training.workers, or 0."
    )


class _Carrier:
    """Hands the data's own errors over as values, which keeps their type and wording across processes."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> Batch | RectiflowError:
        try:
            return self.dataset.__getitems__(indices)
        except RectiflowError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch
