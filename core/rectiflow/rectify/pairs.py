"""The pair store: (source, sample) pairs with their conditions, in a folder of shards, read by row without loading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectiflow.batch import Batch, Cond, Shape, State
from rectiflow.errors import ConfigError, DataError
from rectiflow.rectify.shards import Entry, map_shard

FORMAT = 1
INDEX = "index.json"
DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class PairLayout:
    """What a store holds, and what its shards must look like.

    Attributes:
        count: number of pairs.
        shard_size: pairs a shard; the last one holds the rest.
        dtype: of the stored states: float16, float32 or float64.
        shape: of one state, without a batch axis; name -> shape for a product space.
        cond: condition name -> (shape of one, dtype's name).
        settings: what the pairs were computed with; pairs of other settings do not mix.
        provenance: where they come from, in the caller's words.
    """

    count: int
    shard_size: int
    dtype: str
    shape: Shape
    cond: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("count", "shard_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a pair store is {getattr(self, name)}; it must be at least 1")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype of a pair store is {self.dtype!r}; allowed: {', '.join(DTYPES)}")

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size)

    def rows(self, shard: int) -> int:
        """Number of pairs in a shard."""
        return min(self.shard_size, self.count - shard * self.shard_size)

    def entries(self, shard: int) -> dict[str, Entry]:
        """The tensors of a shard by name."""
        rows, dtype = self.rows(shard), DTYPES[self.dtype]
        states = state_entries(self.shape)
        return {
            **{f"{end}{name}": Entry((rows, *shape), dtype) for end in ("x0", "x1") for name, shape in states.items()},
            **{
                f"cond.{name}": Entry((rows, *shape), getattr(torch, kind)) for name, (shape, kind) in self.cond.items()
            },
        }

    def to_json(self) -> str:
        """The index file's text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> PairLayout:
        """The layout in an index file.

        Raises:
            DataError: there is none, or it cannot be understood.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            found = plain.pop("format")
            if found != FORMAT:
                raise DataError(f"pair store {path.parent} has format {found}; this version reads {FORMAT}")
            plain["shape"] = _as_shape(plain["shape"])
            plain["cond"] = {name: (tuple(shape), str(kind)) for name, (shape, kind) in plain["cond"].items()}
            layout = cls(**plain)
            layout.entries(0)
        except FileNotFoundError as error:
            raise DataError(
                f"no pair store in {path.parent}: {path.name} is missing; generate the pairs first"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise DataError(
                f"index {path} is unusable ({error}); remove the folder and generate the pairs again"
            ) from error
        return layout


class PairStore:
    """Stored pairs as training data: `batch.x0` is the source that the flow carried to `batch.x1`.

    `replacement` asks the training loop to draw pairs independently at each step, with replacement, instead of in epochs.

    Args:
        folder: where a `PairWriter` finished.

    Raises:
        DataError: no store there, one that is not complete, or a shard that is truncated or of another shape.
    """

    replacement = True

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.layout = PairLayout.from_json(self.folder / INDEX)
        paths = [shard_path(self.folder, shard) for shard in range(self.layout.shards)]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise DataError(
                f"pair store {self.folder} lacks {len(missing)} of {len(paths)} shards, first {missing[0]}; "
                "generate with the same settings to finish it"
            )
        self._shards = [map_shard(path, self.layout.entries(shard)) for shard, path in enumerate(paths)]

    def __len__(self) -> int:
        return self.layout.count

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the pairs come from: their settings, and what the caller said of them."""
        return {**self.layout.settings, **self.layout.provenance}

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.rows(indices)

    def __reduce__(self) -> tuple[type[PairStore], tuple[Path]]:
        return PairStore, (self.folder,)  # another process maps the files itself

    def rows(self, indices: list[int]) -> Batch:
        """The pairs of these numbers, in this order; states stored in float16 come in float32.

        Raises:
            DataError: a number outside the store.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise DataError(
                f"pairs {wanted.min()} to {wanted.max()} were asked for; {self.folder} holds 0 to {len(self) - 1}"
            )
        taken = self._gather(wanted)
        cond: Cond = {name: taken[f"cond.{name}"] for name in self.layout.cond}
        return Batch(x1=self._state(taken, "x1"), cond=cond, x0=self._state(taken, "x0"))

    def _gather(self, wanted: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Tensor]:
        """Rows of every tensor: one gather a shard that is hit."""
        order = np.argsort(wanted, kind="stable")
        shards, within = np.divmod(wanted[order], self.layout.shard_size)
        hit, starts = np.unique(shards, return_index=True)
        targets = np.split(order, starts[1:])
        sources = np.split(within, starts[1:])
        taken = {
            name: torch.empty((wanted.size, *entry.shape[1:]), dtype=entry.dtype)
            for name, entry in self.layout.entries(0).items()
        }
        for shard, target, source in zip(hit.tolist(), targets, sources, strict=True):
            into, rows = torch.from_numpy(target), torch.from_numpy(source)
            for name, tensor in self._shards[shard].items():
                taken[name].index_copy_(0, into, tensor.index_select(0, rows))
        return taken

    def _state(self, taken: Mapping[str, Tensor], end: str) -> State:
        dtype = torch.float32 if self.layout.dtype == "float16" else DTYPES[self.layout.dtype]
        if isinstance(self.layout.shape, dict):
            return {name: taken[f"{end}.{name}"].to(dtype) for name in self.layout.shape}
        return taken[end].to(dtype)


def shard_path(folder: Path, shard: int) -> Path:
    """File of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def state_entries(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Suffix of a stored tensor's name -> shape: "" for a plain state, ".name" for each component of a product."""
    return {f".{name}": part for name, part in shape.items()} if isinstance(shape, dict) else {"": shape}


def _as_shape(plain: Any) -> Shape:
    return {name: tuple(part) for name, part in plain.items()} if isinstance(plain, dict) else tuple(plain)
