"""Training is tested in float32, the dtype it runs in."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def float32_training(float64_default: None) -> None:
    torch.set_default_dtype(torch.float32)
