"""Jacobians of fields by reverse mode: row products, the whole matrix, and its trace, exact or from random probes.

Reverse mode alone, because fused attention and several convolutions have no forward mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rectiflow.batch import State, batch_size, device_of, dtype_of, parts
from rectiflow.errors import ConfigError

DIVERGENCES = ("exact", "hutchinson", "hutch++")
PROBES = ("rademacher", "gaussian")
CHUNK = 64


@dataclass(frozen=True)
class Linearisation:
    """A field evaluated at a state, ready to be differentiated there; no sample may depend on another one.

    Attributes:
        point: (B, d) state with all axes joined, components in the order of their names.
        value: (B, d) the field there, joined alike.
        output: the field there, of the state's form; detached unless differentiable.
        differentiable: whether products can be differentiated themselves.
        chunk: vectors that go through the network's backward pass at once; 1 needs no batching rule of any operation.
    """

    point: Tensor
    value: Tensor
    output: Any
    differentiable: bool
    chunk: int = CHUNK

    def pull(self, vectors: Tensor) -> Tensor:
        """Products w^T J, (K, B, d), of vectors w (K, B, d) with each sample's Jacobian."""
        if not self.value.requires_grad:  # a field without parameters that ignores its state
            return torch.zeros_like(vectors)
        products = []
        for some in torch.split(vectors, self.chunk):
            (product,) = torch.autograd.grad(
                self.value,
                self.point,
                some if len(some) > 1 else some[0],
                retain_graph=True,
                create_graph=self.differentiable,
                allow_unused=True,
                is_grads_batched=len(some) > 1,
            )
            products.append(torch.zeros_like(some) if product is None else product.reshape(some.shape))
        return torch.cat(products)


def linearise(
    field: Callable[[Any], Any], x: State, *, differentiable: bool = False, chunk: int = CHUNK
) -> Linearisation:
    """Evaluate a field (state -> state) at x (B, ...), recording what its Jacobian needs.

    Raises:
        ConfigError: chunk < 1.
    """
    if chunk < 1:
        raise ConfigError(f"chunk is {chunk}; allowed: an integer of at least 1")
    with torch.enable_grad():
        point = _join(x)
        if not (differentiable and point.requires_grad):
            point = point.detach().requires_grad_()
        output = field(_split(point, x))
        value = _join(output)
    return Linearisation(point, value, output if differentiable else _detach(output), differentiable, chunk)


def jacobian(field: Callable[[Any], Any], x: State, *, differentiable: bool = False, chunk: int = CHUNK) -> Tensor:
    """J[b, i, j] = d field_i / d x_j, (B, d, d), in the joined coordinates of `Linearisation`."""
    at = linearise(field, x, differentiable=differentiable, chunk=chunk)
    rows = torch.eye(at.point.shape[1], dtype=at.value.dtype, device=at.value.device)
    return at.pull(rows[:, None].expand(-1, len(at.point), -1)).transpose(0, 1)


class Trace(Protocol):
    """Trace (B,) of each sample's Jacobian; a batch of twice the rows (guidance) sees the same probes twice."""

    def __call__(self, at: Linearisation) -> Tensor:
        """The trace at a point."""


def exact_trace(at: Linearisation) -> Tensor:
    """Sum of all d diagonal entries, one product each, `chunk` of them at a time."""
    size, dimension = at.point.shape
    total = torch.zeros(size, dtype=_precise(at.point.dtype), device=at.point.device)
    for start in range(0, dimension, at.chunk):
        count = min(at.chunk, dimension - start)
        rows = torch.zeros(count, 1, dimension, dtype=at.value.dtype, device=at.value.device)
        rows[:, 0, start : start + count].fill_diagonal_(1)
        products = at.pull(rows.expand(-1, size, -1))[:, :, start : start + count]
        total = total + products.diagonal(dim1=0, dim2=2).to(total.dtype).sum(-1)
    return total


