"""Work on many items in processes that may crash, hang or run out of memory, each at its own cost only."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from rectiflow.errors import ConfigError, RectiflowError

Item = TypeVar("Item")

_SECONDS_TO_START = 300.0


@dataclass(frozen=True)
class Failure:
    """An item that gave no result, and why."""

    reason: str


class _Ready:
    """What a process sends when its imports are done."""


_READY = _Ready()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    item: int
    deadline: float


def isolated(
    function: Callable[[Item], Any], items: Sequence[Item], *, processes: int, seconds: float, megabytes: int
) -> Iterator[tuple[int, Any]]:
    """The number of each item with what `function` returns for it or a `Failure`, in the order in which they end.

    Args:
        function: importable; a `RectiflowError` of its becomes the failure's reason.
        items: what it is called with; both are pickled.
        processes: how many work side by side.
        seconds: wall-clock time that an item may take before its process is ended.
        megabytes: memory that a process may take beyond what it has at its start (Linux and the like).

    Raises:
        ConfigError: less than one process, or limits that are not positive.
    """
    if processes < 1 or not seconds > 0 or megabytes < 1:
        raise ConfigError(f"processes={processes}, seconds={seconds}, megabytes={megabytes}: all must be positive")
    waiting = list(range(len(items)))[::-1]
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < processes:
                workers.append(_start(function, megabytes))
                _give(workers[-1], items, waiting, _SECONDS_TO_START)
            ready = wait([worker.pipe for worker in workers], timeout=0.5)
            for worker in list(workers):
                late = time.monotonic() > worker.deadline
                if worker.pipe not in ready and not late:
                    continue
                number, (alive, result) = worker.item, _result(worker, seconds)
                if result is _READY:
                    worker.deadline = time.monotonic() + seconds
                    continue
                if alive and waiting:
                    _give(worker, items, waiting, seconds)
                else:
                    workers.remove(worker)
                    _end(worker)
                yield number, result
    finally:
        for worker in workers:
            _end(worker)


def _start(function: Callable[[Any], Any], megabytes: int) -> _Worker:
    # Forking is not safe beside threads, which torch may have.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, megabytes), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, -1, time.monotonic())


def _give(worker: _Worker, items: Sequence[Any], waiting: list[int], seconds: float) -> None:
    worker.item, worker.deadline = waiting.pop(), time.monotonic() + seconds
    try:
        worker.pipe.send(items[worker.item])
    except BrokenPipeError:
        return  # it died between two items; reading its pipe will say so


def _result(worker: _Worker, seconds: float) -> tuple[bool, Any]:
    """Whether the worker can go on, and its result."""
    if not worker.pipe.poll():
        return False, Failure(f"it took more than {seconds:g} s")
    try:
        result = worker.pipe.recv()
        return True, _READY if isinstance(result, _Ready) else result
    except (EOFError, ConnectionError):
        worker.process.join(5)
        return False, Failure(f"the process that worked on it died (exit code {worker.process.exitcode})")


def _end(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.join(0.2)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(pipe: Connection, function: Callable[[Any], Any], megabytes: int) -> None:
    _limit_memory(megabytes)
    pipe.send(_READY)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            result = function(item)
        except RectiflowError as error:
            result = Failure(str(error))
        except MemoryError:
            result = Failure(f"it needs more than {megabytes} MB of memory")
        pipe.send(result)


def _limit_memory(megabytes: int) -> None:
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as stream:
        data_pages = int(stream.read().split()[5])
    limit = data_pages * os.sysconf("SC_PAGE_SIZE") + megabytes * (1 << 20)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
