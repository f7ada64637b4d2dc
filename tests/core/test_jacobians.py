"""Jacobians and traces against matrices written down, their variances, and how probes are drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.jacobians import Hutchinson, HutchPlusPlus, exact_trace, jacobian, linearise, trace_estimator

MATRIX = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 0.25], [4.0, 0.0, 2.5]], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(x: Tensor) -> Tensor:
    return x @ MATRIX.mT


def test_rows_are_outputs_and_columns_are_inputs() -> None:
    torch.testing.assert_close(jacobian(linear, torch.randn(5, 3)), MATRIX.expand(5, 3, 3))


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_any_shape_and_any_chunk_give_the_matrix_of_a_nonlinear_field(chunk: int) -> None:
    """f = W2 tanh(W1 x): J = W2 diag(1 - tanh^2) W1."""
    first, second = torch.randn(7, 12, generator=seeded(1)), torch.randn(12, 7, generator=seeded(2))
    x = torch.randn(3, 2, 3, 2, generator=seeded(3))

    def field(x: Tensor) -> Tensor:
        return (torch.tanh(x.flatten(1) @ first.mT) @ second.mT).reshape(x.shape)

    slope = 1 - torch.tanh(x.flatten(1) @ first.mT).square()
    expected = second @ (slope[:, :, None] * first)
    torch.testing.assert_close(jacobian(field, x, chunk=chunk), expected)
    trace = expected.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(exact_trace(linearise(field, x, chunk=chunk)), trace)


def test_components_are_joined_by_name() -> None:
    x = {"b": torch.randn(4, 1), "a": torch.randn(4, 2)}

    def field(x: dict[str, Tensor]) -> dict[str, Tensor]:
        joined = linear(torch.cat([x["a"], x["b"]], 1))
        return {"b": joined[:, 2:], "a": joined[:, :2]}

    torch.testing.assert_close(jacobian(field, x), MATRIX.expand(4, 3, 3))
    at = linearise(field, x)
    assert at.output.keys() == x.keys()
    torch.testing.assert_close(exact_trace(at), torch.full((4,), 0.5))


def test_fields_that_ignore_their_state_have_no_jacobian() -> None:
    weight = torch.ones(1, 3, requires_grad=True)
    for field in (torch.zeros_like, lambda x: weight.expand(len(x), -1)):
        assert not bool(jacobian(field, torch.randn(2, 3)).any())
        assert exact_trace(linearise(field, torch.randn(2, 3))).tolist() == [0, 0]


def test_nothing_is_recorded_unless_asked() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    x = torch.ones(2, 3)
    with torch.no_grad():
        plain = linearise(lambda x: scale * x.square(), x)
        trace = exact_trace(plain)
    assert not plain.output.requires_grad
    assert not trace.requires_grad
    assert not x.requires_grad
    recorded = exact_trace(linearise(lambda x: scale * x.square(), x, differentiable=True))
    (gradient,) = torch.autograd.grad(recorded.sum(), scale)
    assert float(gradient) == pytest.approx(2 * 6)  # trace 2 scale sum x, six entries of one


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("rademacher", lambda s: 2 * (s.square().sum() - s.diagonal().square().sum())),
        ("gaussian", lambda s: 2 * s.square().sum()),
    ],
)
def test_mean_and_variance_of_a_probe(probe: str, expected: Any) -> None:
    """40 000 probes of one matrix; the variance's own relative standard error is below 1 %."""
    n = 40_000
    x = torch.zeros(n, 3)
    estimates = trace_estimator("hutchinson", x, probe=probe, generator=seeded(4))(linearise(linear, x))
    variance = float(expected((MATRIX + MATRIX.mT) / 2))
    assert abs(float(estimates.mean()) - 0.5) < 4 * math.sqrt(variance / n)
    assert float(estimates.var()) == pytest.approx(variance, rel=0.03)


