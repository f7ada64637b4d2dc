"""Pictures of meshes without GL: soft light, ambient occlusion and a contact shadow; contact sheets and turntables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage, sparse

from rectiflow.errors import ConfigError, StorageError
from rectiflow_shapes.visibility import Camera, Engine, Float, seen_faces

Colour = tuple[float, float, float]

CLAY: Colour = (0.62, 0.72, 0.86)
PALETTE: tuple[Colour, ...] = (
    (0.45, 0.62, 0.85),
    (0.93, 0.62, 0.38),
    (0.50, 0.74, 0.55),
    (0.86, 0.50, 0.50),
    (0.66, 0.58, 0.82),
    (0.87, 0.76, 0.42),
    (0.45, 0.72, 0.74),
    (0.85, 0.58, 0.72),
    (0.62, 0.62, 0.62),
    (0.70, 0.56, 0.45),
)
"""Colours (sRGB in [0, 1]) to tell kinds apart."""

AZIMUTH, ELEVATION = 35.0, 22.0
_DISTANCE, _EXTENT = 5.0, 1.3
_CREASE = math.cos(math.radians(35.0))
_KEY, _FILL = np.array([-0.45, 0.75, 0.5]), np.array([0.8, 0.15, 0.55])
_PAPER = 0.955
_OCCLUSION_RADIUS = 0.28


def render(
    mesh: trimesh.Trimesh,
    size: int = 256,
    *,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
    colour: Colour = CLAY,
    ground: bool = True,
    engine: Engine | None = None,
    smoothing: int = 2,
) -> Image.Image:
    """A picture of one mesh, y up, lit from the upper left; an empty mesh gives an empty picture.

    Args:
        mesh: in [-1, 1]^3; one that reaches further is fitted into it.
        size: pixels of each side.
        azimuth, elevation: degrees of the camera around the shape; azimuth 0 looks at its front (+z).
        colour: sRGB in [0, 1].
        ground: a soft shadow under the shape.
        engine: see `seen_faces`; the pictures of both differ in single pixels at most.
        smoothing: rays along each side of a pixel.

    Raises:
        ConfigError: a size or smoothing below 1.
        MissingDependency: see `seen_faces`.
    """
    if size < 1 or smoothing < 1:
        raise ConfigError(f"size is {size} and smoothing {smoothing}; both must be 1 or more")
    mesh = _fitted(mesh)
    turn, rise = math.radians(azimuth), math.radians(elevation)
    eye = (math.sin(turn) * math.cos(rise), math.sin(rise), math.cos(turn) * math.cos(rise))
    camera = Camera(size * smoothing, tuple(_DISTANCE * x for x in eye), _EXTENT)  # type: ignore[arg-type]
    faces = seen_faces(mesh, camera, engine).ravel()
    origins, directions = camera.rays()
    paper = np.full((len(faces), 3), _PAPER)
    if len(mesh.faces) and ground and elevation > 0:
        paper *= _ground_light(mesh, origins, directions, engine)[:, None]
    hit = np.flatnonzero(faces >= 0)
    if len(hit):
        points, normals = _surface(mesh, faces[hit], origins[hit], directions[hit])
        dark = _occlusion(hit, points, normals, camera)
        paper[hit] = _shade(normals, directions[hit], camera.axes, np.array(colour), dark)
    pixels = np.clip(paper * 255 + 0.5, 0, 255).astype(np.uint8).reshape(camera.size, camera.size, 3)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)


def contact_sheet(
    meshes: Sequence[trimesh.Trimesh],
    *,
    captions: Sequence[str] = (),
    colours: Sequence[Colour] = (),
    views: Sequence[float] = (AZIMUTH,),
    columns: int | None = None,
    size: int = 192,
    engine: Engine | None = None,
) -> Image.Image:
    """Many shapes side by side, row by row, each from every azimuth of `views` (degrees).

    Args:
        meshes: at least one.
        captions: one a shape, written below it; none by default.
        colours: one a shape; clay by default.
        views: azimuths that each shape is seen from, next to one another.
        columns: shapes in a row; about as many as rows when not given.
        size: pixels of each picture's side.
        engine: see `seen_faces`.

    Raises:
        ConfigError: no meshes, or captions or colours of another number.
    """
    for name, given in (("captions", captions), ("colours", colours)):
        if given and len(given) != len(meshes):
            raise ConfigError(f"there are {len(given)} {name} for {len(meshes)} shapes; give one a shape, or none")
    if not meshes or not views:
        raise ConfigError(
            f"a contact sheet of {len(meshes)} shapes from {len(views)} views is empty; give one or more of both"
        )
    across = columns or math.ceil(math.sqrt(len(meshes) / len(views)))
    line = max(11, size // 14)
    height = size + (2 * line + 6 if captions else 0)
    sheet = Image.new(
        "RGB", (across * len(views) * size, math.ceil(len(meshes) / across) * height), (round(_PAPER * 255),) * 3
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(line)
    for index, mesh in enumerate(meshes):
        row, column = divmod(index, across)
        left, top = column * len(views) * size, row * height
        for place, azimuth in enumerate(views):
            shade = colours[index] if colours else CLAY
            sheet.paste(render(mesh, size, azimuth=azimuth, colour=shade, engine=engine), (left + place * size, top))
        if captions:
            for number, text in enumerate(_wrapped(captions[index], font, len(views) * size - 8)[:2]):
                middle = left + len(views) * size // 2
                pen.text((middle, top + size + number * (line + 2)), text, (60, 60, 60), font, anchor="ma")
    return sheet


def turntable(
    meshes: Sequence[trimesh.Trimesh],
    path: Path,
    *,
    colours: Sequence[Colour] = (),
    columns: int | None = None,
    frames: int = 24,
    seconds: float = 3.0,
    size: int = 192,
    engine: Engine | None = None,
) -> Path:
    """Write an endless GIF of the shapes turning once in `seconds`, side by side as on a contact sheet; return its path.

    Raises:
        ConfigError: no meshes, less than two frames, or a path that does not end in .gif.
        StorageError: the file cannot be written.
    """
    if frames < 2 or seconds <= 0 or path.suffix.lower() != ".gif":
        raise ConfigError(
            f"{frames} frames in {seconds} s to {path.name}; it takes 2 or more, a positive time and a .gif"
        )
    shots = [
        contact_sheet(
            meshes, colours=colours, views=(AZIMUTH + 360 * frame / frames,), columns=columns, size=size, engine=engine
        )
        for frame in range(frames)
    ]
    # One palette for all frames: else the paper flickers.
    palette = shots[0].quantize(255, Image.Quantize.MEDIANCUT)
    film = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in shots]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        film[0].save(
            path, save_all=True, append_images=film[1:], duration=round(1000 * seconds / frames), loop=0, optimize=True
        )
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; choose a writable folder") from error
    return path


def crease_normals(mesh: trimesh.Trimesh) -> Float:
    """Unit normals (faces, 3 corners, 3) that are smooth where faces meet at less than 35 degrees, and sharp elsewhere."""
    faces = np.asarray(mesh.faces)
    triangles = np.asarray(mesh.vertices)[faces]
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    lengths = np.linalg.norm(crossed, axis=1, keepdims=True)
    units = crossed / np.maximum(lengths, 1e-30)
    corners = faces.ravel()
    owner = np.repeat(np.arange(len(faces)), 3)
    incidence = sparse.csr_array((np.ones(len(corners)), (corners, owner)), shape=(len(mesh.vertices), len(faces)))
    # For each corner, the faces around its vertex, one after the other.
    counts = np.diff(incidence.indptr)[corners]
    start = np.repeat(incidence.indptr[corners], counts)
    place = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
    other = incidence.indices[start + place]
    corner = np.repeat(np.arange(len(corners)), counts)
    smooth = np.einsum("ij,ij->i", units[owner[corner]], units[other]) > _CREASE
    sums = np.stack(
        [np.bincount(corner[smooth], crossed[other[smooth], axis], len(corners)) for axis in range(3)], axis=1
    )
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    normals: Float = np.where(length > 0, sums / np.maximum(length, 1e-30), units[owner]).reshape(-1, 3, 3)
    return normals


def _fitted(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    if len(mesh.faces) == 0 or np.abs(mesh.vertices).max() <= 1.05:
        return mesh
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    scale = 1.8 / max((high - low).max(), 1e-30)
    return trimesh.Trimesh((mesh.vertices - (low + high) / 2) * scale, mesh.faces, process=False)


def _surface(mesh: trimesh.Trimesh, faces: NDArray[np.int64], origins: Float, directions: Float) -> tuple[Float, Float]:
    """Where the rays meet the planes of their faces, and the normals there, turned towards the eye."""
    a, b, c = np.moveaxis(np.asarray(mesh.vertices)[mesh.faces[faces]], 1, 0)
    along, across, normal = b - a, c - a, np.cross(b - a, c - a)
    facing = np.einsum("ij,ij->i", directions, normal)
    facing = np.where(np.abs(facing) < 1e-30, 1e-30, facing)
    points = origins + directions * (np.einsum("ij,ij->i", a - origins, normal) / facing)[:, None]
    square = np.maximum(np.einsum("ij,ij->i", normal, normal), 1e-30)
    of_b = np.clip(np.einsum("ij,ij->i", np.cross(points - a, across), normal) / square, 0, 1)
    of_c = np.clip(np.einsum("ij,ij->i", np.cross(along, points - a), normal) / square, 0, 1)
    weights = np.stack([np.clip(1 - of_b - of_c, 0, 1), of_b, of_c], axis=1)
    smooth = np.einsum("ij,ijk->ik", weights, crease_normals(mesh)[faces])
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-30)
    return points, smooth * np.where(facing > 0, -1.0, 1.0)[:, None]


def _shade(normals: Float, directions: Float, axes: Float, colour: Float, dark: Float) -> Float:
    """Colours (n, 3), sRGB in [0, 1]: a wrapped key light, a weak fill, light from the sky and a little gloss."""

    def towards(light: Float) -> Float:
        # Lights move with the camera: across, up and against the view.
        turned: Float = (light / np.linalg.norm(light)) @ (axes * np.array([[1.0], [1.0], [-1.0]]))
        return turned

    key = np.clip((normals @ towards(_KEY) + 0.25) / 1.25, 0, None)
    fill = np.clip(normals @ towards(_FILL), 0, None)
    sky = 0.5 + 0.5 * normals[:, 1]
    halfway = towards(_KEY) - directions
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
    gloss = np.clip(np.einsum("ij,ij->i", normals, halfway), 0, None) ** 40
    light = (0.62 * key + 0.12 * fill + 0.24 + 0.2 * sky) * (0.25 + 0.75 * dark)
    linear = colour**2.2 * light[:, None] + 0.06 * (gloss * dark)[:, None]
    display: Float = np.clip(linear, 0, 1) ** (1 / 2.2)
    return display


@lru_cache(maxsize=4)
def _shifts(reach: int) -> tuple[tuple[int, int], ...]:
    """Pixel offsets on a spiral out to `reach`."""
    turns = np.arange(28)
    radius = reach * ((turns + 1) / len(turns))
    angle = turns * math.pi * (3 - math.sqrt(5))
    pairs = {(round(r * math.cos(t)), round(r * math.sin(t))) for r, t in zip(radius, angle, strict=True)}
    return tuple(sorted(pairs - {(0, 0)}))


def _occlusion(hit: NDArray[np.int64], points: Float, normals: Float, camera: Camera) -> Float:
    """How open to the light each seen point is, in [0, 1], judged by the other points that are seen around it."""
    size = camera.size
    place = np.zeros((size, size, 3))
    known = np.zeros((size, size), dtype=bool)
    place.reshape(-1, 3)[hit], known.reshape(-1)[hit] = points, True
    row, column = np.divmod(hit, size)
    shifts = _shifts(max(2, round(_OCCLUSION_RADIUS / _EXTENT * size / 2)))
    blocked = np.zeros(len(hit))
    for down, across in shifts:
        r, c = np.clip(row + down, 0, size - 1), np.clip(column + across, 0, size - 1)
        towards = place[r, c] - points
        distance = np.linalg.norm(towards, axis=1)
        above = np.einsum("ij,ij->i", towards, normals) / np.maximum(distance, 1e-12)
        near = np.clip(1 - (distance / (1.6 * _OCCLUSION_RADIUS)) ** 2, 0, 1)
        blocked += np.where(known[r, c], np.clip(above - 0.1, 0, 1) * near, 0)
    open_sky = np.clip(1 - 2.0 * blocked / len(shifts), 0, 1)
    # The few directions leave a pattern; a small blur over the seen pixels takes it away.
    picture = np.zeros((size, size))
    picture.reshape(-1)[hit] = open_sky
    width = size / 250
    weight = ndimage.gaussian_filter(known.astype(np.float64), width)
    blurred: Float = (ndimage.gaussian_filter(picture, width) / np.maximum(weight, 1e-12)).reshape(-1)[hit]
    return blurred


def _ground_light(mesh: trimesh.Trimesh, origins: Float, directions: Float, engine: Engine | None) -> Float:
    """Light (n,) in [0, 1] that reaches the ground where the rays meet it: darker under what is close above it."""
    floor = float(mesh.vertices[:, 1].min())
    cells, reach = 96, 1.6
    below = Camera(cells, (0.0, -3.0, 0.0), reach, parallel=True)
    faces = seen_faces(mesh, below, engine).ravel()
    start, up = below.rays()
    hit = np.flatnonzero(faces >= 0)
    height = np.full(cells**2, np.inf)
    if len(hit):
        points, _ = _surface(mesh, faces[hit], start[hit], up[hit])
        height[hit] = points[:, 1] - floor
    shadow = np.zeros((cells, cells))
    for low, high, blur, strength in (
        (-1.0, 0.08, 0.03, 0.42),
        (0.08, 0.35, 0.09, 0.3),
        (0.35, 1.0, 0.2, 0.22),
        (1.0, 9.0, 0.3, 0.15),
    ):
        layer = ((height >= low) & (height < high)).reshape(cells, cells).astype(np.float64)
        shadow += strength * ndimage.gaussian_filter(layer, blur * cells / (2 * reach))
    steps = (floor - origins[:, 1]) / np.minimum(directions[:, 1], -1e-9)
    ground = origins + directions * np.clip(steps, 0, 1e3)[:, None]
    # The same mapping from world to cells as the camera that saw the heights.
    column, row, _ = below.project(ground).T
    dark = ndimage.map_coordinates(shadow, [row - 0.5, column - 0.5], order=1, mode="constant")
    return np.where(directions[:, 1] < -1e-6, 1 - np.clip(dark, 0, 0.75), 1.0)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
