"""Bugs found in other libraries, each on the input that showed it: docs/proofs.md says which is which.

A test carries the name of the library (lqiang67 is the rectified-flow package of that author, lucidrains rectified-flow-pytorch).
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rectiflow.adapters import FlowScheduler
from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch
from rectiflow.couplings import EntropicOT, MinibatchOT
from rectiflow.couplings.bridge import SchroedingerBridge
from rectiflow.errors import ConfigError, ConversionError
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant, Linear, LinearVariancePreserving, Trigonometric, VariancePreserving
from rectiflow.likelihood import log_prob
from rectiflow.rectify import generate_pairs, reflow
from rectiflow.rectify.distances import PseudoHuber
from rectiflow.rectify.mean_flow import MeanFlow
from rectiflow.rectify.method import two_times
from rectiflow.sampling import integrate, sample
from rectiflow.score_and_flow import ScoreAndFlow
from rectiflow.solvers.flow_turbo import Blocks
from rectiflow.spaces.sphere import Sphere
from rectiflow.stochastic_interpolant import BrownianLatent, StochasticInterpolant
from rectiflow.times import LogitNormal, TimeLaw
from rectiflow.training.options import TrainingOptions


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


class Fixed(TimeLaw):
    """All times alike."""

    def __init__(self, time: float) -> None:
        self.time = time

    def sample(self, count: int, generator: torch.Generator | None = None, *, device: object = "cpu") -> Tensor:
        return torch.full((count,), self.time)


def images(shape: tuple[int, ...] = (1, 2, 2)) -> tuple[Flow, GaussianFlow]:
    """A Gaussian law of images, as a flow of images and of flat vectors."""
    d = math.prod(shape)
    root = normal(d, d, seed=3)
    law = GaussianFlow(normal(d, seed=4), root @ root.mT / d + 0.3 * torch.eye(d), Trigonometric())
    return Flow(lambda x, t: law.velocity(x.flatten(1), t).reshape(x.shape), law.interpolant), law


def test_flow_matching_exact_divergence_of_images() -> None:
    """theirs: the exact divergence indexes flattened axes, and fails on (5, 1, 2, 2)."""
    flow, law = images()
    x = normal(5, 1, 2, 2)
    expected = torch.distributions.MultivariateNormal(law.mean, law.covariance).log_prob(x.flatten(1))
    torch.testing.assert_close(log_prob(flow, x, steps=40), expected, atol=1e-6, rtol=0)


def test_flow_matching_sphere_distance_of_a_point_to_itself() -> None:
    """theirs: acos without a clamp, NaN for 361 of 2000 single-precision points; a loss on the distance sees it."""
    x = Sphere().sample_prior((2000, 3), seeded(), dtype=torch.float32)
    assert bool(((x * x).sum(1) > 1).any())  # the input that breaks acos is among them
    assert torch.equal(Sphere().distance(x, x), torch.zeros(2000, dtype=torch.float32))
    y = x.clone().requires_grad_()
    Sphere().distance(y, x).square().sum().backward()
    assert y.grad is not None
    assert bool(torch.isfinite(y.grad).all())


def test_flow_matching_riemannian_solver_goes_back_and_takes_one_step() -> None:
    """theirs: the grid is sorted, one step over the interval is refused, and steps project what should be exponentials."""
    space, angle = Sphere(), 2.5
    axis = torch.tensor([0.0, 0.0, angle])
    flow = Flow(lambda x, t: torch.linalg.cross(axis.expand_as(x), x), space=space)
    x0 = torch.tensor([[1.0, 0.0, 0.0]])
    x1 = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]])
    one_step = integrate(flow, x0, times=torch.tensor([0.0, 1.0])).x
    torch.testing.assert_close(one_step, x1, atol=1e-14, rtol=0)  # a great circle: one exponential step is exact
    back = integrate(flow, x1, times=torch.linspace(1, 0, 2)).x
    torch.testing.assert_close(back, x0, atol=1e-14, rtol=0)
    there = integrate(flow, normal(4, 3) / normal(4, 3).norm(dim=1, keepdim=True), steps=50, method="rk4").x
    again = integrate(flow, there, times=torch.linspace(1, 0, 51), method="rk4").x
    torch.testing.assert_close(again, normal(4, 3) / normal(4, 3).norm(dim=1, keepdim=True), atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", [VariancePreserving(), LinearVariancePreserving()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flow_matching_diffusion_path_ends_at_data(path: Interpolant, dtype: torch.dtype) -> None:
    """theirs: s' divides by s = 0 at t = 1."""
    c = path.coefficients(torch.tensor([1.0], dtype=dtype))
    assert all(bool(torch.isfinite(value)) for value in c)
    assert float(c.ds) < 0
    flow = Flow(lambda x, t: torch.zeros_like(x), path, "data")
    assert bool(torch.isfinite(flow.velocity(torch.ones(1, 2, dtype=dtype), torch.ones(1, dtype=dtype))).all())
    assert bool(torch.isfinite(flow.loss(torch.ones(1, 2, dtype=dtype), times=Fixed(1.0), generator=seeded())))


