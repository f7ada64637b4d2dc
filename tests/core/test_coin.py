"""Coins: fair, a function of the generator, and without a look at the device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rectiflow.coin import coin

CPU = torch.device("cpu")


def test_the_processors_coin_is_its_generators_next_number() -> None:
    ours, plain = (torch.Generator().manual_seed(3) for _ in range(2))
    tosses = [coin(ours, CPU) for _ in range(2000)]
    assert tosses == [bool(torch.rand((), generator=plain) < 0.5) for _ in range(2000)]
    assert abs(sum(tosses) / 2000 - 0.5) < 4 * 0.5 / math.sqrt(2000)


def test_an_accelerators_coin_is_decided_by_the_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the device: its draws move the generator and cannot be read."""

    class Unreadable:
        def __lt__(self, other: object) -> Any:
            raise AssertionError("the draw was read back")

    plain = torch.rand

    def draw(*shape: Any, generator: torch.Generator, device: torch.device) -> Unreadable:
        plain(*shape, generator=generator)
        return Unreadable()

    monkeypatch.setattr(torch, "rand", draw)
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    tosses = [coin(generator, torch.device("cuda")) for _ in range(2000)]
    assert tosses == [coin(again, torch.device("cuda")) for _ in range(2000)]
    assert abs(sum(tosses) / 2000 - 0.5) < 4 * 0.5 / math.sqrt(2000)


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        tosses = [coin(generator, device) for _ in range(400)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert abs(sum(tosses) / 400 - 0.5) < 4 * 0.5 / math.sqrt(400)
