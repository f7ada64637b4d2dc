"""Sources: the law of x0, when it is not the space's own prior."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rectiflow.batch import Cond, Shape, State
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.spaces.space import Space

Centre = float | Tensor | str
"""A centre of x0: a number, a tensor that broadcasts to the state, or the name of the condition that holds it, (B, ...)."""


class Source(Protocol):
    """The law of x0; it may depend on the conditions (audio separation starts from the mixture)."""

    def __call__(
        self,
        shape: Shape,
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> State:
        """Draw x0 of the given shape, batch axis included."""


@runtime_checkable
class SourceWithDensity(Protocol):
    """A source whose density is known, which likelihoods need."""

    def log_density(self, x0: Any, cond: Cond | None = None) -> Tensor:
        """log p(x0) (B,)."""


def log_density(source: Source, x0: Any, cond: Cond | None = None) -> Tensor:
    """log p(x0) (B,) under a source.

    Raises:
        ConversionError: the source has no `log_density`.
    """
    if isinstance(source, SourceWithDensity):
        return source.log_density(x0, cond)
    raise ConversionError(
        f"the density of the source {source!r} is not known; give it a method log_density(x0, cond) -> (B,), "
        "or use a flow whose source is its space's prior"
    )


def centre_of(centre: Centre, cond: Cond | None) -> float | Tensor:
    """The centre itself, or the condition that it names.

    Raises:
        ConfigError: no condition has that name.
    """
    if not isinstance(centre, str):
        return centre
    if centre not in (cond or {}):
        raise ConfigError(
            f"the centre is condition {centre!r}; the conditions here are {sorted(cond or {})}; pass it too"
        )
    return (cond or {})[centre]


class Gaussian:
    """x0 ~ N(mean, scale^2) entry by entry, or N(mean, covariance) over a sample's flattened entries.

    Args:
        mean: see `Centre`.
        scale: standard deviation above 0, a number or a tensor that broadcasts to the state.
        covariance: (d, d), symmetric positive definite; instead of `scale`.

    Raises:
        ConfigError: a scale that is not positive, a covariance that is not positive definite, or both given.
    """

    def __init__(self, mean: Centre = 0.0, scale: float | Tensor = 1.0, covariance: Tensor | None = None) -> None:
        self.mean = mean
        self.scale = scale
        self.covariance = covariance
        if not bool((torch.as_tensor(scale) > 0).all()):
            raise ConfigError(f"Gaussian source has scale {scale}; allowed: above 0")
        if covariance is None:
            return
        if not isinstance(scale, float) or scale != 1.0:
            raise ConfigError("Gaussian source got scale and covariance; give one of them")
        root, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed) or not torch.allclose(covariance, covariance.mT):
            raise ConfigError(
                f"covariance {tuple(covariance.shape)} of the Gaussian source is not symmetric positive definite; "
                "add a multiple of the identity"
            )
        self._root = root

    def __call__(
        self,
        shape: Shape,
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """x0 of the given shape."""
        normal = torch.randn(_one_shape(shape), generator=generator, device=device, dtype=dtype)
        mean = _like(centre_of(self.mean, cond), normal)
        if self.covariance is None:
            return mean + _like(self.scale, normal) * normal
        return mean + (normal.flatten(1) @ _like(self._root, normal).mT).reshape(normal.shape)

    def score(self, x0: Tensor, cond: Cond | None = None) -> Tensor:
        """grad log p(x0) = -S0^-1 (x0 - m0), of x0's shape.

        It is affine, so E[score(x0) | x_t] = score(E[x0 | x_t]), and the score at time t is that divided by s(t).
        """
        centred = x0 - _like(centre_of(self.mean, cond), x0)
        if self.covariance is None:
            return -centred / _like(self.scale, x0).square()
        return -torch.cholesky_solve(centred.flatten(1).mT, _like(self._root, x0)).mT.reshape(x0.shape)

    def log_density(self, x0: Tensor, cond: Cond | None = None) -> Tensor:
        """log p(x0) (B,), summed over a sample's entries."""
        centred = x0 - _like(centre_of(self.mean, cond), x0)
        if self.covariance is None:
            scale = _like(self.scale, x0)
            white, log_volume = centred / scale, scale.log().expand_as(x0).flatten(1).sum(1)
        else:
            root = _like(self._root, x0)
            white = torch.linalg.solve_triangular(root, centred.flatten(1).mT, upper=False).mT
            log_volume = root.diagonal().log().sum().expand(len(x0))
        white = white.flatten(1)
        return -(white.square().sum(1) + white.shape[1] * math.log(2 * math.pi)) / 2 - log_volume

    def state_of_score(self, score: Tensor, cond: Cond | None = None) -> Tensor:
        """The x0 whose `score` this is: m0 - S0 score."""
        mean = _like(centre_of(self.mean, cond), score)
        if self.covariance is None:
            return mean - _like(self.scale, score).square() * score
        return mean - (score.flatten(1) @ _like(self.covariance, score)).reshape(score.shape)


