"""A process that generates pairs and dies where it is told to.

python generating.py FOLDER [before|after|during|progress N]: SIGKILL at the N-th shard's rename, half-way into its file,
or at the N-th report of progress.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.flow import Flow
from rectiflow.rectify import shards
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.pairs import PairStore

COUNT = 70


def velocity(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return label[:, None] - x * t[:, None]


def labels(count: int, generator: torch.Generator) -> Cond:
    return {"label": torch.randint(5, (count,), generator=generator)}


def generate(folder: Path, **changes: Any) -> PairStore:
    settings: dict[str, Any] = {"shape": (6,), "conditions": labels, "steps": 3, "method": "heun", "seed": 11}
    settings |= {"count": COUNT, "batch": 4, "shard_size": 16} | changes
    return generate_pairs(Flow(velocity), folder, **settings)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived SIGKILL")


def main(folder: str, where: str, number: str) -> None:
    left = int(number)

    def count_down() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    replace, write = os.replace, shards.write_shard

    def replace_and_die(source: Path, target: Path) -> None:
        last = str(target).endswith(".safetensors") and count_down()
        if last and where == "before":
            die()
        replace(source, target)
        if last:
            die()

    def write_half(path: Path, tensors: dict[str, Tensor]) -> None:
        if not count_down():
            return write(path, tensors)
        path.with_name(f"{path.name}{shards.TEMPORARY}{os.getpid()}").write_bytes(b"\x00" * 400)
        die()

    if where in ("before", "after"):
        os.replace = replace_and_die  # type: ignore[assignment]
    elif where == "during":
        from rectiflow.rectify import writing

        writing.write_shard = write_half  # type: ignore[assignment]
    generate(Path(folder), progress=lambda done: die() if where == "progress" and count_down() else None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    main(*sys.argv[1:])
