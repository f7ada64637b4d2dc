"""The moving average against its sum written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rectiflow.errors import CheckpointCorrupt
from rectiflow.training.ema import EMA


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def test_average_is_the_weighted_sum_of_all_values(generator: torch.Generator) -> None:
    net = network()
    decay, updates = 0.5, 12
    history = [net[0].weight.detach().numpy().copy()]
    ema = EMA(net, decay)
    for _ in range(updates):
        with torch.no_grad():
            net[0].weight.copy_(torch.randn(2, 3, generator=generator, dtype=torch.float64))
        history.append(net[0].weight.detach().numpy().copy())
        ema.update()
    # Value k (the initial one is 0) enters with 1 - d_{k-1} and is then damped by every later decay.
    decays = np.minimum(decay, (1 + np.arange(updates)) / (10 + np.arange(updates)))
    assert decays[0] == 0.1
    assert decays[-1] == decay
    weights = [np.prod(decays)] + [(1 - decays[k]) * np.prod(decays[k + 1 :]) for k in range(updates)]
    expected = sum(weight * value for weight, value in zip(weights, history, strict=True))
    np.testing.assert_allclose(ema.state_dict()["0.weight"].numpy(), expected, rtol=1e-12)


def test_final_decay_is_reached_and_kept() -> None:
    ema = EMA(network(), 0.99)
    ema.updates = 10_000
    assert ema.current_decay() == 0.99


def test_buffers_are_the_networks_own() -> None:
    net = network()
    ema = EMA(net, 0.999)
    net[1].running_mean.fill_(7.0)
    ema.update()
    assert torch.equal(ema.state_dict()["1.running_mean"], torch.full((2,), 7.0, dtype=torch.float64))


def test_network_carries_the_average_only_inside_the_block() -> None:
    net = network()
    ema = EMA(net, 0.9)
    with torch.no_grad():
        net[0].bias.fill_(5.0)
    own, average = copy.deepcopy(net.state_dict()), ema.state_dict()
    with ema.applied():
        assert torch.equal(net[0].bias, average["0.bias"])
        assert not torch.equal(net[0].bias, own["0.bias"])
    assert torch.equal(net[0].bias, own["0.bias"])


def test_state_goes_round_and_another_shape_is_refused() -> None:
    net = network()
    first, second = EMA(net, 0.9), EMA(network(), 0.9)
    first.update()
    second.load_state_dict(first.state_dict(), updates=1)
    assert torch.equal(second.state_dict()["0.weight"], first.state_dict()["0.weight"])
    assert second.current_decay() == first.current_decay()
    with pytest.raises(CheckpointCorrupt, match=r"0\.weight is \(1,\), must be \(2, 3\)"):
        second.load_state_dict({"0.weight": torch.zeros(1)}, updates=1)


def test_tied_weights_are_averaged_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    ema = EMA(net, 0.5)
    start = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    ema.update()
    state = ema.state_dict()
    torch.testing.assert_close(state["0.weight"], start + 0.9)
    assert torch.equal(state["0.weight"], state["1.weight"])
