"""Muon: matrices inside a network move along their orthogonalised momentum, everything else as AdamW moves it."""

from __future__ import annotations

from collections import defaultdict
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
                moved = [parameter for parameter in group["params"] if parameter.grad is not None]
                directions = [_nesterov(parameter, self.state[parameter]).flatten(1) for parameter in moved]
                for parameter, direction in zip(moved, orthogonalised(directions), strict=True):
                    # An orthogonal matrix (m, n) has entries of root mean square max(m, n)^-1/2.
                    rate = group["lr"] * MATCH * max(direction.shape) ** 0.5
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(direction.reshape(parameter.shape), alpha=rate)
                    parameter.grad = None  # moved already; what is left is AdamW's
        return super().step(closure)  # type: ignore[no-any-return]


def orthogonalised(matrices: list[Tensor]) -> list[Tensor]:
    """Matrices (m, n) with their singular values, unless tiny beside the largest, brought to between 0.7 and 1.2."""
    result: list[Tensor] = list(matrices)
    # Those of one shape go together: small products would leave most of a processor idle.
    alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[tuple(sorted(matrix.shape))].append(i)
    for places in alike.values():
        wide = [matrices[i] if matrices[i].shape[0] <= matrices[i].shape[1] else matrices[i].T for i in places]
        for i, x in zip(places, _iterate(torch.stack(wide)), strict=True):
            result[i] = x if matrices[i].shape[0] <= matrices[i].shape[1] else x.T
    return result


def _iterate(matrices: Tensor) -> Tensor:
    """The quintic iteration on matrices (b, m, n), m at most n."""
    # Half precision suffices: the iteration contracts what rounding adds.
    x = matrices.bfloat16()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def _nesterov(parameter: Tensor, state: dict[str, Any]) -> Tensor:
    """The gradient with Nesterov's momentum, which it moves on."""
    gradient: Tensor = parameter.grad  # type: ignore[assignment]  # its caller leaves out those without
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
        state["step"] = torch.zeros(())  # AdamW looks for it where it takes states back
    momentum: Tensor = state["momentum"]
    momentum.lerp_(gradient, 1 - MOMENTUM)
    return torch.lerp(gradient, momentum, MOMENTUM)


def _matrices(network: nn.Module) -> list[Tensor]:
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [layer.weight for layer in network.modules() if isinstance(layer, layers) and layer.weight.requires_grad]
