"""Couplings inside a flow's draw and in the configuration."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from rectiflow import couplings
from rectiflow.couplings import (
    Coupling,
    EntropicOT,
    MinibatchOT,
    PartialOT,
    RowPermutation,
    SchroedingerBridge,
    UnbalancedOT,
)
from rectiflow.flow import Flow
from rectiflow.settings import CORE_GROUPS

TYING = [
    MinibatchOT(0.0),
    EntropicOT(0.1, condition_weight=0.0),
    EntropicOT(0.1, replacement=False, condition_weight=0.0),
    UnbalancedOT(0.5, condition_weight=0.0),
    UnbalancedOT(0.5, source_penalty=0.5, condition_weight=0.0),
    PartialOT(0.6, condition_weight=0.0),
    SchroedingerBridge(2.0, condition_weight=0.0),
    RowPermutation(),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("coupling", TYING, ids=repr)
def test_data_conditions_mask_and_target_stay_together(coupling: Coupling) -> None:
    """x1 spells its row number, so whatever is drawn can be traced; padding is NaN and decides nothing."""
    row = torch.arange(24)
    mask = torch.arange(3)[None] < (row[:, None] % 3 + 1)
    clean = (0.3 * row[:, None, None] + torch.zeros(24, 3, 2)).contiguous()
    flow = Flow(lambda x, t, row: x)
    draws = [
        flow.draw(
            torch.where(mask[..., None], clean, pad), {"row": row}, mask=mask, coupling=coupling, generator=seeded(1)
        )
        for pad in (0.0, float("nan"))
    ]
    for draw in draws:
        assert isinstance(draw.x1, Tensor)
        assert isinstance(draw.mask, Tensor)
        torch.testing.assert_close(draw.x1[:, 0, 0], 0.3 * draw.index)
        assert torch.equal(draw.cond["row"], draw.index)
        assert torch.equal(draw.mask.sum(1), draw.index % 3 + 1)
        valid = draw.mask[..., None].expand(24, 3, 2)
        torch.testing.assert_close(draw.target[valid], (draw.x1 - draw.x0)[valid])
        assert draw.x0.shape == clean.shape
    assert torch.equal(draws[0].index, draws[1].index)
    assert torch.equal(draws[0].x0, draws[1].x0)
    assert not coupling.independent


@pytest.mark.parametrize("coupling", TYING, ids=repr)
def test_one_generator_rules_and_no_global_one_is_touched(coupling: Coupling) -> None:
    x1 = torch.randn(24, 3, 2, generator=seeded(9))
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    draws = [Flow(lambda x, t: x).draw(x1, coupling=coupling, generator=seeded(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0].xt, draws[1].xt)
    assert not torch.equal(draws[0].xt, draws[2].xt)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


def test_a_mask_a_component_counts_like_the_entries_it_stands_for() -> None:
    g = seeded()
    x0, x1 = ({"a": torch.randn(10, 2, 2, generator=g), "b": torch.randn(10, 3, generator=g)} for _ in range(2))
    mask = {"a": torch.arange(2)[None] < (torch.arange(10)[:, None] % 2 + 1)}
    by_hand = torch.stack(
        [
            torch.stack(
                [
                    (x0["a"][i] - x1["a"][j])[mask["a"][j]].square().sum() + (x0["b"][i] - x1["b"][j]).square().sum()
                    for j in range(10)
                ]
            )
            for i in range(10)
        ]
    )
    expected = couplings.sinkhorn(by_hand, 0.1 * float(by_hand.mean())).matrix
    torch.testing.assert_close(EntropicOT(0.1).plan(x0, x1, mask=mask).matrix, expected)


@pytest.mark.parametrize("name", CORE_GROUPS["coupling"])
def test_every_option_says_what_its_class_takes_with_the_same_defaults(name: str) -> None:
    settings = CORE_GROUPS["coupling"][name]()
    home, _, kind = settings._target_.rpartition(".")
    assert home == "rectiflow.couplings"
    arguments = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name != "_target_"}
    assert dataclasses.asdict(getattr(couplings, kind)()) == arguments
