"""The first stop signal is noted, the second goes to whoever had it before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from rectiflow.training.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_is_noted_second_gets_through(number: signal.Signals) -> None:
    arrived: list[int] = []
    previous = signal.signal(number, lambda received, frame: arrived.append(received))
    mine = signal.getsignal(number)
    try:
        with Interrupts() as interrupts:
            assert interrupts.received == 0
            os.kill(os.getpid(), number)
            assert interrupts.received == number
            assert arrived == []
            os.kill(os.getpid(), number)
            assert arrived == [number]
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, previous)


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), Interrupts():
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_nothing_happens() -> None:
    seen: list[int] = []

    def body() -> None:
        with Interrupts() as interrupts:
            seen.append(interrupts.received)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [0]
