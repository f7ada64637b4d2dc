"""Search: who wins, what it costs, and what a reward without an opinion leaves unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.control import Found, Guidance, best_of, rollover, stepwise_best
from rectiflow.control.probing import Probe
from rectiflow.control.search import _quotas
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import VariancePreserving
from rectiflow.path_conversion import convert_path
from rectiflow.sampling import integrate
from rectiflow.spaces.so3 import SO3

PRIOR = GaussianFlow(torch.tensor([1.0]).double(), torch.tensor([[0.25]]).double())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first(x: Tensor) -> Tensor:
    return x[:, 0]


class Counting:
    """The prior's velocity, counting the states that it is asked about."""

    def __init__(self) -> None:
        self.states = 0

    def __call__(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.states += len(x)
        return PRIOR.velocity(x, t)


def test_best_of_returns_the_best_row_of_each_group() -> None:
    x0 = normal(12, 1)
    network = Counting()
    found = best_of(Flow(network), x0, first, particles=4, steps=5)
    samples = integrate(PRIOR.flow(), x0, steps=5).x.reshape(3, 4)
    torch.testing.assert_close(found.x[:, 0], samples.amax(1))
    torch.testing.assert_close(found.reward, samples.amax(1))
    assert found.nfe == 20
    assert network.states == 60


def test_rewards_see_the_conditions_of_their_group() -> None:
    """Each group has a target of its own; the reward is the distance to it."""
    target = torch.tensor([-1.0, 3.0])

    def near(x: Tensor, target: Tensor) -> Tensor:
        return -(x[:, 0] - target).abs()

    def model(x: Tensor, t: Tensor, target: Tensor) -> Tensor:
        return PRIOR.velocity(x, t)

    flow, g = Flow(model), torch.Generator().manual_seed(1)
    cond = {"target": target}
    results = [
        best_of(flow, normal(128, 1), near, particles=64, steps=10, cond=cond),
        stepwise_best(flow, normal(2, 1), near, candidates=32, steps=10, cond=cond, generator=g),
        rollover(flow, normal(8, 1), near, particles=4, max_nfe=300, steps=10, cond=cond, generator=g),
    ]
    for found in results:
        assert found.x.shape == (2, 1)
        torch.testing.assert_close(found.reward, near(found.x, target))
        assert float(found.x[0, 0]) < 0.3 < 1.8 < float(found.x[1, 0])


def searches(network: Counting, g: torch.Generator) -> dict[str, Found]:
    flow = Flow(network)
    return {
        "stepwise": stepwise_best(flow, normal(3, 1), first, candidates=6, steps=8, generator=g),
        "rollover": rollover(flow, normal(15, 1), first, particles=5, max_nfe=64, steps=8, generator=g),
    }


def test_rollover_spends_exactly_its_budget_and_the_count_is_that_of_the_network() -> None:
    for budget, particles, steps in ((64, 5, 8), (61, 5, 8), (12, 5, 8), (500, 25, 11), (100, 1, 2)):
        network = Counting()
        g = torch.Generator().manual_seed(budget)
        found = rollover(
            Flow(network),
            normal(3 * particles, 1),
            first,
            particles=particles,
            max_nfe=budget,
            steps=steps,
            generator=g,
        )
        assert found.nfe == budget
        assert network.states == 3 * budget


def test_stepwise_spends_what_it_says() -> None:
    network = Counting()
    found = searches(network, torch.Generator().manual_seed(0))["stepwise"]
    assert found.nfe == 1 + 6 * 7
    assert network.states == 3 * (43 + 0) + 3 * 64


@pytest.mark.parametrize("name", ["stepwise", "rollover"])
def test_the_best_estimate_never_falls_and_search_beats_its_sources(name: str) -> None:
    found = searches(Counting(), torch.Generator().manual_seed(0))[name]
    assert found.history.shape == (8, 3)
    assert bool((found.history.diff(dim=0) >= 0).all())
    assert bool((found.reward > 1.5).all())  # one standard deviation of the data above their mean


def test_a_guided_evaluation_counts_twice_in_the_budget() -> None:
    network = Counting()
    flow = Flow(network, null={"label": 0})
    g = torch.Generator().manual_seed(0)
    cond = {"label": torch.ones(1)}
    found = rollover(
        flow, normal(3, 1), lambda x, label: x[:, 0], max_nfe=41, steps=5, cond=cond, guidance=2.0, generator=g
    )
    assert found.nfe == 40 == network.states
    half = rollover(
        flow,
        normal(3, 1),
        lambda x, label: x[:, 0],
        max_nfe=40,
        steps=4,
        cond=cond,
        guidance=Guidance(2.0, (0.5, 1.0)),
        generator=g,
    )
    assert half.nfe < 40


@pytest.mark.parametrize("path", [None, VariancePreserving()], ids=repr)
def test_a_reward_without_an_opinion_leaves_the_law_of_the_samples(path: VariancePreserving | None) -> None:
    """Constant reward: the first child is the best one, so that every chain is one run of the stochastic sampler."""
    flow = PRIOR.flow() if path is None else convert_path(PRIOR.flow(), path)
    g = torch.Generator().manual_seed(3)
    found = rollover(
        flow, normal(3000, 1), lambda x: torch.zeros(len(x)), particles=1, max_nfe=81, steps=41, generator=g
    )
    assert found.nfe == 81
    assert float(found.x.mean()) == pytest.approx(1.0, abs=4 * 0.5 / 3000**0.5 + 0.005)
    assert float(found.x.std()) == pytest.approx(0.5, abs=4 * 0.5 / 6000**0.5 + 0.01)


def test_an_equal_reward_is_no_find() -> None:
    """Only a child that exceeds the best so far ends its step: a constant reward uses up every quota."""
    seen: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return PRIOR.velocity(x, t)

    rollover(Flow(model), normal(2, 1), lambda x: 0 * x[:, 0], max_nfe=14, steps=4, generator=torch.Generator())
    assert seen == [0.0] + [0.25] * 4 + [0.5] * 4 + [0.75] * 4


def test_a_probe_adds_no_noise_where_the_grid_ends_on_data() -> None:
    probe = Probe(PRIOR.flow(), None, 1.0, 0.5, [0.0, 0.5, 1.0])
    x, g = normal(4000, 1), torch.Generator().manual_seed(1)
    look = probe.look(x, 0.5, torch.zeros(4000, dtype=torch.long))
    torch.testing.assert_close(probe.step(x, look, 0.5, 1.0, g), x + 0.5 * look.velocity)
    noise = probe.step(x, look, 0.0, 0.5, g) - x - 0.5 * (look.velocity + 0.5 * look.score)
    assert float(noise.var()) == pytest.approx(2 * 0.5 * 0.5, abs=4 * 0.5 * (2 / 4000) ** 0.5)


def test_an_early_find_leaves_its_budget_to_the_next_step() -> None:
    """Rewards count the calls: every first child beats the best so far, so all but the last step take one evaluation."""
    calls = [0]

    def rising(x: Tensor) -> Tensor:
        calls[0] += 1
        return torch.full((len(x),), float(calls[0]))

    seen: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return PRIOR.velocity(x, t)

    g = torch.Generator().manual_seed(0)
    found = rollover(Flow(model), normal(2, 1), rising, max_nfe=17, steps=4, generator=g)
    assert seen == [0.0, 0.25, 0.5] + [0.75] * 13
    assert found.nfe == 17


def test_an_exhausted_step_goes_on_with_its_best_child_and_a_fresh_quota() -> None:
    """Falling rewards: no child ever beats the sources, and of each step the first child is the best."""
    calls = [0]
    states: list[Tensor] = []

    def falling(x: Tensor) -> Tensor:
        calls[0] += 1
        return torch.full((len(x),), -float(calls[0]))

    seen: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        states.append(x)
        return PRIOR.velocity(x, t)

    g = torch.Generator().manual_seed(0)
    found = rollover(Flow(model), normal(2, 1), falling, max_nfe=14, steps=4, diffusion=0.0, generator=g)
    assert seen == [0.0] + [0.25] * 4 + [0.5] * 4 + [0.75] * 4
    # without noise all children of a step are equal, and the path is Euler's from the best source, here the first
    torch.testing.assert_close(found.x, integrate(PRIOR.flow(), normal(2, 1)[:1], steps=4).x)


def test_quotas_are_even_and_add_up() -> None:
    assert _quotas(14, 1, 2, 3) == [4, 4, 4]
    assert sum(_quotas(500, 1, 25, 9)) == 475
    assert max(_quotas(500, 1, 25, 9)) - min(_quotas(500, 1, 25, 9)) == 1


def test_mistakes_are_named() -> None:
    flow, x, g = PRIOR.flow(), normal(4, 1), torch.Generator()
    with pytest.raises(ConfigError, match="max_nfe is 6; 4 sources and 4 steps with a choice need at least 8"):
        rollover(flow, x, first, max_nfe=6, steps=5, generator=g)
    with pytest.raises(ConfigError, match="at least 2 steps"):
        rollover(flow, x, first, max_nfe=60, steps=1, generator=g)
    with pytest.raises(ConfigError, match="candidates is 0"):
        stepwise_best(flow, x, first, candidates=0, steps=3, generator=g)
    with pytest.raises(ConfigError, match="SO3"):
        stepwise_best(Flow(lambda x, t: x, space=SO3()), normal(4, 4), first, candidates=2, steps=3, generator=g)
    with pytest.raises(ConfigError, match="groups of 3"):
        best_of(flow, x, first, particles=3, steps=2)
