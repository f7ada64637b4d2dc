"""Signed distances, the same as those of whoever is installed."""

from __future__ import annotations

import torch

from rectiflow.benchmarking.contest import OURS
from rectiflow_shapes.peers import distances


def test_everyone_measures_the_same() -> None:
    contest = distances(torch.Generator().manual_seed(0))
    assert contest.difference is not None
    ours = contest.runs[OURS]()
    assert (ours < 0).any()
    for name, run in contest.runs.items():
        assert contest.difference(ours, run()) < contest.tolerance, name
