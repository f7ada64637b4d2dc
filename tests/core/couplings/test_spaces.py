"""Couplings on curved and centred spaces: costs by hand, the best of all permutations, and what must not change a plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow.batch import State, map_state
from rectiflow.couplings import Coupling, EntropicOT, MinibatchOT, PartialOT, RowPermutation, UnbalancedOT
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.space import Space
from rectiflow.spaces.sphere import Sphere
from rectiflow.spaces.torus import Torus
from rectiflow.spaces.zero_mean import ZeroMean

Cost = Callable[..., float]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turn_cost(q: Tensor, p: Tensor) -> float:
    """Squared rotation angles (N, 4), by scipy."""
    one, other = (Rotation.from_quat(z.reshape(-1, 4).numpy()[:, [1, 2, 3, 0]]) for z in (q, p))
    return float(((one.inv() * other).magnitude() ** 2).sum())


def direction_cost(x: Tensor, y: Tensor) -> float:
    return float(torch.arccos((x * y).sum(-1).clamp(-1, 1)).square().sum())


def wrapped_cost(x: Tensor, y: Tensor) -> float:
    """Nearest of the three copies of y, entry by entry."""
    return float(torch.stack([(x - y + shift).abs() for shift in (-2.0, 0.0, 2.0)]).min(0).values.square().sum())


def centred_cost(x: Tensor, y: Tensor) -> float:
    return float(((x - x.mean(0)) - (y - y.mean(0))).square().sum())


PARTS: dict[str, tuple[Space, tuple[int, ...], Cost]] = {
    "turn": (SO3(), (3, 4), turn_cost),
    "direction": (Sphere(), (3, 5), direction_cost),
    "phase": (Torus(2.0), (3, 2), wrapped_cost),
    "place": (ZeroMean(), (3, 2), centred_cost),
}
WEIGHTS = {"turn": 0.3, "phase": 4.0}
PRODUCT = Product(weights=WEIGHTS, **{name: space for name, (space, _, _) in PARTS.items()})


def whole(x: dict[str, Tensor], y: dict[str, Tensor]) -> float:
    return sum(WEIGHTS.get(name, 1.0) * cost(x[name], y[name]) for name, (_, _, cost) in PARTS.items())


SPACES: dict[str, tuple[Space, Cost]] = {
    **{name: (space, cost) for name, (space, _, cost) in PARTS.items()},
    "product": (PRODUCT, whole),
}
every_space = pytest.mark.parametrize("name", sorted(SPACES))


def states(name: str, count: int, seed: int) -> State:
    shapes = {part: (count, *shape) for part, (_, shape, _) in PARTS.items()}
    drawn: State = SPACES[name][0].sample_prior(shapes if name == "product" else shapes[name], seeded(seed))
    return drawn


def row(state: State, i: int) -> State:
    picked: State = map_state(lambda part: part[i], state)
    return picked


@every_space
@pytest.mark.parametrize("seed", range(3))
def test_the_assignment_is_the_best_of_all_permutations(name: str, seed: int) -> None:
    space, cost = SPACES[name]
    x0, x1 = states(name, 6, seed), states(name, 6, 10 + seed)
    table = torch.tensor([[cost(row(x0, i), row(x1, j)) for j in range(6)] for i in range(6)])
    torch.testing.assert_close(space.squared_distances(x0, x1), table, rtol=1e-10, atol=1e-10)
    totals = {order: float(table[range(6), order].sum()) for order in itertools.permutations(range(6))}
    index = MinibatchOT()(x0, x1, space=space).index
    assert tuple(index.tolist()) == min(totals, key=lambda order: totals[order])
    assert totals[tuple(index.tolist())] <= totals[tuple(range(6))]


COUPLINGS: list[Coupling] = [
    MinibatchOT(),
    EntropicOT(0.05),
    EntropicOT(0.05, replacement=False),
    UnbalancedOT(0.5),
    PartialOT(0.6),
    RowPermutation(),
]


@pytest.mark.parametrize("coupling", COUPLINGS, ids=repr)
def test_other_names_of_the_same_states_change_no_plan(coupling: Coupling) -> None:
    """Signs of quaternions, whole turns of angles and shifts of whole sets."""
    x0, x1 = states("product", 16, 1), states("product", 16, 2)
    assert isinstance(x0, dict)
    assert isinstance(x1, dict)

    def renamed(x: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        g = seeded(seed)
        return {
            "turn": x["turn"] * (2 * torch.randint(0, 2, (16, 3, 1), generator=g) - 1),
            "direction": x["direction"],
            "phase": x["phase"] + 2.0 * torch.randint(-3, 4, (16, 3, 2), generator=g),
            "place": x["place"] + 10 * torch.randn(16, 1, 2, generator=g),
        }

    marked = {name: part.clone() for name, part in x0.items()}
    plain = coupling(marked, x1, space=PRODUCT, generator=seeded(3))
    other = coupling(renamed(x0, 4), renamed(x1, 5), space=PRODUCT, generator=seeded(3))
    assert torch.equal(plain.index, other.index)
    assert isinstance(plain.x0, dict)
    assert isinstance(other.x0, dict)
    torch.testing.assert_close(plain.x0["direction"], other.x0["direction"])
    blind = coupling(renamed(x0, 4), renamed(x1, 5), generator=seeded(3))
    assert isinstance(blind.x0, dict)
    assert not (torch.equal(blind.index, plain.index) and torch.equal(blind.x0["direction"], plain.x0["direction"]))


@every_space
def test_every_row_is_used_once(name: str) -> None:
    x0, x1 = states(name, 20, 1), states(name, 20, 2)
    coupled = MinibatchOT()(x0, x1, {"row": torch.arange(20)}, space=SPACES[name][0])
    assert sorted(coupled.index.tolist()) == list(range(20))
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["row"], coupled.index)


@every_space
@pytest.mark.parametrize("content", [0.0, math.nan])
def test_padding_counts_as_if_it_were_not_there(name: str, content: float) -> None:
    space, cost = SPACES[name]
    x0, x1 = states(name, 6, 1), states(name, 6, 2)
    sizes = [3, 2, 1, 3, 2, 1]
    mask = torch.arange(3)[None] < torch.tensor(sizes)[:, None]
    dirty = map_state(lambda part: torch.where(mask[..., None], part, content), x1)

    def visible(state: State, i: int, j: int) -> State:
        part: State = map_state(lambda part: part[i, : sizes[j]], state)
        return part

    table = torch.tensor([[cost(visible(x0, i, j), visible(x1, j, j)) for j in range(6)] for i in range(6)])
    torch.testing.assert_close(space.squared_distances(x0, dirty, mask), table, rtol=1e-10, atol=1e-10)
    best = min(float(table[range(6), order].sum()) for order in itertools.permutations(range(6)))
    index = MinibatchOT()(x0, dirty, mask=mask, space=space).index
    assert float(table[range(6), index].sum()) == pytest.approx(best, rel=1e-10)


def test_a_flow_hands_its_space_to_the_coupling() -> None:
    """Data are the sources' own mirror names: q against -q. Only the space sees that nothing has to move."""
    q = SO3().sample_prior((32, 4), seeded(1))

    class Fixed:
        def __call__(self, shape: object, **_: object) -> Tensor:
            return q

    flow = Flow(lambda x, t: x[..., 1:], space=SO3(), source=Fixed())
    draw = flow.draw(-q, coupling=MinibatchOT(), generator=seeded())
    assert torch.equal(draw.index, torch.arange(32))
    assert isinstance(draw.target, Tensor)
    assert float(draw.target.abs().max()) < 1e-12


