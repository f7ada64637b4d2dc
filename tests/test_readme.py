"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from rectiflow.training.options import TrainingOptions
from rectiflow_images.unet import UNet

README = Path(__file__).parents[1] / "README.md"


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    small = example.replace("count=10_000", "count=20").replace("flow, pairs)", "flow, pairs, options=options)")
    assert small.count("options=options") == 1
    given = {
        "model": UNet(1, 8, classes=10, width=16, generator=torch.Generator().manual_seed(0)),
        "x1": torch.zeros(64, 1, 8, 8),
        "y": torch.arange(64) % 10,
        "options": TrainingOptions(steps=2, batch=4),
    }
    exec(small, given)  # noqa: S102 - our own text
    assert given["student"].independent is False
    assert given["x0"].shape == (64, 1, 8, 8)
