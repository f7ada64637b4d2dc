from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import grid_coordinates
from rectiflow_images.transformer import Transformer, patchify, unpatchify

SWITCHES = [
    pytest.param({"positions": "sincos", "qk_norm": False, "mlp": "gelu"}, id="dit"),
    pytest.param({"positions": "sincos", "qk_norm": True, "mlp": "gelu"}, id="sit-qk-norm"),
    pytest.param({"positions": "rope", "qk_norm": True, "mlp": "swiglu"}, id="fit"),
]


@pytest.fixture(autouse=True)
def single(float32: None) -> None:
    """Networks are tested in the dtype that they train in."""


def _small(switches: dict[str, Any] | None = None, **other: Any) -> Transformer:
    arguments: dict[str, Any] = {
        "channels": 1,
        "size": 8,
        "classes": 3,
        "patch": 2,
        "width": 16,
        "depth": 2,
        "heads": 2,
    }
    generator = torch.Generator().manual_seed(0)
    return Transformer(**(arguments | (switches or {}) | other), generator=generator)


def _perturbed(network: Transformer) -> Transformer:
    """Move every weight off its first value, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def _inputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(3, *shape, generator=generator), torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0, 2, 3])


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (12, 4)])
def test_patches_round_trip(patch: int, height: int, width: int, generator: torch.Generator) -> None:
    images = torch.randn(2, 3, height, width, generator=generator)
    tokens = patchify(images, patch)
    assert tokens.shape == (2, height * width // patch**2, 3 * patch**2)
    assert torch.equal(unpatchify(tokens, patch, height // patch), images)


def test_patches_are_laid_out_row_by_row_channels_first() -> None:
    images = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    tokens = patchify(images, 2)
    # The fourth token is the first patch of the second row of patches.
    assert torch.equal(tokens[0, 3], images[0, :, 2:4, 0:2].flatten())
    assert torch.equal(tokens[0, 2], images[0, :, 0:2, 4:6].flatten())


@pytest.mark.parametrize("switches", SWITCHES)
def test_output_is_zero_and_blocks_are_the_identity_before_training(
    switches: dict[str, Any], generator: torch.Generator
) -> None:
    network = _small(switches)
    assert network(*_inputs(1, 8, 8)).abs().max() == 0
    x, condition = torch.randn(2, 16, 16, generator=generator), torch.randn(2, 16, generator=generator)
    for block in network.blocks:
        rotary = network.table if switches["positions"] == "rope" else None
        assert (block(x, condition, rotary=rotary) - x).abs().max() <= 1e-6


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize(("size", "patch"), [(8, 4), ((8, 12), 2), ((3, 5), 1)])
def test_shapes(switches: dict[str, Any], size: int | tuple[int, int], patch: int) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    network = _perturbed(_small(switches, channels=2, size=size, patch=patch))
    x, t, label = _inputs(2, height, width)
    velocity = network(x, t, label)
    assert velocity.shape == x.shape
    assert velocity.isfinite().all()


@pytest.mark.parametrize("switches", SWITCHES)
def test_gradients_reach_every_parameter(switches: dict[str, Any]) -> None:
    network = _perturbed(_small(switches))
    network(*_inputs(1, 8, 8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("switches", SWITCHES)
def test_positions_matter(switches: dict[str, Any]) -> None:
    """Without positions, moving patches about would only move the output about."""
    network = _perturbed(_small(switches))
    x, t, label = _inputs(1, 8, 8)
    base, flipped = network(x, t, label), network(x.roll(4, dims=3), t, label).roll(4, dims=3)
    assert (base - flipped).abs().max() > 1e-3
    transposed = network(x.transpose(2, 3), t, label).transpose(2, 3)
    assert (base - transposed).abs().max() > 1e-3


@pytest.mark.parametrize("switches", SWITCHES)
def test_other_sizes_than_the_trained_one_are_accepted(switches: dict[str, Any]) -> None:
    native, other = _perturbed(_small(switches, size=(4, 12))), _perturbed(_small(switches, size=8))
    inputs = _inputs(1, 4, 12)
    torch.testing.assert_close(other(*inputs), native(*inputs))


@pytest.mark.parametrize("switches", SWITCHES)
def test_other_precisions(switches: dict[str, Any]) -> None:
    network = _perturbed(_small(switches))
    x, t, label = _inputs(1, 8, 8)
    single = network(x, t, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (network(x, t, label) - single).norm() < 0.05 * single.norm()
    torch.testing.assert_close(network.double()(x.double(), t.double(), label).float(), single, atol=1e-4, rtol=1e-4)


def test_label_table_has_a_null_row() -> None:
    network = _perturbed(_small())
    x, t, _ = _inputs(1, 8, 8)
    outputs = [network(x, t, torch.full((3,), label)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().max() > 1e-4
    with pytest.raises(IndexError):
        network(x, t, torch.full((3,), 4))


def test_unconditional_network_takes_no_label() -> None:
    network = _perturbed(_small(classes=0))
    x, t, label = _inputs(1, 8, 8)
    assert network(x, t).shape == x.shape
    with pytest.raises(ConfigError, match="label"):
        network(x, t, label)
    with pytest.raises(ConfigError, match="label"):
        _small()(x, t)


class TestPacking:
    """Two images, of 16 and of 25 tokens, side by side in one row, with padding behind them."""

    @pytest.fixture(params=SWITCHES)
    def network(self, request: pytest.FixtureRequest) -> Transformer:
        return _perturbed(_small(request.param))

    def _rows(self, network: Transformer) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(3)
        grids = [grid_coordinates(4, 4), grid_coordinates(5, 5)]
        tokens = [torch.randn(1, len(grid), 4, generator=generator) for grid in grids]
        conditions = network.condition(torch.tensor([0.2, 0.7]), torch.tensor([0, 2]))
        return grids, tokens, [condition[None] for condition in conditions]

    def _packed(self, network: Transformer, pads: int, filler: float = 0.0) -> tuple[Tensor, Tensor]:
        grids, tokens, conditions = self._rows(network)
        coordinates = torch.cat([*grids, torch.zeros(pads, 2, dtype=torch.long)])
        packed = torch.cat([*tokens, torch.full((1, pads, 4), filler)], dim=1)
        spread = [condition.expand(len(grid), -1) for condition, grid in zip(conditions, grids, strict=True)]
        condition = torch.cat([*spread, torch.full((pads, 16), filler)])[None]
        ids = torch.tensor([[1] * 16 + [2] * 25 + [0] * pads])
        return network.forward_tokens(packed, condition, network.position_table(coordinates), ids), ids

    def test_packed_rows_equal_separate_rows(self, network: Transformer) -> None:
        packed, _ = self._packed(network, pads=0)
        alone = [
            network.forward_tokens(token, condition, network.position_table(grid))
            for grid, token, condition in zip(*self._rows(network), strict=True)
        ]
        assert (packed - torch.cat(alone, dim=1)).abs().max() < 1e-5
        assert alone[0].abs().max() > 1e-2

    def test_padding_changes_nothing(self, network: Transformer) -> None:
        base, _ = self._packed(network, pads=0)
        for filler in (0.0, 100.0):
            padded, ids = self._packed(network, pads=7, filler=filler)
            assert (padded[ids > 0] - base[0]).abs().max() < 1e-6
            assert padded[ids == 0].abs().max() == 0

    def test_rows_may_have_their_own_grids(self, network: Transformer) -> None:
        """Coordinates (B, N, 2): a 4x4 image padded to 25 tokens beside a 5x5 image."""
        grids, tokens, conditions = self._rows(network)
        coordinates = torch.stack([torch.cat([grids[0], torch.zeros(9, 2, dtype=torch.long)]), grids[1]])
        batch = torch.cat([torch.cat([tokens[0], torch.ones(1, 9, 4)], dim=1), tokens[1]])
        ids = torch.tensor([[1] * 16 + [0] * 9, [1] * 25])
        together = network.forward_tokens(batch, torch.cat(conditions), network.position_table(coordinates), ids)
        for i, count in enumerate((16, 25)):
            alone = network.forward_tokens(tokens[i], conditions[i], network.position_table(grids[i]))
            assert (together[i, :count] - alone[0]).abs().max() < 1e-5


def test_same_seed_same_weights_without_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, second = _small(), _small()
    assert torch.equal(torch.get_rng_state(), before)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"patch": 3}, "3"),
        ({"patch": 0}, "patch is 0"),
        ({"size": (8, 6), "patch": 4}, "8x6"),
        ({"heads": 5}, "heads is 5"),
        ({"positions": "learned"}, "learned"),
        ({"mlp": "relu"}, "relu"),
        ({"depth": 0}, "depth is 0"),
        ({"classes": -1}, "-1"),
        ({"width": 18}, "18"),
        ({"width": 12, "positions": "rope"}, "6"),
    ],
)
def test_constructor_names_the_bad_value(arguments: dict[str, Any], seen: str) -> None:
    with pytest.raises(ConfigError, match=seen):
        _small(arguments)


def test_call_names_the_bad_image() -> None:
    with pytest.raises(ConfigError, match="8x7"):
        _small()(torch.zeros(1, 1, 8, 7), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ConfigError, match="2 channels"):
        _small()(torch.zeros(1, 2, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
