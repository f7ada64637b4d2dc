"""`rectiflow prepare shapes`: a folder of meshes checked, repaired, measured and counted, before anything is trained on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

from rectiflow.domain import DomainSpec
from rectiflow.errors import DataError, StorageError


@dataclass
class PrepareSettings:
    """A folder of OBJ, STL, PLY, GLB and OFF files, all below it included.

    `points` are taken on each surface, as many near it and a third in the box; `processes` 0 takes all cores; a mesh may cost
    `seconds` and `megabytes`; `out` is a file for the list of what was rejected and why.
    """

    folder: str = MISSING
    points: int = 8192
    processes: int = 0
    seconds: float = 120.0
    megabytes: int = 4096
    out: str = ""


def run(spec: DomainSpec, config: DictConfig) -> Any:
    """Prepare the folder, print what became of it, and return that.

    Raises:
        ConfigError: no meshes there, or limits that are not positive.
        DataError: none of them is of use.
        StorageError: the cache or `out` cannot be written.
    """
    from rectiflow_shapes.preparing import prepare_folder

    done = prepare_folder(
        Path(config.folder).expanduser(),
        points=config.points,
        processes=config.processes or None,
        seconds=config.seconds,
        megabytes=config.megabytes,
    )
    for path, reason in done.rejected.items():
        print(f"rejected {path}: {reason}")
    print(done)
    if config.out:
        told = {"repairs": done.repairs, "rejected": {str(path): reason for path, reason in done.rejected.items()}}
        try:
            Path(config.out).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"cannot write out={config.out}: {error.strerror or error}; choose another file"
            ) from error
    if not done.shapes:
        raise DataError(
            f"no mesh of {config.folder} is of use; the lines above say why for each of {len(done.rejected)}"
        )
    return done
