"""Measurement operators against their definitions, adjoints, and the solve that PiGDM needs."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from rectiflow.control import Measurement, blurring, downsampling, inpainting
from rectiflow.control.measurement import Operator
from rectiflow.errors import ConfigError, ConvergenceError

KNOWN = torch.zeros(2, 8, 8, dtype=torch.bool)
KNOWN[:, :3] = True
OPERATORS = {"inpainting": inpainting(KNOWN), "downsampling": downsampling(2), "blurring": blurring(0.8)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrix(operator: Operator, like: Tensor) -> Tensor:
    """A, by applying it to the unit vectors."""
    units = torch.eye(like[0].numel()).reshape(-1, *like.shape[1:])
    return operator(units).flatten(1).mT


def test_inpainting_picks_the_known_entries_in_order() -> None:
    x = torch.arange(8.0).reshape(2, 4)
    assert inpainting(torch.tensor([True, False, False, True]))(x).tolist() == [[0, 3], [4, 7]]


def test_downsampling_is_the_mean_of_each_block() -> None:
    x = normal(2, 3, 4, 6)
    expected = torch.stack(
        [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for i in range(2) for j in range(3)], -1
    )
    torch.testing.assert_close(downsampling(2)(x).flatten(2), expected)


def test_blurring_equals_scipys() -> None:
    x = normal(1, 2, 12, 10)
    expected = ndimage.gaussian_filter(x.numpy(), sigma=(0, 0, 1.1, 1.1), mode="wrap", radius=math.ceil(3.3))
    torch.testing.assert_close(blurring(1.1)(x), torch.from_numpy(expected))


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_is_the_transposed_matrix(name: str) -> None:
    operator, x = OPERATORS[name], normal(2, 2, 8, 8)
    r = normal(*operator(x).shape, seed=1)
    transposed = (matrix(operator, x).mT @ r.flatten(1).mT).mT.reshape(x.shape)
    torch.testing.assert_close(Measurement(operator, r).adjoint(r, x), transposed)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_whitening_solves_the_linear_system(name: str, noise: float) -> None:
    operator, x = OPERATORS[name], normal(2, 2, 8, 8)
    r = normal(*operator(x).shape, seed=1)
    a = matrix(operator, x)
    expected = torch.linalg.solve(0.7 * a @ a.mT + noise**2 * torch.eye(len(a)), r.flatten(1).mT).mT
    found = Measurement(operator, r, noise).whiten(r, 0.7, x, rtol=1e-12)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-8, atol=1e-8)


def test_rows_that_are_done_stay_done() -> None:
    """One row has nothing to solve, one is an eigenvector, one needs every direction."""
    scale = torch.tensor([1.0, 2.0, 3.0])
    r = torch.stack([torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]), torch.ones(3)])
    found = Measurement(lambda x: x * scale, r).whiten(r, 1.0, r, rtol=1e-12)
    torch.testing.assert_close(found, r / scale.square())


def test_an_exact_measurement_that_contradicts_itself_is_named() -> None:
    r = torch.tensor([[1.0, -1.0]])
    with pytest.raises(ConvergenceError, match="some noise"):
        Measurement(lambda x: torch.cat([x, x], 1), r).whiten(r, 1.0, torch.zeros(1, 1))


def test_misfit_potential_and_excess() -> None:
    """y = (x_1 + x_2, x_3) = (3, 0) with noise 0.5, seen from (1, 1, 2): residuals -1 and 2."""
    measured = Measurement(lambda x: torch.stack([x[:, 0] + x[:, 1], x[:, 2]], 1), torch.tensor([[3.0, 0.0]]), 0.5)
    x = torch.tensor([[1.0, 1.0, 2.0], [3.0, 0.0, 0.1]])
    torch.testing.assert_close(measured.misfit(x), torch.tensor([2.5, 0.005]))
    torch.testing.assert_close(measured.potential(x), torch.tensor([10.0, 0.02]))
    torch.testing.assert_close(measured.excess(x), torch.tensor([(5**0.5 - 0.5 * 2**0.5) ** 2 / 2, 0.0]))
    normal_law = torch.distributions.Normal(0.0, 0.5)
    log_ratio = (
        normal_law.log_prob(torch.tensor([-1.0, 2.0])).sum() - normal_law.log_prob(torch.tensor([0.0, 0.1])).sum()
    )
    torch.testing.assert_close(measured.potential(x)[1] - measured.potential(x)[0], log_ratio)


def test_mistakes_are_named() -> None:
    x = torch.zeros(3, 1, 5, 5)
    with pytest.raises(ConfigError, match=r"-0\.1"):
        Measurement(downsampling(2), x, -0.1)
    with pytest.raises(ConfigError, match="noise 0"):
        Measurement(blurring(1.0), x).potential(x)
    with pytest.raises(ConfigError, match=r"\(3, 1, 5, 5\).*\(2, 1, 5, 5\)"):
        Measurement(lambda x: x, torch.zeros(2, 1, 5, 5)).misfit(x)
    with pytest.raises(ConfigError, match=r"\(3, 1, 5, 5\).*multiples"):
        downsampling(2)(x)
    with pytest.raises(ConfigError, match="reaches 6"):
        blurring(2.0)(x)
    for call in (lambda: downsampling(1), lambda: blurring(0.0), lambda: inpainting(torch.zeros(3, dtype=torch.bool))):
        with pytest.raises(ConfigError):
            call()
