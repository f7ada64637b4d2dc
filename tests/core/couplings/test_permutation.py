"""Row permutation against brute force in every sample, with masks, product states, and through a flow's draw."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from rectiflow.couplings import RowPermutation
from rectiflow.errors import ConfigError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.torus import Torus


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sets(size: int = 6, count: int = 5, dimension: int = 3) -> tuple[Tensor, Tensor]:
    g = seeded()
    return torch.randn(size, count, dimension, generator=g), 2 + torch.randn(size, count, dimension, generator=g)


def best_order(rows0: Tensor, rows1: Tensor) -> list[int]:
    def cost(order: tuple[int, ...]) -> float:
        return sum(float((rows0[i] - rows1[n]).square().sum()) for n, i in enumerate(order))

    return list(min(itertools.permutations(range(len(rows0))), key=cost))


def test_every_sample_gets_the_best_of_all_orders() -> None:
    x0, x1 = sets()
    cond = {"row": torch.arange(6)}
    coupled = RowPermutation()(x0, x1, cond)
    assert coupled.x1 is x1
    assert coupled.cond is cond
    assert coupled.index.tolist() == list(range(6))
    for sample in range(6):
        order = best_order(x0[sample], x1[sample])
        assert torch.equal(coupled.x0[sample], x0[sample][order])
        assert RowPermutation().permutation(x0, x1)[sample].tolist() == order
    assert not torch.equal(coupled.x0, x0)
    assert not RowPermutation().independent


def test_in_one_dimension_rows_are_sorted_together() -> None:
    g = seeded()
    x0, x1 = torch.randn(4, 50, 1, generator=g), torch.randn(4, 50, 1, generator=g)
    coupled = RowPermutation()(x0, x1)
    order = x1.argsort(1)
    assert torch.equal(coupled.x0.gather(1, order), x0.sort(1).values)


@pytest.mark.parametrize("content", [0.0, 90.0, math.nan])
def test_padding_takes_no_part(content: float) -> None:
    x0, x1 = sets()
    mask = torch.arange(5)[None] < torch.tensor([5, 1, 3, 4, 2, 0])[:, None]
    mask[3] = torch.tensor([True, False, True, True, True])
    coupled = RowPermutation()(x0, torch.where(mask[..., None], x1, content), mask=mask)
    for sample in range(6):
        valid = mask[sample]
        mine = x0[sample][valid]
        assert torch.equal(coupled.x0[sample][valid], mine[best_order(mine, x1[sample][valid])])
        assert torch.equal(coupled.x0[sample][~valid], x0[sample][~valid])


def test_components_of_a_row_move_together() -> None:
    x0, x1 = sets()
    whole = RowPermutation()(x0, x1)
    split = RowPermutation()({"a": x0[..., :1], "b": x0[..., 1:]}, {"a": x1[..., :1], "b": x1[..., 1:]})
    assert torch.equal(torch.cat([split.x0["a"], split.x0["b"]], -1), whole.x0)


def test_one_component_may_decide_for_the_others() -> None:
    x0, x1 = sets()
    far = 100 * torch.randn(6, 5, 4, generator=seeded(1))
    source, data = {"places": x0, "rest": far}, {"places": x1, "rest": far.flip(1)}
    coupled = RowPermutation(by="places")(source, data).x0
    assert torch.equal(coupled["places"], RowPermutation()(x0, x1).x0)
    order = RowPermutation().permutation(x0, x1)
    assert torch.equal(coupled["rest"], far[torch.arange(6)[:, None], order])
    space = Product(places=Torus(2.0), rest=Euclidean())
    on_torus = RowPermutation(by="places")(source, data, space=space).x0
    assert torch.equal(on_torus["places"], RowPermutation()(x0, x1, space=Torus(2.0)).x0)
    for state in (x0, {"rest": far}):
        with pytest.raises(ConfigError, match="'places'"):
            RowPermutation(by="places")(state, state)


def test_a_flow_draws_paths_between_matched_rows() -> None:
    _, x1 = sets(32, 4, 2)
    mask = torch.arange(4)[None] < (torch.arange(32)[:, None] % 4 + 1)
    flow = Flow(lambda x, t: x)
    plain = flow.draw(x1, mask=mask, generator=seeded(1))
    draw = flow.draw(x1, mask=mask, coupling=RowPermutation(), generator=seeded(1))
    assert draw.x1 is not None
    assert torch.equal(draw.x1, x1)
    assert draw.mask is not None
    assert torch.equal(draw.mask, mask)
    torch.testing.assert_close(draw.target, x1 - draw.x0)
    rows = mask[..., None]
    assert float(((draw.target * rows) ** 2).sum()) < 0.9 * float(((plain.target * rows) ** 2).sum())
    torch.testing.assert_close(draw.x0.sort(1).values.sum(), plain.x0.sort(1).values.sum())


def test_bad_input_is_named() -> None:
    x0, x1 = sets()
    with pytest.raises(ConfigError, match=r"\(6, 5, 3\) and \(6, 4, 3\)"):
        RowPermutation()(x0, x1[:, :4])
    with pytest.raises(ConfigError, match=r"\(6,\).*no sets.*\(B, N"):
        RowPermutation()(x0[:, 0, 0], x1[:, 0, 0])
    with pytest.raises(ConfigError, match=r"mask of shape \(6, 5\), not \(6,\)"):
        RowPermutation()(x0, x1, mask=torch.ones(6, dtype=torch.bool))
    x1[2, 1] = math.nan
    with pytest.raises(NonFiniteError, match="sample 2"):
        RowPermutation()(x0, x1)