def test_torchcfm_plans_of_images() -> None:
    """theirs: images come back flattened, rows are drawn with replacement, from numpy's global generator."""
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    x0, x1 = normal(64, 3, 4, 4), normal(64, 3, 4, 4, seed=1)
    for coupling in (MinibatchOT(), EntropicOT(0.1)):
        coupled, again = (coupling(x0, x1, generator=seeded(2)) for _ in range(2))
        assert coupled.x0.shape == coupled.x1.shape == (64, 3, 4, 4)
        assert torch.equal(coupled.index, again.index)
        assert torch.equal(coupled.x1, x1[coupled.index])
    assert sorted(MinibatchOT()(x0, x1).index.tolist()) == list(range(64))
    without = EntropicOT(0.1, replacement=False)(x0, x1, generator=seeded(2))
    assert sorted(without.index.tolist()) == list(range(64))
    assert not torch.equal(EntropicOT(0.1)(x0, x1, generator=seeded(3)).index, coupled.index)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_torchcfm_sinkhorn_in_64_dimensions() -> None:
    """theirs: exp(-cost / 0.05) underflows, and the uniform plan is returned in its place."""
    x0, x1 = normal(128, 64), normal(128, 64, seed=1)
    assert float(torch.exp(-torch.cdist(x0, x1).square().float() / 0.05).sum()) == 0  # the input that underflows
    plan = EntropicOT(0.05, relative=False).plan(x0, x1)
    assert float(plan.matrix.sum()) == pytest.approx(1, abs=1e-6)
    for axis in (0, 1):
        assert float((plan.matrix.sum(axis) - 1 / 128).abs().sum()) <= 1e-6
    cost = torch.cdist(x0, x1).square()
    optimal = (x0 - MinibatchOT()(x0, x1).x1).square().sum(1).mean()
    assert float((plan.matrix * cost).sum()) == pytest.approx(float(optimal), rel=1e-3)
    assert float((plan.matrix * cost).sum()) < 0.95 * float(cost.mean())


@pytest.mark.parametrize("time", [0.0, 1e-12, 1e-7, 1 - 1e-7, 1.0])
def test_torchcfm_bridge_loss_at_the_ends(time: float) -> None:
    """theirs: (1 - 2t) / (2t (1 - t) + 1e-8) makes the loss explode. Ours is bounded, and its noise cancels in pairs."""
    flow = Flow(lambda x, t: torch.zeros_like(x), StochasticInterpolant(latent=BrownianLatent()), independent=False)
    draw = flow.draw(normal(256, 2), times=Fixed(time), coupling=SchroedingerBridge(), generator=seeded())
    target, straight = draw.target, draw.x1 - draw.x0
    mean = (target[:256] + target[256:]) / 2
    torch.testing.assert_close(mean, straight[:256], atol=1e-10, rtol=0)
    assert float((target - straight).abs().max()) < 5 / (2 * math.sqrt(1e-5))
    both = ScoreAndFlow(lambda x, t: 0 * x, lambda x, t: 0 * x)
    assert float(both.loss(normal(256, 2), times=Fixed(time), generator=seeded())) < 1e5


def test_lqiang67_the_validity_check_fires() -> None:
    """theirs: the warning about a coupled flow calls a function that does not exist."""
    coupled = Flow(lambda x, t: x, independent=False)
    x, t = torch.ones(2, 1), torch.full((2,), 0.5)
    with pytest.raises(ConversionError, match="coupled source"):
        coupled.score(x, t)
    with pytest.raises(ConversionError, match="coupled source"):
        sample(coupled, (2, 1), steps=3, method="euler_maruyama", generator=seeded())
    with pytest.raises(ConversionError, match="independent of x1"):
        Flow(lambda x, t: x, predicts="score").loss(x, coupling=MinibatchOT(), generator=seeded())


