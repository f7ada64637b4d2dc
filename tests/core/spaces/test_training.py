"""Training draws and losses on curved spaces, sets without a centre, and weights and masks of products."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.batch import Batch
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.sampling import integrate, sample
from rectiflow.spaces import quaternions
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.torus import Torus
from rectiflow.spaces.zero_mean import ZeroMean


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotations(*shape: int, seed: int = 1) -> Tensor:
    return SO3().sample_prior((*shape, 4), seeded(seed))


def test_the_velocity_loss_is_measured_in_body_frame_radians() -> None:
    x1 = rotations(6, 5)
    flow = Flow(lambda x, t: torch.zeros_like(x[..., 1:]), space=SO3())
    draw = flow.draw(x1, generator=seeded())
    assert isinstance(draw.x0, Tensor)
    expected = SO3().distance(draw.x0.reshape(30, 4), x1.reshape(30, 4)).square().mean() / 3
    torch.testing.assert_close(flow.loss(x1, generator=seeded()), expected)


def test_the_data_loss_with_velocity_weight_is_the_velocity_loss() -> None:
    x1 = rotations(6, 5)

    def guess(x: Tensor, t: Tensor) -> Tensor:
        return quaternions.multiply(x, quaternions.exp(torch.sin(3 * x[..., 1:])))

    data = Flow(guess, predicts="data", space=SO3())
    velocity = Flow(lambda x, t: data.velocity(x, t), space=SO3())
    loss = data.loss(x1, weight="velocity", generator=seeded())
    torch.testing.assert_close(loss, velocity.loss(x1, generator=seeded()), rtol=1e-9, atol=0)
    assert not torch.isclose(loss, data.loss(x1, generator=seeded()))


def test_losses_do_not_see_the_sign_or_the_scale_of_quaternions() -> None:
    x1, signs = rotations(6, 5), torch.where(torch.rand(6, 5, 1, generator=seeded(3)) < 0.5, -1.0, 1.0)

    def guess(factor: Tensor | float) -> Flow:
        return Flow(lambda x, t: factor * quaternions.multiply(x, x), predicts="data", space=SO3())

    plain = guess(1.0).loss(x1, generator=seeded())
    torch.testing.assert_close(guess(signs).loss(x1, generator=seeded()), plain)
    torch.testing.assert_close(guess(3.0).loss(x1, generator=seeded()), plain)
    torch.testing.assert_close(guess(1.0).loss(signs * 2 * x1, generator=seeded()), plain)


@pytest.mark.parametrize("space", [Sphere(), SO3(), Torus()])
@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient(space: Any, predicts: Any) -> None:
    x1 = space.sample_prior((8, 3, 4), seeded(1), dtype=torch.float32)
    draw = Flow(lambda x, t: x, predicts=predicts, space=space).draw(x1, generator=seeded())
    prediction = draw.target.clone().requires_grad_(True)
    loss = Flow(lambda x, t: x, predicts=predicts, space=space).regression(prediction, draw)
    loss.backward()
    assert float(loss.detach()) < 1e-12
    assert prediction.grad is not None
    assert bool(torch.isfinite(prediction.grad).all())


@pytest.mark.parametrize("space", [Sphere(), SO3(), Torus()])
@pytest.mark.parametrize("content", [0.0, 7.0, math.nan])
@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_padding_reaches_neither_loss_nor_gradient(space: Any, content: float, predicts: Any) -> None:
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]
    clean = space.sample_prior((3, 5, 4), seeded(1))
    dirty = torch.where(mask[..., None], clean, content)
    losses, gradients = [], []
    for x1 in (clean, dirty):
        scale = torch.tensor(0.9, requires_grad=True)
        width = 3 if isinstance(space, SO3) and predicts == "velocity" else 4

        def model(x: Tensor, t: Tensor, scale: Tensor = scale, width: int = width) -> Tensor:
            return scale * torch.sin(2 * torch.where(mask[..., None], x, content))[..., :width]

        loss = Flow(model, predicts=predicts, space=space).loss(x1, mask=mask, generator=seeded())
        loss.backward()
        assert scale.grad is not None
        losses.append(loss.detach())
        if not math.isnan(content):
            assert bool(torch.isfinite(scale.grad))
            gradients.append(scale.grad)
    torch.testing.assert_close(losses[0], losses[1])
    if gradients:
        torch.testing.assert_close(gradients[0], gradients[1])


def test_a_network_learns_a_known_rotation_field() -> None:
    """The only data point pulls every draw: the least-squares body velocity is Log(q^-1 q1) / (1 - t)."""
    target = rotations(1)
    flow = Flow(lambda q, t: SO3().log(q, target.expand_as(q)) / (1 - t)[:, None], space=SO3())
    assert float(flow.loss(target.expand(500, 4), generator=seeded())) < 1e-18


def test_sets_without_a_centre_are_drawn_from_the_subspace() -> None:
    n, size = 20_000, 4
    x = ZeroMean().sample_prior((n, size, 1), seeded(1))[..., 0]
    assert float(x.mean(1).abs().max()) < 1e-14
    expected = torch.eye(size) - 1 / size
    assert float((x.T @ x / n - expected).abs().max()) < 4 * math.sqrt(2 / n)
    basis = torch.linalg.svd(expected)[0][:, : size - 1]
    normal = torch.distributions.MultivariateNormal(torch.zeros(size - 1), torch.eye(size - 1))
    torch.testing.assert_close(ZeroMean().log_prior(x[:50, :, None]), normal.log_prob(x[:50] @ basis))
    last = ZeroMean(axis=-1).sample_prior((5, 3, 7), seeded(2))
    assert float(last.mean(-1).abs().max()) < 1e-14
    with pytest.raises(ConfigError, match="axis 0, which is the batch"):
        ZeroMean(axis=0)


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score"])
def test_everything_about_a_set_ignores_its_centre(predicts: Any) -> None:
    space, x1 = ZeroMean(), torch.randn(6, 5, 3, generator=seeded(1))
    shift = 10 * torch.randn(6, 1, 3, generator=seeded(2))

    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x) + 0.5

    flow = Flow(model, interpolant=Trigonometric(), predicts=predicts, space=space)
    draw = flow.draw(x1, generator=seeded())
    for state in (draw.x0, draw.x1, draw.xt, draw.target):
        assert isinstance(state, Tensor)
        assert float(state.mean(1).abs().max()) < 1e-12
    torch.testing.assert_close(flow.loss(x1 + shift, generator=seeded()), flow.loss(x1, generator=seeded()))
    shifted = Flow(lambda x, t: model(x, t) + shift, interpolant=Trigonometric(), predicts=predicts, space=space)
    torch.testing.assert_close(shifted.loss(x1, generator=seeded()), flow.loss(x1, generator=seeded()))
    assert isinstance(draw.xt, Tensor)
    for kind in ("velocity", "data"):
        estimates = [getattr(f, kind)(draw.xt, draw.t) for f in (flow, shifted)]
        torch.testing.assert_close(estimates[0], estimates[1])
        assert float(estimates[0].mean(1).abs().max()) < 1e-9
    torch.testing.assert_close(space.distance(x1, x1 + shift), torch.zeros(6), rtol=0, atol=1e-13)
    torch.testing.assert_close(space.squared_distances(x1 + shift, x1 - shift), space.squared_distances(x1, x1))
    for method in ("euler", "heun", "rk4", "ddim"):
        x0 = flow.sample_source((6, 5, 3), None, seeded(3))
        ends = [integrate(f, x0, steps=3, method=method).x for f in (flow, shifted)]
        assert float(ends[0].mean(1).abs().max()) < 1e-12
        torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("content", [0.0, 5.0, math.nan])
def test_masks_decide_whose_centre_it_is(content: float) -> None:
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]
    raw = torch.randn(3, 5, 2, generator=seeded(1))
    x1 = torch.where(mask[..., None], raw, content)
    flow = Flow(lambda x, t: torch.where(mask[..., None], torch.sin(x), content), space=ZeroMean())
    draw = flow.draw(x1, mask=mask, generator=seeded())
    assert isinstance(draw.x1, Tensor)
    assert isinstance(draw.xt, Tensor)
    for row, size in enumerate((5, 3, 1)):
        torch.testing.assert_close(draw.x1[row, :size], raw[row, :size] - raw[row, :size].mean(0))
        torch.testing.assert_close(draw.xt[row, :size].mean(0), torch.zeros(2), rtol=0, atol=1e-14)
    alone = Flow(lambda x, t: torch.sin(x), space=ZeroMean())
    loss = flow.loss(x1, mask=mask, generator=seeded())
    expected = [
        alone.loss(
            raw[row : row + 1, :size],
            x0=draw.x0[row : row + 1, :size],
            times=_At(float(draw.t[row])),
            generator=seeded(),
        )
        for row, size in enumerate((5, 3, 1))
        if isinstance(draw.x0, Tensor)
    ]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    space = ZeroMean().masked(mask)
    torch.testing.assert_close(space.distance(x1, x1 + 3.0), torch.zeros(3), rtol=0, atol=1e-13)
    dimensions = torch.tensor([8.0, 4.0, 0.0])
    square = torch.stack([(part - part.mean(0)).square().sum() for part in (raw[0], raw[1, :3], raw[2, :1])])
    torch.testing.assert_close(space.log_prior(x1), -(square + dimensions * math.log(2 * math.pi)) / 2)


class _At:
    """The law of a single time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(self, size: int, generator: Any, *, device: Any = "cpu") -> Tensor:
        return torch.full((size,), self.t)


