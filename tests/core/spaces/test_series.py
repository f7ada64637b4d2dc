"""The functions of a squared angle against mpmath at fifty digits, on both sides of where their series take over."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch

from rectiflow.spaces import quaternions, series

SQUARES = [0.0, 1e-12, 1e-6, 4e-4, 0.999e-3, 1.001e-3, 1e-2, 0.3, 2.0, 9.0]

FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "cos w": (lambda s: series.cosine_and_sinc(s)[0], mpmath.cos),
    "sin w / w": (lambda s: series.cosine_and_sinc(s)[1], lambda w: mpmath.sin(w) / w),
    "(w / sin w - 1) / w^2": (series.angle_over_sine_excess, lambda w: (w / mpmath.sin(w) - 1) / w**2),
    "1 / w^2 - cot(w / 2) / 2 w": (
        series.inverse_jacobian_coefficient,
        lambda w: 1 / w**2 - mpmath.cot(w / 2) / (2 * w),
    ),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_values_and_derivatives(name: str) -> None:
    ours, exact = FUNCTIONS[name]
    with mpmath.workdps(50):
        for value in SQUARES:
            square = torch.tensor(value, requires_grad=True)
            result = ours(square)
            result.backward()
            # A point next to zero stands for zero, where mpmath would divide by it.
            at = mpmath.mpf(value) or mpmath.mpf(10) ** -18
            truth, slope = exact(mpmath.sqrt(at)), mpmath.diff(lambda s: exact(mpmath.sqrt(s)), at, h=at / 10**9)
            assert float(result.detach()) == pytest.approx(float(truth), rel=1e-11)
            assert square.grad is not None
            assert float(square.grad) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("angle", [1e-12, 1e-7, 1.9e-4, 2.1e-4, 1e-2])
def test_logs_of_small_rotations_are_precise_to_their_last_digits(angle: float) -> None:
    v = angle * torch.tensor([0.6, 0.0, -0.8])
    torch.testing.assert_close(quaternions.log(quaternions.exp(v)), v, rtol=1e-14, atol=0)
