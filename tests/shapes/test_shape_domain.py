"""The domain from data to files on a handful of solids, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import trimesh
from PIL import Image

from rectiflow.config import compose_training, compose_verb
from rectiflow.domain import build
from rectiflow.errors import ConfigError
from rectiflow.sampling import integrate
from rectiflow.settings import EvaluateSettings, SampleSettings
from rectiflow.verbs import evaluate, sample, train
from rectiflow_shapes import SPEC
from rectiflow_shapes.demo import write_meshes
from rectiflow_shapes.domain import Shapes
from rectiflow_shapes.evaluation import valid_share
from rectiflow_shapes.signed_distance import signed_distance

SMALL = [
    "data.count=18",
    "data.held=12",
    "model.width=16",
    "model.depth=2",
    "model.heads=2",
    "training.steps=2",
    "training.batch=4",
    "training.warmup=0",
    "training.preview_every=0",
    "sampling.steps=2",
]
COMPONENTS = ["representation.components=8", "representation.columns=4"]
MOSAICS = ["representation=mosaic", "representation.cubes=8", "representation.kept=0"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(cache))


def domain(*overrides: str, representation: Sequence[str] = COMPONENTS) -> Shapes:
    made = build(SPEC, compose_training(SPEC, [*SMALL, *representation, *overrides]))
    assert isinstance(made, Shapes)
    return made


def test_files_and_pictures(tmp_path: Path) -> None:
    made = domain()
    data = made.splits.validation
    states, cond = made.representation.encode(data), {"kind": data.labels}
    rows = torch.arange(2)
    files = made.save(states[rows], {"kind": cond["kind"][rows]}, tmp_path)
    assert [file.name for file in files] == [f"{n:05d}-{data.kinds[data.labels[n]]}.glb" for n in range(2)]
    assert trimesh.load(files[1], force="mesh").is_watertight
    with Image.open(tmp_path / "turntable.gif") as turning:
        assert turning.n_frames > 1  # type: ignore[attr-defined]
    assert made.picture(states[rows], {}).width > 100
    assert made.quality(states[rows], cond).shape == (2,)


@pytest.mark.slow
def test_from_solids_to_files(tmp_path: Path) -> None:
    longer = ["data.count=64", "data.held=64", "training.steps=50", f"out={tmp_path}", "name=tiny"]
    folder = train.run(SPEC, compose_training(SPEC, [*SMALL, *COMPONENTS, *longer]))
    settings = [f"run={folder}", "samplers=[euler-2]", "count=4", "paths=2", "batch=4"]
    evaluate.run(SPEC, compose_verb(EvaluateSettings, {}, settings))
    figures = json.loads((folder / "metrics.json").read_text())
    assert 0 <= figures["valid.euler.nfe_2"] <= 1
    assert figures["valid.floor"] <= 1
    assert {"nna_cd.floor", "accuracy_points.euler.nfe_2", "fd_e3.baseline"} <= figures.keys()
    assert (folder / "report.html").is_file()
    settings = [f"run={folder}", "count=4", "steps=2", "cond.kind=mug", f"out={tmp_path / 'samples'}"]
    drawn = sample.run(SPEC, compose_verb(SampleSettings, {"cond": SPEC.conditions}, settings))
    files = sorted(drawn.glob("*.glb"))
    assert [file.name for file in files] == [f"{number:05d}-mug.glb" for number in range(4)]
    assert all(len(trimesh.load(file, force="mesh").faces) > 0 for file in files)
    with Image.open(drawn / "all.png") as sheet:
        assert sheet.width > 100
    assert len(list(write_meshes(SPEC, folder).glob("*.glb"))) == 16


@pytest.mark.parametrize("representation", [COMPONENTS, MOSAICS], ids=["principal_grid", "mosaic"])
def test_networks_before_training_make_finite_states_and_fields(representation: list[str]) -> None:
    made = domain(representation=representation)
    generator = torch.Generator().manual_seed(0)
    network = made.network(generator)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    flow = made.flow(network)
    cond = made.conditions(3, generator)
    with torch.no_grad():
        drawn = integrate(flow, flow.sample_source(made.sample_shape(3, cond), cond, generator), steps=3, cond=cond).x
        assert made.representation.decode(drawn).isfinite().all()


def test_real_solids_survive_the_default_representation_of_the_data() -> None:
    made = domain("representation.components=16")
    others = made.splits.train
    meshes = made.representation.meshes(made.representation.encode(others))
    assert valid_share(meshes) >= 0.9  # sixteen components, eighteen shapes
    assert torch.equal(others.pick(torch.tensor([3, 1])).labels, others.labels[[3, 1]])
    assert others.pick(torch.tensor([3])).mesh(0).is_volume


def test_data_are_measured_from_the_meshes() -> None:
    data = domain().splits.validation
    assert len(data) == 12
    cloud, mesh = data.array("cloud", slice(0, 1))[0], data.mesh(0)
    assert signed_distance(mesh, cloud.double(), "winding").abs().max() < 2e-3  # half precision
    near, told = data.array("near", slice(0, 1))[0], data.array("distance", slice(0, 1))[0]
    torch.testing.assert_close(told.double(), signed_distance(mesh, near.double(), "winding"), rtol=0, atol=3e-3)
    grid = data.array("grid", slice(0, 1))[0]
    assert grid.shape == (32, 32, 32)
    assert float(grid[0, 0, 0]) == 1
    inside = float((grid < 0).float().mean()) * 8
    assert inside == pytest.approx(mesh.volume, rel=0.15)


def test_the_page_holds_every_shape() -> None:
    made = domain()
    cond = {"kind": made.splits.validation.labels[:3]}
    page = made.view(made.representation.encode(made.splits.validation)[:3], cond)
    assert page is not None
    assert page.count('"places":') == 3
    assert "http" not in page.replace("http-equiv", "")
    assert made.view(torch.zeros(0, 2, 4), {"kind": torch.zeros(0, dtype=torch.long)}) is None


def test_what_is_asked_for_must_be_told() -> None:
    made = domain()
    with pytest.raises(ConfigError, match="told kind"):
        made.conditions(2, torch.Generator(), caption="a mug")
    with pytest.raises(ConfigError, match=r"model.told has 'size'"):
        domain("model.told=[size]")
    with pytest.raises(ConfigError, match="family"):
        domain("data.family=tall").dataset("train")
    with pytest.raises(ConfigError, match="split 'test'"):
        made.dataset("test")
    with pytest.raises(ConfigError, match=r"data\.count=1"):
        domain("data.count=1").dataset("train")
