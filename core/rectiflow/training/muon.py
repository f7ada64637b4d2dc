"""Muon: matrices inside a network move along their orthogonalised momentum, everything else as AdamW moves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
MATCH = 0.2
"""Root mean square of an AdamW update, about, to which Muon's are brought: one learning rate and decay fit both."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose iteration drives singular values towards 1."""
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """Weights of `nn.Linear` and convolutions move by Muon, with a convolution's input axes as one; the rest by AdamW.

    All directions of a gradient count alike, so that what few samples ask for is learnt beside what all of them ask for.

    Source: arXiv 2502.16982, equations 1 to 4 (updates matched to AdamW's); the iteration is due to K. Jordan.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        matrices = _matrices(network)
        others = [p for p in network.parameters() if p.requires_grad and not any(p is matrix for matrix in matrices)]
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(
            [group for group in groups if group["params"]],
            lr=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            if group["muon"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        _move(parameter, parameter.grad, self.state[parameter], group["lr"], group["weight_decay"])
                        parameter.grad = None  # moved already; what is left is AdamW's
        return super().step(closure)  # type: ignore[no-any-return]


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with its singular values, unless they are tiny beside the largest, brought to between 0.7 and 1.2."""
    # Half precision suffices: the iteration contracts what rounding adds.
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.T if tall else x).to(matrix.dtype)
    return result


def _move(parameter: Tensor, gradient: Tensor, state: dict[str, Any], rate: float, decay: float) -> None:
    """One update, with Nesterov's momentum."""
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
        state["step"] = torch.zeros(())  # AdamW looks for it where it takes states back
    momentum: Tensor = state["momentum"]
    momentum.lerp_(gradient, 1 - MOMENTUM)
    direction = orthogonalised(torch.lerp(gradient, momentum, MOMENTUM).flatten(1))
    # An orthogonal matrix (m, n) has entries of root mean square max(m, n)^-1/2.
    scale = MATCH * max(direction.shape) ** 0.5
    parameter.mul_(1 - rate * decay).sub_(direction.reshape(parameter.shape), alpha=rate * scale)


def _matrices(network: nn.Module) -> list[Tensor]:
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [layer.weight for layer in network.modules() if isinstance(layer, layers) and layer.weight.requires_grad]
