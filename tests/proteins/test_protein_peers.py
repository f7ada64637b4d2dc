"""Superposition and rotations, the same as those of whoever is installed."""

from __future__ import annotations

import pytest
import torch

from rectiflow.benchmarking.contest import OURS
from rectiflow_proteins.peers import rotations, superposition


@pytest.mark.parametrize("make", [superposition, rotations])
def test_everyone_finds_the_same(make: object) -> None:
    contest = make(torch.Generator().manual_seed(0))  # type: ignore[operator]
    ours = contest.runs[OURS]()
    assert ours.isfinite().all()
    for name, run in contest.runs.items():
        assert contest.difference(ours, run()) < contest.tolerance, name


def test_biotite_is_among_them() -> None:
    assert "biotite" in superposition(torch.Generator().manual_seed(0)).runs