def test_rows_of_a_set_find_their_partners_across_the_wrap() -> None:
    x1 = torch.tensor([[[0.1], [1.0], [1.9]]])
    x0 = torch.tensor([[[1.05], [1.95], [0.15]]])
    near = RowPermutation()(x0, x1, space=Torus(2.0)).x0
    torch.testing.assert_close(near, torch.tensor([[[0.15], [1.05], [1.95]]]))
    crossing = torch.tensor([[[1.95], [0.95], [0.05]]])  # 1.9 -> 0.05 and 0.1 -> 1.95 are 0.15 apart each
    moved = RowPermutation()(crossing, torch.tensor([[[0.0], [1.0], [1.8]]]), space=Torus(2.0)).x0
    torch.testing.assert_close(moved, torch.tensor([[[0.05], [0.95], [1.95]]]))


def test_shared_shift_of_a_centred_set_decides_no_row() -> None:
    x1 = torch.tensor([[[0.0], [1.0], [2.0]]])
    x0 = torch.tensor([[[2.1], [0.1], [1.1]]])
    for space in (ZeroMean(), Product(place=ZeroMean())):
        source, data = ({"place": z} if isinstance(space, Product) else z for z in (x0 + 50, x1))
        assert RowPermutation().permutation(source, data, space=space).tolist() == [[1, 2, 0]]


def test_the_call_without_a_space_takes_flat_coordinates() -> None:
    x0, x1 = (torch.randn(12, 3, 2, generator=seeded(seed)) for seed in (1, 2))
    flat = MinibatchOT()(x0, x1)
    assert torch.equal(flat.index, MinibatchOT()(x0, x1, space=Euclidean()).index)
    both = MinibatchOT()({"a": x0, "b": x0}, {"a": x1, "b": x1})
    assert torch.equal(both.index, flat.index)


def test_bad_input_is_named() -> None:
    x0, x1 = SO3().sample_prior((4, 3, 4), seeded(1)), SO3().sample_prior((4, 3, 4), seeded(2))
    with pytest.raises(ConfigError, match=r"SO3.*mask of shape \(4, 3, 4\).*\(4, 3\)"):
        SO3().squared_distances(x0, x1, torch.ones(4, 3, 4, dtype=torch.bool))
    for space in (SO3(), Euclidean()):
        with pytest.raises(ConfigError, match=r"masks by name, \['turn'\]"):
            space.squared_distances(x0, x1, {"turn": torch.ones(4, 3, dtype=torch.bool)})
    with pytest.raises(ConfigError, match=r"masks have names \['spin'\]"):
        Product(turn=SO3()).squared_distances({"turn": x0}, {"turn": x1}, {"spin": torch.ones(4, 3, dtype=torch.bool)})
    x1[1, 1, 1] = math.nan
    with pytest.raises(NonFiniteError):
        MinibatchOT()(x0, x1, space=SO3())
