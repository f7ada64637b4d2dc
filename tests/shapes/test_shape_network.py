"""The set transformer: equivariant under permutations, steered by what it is told, average velocities from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_shapes.conditions import FREE, words
from rectiflow_shapes.network import ShapeTransformer

TOKENS, COLUMNS, KINDS = 12, 5, 3
CONDITIONS: dict[str, Tensor] = {
    "kind": torch.tensor([0, 2]),
    "attributes": torch.tensor([[0.25, FREE], [1.0, 0.0]]),
    "caption": torch.stack([words("a low chair"), words("a table")]),
}


def network(told: tuple[str, ...] = ("kind",), **settings: Any) -> ShapeTransformer:
    generator = torch.Generator().manual_seed(0)
    settings = {"columns": COLUMNS, "kinds": KINDS, "attributes": 2, "width": 32, "depth": 3, "heads": 4} | settings
    made = ShapeTransformer(told=told, generator=generator, **settings)
    for parameter in made.parameters():  # the gates and the output start at zero, where everything is equivariant
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def told_of(*names: str) -> dict[str, Tensor]:
    return {name: CONDITIONS[name] for name in names}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, TOKENS, COLUMNS, generator=torch.Generator().manual_seed(1))


T = torch.tensor([0.2, 0.7])


@pytest.mark.parametrize("steering", ["adaptive", "token"])
@pytest.mark.parametrize("told", [(), ("kind",), ("kind", "attributes", "caption")])
def test_sets_are_permuted_with_their_velocities(steering: str, told: tuple[str, ...], x: Tensor) -> None:
    net = network(told, steering=steering)
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(2))
    straight, permuted = net(x, T, **told_of(*told)), net(x[:, order], T, **told_of(*told))
    assert straight.abs().max() > 0.1
    torch.testing.assert_close(permuted, straight[:, order], rtol=0, atol=5e-6)


def test_slow_time_embeddings_change_slowly_in_time(x: Tensor) -> None:
    step, changes = 1e-4, []
    for scale in (1000.0, 10.0):
        net = network(time_scale=scale)
        changes.append((net(x, T + step, **told_of("kind")) - net(x, T, **told_of("kind"))).norm() / step)
    assert changes[0] > 10 * changes[1] > 0


def test_places_break_the_symmetry(x: Tensor) -> None:
    net = network(places=TOKENS)
    order = torch.arange(TOKENS).flip(0)
    assert (net(x[:, order], T, **told_of("kind")) - net(x, T, **told_of("kind"))[:, order]).abs().max() > 1e-2


@pytest.mark.parametrize("steering", ["adaptive", "token"])
@pytest.mark.parametrize("name", ["kind", "attributes", "caption"])
def test_every_condition_is_heard(name: str, steering: str, x: Tensor) -> None:
    net = network((name,), steering=steering)
    other = {"kind": torch.tensor([1, 1]), "attributes": torch.tensor([[0.3, FREE], [1.0, 0.1]])}
    other["caption"] = torch.stack([words("a high chair"), words("a desk")])
    assert ((net(x, T, **told_of(name)) - net(x, T, **{name: other[name]})).abs().amax((1, 2)) > 1e-4).all()


def test_no_attribute_is_not_the_attribute_in_the_middle(x: Tensor) -> None:
    net = network(("attributes",))
    free, middle = torch.full((2, 2), FREE), torch.full((2, 2), 0.5)
    assert (net(x, T, attributes=free) - net(x, T, attributes=middle)).abs().max() > 1e-3


def test_time_is_heard_and_a_new_network_gives_zero(x: Tensor) -> None:
    for steering in ("adaptive", "token"):
        net = network(steering=steering)
        assert (net(x, T, **told_of("kind")) - net(x, T + 0.1, **told_of("kind"))).abs().max() > 1e-3
        fresh = ShapeTransformer(
            COLUMNS, kinds=KINDS, width=32, depth=3, steering=steering, generator=torch.Generator().manual_seed(0)
        )
        assert fresh(x, T, **told_of("kind")).abs().max() == 0


def test_components_come_back_as_they_went_in(x: Tensor) -> None:
    parts = {"positions": 3, "values": 2}
    net = network(columns=parts)
    out = net({"values": x[..., 3:], "positions": x[..., :3]}, T, **told_of("kind"))
    assert {name: tuple(part.shape) for name, part in out.items()} == {
        "positions": (2, TOKENS, 3),
        "values": (2, TOKENS, 2),
    }
    whole = network()
    whole.load_state_dict(net.state_dict())
    torch.testing.assert_close(
        torch.cat([out["positions"], out["values"]], -1), whole(x, T, **told_of("kind")), rtol=0, atol=1e-6
    )


def test_long_skips_reach_the_second_half(x: Tensor) -> None:
    net = network(depth=4)
    assert len(net.joins) == 2
    before = net(x, T, **told_of("kind"))
    # The first block popped takes what the second block gave, the last what the first gave.
    net.joins[1].weight.data[:, 32:] = 0
    assert (net(x, T, **told_of("kind")) - before).abs().max() > 1e-3
    assert not network(skips=False).joins


def test_average_velocities_start_as_velocities(x: Tensor) -> None:
    plain = ShapeTransformer(COLUMNS, kinds=KINDS, width=32, depth=3, generator=torch.Generator().manual_seed(0))
    for parameter in plain.parameters():
        parameter.data.add_(0.05)
    average = ShapeTransformer(
        COLUMNS, kinds=KINDS, width=32, depth=3, until=True, generator=torch.Generator().manual_seed(0)
    )
    average.load_state_dict({**average.state_dict(), **plain.state_dict()})
    torch.testing.assert_close(
        average(x, T, **told_of("kind"), until=T + 0.2), plain(x, T, **told_of("kind")), rtol=0, atol=1e-6
    )


def test_what_is_wrong_is_said(x: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"colour.*kind, attributes, caption"):
        network(("colour",))
    with pytest.raises(ConfigError, match="steering is 'none'"):
        network(steering="none")
    with pytest.raises(ConfigError, match="caption is missing"):
        network(("caption",))(x, T)
