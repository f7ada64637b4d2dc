"""Several processes as one: starting Fabric, small agreements between ranks, and the lock on a run's folder."""

from __future__ import annotations

import atexit
import fcntl
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from rectiflow.errors import ConfigError, RectiflowError
from rectiflow.training.checkpoint import storage_error
from rectiflow.training.options import TrainingOptions

T = TypeVar("T")

if not torch.cuda.is_available():
    # Lightning sets this on import. Each step of AdamW asks for CUDA, and asking NVML where there is none takes 80 us.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


class _MixedInside(MixedPrecision):
    """Automatic mixed precision that leaves a network's inputs as they are: times and places need all their digits."""

    def convert_input(self, data: Any) -> Any:
        return data


def fast_bfloat16() -> bool:
    """Whether this processor multiplies numbers of bfloat16 itself; where it has to imitate it, float32 is faster."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def start_fabric(options: TrainingOptions) -> Fabric:
    """Fabric for these options, its processes launched; under torchrun the counts are torchrun's.

    On a processor without arithmetic in bfloat16, `precision=bf16-mixed` stands for 32-true; a line says so.

    Raises:
        ConfigError: the accelerator is not there, or has fewer devices than asked for.
    """
    devices, nodes, strategy = options.devices, options.nodes, options.strategy
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    cuda = options.accelerator == "cuda" or (options.accelerator == "auto" and torch.cuda.is_available())
    if cuda and torch.cuda.device_count() < devices:
        raise ConfigError(
            f"training.accelerator={options.accelerator} with training.devices={devices}: this machine has "
            f"{torch.cuda.device_count()} CUDA devices; set training.devices to at most that, or training.accelerator=cpu."
        )
    if devices * nodes > 1:
        strategy = "ddp"
    precision = options.precision
    if precision == "bf16-mixed" and not cuda and not fast_bfloat16():
        precision = "32-true"
        if os.environ.get("RANK", "0") == "0":
            print("this processor has no bfloat16 arithmetic, so training is in float32 (training.precision=32-true)")
    mixed = precision == "bf16-mixed"
    with warnings.catch_warnings():
        # Training on the CPU of a machine with a GPU is a choice made in the options.
        warnings.filterwarnings("ignore", message="GPU available but not used")
        fabric = Fabric(
            accelerator="cuda" if cuda else "cpu",
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=None if mixed else precision,  # type: ignore[arg-type]  # validated against the same names
            plugins=[_MixedInside("bf16-mixed", "cuda" if cuda else "cpu")] if mixed else None,
        )
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and not torch.distributed.is_initialized():
        _rejoin("nccl" if cuda else "gloo")
    fabric.launch()
    if fabric.world_size > 1:
        atexit.register(_leave_group)
    return fabric


def _rejoin(backend: str) -> None:
    """Form the group of a torchrun restart; torchrun's store still holds the addresses of the processes that died."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(address, port, world_size, is_master=False)  # type: ignore[attr-defined]
    attempt = torch.distributed.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    torch.distributed.init_process_group(backend, store=attempt, rank=rank, world_size=world_size)


def _leave_group() -> None:
    """Close the process group before the interpreter goes: gloo's threads, left running, abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather(fabric: Fabric, value: T) -> list[T]:
    """The values of all ranks, in rank order, on every rank."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def on_first_rank(fabric: Fabric, function: Callable[[], T]) -> T | None:
    """Run on rank 0 and return its result there (None elsewhere); an error of ours there is raised on every rank."""
    result, error = None, None
    if fabric.global_rank == 0:
        try:
            result = function()
        except RectiflowError as caught:
            error = caught
    failures = gather(fabric, _as_message(error))
    if failures[0] is not None:
        kind, message = failures[0]
        raise_together(fabric, error if error is not None else kind(message))
    return result


def _as_message(error: RectiflowError | None) -> tuple[type[RectiflowError], str] | None:
    return None if error is None else (type(error), str(error))


def raise_together(fabric: Fabric, error: RectiflowError) -> NoReturn:
    """Raise an error that all ranks have agreed on.

    Processes that Fabric started itself end quietly instead: rank 0 speaks for them, and Fabric answers a child's
    non-zero exit by killing rank 0 before it could report.
    """
    if fabric.global_rank > 0 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise SystemExit(0) from error
    raise error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder for this process alone; the lock dies with the process.

    Raises:
        ConfigError: another process holds it.
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise storage_error(folder, error, 0) from error
    with file:
        try:
            # lockf, not flock: worker processes would inherit the latter and hold it after this process was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"run folder {folder} is in use by another process; wait for it to end, or choose another folder."
            ) from error
        yield
