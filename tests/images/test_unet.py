from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectiflow.errors import ConfigError
from rectiflow_images.unet import AttentionBlock, ResidualBlock, UNet


@pytest.fixture(autouse=True)
def single(float32: None) -> None:
    """Networks are tested in the dtype that they train in."""


def _perturbed(network: nn.Module) -> nn.Module:
    """Move every weight off its first value, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def _inputs(channels: int, height: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, channels, height, width, generator=generator)
    return x, torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0, classes - 1, classes])


def test_output_is_zero_before_training(generator: torch.Generator) -> None:
    x, t, label = _inputs(1, 8, 8, 10)
    assert UNet(1, 8, 10, generator=generator)(x, t, label).abs().max() == 0


@pytest.mark.parametrize(
    ("channels", "size", "multipliers", "attention"),
    [(1, 8, (1, 2), None), (3, (8, 12), (1, 2, 2), (2, 8)), (1, 28, (1, 1, 2), ()), (2, 5, (1,), (5,))],
)
def test_shapes(
    channels: int,
    size: int | tuple[int, int],
    multipliers: tuple[int, ...],
    attention: tuple[int, ...] | None,
    generator: torch.Generator,
) -> None:
    network = UNet(channels, size, 4, 8, multipliers, 1, attention, head_width=4, generator=generator)
    x, t, label = _inputs(channels, *((size, size) if isinstance(size, int) else size), 4)
    velocity = _perturbed(network)(x, t, label)
    assert velocity.shape == x.shape
    assert velocity.isfinite().all()


def test_default_network_is_small(generator: torch.Generator) -> None:
    count = sum(parameter.numel() for parameter in UNet(1, 8, 10, generator=generator).parameters())
    assert 600_000 < count < 700_000


@pytest.mark.parametrize(("attention", "blocks"), [(None, 1), ((), 0), ((4,), 5), ((4, 8), 9)])
def test_attention_at_the_listed_resolutions(
    attention: tuple[int, ...] | None, blocks: int, generator: torch.Generator
) -> None:
    """Two blocks a level and way give four attending stages a level, and the coarsest brings the middle along."""
    network = UNet(1, 8, attention=attention, blocks=2, generator=generator)
    assert sum(isinstance(module, AttentionBlock) for module in network.modules()) == blocks


def test_skips_carry_every_encoder_block(generator: torch.Generator) -> None:
    """The blocks on the way up read those on the way down, last one first."""
    network = _perturbed(UNet(1, 8, blocks=2, width=8, head_width=8, generator=generator))
    x, t, _ = _inputs(1, 8, 8, 1)
    seen: list[Tensor] = []
    read: list[Tensor] = []
    for stage, joins in zip(network.encoder, network.joins, strict=True):
        if joins:
            stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    network(x, t)
    joined = [values for values, joins in zip(read, network.joins, strict=True) if joins]
    assert len(seen) == len(joined) == 4
    for left, taken in zip(reversed(seen), joined, strict=True):
        assert torch.equal(taken[:, taken.shape[1] // 2 :], left)


def test_gradients_reach_every_parameter(generator: torch.Generator) -> None:
    network = _perturbed(UNet(1, 8, 3, 16, attention=(4, 8), head_width=8, generator=generator))
    x, t, label = _inputs(1, 8, 8, 3)
    network(x, t, label).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_label_table_has_a_null_row(generator: torch.Generator) -> None:
    network = _perturbed(UNet(1, 8, 3, 16, generator=generator))
    x, t, _ = _inputs(1, 8, 8, 3)
    outputs = [network(x, t, torch.full((3,), label)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().max() > 1e-4
    with pytest.raises(IndexError):
        network(x, t, torch.full((3,), 4))


def test_output_depends_on_time_and_far_pixels(generator: torch.Generator) -> None:
    network = _perturbed(UNet(1, 8, generator=generator))
    x, t, _ = _inputs(1, 8, 8, 1)
    base = network(x, t)
    assert (network(x, t + 0.1) - base).abs().max() > 1e-3
    moved = x.clone()
    moved[:, :, 0, 0] += 1
    assert (network(moved, t) - base)[:, :, 7, 7].abs().min() > 1e-6


def test_samples_of_a_batch_do_not_mix(generator: torch.Generator) -> None:
    network = _perturbed(UNet(1, 8, 3, 16, generator=generator))
    x, t, label = _inputs(1, 8, 8, 3)
    together = network(x, t, label)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_same_seed_same_weights_without_the_global_generator() -> None:
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        networks.append(UNet(1, 8, 10, generator=torch.Generator().manual_seed(5)))
        assert torch.equal(torch.get_rng_state(), before)
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(first, second)


def test_other_precisions(generator: torch.Generator) -> None:
    network = _perturbed(UNet(1, 8, 3, 16, head_width=16, generator=generator))
    x, t, label = _inputs(1, 8, 8, 3)
    single = network(x, t, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (network(x, t, label) - single).norm() < 0.05 * single.norm()
    torch.testing.assert_close(network.double()(x.double(), t.double(), label).float(), single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("resample", "side"), [("none", 6), ("down", 3), ("up", 12)])
def test_residual_block_starts_as_its_shortcut(resample: str, side: int, generator: torch.Generator) -> None:
    block = ResidualBlock(4, 4, 6, resample=resample, generator=generator)
    x = torch.randn(2, 4, 6, 6, generator=generator)
    output = block(x, torch.randn(2, 6, generator=generator))
    expected = {
        "none": x,
        "down": x.reshape(2, 4, 3, 2, 3, 2).mean((3, 5)),
        "up": x.repeat_interleave(2, -1).repeat_interleave(2, -2),
    }[resample]
    assert output.shape == (2, 4, side, side)
    torch.testing.assert_close(output, expected)


def test_residual_block_scales_by_one_plus_and_shifts(generator: torch.Generator) -> None:
    """With both convolutions the identity the block is x + silu(norm(silu(norm(x))) (1 + scale) + shift)."""
    block = ResidualBlock(4, 4, 1, generator=generator)
    with torch.no_grad():
        for convolution in (block.conv_in, block.conv_out):
            nn.init.dirac_(convolution.weight)
        block.modulation.weight.zero_()
        block.modulation.bias.copy_(torch.tensor([0.5] * 4 + [-2.0] * 4))
    x = torch.randn(1, 4, 3, 3, generator=generator)

    def normalised(values: Tensor) -> Tensor:
        groups = values.reshape(1, block.norm_in.num_groups, -1)
        return ((groups - groups.mean(2, keepdim=True)) / groups.std(2, keepdim=True, correction=0)).reshape(x.shape)

    def silu(values: Tensor) -> Tensor:
        return values / (1 + torch.exp(-values))

    expected = x + silu(normalised(silu(normalised(x))) * 1.5 - 2.0)
    torch.testing.assert_close(block(x, torch.zeros(1, 1)), expected, atol=1e-4, rtol=1e-4)


def test_attention_block_commutes_with_permutations_of_pixels(generator: torch.Generator) -> None:
    block = _perturbed(AttentionBlock(8, head_width=4, generator=generator))
    x = torch.randn(2, 8, 3, 4, generator=generator)
    order = torch.randperm(12, generator=generator)
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(block(shuffled), block(x).flatten(2)[..., order].reshape(x.shape))
    assert (block(x) - x).abs().max() > 1e-3


def test_attention_matches_its_definition(generator: torch.Generator) -> None:
    block = _perturbed(AttentionBlock(8, head_width=4, generator=generator))
    x = torch.randn(1, 8, 2, 3, generator=generator)
    tokens = block.norm(x)[0].flatten(1).T
    query, key, value = (tokens @ block.qkv.weight.T + block.qkv.bias).chunk(3, dim=1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(query[:, head] @ key[:, head].T / 2, dim=1)
        heads.append(weights @ value[:, head])
    gathered = torch.cat(heads, dim=1) @ block.output.weight.T + block.output.bias
    torch.testing.assert_close(block(x)[0].flatten(1).T, x[0].flatten(1).T + gathered, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"size": 28, "multipliers": (1, 2, 2, 2)}, "28x28"),
        ({"size": (8, 6), "multipliers": (1, 2, 2)}, "8x6"),
        ({"size": 0}, "0x0"),
        ({"attention": (16,)}, "16"),
        ({"multipliers": ()}, r"\(\)"),
        ({"multipliers": (1, 0)}, r"\(1, 0\)"),
        ({"head_width": 24}, "24"),
        ({"width": 0}, "width is 0"),
        ({"blocks": 0}, "blocks is 0"),
        ({"channels": -1}, "-1"),
        ({"classes": -2}, "-2"),
        ({"dropout": 1.5}, "1.5"),
    ],
)
def test_constructor_names_the_bad_value(arguments: dict[str, object], seen: str, generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match=seen):
        UNet(**({"channels": 1, "size": 8, "generator": generator} | arguments))


def test_call_names_the_bad_image_or_label(generator: torch.Generator) -> None:
    network = UNet(1, 8, generator=generator)
    x, t, label = _inputs(1, 8, 8, 1)
    with pytest.raises(ConfigError, match=r"\(3, 1, 8, 10\)"):
        network(torch.zeros(3, 1, 8, 10), t)
    with pytest.raises(ConfigError, match="label"):
        network(x, t, label)
    with pytest.raises(ConfigError, match="label"):
        UNet(1, 8, 2, generator=generator)(x, t)


def test_patches_are_folded_and_unfolded_in_place() -> None:
    network = UNet(1, (8, 12), classes=3, width=16, patch=2, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(network.output.weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(2))
    t, label = torch.tensor([0.2, 0.7]), torch.tensor([0, 3])
    velocity = network(x, t, label)
    assert velocity.shape == x.shape
    # Each patch of the output is what the network without folding makes of the patch's pixels as channels.
    inner = UNet(4, (4, 6), classes=3, width=16, generator=torch.Generator().manual_seed(0))
    inner.load_state_dict(network.state_dict())
    folded = x.unfold(2, 2, 2).unfold(3, 2, 2).reshape(2, 4, 6, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(inner(folded, t, label)[:, 1], velocity[:, 0, 0::2, 1::2])
    with pytest.raises(ConfigError, match="patch is 3"):
        UNet(1, 8, patch=3, generator=torch.Generator().manual_seed(0))
