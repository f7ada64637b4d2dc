from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import grid_coordinates
from rectiflow.nn.rotary import rotary_table, rotate


def _coordinates(*pairs: tuple[int, int]) -> Tensor:
    return torch.tensor(pairs)


def test_rotation_matches_complex_multiplication(generator: torch.Generator) -> None:
    x = torch.randn(1, 1, 1, 8, generator=generator)
    row, column = 3, 5
    turned = torch.view_as_complex(rotate(x, rotary_table(_coordinates((row, column)), 8)).view(4, 2))
    pairs = torch.view_as_complex(x.view(4, 2))
    # Two frequencies an axis, 1 and 10000^(-1/2).
    for i, angle in enumerate((row, row * 0.01, column, column * 0.01)):
        expected = pairs[i] * complex(math.cos(angle), math.sin(angle))
        torch.testing.assert_close(turned[i], expected)


def test_products_depend_on_coordinate_differences_only() -> None:
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 1, 1, 1, 32, generator=generator, dtype=torch.float32)
    a, b, d = torch.tensor([[2, 7]]), torch.tensor([[11, 3]]), torch.tensor([[5, 9]])

    def product(at: Tensor, by: Tensor) -> Tensor:
        tables = rotary_table(at, 32).float(), rotary_table(by, 32).float()
        return (rotate(query, tables[0]) * rotate(key, tables[1])).sum()

    assert abs(product(a, b) - product(a + d, b + d)) < 1e-4
    assert abs(product(a, b) - product(a, b + d)) > 1e-2


def test_rotation_keeps_lengths_and_leaves_the_origin(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 6, 16, generator=generator)
    turned = rotate(x, rotary_table(grid_coordinates(2, 3), 16))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])


def test_coordinates_may_differ_between_samples(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 16, generator=generator)
    grids = torch.stack([grid_coordinates(2, 2), grid_coordinates(1, 4)])
    together = rotate(x, rotary_table(grids, 16))
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], rotate(x[i : i + 1], rotary_table(grids[i], 16)))


@pytest.mark.parametrize("extrapolation", ["linear", "ntk", "yarn"])
def test_extrapolation_at_the_trained_length_changes_nothing(extrapolation: str) -> None:
    plain = rotary_table(grid_coordinates(4, 4), 32)
    torch.testing.assert_close(rotary_table(grid_coordinates(4, 4), 32, extrapolation=extrapolation), plain)


def _angles(extrapolation: str, scale: float) -> Tensor:
    table = rotary_table(_coordinates((1, 0)), 32, scale=scale, extrapolation=extrapolation)
    return torch.atan2(table[1], table[0])[0, :8]


def test_extrapolation_slows_the_slowest_frequency_by_the_scale() -> None:
    """Linear slows all alike; NTK keeps the fastest; YaRN too where it turns often enough over a long training grid."""
    plain = _angles("none", 1.0)
    torch.testing.assert_close(_angles("linear", 2.0), plain / 2)
    ntk = _angles("ntk", 2.0)
    torch.testing.assert_close(ntk[[0, -1]], torch.stack([plain[0], plain[-1] / 2]))
    assert (ntk[1:-1] < plain[1:-1]).all()
    assert (ntk[1:-1] > plain[1:-1] / 2).all()


def test_yarn_slows_what_turns_less_than_once_over_the_trained_length() -> None:
    length, scale = 4096, 4.0
    table = rotary_table(_coordinates((1, 0)), 32, scale=scale, extrapolation="yarn", trained_length=length)[:, 0, :8]
    torch.testing.assert_close(table.square().sum(0), torch.full((8,), (0.1 * math.log(scale) + 1) ** 2))
    plain = 10000 ** (-torch.arange(8) / 8)
    slowing = torch.atan2(table[1], table[0]) / plain
    turns = length * plain / (2 * math.pi)
    torch.testing.assert_close(slowing[turns > 32], torch.ones(3))
    torch.testing.assert_close(slowing[turns < 0.5], torch.full((1,), 1 / scale))
    # The 32-turn and the one-turn pair lie at 2.6 and 5.6, widened to 2 and 6: pair 4 is half slowed.
    assert slowing[4].item() == pytest.approx((1 + 1 / scale) / 2)
    assert (slowing.diff() <= 1e-12).all()


def test_rotary_errors() -> None:
    with pytest.raises(ConfigError, match="6"):
        rotary_table(grid_coordinates(2, 2), 6)
    with pytest.raises(ConfigError, match=r"0\.5"):
        rotary_table(grid_coordinates(2, 2), 8, scale=0.5)
