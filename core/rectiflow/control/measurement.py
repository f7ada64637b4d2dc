"""What is measured of a state: linear operators, and the misfit and the likelihood of a state given a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rectiflow.errors import ConfigError, ConvergenceError

Operator = Callable[[Tensor], Tensor]
"""State (B, ...) -> measurement (B, ...), each row from the same row."""


def inpainting(known: Tensor) -> Operator:
    """Keep the entries (B, m) of a sample where `known`, bool of the sample's shape without the batch axis, is True.

    Raises:
        ConfigError: `known` is not bool, or nowhere True.
    """
    if known.dtype != torch.bool or not bool(known.any()):
        raise ConfigError(
            f"inpainting got known of {known.dtype} with {int(known.count_nonzero())} entries set; "
            "allowed: torch.bool with at least one True"
        )
    return lambda x: x[:, known.to(x.device)]


def downsampling(factor: int) -> Operator:
    """Mean over blocks of factor x factor of the last two axes of (B, C, H, W), both divisible by it.

    Raises:
        ConfigError: factor < 2; when applied, sides that it does not divide.
    """
    if factor < 2:
        raise ConfigError(f"downsampling factor is {factor}; allowed: an integer of at least 2")

    def average(x: Tensor) -> Tensor:
        if x.shape[-1] % factor or x.shape[-2] % factor:
            raise ConfigError(f"downsampling by {factor} got {tuple(x.shape)}; both last sides must be multiples of it")
        return functional.avg_pool2d(x, factor)

    return average


def blurring(width: float) -> Operator:
    """Gaussian blur over the last two axes of (B, C, H, W), standard deviation `width` in pixels, edges periodic.

    The kernel reaches three standard deviations and sums to 1.

    Raises:
        ConfigError: width is not positive; when applied, sides smaller than the kernel.
    """
    if not width > 0:
        raise ConfigError(f"blur width is {width}; allowed: a number of pixels above 0")
    reach = math.ceil(3 * width)
    line = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / (2 * width**2))
    line = line / line.sum()

    def blur(x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < reach:
            raise ConfigError(
                f"blur of width {width} reaches {reach} pixels; the state has sides {tuple(x.shape[-2:])}"
            )
        channels = x.shape[1]
        kernel = line.to(x).expand(channels, 1, -1)
        x = functional.conv2d(functional.pad(x, (reach, reach, 0, 0), "circular"), kernel[:, :, None], groups=channels)
        return functional.conv2d(
            functional.pad(x, (0, 0, reach, reach), "circular"), kernel[..., None], groups=channels
        )

    return blur


@dataclass(frozen=True)
class Measurement:
    """y = A(x1) + noise n, with n standard normal.

    Args:
        operator: A, state (B, ...) -> (B, ...), linear where a method says so; `rectiflow.control` has the usual ones.
        y: (B, ...) one measurement a sample, or (1, ...) one for all.
        noise: standard deviation of the noise; 0 for an exact measurement.

    Raises:
        ConfigError: noise is negative.
    """

    operator: Operator
    y: Tensor
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ConfigError(f"measurement noise is {self.noise}; allowed: a standard deviation of at least 0")

    def misfit(self, x: Tensor) -> Tensor:
        """|A x - y|^2 / 2, (B,)."""
        return self._residual(x).flatten(1).square().sum(1) / 2

    def excess(self, x: Tensor) -> Tensor:
        """max(|A x - y| - noise sqrt(m), 0)^2 / 2, (B,), for m measured numbers: the misfit that noise does not explain.

        Going on below that fits the noise (Morozov's discrepancy principle).
        """
        distance: Tensor = torch.linalg.vector_norm(self._residual(x).flatten(1), dim=1)
        return (distance - self.noise * math.sqrt(self.y[0].numel())).clamp(min=0).square() / 2

    def potential(self, x: Tensor) -> Tensor:
        """-log p(y | x) up to a constant, |A x - y|^2 / (2 noise^2), (B,).

        Raises:
            ConfigError: the measurement is exact and has no density.
        """
        if self.noise == 0:
            raise ConfigError("an exact measurement (noise 0) has no likelihood; give it a noise above 0")
        return self.misfit(x) / self.noise**2

    def adjoint(self, r: Tensor, like: Tensor) -> Tensor:
        """A^T r for r (B, ...) of a measurement's shape, of the shape of `like`; A linear."""
        with torch.enable_grad():
            x = torch.zeros_like(like).requires_grad_()
            (product,) = torch.autograd.grad(self.operator(x), x, r.expand(len(like), *r.shape[1:]))
        return product

    def whiten(self, r: Tensor, variance: float, like: Tensor, rtol: float = 1e-6, limit: int = 500) -> Tensor:
        """(variance A A^T + noise^2 I)^-1 r by conjugate gradients, without a matrix; A linear.

        Args:
            r: (B, ...) of a measurement's shape.
            variance: of the state, at least 0.
            like: a state.
            rtol: where to stop, relative to |r|.
            limit: the most iterations.

        Raises:
            ConvergenceError: it did not get there, as without noise and with measurements that repeat each other.
        """

        def apply(z: Tensor) -> Tensor:
            return variance * self.operator(self.adjoint(z, like)) + self.noise**2 * z

        solution, rest = torch.zeros_like(r), r
        direction, square = rest, _dot(rest, rest)
        goal = square * rtol**2
        for _ in range(limit):
            if bool((square <= goal).all()):
                return solution
            image = apply(direction)
            # A row that is done has nothing left to divide; it stays where it is.
            length = square / _dot(direction, image).clamp(min=torch.finfo(r.dtype).tiny)
            solution = solution + length * direction
            rest = rest - length * image
            before, square = square, _dot(rest, rest)
            direction = rest + square / before.clamp(min=torch.finfo(r.dtype).tiny) * direction
        worst = float((square / goal.clamp(min=torch.finfo(r.dtype).tiny)).max().sqrt()) * rtol
        raise ConvergenceError(
            f"conjugate gradients left a relative residual of {worst:.1e} after {limit} iterations, allowed {rtol:.1e}; "
            "give the measurement some noise"
        )

    def _residual(self, x: Tensor) -> Tensor:
        image = self.operator(x)
        if image.shape[1:] != self.y.shape[1:] or self.y.shape[0] not in (1, image.shape[0]):
            raise ConfigError(
                f"the operator gives {tuple(image.shape)} for a state {tuple(x.shape)}; the measurement y has "
                f"{tuple(self.y.shape)}; allowed: the same, or one row"
            )
        return image - self.y


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product = (a * b).flatten(1).sum(1)
    return product.reshape((-1,) + (1,) * (a.ndim - 1))
