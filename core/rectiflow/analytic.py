"""Flows in closed form: Gaussian and mixture targets from a normal source, coupled Gaussians, and point sets, on any interpolant.

They are the oracles of the tests and the examples of the teaching material. All numbers are float64 unless given otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Coefficients, Interpolant, Linear
from rectiflow.sources import Gaussian, StudentT
from rectiflow.stochastic_interpolant import LatentCoefficients, StochasticInterpolant


class GaussianFlow:
    """The flow from N(0, I) to N(mean, covariance) under the independent coupling.

    With covariance = U diag(l) U^T and y = x - a m: velocity a' m + U diag((a a' l + s s') / (a^2 l + s^2)) U^T y,
    score -U diag(1 / (a^2 l + s^2)) U^T y, and flow map t -> r equal to a_r m + U diag(q_r / q_t) U^T (x - a_t m) with
    q = sqrt(a^2 l + s^2).

    Args:
        mean: (d,).
        covariance: (d, d), symmetric positive semi-definite.
        interpolant: path; linear by default.

    Raises:
        ConfigError: the covariance is not symmetric positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, interpolant: Interpolant | None = None) -> None:
        self.mean = mean
        self.covariance = covariance
        self.interpolant = interpolant or Linear()
        eigenvalues, self._basis = torch.linalg.eigh(covariance)
        if not torch.allclose(covariance, covariance.mT) or bool(eigenvalues.min() < -1e-9 * eigenvalues.abs().max()):
            raise ConfigError(
                f"covariance has smallest eigenvalue {float(eigenvalues.min()):g}; "
                "it must be symmetric with eigenvalues of at least 0"
            )
        self._eigenvalues = eigenvalues.clamp(min=0)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, d) at x (B, d), t (B,)."""
        c = self.interpolant.coefficients(t).expand_to(x)
        rate = (c.a * c.da * self._eigenvalues + c.s * c.ds) / (c.a.square() * self._eigenvalues + c.s.square())
        return c.da * self.mean + self._scale(rate, x - c.a * self.mean)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score (B, d) at x (B, d), t (B,)."""
        c = self.interpolant.coefficients(t).expand_to(x)
        variance = c.a.square() * self._eigenvalues + c.s.square()
        return -self._scale(1 / variance, x - c.a * self.mean)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior mean E[x1 | x_t = x] = m + a C S_t^-1 (x - a m), (B, d)."""
        c = self.interpolant.coefficients(t).expand_to(x)
        gain = c.a * self._eigenvalues / (c.a.square() * self._eigenvalues + c.s.square())
        return self.mean + self._scale(gain, x - c.a * self.mean)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Posterior mean E[x0 | x_t = x] = s S_t^-1 (x - a m), (B, d)."""
        c = self.interpolant.coefficients(t).expand_to(x)
        gain = c.s / (c.a.square() * self._eigenvalues + c.s.square())
        return self._scale(gain, x - c.a * self.mean)

    def flow_map(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Where the flow carries x (B, d) from times t (B,) to times r (B,)."""
        start, end = self.interpolant.coefficients(t).expand_to(x), self.interpolant.coefficients(r).expand_to(x)
        spread = [(c.a.square() * self._eigenvalues + c.s.square()).sqrt() for c in (start, end)]
        return end.a * self.mean + self._scale(spread[1] / spread[0], x - start.a * self.mean)

    def average_velocity(self, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        """(flow_map(x, t, until) - x) / (until - t), (B, d), and the velocity where the two times (B,) are the same."""
        same = until == t
        length = torch.where(same, 1.0, until - t)[:, None]
        return torch.where(same[:, None], self.velocity(x, t), (self.flow_map(x, t, until) - x) / length)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Data (count, d)."""
        normal = torch.randn(count, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + self._scale(self._eigenvalues.sqrt(), normal)

    def flow(self) -> Flow:
        """This velocity as a `Flow`."""
        return Flow(self.velocity, interpolant=self.interpolant)

    def _scale(self, factors: Tensor, y: Tensor) -> Tensor:
        scaled: Tensor = (y @ self._basis * factors) @ self._basis.mT
        return scaled


class MixtureFlow:
    """The flow from N(0, I) to sum_k w_k N(m_k, C_k) under the independent coupling.

    With S_k = a^2 C_k + s^2 I, y_k = S_k^-1 (x - a m_k) and responsibilities r_k = softmax(log w_k + log N(x; a m_k, S_k)):
    score -sum r_k y_k, data sum r_k (m_k + a C_k y_k), noise s sum r_k y_k, velocity a' data + s' noise. With C_k = 0 this is
    the memorising flow of a finite point set.

    Args:
        weights: (K,) positive; normalised here.
        means: (K, d).
        covariances: (K, d, d).
        interpolant: path; linear by default.

    Raises:
        ConfigError: weights are not positive, or shapes disagree.
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor,
        covariances: Tensor,
        interpolant: Interpolant | None = None,
    ) -> None:
        self.weights = torch.as_tensor(weights, dtype=means.dtype)
        components, dimension = means.shape
        if self.weights.shape != (components,) or covariances.shape != (components, dimension, dimension):
            raise ConfigError(
                f"mixture has weights {tuple(self.weights.shape)}, means {tuple(means.shape)}, covariances "
                f"{tuple(covariances.shape)}; allowed: (K,), (K, d), (K, d, d)"
            )
        if not bool((self.weights > 0).all()):
            raise ConfigError(f"mixture weights are {self.weights.tolist()}; all must be above 0")
        self.weights = self.weights / self.weights.sum()
        self.means = means
        self.covariances = covariances
        self.interpolant = interpolant or Linear()

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), (B,)."""
        joint, _ = self._joint(x, t)
        return torch.logsumexp(joint, 1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score (B, d) at x (B, d), t (B,)."""
        joint, y = self._joint(x, t)
        return -(joint.softmax(1)[..., None] * y).sum(1)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x1 | x_t = x], (B, d)."""
        joint, y = self._joint(x, t)
        a = self.interpolant.coefficients(t).a[:, None, None]
        posterior = self.means + a * torch.einsum("kij,bkj->bki", self.covariances, y)
        return (joint.softmax(1)[..., None] * posterior).sum(1)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x_t = x], (B, d)."""
        return -self.interpolant.coefficients(t).s[:, None] * self.score(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, d) at x (B, d), t (B,)."""
        c = self.interpolant.coefficients(t).expand_to(x)
        return c.da * self.data(x, t) + c.ds * self.noise(x, t)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Data (count, d)."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        normal = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        values, vectors = torch.linalg.eigh(self.covariances)
        roots = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
        return self.means[component] + torch.einsum("bij,bj->bi", roots[component], normal)

    def flow(self) -> Flow:
        """This velocity as a `Flow`."""
        return Flow(self.velocity, interpolant=self.interpolant)

    def _joint(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k + log N(x; a m_k, S_k) as (B, K), and y_k as (B, K, d)."""
        c = self.interpolant.coefficients(t)
        dimension = x.shape[1]
        identity = torch.eye(dimension, dtype=x.dtype)
        spread = c.a[:, None, None, None].square() * self.covariances + c.s[:, None, None, None].square() * identity
        offset = x[:, None] - c.a[:, None, None] * self.means
        y = torch.linalg.solve(spread, offset)
        quadratic = (offset * y).sum(-1) + torch.logdet(spread) + dimension * math.log(2 * math.pi)
        return self.weights.log() - quadratic / 2, y


class JointGaussianFlow:
    """The flow between two jointly Gaussian ends, with latent noise where the path has it.

    With C = Cov(x0, x1), S_t = s^2 S0 + a^2 S1 + a s (C + C^T) + g^2 I and y = S_t^-1 (x - a m1 - s m0): score -y, latent noise
    E[z | x] = g y, and velocity a' m1 + s' m0 + [a a' S1 + s s' S0 + a' s C^T + s' a C + g g' I] y. A gauge adds A y with
    A antisymmetric: another flow through the same marginals, and not a gradient.

    Args:
        means: m0 and m1, (d,) each.
        covariances: S0 and S1, (d, d) each.
        cross: C = E[(x0 - m0)(x1 - m1)^T], (d, d).
        interpolant: path; linear by default.
        gauge: A, (d, d); none by default.

    Raises:
        ConfigError: the joint covariance is not symmetric positive semi-definite, or the gauge is not antisymmetric.
    """

    def __init__(
        self,
        means: tuple[Tensor, Tensor],
        covariances: tuple[Tensor, Tensor],
        cross: Tensor,
        interpolant: Interpolant | None = None,
        gauge: Tensor | None = None,
    ) -> None:
        self.means = means
        self.covariances = covariances
        self.cross = cross
        self.interpolant = interpolant or Linear()
        self.gauge = torch.zeros_like(cross) if gauge is None else gauge
        self.joint = torch.cat([torch.cat([covariances[0], cross], 1), torch.cat([cross.mT, covariances[1]], 1)])
        eigenvalues = torch.linalg.eigvalsh(self.joint)
        if not torch.allclose(self.joint, self.joint.mT) or bool(eigenvalues.min() < -1e-9 * eigenvalues.abs().max()):
            raise ConfigError(
                f"the joint covariance has smallest eigenvalue {float(eigenvalues.min()):g}; "
                "it must be symmetric with eigenvalues of at least 0"
            )
        if not torch.allclose(self.gauge, -self.gauge.mT):
            raise ConfigError("the gauge is not antisymmetric; use (M - M^T) / 2")

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, d) at x (B, d), t (B,)."""
        c, latent = self._coefficients(t, 3)
        identity = torch.eye(x.shape[1], dtype=x.dtype)
        rate = c.a * c.da * self.covariances[1] + c.s * c.ds * self.covariances[0] + latent.gdg * identity
        rate = rate + c.da * c.s * self.cross.mT + c.ds * c.a * self.cross + self.gauge
        drift = c.da[:, 0] * self.means[1] + c.ds[:, 0] * self.means[0]
        turned: Tensor = torch.einsum("bij,bj->bi", rate, self._whitened(x, t))
        return drift + turned

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score (B, d) at x (B, d), t (B,)."""
        return -self._whitened(x, t)

    def latent(self, x: Tensor, t: Tensor) -> Tensor:
        """E[z | x_t = x], (B, d)."""
        _, latent = self._coefficients(t, 2)
        return latent.g * self._whitened(x, t)

    def mean(self, t: Tensor) -> Tensor:
        """E[x_t], (B, d)."""
        c, _ = self._coefficients(t, 2)
        return c.a * self.means[1] + c.s * self.means[0]

    def covariance(self, t: Tensor) -> Tensor:
        """Cov[x_t], (B, d, d)."""
        c, latent = self._coefficients(t, 3)
        ends = c.a.square() * self.covariances[1] + c.s.square() * self.covariances[0]
        mixed = c.a * c.s * (self.cross + self.cross.mT)
        return ends + mixed + latent.g.square() * torch.eye(len(self.cross), dtype=self.cross.dtype)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Coupled ends x0 and x1, (count, d) each."""
        values, vectors = torch.linalg.eigh(self.joint)
        normal = torch.randn(count, len(self.joint), generator=generator, dtype=self.joint.dtype)
        both = torch.cat(self.means) + normal * values.clamp(min=0).sqrt() @ vectors.mT
        first, second = both.chunk(2, dim=1)
        return first, second

    def flow(self) -> Flow:
        """This velocity as a `Flow` that starts from N(m0, S0), S0 positive definite, and knows its score."""
        source = Gaussian(self.means[0], covariance=self.covariances[0])
        return Flow(
            self.velocity, interpolant=self.interpolant, source=source, independent=False, score_model=self.score
        )

    def _whitened(self, x: Tensor, t: Tensor) -> Tensor:
        whitened: Tensor = torch.linalg.solve(self.covariance(t), x - self.mean(t))
        return whitened

    def _coefficients(self, t: Tensor, axes: int) -> tuple[Coefficients, LatentCoefficients]:
        shape = (-1,) + (1,) * (axes - 1)
        c = Coefficients(*(value.reshape(shape) for value in self.interpolant.coefficients(t)))
        if not isinstance(self.interpolant, StochasticInterpolant):
            nothing = torch.zeros_like(c.a)
            return c, LatentCoefficients(nothing, nothing, nothing)
        return c, LatentCoefficients(*(value.reshape(shape) for value in self.interpolant.latent.coefficients(t)))


class PointsFlow:
    """The memorising flow of a finite point set, from a normal or a Student-t source: what a perfect network would learn.

    E[x1 | x_t = x] = sum_k w_k y_k with w_k ~ exp(-|x - a y_k|^2 / (2 s^2)), or with D degrees of freedom
    w_k ~ (|x - a y_k|^2 + D s^2)^(-(N + D)/2) (PFGM++, arXiv 2302.04265, at sigma = s / a).

    Args:
        points: (K, N).
        interpolant: path; linear by default.
        degrees: D of the Student-t source of scale 1; infinity is the standard normal.

    Raises:
        ConfigError: degrees not above 0.
    """

    def __init__(self, points: Tensor, interpolant: Interpolant | None = None, degrees: float = math.inf) -> None:
        if not degrees > 0:
            raise ConfigError(f"PointsFlow got degrees {degrees}; allowed: above 0")
        self.points = points
        self.interpolant = interpolant or Linear()
        self.degrees = degrees

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x1 | x_t = x], (B, N), for t below 1."""
        c = self.interpolant.coefficients(t)
        squares = (x[:, None] - c.a[:, None, None] * self.points).square().sum(-1) / c.s.square()[:, None]
        if math.isinf(self.degrees):
            energy = squares / 2
        else:
            energy = (x.shape[1] + self.degrees) / 2 * torch.log1p(squares / self.degrees)
        return torch.softmax(-energy, 1) @ self.points

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, N) at x (B, N), t (B,), t below 1."""
        c = self.interpolant.coefficients(t).expand_to(x)
        return (c.ds * x + c.determinant * self.data(x, t)) / c.s

    def flow(self) -> Flow:
        """This data prediction as a `Flow` with its source."""
        source = None if math.isinf(self.degrees) else StudentT(self.degrees)
        return Flow(self.data, interpolant=self.interpolant, predicts="data", source=source)
