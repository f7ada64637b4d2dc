"""Exponential moving average of a network's parameters, kept apart from the optimiser."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rectiflow.errors import CheckpointCorrupt


class EMA:
    """The average theta_ema <- d_k theta_ema + (1 - d_k) theta with d_k = min(decay, (1 + k) / (10 + k)).

    k counts the updates from 0: the warm-up forgets the initial weights. Buffers are never averaged: the average always
    shows the network's own. Build it once the network is on its device.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._network = network
        named = dict(network.named_parameters())
        self._names = list(named)
        self._live = [parameter.detach() for parameter in named.values()]
        self._average = [parameter.clone() for parameter in self._live]

    def current_decay(self) -> float:
        """Decay d_k of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def network(self) -> nn.Module:
        """A copy of the network in evaluation mode that carries the average, also after later updates."""
        copied = copy.deepcopy(self._network).eval().requires_grad_(False)
        for parameter, average in zip(copied.parameters(), self._average, strict=True):
            parameter.data = average  # the same memory, which updates write in place
        for module, own in zip(copied.modules(), self._network.modules(), strict=True):
            module._buffers = own._buffers
        return copied

    def update(self) -> None:
        """Move the average towards the network's parameters by one step."""
        torch._foreach_lerp_(self._average, self._live, 1.0 - self.current_decay())
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The network's state dict with the average in place of the parameters; tensors are copies."""
        with self.applied():
            return {name: value.detach().clone() for name, value in self._network.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Take the average from a state dict of the network, and the number of updates behind it.

        Raises:
            CheckpointCorrupt: a parameter is missing or has another shape.
        """
        for name, average in zip(self._names, self._average, strict=True):
            if name not in state or state[name].shape != average.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise CheckpointCorrupt(
                    f"EMA weights do not fit the network: {name} is {found}, must be {tuple(average.shape)}; "
                    "train with the configuration that wrote the checkpoint."
                )
            average.copy_(state[name])
        self.updates = updates

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network carry the average inside the `with` block, and its own parameters again after it."""
        own = [parameter.clone() for parameter in self._live]
        torch._foreach_copy_(self._live, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, own)
