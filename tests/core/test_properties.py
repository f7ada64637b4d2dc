"""What must hold for every interpolant on every space and for every prediction type, found by walking the core's classes.

A new interpolant, latent schedule or space is covered as soon as it exists; one that cannot be built without arguments needs a
line in `EXAMPLES`.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rectiflow
from rectiflow.batch import map_state, parts, shape_of
from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConversionError
from rectiflow.flow import Draw, Flow
from rectiflow.interpolants import Interpolant, Linear
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import ANY_SPACE
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.space import Space
from rectiflow.spaces.torus import Torus
from rectiflow.stochastic_interpolant import Latent, OneSided, StochasticInterpolant
from rectiflow.times import TimeLaw

KINDS: tuple[Prediction, ...] = get_args(Prediction)
SHAPE = (2, 4)
"""A state that every space of the core takes: two unit quaternions, points on S^3, rows of a set, ..."""
EXAMPLES: dict[str, Any] = {
    "OneSided": OneSided(StochasticInterpolant()),
    "Product": Product(place=Euclidean(), turn=SO3(), angle=Torus(), weights={"turn": 2.0}),
}


def concrete(base: type) -> dict[str, Any]:
    """One instance of every class of the core below `base` that can be instantiated."""
    for module in pkgutil.walk_packages(rectiflow.__path__, "rectiflow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, queue = {}, [base]
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        public = cls.__module__.startswith("rectiflow.") and not cls.__name__.startswith("_")
        if public and not inspect.isabstract(cls):
            found[cls.__name__] = EXAMPLES[cls.__name__] if cls.__name__ in EXAMPLES else cls()
    return dict(sorted(found.items()))


SPACES: dict[str, Space] = concrete(Space)
PATHS: dict[str, Interpolant] = {
    **concrete(Interpolant),
    **{name: StochasticInterpolant(latent=latent) for name, latent in concrete(Latent).items()},
}


def has_path(space: Space, path: Interpolant) -> bool:
    """Curved spaces have geodesics only, and no latent noise."""
    return space.linear or (path.convex and not isinstance(path, StochasticInterpolant))


PAIRS = [(s, p) for s, p in itertools.product(SPACES, PATHS) if has_path(SPACES[s], PATHS[p])]


def parametrised(pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    values = [(SPACES[s], PATHS[p]) for s, p in pairs]
    return pytest.mark.parametrize(("space", "path"), values, ids=map("-".join, pairs))


every_pair = parametrised(PAIRS)
every_pair_of_kinds = parametrised([(s, p) for s, p in PAIRS if not isinstance(PATHS[p], StochasticInterpolant)])
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
exactly = settings(max_examples=4, deadline=None, derandomize=True, database=None)
few = settings(exactly, max_examples=2)
seeds = st.integers(0, 2**31)
inner_times = st.lists(st.floats(0.02, 0.98), min_size=2, max_size=2)


@dataclass(frozen=True)
class At(TimeLaw):
    """The law of given times, for a batch of that many."""

    times: tuple[float, ...]

    def sample(self, count: int, generator: Any = None, *, device: Any = "cpu") -> Tensor:
        return torch.tensor(self.times).expand(count)


def states(space: Space, seed: int, size: int = 2) -> Any:
    """Random states, or of a product space a dict of them."""
    shape: Any = (size, *SHAPE)
    if isinstance(space, Product):
        shape = dict.fromkeys(space.components, shape)
    return space.sample_prior(shape, torch.Generator().manual_seed(seed))


def identity(x: Any, t: Tensor) -> Any:
    return x


def drawn(space: Space, path: Interpolant, kind: Prediction, seed: int, times: Any, x0: Any = None) -> Draw:
    """The same ends, and the same latent noise, for the same seed, whatever the times."""
    flow = Flow(identity, path, kind, space)
    law = At(tuple(float(t) for t in times))
    return flow.draw(states(space, seed), x0=x0, times=law, generator=torch.Generator().manual_seed(seed + 1))


def kinds_of(space: Space, path: Interpolant) -> list[Prediction]:
    """The predictions that a flow there may be trained on."""
    defined = []
    for kind in KINDS:
        try:
            drawn(space, path, kind, 0, [0.5, 0.5])
        except ConversionError:
            continue
        defined.append(kind)
    return defined


def largest(state: Any) -> float:
    return max(float(part.detach().abs().max()) for part in parts(state))


def apart(x: Any, y: Any) -> float:
    """Largest difference of two tensors or dicts, in units of the second's size where that is above 1."""
    return largest(map_state(torch.sub, x, y)) / max(1.0, largest(y))


