"""Dict states end to end: space operations, draws, losses, masks, coupling, guidance and every solver."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.analytic import GaussianFlow
from rectiflow.batch import Batch, batch_size, map_state, parts, shape_of
from rectiflow.couplings import MinibatchOT
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.sampling import integrate, invert, sample
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product

SPACE = Product(place=Euclidean(), colour=Euclidean())
SHAPE = {"place": (4, 5, 3), "colour": (4, 5, 2)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(seed: int) -> dict[str, Tensor]:
    g = seeded(seed)
    return {name: torch.randn(shape, generator=g) for name, shape in SHAPE.items()}


def mixing(x: dict[str, Tensor], t: Tensor, **_: Tensor) -> dict[str, Tensor]:
    """A field whose components depend on one another and on time."""
    total = x["place"].sum(-1, keepdim=True) + x["colour"].sum(-1, keepdim=True)
    return {
        "place": torch.sin(total) - x["place"],
        "colour": t[:, None, None] * torch.cos(total) + 0 * x["colour"],
    }


def test_euclidean_and_product_geometry() -> None:
    x, y, t = state(1), state(2), torch.tensor([0.0, 0.25, 0.5, 1.0])
    middle = SPACE.interpolate(x, y, t)
    for name in SHAPE:
        for i in range(4):
            expected = (1 - float(t[i])) * x[name][i] + float(t[i]) * y[name][i]
            torch.testing.assert_close(middle[name][i], expected)
        torch.testing.assert_close(SPACE.exp(x, SPACE.log(x, y))[name], y[name])
        torch.testing.assert_close(SPACE.step(x, y, -0.3)[name], x[name] - 0.3 * y[name])
        combined = SPACE.combine((x, y, x), (0.5, -2.0, 1.0))[name]
        torch.testing.assert_close(combined, 1.5 * x[name] - 2 * y[name])
    squares = SPACE.squared_distances(x, y)
    assert squares.shape == (4, 4)
    torch.testing.assert_close(SPACE.distance(x, y), squares.diagonal().sqrt())
    torch.testing.assert_close(Euclidean().distance(x["place"], y["place"])[2], (x["place"] - y["place"])[2].norm())
    assert repr(SPACE) == "Product(place=Euclidean(), colour=Euclidean())"


def test_states_report_their_batch() -> None:
    x = state(1)
    assert batch_size(x) == 4
    assert shape_of(x) == SHAPE
    assert [part.shape for part in parts(x)] == [(4, 5, 2), (4, 5, 3)]
    both = map_state(lambda a, b: a - b, x, x)
    assert isinstance(both, dict)
    assert not any(bool(part.any()) for part in both.values())


def test_a_batch_moves_as_a_whole() -> None:
    batch = Batch(state(1), {"label": torch.arange(4)}, torch.ones(4, 5, dtype=torch.bool), {"name": "x"}, state(2))
    assert len(batch) == 4
    moved = batch.to("meta")
    assert isinstance(moved.x1, dict)
    assert isinstance(moved.x0, dict)
    assert moved.mask is not None
    tensors = [*moved.x1.values(), *moved.x0.values(), *moved.cond.values(), moved.mask]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.extra == {"name": "x"}
    assert Batch(torch.zeros(2, 1)).to("cpu").x0 is None


def test_wrong_components_are_named() -> None:
    with pytest.raises(ConfigError, match="at least one component"):
        Product()
    flow = Flow(mixing, space=SPACE)
    with pytest.raises(ConfigError, match=r"\['colour'\].*\['colour', 'place'\]"):
        flow.loss({"colour": state(1)["colour"]}, generator=seeded())
    with pytest.raises(ConfigError, match=r"\['size'\]"):
        sample(flow, {"size": (2, 1)}, steps=1, generator=seeded())


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score"])
def test_a_draw_and_its_loss_are_those_of_the_components(predicts: Any) -> None:
    path = Trigonometric()
    flow = Flow(mixing, interpolant=path, predicts=predicts, space=SPACE)
    x1 = state(1)
    draw = flow.draw(x1, generator=seeded())
    assert isinstance(draw.x0, dict)
    assert isinstance(draw.xt, dict)
    assert isinstance(draw.target, dict)
    a, s, da, ds = (value[:, None, None] for value in path.coefficients(draw.t))
    prediction, expected = mixing(draw.xt, draw.t), torch.zeros(4)
    for name in SHAPE:
        torch.testing.assert_close(draw.xt[name], a * x1[name] + s * draw.x0[name])
        truth = {
            "velocity": da * x1[name] + ds * draw.x0[name],
            "data": x1[name],
            "noise": draw.x0[name],
            "score": -draw.x0[name] / s,
        }[predicts]
        torch.testing.assert_close(draw.target[name], truth, rtol=1e-8, atol=1e-8)
        expected = expected + (prediction[name] - truth).square().mean((1, 2))
    torch.testing.assert_close(flow.loss(x1, generator=seeded()), expected.mean())


@pytest.mark.parametrize("content", [5.0, math.nan])
def test_padding_of_any_component_is_ignored(content: float) -> None:
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 1, 2])[:, None]
    zero = Flow(lambda x, t: map_state(torch.zeros_like, x), space=SPACE)
    clean = {name: torch.where(mask[..., None], part, 0.0) for name, part in state(1).items()}
    dirty = {name: torch.where(mask[..., None], part, content) for name, part in state(1).items()}
    losses = [zero.loss(x1, mask=mask, generator=seeded()) for x1 in (clean, dirty)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.isclose(losses[0], zero.loss(clean, generator=seeded()))


def test_rows_stay_together_under_transport() -> None:
    x1 = {"place": torch.arange(8.0)[:, None], "colour": 10 * torch.arange(8.0)[:, None]}
    flow = Flow(mixing, space=SPACE)
    draw = flow.draw(x1, {"row": torch.arange(8)}, coupling=MinibatchOT(0.0), generator=seeded())
    assert isinstance(draw.x1, dict)
    assert draw.index.tolist() != list(range(8))
    assert torch.equal(draw.x1["colour"], 10 * draw.x1["place"])
    assert torch.equal(draw.x1["place"][:, 0].long(), draw.cond["row"])


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
def test_solving_a_product_is_solving_the_joined_vector(method: str) -> None:
    def joined(x: Tensor, t: Tensor) -> Tensor:
        v = mixing({"place": x[..., :3], "colour": x[..., 3:]}, t)
        return torch.cat([v["place"], v["colour"]], -1)

    x0 = state(3)
    solution = integrate(Flow(mixing, space=SPACE), x0, steps=6, method=method, trajectory=True)
    flat = integrate(Flow(joined), torch.cat([x0["place"], x0["colour"]], -1), steps=6, method=method)
    torch.testing.assert_close(torch.cat([solution.x["place"], solution.x["colour"]], -1), flat.x)
    assert solution.nfe == flat.nfe
    assert solution.trajectory is not None
    assert len(solution.trajectory) == 7
    back = invert(Flow(mixing, space=SPACE), solution.x, steps=200, method="rk4")
    true_back = invert(Flow(joined), flat.x, steps=200, method="rk4")
    torch.testing.assert_close(torch.cat([back["place"], back["colour"]], -1), true_back)


def test_sampling_a_product_of_gaussians() -> None:
    first = GaussianFlow(torch.tensor([1.0]), torch.tensor([[4.0]]))
    second = GaussianFlow(torch.tensor([-2.0, 0.0]), torch.eye(2) / 4)

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"place": first.velocity(x["place"], t), "colour": second.velocity(x["colour"], t)}

    n = 20_000
    flow = Flow(model, space=SPACE)
    x = sample(flow, {"place": (n, 1), "colour": (n, 2)}, steps=20, method="rk4", generator=seeded())
    assert abs(float(x["place"].mean()) - 1) < 4 * 2 / math.sqrt(n)
    assert abs(float(x["place"].var()) - 4) < 4 * 4 * math.sqrt(2 / n)
    assert abs(float(x["colour"][:, 0].mean()) + 2) < 4 * 0.5 / math.sqrt(n)
    assert abs(float(torch.corrcoef(torch.stack([x["place"][:, 0], x["colour"][:, 0]]))[0, 1])) < 4 / math.sqrt(n)


def test_guidance_and_self_conditioning_work_component_by_component() -> None:
    seen: list[dict[str, Tensor]] = []

    def model(x: dict[str, Tensor], t: Tensor, label: Tensor, self_condition: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(self_condition)
        rows = label[:, None].to(t.dtype)
        return {"place": rows.expand_as(x["place"]), "colour": -rows.expand_as(x["colour"])}

    flow = Flow(model, space=SPACE, null={"label": 0}, self_conditioning=True)
    start = {"place": torch.zeros(2, 1), "colour": torch.zeros(2, 1)}
    end = integrate(flow, start, steps=2, cond={"label": torch.tensor([1, 5])}, guidance=2.0)
    assert end.x["place"].flatten().tolist() == [2.0, 10.0]
    assert end.x["colour"].flatten().tolist() == [-2.0, -10.0]
    assert end.nfe == 4
    assert seen[1]["place"].flatten().tolist() == [1.0, 5.0, 1.0, 5.0]
    losses = [flow.loss(start, {"label": torch.tensor([1, 5])}, generator=seeded(seed)) for seed in range(8)]
    assert bool(torch.isfinite(torch.stack(losses)).all())


def test_a_nan_in_one_component_is_found() -> None:
    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"place": x["place"], "colour": torch.where(t[:, None, None] > 0.5, math.nan, x["colour"])}

    with pytest.raises(NonFiniteError, match="at step 4 of 4"):
        integrate(Flow(model, space=SPACE), state(1), steps=4)
