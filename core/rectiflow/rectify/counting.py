"""A model that counts the samples it is called on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rectiflow.batch import batch_size
from rectiflow.flow import Model


class CountedModel:
    """Calls another model; `samples` is the number of rows it was called on so far."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.samples = 0

    def __call__(self, x: Any, t: Tensor, **cond: Tensor) -> Any:
        """The model's output."""
        self.samples += batch_size(x)
        return self.model(x, t, **cond)
