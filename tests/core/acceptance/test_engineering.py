"""One generator decides every draw, the same one gives the same bits, and networks inside ours are networks still."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectiflow import couplings, sources, times
from rectiflow.adapters import ReversedTime, TimeFirst
from rectiflow.batch import parts
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.likelihood import dequantise, log_prob, sample_with_log_prob
from rectiflow.mean_reversion import mean_reverting
from rectiflow.path_conversion import convert_path
from rectiflow.sampling import integrate, sample
from rectiflow.score_and_flow import ScoreAndFlow
from rectiflow.solvers.catalogue import ADAPTIVE, SOLVERS
from rectiflow.spaces.igso3 import IGSO3
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.torus import Torus
from rectiflow.spaces.zero_mean import ZeroMean
from rectiflow.stochastic_interpolant import LatentScore, StochasticInterpolant


class Network(nn.Module):
    """A small network of state and time."""

    def __init__(self, width: int = 3, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(torch.randn(width + 1, 8, generator=g))
        self.outer = nn.Parameter(torch.randn(8, width, generator=g))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(torch.cat([x, t.reshape(-1, 1).to(x)], 1) @ self.inner) @ self.outer


def flat(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(x) + t.reshape((-1,) + (1,) * (x.ndim - 1))


def rows(count: int, *shape: int) -> Tensor:
    return torch.linspace(-1, 2, count * int(np.prod(shape))).reshape(count, *shape).sin()


def solved(method: str, generator: torch.Generator) -> Any:
    start = None if method in ADAPTIVE else 4
    return sample(Flow(flat), (4, 3), steps=start, method=method, generator=generator)


def law_of(name: str, generator: torch.Generator) -> Any:
    return getattr(times, name)().sample(9, generator)


def coupled(name: str, generator: torch.Generator) -> Any:
    found = getattr(couplings, name)()(rows(8, 5, 3), rows(8, 5, 3) + 0.3, generator=generator)
    return {"x0": found.x0, "x1": found.x1}


def source_of(source: Any, generator: torch.Generator) -> Any:
    flow = Flow(flat, source=source)
    return flow.sample_source((5, 4), generator=generator)


def prior_of(space: Any, generator: torch.Generator) -> Any:
    shape: Any = (3, 2, 4)
    return space.sample_prior({"a": shape, "b": shape} if isinstance(space, Product) else shape, generator)


def loss_of(flow: Any, generator: torch.Generator) -> Any:
    return flow.loss(rows(6, 3), generator=generator)


Draw = Callable[[torch.Generator], Any]


def stochastic_calls() -> Iterator[tuple[str, Draw]]:
    """Everything of the core that draws, by name: solvers, laws, couplings, sources, priors, losses and likelihoods."""
    for method in sorted(SOLVERS):
        yield f"sample {method}", lambda g, m=method: solved(m, g)  # type: ignore[misc]
    for name, cls in inspect.getmembers(times, inspect.isclass):
        if issubclass(cls, times.TimeLaw) and not inspect.isabstract(cls):
            yield f"times {name}", lambda g, n=name: law_of(n, g)  # type: ignore[misc]
    for name in couplings.__all__:
        cls = getattr(couplings, name)
        if inspect.isclass(cls) and issubclass(cls, couplings.Coupling) and not inspect.isabstract(cls):
            yield f"coupling {name}", lambda g, n=name: coupled(n, g)  # type: ignore[misc]
    for source in (sources.Gaussian(), sources.StudentT(5.0), sources.Empirical(rows(7, 4))):
        yield f"source {type(source).__name__}", lambda g, s=source: source_of(s, g)  # type: ignore[misc]
    for space in (Sphere(), SO3(), SO3(prior=IGSO3(0.5)), Torus(), ZeroMean(), Product(a=Sphere(), b=Torus())):
        yield f"prior {space!r}", lambda g, s=space: prior_of(s, g)  # type: ignore[misc]
    for flow in (Flow(flat), Flow(flat, StochasticInterpolant()), ScoreAndFlow(flat, flat)):
        yield f"loss {type(flow).__name__}", lambda g, f=flow: loss_of(f, g)  # type: ignore[misc]
    for divergence in ("hutchinson", "hutch++"):
        yield (
            f"log_prob {divergence}",
            lambda g, d=divergence: log_prob(Flow(Network()), rows(3, 3), steps=2, divergence=d, generator=g),  # type: ignore[misc]
        )
    yield "sample_with_log_prob", lambda g: sample_with_log_prob(Flow(flat), (3, 2), steps=2, generator=g).x
    yield "dequantise", lambda g: dequantise(rows(3, 2), 0.1, g)


CALLS = dict(stochastic_calls())
WITHOUT_DRAWS = {f"coupling {name}" for name in ("Independent", "MinibatchOT", "RowPermutation", "AlignedOT")}


@pytest.mark.parametrize("name", CALLS)
def test_the_generator_decides_and_no_global_one_is_touched(name: str) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first, again, other = (CALLS[name](torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, parts(first), parts(again)))
    if name not in WITHOUT_DRAWS:
        assert not all(map(torch.equal, parts(first), parts(other)))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def wrapped(kind: str, network: nn.Module) -> nn.Module:
    """The network inside each of the library's modules."""
    path = StochasticInterpolant()
    if kind == "converted":
        inside = convert_path(Flow(network), Trigonometric()).model
    elif kind == "mean-reverting":
        inside = mean_reverting(network, 0.3, Trigonometric()).model
    else:
        inside = {
            "reversed": lambda: ReversedTime(network),
            "time first": lambda: TimeFirst(TimeFirst(network)),
            "latent score": lambda: LatentScore(network, path),
        }[kind]()
    assert isinstance(inside, nn.Module)
    return inside


@pytest.mark.parametrize("kind", ["converted", "mean-reverting", "reversed", "time first", "latent score"])
def test_state_dicts_go_round_through_every_wrapper(kind: str) -> None:
    trained, fresh = wrapped(kind, Network(seed=1)), wrapped(kind, Network(seed=2))
    x, t = rows(4, 3), torch.full((4,), 0.4)
    expected = trained(x, t)
    assert not torch.equal(fresh(x, t), expected)
    fresh.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert torch.equal(fresh(x, t), expected)
    assert len(list(trained.parameters())) == 2


@pytest.mark.parametrize("method", ["euler", "dpm++2m"])
def test_a_solve_can_be_captured_as_a_graph(method: str) -> None:
    """torch.compile up to its tracer, which is what the library's own code can break; the slow tests generate code too."""
    torch.compiler.reset()
    flow, x = Flow(Network()), rows(5, 3)

    def solve(x: Tensor) -> Tensor:
        end: Tensor = integrate(flow, x, steps=3, method=method).x
        return end

    torch.testing.assert_close(torch.compile(solve, backend="eager")(x), solve(x), atol=1e-12, rtol=0)
