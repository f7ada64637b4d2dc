"""Sampling on another schedule: what is left after any number of steps, exact steps, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Exponential, Interpolant, Linear, Polynomial, Trigonometric
from rectiflow.sampling import integrate, sample
from rectiflow.schedules import exponentials, scheduled
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.torus import Torus
from rectiflow.spaces.zero_mean import ZeroMean

FRAMES = Product(translations=ZeroMean(), rotations=SO3())
SHAPE = {"translations": (8, 5, 3), "rotations": (8, 5, 4)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def oracle() -> tuple[Flow, dict[str, Tensor]]:
    """A network that knows the answer, and the answer."""
    target = FRAMES.sample_prior(SHAPE, seeded(9))
    return Flow(lambda x, t: target, predicts="data", space=FRAMES), target


def grid(start: float, steps: int) -> Tensor:
    return torch.linspace(start, 1, steps + 1)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 50, 500])
@pytest.mark.parametrize(("rate", "start"), [(10.0, 0.0), (10.0, 0.01), (3.0, 0.2)])
def test_what_is_left_of_a_rotation_does_not_depend_on_the_steps(steps: int, rate: float, start: float) -> None:
    """exp(-c (1 - t0)) of every angle, and nothing of the translations, which stay linear."""
    flow, target = oracle()
    x0 = FRAMES.sample_prior(SHAPE, seeded(1))
    paced = scheduled(flow, {"rotations": Exponential(rate)})
    solution = integrate(paced, x0, times=grid(start, steps), method="ddim")
    rotations = SO3()
    left = rotations.separation(solution.x["rotations"], target["rotations"])
    before = rotations.separation(x0["rotations"], target["rotations"])
    torch.testing.assert_close(left / before, torch.full((8, 5), math.exp(-rate * (1 - start))), rtol=1e-9, atol=0)
    torch.testing.assert_close(solution.x["translations"], target["translations"], rtol=0, atol=1e-12)
    assert solution.nfe == steps
    straight = integrate(flow, x0, times=grid(start, steps), method="ddim").x
    assert float(rotations.separation(straight["rotations"], target["rotations"]).max()) < 1e-12


def test_the_euler_rule_overshoots_where_the_exact_step_does_not() -> None:
    """Four steps of rate 10 multiply the angle by |1 - 2.5| each: the known failure of few-step samplers."""
    space = SO3()
    target = torch.tensor([1.0, 0, 0, 0]).expand(4, 4)
    start = space.exp(target, 0.1 * torch.eye(3)[[0, 1, 2, 0]])
    paced = scheduled(Flow(lambda x, t: target, predicts="data", space=space), Exponential(10.0))
    left = {m: space.distance(integrate(paced, start, steps=4, method=m).x, target) for m in ("euler", "ddim")}
    torch.testing.assert_close(left["euler"], torch.full((4,), 0.1 * 1.5**4), rtol=1e-9, atol=0)
    torch.testing.assert_close(left["ddim"], torch.full((4,), 0.1 * math.exp(-10)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("space", [SO3(), Sphere(), Torus(2.0)], ids=repr)
@pytest.mark.parametrize("path", [Linear(), Polynomial(), Exponential(4.0)], ids=repr)
def test_a_prediction_that_stays_put_is_approached_along_the_path_itself(space: Any, path: Interpolant) -> None:
    """From the source one step to t, or many, end where the training path is at t."""
    x0, x1 = (space.sample_prior((20, 4), seeded(seed)) for seed in (1, 2))
    flow = Flow(lambda x, t: x1, path, "data", space)
    for times in ([0.0, 0.6], [0.0, 0.1, 0.35, 0.6]):
        end = integrate(flow, x0, times=torch.tensor(times), method="ddim").x
        expected, _ = space.path(x0, x1, torch.full((20,), 0.6), path)
        assert float(space.distance(end, expected).max()) < 1e-10


def test_on_the_linear_path_it_is_eulers_method() -> None:
    """And what comes out is the last data prediction, as on flat space."""
    seen: list[Any] = []

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        turned = SO3().exp(x["rotations"], torch.sin(3 * x["rotations"][..., :3]) + t[:, None, None])
        seen.append({"translations": torch.cos(x["translations"]), "rotations": turned})
        return dict(seen[-1])

    flow = Flow(model, predicts="data", space=FRAMES)
    ends = [sample(flow, SHAPE, steps=6, method=method, generator=seeded(2)) for method in ("euler", "ddim")]
    assert float(SO3().distance(ends[0]["rotations"], ends[1]["rotations"]).max()) < 1e-12
    torch.testing.assert_close(ends[0]["translations"], ends[1]["translations"], rtol=0, atol=1e-12)
    assert float(SO3().distance(ends[1]["rotations"], seen[-1]["rotations"]).max()) < 1e-12


def test_flat_components_approach_on_any_path() -> None:
    """The exact step of a flat component is that of DDIM alone, on the same path."""
    x0, x1 = (torch.randn(6, 3, generator=seeded(seed)) for seed in (1, 2))
    space = Product(place=Euclidean(), turn=SO3())
    q = SO3().sample_prior((6, 4), seeded(3))
    flow = Flow(lambda x, t: {"place": x1 + t[:, None], "turn": q}, predicts="data", space=space)
    for path in (Trigonometric(), Exponential(3.0)):
        alone = Flow(lambda x, t: x1 + t[:, None], path, "data")
        together = integrate(scheduled(flow, {"place": path}), {"place": x0, "turn": q}, steps=4, method="ddim").x
        torch.testing.assert_close(together["place"], integrate(alone, x0, steps=4, method="ddim").x)


@pytest.mark.parametrize("method", ["midpoint", "rk4"])
def test_other_solvers_reach_the_same_limit(method: str) -> None:
    """The schedule is a velocity as well: with many steps any solver agrees with the exact one."""
    flow, _ = oracle()
    paced = scheduled(flow, {"rotations": Exponential(6.0)})
    x0 = FRAMES.sample_prior(SHAPE, seeded(1))
    times = torch.linspace(0, 0.9, 201)
    ends = [integrate(paced, x0, times=times, method=m).x["rotations"] for m in (method, "ddim")]
    assert float(SO3().distance(*ends).max()) < 2e-3


def test_the_network_sees_the_times_that_it_was_trained_on() -> None:
    times: list[float] = []

    def model(x: Any, t: Tensor) -> Any:
        times.append(float(t[0]))
        return x

    flow = scheduled(Flow(model, predicts="data", space=FRAMES), {"rotations": Exponential(10.0)})
    sample(flow, SHAPE, steps=4, method="ddim", generator=seeded())
    assert times == [0.0, 0.25, 0.5, 0.75]


def test_masks_and_self_conditioning_stay_in_place() -> None:
    mask = torch.arange(5)[None] < torch.tensor([5, 3])[:, None]
    shape = {"translations": (2, 5, 3), "rotations": (2, 5, 4)}
    told: list[float] = []

    def model(x: Any, t: Tensor, self_condition: Any) -> Any:
        told.append(float(self_condition["rotations"].abs().sum()))
        return {"translations": torch.sin(x["translations"]) + 1, "rotations": x["rotations"]}

    flow = Flow(model, predicts="data", space=FRAMES, self_conditioning=True)
    paced = scheduled(flow, {"rotations": Exponential(10.0)}).masked(mask)
    assert isinstance(paced.space, Product)
    assert paced.space.schedules == {"rotations": Exponential(10.0)}
    x = sample(paced, shape, steps=3, method="ddim", generator=seeded())
    torch.testing.assert_close(x["translations"][1, :3].mean(0), torch.zeros(3), rtol=0, atol=1e-12)
    assert told[0] == 0
    assert min(told[1:]) > 0


def test_settings_spell_rates() -> None:
    assert exponentials({"rotations": 10}) == {"rotations": Exponential(10.0)}
    flow, _ = oracle()
    for plain in (flow, Flow(lambda x, t: x)):
        assert scheduled(plain, exponentials({})) is plain


def test_what_cannot_be_scheduled_is_refused() -> None:
    flow, target = oracle()
    with pytest.raises(ConfigError, match="predicts velocity"):
        scheduled(Flow(lambda x, t: x, space=FRAMES), {"rotations": Exponential()})
    with pytest.raises(ConfigError, match="average velocities"):
        scheduled(Flow(lambda x, t, until: x, predicts="data", average=True), Exponential())
    with pytest.raises(ConfigError, match=r"'turns'.*allowed: rotations, translations"):
        scheduled(flow, {"turns": Exponential()})
    with pytest.raises(ConfigError, match=r"\['turns'\].*SO3.*no components"):
        scheduled(Flow(lambda x, t: x, predicts="data", space=SO3()), {"turns": Exponential()})
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="Exponential rate"):
            exponentials({"rotations": rate})
    paced = scheduled(flow, {"rotations": Exponential()})
    with pytest.raises(ConfigError, match=r"\['rotations'\] are on schedules for sampling"):
        paced.loss(target, generator=seeded())
    with pytest.raises(ConfigError, match=r"'ddim'.*from 1 to 0.*midpoint"):
        integrate(paced, target, times=torch.tensor([1.0, 0.0]), method="ddim")
    with pytest.raises(ConfigError, match=r"'ddim'.*predicts velocity: use euler"):
        sample(Flow(lambda x, t: x[..., 1:], space=SO3()), (2, 4), steps=2, method="ddim", generator=seeded())
    flat = Flow(lambda x, t: x, predicts="data", space=Product(a=Euclidean(), b=Euclidean()))
    assert not scheduled(flat, {"a": Exponential()}).space.linear
    with pytest.raises(ConfigError, match=r"dpm\+\+2m"):
        sample(scheduled(flat, {"a": Exponential()}), {"a": (2, 1), "b": (2, 1)}, steps=2, method="dpm++2m")
