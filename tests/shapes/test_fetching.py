"""Catalogues and archives as the packages lay them out: sorted by category, turned upright, with whose they are."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes import fetching
from rectiflow_shapes.reading import read_mesh

TETRA = b"v 0 0 0\nv 1 0 0\nv 0 2 0\nv 0 0 3\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
PROPERTIES = (
    "name=Catalogue\nname#1=Caf\\u00e9 chair\ncategory#1=Living room\nmodel#1=/m/chair/chair.obj\ncreator#1=A. Maker\n"
    "name#2=Lamp\ncategory#2=Lights\nmodel#2=/m/lamp.obj\nmodelRotation#2=0 0 1 0 1 0 -1 0 0\n"
    "name#3=Window\nmodel#3=/m/window.zip\n"
)


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "package"
    monkeypatch.setattr(fetching, "fetch_package", lambda package: folder)
    return folder


def test_furniture_is_sorted_turned_and_credited(packages: Path) -> None:
    catalogues = packages / "usr/share/sweethome3d/furniture"
    catalogues.mkdir(parents=True)
    (packages / "usr/share/doc/sweethome3d-furniture").mkdir(parents=True)
    (packages / "usr/share/doc/sweethome3d-furniture/copyright").write_text("the licences")
    with zipfile.ZipFile(catalogues / "Scopia.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", PROPERTIES)
        archive.writestr("m/chair/chair.obj", TETRA)
        archive.writestr("m/lamp.obj", TETRA)
    folder = fetching.fetch("sweethome3d")
    rows = list(csv.DictReader((folder / "attribution.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows] == ["living-room/scopia-chair.obj", "lights/scopia-lamp.obj"]
    assert rows[0]["name"] == "Café chair"
    assert rows[0]["creator"] == "A. Maker"
    assert rows[0]["licence"] == "CC-BY-3.0"
    assert json.loads((folder / "manifest.json").read_text())["count"] == "2"
    assert np.ptp(read_mesh(folder / rows[0]["file"]).vertices, axis=0) == pytest.approx([1, 2, 3])
    # A quarter turn about the upright axis: z comes to x, and x to -z.
    lamp = read_mesh(folder / rows[1]["file"]).bounds
    assert lamp.ravel() == pytest.approx([0, 0, -1, 3, 2, 0])


def test_objects_with_a_licence_of_their_own_are_left_out(packages: Path) -> None:
    for name in ("random_urdfs/000/000.obj", "table/table.obj", "domino/domino.obj", "plane.mtl"):
        path = packages / "pybullet_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TETRA)
    folder = fetching.fetch("pybullet-objects")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.obj"))
    assert names == ["random/000.obj", "thing/table-table.obj"]
    assert fetching.fetch("pybullet-objects") == folder


def test_an_archive_in_the_archive_cannot_write_elsewhere(packages: Path, tmp_path: Path) -> None:
    archive = packages / fetching.CGAL.wanted[0]
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("data/meshes/a.obj", "../../meshes/b.obj", "data/points_3/c.obj", "data/meshes/readme"):
            member = tarfile.TarInfo(name)
            member.size = len(TETRA)
            tar.addfile(member, io.BytesIO(TETRA))
        link = tarfile.TarInfo("data/meshes/d.obj")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    folder = fetching.fetch("cgal")
    assert sorted(path.name for path in folder.rglob("*.obj")) == ["a.obj", "b.obj"]
    assert not list(tmp_path.glob("meshes"))


def test_what_cannot_be_fetched_is_said(packages: Path) -> None:
    with pytest.raises(ConfigError, match="pybullet-objects, sweethome3d, cgal"):
        fetching.fetch("shapenet")
    archive = packages / fetching.CGAL.wanted[0]
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"no archive")
    with pytest.raises(DataError, match="fetch again"):
        fetching.fetch("cgal")