def test_lqiang67_conversions_keep_no_state_and_run_no_text() -> None:
    """theirs: solving for one unknown fails, the solution is kept on the object, and a sampler evaluates a string."""
    flow = Flow(lambda x, t: x, Trigonometric())
    x, v = normal(4, 3), normal(4, 3, seed=1)
    times = [torch.full((4,), 0.1 * k) for k in range(1, 10)]

    def convert(t: Tensor) -> Tensor:
        found: Tensor = flow.convert(v, "velocity", "data", x, t)
        return found

    alone = [convert(t) for t in times]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(convert, times * 20))
    assert all(torch.equal(found, alone[i % 9]) for i, found in enumerate(together))
    # x0 from x1 and x_t alone, as from any two of the four
    x0, x1 = normal(4, 3, seed=2), normal(4, 3, seed=3)
    c = Trigonometric().coefficients(times[4]).expand_to(x0)
    recovered = flow.convert(x1, "data", "noise", c.a * x1 + c.s * x0, times[4])
    torch.testing.assert_close(recovered, x0, atol=1e-12, rtol=0)
    with pytest.raises(ConfigError, match="is unknown; allowed"):
        sample(Flow(lambda x, t: x), (2, 1), steps=2, method="euler_maruyama", diffusion="1 - t", generator=seeded())


def test_lqiang67_logit_normal_is_called_so() -> None:
    """theirs: the logit-normal law is called lognormal, and the error path for a bad name reads a missing attribute."""
    t = LogitNormal(mean=0.3, std=0.8).sample(20_000, seeded())
    assert stats.kstest(torch.logit(t).numpy(), stats.norm(0.3, 0.8).cdf).pvalue > 0.01
    with pytest.raises(ConfigError, match=r"std is -1\.0; allowed"):
        LogitNormal(std=-1.0)


class Pull(nn.Module):
    """v = weight x + bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), -0.5))
        self.bias = nn.Parameter(torch.full((1,), 1.0))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight * x + self.bias


def test_lucidrains_reflow_runs(tmp_path: Path, float32: None) -> None:
    """theirs: a method read as a property and a module never imported, so that Reflow cannot be called at all."""
    teacher = Flow(Pull())
    pairs = generate_pairs(teacher, tmp_path / "pairs", count=64, shape=(2,), steps=4, seed=0)
    options = TrainingOptions(steps=3, batch=16, accelerator="cpu", tensorboard=False)
    student = reflow(teacher, pairs, options=options)
    assert student.independent is False
    assert bool(torch.isfinite(sample(student, (5, 2), steps=1, generator=seeded())).all())


def test_lucidrains_pseudo_huber_scales_with_the_dimension() -> None:
    """theirs: c = 0.00054 * 3 against a mean square; the paper's is 0.00054 d against the sum over d entries."""
    d = 3 * 32 * 32
    difference = torch.full((2, 3, 32, 32), 0.1)
    c = 0.00054 * d
    expected = (math.sqrt(d * 0.01 + c * c) - c) / d
    torch.testing.assert_close(PseudoHuber()(difference), torch.full((2,), expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VariancePreserving()])
@pytest.mark.parametrize("method", ["euler", "heun", "euler_maruyama"])
def test_sit_first_and_last_times_are_those_asked_for(path: Interpolant, method: str) -> None:
    """theirs: the distance kept from the ends is ignored for a velocity on the linear and the trigonometric path."""
    seen: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return -x

    times = torch.linspace(0.03, 0.97, 5)
    noise = {"generator": seeded()} if method == "euler_maruyama" else {}
    integrate(Flow(model, path), torch.ones(2, 1), times=times, method=method, **noise)
    assert min(seen) == pytest.approx(0.03, abs=1e-12)
    assert max(seen) == pytest.approx(0.97 if method == "heun" else float(times[-2]), abs=1e-12)
    draw = Flow(model, path).draw(torch.ones(3, 1), times=Fixed(0.03), generator=seeded())
    assert draw.t.tolist() == [0.03] * 3


