"""Whether meshes are solids, what files of them other programs find, and what becomes of bad ones."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import igl
import numpy as np
import pytest
import trimesh

from rectiflow.errors import ConfigError, DataError, StorageError
from rectiflow_shapes.meshes import export, inspect, simplify
from rectiflow_shapes.reading import READABLE, read_mesh
from rectiflow_shapes.repairing import normalise, repair
from rectiflow_shapes.solids import draw


def inverted(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1], process=False)


def without(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces[faces:], process=False)


def soup(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False)


def moved(mesh: trimesh.Trimesh, along: float) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices + np.array([along, 0, 0]), mesh.faces, process=False)


BOX = trimesh.creation.box((1.0, 1.0, 1.0))
INNER = trimesh.creation.box((0.5, 0.5, 0.5))
BESIDE = trimesh.creation.box((1.0, 1.0, 1.0), transform=trimesh.transformations.translation_matrix([0.5, 0.3, 0.2]))


def test_a_solid_is_told_from_shells_and_sheets() -> None:
    good = inspect(BOX)
    assert (good.is_volume, good.bodies, good.euler, good.valid) == (True, 1, 2, True)
    assert good.volume == pytest.approx(1.0)
    nested = inspect(BOX + inverted(INNER))
    assert nested.is_volume
    assert nested.bodies == 2
    assert nested.volume == pytest.approx(0.875)
    assert nested.largest_share == pytest.approx(1 / 1.125)
    assert not nested.valid
    assert inspect(trimesh.creation.torus(0.6, 0.2)).euler == 0
    for bad in (inverted(BOX), without(BOX, 1), trimesh.Trimesh(), trimesh.creation.box((0.1, 0.1, 0.1))):
        assert not inspect(bad).valid
    moved = BOX.copy()
    moved.apply_translation([1e3, 0, 0])
    assert inspect(moved).volume == pytest.approx(1.0)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_written_files_are_the_same_solid_in_another_loader(suffix: str, tmp_path: Path) -> None:
    mesh = draw("wide", 3).mesh
    path = export(mesh, tmp_path / "deep" / f"chair{suffix}")
    again = trimesh.load_scene(path, process=False).to_mesh()
    again.merge_vertices(merge_tex=True, merge_norm=True)
    assert again.is_volume
    assert again.volume == pytest.approx(mesh.volume, rel=1e-5)
    if suffix == ".glb":
        vertices, faces = glb_arrays(path)
    else:
        vertices, faces = igl.read_triangle_mesh(str(path))
    other = trimesh.Trimesh(vertices, faces, process=suffix == ".stl")
    assert other.is_watertight
    assert other.volume == pytest.approx(mesh.volume, rel=1e-5)
    if suffix != ".stl":
        assert len(vertices) == len(mesh.vertices)
    assert read_mesh(path).is_volume


def glb_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Positions and triangles of a GLB with one primitive, by the letter of the format."""
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    tree, binary = json.loads(data[20 : 20 + length]), data[20 + length + 8 :]
    [primitive] = tree["meshes"][0]["primitives"]

    def array(number: int, dtype: str, width: int) -> np.ndarray:  # type: ignore[type-arg]
        accessor = tree["accessors"][number]
        view = tree["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        return np.frombuffer(binary, dtype, accessor["count"] * width, start).reshape(-1, width)

    assert tree["accessors"][primitive["indices"]]["componentType"] == 5125
    return array(primitive["attributes"]["POSITION"], "<f4", 3), array(primitive["indices"], "<u4", 1).reshape(-1, 3)


def test_fewer_faces_stay_a_solid(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(4, 0.8)
    fewer = simplify(mesh, 500)
    assert len(fewer.faces) <= 500
    assert fewer.is_volume
    assert fewer.volume == pytest.approx(mesh.volume, rel=0.03)
    assert simplify(mesh, 10**6) is mesh
    assert len(read_mesh(export(mesh, tmp_path / "ball.stl", most_faces=200)).faces) <= 200


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.glb, \.obj"):
        export(BOX, tmp_path / "box.fbx")
    with pytest.raises(DataError, match="empty"):
        export(trimesh.Trimesh(), tmp_path / "box.glb")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        export(BOX, tmp_path / "file" / "box.glb")
    with pytest.raises(ConfigError, match="4 faces"):
        simplify(BOX, 3)


PLY = "ply\nformat {form} 1.0\nelement vertex {n}\nproperty float x\nproperty float y\nproperty float z\n"
PLY += "element face {m}\nproperty list uchar int vertex_indices\nend_header\n"
BAD: dict[str, tuple[bytes, str]] = {
    "empty.obj": (b"", "0 bytes"),
    "words.obj": (b"hello world\n" * 10, "words.obj"),
    "points.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "0 faces"),
    "index.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 1\nf 1 2 99\n", "index.obj"),
    "nan.obj": (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 3 4\nf 1 2 4\nf 2 3 4\n", "NaN"),
    "flat.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nf 1 2 3\nf 2 4 3\n", "flat"),
    "point.obj": (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "sides"),
    "huge.obj": (b"v 1e300 0 0\nv -1e300 0 0\nv 0 1e300 0\nv 0 0 1e308\nf 1 2 3\nf 1 3 4\n", "sides"),
    "liar.stl": (b"\0" * 80 + struct.pack("<I", 4_000_000_000) + b"\0" * 100, "promises"),
    "short.stl": (b"abc", "promises"),
    "liar.ply": (PLY.format(form="binary_little_endian", n=2**31, m=2**31).encode() + b"\0" * 64, "promises"),
    "text.ply": (PLY.format(form="ascii", n=10**9, m=1).encode() + b"0 0 0\n", "promises"),
    "none.ply": (b"plyy", "cannot be read"),
    "liar.off": (b"OFF\n1000000000 2000000000 0\n0 0 0\n", "promises"),
    "none.off": (b"OFF", "cannot be read"),
    "liar.glb": (b"glTF" + struct.pack("<IIII", 2, 4_000_000_000, 20, 0x4E4F534A) + b"{}" + b" " * 18, "promises"),
    "tree.glb": (b"glTF" + struct.pack("<IIII", 2, 24, 4, 0x4E4F534A) + b"[1,]", "cannot be read"),
    "mesh.fbx": (b"Kaydara", "convert"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_rejected_in_a_line(name: str, tmp_path: Path) -> None:
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_mesh(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".glb", ".obj"])
def test_files_cut_off_anywhere_never_raise_anything_else(suffix: str, tmp_path: Path) -> None:
    whole = export(BOX + INNER, tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    rejected = 0
    for end in range(1, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:end])
        try:
            read_mesh(path)
        except DataError:
            rejected += 1
    assert rejected > (10 if suffix == ".obj" else 38)


def test_bytes_gone_wrong_never_raise_anything_else(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for suffix in sorted({*READABLE} - {".off"}):
        whole = np.frombuffer(export(BOX, tmp_path / f"whole{suffix}").read_bytes(), dtype=np.uint8)
        path = tmp_path / f"wrong{suffix}"
        for _ in range(25):
            wrong = whole.copy()
            wrong[chance.integers(len(whole), size=4)] = chance.integers(256, size=4)
            path.write_bytes(wrong.tobytes())
            with suppress(DataError):
                read_mesh(path)


def test_too_many_faces_and_other_formats_are_said(tmp_path: Path) -> None:
    path = export(trimesh.creation.icosphere(2), tmp_path / "ball.ply")
    with pytest.raises(DataError, match="320 faces; at most 100"):
        read_mesh(path, most_faces=100)
    (tmp_path / "tetra.off").write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n")
    assert read_mesh(tmp_path / "tetra.off").volume == pytest.approx(1 / 6)
    # Comments, counts beside the keyword, a colour a vertex, faces of four corners with a colour.
    corners = "".join(f"{x} {y} {z} 255 0 0 255 # a corner\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    faces = "4 0 1 3 2 0.5 0.5 0.5\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n4 1 5 7 3\n"
    (tmp_path / "cube.off").write_text(f"# a cube\nCOFF 8 6 12\n\n{corners}{faces}")
    cube = read_mesh(tmp_path / "cube.off")
    assert cube.is_volume
    assert cube.volume == pytest.approx(1.0)


@pytest.mark.parametrize("suffix", [".off", ".obj"])
def test_faces_with_a_corner_that_turns_inwards_cover_no_more_than_themselves(suffix: str, tmp_path: Path) -> None:
    outline = [(0, 0), (2, 0), (2, 2), (1, 0.5), (0, 2)]
    vertices = [(x, y, z) for z in (0, 1) for x, y in outline]
    faces = [[4, 3, 2, 1, 0], [5, 6, 7, 8, 9], *([i, (i + 1) % 5, 5 + (i + 1) % 5, 5 + i] for i in range(5))]
    if suffix == ".off":
        lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *(" ".join(map(str, vertex)) for vertex in vertices)]
        lines += [" ".join(map(str, [len(face), *face])) for face in faces]
    else:
        lines = [
            "# an arrow",
            "mtllib nowhere.mtl",
            "g all",
            *(f"v {x} {y} {z}" for x, y, z in vertices),
            "usemtl none",
        ]
        lines += ["f " + " ".join(f"{place + 1}/1/1" for place in face) for face in faces[:-1]]
        lines += [
            "f " + " ".join(str(place - len(vertices)) for place in faces[-1][:2]) + " \\",
            " ".join(str(place - len(vertices)) for place in faces[-1][2:]),
        ]
    (tmp_path / f"arrow{suffix}").write_text("\n".join(lines) + "\n")
    arrow = read_mesh(tmp_path / f"arrow{suffix}")
    assert arrow.is_volume
    assert arrow.volume == pytest.approx(2.5)
    assert arrow.area == pytest.approx(2 * 2.5 + 6 + 2 * 3.25**0.5)


@pytest.mark.parametrize(
    ("mesh", "how", "volume"),
    [
        (BOX, "as it is", 1.0),
        (inverted(BOX), "turned", 1.0),
        (without(BOX, 1), "holes filled", 1.0),
        (without(BOX, 2), "holes filled", 1.0),
        # Unit boxes that share 0.5 x 0.7 x 0.8, in a box with sides of 1.5, 1.3 and 1.2.
        (BOX + BESIDE, "pieces united", 2 - 0.28),
        (BOX + moved(BOX, 1.0), "pieces united", 2.0),
        (BOX + moved(BOX, 1.000002), "pieces united", 2.0),
        (BOX + moved(BOX, 1.1), "as it is", 2.0),
        (BOX + inverted(INNER), "as it is", 0.875),
        (soup(trimesh.creation.icosphere(3)), "rebuilt", 4.15),
    ],
    ids=["box", "inside-out", "hole", "square-hole", "overlapping", "touching", "almost", "apart", "hollow", "soup"],
)
def test_repairs_do_the_least_that_gives_a_solid(mesh: trimesh.Trimesh, how: str, volume: float) -> None:
    solid, done = repair(mesh)
    assert done == how
    assert solid.is_volume
    scale = 1.8 / np.ptp(mesh.vertices, axis=0).max()
    assert solid.volume == pytest.approx(volume * scale**3, rel=0.02)
    assert np.ptp(solid.vertices, axis=0).max() == pytest.approx(1.8, abs=1e-6)


def test_a_sheet_gets_thickness() -> None:
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=float)
    faces = [[0, 1, 2], [0, 2, 3]]
    flat = trimesh.Trimesh(corners, faces, process=False)
    upright = trimesh.Trimesh(corners[:, [2, 0, 1]], faces, process=False)
    solid, done = repair(flat + upright)
    assert done == "rebuilt with thickness"
    assert solid.is_volume
    assert solid.volume < 0.1 * 1.8**3


def test_normalising_forgets_place_and_size() -> None:
    chair = draw("demo", 2).mesh
    far = trimesh.Trimesh(chair.vertices * 1e-4 + 7.0, chair.faces, process=False)
    assert np.abs(normalise(far).vertices - chair.vertices).max() < 1e-9
