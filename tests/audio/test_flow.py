"""Starts: what x0 is, that an exact estimate is reached in one step, and that a consistent flow never leaves the mixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.interpolants import Linear
from rectiflow.sampling import integrate
from rectiflow_audio.flow import (
    POWER,
    ConsistentStart,
    GuessingNetwork,
    MixtureStart,
    NoiseStart,
    RegressionStart,
    separation_flow,
)
from rectiflow_audio.representation import Spectra

SHAPE = (3, 2, 2, 256, 16)


def stems_and_mixture(spectra: Spectra, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    waves = 0.1 * torch.randn(3, 2, 2550, generator=generator)
    return spectra.encode(waves), spectra.encode(waves.sum(1, keepdim=True)), waves


@pytest.mark.parametrize("start", [MixtureStart(0.3), NoiseStart(0.5), ConsistentStart(0.3), RegressionStart()])
def test_an_exact_estimate_is_reached_in_one_step(start: Any, generator: torch.Generator) -> None:
    spectra = Spectra(exponent=1.0)
    x1, mixture, waves = stems_and_mixture(spectra, generator)
    flow = separation_flow(lambda x, t, **cond: (x1, torch.zeros(())), start)
    x0 = flow.sample_source(SHAPE, {"mixture": mixture}, generator)
    x = integrate(flow, x0, steps=1, method="euler", cond={"mixture": mixture}).x
    assert (x - x1).abs().max() < 1e-5
    assert (spectra.decode(x, 2550) - waves).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("start", "centre"), [(MixtureStart(0.3), 1.0), (NoiseStart(0.3), 0.0), (ConsistentStart(0.3), 0.5)]
)
def test_where_the_flow_starts(start: Any, centre: float, generator: torch.Generator) -> None:
    mixture = torch.randn(3, 1, 2, 256, 16, generator=generator)
    x0 = start(SHAPE, cond={"mixture": mixture}, generator=generator, device=torch.device("cpu"), dtype=torch.float32)
    noise = x0 - centre * mixture
    deviation = 0.3 if centre != 0.5 else 0.3 * 0.5**0.5  # what sums to 0 over two stems has half of the variance
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 * deviation / count**0.5
    assert float(noise.std()) == pytest.approx(deviation, rel=4 / (2 * count) ** 0.5)
    z = torch.randn(SHAPE, generator=generator)
    assert start.place(z, mixture).shape == SHAPE
    assert torch.allclose(start.place(0 * z, mixture), centre * mixture.expand(SHAPE), atol=1e-6)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_consistent_flow_never_leaves_the_mixture(method: str, generator: torch.Generator) -> None:
    spectra = Spectra(exponent=1.0)
    _, mixture, _ = stems_and_mixture(spectra, generator)
    seen = []

    def wrong(x: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor]:
        return 0.3 * x + 0.7 * torch.randn(x.shape, generator=generator), torch.randn(x.shape, generator=generator)

    flow = separation_flow(wrong, ConsistentStart())

    def watched(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        seen.append(x)
        estimate: Tensor = flow.model(x, t, **cond)
        return estimate

    x0 = flow.sample_source(SHAPE, {"mixture": mixture}, generator)
    end = integrate(replace(flow, model=watched), x0, steps=5, method=method, cond={"mixture": mixture}).x
    for x in (*seen, end):
        assert (x.mean(1) - mixture[:, 0] / 2).abs().max() < 1e-4
    assert (end[:, 0] - end[:, 1]).abs().max() > 0.1


def test_a_regression_sees_no_state_and_no_time(generator: torch.Generator) -> None:
    mixture = torch.randn(3, 1, 2, 256, 16, generator=generator)
    flow = separation_flow(
        lambda x, t, **cond: (x + t[:, None, None, None, None] + cond["mixture"], x), RegressionStart()
    )
    anywhere = torch.randn(SHAPE, generator=generator)
    estimate = flow.data(anywhere, torch.full((3,), 0.7), mixture=mixture)
    assert torch.equal(estimate, mixture.expand(SHAPE))


@pytest.mark.parametrize("start", [MixtureStart(0.3), NoiseStart(0.5), ConsistentStart(0.3)])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_a_network_is_shown_the_best_linear_guess(start: Any, t: float, generator: torch.Generator) -> None:
    """Its error is at right angles to what the state says, as that of a least-squares fit is."""
    shown: list[Tensor] = []

    def spy(x: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor]:
        shown.append(x)
        return x, x

    shape = (4, 2, 2, 64, 64)
    mixture = torch.randn(4, 1, 2, 64, 64, generator=generator)
    flow = separation_flow(spy, start)
    x0 = flow.sample_source(shape, {"mixture": mixture}, generator)
    x1 = POWER**0.5 * torch.randn(shape, generator=generator)
    x = (1 - t) * x0 + t * x1
    flow.data(x, torch.full((4,), t), mixture=mixture)
    (guess,) = shown
    count = guess.numel()
    slope = float((guess * x1).sum() / guess.square().sum())
    assert slope == pytest.approx(1, abs=8 * (POWER / float(guess.square().mean()) / count) ** 0.5)


@pytest.mark.parametrize("start", [MixtureStart(0.3), ConsistentStart(0.6)])
@pytest.mark.parametrize("stems", [3, 5])
def test_the_guess_knows_how_many_stems_there_are_and_their_power(
    start: Any, stems: int, generator: torch.Generator
) -> None:
    shown: list[Tensor] = []

    def spy(x: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor]:
        shown.append(x)
        return x, x

    shape, t = (4, stems, 2, 64, 48), 0.3
    mixture = 5 * torch.randn(4, 1, 2, 64, 48, generator=generator)
    x0 = start(shape, cond={"mixture": mixture}, generator=generator, device=torch.device("cpu"), dtype=torch.float32)
    x1 = torch.randn(shape, generator=generator)
    start.read(spy, Linear(), stems=stems, power=1.0)((1 - t) * x0 + t * x1, torch.full((4,), t), mixture=mixture)
    (guess,) = shown
    slope = float((guess * x1).sum() / guess.square().sum())
    assert slope == pytest.approx(1, abs=8 * (1 / float(guess.square().mean()) / guess.numel()) ** 0.5)


@pytest.mark.parametrize(("start", "centre"), [(MixtureStart(0.3), 1.0), (NoiseStart(0.5), 0.0)])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.01, 1.0, 20.0])
def test_the_estimate_is_the_mean_of_stems_that_the_network_and_the_state_tell_of(
    start: Any, centre: float, t: float, share: float, generator: torch.Generator
) -> None:
    """Normal stems about what the network says, of the variance that it says: beside numerical integration of Bayes' rule."""
    shape, variance = (2, 2, 2, 8, 3), share * POWER
    expected = torch.randn(shape, generator=generator)
    mixture = torch.randn(2, 1, 2, 8, 3, generator=generator)
    x = torch.randn(shape, generator=generator)
    network = start.read(lambda x, t, **cond: (expected, torch.full((1,), share).log()), Linear())
    found = network(x, torch.full((2,), t), mixture=mixture)
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    for place in [(0, 0, 0, 0, 0), (1, 1, 1, 5, 2), (0, 1, 0, 3, 1)]:
        heard = float(mixture[place[0], 0, *place[2:]])
        missed = float(x[place]) - t * grid - (1 - t) * centre * heard
        log_density = -missed.square() / (2 * ((1 - t) * start.sigma) ** 2)
        log_density -= (grid - float(expected[place])).square() / (2 * variance)
        weight = (log_density - log_density.max()).exp()
        assert float(found[place]) == pytest.approx(float((weight * grid).sum() / weight.sum()), abs=1e-3)


def test_the_state_is_nothing_at_the_start_and_everything_at_the_end(generator: torch.Generator) -> None:
    answer, x = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    mixture = torch.randn(3, 1, 2, 256, 16, generator=generator)
    shown: list[Tensor] = []

    def spy(x: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, Tensor]:
        shown.append(x)
        return answer, torch.full((1,), 100.0)

    network = GuessingNetwork(spy, Linear(), 1.0, 0.3)
    torch.testing.assert_close(network(x, torch.zeros(3), mixture=mixture), answer)
    torch.testing.assert_close(network(x, torch.ones(3), mixture=mixture), x)
    assert (shown[0] == 0).all()
    torch.testing.assert_close(shown[1], x)


@pytest.mark.parametrize("start", [MixtureStart, NoiseStart, ConsistentStart])
def test_noise_must_be_positive(start: Any) -> None:
    with pytest.raises(ConfigError):
        start(0.0)
