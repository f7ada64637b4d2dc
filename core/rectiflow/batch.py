"""The batch that every domain collates to, and the states it holds: a tensor, or a dict of tensors for product spaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

State = Tensor | dict[str, Tensor]
Shape = tuple[int, ...] | dict[str, tuple[int, ...]]
Cond = dict[str, Tensor]
Mask = Tensor | dict[str, Tensor] | None
"""What of a state is data: bool, a prefix of its shape; for a product space one for all components, or one a name."""


def map_state(function: Callable[..., Tensor], state: Any, *others: Any) -> Any:
    """Apply a function to a state, or component by component to states of a product space."""
    if isinstance(state, dict):
        return {name: function(part, *(other[name] for other in others)) for name, part in state.items()}
    return function(state, *others)


def map_masked(function: Callable[..., Tensor], mask: Mask, state: Any, *others: Any) -> Any:
    """`map_state` of a function that takes each part's mask last; a component that a dict of masks leaves out has None."""
    if isinstance(state, dict):
        masks = mask if isinstance(mask, dict) else dict.fromkeys(state, mask)
        return {
            name: function(part, *(other[name] for other in others), masks.get(name)) for name, part in state.items()
        }
    return function(state, *others, mask)


def parts(state: State) -> list[Tensor]:
    """The tensors of a state, in the order of its components' names."""
    return [state[name] for name in sorted(state)] if isinstance(state, dict) else [state]


def batch_size(state: State) -> int:
    """Number of samples B of a state (B, ...)."""
    return int(parts(state)[0].shape[0])


def shape_of(state: State) -> Shape:
    """Shape, batch axis included, of a state; a dict of shapes for a product space."""
    if isinstance(state, dict):
        return {name: tuple(part.shape) for name, part in state.items()}
    return tuple(state.shape)


def device_of(state: State) -> torch.device:
    """Device that a state lives on."""
    return parts(state)[0].device


def dtype_of(state: State) -> torch.dtype:
    """Floating dtype of a state."""
    return parts(state)[0].dtype


def time_dtype(state: State) -> torch.dtype:
    """Dtype of the times that go with a state: float32 for half precision, since bfloat16 cannot tell 0.996 from 1."""
    dtype = dtype_of(state)
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


@dataclass
class Batch:
    """Data of one step: x1 (B, ...), conditions with batch axis first, an optional mask over x1's leading axes.

    `mask` is bool, its shape a prefix of x1's ((B, N) for sets of N tokens), True where x1 holds data; for a product space
    one mask holds for every component, or a dict gives each component its own.
    `x0` is the source that is paired with x1 when the coupling is stored (reflow); None when it is to be drawn.
    `extra` carries whatever the domain's own loss terms need beside the state (tensors move with the batch).
    """

    x1: State
    cond: Cond = field(default_factory=dict)
    mask: Mask = None
    extra: dict[str, Any] = field(default_factory=dict)
    x0: State | None = None

    def __len__(self) -> int:
        return batch_size(self.x1)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return Batch(
            x1=map_state(move, self.x1),
            cond={name: move(value) for name, value in self.cond.items()},
            mask=None if self.mask is None else map_state(move, self.mask),
            extra={name: move(value) for name, value in self.extra.items()},
            x0=None if self.x0 is None else map_state(move, self.x0),
        )