def test_several_probes_average() -> None:
    x = torch.zeros(20_000, 3)
    one, four = (
        trace_estimator("hutchinson", x, probes=k, generator=seeded(5))(linearise(linear, x)).var() for k in (1, 4)
    )
    assert float(one / four) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_hutch_plus_plus_is_exact_up_to_its_rank(rank: int) -> None:
    g = seeded(6)
    low = torch.randn(12, rank, generator=g) @ torch.randn(rank, 12, generator=g)
    x = torch.zeros(5, 12)
    trace = trace_estimator("hutch++", x, probes=3, probe="gaussian", generator=g)
    torch.testing.assert_close(trace(linearise(lambda x: x @ low.mT, x)), torch.full((5,), float(low.trace())))


def test_hutch_plus_plus_is_unbiased_and_better_where_the_spectrum_falls() -> None:
    g, n = seeded(7), 8_000
    basis = torch.linalg.qr(torch.randn(16, 16, generator=g)).Q
    spectrum = 2.0 ** -torch.arange(16.0)
    matrix = basis @ torch.diag(spectrum) @ basis.mT
    x = torch.zeros(n, 16)
    at = linearise(lambda x: x @ matrix.mT, x)
    plain = trace_estimator("hutchinson", x, probes=12, generator=g)(at)
    better = trace_estimator("hutch++", x, probes=4, generator=g)(at)
    assert abs(float(better.mean() - spectrum.sum())) < 4 * float(better.std()) / math.sqrt(n)
    assert float(better.var()) < float(plain.var()) / 10


def test_the_sketch_of_more_vectors_than_dimensions_is_exact() -> None:
    x = torch.zeros(4, 3)
    trace = trace_estimator("hutch++", x, probes=8, generator=seeded(8))
    torch.testing.assert_close(trace(linearise(linear, x)), torch.full((4,), 0.5))


def test_hutch_plus_plus_gradients_are_those_of_the_trace_when_it_is_exact() -> None:
    """Exact by the sketch; rank deficiency, where differentiating the basis would give NaN, is harmless."""
    left = torch.randn(6, 1, generator=seeded(9)).requires_grad_()
    right = torch.randn(1, 6, generator=seeded(10))
    x = torch.zeros(2, 6)
    at = linearise(lambda x: x @ (left @ right).mT, x, differentiable=True)
    value = trace_estimator("hutch++", x, probes=6, generator=seeded(11))(at).sum()
    (gradient,) = torch.autograd.grad(value, left)
    torch.testing.assert_close(gradient, 2 * right.mT)


def test_probes_are_of_their_law_and_come_from_the_generator() -> None:
    like = torch.zeros(50, 2, 10)
    signs = trace_estimator("hutchinson", like, probes=3, generator=seeded(12))
    assert isinstance(signs, Hutchinson)
    assert signs.probes.shape == (3, 50, 20)
    assert set(signs.probes.unique().tolist()) == {-1.0, 1.0}
    again = trace_estimator("hutchinson", like, probes=3, generator=seeded(12))
    assert isinstance(again, Hutchinson)
    assert torch.equal(signs.probes, again.probes)
    both = trace_estimator("hutch++", like, probes=3, probe="gaussian", generator=seeded(12))
    assert isinstance(both, HutchPlusPlus)
    assert both.sketch.shape == both.probes.shape == (3, 50, 20)
    assert not torch.equal(both.sketch, both.probes)
    state = torch.random.get_rng_state()
    trace_estimator("hutchinson", like, generator=seeded(13))
    assert torch.equal(state, torch.random.get_rng_state())


def test_mistakes_are_named() -> None:
    x, g = torch.zeros(2, 3), seeded()
    with pytest.raises(ConfigError, match=r"'hutch'; allowed: exact, hutchinson, hutch\+\+"):
        trace_estimator("hutch", x, generator=g)
    with pytest.raises(ConfigError, match=r"probe is 'normal'; allowed: rademacher, gaussian"):
        trace_estimator("hutchinson", x, probe="normal", generator=g)
    with pytest.raises(ConfigError, match="probes is 0"):
        trace_estimator("hutchinson", x, probes=0, generator=g)
    with pytest.raises(ConfigError, match=r"no generator; pass generator="):
        trace_estimator("hutch++", x)
    with pytest.raises(ConfigError, match="chunk is 0"):
        linearise(linear, x, chunk=0)