class StudentT:
    """x0 = scale t_D: isotropic multivariate Student-t with D degrees of freedom over a sample's N entries.

    It is the perturbation of PFGM++ (arXiv 2302.04265): p(x0) ~ (|x0|^2 + r^2)^(-(N + D)/2), r = scale sqrt(D), a uniform
    direction at radius r sqrt(beta / (1 - beta)) with beta ~ Beta(N/2, D/2). As the source of a flow on x_t = a x1 + s x0 it
    makes training and sampling those of PFGM++ at noise level sigma = scale s / a; D -> infinity is the Gaussian. E|x0|^2 is
    N scale^2 D / (D - 2) for D > 2 and infinite otherwise.

    Args:
        degrees: D, above 0.
        scale: above 0.

    Raises:
        ConfigError: degrees or scale not positive.
    """

    def __init__(self, degrees: float, scale: float = 1.0) -> None:
        if not 0 < degrees < math.inf or not scale > 0:
            raise ConfigError(f"StudentT got degrees {degrees} and scale {scale}; allowed: finite and above 0")
        self.degrees = degrees
        self.scale = scale

    def __call__(
        self,
        shape: Shape,
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """x0 of the given shape: the direction and the Gamma(N/2) of a normal vector, over a Gamma(D/2) of its own."""
        normal = torch.randn(_one_shape(shape), generator=generator, device=device, dtype=dtype)
        shape_parameter = torch.full((len(normal),), self.degrees / 2, device=device, dtype=torch.float64)
        # torch.distributions.Gamma takes no generator; this is the function that it calls.
        gamma = torch._standard_gamma(shape_parameter, generator=generator)
        stretch = self.scale * torch.sqrt(self.degrees / (2 * gamma))
        return normal * stretch.to(dtype).reshape((-1,) + (1,) * (normal.ndim - 1))

    def log_density(self, x0: Tensor, cond: Cond | None = None) -> Tensor:
        """log p(x0) (B,), the multivariate t over a sample's N entries."""
        flat, degrees = x0.flatten(1), self.degrees
        entries = flat.shape[1]
        constant = math.lgamma((entries + degrees) / 2) - math.lgamma(degrees / 2)
        constant -= entries * (math.log(degrees * math.pi) / 2 + math.log(self.scale))
        return constant - (entries + degrees) / 2 * torch.log1p(flat.square().sum(1) / (degrees * self.scale**2))


class Empirical:
    """x0 is a row of a data set, drawn uniformly with replacement: transfer from one data set to another.

    Args:
        states: (n, ...), n at least 1.

    Raises:
        ConfigError: no rows.
    """

    def __init__(self, states: Tensor) -> None:
        if states.ndim < 1 or len(states) == 0:
            raise ConfigError(f"Empirical source has states of shape {tuple(states.shape)}; it needs at least one row")
        self.states = states

    def __call__(
        self,
        shape: Shape,
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """Rows, of the given shape.

        Raises:
            ConfigError: the rows have another shape.
        """
        wanted = _one_shape(shape)
        if wanted[1:] != tuple(self.states.shape[1:]):
            raise ConfigError(
                f"Empirical source has rows {tuple(self.states.shape[1:])}; the flow asks for {wanted[1:]}"
            )
        rows = torch.randint(len(self.states), wanted[:1], generator=generator, device=device)
        return self.states[rows.to(self.states.device)].to(device, dtype)


class Prior:
    """x0 from a space's own prior, as a source: for a part of a product state, next to other sources.

    Args:
        space: whose prior.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def __call__(
        self,
        shape: Shape,
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> State:
        """x0 of the given shape."""
        state: State = self.space.sample_prior(shape, generator, device=device, dtype=dtype)
        return state

    def log_density(self, x0: Any, cond: Cond | None = None) -> Tensor:
        """The prior's log-density (B,).

        Raises:
            ConversionError: the space defines none.
        """
        return self.space.log_prior(x0)


class Components:
    """Independent sources for the parts of a product state, for example `Components(place=Gaussian(), turn=Prior(SO3()))`.

    Args:
        sources: name -> source.
    """

    def __init__(self, **sources: Source) -> None:
        self.sources = sources

    def __call__(
        self,
        shape: Shape,
        *,
        cond: Cond,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        """x0, a dict with one entry a component.

        Raises:
            ConfigError: the shape is not a dict of the same names.
        """
        if not isinstance(shape, dict) or set(shape) != set(self.sources):
            seen = sorted(shape) if isinstance(shape, dict) else shape
            raise ConfigError(f"the state has components {seen}; the source has {sorted(self.sources)}")
        drawn: dict[str, Tensor] = {}
        for name, source in self.sources.items():
            part = source(shape[name], cond=cond, generator=generator, device=device, dtype=dtype)
            if isinstance(part, dict):
                raise ConfigError(f"source {name!r} drew a dict with {sorted(part)}; a component is one tensor")
            drawn[name] = part
        return drawn

    def log_density(self, x0: dict[str, Tensor], cond: Cond | None = None) -> Tensor:
        """Sum of the components' log-densities (B,).

        Raises:
            ConversionError: a component's source has none.
        """
        return torch.stack([log_density(source, x0[name], cond) for name, source in self.sources.items()]).sum(0)


def _one_shape(shape: Shape) -> tuple[int, ...]:
    if isinstance(shape, dict):
        raise ConfigError(f"this source draws one tensor; the state has components {sorted(shape)}: use Components")
    return tuple(shape)


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)
