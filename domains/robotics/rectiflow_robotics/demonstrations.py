"""Demonstrations: episodes of observations and actions with their provenance, as files and as chunks to train on."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError, DataError, StorageError

Array = NDArray[Any]

UNITS = {"observations": "simulator", "actions": "[-1, 1] of the environment's bounds"}
"""What demonstrations hold: raw observations, since a policy brings its own normalisation."""


@dataclass(frozen=True)
class Demonstrations:
    """Whole episodes, one after another.

    Attributes:
        environment: name of the task.
        observations: (T, …) float32 or bytes, as the environment gives them; what each action answered.
        actions: (T, Da) float32 in [-1, 1].
        lengths: (E,) steps of each episode; their sum is T.
        success: (E,) bool.
        returns: (E,) sum of the dense rewards.
        provenance: how they came about, plain values.
    """

    environment: str
    observations: Array
    actions: Array
    lengths: Array
    success: Array
    returns: Array
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.lengths)

    def digest(self) -> str:
        """SHA-256 of everything but the provenance."""
        found = hashlib.sha256(self.environment.encode())
        for part in (self.observations, self.actions, self.lengths, self.success, self.returns):
            found.update(str((part.dtype.str, part.shape)).encode())
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()


def check(demonstrations: Demonstrations, source: str) -> Demonstrations:
    """The same demonstrations, if they can be learnt from.

    Raises:
        DataError: shapes that do not agree, values that are not finite, actions beyond [-1, 1], other units, or no success.
    """
    found = demonstrations
    steps = int(found.lengths.sum()) if found.lengths.ndim == 1 else -1
    if found.actions.ndim != 2 or found.observations.ndim not in (2, 4) or len(found.lengths) < 1:
        raise DataError(
            f"{source}: observations {found.observations.shape}, actions {found.actions.shape}, lengths "
            f"{found.lengths.shape}; must be (T, Do) or (T, 3, H, W), (T, Da) and (E,) with at least one episode"
        )
    if not len(found.actions) == len(found.observations) == steps or (found.lengths < 1).any():
        raise DataError(
            f"{source}: {len(found.observations)} observations, {len(found.actions)} actions and episodes of {steps} steps "
            "in all; the three must be equal and no episode empty"
        )
    if not found.success.shape == found.returns.shape == found.lengths.shape:
        raise DataError(
            f"{source}: success {found.success.shape} and returns {found.returns.shape}; must be one an episode, "
            f"{found.lengths.shape}"
        )
    for name, values in (("observations", found.observations), ("actions", found.actions)):
        if not np.isfinite(values).all():
            raise DataError(
                f"{source}: {int((~np.isfinite(values)).sum())} of the {name} are not finite; collect again"
            )
    if np.abs(found.actions).max() > 1 + 1e-6:
        raise DataError(
            f"{source}: actions reach {np.abs(found.actions).max():.3g}; they must be in [-1, 1], the environment's bounds: "
            "scale them by those, not by the data's own range"
        )
    units = found.provenance.get("units")
    if units != UNITS:
        raise DataError(
            f"{source}: stored in other units ({units}); must be {UNITS}: observations as the simulator gives them, since the "
            "policy normalises them itself"
        )
    if found.provenance.get("succeeds", True) and not found.success.any():
        raise DataError(f"{source}: none of {len(found)} episodes succeeds; there is nothing to imitate: collect again")
    return found


def save(demonstrations: Demonstrations, path: Path) -> Path:
    """Write demonstrations as npz, and their provenance with the digest beside it as json.

    Raises:
        StorageError: a file cannot be written.
    """
    found = demonstrations
    provenance = {**found.provenance, "environment": found.environment, "sha256": found.digest()}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        observations=found.observations,
        actions=found.actions,
        lengths=found.lengths,
        success=found.success,
        returns=found.returns,
        provenance=np.array(json.dumps(provenance)),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, content in (
            (path, buffer.getvalue()),
            (path.with_suffix(".json"), (json.dumps(provenance, indent=2) + "\n").encode()),
        ):
            scratch = target.with_name(f".{target.name}.part")
            scratch.write_bytes(content)
            scratch.replace(target)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; choose another out=") from error
    return path


def load(path: Path) -> Demonstrations:
    """Demonstrations out of a file that `save` wrote.

    Raises:
        DataError: no such file, one that does not hold demonstrations, or altered ones.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            parts = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `rectiflow collect robotics` makes one") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an npz of demonstrations ({error}); collect again") from error
    wanted = ("observations", "actions", "lengths", "success", "returns", "provenance")
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise DataError(f"{path}: holds {', '.join(parts) or 'nothing'} and lacks {', '.join(missing)}; collect again")
    try:
        provenance = json.loads(str(parts["provenance"]))
        environment = provenance["environment"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its provenance is not json with an environment ({error}); collect again") from error
    arrays = {name: parts[name] for name in wanted[:-1]}
    found = check(Demonstrations(environment, **arrays, provenance=provenance), str(path))
    if provenance.get("sha256") != found.digest():
        raise DataError(
            f"{path}: its arrays do not have the digest of its provenance; the file was altered: collect again"
        )
    return found


class Chunks:
    """Demonstrations as batches: x1 (B, Ta, Da), the actions from some step on, answering `observation` (B, …) there.

    A chunk never crosses into the next episode: where one ends, its last action is repeated, so that a policy also sees
    what is done close to the goal.
    """

    def __init__(self, demonstrations: Demonstrations, chunk: int) -> None:
        if chunk < 1:
            raise ConfigError(f"data.chunk={chunk} is not allowed; a chunk has at least 1 action")
        self.demonstrations = demonstrations
        self.chunk = chunk
        self.observations = torch.from_numpy(demonstrations.observations)
        self.actions = torch.from_numpy(demonstrations.actions)
        ends = np.cumsum(demonstrations.lengths)
        self.ends = torch.from_numpy(np.repeat(ends, demonstrations.lengths))

    def __len__(self) -> int:
        return len(self.actions)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The chunks that start at these steps."""
        start = torch.tensor(indices)
        steps = torch.minimum(start[:, None] + torch.arange(self.chunk), self.ends[start][:, None] - 1)
        return Batch(x1=self.actions[steps], cond={"observation": self.observations[start]})


@dataclass(frozen=True)
class Data:
    """What a run clones: demonstrations of a task, in chunks of so many actions."""

    demonstrations: Demonstrations
    chunk: int


def from_file(env: str, path: str, chunk: int) -> Data:
    """Demonstrations out of a file.

    Raises:
        ConfigError: demonstrations of another environment.
        DataError: see `load`.
    """
    found = load(Path(path))
    if found.environment != env:
        raise ConfigError(
            f"data.env={env}, but {path} demonstrates {found.environment}; give data.env={found.environment}"
        )
    return Data(found, chunk)