@dataclass(frozen=True)
class Hutchinson:
    """Mean of e^T J e over fixed probes (P, B, d) with E[e e^T] = I: unbiased (FFJORD, arXiv 1810.01367).

    With S = (J + J^T) / 2 one probe has variance 2 (|S|_F^2 - sum S_ii^2) for Rademacher and 2 |S|_F^2 for Gaussian entries.
    """

    probes: Tensor

    def __call__(self, at: Linearisation) -> Tensor:
        """The estimate at a point."""
        return _quadratic(at, _rows(self.probes, at)).mean(0)


@dataclass(frozen=True)
class HutchPlusPlus:
    """Trace on the range of a sketch, exactly, and Hutchinson on what is left (arXiv 2010.09649, algorithm 1).

    K sketch vectors and K probes, 3 K products in all; exact when the Jacobian's rank is at most K. The basis is not
    differentiated: for any fixed basis the estimate, and so its gradient, is unbiased.
    """

    sketch: Tensor
    probes: Tensor

    def __call__(self, at: Linearisation) -> Tensor:
        """The estimate at a point."""
        image = at.pull(_rows(self.sketch, at)).detach()
        basis = torch.linalg.qr(image.permute(1, 2, 0).to(_precise(image.dtype))).Q.to(image.dtype)  # (B, d, k)
        probes = _rows(self.probes, at).permute(1, 2, 0)
        rest = probes - basis @ (basis.mT @ probes)
        return _quadratic(at, basis.permute(2, 0, 1)).sum(0) + _quadratic(at, rest.permute(2, 0, 1)).mean(0)


def trace_estimator(
    name: str, like: State, *, probes: int = 1, probe: str = "rademacher", generator: torch.Generator | None = None
) -> Trace:
    """The trace of that name, with its probes drawn: they stay the same for as long as it is used.

    Args:
        name: exact | hutchinson | hutch++.
        like: a state (B, ...).
        probes: probes a sample; for hutch++ also the sketch's size.
        probe: rademacher (less variance) | gaussian.
        generator: source of the probes; exact draws nothing.

    Raises:
        ConfigError: an unknown name or law, fewer than one probe, or no generator to draw them from.
    """
    if name not in DIVERGENCES:
        raise ConfigError(f"divergence is {name!r}; allowed: {', '.join(DIVERGENCES)}")
    if probe not in PROBES:
        raise ConfigError(f"probe is {probe!r}; allowed: {', '.join(PROBES)}")
    if probes < 1:
        raise ConfigError(f"probes is {probes}; allowed: an integer of at least 1")
    if name == "exact":
        return exact_trace
    if generator is None:
        raise ConfigError(f"divergence {name!r} draws random probes and got no generator; pass generator=")
    count = probes if name == "hutchinson" else 2 * probes
    drawn = _draw(probe, (count, batch_size(like), _join(like).shape[1]), like, generator)
    return Hutchinson(drawn) if name == "hutchinson" else HutchPlusPlus(drawn[:probes], drawn[probes:])


def _draw(probe: str, shape: tuple[int, int, int], like: State, generator: torch.Generator) -> Tensor:
    options: dict[str, Any] = {"generator": generator, "device": device_of(like), "dtype": dtype_of(like)}
    if probe == "gaussian":
        return torch.randn(shape, **options)
    return 2 * torch.randint(0, 2, shape, **options) - 1


def _quadratic(at: Linearisation, vectors: Tensor) -> Tensor:
    """w^T J w, (K, B), of vectors w (K, B, d)."""
    products = at.pull(vectors)
    precise = _precise(products.dtype)
    return (products.to(precise) * vectors.to(precise)).sum(-1)


def _rows(vectors: Tensor, at: Linearisation) -> Tensor:
    return vectors.repeat(1, len(at.point) // vectors.shape[1], 1)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Half precision cannot hold a sum of thousands of terms."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _join(state: State) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in parts(state)], dim=1)


def _split(flat: Tensor, like: State) -> Any:
    if not isinstance(like, dict):
        return flat.reshape(like.shape)
    names = sorted(like)
    pieces = torch.split(flat, [like[name][0].numel() for name in names], dim=1)
    return {name: piece.reshape(like[name].shape) for name, piece in zip(names, pieces, strict=True)}


def _detach(state: Any) -> Any:
    return {name: part.detach() for name, part in state.items()} if isinstance(state, dict) else state.detach()
