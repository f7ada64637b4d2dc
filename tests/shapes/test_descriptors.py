"""Descriptors that rotations leave alone and shapes do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from e3nn import o3
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow.spaces.quaternions import rotate
from rectiflow.spaces.so3 import SO3
from rectiflow_shapes.descriptors import power_spectrum


@pytest.fixture
def float64() -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which e3nn keeps the constants of its matrices
    yield
    torch.set_default_dtype(previous)


def clouds(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 500, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.4, 0.2, 0.1])


def turned(points: Tensor, generator: torch.Generator) -> Tensor:
    turn = SO3().sample_prior((len(points), 4), generator, dtype=points.dtype)
    return rotate(turn[:, None], points)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_rotations_and_translations_change_nothing(
    generator: torch.Generator, dtype: torch.dtype, tolerance: float
) -> None:
    points = clouds(generator)
    moved = turned(points, generator) + torch.tensor([0.3, -0.2, 0.1])
    plain = power_spectrum(points.to(dtype))
    assert plain.shape == (3, 40)
    torch.testing.assert_close(power_spectrum(moved.to(dtype)), plain, atol=tolerance, rtol=0)


def test_mirror_images_share_a_descriptor_but_other_shapes_do_not(generator: torch.Generator) -> None:
    points = clouds(generator)
    plain = power_spectrum(points)
    torch.testing.assert_close(power_spectrum(points * torch.tensor([-1.0, 1.0, 1.0])), plain)
    round_ones = power_spectrum(torch.randn(3, 500, 3, generator=generator, dtype=torch.float64) * 0.25)
    assert (round_ones - plain).norm(dim=1).min() > 5 * (plain - plain.mean(0)).norm(dim=1).max()


def test_two_opposite_points_have_the_powers_of_legendre_polynomials() -> None:
    # Degree l of a pair on an axis: sum over the pair of P_l(+-1), by the addition theorem; odd degrees cancel.
    spectrum = power_spectrum(torch.tensor([[[0.0, 0.0, 0.8], [0.0, 0.0, -0.8]]], dtype=torch.float64)).reshape(8, 5)
    between = 0.8 / (1.6 / 7)  # the radius in shells: between the third and the fourth, at equal parts
    assert between == pytest.approx(3.5)
    expected = torch.zeros(8, 5, dtype=torch.float64)
    expected[3:5] = torch.tensor([0.5, 0, 0.5, 0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(spectrum, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_e3nn_harmonics_turn_by_its_own_matrices(
    generator: torch.Generator, dtype: torch.dtype, tolerance: float
) -> None:
    turn = o3.quaternion_to_matrix(SO3().sample_prior((1, 4), generator, dtype=torch.float64))[0]
    points = clouds(generator)[0].to(dtype)
    for degree in range(5):
        irrep = o3.Irrep(degree, (-1) ** degree)
        matrix = irrep.D_from_matrix(turn)
        before = o3.spherical_harmonics(degree, points, normalize=True)
        after = o3.spherical_harmonics(degree, points @ turn.T.to(dtype), normalize=True)
        torch.testing.assert_close(after, before @ matrix.T.to(dtype), atol=tolerance, rtol=0)


def test_points_that_are_no_clouds_are_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        power_spectrum(torch.zeros(5, 3))
