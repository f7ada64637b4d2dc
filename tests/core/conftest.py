"""Numerics are tested in float64, so that tolerances measure formulas and not rounding; what proves the core is marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def float64_default() -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks that it was asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `acceptance` what docs/proofs.md names, so that the page is the list."""
    page = Path(__file__).parents[2] / "docs" / "proofs.md"
    named = set(re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", page.read_text()))
    for item in items:
        if item.nodeid.split("[")[0] in named:
            item.add_marker("acceptance")