def test_sampling_with_a_mask_keeps_each_set_centred_also_under_guidance() -> None:
    mask = torch.arange(4)[None] < torch.tensor([4, 2])[:, None]

    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.sin(x) + label[:, None, None]

    flow = Flow(model, predicts="data", space=ZeroMean(), null={"label": 0.0}).masked(mask)
    cond = {"label": torch.tensor([1.0, 2.0])}
    x = sample(flow, (2, 4, 3), steps=3, cond=cond, guidance=2.0, generator=seeded())
    for row, size in enumerate((4, 2)):
        torch.testing.assert_close(x[row, :size].mean(0), torch.zeros(3), rtol=0, atol=1e-13)
    assert flow.masked(None) is flow


def test_weights_scale_losses_distances_and_costs() -> None:
    weights = {"turn": 4.0}
    plain = Product(place=ZeroMean(), turn=SO3())
    heavy = Product(place=ZeroMean(), turn=SO3(), weights=weights)
    x, y = ({"place": torch.randn(6, 5, 3, generator=seeded(s)), "turn": rotations(6, 5, seed=s)} for s in (1, 2))

    def model(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"place": torch.sin(state["place"]), "turn": torch.cos(state["turn"][..., 1:])}

    parts = [Flow(model, space=space).loss(x, generator=seeded()) for space in (plain, heavy)]
    only_turn = (parts[1] - parts[0]) / 3
    draw = Flow(model, space=plain).draw(x, generator=seeded())
    assert isinstance(draw.target, dict)
    assert isinstance(draw.xt, dict)
    expected = (model(draw.xt, draw.t)["turn"] - draw.target["turn"]).square().mean()
    torch.testing.assert_close(only_turn, expected)
    squares = [ZeroMean().distance(x["place"], y["place"]).square(), SO3().distance(x["turn"], y["turn"]).square()]
    torch.testing.assert_close(plain.distance(x, y), (squares[0] + squares[1]).sqrt())
    torch.testing.assert_close(heavy.distance(x, y), (squares[0] + 4 * squares[1]).sqrt())
    costs = [space.squared_distances(x, y) for space in (plain, heavy)]
    torch.testing.assert_close(costs[1] - costs[0], 3 * SO3().squared_distances(x["turn"], y["turn"]))
    for space in (plain, heavy):
        moved = space.exp(x, space.log(x, y))
        assert float(SO3().distance(moved["turn"], y["turn"]).max()) < 1e-12
    assert repr(heavy).endswith("weights={'place': 1.0, 'turn': 4.0})")


