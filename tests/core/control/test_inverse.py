"""Inverse problems on Gaussian priors, whose posteriors are known, and what the methods ask of the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow, JointGaussianFlow
from rectiflow.control import Measurement, downsampling, inpainting, sample_with_loss, solve_inverse
from rectiflow.control.inverse import METHODS, dps, flow_chef, pigdm, pnp_flow
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, Trigonometric


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Counting:
    """A flow's velocity that notes its calls and whether they were recorded for autograd."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.calls = 0
        self.recorded = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        self.recorded += torch.is_grad_enabled() and x.requires_grad
        return self.flow.velocity(x, t)


def coordinate(noise: float = 0.0) -> Measurement:
    """The first of two coordinates is 1.3."""
    return Measurement(inpainting(torch.tensor([True, False])), torch.tensor([[1.3]]), noise)


def test_flow_chef_meets_an_exact_measurement_and_leaves_the_rest_to_the_prior() -> None:
    flow = GaussianFlow(torch.zeros(2), torch.diag(torch.tensor([0.5, 2.0]))).flow()
    network = Counting(flow)
    solution = flow_chef(Flow(network), normal(20_000, 2), coordinate(), steps=100, step_size=0.5)
    observed, free = solution.x.unbind(1)
    assert float((observed - 1.3).abs().max()) <= 1e-2
    assert abs(float(free.mean())) <= 4 * 2**0.5 / 20_000**0.5
    assert float(free.std()) == pytest.approx(2**0.5, abs=4 * 2**0.5 / 40_000**0.5 + 0.015)  # Euler's own error is 0.01
    assert network.calls == solution.nfe == 100
    assert network.recorded == 0


def test_methods_through_the_network_record_it_once_a_step() -> None:
    flow = GaussianFlow(torch.zeros(2), torch.eye(2)).flow()
    for method in (dps, pigdm):
        network = Counting(flow)
        solution = method(Flow(network), normal(4, 2), coordinate(), steps=10)
        assert network.calls == solution.nfe == 10
        # dps corrects all but the last step, pigdm all but the first, where the Jacobian is known
        assert network.recorded == 9
        assert not solution.x.requires_grad


def test_first_step_of_the_two_gradients() -> None:
    """At t with gain k = d x1 / d x, the correction is eta (x1 - y) without the network and eta k (x1 - y) with it."""
    variance, t, y = 2.0, 0.4, 1.3
    flow = GaussianFlow(torch.zeros(1), torch.tensor([[variance]])).flow()
    x = torch.tensor([[0.7]])
    total = t**2 * variance + (1 - t) ** 2
    gain, rate = t * variance / total, (t * variance - (1 - t)) / total
    times = torch.tensor([t, 0.9, 1.0])
    measured = Measurement(lambda z: z, torch.tensor([[y]]))
    for through, slope in ((False, 1.0), (True, gain)):
        ends: list[Tensor] = []

        def model(z: Tensor, at: Tensor, ends: list[Tensor] = ends) -> Tensor:
            ends.append(z.detach())
            return flow.velocity(z, at)

        sample_with_loss(Flow(model), x, measured.misfit, step_size=0.3, times=times, through_network=through)
        expected = x - 0.3 * slope * (gain * x - y) + 0.5 * rate * x
        torch.testing.assert_close(ends[1], expected)


