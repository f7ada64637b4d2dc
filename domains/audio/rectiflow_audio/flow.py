"""Where separation starts, and how a network that estimates the stems is read from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rectiflow.batch import Cond, Shape
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.sources import Gaussian, Source
from rectiflow_audio.representation import POWER, consistent

NULL = {"query": 0.0, "tokens": 0.0}
"""What stands for no query."""

Network = Callable[..., tuple[Tensor, Tensor]]
"""`network(x, t, mixture, query)`, stems x (B, K, 2, F, N) and mixture (B, 1, 2, F, N): what it takes the stems for without the
state, and the logarithm of the variance that it leaves open, beside the power of stems, of a shape that broadcasts to theirs."""
Reading = Callable[..., Tensor]
"""What a network says, read as the estimate of the stems (B, K, 2, F, N) that a flow needs."""
MOST_DOUBT = 10.0
"""Bound on the logarithm of a variance, either way: what lies beyond is as good as known, or unknown."""


class Start(Source, Protocol):
    """The law of x0, and what a network means that was trained from there."""

    def place(self, noise: Tensor, mixture: Tensor) -> Tensor:
        """x0 (B, K, 2, F, N) for standard normal noise of its shape and a mixture (B, 1, 2, F, N)."""

    def read(self, network: Network, interpolant: Interpolant, *, stems: int = 2, power: float = POWER) -> Reading:
        """The network's estimate of the K `stems`, whose states have this power, made to fit the start."""


class MixtureStart(Gaussian):
    """Every stem starts as the mixture plus noise of standard deviation `sigma`, above 0."""

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__(mean="mixture", scale=float(sigma))
        self.sigma = float(sigma)

    def place(self, noise: Tensor, mixture: Tensor) -> Tensor:
        """The mixture plus noise."""
        return mixture + self.sigma * noise

    def read(self, network: Network, interpolant: Interpolant, *, stems: int = 2, power: float = POWER) -> Reading:
        """The network, shown what the state says beyond the mixture."""
        return GuessingNetwork(network, interpolant, 1.0, self.sigma, power)


class NoiseStart(Gaussian):
    """Every stem starts as noise of standard deviation `sigma`, above 0."""

    def __init__(self, sigma: float = 0.5) -> None:
        super().__init__(scale=float(sigma))
        self.sigma = float(sigma)

    def place(self, noise: Tensor, mixture: Tensor) -> Tensor:
        """The noise at its level."""
        return self.sigma * noise

    def read(self, network: Network, interpolant: Interpolant, *, stems: int = 2, power: float = POWER) -> Reading:
        """The network, shown what the state says of the stems."""
        return GuessingNetwork(network, interpolant, 0.0, self.sigma, power)