def test_bad_weights_and_masks_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'turns', which is no component; allowed: place, turn"):
        Product(place=Euclidean(), turn=SO3(), weights={"turns": 1.0})
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="component 'turn' has weight"):
            Product(turn=SO3(), weights={"turn": weight})
    with pytest.raises(ConfigError, match=r"\['other'\]; this product has \['turn'\]"):
        Product(turn=SO3()).masked({"other": torch.ones(2)})
    with pytest.raises(ConfigError, match=r"masks by name, \['a'\]"):
        ZeroMean().masked({"a": torch.ones(2)})


def test_components_may_have_masks_of_their_own() -> None:
    space = Product(place=ZeroMean(), turn=SO3(), size=Euclidean())
    masks = {
        "place": torch.arange(5)[None] < torch.tensor([5, 3, 2])[:, None],
        "turn": torch.arange(4)[None] < torch.tensor([1, 4, 2])[:, None],
    }
    x1 = {"place": torch.randn(3, 5, 3, generator=seeded(1)), "turn": rotations(3, 4), "size": torch.ones(3, 2)}
    dirty = {name: torch.where(masks[name][..., None], x1[name], math.nan) for name in masks} | {"size": x1["size"]}

    def model(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"place": 0 * x["place"], "turn": 0 * x["turn"][..., 1:], "size": 0 * x["size"]}

    flow = Flow(model, space=space)
    draw = flow.draw(dirty, mask=masks, generator=seeded())
    assert isinstance(draw.target, dict)
    rows = []
    for row in range(3):
        kept = [draw.target[name][row][masks[name][row]] for name in masks] + [draw.target["size"][row]]
        rows.append(torch.stack([part.square().mean() for part in kept]).sum())
    torch.testing.assert_close(flow.loss(dirty, mask=masks, generator=seeded()), torch.stack(rows).mean())
    batch = Batch(x1, mask=masks).to("meta")
    assert isinstance(batch.mask, dict)
    assert {mask.device.type for mask in batch.mask.values()} == {"meta"}
