from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import grid_coordinates
from rectiflow.nn.rotary import rotary_table
from rectiflow.nn.transformer import AdaptiveBlock, AdaptiveOutput, Attention, FeedForward, modulate, packing_mask


def _perturbed(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_block_is_the_identity_before_training(mlp: str, qk_norm: bool, generator: torch.Generator) -> None:
    block = AdaptiveBlock(16, 2, qk_norm=qk_norm, mlp=mlp, generator=generator)
    x, condition = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 16, generator=generator)
    assert (block(x, condition) - x).abs().max() <= 1e-6
    assert AdaptiveOutput(16, 3, generator=generator)(x, condition).abs().max() == 0
    assert (_perturbed(block)(x, condition) - x).abs().max() > 1e-2


def test_modulation_normalises_then_scales_by_one_plus(generator: torch.Generator) -> None:
    x = 3 + 2 * torch.randn(2, 4, 64, generator=generator)
    plain = modulate(x, torch.zeros(()), torch.zeros(()))
    torch.testing.assert_close(plain.mean(-1), torch.zeros(2, 4), atol=1e-12, rtol=0)
    torch.testing.assert_close(plain.var(-1, correction=0), torch.ones(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(modulate(x, torch.tensor(0.7), torch.tensor(0.5)), 1.5 * plain + 0.7)


def test_block_follows_its_equations(generator: torch.Generator) -> None:
    """x += g1 Attn(LN(x)(1 + sc1) + sh1), then x += g2 MLP(LN(x)(1 + sc2) + sh2), with the six in this order."""
    block = _perturbed(AdaptiveBlock(8, 2, generator=generator))
    six = torch.randn(6, 8, generator=generator)
    with torch.no_grad():
        block.modulation.weight.zero_()
        block.modulation.bias.copy_(six.flatten())
    x = torch.randn(1, 5, 8, generator=generator)
    norm = nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    middle = x + six[2] * block.attention(norm(x) * (1 + six[1]) + six[0])
    expected = middle + six[5] * block.mlp(norm(middle) * (1 + six[4]) + six[3])
    torch.testing.assert_close(block(x, torch.zeros(1, 8)), expected)


def test_output_layer_follows_its_equation(generator: torch.Generator) -> None:
    layer = _perturbed(AdaptiveOutput(8, 3, generator=generator))
    shift, scale = torch.randn(2, 8, generator=generator)
    with torch.no_grad():
        layer.modulation.weight.zero_()
        layer.modulation.bias.copy_(torch.cat([shift, scale]))
    x = torch.randn(1, 5, 8, generator=generator)
    normalised = nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)(x)
    expected = F.linear(normalised * (1 + scale) + shift, layer.output.weight, layer.output.bias)
    torch.testing.assert_close(layer(x, torch.zeros(1, 8)), expected)


def test_attention_agrees_with_torch_multihead(generator: torch.Generator) -> None:
    ours = _perturbed(Attention(12, 3, qk_norm=False, generator=generator))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    x = torch.randn(2, 7, 12, generator=generator)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("masked", [False, True])
def test_training_in_bfloat16_attends_as_in_float32(generator: torch.Generator, masked: bool) -> None:
    attention = Attention(16, 2, generator=generator).float()
    x = torch.randn(2, 9, 16, generator=generator, dtype=torch.float32)
    mask = packing_mask(torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0]] * 2)) if masked else None
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = attention(x, mask=mask)
        assert output.dtype == dtype
        torch.autograd.backward(output.float().square().sum())
        assert attention.qkv.weight.grad is not None
        found.append((output.detach().float(), attention.qkv.weight.grad.clone()))
    for exact, near in zip(*found, strict=True):
        assert float((exact - near).norm() / exact.norm()) < 0.03


def test_query_key_norm_makes_attention_blind_to_their_scale(generator: torch.Generator) -> None:
    attention = Attention(12, 3, generator=generator)
    x = torch.randn(2, 7, 12, generator=generator)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:24] *= 50
    torch.testing.assert_close(attention(x), before, atol=1e-4, rtol=1e-4)
    attention.query_norm = attention.key_norm = nn.Identity()
    assert (attention(x) - before).abs().max() > 1e-2


def test_norm_comes_before_the_rotation(generator: torch.Generator) -> None:
    """A norm weight that is not constant over the channels does not commute with a rotation."""
    attention = Attention(8, 1, generator=generator)
    with torch.no_grad():
        attention.query_norm.weight.copy_(torch.linspace(0.2, 3.0, 8))
    x = torch.randn(1, 4, 8, generator=generator)
    query, key, value = attention.qkv(x)[0].chunk(3, dim=1)
    query, key = (F.rms_norm(m, (8,), eps=1e-6) for m in (query, key))
    turn = torch.view_as_complex(rotary_table(grid_coordinates(2, 2), 8).movedim(0, -1).contiguous())

    def turned(m: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(m.reshape(4, 4, 2)) * turn).flatten(1)

    query = turned(query * torch.linspace(0.2, 3.0, 8))
    weights = torch.softmax(query @ turned(key).T / math.sqrt(8), dim=1)
    expected = attention.output(weights @ value)
    torch.testing.assert_close(attention(x, rotary=rotary_table(grid_coordinates(2, 2), 8))[0], expected)


def test_feed_forward_kinds(generator: torch.Generator) -> None:
    x = torch.randn(3, 6, generator=generator)
    plain = FeedForward(6, generator=generator)
    assert plain.input.weight.shape == (24, 6)
    hidden = x @ plain.input.weight.T
    gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(plain(x), gelu @ plain.output.weight.T)
    gated = FeedForward(6, kind="swiglu", multiple=4, generator=generator)
    gate, value = (x @ gated.input.weight.T).chunk(2, dim=1)
    torch.testing.assert_close(gated(x), (gate / (1 + torch.exp(-gate)) * value) @ gated.output.weight.T)


@pytest.mark.parametrize(("width", "multiple", "hidden"), [(96, 8, 256), (96, 256, 256), (100, 256, 512), (12, 1, 32)])
def test_swiglu_width_is_rounded_up(width: int, multiple: int, hidden: int, generator: torch.Generator) -> None:
    mlp = FeedForward(width, kind="swiglu", multiple=multiple, generator=generator)
    assert mlp.output.in_features == hidden
    assert mlp.input.out_features == 2 * hidden


def test_packing_mask_joins_equal_ids_only() -> None:
    mask = packing_mask(torch.tensor([[1, 1, 2, 0], [3, 3, 3, 3]]))
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0].tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    assert mask[1].all()


def test_each_token_may_have_its_own_condition(generator: torch.Generator) -> None:
    block = _perturbed(AdaptiveBlock(8, 2, generator=generator))
    x, condition = torch.randn(2, 5, 8, generator=generator), torch.randn(2, 8, generator=generator)
    torch.testing.assert_close(block(x, condition[:, None].expand(2, 5, 8)), block(x, condition))


def test_gradients_reach_every_parameter(generator: torch.Generator) -> None:
    block = _perturbed(AdaptiveBlock(8, 2, mlp="swiglu", generator=generator))
    x, condition = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 8, generator=generator)
    block(x, condition, rotary=rotary_table(grid_coordinates(2, 2), 4)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_errors_name_the_value(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="heads is 3"):
        Attention(16, 3, generator=generator)
    with pytest.raises(ConfigError, match="heads is 0"):
        Attention(16, 0, generator=generator)
    with pytest.raises(ConfigError, match="relu"):
        FeedForward(16, kind="relu", generator=generator)
