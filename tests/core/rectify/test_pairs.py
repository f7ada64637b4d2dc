"""What is written is what is read, by row and from the disk; what is damaged is refused by name."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectiflow import rectify
from rectiflow.batch import Batch, Cond
from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow.rectify.pairs import PairLayout, PairStore
from rectiflow.rectify.writing import PairWriter
from rectiflow.training.batches import order_of, read_batches

COUNT, SIZE = 103, 20
COND = {"label": ((), "int64"), "text": ((2, 3), "float32"), "flag": ((), "bool")}


def columns(count: int = COUNT) -> tuple[Tensor, Tensor, Cond]:
    generator = torch.Generator().manual_seed(5)
    x0 = torch.randn(count, 3, 4, generator=generator, dtype=torch.float32)
    cond = {
        "label": torch.randint(10, (count,), generator=generator),
        "text": torch.randn(count, 2, 3, generator=generator, dtype=torch.float32),
        "flag": torch.rand(count, generator=generator) < 0.5,
    }
    return x0, torch.randn(count, 3, 4, generator=generator, dtype=torch.float32), cond


def layout(**changes: object) -> PairLayout:
    plain: dict[str, object] = {"count": COUNT, "shard_size": SIZE, "dtype": "float32", "shape": (3, 4), "cond": COND}
    return PairLayout(**(plain | changes))  # type: ignore[arg-type]


def fill(folder: Path, plan: PairLayout | None = None) -> PairStore:
    plan = plan or layout()
    x0, x1, cond = columns(plan.count)
    with PairWriter(folder, plan) as writer:
        for shard in writer.missing():
            rows = slice(shard * plan.shard_size, shard * plan.shard_size + plan.rows(shard))
            writer.write(shard, x0[rows], x1[rows], {name: value[rows] for name, value in cond.items()})
        return writer.finish()


def assert_rows(batch: Batch, x0: Tensor, x1: Tensor, cond: Cond, indices: list[int]) -> None:
    assert isinstance(batch.x0, Tensor)
    assert isinstance(batch.x1, Tensor)
    assert torch.equal(batch.x0, x0[indices])
    assert torch.equal(batch.x1, x1[indices])
    assert batch.cond.keys() == cond.keys()
    for name, value in cond.items():
        assert batch.cond[name].dtype == value.dtype
        assert torch.equal(batch.cond[name], value[indices])


def test_any_rows_in_any_order_come_back_bit_for_bit(tmp_path: Path) -> None:
    store = fill(tmp_path)
    assert len(store) == COUNT
    assert len(list(tmp_path.glob("shard-*.safetensors"))) == 6
    random = torch.randint(COUNT, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    for indices in (list(range(COUNT)), random, [102], [19, 20, 19], [100, 0]):
        assert_rows(store.rows(indices), *columns(), indices)
        assert_rows(store.__getitems__(indices), *columns(), indices)


def test_a_batch_is_the_callers_own(tmp_path: Path) -> None:
    store = fill(tmp_path)
    first = store.rows([3])
    assert isinstance(first.x1, Tensor)
    first.x1.zero_()
    assert_rows(store.rows([3]), *columns(), [3])


def test_training_draws_pairs_independently(tmp_path: Path) -> None:
    order = order_of(fill(tmp_path), COUNT, seed=0)
    assert len(set(order.indices(0))) < COUNT  # an epoch would hold each pair once


@pytest.mark.parametrize("indices", [[-1], [0, COUNT]])
def test_rows_outside_the_store_are_refused(tmp_path: Path, indices: list[int]) -> None:
    with pytest.raises(DataError, match="holds 0 to 102"):
        fill(tmp_path).rows(indices)


def test_states_of_product_spaces(tmp_path: Path) -> None:
    shape = {"turn": (5, 4), "place.x": (5,)}
    draw = torch.Generator().manual_seed(1)
    ends = [
        {name: torch.randn(7, *part, generator=draw, dtype=torch.float64) for name, part in shape.items()} for _ in "01"
    ]
    with PairWriter(tmp_path, layout(count=7, shard_size=7, dtype="float64", shape=shape, cond={})) as writer:
        writer.write(0, ends[0], ends[1], {})
        batch = writer.finish().rows([6, 2])
    assert isinstance(batch.x0, dict)
    assert isinstance(batch.x1, dict)
    assert batch.cond == {}
    for name in shape:
        assert torch.equal(batch.x0[name], ends[0][name][[6, 2]])
        assert torch.equal(batch.x1[name], ends[1][name][[6, 2]])


def test_half_precision_on_disk_is_single_in_memory(tmp_path: Path) -> None:
    batch = fill(tmp_path, layout(dtype="float16")).rows(list(range(COUNT)))
    assert isinstance(batch.x1, Tensor)
    assert batch.x1.dtype == torch.float32
    torch.testing.assert_close(batch.x1, columns()[1], rtol=2**-11, atol=1e-7)  # half a unit in the last place
    assert (tmp_path / "shard-00000.safetensors").stat().st_size < SIZE * (2 * 12 * 2 + 8 + 24 + 1) + 1000


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    x = torch.full((2, 1), 7e4)
    with PairWriter(tmp_path, layout(count=2, dtype="float16", shape=(1,), cond={})) as writer:
        with pytest.raises(DataError, match=r"x1 of shard 0.*float16.*float32"):
            writer.write(0, x * 0, x, {})
        assert writer.missing() == [0]


def test_the_index_keeps_where_pairs_come_from(tmp_path: Path) -> None:
    plan = layout(settings={"steps": 4}, provenance={"teacher": "runs/a"})
    assert fill(tmp_path, plan).layout == plan
    assert json.loads((tmp_path / "index.json").read_text())["provenance"] == {"teacher": "runs/a"}


def test_reading_maps_the_files_and_copies_rows_alone(tmp_path: Path) -> None:
    count, side = 4000, 3000  # 96 MB in two tensors
    x = torch.zeros(count // 4, side, dtype=torch.float32)
    with PairWriter(tmp_path, layout(count=count, shard_size=count // 4, shape=(side,), cond={})) as writer:
        for shard in writer.missing():
            writer.write(shard, x, x + shard, {})
    script = (
        "import sys, resource\n"
        "from pathlib import Path\n"
        "from rectiflow.rectify.pairs import PairStore\n"
        "own = lambda: int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0])\n"
        "store = PairStore(sys.argv[1])\n"
        "store.rows([0])\n"
        "before = own()\n"
        "for row in range(0, len(store), 8):\n"
        "    assert store.rows([row]).x1[0, 0] == row // 1000\n"
        "maps = Path('/proc/self/maps').read_text()\n"
        "print(own() - before, sum(f'shard-0000{shard}.safetensors' in maps for shard in range(4)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    grown, mapped = map(int, done.stdout.split())
    assert mapped == 4
    assert grown < 10_000  # KiB; the pages read belong to the files


def test_other_processes_map_the_files_themselves(tmp_path: Path) -> None:
    store = fill(tmp_path)
    message = pickle.dumps(store)
    assert len(message) < 1000
    assert_rows(pickle.loads(message).rows([50, 7]), *columns(), [50, 7])  # noqa: S301  our own bytes
    order = order_of(store, 8, seed=0)
    batches = read_batches(store, order, 2, workers=1)
    assert_rows(next(batches), *columns(), order.indices(2))
    batches.close()


def damage(path: Path, how: str) -> None:
    payload = bytearray(path.read_bytes())
    if how == "truncated":
        payload = payload[:-5]
    elif how == "empty":
        payload.clear()
    elif how == "header":
        payload[9] ^= 255
    elif how == "pickle":
        payload = bytearray(pickle.dumps({"x0": [1.0]}))
    path.write_bytes(payload)


@pytest.mark.parametrize("how", ["truncated", "empty", "header", "pickle"])
def test_a_damaged_shard_is_named(tmp_path: Path, how: str) -> None:
    fill(tmp_path)
    damage(tmp_path / "shard-00002.safetensors", how)
    with pytest.raises(DataError, match=r"shard-00002\.safetensors is unusable.*remove this file"):
        PairStore(tmp_path)
    with pytest.raises(DataError, match=r"shard-00002\.safetensors"), PairWriter(tmp_path, layout()):
        pytest.fail("a damaged store was continued")


@pytest.mark.parametrize("place", [-1, -700, -2000])
def test_a_changed_byte_is_found_when_the_store_is_continued(tmp_path: Path, place: int) -> None:
    fill(tmp_path)
    path = tmp_path / "shard-00003.safetensors"
    payload = bytearray(path.read_bytes())
    payload[place] ^= 1
    path.write_bytes(payload)
    with pytest.raises(DataError, match=r"shard-00003\.safetensors.*checksum"), PairWriter(tmp_path, layout()):
        pytest.fail("a damaged store was continued")
    path.unlink()
    assert_rows(fill(tmp_path).rows([60, 79]), *columns(), [60, 79])


def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b", layout(dtype="float64"))
    (tmp_path / "b" / "shard-00001.safetensors").replace(tmp_path / "a" / "shard-00001.safetensors")
    with pytest.raises(DataError, match=r"x0 is float64 \[20, 3, 4\], the index says float32 \[20, 3, 4\]"):
        PairStore(tmp_path / "a")


def test_an_unfinished_store_does_not_open(tmp_path: Path) -> None:
    fill(tmp_path)
    for shard in (1, 4):
        (tmp_path / f"shard-0000{shard}.safetensors").unlink()
    with pytest.raises(DataError, match=r"lacks 2 of 6 shards, first shard-00001"):
        PairStore(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 9}'])
def test_a_bad_index_is_refused(tmp_path: Path, text: str) -> None:
    fill(tmp_path)
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DataError, match=str(tmp_path)):
        PairStore(tmp_path)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair store in"):
        PairStore(tmp_path / "nothing")


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    fill(tmp_path)
    leftover = tmp_path / "shard-00001.safetensors.tmp-123"
    (tmp_path / "shard-00001.safetensors").rename(leftover)
    with PairWriter(tmp_path, layout()) as writer:
        assert writer.missing() == [1]
        assert not leftover.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 104}, "count is 103 there and 104 here"),
        ({"dtype": "float16"}, "dtype is float32 there and float16 here"),
        ({"settings": {"steps": 4}}, "steps is absent there and 4 here"),
        ({"provenance": {"teacher": "b"}}, "provenance.teacher is absent there and b here"),
        ({"cond": {}}, "cond is "),
    ],
)
def test_pairs_of_two_kinds_do_not_mix(tmp_path: Path, change: dict[str, object], words: str) -> None:
    fill(tmp_path)
    with pytest.raises(ConfigError, match=words), PairWriter(tmp_path, layout(**change)):
        pytest.fail("another layout was accepted")


def test_an_index_without_pairs_binds_nobody(tmp_path: Path) -> None:
    with PairWriter(tmp_path, layout(count=5)):
        pass
    assert len(fill(tmp_path)) == COUNT


def test_a_shard_must_fit_the_layout(tmp_path: Path) -> None:
    x0, x1, cond = (part[:SIZE] if isinstance(part, Tensor) else part for part in columns())
    cond = {name: value[:SIZE] for name, value in cond.items()}
    with PairWriter(tmp_path, layout()) as writer:
        for bad in ((x0[:-1], x1, cond), (x0, x1.flatten(1), cond), (x0, x1, {"label": cond["label"]})):
            with pytest.raises(DataError, match="of shard 0"):
                writer.write(0, *bad)
        assert writer.missing() == list(range(6))


@pytest.mark.parametrize("change", [{"count": 0}, {"shard_size": 0}, {"dtype": "int8"}])
def test_bad_numbers(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        layout(**change)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), PairWriter(tmp_path / "file" / "pairs", layout()):
        pytest.fail("a file was taken for a folder")


def test_names_of_the_package() -> None:
    assert rectify.PairStore is PairStore
    assert set(rectify.__all__) <= set(dir(rectify))
    with pytest.raises(AttributeError, match="distil_everything"):
        _ = rectify.distil_everything
