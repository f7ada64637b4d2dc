"""Dispersive regularisation: what the terms are, and that they push apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.rectify.dispersive import FORMS, Dispersive, dispersion, recorded
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.shortcut import Shortcut


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Network(nn.Module):
    """A perceptron of average velocities with named layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(torch.cat([x, t[:, None], until[:, None]], 1)))
        return self.second(hidden)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", FORMS)
def test_order_of_the_batch_does_not_matter(form: str) -> None:
    h = torch.randn(12, 3, 5, generator=generator())
    order = torch.randperm(12, generator=generator())
    torch.testing.assert_close(dispersion(h, form), dispersion(h[order], form))


@pytest.mark.parametrize("form", ["infonce_l2", "infonce_cosine"])
def test_infonce_is_zero_for_equal_features_and_below_it_otherwise(form: str) -> None:
    same = torch.randn(1, 6, generator=generator()).expand(8, 6)
    assert abs(float(dispersion(same, form))) < 1e-12
    assert dispersion(torch.randn(8, 6, generator=generator()), form) < -0.1
    # Far apart, only the diagonal is left: log(B / B^2).
    far = 100.0 * torch.eye(8) if form == "infonce_l2" else torch.eye(8)
    expected = -math.log(8) if form == "infonce_l2" else math.log((8 + 56 * math.exp(-2)) / 64)
    assert float(dispersion(far, form)) == pytest.approx(expected)


def test_values_of_two_points() -> None:
    h = torch.tensor([[0.0, 0.0], [0.6, 0.8]])  # squared distance 1, a half a feature
    assert float(dispersion(h, temperature=0.25)) == pytest.approx(math.log((2 + 2 * math.exp(-2)) / 4))
    assert float(dispersion(h, "hinge", margin=0.8)) == pytest.approx(0.09)
    assert float(dispersion(h, "hinge", margin=0.4)) == 0
    turned = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert float(dispersion(turned, "infonce_cosine", temperature=0.5)) == pytest.approx(
        math.log((2 + 2 * math.exp(-2)) / 4)
    )
    # Unit vectors e1 and e2 have the covariance [[1, -1], [-1, 1]] / 4.
    assert float(dispersion(turned, "covariance")) == pytest.approx(2 / 16)
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert abs(float(dispersion(square, "covariance"))) < 1e-30


@pytest.mark.parametrize("form", ["infonce_l2", "infonce_cosine", "hinge"])
def test_descent_pushes_near_points_apart(form: str) -> None:
    h = torch.tensor([[1.0, 0.0], [1.0, 1e-3]], requires_grad=True)
    (gradient,) = torch.autograd.grad(dispersion(h, form), h)
    assert gradient[0, 1] > 0 > gradient[1, 1]


@pytest.mark.parametrize(
    "base", [MeanFlow(teacher=False), Shortcut(teacher=False, bootstrap=0.0)], ids=["mean", "shortcut"]
)
def test_it_adds_its_term_to_any_method(base: MeanFlow | Shortcut) -> None:
    network = Network()
    flow = Flow(network, average=True)
    batch = Batch(torch.randn(10, 2, generator=generator()))
    method = Dispersive(base, layers=["first", "second"], weight=0.3)
    assert (method.average, method.sampler, method.trains_on) == (True, "jump", "data")
    loss, terms = method.loss(flow, batch, generator(1))
    alone, _ = base.loss(flow, batch, generator(1))
    torch.testing.assert_close(loss, alone + 0.3 * terms["dispersion"])
    with recorded(network, ["first", "second"]) as features:
        base.loss(flow, batch, generator(1))
    expected = (dispersion(features["first"]) + dispersion(features["second"])) / 2
    torch.testing.assert_close(terms["dispersion"], expected.detach())
    (gradient,) = torch.autograd.grad(loss - alone, network.first.weight)
    assert gradient.abs().max() > 0
    assert not network.first._forward_hooks


def test_what_it_cannot_do_is_said() -> None:
    batch, network = Batch(torch.randn(4, 2)), Network()
    flow = Flow(network, average=True)
    base = MeanFlow(teacher=False)
    with pytest.raises(
        ConfigError, match=r"layer 'third' is no module of the network; names are .* example first, second"
    ):
        Dispersive(base, layers=["third"]).loss(flow, batch, generator())
    with pytest.raises(ConfigError, match="layer 'unused' gave no tensor"):
        Dispersive(base, layers=["unused"]).loss(flow, batch, generator())
    with pytest.raises(ConfigError, match="give a list with at least one name"):
        Dispersive(base)
    with pytest.raises(ConfigError, match="form of dispersion is 'l2'"):
        Dispersive(base, layers=["first"], form="l2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs at least 2"):
        dispersion(torch.ones(1, 2))
    nested = nn.ModuleDict({"a": Network(), "b": Network()})
    with pytest.raises(ConfigError, match=r"fits a\.first, b\.first"), recorded(nested, ["first"]):
        pass
