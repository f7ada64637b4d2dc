"""Advantages, the same as Stable-Baselines3's where it is installed, and actions of both policies."""

from __future__ import annotations

import pytest
import torch

from rectiflow.benchmarking.contest import OURS
from rectiflow_robotics.peers import actions, advantages


@pytest.fixture(autouse=True)
def no_global_draws() -> None:
    torch.manual_seed(0)  # its policy draws weights from torch's own generator


def test_everyone_finds_the_same_advantages() -> None:
    contest = advantages(torch.Generator().manual_seed(0))
    assert contest.difference is not None
    ours = contest.runs[OURS]()
    for name, run in contest.runs.items():
        assert contest.difference(ours, run()) < contest.tolerance, name


def test_policies_act() -> None:
    for run in actions(torch.Generator().manual_seed(0)).runs.values():
        assert len(run()) > 0