class ConsistentStart:
    """x0 = y / K + P' z: equal shares of the mixture, and noise of standard deviation `sigma` that sums to 0 over the stems.

    With estimates that sum to the mixture, states do so at every time. Needs linear spectra.
    Source: arXiv 2505.16119 (FLOSS), equations 7 to 10.

    Raises:
        ConfigError: sigma is not positive.
    """

    def __init__(self, sigma: float = 0.3) -> None:
        if not sigma > 0:
            raise ConfigError(f"ConsistentStart has sigma {sigma}; allowed: above 0")
        self.sigma = float(sigma)

    def __call__(
        self, shape: Shape, *, cond: Cond, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """x0 (B, K, 2, F, N)."""
        z = torch.randn(_plain(shape), generator=generator, device=device, dtype=dtype)
        return self.place(z, cond["mixture"])

    def place(self, noise: Tensor, mixture: Tensor) -> Tensor:
        """The mixture's share plus the part of the noise that sums to 0."""
        return consistent(self.sigma * noise, mixture)

    def read(self, network: Network, interpolant: Interpolant, *, stems: int = 2, power: float = POWER) -> Reading:
        """The network, shown what the state says beyond its share, its estimate moved to the nearest that sums to the mixture."""
        share = 1 / stems
        return SummingNetwork(GuessingNetwork(network, interpolant, share, (1 - share) ** 0.5 * self.sigma, power))


class RegressionStart:
    """The mixture itself, without noise, for a network that estimates the stems from it, without a state or a time."""

    def __call__(
        self, shape: Shape, *, cond: Cond, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """The mixture, once a stem: (B, K, 2, F, N)."""
        return cond["mixture"].expand(_plain(shape)).to(device, dtype)

    def place(self, noise: Tensor, mixture: Tensor) -> Tensor:
        """The mixture."""
        return mixture.expand_as(noise)

    def read(self, network: Network, interpolant: Interpolant, *, stems: int = 2, power: float = POWER) -> Reading:
        """The network at time 0, where no state has said anything."""
        return RegressionNetwork(network)


class GuessingNetwork(nn.Module):
    """A network that is shown, in place of the state, the linear guess at the stems that the state allows, and weighed with it.

    u = x_t - s(t) m, with m the share `mean` of the mixture that x0 is centred on, is a(t) x1 plus noise of deviation s(t) sigma;
    the guess of least variance is g = p a u / (p a^2 + s^2 sigma^2), p the power of stems: 0 at the start, x1 at the end. A state
    of noise alone would have to be learnt to be overlooked, and at the start the network is what a regression is.

    The network says m, what the stems are without the state, and e, the variance beside p that it leaves open. The estimate is
    the mean of the stems given both, (r m + e g) / (r + e (1 - r)), with r = s^2 sigma^2 / (p a^2 + s^2 sigma^2) what the guess
    leaves open of p: m at the start, x1 at the end. Where the network is sure, noise of the start is cleared early; where it is
    not, it is believed as long as the state is worse, and its errors do not add up over the steps.
    """

    def __init__(
        self, network: Network, interpolant: Interpolant, mean: float, sigma: float, power: float = POWER
    ) -> None:
        super().__init__()
        self.network = network
        self.interpolant = interpolant
        self.mean, self.sigma, self.power = mean, sigma, power

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The estimate (B, K, 2, F, N)."""
        guess, left_open = self.guess(x, t, cond["mixture"])
        stems, doubt = self.network(guess, t, **cond)
        variance = doubt.clamp(-MOST_DOUBT, MOST_DOUBT).exp()
        return (left_open * stems + variance * guess) / (left_open + variance * (1 - left_open))

    def guess(self, x: Tensor, t: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Stems (B, K, 2, F, N) as states x of that shape at times t (B,) tell them, and the variance left open, 1 to 0."""
        path = self.interpolant.coefficients(t).expand_to(x)
        told = x - path.s * self.mean * mixture
        noise = (self.sigma * path.s).square()
        total = self.power * path.a.square() + noise
        return self.power * path.a / total * told, noise / total


class SummingNetwork(nn.Module):
    """A reading that is moved to the nearest one that sums to the mixture."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The estimate (B, K, 2, F, N)."""
        return consistent(self.reading(x, t, **cond), cond["mixture"])


class RegressionNetwork(nn.Module):
    """A network that is shown silence at time 0 in place of the state, whatever that is: all it knows is the mixture."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The estimate (B, K, 2, F, N)."""
        return self.network(torch.zeros_like(x), torch.zeros_like(t), **cond)[0]


def separation_flow(network: Network, start: Start, interpolant: Interpolant | None = None, **traits: Any) -> Flow:
    """A network that says what two stems' spectra are, as a flow from a start; `traits` are further `Flow` fields."""
    path = interpolant or Linear()
    return Flow(
        start.read(network, path),
        **{"interpolant": path, "predicts": "data", "source": start, "null": NULL, **traits},
    )


def _plain(shape: Shape) -> tuple[int, ...]:
    if isinstance(shape, dict):
        raise ConfigError(f"stems are one tensor; the state asked for has components {sorted(shape)}")
    return tuple(shape)
