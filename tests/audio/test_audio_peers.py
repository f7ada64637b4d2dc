"""The two networks take the same sound and give one as long."""

from __future__ import annotations

import torch

from rectiflow_audio.peers import RATE, SECONDS, separation


def test_both_give_sound_of_the_length_that_they_were_given() -> None:
    contest = separation(torch.Generator().manual_seed(0))
    assert contest.figures is not None
    assert len(contest.runs) == 2
    for name, run in contest.runs.items():
        assert contest.figures(run())["samples"] == RATE * SECONDS, name
