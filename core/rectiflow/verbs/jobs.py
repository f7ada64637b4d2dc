"""Calls of rectiflow side by side: a few processes at a time, in order, with a word on where they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rectiflow.errors import RectiflowError

POLL = 0.2
NEWS_EVERY = 60.0
LAST_BYTES = 4000
STEP = re.compile(rb"step (\d+)/(\d+)")


class Call(NamedTuple):
    """One call of rectiflow: the name that its log and its processor time go under, its arguments, and its part of the work."""

    name: str
    arguments: list[str]
    work: float = 0.0


class Job(NamedTuple):
    """Calls that come one after the other, and the sum of their work, in any unit that all jobs share."""

    calls: Iterator[Call]
    work: float = 0.0


@dataclass(frozen=True)
class _Running:
    job: Job
    call: Call
    log: Path
    begun: int  # where in the log this call's lines begin
    process: subprocess.Popen[bytes]

    def fraction(self) -> float:
        """How far the call is, by the last step that its log names."""
        with self.log.open("rb") as stream:
            stream.seek(max(self.begun, self.log.stat().st_size - LAST_BYTES))
            steps = STEP.findall(stream.read())
        return int(steps[-1][0]) / int(steps[-1][1]) if steps else 0.0


def run_jobs(
    jobs: Sequence[Job],
    *,
    folder: Path,
    at_once: int,
    spend: Callable[[str, float], None],
    news_every: float = NEWS_EVERY,
) -> None:
    """Run all jobs, `at_once` calls of one thread at a time.

    Args:
        jobs: in the order in which they begin; those with most work early leave the shortest wait at the end.
        folder: of the logs, <name>.log.
        at_once: how many processes work at a time.
        spend: told the name and the processor seconds of each call that ended.
        news_every: seconds between two lines that say how far the calls are, and how long the rest will take.

    Raises:
        RectiflowError: a call failed; the others are stopped, and the message names its log.
    """
    waiting, running = list(jobs), dict[int, _Running]()
    finished, started = 0.0, time.perf_counter()
    told = started
    while waiting or running:
        while waiting and len(running) < at_once:
            job = waiting.pop(0)
            call = next(job.calls, None)
            if call is not None:
                begun = _start(job, call, folder / f"{call.name}.log")
                running[begun.process.pid] = begun
        if not running:
            continue
        pid, status, usage = os.wait3(os.WNOHANG)
        if pid in running:
            ended = running.pop(pid)
            ended.process.returncode = os.waitstatus_to_exitcode(
                status
            )  # it was waited for here, for its processor time
            spend(ended.call.name, usage.ru_utime + usage.ru_stime)
            if ended.process.returncode != 0:
                raise _failure(ended, running)
            finished += ended.call.work
            waiting.insert(0, ended.job)
        elif pid == 0:
            time.sleep(POLL)
        now = time.perf_counter()
        if now - told >= news_every:
            told = now
            print(
                _news(list(running.values()), len(waiting), finished, sum(job.work for job in jobs), now - started),
                flush=True,
            )


def _start(job: Job, call: Call, log: Path) -> _Running:
    print(f"rectiflow {' '.join(call.arguments)}", flush=True)
    environment: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as stream:
        begun = stream.tell()
        command = [sys.executable, "-m", "rectiflow.cli", *call.arguments]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)  # noqa: S603  (our own program)
    return _Running(job, call, log, begun, process)


def _failure(ended: _Running, others: Mapping[int, _Running]) -> RectiflowError:
    for other in others.values():
        other.process.terminate()
        other.process.wait()
    last = ended.log.read_text(errors="replace").strip().splitlines()[-1:]
    return RectiflowError(
        f"{ended.call.name} failed: {' '.join(last)}; its log is {ended.log}, and the same command continues it"
    )


def _news(running: Sequence[_Running], waiting: int, finished: float, work: float, seconds: float) -> str:
    """How far each call is, how many jobs wait, and how long the rest takes at the speed so far."""
    parts = [f"{each.call.name} {100 * each.fraction():.0f} %" for each in running]
    done = finished + sum(each.fraction() * each.call.work for each in running)
    left = f", about {(work - done) / done * seconds / 60:.0f} min left" if done > 0 else ""
    return f"after {seconds / 60:.0f} min: {', '.join(parts)}; {waiting} to come{left}"
