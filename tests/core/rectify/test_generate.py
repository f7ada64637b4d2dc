"""Pairs run from source to data, are what the solver says, and depend on seed and shard alone."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond
from rectiflow.errors import ConfigError, DataError, NonFiniteError
from rectiflow.flow import Flow
from rectiflow.interpolants import Trigonometric
from rectiflow.rectify.generate import generate_pairs
from rectiflow.rectify.pairs import PairStore
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product

SCRIPT = Path(__file__).with_name("generating.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generating", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def everything(store: PairStore) -> Batch:
    return store.rows(list(range(len(store))))


def ends(store: PairStore) -> tuple[Tensor, Tensor, Cond]:
    batch = everything(store)
    assert isinstance(batch.x0, Tensor)
    assert isinstance(batch.x1, Tensor)
    return batch.x0, batch.x1, batch.cond


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def make(folder: Path, model: Callable[..., Any], *, flow: dict[str, Any] | None = None, **changes: Any) -> PairStore:
    settings: dict[str, Any] = {"count": 50, "shape": (2,), "steps": 1, "seed": 0, "shard_size": 20, "dtype": "float64"}
    return generate_pairs(Flow(model, **(flow or {})), folder, **(settings | changes))


def test_the_affine_flow_carries_source_to_data_and_not_back(tmp_path: Path) -> None:
    mean, scale = torch.tensor([2.0, -1.0]), torch.tensor([0.3, 1.7])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        variance = t**2 * scale**2 + (1 - t) ** 2
        return mean + (t * scale**2 - (1 - t)) / variance * (x - t * mean)

    x0, x1, _ = ends(make(tmp_path, velocity, steps=60, method="rk4"))
    torch.testing.assert_close(x1, mean + scale * x0, rtol=0, atol=1e-6)
    assert not torch.allclose(x0, mean + scale * x1, atol=0.1)


def test_sources_are_standard_normal_and_differ_between_shards(tmp_path: Path) -> None:
    x0, _, _ = ends(make(tmp_path, lambda x, t: x, count=4000, shard_size=1000))
    assert stats.kstest(x0.flatten().numpy(), "norm").pvalue > 1e-4
    z = x0.reshape(4, -1)
    for first in range(4):
        for second in range(first):
            assert abs(float((z[first] * z[second]).mean())) < 4 / math.sqrt(z.shape[1])


def test_each_pair_keeps_its_own_condition(tmp_path: Path) -> None:
    def conditions(count: int, generator: torch.Generator) -> Cond:
        return {
            "label": torch.randint(9, (count,), generator=generator),
            "shift": torch.rand(count, 2, generator=generator),
        }

    x0, x1, cond = ends(
        make(tmp_path, lambda x, t, label, shift: label[:, None] + shift, conditions=conditions, batch=7)
    )
    assert cond["label"].dtype == torch.int64
    assert cond["label"].unique().numel() == 9
    torch.testing.assert_close(x1 - x0, cond["label"][:, None] + cond["shift"])


def test_guidance_is_in_the_pairs(tmp_path: Path) -> None:
    def conditions(count: int, generator: torch.Generator) -> Cond:
        return {"label": 1 + torch.randint(3, (count,), generator=generator)}

    store = make(
        tmp_path,
        lambda x, t, label: (label * 1.0)[:, None].expand_as(x),
        flow={"null": {"label": 0}},
        conditions=conditions,
        guidance=2.5,
    )
    x0, x1, cond = ends(store)
    torch.testing.assert_close(x1 - x0, (2.5 * cond["label"])[:, None].expand_as(x0))


def test_solver_steps_and_shift_are_those_asked_for(tmp_path: Path) -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return x * t[:, None]

    x0, x1, _ = ends(make(tmp_path / "midpoint", velocity, method="midpoint"))
    torch.testing.assert_close(x1, x0 * 1.5)  # the state stands still at t = 0, so the slope is x0 / 2
    x0, x1, _ = ends(make(tmp_path / "euler", velocity, steps=2))
    torch.testing.assert_close(x1, x0 * 1.25)
    x0, x1, _ = ends(make(tmp_path / "shifted", velocity, steps=2, shift=3.0))
    torch.testing.assert_close(x1, x0 * (1 + 0.75 * 0.25))  # the middle time moves to 1/4 or 3/4


def test_states_of_product_spaces_and_sources_that_see_the_condition(tmp_path: Path) -> None:
    class Shifted:
        def __call__(self, shape: Any, *, cond: Cond, generator: Any, device: Any, dtype: Any) -> Any:
            return {
                name: torch.randn(part, generator=generator, dtype=dtype) * 0.01 + cond["at"].reshape(-1, *[1] * (len(part) - 1))
                for name, part in shape.items()
            }  # fmt: skip

    batch = everything(
        make(
            tmp_path,
            lambda x, t, at: {name: torch.full_like(part, len(name)) for name, part in x.items()},
            flow={"space": Product(a=Euclidean(), bcd=Euclidean()), "source": Shifted()},
            shape={"a": (3,), "bcd": (2, 2)},
            conditions=lambda count, generator: {"at": torch.arange(count) * 1.0},
        )
    )
    assert isinstance(batch.x0, dict)
    assert isinstance(batch.x1, dict)
    for name in ("a", "bcd"):
        torch.testing.assert_close(batch.x1[name] - batch.x0[name], torch.full_like(batch.x0[name], len(name)))
        assert float((batch.x0[name].flatten(1).mean(1) - batch.cond["at"]).abs().max()) < 0.1


def test_same_seed_same_bytes(tmp_path: Path, script: ModuleType) -> None:
    for name, seed in (("a", 11), ("b", 11), ("c", 12)):
        script.generate(tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    first, other = ends(PairStore(tmp_path / "a")), ends(PairStore(tmp_path / "c"))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[2]["label"], other[2]["label"])


def test_the_batch_changes_neither_sources_nor_conditions(tmp_path: Path, script: ModuleType) -> None:
    (x0, x1, cond), (y0, y1, other) = (ends(script.generate(tmp_path / str(batch), batch=batch)) for batch in (3, 100))
    assert torch.equal(x0, y0)
    assert torch.equal(cond["label"], other["label"])
    torch.testing.assert_close(x1, y1)


def test_a_lost_shard_is_made_again_and_no_other(tmp_path: Path, script: ModuleType) -> None:
    script.generate(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00002.safetensors").unlink()
    kept = (tmp_path / "shard-00001.safetensors").stat()
    reports: list[int] = []
    script.generate(tmp_path, progress=reports.append)
    assert contents(tmp_path) == before
    assert (tmp_path / "shard-00001.safetensors").stat().st_ino == kept.st_ino
    assert reports == [54, 58, 62, 66, 70]


def test_progress_counts_pairs(tmp_path: Path) -> None:
    reports: list[int] = []
    make(tmp_path, lambda x, t: x, batch=8, progress=reports.append)
    assert reports == [0, 8, 16, 20, 28, 36, 40, 48, 50]
    reports.clear()
    make(tmp_path, lambda x, t: x, batch=8, progress=reports.append)
    assert reports == [50]


def test_single_precision_throughout_unless_asked(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.update((x.dtype, t.dtype))
        return x

    for dtype in ("float16", "float32"):
        x0, _, _ = ends(make(tmp_path / dtype, velocity, dtype=dtype))
        assert x0.dtype == torch.float32
    assert seen == {torch.float32}


def test_the_teacher_is_used_as_in_evaluation_and_left_as_it_was(tmp_path: Path) -> None:
    model = Dropping()
    model.frozen.eval()
    before = torch.get_rng_state()
    x0, x1, _ = ends(make(tmp_path, model))
    torch.testing.assert_close(x1, 2 * x0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.dropout(x) * self.weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 2}, "steps is 1 there and 2 here"),
        ({"method": "heun"}, "method is euler there and heun here"),
        ({"shift": 2.0}, r"shift is 1\.0 there and 2\.0 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"count": 51}, "count is 50 there and 51 here"),
        ({"shape": (3,)}, r"shape is \[2\] there and \[3\] here"),
        ({"dtype": "float32"}, "dtype is float64 there and float32 here"),
        ({"shard_size": 10}, "shard_size is 20 there and 10 here"),
        ({"provenance": {"run": "a"}}, r"provenance\.run is absent there and a here"),
        ({"conditions": lambda count, generator: {"label": torch.zeros(count)}}, "cond is"),
        ({"flow": {"interpolant": Trigonometric()}}, "teacher is"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    def velocity(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return x

    make(tmp_path, velocity)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, velocity, **change)
    assert contents(tmp_path) == before


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    model = Dropping()
    make(tmp_path, model)
    make(tmp_path, model.eval(), batch=9)
    with torch.no_grad():
        model.weight.mul_(1.001)
    with pytest.raises(ConfigError, match="teacher is"):
        make(tmp_path, model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count"),
        ({"shard_size": 0}, "shard_size"),
        ({"batch": 0}, "batch"),
        ({"steps": 0}, "steps"),
        ({"shift": 0.0}, "shift"),
        ({"dtype": "int8"}, "dtype"),
        ({"method": "magic"}, "magic"),
        ({"guidance": 2.0}, "guidance"),
        ({"conditions": lambda count, generator: {"label": torch.zeros(count + 1)}}, r"21 rows of 'label'"),
    ],
)
def test_bad_arguments(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, lambda x, t, **cond: x, **change)
    make(tmp_path, lambda x, t: x)  # the failure has left nothing in the way


def test_samples_that_are_not_finite_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        make(tmp_path, lambda x, t: x / 0)
    with pytest.raises(DataError, match="lacks 3 of 3"):
        PairStore(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("where", ["before", "after", "during", "progress"])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_killed_and_continued_is_never_killed(tmp_path: Path, script: ModuleType, where: str, number: int) -> None:
    for again in (False, True):
        line = [sys.executable, str(SCRIPT), str(tmp_path / "killed"), where, str(number)]
        done = subprocess.run(
            line, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=100, check=False
        )
        assert done.returncode in ((-signal.SIGKILL, 0) if again else (-signal.SIGKILL,)), done.stderr.decode()
    script.generate(tmp_path / "killed")
    script.generate(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.fault
def test_two_processes_make_one_store(tmp_path: Path, script: ModuleType) -> None:
    line = [sys.executable, str(SCRIPT), str(tmp_path / "shared"), "never", "0"]
    processes = [subprocess.Popen(line, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    script.generate(tmp_path / "whole")
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


@pytest.mark.fault
def test_a_full_disk_is_an_error_that_can_be_lifted(tmp_path: Path, script: ModuleType) -> None:
    program = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (800, resource.RLIM_INFINITY))\n"
        f"sys.argv = ['generating', {str(tmp_path / 'full')!r}, 'never', '0']\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    assert "StorageError" in done.stderr
    assert not list((tmp_path / "full").glob("shard-*"))
    script.generate(tmp_path / "full")
    script.generate(tmp_path / "whole")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")
