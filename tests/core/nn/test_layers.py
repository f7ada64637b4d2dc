from __future__ import annotations

import math

import torch

from rectiflow.nn.layers import convolution, embedding, linear


def test_weights_come_from_the_generator_alone(generator: torch.Generator) -> None:
    before = torch.get_rng_state()
    weights = [
        linear(4, 5, generator=generator).weight,
        convolution(2, 3, 3, generator=generator).weight,
        embedding(3, 4, generator=generator).weight,
    ]
    assert torch.equal(torch.get_rng_state(), before)
    again = torch.Generator().manual_seed(0)
    torch.manual_seed(123)
    assert torch.equal(weights[0], linear(4, 5, generator=again).weight)
    assert torch.equal(weights[1], convolution(2, 3, 3, generator=again).weight)
    assert torch.equal(weights[2], embedding(3, 4, generator=again).weight)


def test_weights_are_xavier_uniform(generator: torch.Generator) -> None:
    layer = linear(300, 500, generator=generator)
    bound = math.sqrt(6 / 800)
    assert layer.weight.abs().max() <= bound
    # Of a uniform law on [-b, b] the variance is b^2 / 3; 150 000 draws put four standard errors at 1 %.
    assert abs(layer.weight.var().item() / (bound**2 / 3) - 1) < 0.01
    assert not layer.bias.any()
    kernel = convolution(20, 40, 3, generator=generator).weight
    assert 0.99 * math.sqrt(6 / (60 * 9)) < kernel.abs().max() <= math.sqrt(6 / (60 * 9))


def test_zero_layers_are_zero_and_convolutions_keep_the_size(generator: torch.Generator) -> None:
    assert not any(p.any() for p in linear(3, 4, generator=generator, zero=True).parameters())
    layer = convolution(2, 6, 3, generator=generator, zero=True)
    assert layer(torch.randn(1, 2, 5, 7, generator=generator)).shape == (1, 6, 5, 7)
    assert not any(p.any() for p in layer.parameters())
