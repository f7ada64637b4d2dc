"""Sets without a centre whose padding is left alone."""

from __future__ import annotations

import torch

from rectiflow.spaces.zero_mean import ZeroMean


def test_padding_neither_counts_nor_moves() -> None:
    mask = torch.tensor([[True, True, True], [True, False, True]])
    space = ZeroMean().masked(mask)
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    centred = space.project(x)
    assert torch.equal(centred[1, 1], x[1, 1])
    torch.testing.assert_close(centred[1, [0, 2]], x[1, [0, 2]] - x[1, [0, 2]].mean(0))
    torch.testing.assert_close(centred[0], x[0] - x[0].mean(0))
    moved = space.step(x, torch.where(mask[..., None], x, 0.0), 0.5)
    assert torch.equal(moved[1, 1], x[1, 1])