@pytest.mark.parametrize("through_network", [True, False])
@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
def test_pigdm_samples_the_posterior_of_an_isotropic_prior(path: Interpolant, through_network: bool) -> None:
    """Prior N(0, 4 I), y = A x + noise: mean l A^T K y and covariance l I - l^2 A^T K A, K = (l A A^T + noise^2)^-1."""
    variance, noise = 4.0, 1.0
    a = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 1.0]])
    y = torch.tensor([[0.8, -1.2]])
    inverse = torch.linalg.inv(variance * a @ a.mT + noise**2 * torch.eye(2))
    mean = variance * y @ inverse @ a
    covariance = variance * torch.eye(3) - variance**2 * a.mT @ inverse @ a
    flow = GaussianFlow(torch.zeros(3), variance * torch.eye(3), path).flow()
    measured = Measurement(lambda x: x @ a.mT, y, noise)
    solution = pigdm(flow, normal(8000, 3), measured, steps=150, variance=variance, through_network=through_network)
    assert solution.nfe == 150
    torch.testing.assert_close(solution.x.mean(0, keepdim=True), mean, atol=4 * (4 / 8000) ** 0.5 + 0.02, rtol=0)
    torch.testing.assert_close(solution.x.mT.cov(), covariance, atol=4 * 4 * (2 / 8000) ** 0.5 + 0.06, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_halves_a_picture_and_fits_it(method: str) -> None:
    """Correlated pixels: what is measured of a prior sample must come back, and the rest must be nearer than chance."""
    line = torch.exp(-torch.arange(6.0)[:, None].sub(torch.arange(6.0)).abs() / 4)
    prior = GaussianFlow(torch.zeros(36), torch.kron(line, line))
    truth = prior.sample(64, torch.Generator().manual_seed(3)).reshape(64, 1, 6, 6)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return prior.velocity(x.flatten(1), t).reshape(x.shape)

    operator = downsampling(2)
    measured = Measurement(operator, operator(truth))
    options = {"generator": torch.Generator().manual_seed(4)} if method == "pnp_flow" else {}
    step = {} if method == "pigdm" else {"step_size": 4.0 if method == "pnp_flow" else 3.0}
    solution = solve_inverse(
        Flow(model), normal(64, 1, 6, 6, seed=5), measured, method=method, steps=60, **options, **step
    )
    assert solution.nfe == 60
    fit = 2 * measured.misfit(solution.x).mean() / 9
    error = (solution.x - truth).square().mean()
    assert float(fit) <= 0.05
    assert (
        float(error) <= 0.5
    )  # 2 for an independent sample of the prior, twice the posterior's variance for a perfect one


def test_pnp_flow_puts_the_corrected_estimate_on_the_path_of_the_next_time() -> None:
    """Three steps with a data prediction of 0 and y = 1: z = (1 - t)^1/2 / 2 at times 1/3 and 2/3, then a z + s n."""
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    x, g = normal(4, 2), torch.Generator().manual_seed(5)
    measured = Measurement(lambda z: z, torch.ones(1, 2))
    end = pnp_flow(Flow(model, predicts="data"), x, measured, steps=3, step_size=0.5, generator=g)
    g.manual_seed(5)
    first, second = (torch.randn(4, 2, generator=g) for _ in range(2))
    torch.testing.assert_close(seen[0], x)
    torch.testing.assert_close(seen[1], 1 / 3 * 0.5 * (2 / 3) ** 0.5 + 2 / 3 * first)
    torch.testing.assert_close(seen[2], 2 / 3 * 0.5 * (1 / 3) ** 0.5 + 1 / 3 * second)
    assert not bool(end.x.any())


def test_noise_is_not_fitted() -> None:
    """Noise 0.5 on ten numbers: without the discrepancy rule the misfit would go to 0 where it should stay near 10 / 8."""
    prior = GaussianFlow(torch.zeros(10), 2 * torch.eye(10)).flow()
    y = normal(500, 10, seed=1) * 1.5
    measured = Measurement(lambda x: x, y, 0.5)
    solution = flow_chef(prior, normal(500, 10), measured, steps=50)
    assert float(measured.misfit(solution.x).mean()) == pytest.approx(10 * 0.25 / 2, rel=0.15)


def test_no_noise_estimate_without_a_normal_source() -> None:
    joint = JointGaussianFlow((torch.zeros(2), torch.ones(2)), (torch.eye(2), torch.eye(2)), torch.zeros(2, 2)).flow()
    for method in ("pigdm", "pnp_flow"):
        options = {"generator": torch.Generator()} if method == "pnp_flow" else {}
        with pytest.raises(ConfigError, match="use flow_chef"):
            solve_inverse(joint, normal(4, 2), coordinate(), method=method, **options)


def test_mistakes_are_named() -> None:
    flow = GaussianFlow(torch.zeros(2), torch.eye(2)).flow()
    x = normal(4, 2)
    with pytest.raises(ConfigError, match="did you mean 'flow_chef'"):
        solve_inverse(flow, x, coordinate(), method="flowchef")
    with pytest.raises(ConfigError, match="variance 0"):
        pigdm(flow, x, coordinate(), variance=0.0)
    with pytest.raises(NonFiniteError, match=r"step 1 of 3.*smaller step size"):
        flow_chef(flow, x, coordinate(), steps=3, step_size=float("inf"))
