"""Writing a pair store shard by shard, so that a kill costs the shard it hit and nothing else."""

from __future__ import annotations

import fcntl
import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond, State
from rectiflow.errors import ConfigError, DataError
from rectiflow.rectify.pairs import DTYPES, INDEX, PairLayout, PairStore, shard_path
from rectiflow.rectify.shards import TEMPORARY, Entry, verify_shard, write_file, write_shard
from rectiflow.training.checkpoint import storage_error


class PairWriter:
    """A store being written; use it as a context, which holds the folder against other writers.

    Entering waits for another writer to end, removes what a killed one left half-written, and reads the shards that are
    there against their checksums.

    Args:
        folder: made if need be; a store of the same layout in it is continued.
        layout: what the finished store holds.

    Raises:
        ConfigError: on entering, the folder holds pairs of another layout.
        DataError: on entering, a shard there is truncated or altered.
        StorageError: a file could not be written.
    """

    def __init__(self, folder: Path | str, layout: PairLayout) -> None:
        self.folder = Path(folder)
        self.layout = layout
        self._held = ExitStack()

    def __enter__(self) -> PairWriter:
        with ExitStack() as stack:
            self._lock(stack)
            for leftover in self.folder.glob(f"*{TEMPORARY}*"):
                leftover.unlink()
            self._adopt()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def missing(self) -> list[int]:
        """Numbers of the shards still to be written."""
        return [shard for shard in range(self.layout.shards) if not shard_path(self.folder, shard).exists()]

    def write(self, shard: int, x0: State, x1: State, cond: Cond) -> None:
        """Store a shard: sources (n, ...), the samples (n, ...) that belong to them, and their conditions (n, ...).

        Raises:
            DataError: another shape, number of pairs or set of conditions than the layout's, or a value that its dtype
                cannot hold.
        """
        dtype = DTYPES[self.layout.dtype]
        tensors = {
            **{name: tensor.to(dtype) for name, tensor in {**_named("x0", x0), **_named("x1", x1)}.items()},
            **{f"cond.{name}": value for name, value in cond.items()},
        }
        found = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        expected = self.layout.entries(shard)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise DataError(
                    f"{name} of shard {shard} is {found.get(name)}; the store's layout has {expected.get(name)}"
                )
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise DataError(
                    f"{name} of shard {shard} holds values that are not finite in {tensor.dtype}; "
                    "check the flow, or store float32"
                )
        write_shard(shard_path(self.folder, shard), tensors)

    def finish(self) -> PairStore:
        """The finished store, open for reading.

        Raises:
            DataError: shards are missing.
        """
        return PairStore(self.folder)

    def _lock(self, stack: ExitStack) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((self.folder / ".lock").open("w"))
        except OSError as error:
            raise storage_error(self.folder, error, 0) from error
        fcntl.lockf(file, fcntl.LOCK_EX)  # waits; goes with the process, however that ends

    def _adopt(self) -> None:
        """Make the index, or check that the one there, and every shard under it, is of this layout."""
        index = self.folder / INDEX
        written = sorted(self.folder.glob("shard-*.safetensors"))
        if not written:  # an index alone was left by a start that made no pairs
            write_file(index, self.layout.to_json().encode())
            return
        difference = _difference(PairLayout.from_json(index), self.layout)
        if difference:
            raise ConfigError(
                f"pair store {self.folder} was made with other settings: {difference}; "
                "ask for the same, choose another folder, or remove this one"
            )
        for shard in sorted(set(range(self.layout.shards)) - set(self.missing())):
            verify_shard(shard_path(self.folder, shard), self.layout.entries(shard))


def _named(end: str, state: State) -> dict[str, Tensor]:
    return {f"{end}.{name}": part for name, part in state.items()} if isinstance(state, dict) else {end: state}


def _difference(there: PairLayout, asked: PairLayout) -> str:
    """What two layouts do not share, in words; empty when they are one."""
    first, second = _flat(json.loads(there.to_json())), _flat(json.loads(asked.to_json()))
    return ", ".join(
        f"{name} is {first.get(name, 'absent')} there and {second.get(name, 'absent')} here"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    )


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    settings, provenance = plain.pop("settings"), plain.pop("provenance")
    return {**plain, **settings, **{f"provenance.{name}": value for name, value in provenance.items()}}
