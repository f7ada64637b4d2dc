"""Shapes to turn with the mouse: one html page without outside requests, and small enough to stand inside a report."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from rectiflow.errors import ConfigError, DataError
from rectiflow_shapes.meshes import simplify
from rectiflow_shapes.rendering import CLAY, contact_sheet

_TEMPLATE = Path(__file__).with_name("viewer.html")
_MOST_FACES = 3000
_UNIT = 32000  # of 16-bit coordinates


def viewer_page(meshes: Sequence[trimesh.Trimesh], captions: Sequence[str], title: str = "Shapes") -> str:
    """The page that shows meshes in [-1, 1]^3 side by side: drag to turn all, click for one, wheel to zoom, arrows for the next.

    Large meshes are simplified to 3000 faces. Where scripts or WebGL do not run, the shapes are seen as a picture.

    Raises:
        ConfigError: no mesh, or not one caption a mesh.
    """
    if not meshes or len(meshes) != len(captions):
        raise ConfigError(
            f"{len(meshes)} meshes with {len(captions)} captions; give one mesh at least and a caption each"
        )
    light = [_lighter(mesh) for mesh in meshes]
    shown = [_packed(mesh, caption) for mesh, caption in zip(light, captions, strict=True)]
    still = contact_sheet(light, captions=captions, size=160)
    # "</" would end the script that holds the data.
    data = json.dumps(shown, separators=(",", ":")).replace("</", "<\\/")
    values = {
        "title": html.escape(title),
        "still": _address(still),
        "colour": json.dumps([round(float(part), 3) for part in CLAY]),
        "shapes": data,
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        page = page.replace("{{ " + name + " }}", value)
    return page


def _lighter(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    if len(mesh.faces) <= _MOST_FACES:
        return mesh
    try:
        return simplify(mesh, _MOST_FACES)
    except DataError:
        return mesh  # nothing that is closed has so few faces


def _packed(mesh: trimesh.Trimesh, caption: str) -> dict[str, Any]:
    wide = len(mesh.vertices) > np.iinfo(np.uint16).max
    places = np.rint(np.clip(mesh.vertices, -1, 1) * _UNIT).astype("<i2")
    return {
        "caption": caption,
        "wide": wide,
        "places": _text(places),
        "faces": _text(np.asarray(mesh.faces).astype("<u4" if wide else "<u2")),
    }


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _address(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.quantize(64).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