def test_sit_likelihood_keeps_its_probe_and_evaluates_once_a_stage() -> None:
    """theirs: a new probe at every stage, which adaptive steps take for error, and two evaluations of the network."""
    calls = 0
    law = GaussianFlow(torch.zeros(3), torch.diag(torch.tensor([0.5, 1.0, 2.0])))

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.sin(law.velocity(x, t))

    drawn, estimates = [], []
    for steps in (20, 40, 80):
        generator, calls = seeded(7), 0
        found = log_prob(
            Flow(model), normal(6, 3), steps=steps, method="rk4", divergence="hutchinson", generator=generator
        )
        assert calls == 4 * steps
        drawn.append(generator.get_state())
        estimates.append(found)
    assert all(torch.equal(state, drawn[0]) for state in drawn)  # one probe a solve, however many stages
    coarse, fine = ((estimates[i] - estimates[i + 1]).abs().max() for i in (0, 1))
    assert (
        float(fine) < float(coarse) / 8
    )  # the estimate converges with the order of the method: no noise between stages


def test_stochastic_interpolants_scaled_brownian_latent_and_heun_times() -> None:
    """theirs: the scaled Brownian schedule names an undefined variable, and the predictor's slope is taken at t + dt."""
    t = torch.tensor([0.25, 0.5])
    g, dg, gdg = BrownianLatent(4.0).coefficients(t)
    torch.testing.assert_close(g, torch.tensor([math.sqrt(0.75), 1.0]))
    torch.testing.assert_close(gdg, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(dg, torch.tensor([1 / math.sqrt(0.75), 0.0]))
    seen: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return -x

    times = [0.2, 0.5, 0.6]
    integrate(
        Flow(model),
        torch.ones(2, 1),
        times=torch.tensor(times),
        method="stochastic_heun",
        diffusion=0.1,
        generator=seeded(),
    )
    assert seen == pytest.approx([0.2, 0.5, 0.5, 0.6])


def test_flowturbo_pseudo_corrector_steps_run() -> None:
    """theirs: the pseudo-corrector block passes an argument that its function does not have."""
    flow, _ = images((3,))
    x0 = normal(8, 3)
    found = integrate(flow, x0, steps=6, method="flow_turbo", blocks=Blocks(heun=0, pseudo=6, refined=0))
    torch.testing.assert_close(found.x, integrate(flow, x0, steps=6, method="pseudo_corrector").x, atol=1e-12, rtol=0)
    assert found.nfe == 7


def test_zhuyu_meanflow_weight_and_share_of_jumps() -> None:
    """theirs: the adaptive weight squares the squared error once more; the share of r != t is 0.75 or 0.25 by file."""
    method = MeanFlow(teacher=False)
    for size in (0.5, 3.0):
        flow = Flow(lambda x, t, until, size=size: size * torch.ones_like(x), average=True)
        total, terms = method.loss(flow, Batch(normal(1, 4)), seeded(3))
        [error] = [float(value) for value in terms.values()]
        assert float(total) == pytest.approx(error / (error + 1e-3), rel=1e-9)
    n = 40_000
    jumps, start, end = two_times(method.times, method.jumps, n, seeded())
    share = float((end > start).double().mean())
    assert share == jumps / n
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)


def test_diffusers_time_shift_is_applied_once() -> None:
    """theirs: bounds are stored after the shift and shifted again by set_timesteps."""
    scheduler = FlowScheduler(shift=3.0)
    noise = torch.linspace(1, 0, 5)
    expected = 3 * noise / (1 + 2 * noise)
    for _ in range(3):
        scheduler.set_timesteps(4)
        torch.testing.assert_close(scheduler.sigmas.double(), expected, atol=1e-6, rtol=0)
    again = FlowScheduler(shift=scheduler.config.shift)
    again.set_timesteps(4)
    assert torch.equal(again.sigmas, scheduler.sigmas)
    grids = [integrate(Flow(lambda x, t: x), torch.ones(1, 1), steps=4, shift=3.0).times for _ in range(2)]
    assert torch.equal(*grids)
    torch.testing.assert_close(1 - grids[0], expected, atol=1e-12, rtol=0)
    assert all(later > earlier for earlier, later in itertools.pairwise(grids[0].tolist()))