def test_every_class_of_the_core_takes_part() -> None:
    assert {"Euclidean", "Product", "SO3", "Sphere", "Torus", "ZeroMean"} <= set(SPACES)
    assert {"Linear", "Lipman", "Polynomial", "StochasticInterpolant", "OneSided", "VariancePreserving"} <= set(PATHS)
    assert {kind for s, p in PAIRS for kind in kinds_of(SPACES[s], PATHS[p])} == set(KINDS)
    for space in SPACES.values():
        assert "velocity" in kinds_of(space, Linear())
        assert "data" in kinds_of(space, Linear())


@every_pair
@given(seed=seeds)
@exactly
def test_a_path_starts_at_the_source_and_ends_at_data(space: Space, path: Interpolant, seed: int) -> None:
    """Diffusion paths begin near the source (a(0) = 0.0066), and Lipman's ends near data: 1 % of the ends' size."""
    draw = drawn(space, path, "velocity", seed, [0.0, 1.0])
    size = 1.0 + largest(draw.x0) + largest(draw.x1)
    start, end = space.distance(draw.xt, draw.x0), space.distance(draw.xt, draw.x1)
    assert bool((start[draw.t == 0] <= 0.02 * size).all())
    assert bool((end[draw.t == 1] <= 1e-4 * size).all())


@every_pair
@given(seed=seeds, times=inner_times)
@exactly
def test_the_velocity_is_the_derivative_of_the_path(
    space: Space, path: Interpolant, seed: int, times: list[float]
) -> None:
    """Against a difference quotient of fourth order, in the tangent space at x_t."""
    e = 1e-4
    draw = drawn(space, path, "velocity", seed, times)
    near = {
        k: space.log(draw.xt, drawn(space, path, "velocity", seed, [t + k * e for t in times]).xt)
        for k in (-2, -1, 1, 2)
    }
    quotient = map_state(lambda a, b, c, d: (a - 8 * b + 8 * c - d) / (12 * e), *(near[k] for k in (-2, -1, 1, 2)))
    assert apart(draw.target, quotient) < 1e-6


@every_pair
@given(seed=seeds, times=inner_times)
@exactly
def test_conversions_recover_the_ends_and_come_back(
    space: Space, path: Interpolant, seed: int, times: list[float]
) -> None:
    """A conversion and its inverse exist together, and undo one another at every point of a path."""
    flow = Flow(identity, path, space=space)
    draws = {kind: drawn(space, path, kind, seed, times) for kind in kinds_of(space, path)}
    for kind, target in itertools.product(KINDS, KINDS):
        draw = draws.get(kind)
        if draw is None:
            continue
        try:
            there = flow.convert(draw.target, kind, target, draw.xt, draw.t)
        except ConversionError:
            with pytest.raises(ConversionError):
                flow.convert(draw.xt, target, kind, draw.xt, draw.t)
            continue
        back = flow.convert(there, target, kind, draw.xt, draw.t)
        for found, expected, name in ((there, draws[target].target, target), (back, draw.target, kind)):
            # A rotation has two quaternions, so data on a curved space are compared as states.
            same = space.distance(found, expected).max() if name == "data" else apart(found, expected)
            assert float(same) < 1e-10, (kind, target)


@every_pair
@given(seed=seeds)
@few
def test_conversions_are_finite_at_both_ends_of_time(space: Space, path: Interpolant, seed: int) -> None:
    flow = Flow(identity, path, space=space)
    for kind, target in itertools.product(kinds_of(space, path), KINDS):
        draw = drawn(space, path, kind, seed, [0.0, 1.0])
        try:
            found = flow.convert(draw.target, kind, target, draw.xt, draw.t)
        except ConversionError:
            continue
        assert all(bool(torch.isfinite(part).all()) for part in parts(found)), (kind, target)


@every_pair
@given(seed=seeds, times=st.lists(st.floats(0, 1), min_size=2, max_size=2))
@exactly
def test_an_oracle_has_no_loss(space: Space, path: Interpolant, seed: int, times: list[float]) -> None:
    for kind in kinds_of(space, path):
        flow = Flow(identity, path, kind, space)
        draw = drawn(space, path, kind, seed, times)
        # Rounding of the residual, whose targets grow like 1 / g and 1 / s next to the ends.
        assert float(flow.regression(draw.target, draw)) < 1e-28 * (1 + largest(draw.target)) ** 2, kind
        if not isinstance(path, StochasticInterpolant):
            assert float(flow.regression(draw.target, draw, weight="velocity")) < 1e-16, kind


def opposite(space: Space, x: Any) -> Any:
    """States where geodesics from x stop being unique: antipodes, half periods, the other quaternion of the same rotation."""
    if isinstance(space, Product):
        return {name: opposite(part, x[name]) for name, part in space.components.items()}
    return space.project(x + space.period / 2) if isinstance(space, Torus) else -x


