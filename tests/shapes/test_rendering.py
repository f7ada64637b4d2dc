"""Pictures: two engines that agree, cameras that look where they say, and files that open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from rectiflow.errors import ConfigError, StorageError
from rectiflow_shapes.rendering import contact_sheet, crease_normals, render, turntable
from rectiflow_shapes.solids import draw
from rectiflow_shapes.visibility import Camera, seen_faces

CHAIR = draw("demo", 2).mesh


def pixels(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture, dtype=np.float64)


@pytest.mark.parametrize("camera", [Camera(64, (2.0, 2.0, 4.0), 1.3), Camera(64, (0.0, -3.0, 0.0), 1.6, parallel=True)])
def test_ray_casting_and_depth_buffer_see_the_same_faces(camera: Camera) -> None:
    one, other = seen_faces(CHAIR, camera, "embree"), seen_faces(CHAIR, camera, "buffer")
    assert (one >= 0).mean() > 0.08
    # Rays along an edge may take either side.
    assert (one != other).mean() < 0.004


def test_pictures_of_both_engines_agree() -> None:
    one, other = pixels(render(CHAIR, 96, engine="embree")), pixels(render(CHAIR, 96, engine="buffer"))
    assert np.abs(one - other).mean() < 0.5
    assert np.abs(render_difference := one - pixels(render(CHAIR, 96, azimuth=120))).mean() > 3
    assert render_difference.shape == (96, 96, 3)


def test_the_camera_sees_what_lies_where() -> None:
    camera = Camera(100, (0.0, 0.0, 5.0), 1.0)
    # A small box to the right, above the middle and nearer: on its side of the picture, larger by the ratio of depths.
    box = trimesh.creation.box((0.2, 0.2, 0.2), transform=trimesh.transformations.translation_matrix([0.5, 0.3, 0.0]))
    for engine in ("embree", "buffer"):
        rows, columns = np.nonzero(seen_faces(box, camera, engine) >= 0)  # type: ignore[arg-type]
        near = 5 / 4.9
        assert (columns.min(), columns.max() + 1) == pytest.approx((50 + 50 * 0.4, 50 + 50 * 0.6 * near), abs=1.1)
        assert (rows.min(), rows.max() + 1) == pytest.approx((50 - 50 * 0.4 * near, 50 - 50 * 0.2), abs=1.1)
    points = np.array([[0.5, 0.3, 0.0], [0.0, 0.0, 4.0]])
    assert camera.project(points)[0, :2] == pytest.approx([75, 35])
    assert camera.project(points)[1, 2] < camera.project(points)[0, 2]


def test_light_comes_from_above_and_the_ground_is_dark_below() -> None:
    ball = trimesh.creation.icosphere(3, 0.6)
    picture = pixels(render(ball, 100, azimuth=0, elevation=15)).mean(axis=2)
    assert picture[35, 50] > picture[65, 50]
    bare = pixels(render(ball, 100, azimuth=0, elevation=15, ground=False)).mean(axis=2)
    assert picture[2, 2] == pytest.approx(bare[2, 2])
    shade = bare - picture
    assert shade.max() > 8
    row, _ = np.unravel_index(np.argmax(shade), shade.shape)
    assert row > 60


def test_normals_are_smooth_over_a_ball_and_sharp_at_the_edges_of_a_box() -> None:
    ball = trimesh.creation.icosphere(3, 1.0)
    smooth = crease_normals(ball)
    assert np.einsum("fij,fij->fi", smooth, ball.vertices[ball.faces]).min() > 0.999
    box = trimesh.creation.box()
    assert np.abs(crease_normals(box) - box.face_normals[:, None]).max() < 1e-12


def test_sheets_and_turntables_have_their_sizes(tmp_path: Path) -> None:
    far = trimesh.Trimesh(CHAIR.vertices * 50 + 9, CHAIR.faces, process=False)
    sheet = contact_sheet(
        [CHAIR, far, trimesh.Trimesh()], captions=["a chair", "far", "nothing"], views=(0, 90), columns=2, size=40
    )
    assert sheet.width == 2 * 2 * 40
    assert sheet.height > 2 * 40
    # The far one is brought near: the same picture as the near one.
    alike = np.abs(pixels(sheet.crop((0, 0, 80, 40))) - pixels(sheet.crop((80, 0, 160, 40))))
    assert alike.mean() < 1
    path = turntable([CHAIR], tmp_path / "deep" / "turn.gif", frames=5, size=48)
    with Image.open(path) as film:
        assert film.n_frames == 5  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        assert film.size == (48, 48)


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    for call in (
        lambda: render(CHAIR, 0),
        lambda: render(CHAIR, 8, engine="gl"),  # type: ignore[arg-type]
        lambda: contact_sheet([]),
        lambda: contact_sheet([CHAIR], captions=["one", "two"]),
        lambda: turntable([CHAIR], tmp_path / "turn.mp4"),
        lambda: turntable([CHAIR], tmp_path / "turn.gif", frames=1),
    ):
        with pytest.raises(ConfigError):
            call()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        turntable([CHAIR], tmp_path / "file" / "turn.gif", frames=2, size=8)
