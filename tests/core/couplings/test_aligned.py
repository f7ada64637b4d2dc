"""Transport up to rotation against scipy's superposition, brute force, and the law of the turned sources."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow.couplings import AlignedOT, MinibatchOT
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.spaces import quaternions
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3
from rectiflow.spaces.superposition import best_overlap, best_rotation
from rectiflow.spaces.zero_mean import ZeroMean

SPACE = Product(translations=ZeroMean(), rotations=SO3())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chains(count: int, length: int, seed: int) -> dict[str, Tensor]:
    return SPACE.sample_prior({"translations": (count, length, 3), "rotations": (count, length, 4)}, seeded(seed))


def superposed(x: Tensor, y: Tensor) -> tuple[np.ndarray, float]:
    """Matrix that turns centred x onto centred y, and the squared distance that is left, by scipy."""
    x, y = x - x.mean(0), y - y.mean(0)
    rotation, left = Rotation.align_vectors(y.numpy(), x.numpy())
    return rotation.as_matrix(), float(left) ** 2


def test_horns_rotation_is_scipys_also_for_mirror_images() -> None:
    g = seeded(1)
    for mirror in (1.0, -1.0):
        x = torch.randn(40, 7, 3, generator=g)
        q = SO3().sample_prior((40, 4), g)
        y = mirror * quaternions.rotate(q[:, None], x) + 0.3 * torch.randn(40, 7, 3, generator=g)
        moments = torch.einsum("bna,bnc->bac", x, y)
        found = quaternions.to_matrix(best_rotation(moments)).numpy()
        for i in range(40):
            expected = Rotation.align_vectors(y[i].numpy(), x[i].numpy())[0].as_matrix()
            np.testing.assert_allclose(found[i], expected, atol=1e-9)
            reached = float((y[i] * (x[i] @ torch.from_numpy(expected).mT)).sum())
            assert float(best_overlap(moments[i])) == pytest.approx(reached, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_the_cheapest_after_superposition(seed: int) -> None:
    x0, x1 = chains(6, 5, seed), chains(6, 5, 10 + seed)
    x0["translations"] = x0["translations"] + 3.0  # the space takes it out
    table = torch.tensor([[superposed(a, b)[1] for b in x1["translations"]] for a in x0["translations"]])
    totals = {order: float(table[range(6), order].sum()) for order in itertools.permutations(range(6))}
    coupled = AlignedOT(condition_weight=0.0)(x0, x1, {"row": torch.arange(6)}, space=SPACE)
    order = tuple(coupled.index.tolist())
    assert order == min(totals, key=lambda key: totals[key])
    assert isinstance(coupled.x0, dict)
    assert isinstance(coupled.x1, dict)
    assert coupled.cond is not None
    assert coupled.cond["row"].tolist() == list(order)
    assert torch.equal(coupled.x1["rotations"], x1["rotations"][coupled.index])
    left = SPACE.components["translations"].distance(coupled.x0["translations"], coupled.x1["translations"]).square()
    torch.testing.assert_close(left, table[range(6), order])
    for i, j in enumerate(order):
        matrix = torch.from_numpy(superposed(x0["translations"][i], x1["translations"][j])[0])
        torch.testing.assert_close(coupled.x0["translations"][i], x0["translations"][i] @ matrix.mT)
        turned = matrix @ quaternions.to_matrix(x0["rotations"][i])
        torch.testing.assert_close(quaternions.to_matrix(coupled.x0["rotations"][i]), turned)


def test_it_costs_no_more_than_transport_without_turning() -> None:
    x0, x1 = chains(24, 8, 1)["translations"], chains(24, 8, 2)["translations"]
    costs = []
    for coupling in (AlignedOT(frames=None), MinibatchOT()):
        coupled = coupling(x0, x1, space=ZeroMean())
        assert isinstance(coupled.x0, Tensor)
        assert isinstance(coupled.x1, Tensor)
        costs.append(float((coupled.x0 - coupled.x1).square().sum()))
        assert sorted(coupled.index.tolist()) == list(range(24))
    assert costs[0] < 0.8 * costs[1]


@pytest.mark.parametrize("content", [0.0, math.nan])
def test_padding_turns_nothing(content: float) -> None:
    x0, x1 = chains(5, 6, 1), chains(5, 6, 2)
    sizes = [6, 5, 4, 4, 3]
    mask = torch.arange(6)[None] < torch.tensor(sizes)[:, None]
    dirty = {name: torch.where(mask[..., None], part, content) for name, part in x1.items()}
    table = torch.tensor(
        [
            [
                superposed(a[:size], b[:size])[1] if size > 1 else 0.0
                for b, size in zip(x1["translations"], sizes, strict=True)
            ]
            for a in x0["translations"]
        ]
    )
    for given in (mask, {"translations": mask}):
        coupled = AlignedOT()(x0, dirty, mask=given, space=SPACE)
        assert isinstance(coupled.x0, dict)
        best = min(float(table[range(5), order].sum()) for order in itertools.permutations(range(5)))
        assert float(table[range(5), coupled.index].sum()) == pytest.approx(best, rel=1e-9)
        moved = ZeroMean().masked(mask[coupled.index])
        left = moved.distance(coupled.x0["translations"], x1["translations"][coupled.index]).square()
        torch.testing.assert_close(left, table[range(5), coupled.index])


def test_training_draws_are_turned_as_one() -> None:
    flow = Flow(lambda x, t: x, predicts="data", space=SPACE)
    x1 = chains(8, 6, 3)
    draw = flow.draw(x1, coupling=AlignedOT(), generator=seeded(4))
    plain = chains(8, 6, 4)
    assert isinstance(draw.x0, dict)
    for i in range(8):
        # What one residue sees of another does not change when the whole turns.
        for a, b in ((plain, draw.x0), (draw.x0, plain)):
            seen = [
                quaternions.rotate(quaternions.conjugate(z["rotations"][i, 0]), z["translations"][i]) for z in (a, b)
            ]
            torch.testing.assert_close(seen[0], seen[1])


def test_sources_keep_their_law_when_the_data_have_no_preferred_direction() -> None:
    n, shape = 3000, chains(1, 4, 5)["translations"]
    turns = SO3().sample_prior((n, 4), seeded(6))
    coupling = AlignedOT(frames=None)
    entries = []
    for data in (quaternions.rotate(turns[:, None], shape.expand(n, 4, 3)), shape.expand(n, 4, 3)):
        x0 = ZeroMean().sample_prior((n, 4, 3), seeded(7))
        turned = [coupling(a, b, space=ZeroMean()).x0 for a, b in zip(x0.split(30), data.split(30), strict=True)]
        entries.append(torch.cat([part for part in turned if isinstance(part, Tensor)])[:, 0, 0] / math.sqrt(3 / 4))
    assert stats.kstest(entries[0].numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(entries[1].numpy(), "norm").pvalue < 1e-6


def test_conditions_stay_apart() -> None:
    x0, x1 = chains(12, 4, 1), chains(12, 4, 2)
    label = torch.arange(12) % 3
    coupled = AlignedOT()(x0, x1, {"label": label}, space=SPACE)
    assert coupled.cond is not None
    assert torch.equal(coupled.cond["label"], label)
    assert not torch.equal(AlignedOT(condition_weight=0.0)(x0, x1, {"label": label}, space=SPACE).index % 3, label)


def test_bad_input_is_named() -> None:
    x = chains(3, 4, 1)
    with pytest.raises(ConfigError, match=r"'points'.*\['rotations', 'translations'\]"):
        AlignedOT(points="points", frames=None)(x, x)
    with pytest.raises(ConfigError, match=r"'frames'.*\['rotations', 'translations'\]"):
        AlignedOT(frames="frames")(x, x)
    with pytest.raises(ConfigError, match=r"\(B, N, 3\); got \(3, 4, 4\)"):
        AlignedOT()(x["rotations"], x["rotations"])
    with pytest.raises(ConfigError, match=r"flat space.*SO3"):
        AlignedOT()(x["translations"], x["translations"], space=SO3())
    with pytest.raises(ConfigError, match=r"'rotations' on SO3.*frames=None"):
        AlignedOT()(x, x, space=Product(translations=ZeroMean(), rotations=Euclidean()))
    with pytest.raises(ConfigError, match="condition_weight"):
        AlignedOT(condition_weight=-1.0)