@every_pair
@pytest.mark.parametrize("ends", ["equal", "opposite", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_losses_and_gradients_are_finite_at_degenerate_points(
    space: Space, path: Interpolant, ends: str, dtype: torch.dtype
) -> None:
    """At both ends of time, with respect to the prediction and to the data (a learnt encoder)."""
    for kind in kinds_of(space, path):
        flow = Flow(identity, path, kind, space)
        x1 = map_state(lambda part: part.to(dtype).requires_grad_(), states(space, 0))
        if ends == "zero":
            x1 = map_state(lambda part: torch.zeros_like(part).requires_grad_(), x1)
        x0 = opposite(space, x1) if ends == "opposite" else x1
        draw = flow.draw(
            x1, x0=map_state(torch.detach, x0), times=At((0.0, 1.0)), generator=torch.Generator().manual_seed(0)
        )
        prediction = map_state(lambda part: (0.5 * part.detach()).requires_grad_(), draw.target)
        exact = map_state(lambda part: part.detach().clone().requires_grad_(), draw.target)
        loss = flow.regression(prediction, draw) + flow.regression(exact, draw)
        loss.backward()
        assert bool(torch.isfinite(loss)), kind
        for name, state in (("x1", x1), ("prediction", prediction), ("target", exact)):
            for part in parts(state):
                assert part.grad is None or bool(torch.isfinite(part.grad).all()), (kind, name)


@dataclass(frozen=True)
class Field:
    """A smooth field on any space, towards a blend of two given states per sample, as a model that puts out any kind."""

    space: Space
    path: Interpolant
    kind: Prediction
    first: Any
    second: Any

    def __call__(self, x: Any, t: Tensor, push: Tensor) -> Any:
        def blend(one: Tensor, other: Tensor) -> Tensor:
            row = (-1,) + (1,) * (one.ndim - 1)
            return push.reshape(row) * one + (1 + t).reshape(row) * other

        def fitted(part: Tensor) -> Tensor:  # a guided evaluation holds the batch twice
            return part.repeat(len(t) // len(part), *(1,) * (part.ndim - 1))

        v = map_state(blend, *(self.space.log(x, map_state(fitted, y)) for y in (self.first, self.second)))
        return Flow(identity, self.path, space=self.space).convert(v, "velocity", self.kind, x, t)


def flow_through(space: Space, path: Interpolant, kind: Prediction, seed: int) -> tuple[Flow, Any, dict[str, Tensor]]:
    """A flow of the field near random states, those states, and its condition."""
    x = states(space, seed)
    near = [space.exp(x, map_state(lambda v: 0.1 * v, space.log(x, states(space, seed + k)))) for k in (1, 2)]
    flow = Flow(Field(space, path, kind, *near), path, kind, space, null={"push": 0.0})
    return flow, x, {"push": torch.tensor([0.3, -0.2])}


GRID = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)


@every_pair_of_kinds
@given(seed=seeds)
@few
def test_inversion_undoes_sampling_and_kinds_agree(space: Space, path: Interpolant, seed: int) -> None:
    """RK4 there and back, and the same end whatever the network puts out."""
    ends = []
    for kind in kinds_of(space, path):
        flow, x, cond = flow_through(space, path, kind, seed)
        end = integrate(flow, x, times=GRID, method="rk4", cond=cond).x
        back = integrate(flow, end, times=GRID.flip(0), method="rk4", cond=cond).x
        assert float(space.distance(x, end).min()) > 1e-2
        assert float(space.distance(back, x).max()) < 1e-5
        ends.append(end)
    assert all(float(space.distance(end, ends[0]).max()) < 1e-9 for end in ends)


@every_space
@pytest.mark.parametrize("method", sorted(ANY_SPACE))
def test_guidance_at_scale_one_is_the_conditional_model_bit_for_bit(space: Space, method: str) -> None:
    """Also outside its interval; and at scale zero it is the model under the null condition."""
    for kind in kinds_of(space, Linear()):
        flow, x, cond = flow_through(space, Linear(), kind, 5)

        def end(model: Flow, conditions: dict[str, Tensor] | None, scale: Guidance | float) -> Any:
            return integrate(model, x, times=GRID[:3], method=method, cond=conditions, guidance=scale).x  # noqa: B023

        alone = Flow(lambda y, t: flow.model(y, t, **cond), flow.interpolant, kind, space)  # noqa: B023
        plain = end(alone, None, 1.0)
        for scale in (1.0, Guidance(1.0, (0.2, 0.4)), Guidance(3.0, (0.95, 1.0))):
            assert all(map(torch.equal, parts(end(flow, cond, scale)), parts(plain)))
        null = Flow(lambda y, t: flow.model(y, t, push=torch.zeros(2)), flow.interpolant, kind, space)  # noqa: B023
        unconditional = end(null, None, 1.0)
        assert all(map(torch.equal, parts(end(flow, cond, 0.0)), parts(unconditional)))
        assert shape_of(plain) == shape_of(x)
        assert not all(map(torch.equal, parts(end(flow, cond, 2.0)), parts(plain)))
