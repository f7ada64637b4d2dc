"""Batches of chains: buckets, conditions and motifs are functions of the indices alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.spaces.so3 import SO3
from rectiflow_proteins.batches import FrameDataset, buckets_of, content_of, motif_of
from rectiflow_proteins.conditions import requested, shares_of, spread_conditions
from rectiflow_proteins.data import Chains, grammar_folds, join
from rectiflow_proteins.flow import FREE_CONTENT, FREE_LABEL
from rectiflow_proteins.frames import atoms_from_frames, with_oxygens


def chains(lengths: list[int]) -> Chains:
    draw = torch.Generator().manual_seed(0)
    atoms: list[Tensor] = []
    for length in lengths:
        q = SO3().sample_prior((1, length, 4), draw)
        atoms.append(with_oxygens(atoms_from_frames(q, 10 * torch.randn(1, length, 3, generator=draw)))[0])
    states = [torch.randint(3, (length,), generator=draw) for length in lengths]
    return join(atoms, states, [f"chain {i}" for i in range(len(lengths))], [""] * len(lengths))


def test_a_batch_holds_the_frames_of_its_chains() -> None:
    data = chains([12] * 5 + [20] * 5)
    batch = FrameDataset(data, fewest=5).__getitems__([7, 1, 3])
    x1 = batch.x1
    assert isinstance(x1, dict)
    assert isinstance(batch.mask, Tensor)
    assert x1["translations"].shape == (3, 20, 3)
    assert batch.mask.all()
    atoms = atoms_from_frames(x1["rotations"], x1["translations"])
    for row, index in enumerate((7 % 5 + 5, 1 + 5, 3 + 5)):
        torch.testing.assert_close(atoms[row, :, 1], data.chain(index)[:, 1], rtol=0, atol=1e-4)
        torch.testing.assert_close(atoms[row], data.chain(index)[:, :3], rtol=0, atol=1e-3)
        helix = (data.states(index) == 1).float().mean()
        torch.testing.assert_close(batch.cond["content"][row, 0], helix)
    assert (batch.cond["labels"] == FREE_LABEL).all()


def test_neighbouring_lengths_share_a_bucket_until_it_is_full() -> None:
    lengths = [30, 24, 25, 24, 31, 30, 31, 31]
    found = [sorted(lengths[i] for i in bucket) for bucket in buckets_of(lengths, 3)]
    assert found == [[24, 24, 25], [30, 30, 31, 31, 31]]
    assert buckets_of([5, 4], 10) == [[1, 0]]


def test_mixed_buckets_are_padded() -> None:
    batch = FrameDataset(chains([12, 15]), fewest=2).__getitems__([0, 1])
    x1 = batch.x1
    assert isinstance(x1, dict)
    assert isinstance(batch.mask, Tensor)
    assert sorted(batch.mask.sum(1).tolist()) == [12, 15]
    assert x1["translations"][~batch.mask].abs().max() == 0
    assert (x1["translations"] * batch.mask[..., None]).sum(1).abs().max() < 1e-3


def test_indices_say_what_is_told() -> None:
    data = chains([16] * 4)
    dataset = FrameDataset(data, ("content", "labels", "motif"))
    assert len(dataset) == 12
    batch = dataset.__getitems__([0, 5, 10])
    labels, motif = batch.cond["labels"], batch.cond["motif"]
    assert (labels[0] == FREE_LABEL).all()
    assert torch.equal(labels[1], data.states(1))
    assert motif[:2].sum() == 0
    assert 3 <= int(motif[2].sum()) <= 8
    x1 = batch.x1
    assert isinstance(x1, dict)
    assert torch.equal(batch.cond["motif_translations"], x1["translations"])


def test_motifs_are_contiguous_inside_and_spread() -> None:
    mask = torch.arange(40) < 30
    motifs = torch.stack([motif_of(index, mask) for index in range(2000)])
    assert not motifs[:, 30:].any()
    assert set(motifs.sum(1).tolist()) == set(range(6, 16))
    assert ((motifs[:, 1:] & ~motifs[:, :-1]).sum(1) + motifs[:, 0] == 1).all()
    assert motifs[:, :30].float().mean(0).min() > 0.03
    assert torch.equal(motif_of(77, mask), motifs[77])


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="told"):
        FrameDataset(chains([12, 12]), ("contents",))
    with pytest.raises(ConfigError, match="told"):
        FrameDataset(chains([12, 12]), ())


def test_few_conditions_have_the_mean_content_of_all_chains() -> None:
    folds, _ = grammar_folds(24, 48)
    all_chains = torch.stack(
        [
            content_of(folds.states(i)[None], torch.ones(1, int(n), dtype=torch.bool))[0]
            for i, n in enumerate(folds.lengths)
        ]
    )
    torch.testing.assert_close(shares_of(folds), all_chains)
    for seed in range(3):
        cond = spread_conditions(folds, 64, 48, torch.Generator().manual_seed(seed))
        # Random draws would be off by sd / 8 = 0.04; evenly spread ones by the width of a step, a 64th of the range, at most.
        assert abs(float(cond["content"][:, 0].mean() - all_chains[:, 0].mean())) < 1 / 64
        assert not torch.equal(cond["content"][:, 0], cond["content"][:, 0].sort().values)


def test_spread_conditions_follow_the_chains() -> None:
    data = chains([12, 14, 16])
    cond = spread_conditions(data, 7, 16, torch.Generator().manual_seed(1))
    lengths = cond["mask"].sum(1).tolist()
    assert sorted(set(lengths)) == [12, 14, 16]
    assert max(lengths.count(n) for n in (12, 14, 16)) == 3
    for row, length in enumerate(lengths):
        states = data.states([12, 14, 16].index(length))
        torch.testing.assert_close(cond["content"][row, 1], (states == 2).float().mean())


def test_requests_become_conditions() -> None:
    spread = spread_conditions(chains([12, 14]), 4, 14, torch.Generator().manual_seed(1))
    told = ("content", "labels")
    assert requested(spread, told, {"length": [10, 20]})["mask"].sum(1).tolist() == [10, 20, 10, 20]
    assert requested(spread, told, {"helix": 0.5})["content"].tolist() == [[0.5, 0.0]] * 4
    cond = requested(spread, told, {"labels": "cHHEx"})
    assert cond["labels"].tolist() == [[0, 1, 1, 2, FREE_LABEL]] * 4
    assert cond["content"].tolist() == [[FREE_CONTENT, FREE_CONTENT]] * 4
    full = requested(spread, told, {"labels": "HHEE"})
    assert full["content"].tolist() == [[0.5, 0.5]] * 4


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"length": 2}, "cond.length=2"),
        ({"length": "long"}, "cond.length=long"),
        ({"length": []}, "empty"),
        ({"helix": 0.7, "strand": 0.6}, "more than 1"),
        ({"helix": 2}, "cond.helix=2"),
        ({"labels": "HHZ"}, "cond.labels=HHZ"),
        ({"labels": "HHHH"}, "without labels"),
    ],
)
def test_bad_requests_are_refused(request_: dict[str, object], message: str) -> None:
    spread = spread_conditions(chains([12, 14]), 4, 14, torch.Generator().manual_seed(1))
    told = ("content",) if message == "without labels" else ("content", "labels")
    with pytest.raises(ConfigError, match=message):
        requested(spread, told, request_)
