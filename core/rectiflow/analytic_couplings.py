"""Couplings in closed form: optimal transport between Gaussians, and the Schroedinger bridge between normal laws on the line.

They are the oracles of the tests and the examples of the teaching material.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectiflow.errors import ConfigError


class GaussianTransport:
    """Optimal transport from N(mean0, cov0) to N(mean1, cov1) for the squared distance (Olkin and Pukelsheim, 1982).

    With R = cov0^(1/2): the map x -> mean1 + M (x - mean0), M = R^-1 (R cov1 R)^(1/2) R^-1, and
    W2^2 = |mean0 - mean1|^2 + tr(cov0 + cov1 - 2 (R cov1 R)^(1/2)).

    Args:
        mean0, mean1: (d,).
        cov0: (d, d), symmetric positive definite.
        cov1: (d, d), symmetric positive semi-definite.

    Raises:
        ConfigError: cov0 is not positive definite.
    """

    def __init__(self, mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> None:
        values, vectors = torch.linalg.eigh(cov0)
        if not bool((values > 0).all()):
            raise ConfigError(f"cov0 has smallest eigenvalue {float(values.min()):g}; it must be positive definite")
        root = vectors * values.sqrt() @ vectors.mT
        inverse = vectors * values.rsqrt() @ vectors.mT
        middle = _root(root @ cov1 @ root)
        self.mean0, self.mean1 = mean0, mean1
        self.matrix = inverse @ middle @ inverse
        self.squared_distance = float((mean0 - mean1).square().sum() + (cov0 + cov1 - 2 * middle).trace())

    def __call__(self, x: Tensor) -> Tensor:
        """Where x (..., d) is carried."""
        image: Tensor = self.mean1 + (x - self.mean0) @ self.matrix.mT
        return image


class ScalarBridge:
    """The Schroedinger bridge from N(mean0, std0^2) to N(mean1, std1^2) with reference sigma times Brownian motion.

    Cov(x0, x1) = (sqrt(4 std0^2 std1^2 + sigma^4) - sigma^2) / 2 (arXiv 2202.05722), and the variance at t is
    S = (1 - t)^2 std0^2 + t^2 std1^2 + 2t (1 - t) Cov + sigma^2 t (1 - t). The law follows the flow of velocity
    mean1 - mean0 + S' / (2S) (x - mean_t) and the diffusion of drift velocity + (sigma^2 / 2) score and noise sigma.

    Args:
        mean0, std0, mean1, std1: the ends; standard deviations above 0.
        sigma: standard deviation of the reference process at t = 1, at least 0; 0 is optimal transport.

    Raises:
        ConfigError: a standard deviation is not positive, or sigma is negative.
    """

    def __init__(self, mean0: float, std0: float, mean1: float, std1: float, sigma: float) -> None:
        if not (std0 > 0 and std1 > 0 and sigma >= 0):
            raise ConfigError(f"std0, std1, sigma are {std0}, {std1}, {sigma}; allowed: above 0, above 0, at least 0")
        self.mean0, self.std0, self.mean1, self.std1, self.sigma = mean0, std0, mean1, std1, sigma
        self.covariance = ((4 * std0**2 * std1**2 + sigma**4) ** 0.5 - sigma**2) / 2

    def mean(self, t: Tensor) -> Tensor:
        """Mean at times t, of t's shape."""
        return self.mean0 + t * (self.mean1 - self.mean0)

    def variance(self, t: Tensor) -> Tensor:
        """Variance at times t, of t's shape."""
        cross = 2 * self.covariance + self.sigma**2
        variance: Tensor = (1 - t).square() * self.std0**2 + t.square() * self.std1**2 + t * (1 - t) * cross
        return variance

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity of the probability flow at x, of x's shape, with t broadcasting to it."""
        cross = 2 * self.covariance + self.sigma**2
        rate = 2 * (t * self.std1**2 - (1 - t) * self.std0**2) + (1 - 2 * t) * cross
        velocity: Tensor = self.mean1 - self.mean0 + rate / (2 * self.variance(t)) * (x - self.mean(t))
        return velocity

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score at x, of x's shape, with t broadcasting to it."""
        return -(x - self.mean(t)) / self.variance(t)


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    return root
