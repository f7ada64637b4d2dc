"""The kinds of built-in solids: what may vary, how each is put together, and how it is described. Up is z, the front is -y."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from manifold3d import Manifold

from rectiflow_shapes.attributes import Attribute, Kind
from rectiflow_shapes.building import SEGMENTS, blade, box, half_ring, lathe, polygon, prism, rod, thread, union


def _legs(width: float, depth: float, height: float, thickness: float) -> list[Manifold]:
    x, y = (width - thickness) / 2, (depth - thickness) / 2
    return [box((thickness, thickness, height), (i * x, j * y, height / 2)) for i in (-1, 1) for j in (-1, 1)]


def _chair(a: Mapping[str, float]) -> Manifold:
    width, depth, seat, back, thick = a["width"], a["depth"], a["seat"], a["back"], a["thickness"]
    parts = [*_legs(width, depth, seat, thick), box((width, depth, thick), (0, 0, seat - thick / 2))]
    rear = (depth - thick) / 2
    if a["openings"] == 0:
        parts.append(box((width, thick, back), (0, rear, seat + back / 2)))
    else:
        rail = max(0.22 * back, thick)
        parts.append(box((width, thick, rail), (0, rear, seat + back - rail / 2)))
        for x in np.linspace(-(width - thick) / 2, (width - thick) / 2, round(a["openings"]) + 1):
            parts.append(box((thick, thick, back), (x, rear, seat + back / 2)))
    if a["armrests"]:
        high = seat + 0.58 * back
        for x in (-(width - thick) / 2, (width - thick) / 2):
            parts.append(box((thick, depth, thick), (x, 0, high - thick / 2)))
            parts.append(box((thick, thick, high - seat + thick), (x, -rear, (high + seat - thick) / 2)))
    return union(parts)


CHAIR = Kind(
    _chair,
    (
        Attribute("seat", 0.55, 0.9, ("low", "", "high-legged")),
        Attribute("back", 0.55, 0.85, ("", "", "with a tall back")),
        Attribute("width", 0.75, 1.05, ("narrow", "", "wide")),
        Attribute("depth", 0.75, 1.0),
        Attribute("thickness", 0.03, 0.08, ("thin", "", "sturdy")),
        Attribute("armrests", 0, 1, ("", "with armrests"), whole=True),
        Attribute(
            "openings",
            0,
            3,
            ("with a solid back", "with an open back", "with a barred back", "with a barred back"),
            whole=True,
        ),
    ),
)


def _table(a: Mapping[str, float]) -> Manifold:
    width, depth, height, top, leg = a["width"], a["depth"], a["height"], a["top"], a["leg"]
    if a["round"]:
        plate = Manifold.cylinder(top, 0.5, 0.5, SEGMENTS).scale((width, depth, 1.0)).translate((0, 0, height - top))
        # The corners of the legs stay inside the ellipse.
        width, depth = width * 0.68, depth * 0.68
    else:
        plate = box((width, depth, top), (0, 0, height - top / 2))
        width, depth = width * 0.94, depth * 0.94
    if a["pedestal"]:
        radius = 1.3 * leg
        foot = max(0.32 * depth, 1.6 * radius)
        outline = [
            (0, 0),
            (foot, 0),
            (foot, top),
            (radius, 1.8 * top),
            (radius, height - top / 2),
            (0, height - top / 2),
        ]
        return union([plate, lathe(outline)])
    return union([plate, *_legs(width, depth, height - top / 2, leg)])


TABLE = Kind(
    _table,
    (
        Attribute("height", 0.55, 1.15, ("low", "", "high")),
        Attribute("width", 1.1, 1.8, ("", "", "long")),
        Attribute("depth", 0.7, 1.1, ("narrow", "", "")),
        Attribute("top", 0.03, 0.08, ("with a thin top", "", "with a thick top")),
        Attribute("leg", 0.04, 0.1),
        Attribute("round", 0, 1, ("rectangular", "round"), whole=True),
        Attribute("pedestal", 0, 1, ("with four legs", "with a pedestal"), whole=True),
    ),
)


def _mug(a: Mapping[str, float]) -> Manifold:
    radius, height, wall, bar = a["radius"], a["height"], a["wall"], a["handle"] / 2
    foot = radius * (1 - a["taper"])
    base = 1.2 * wall
    cup = lathe(
        [
            (0, 0),
            (foot - 0.3 * wall, 0),
            (foot, 0.3 * wall),
            (radius, height),
            (radius - wall, height),
            (foot - wall, base + 0.3 * wall),
            (foot - 1.3 * wall, base),
            (0, base),
        ],
        48,
    )
    middle, half = 0.52 * height, 0.29 * height
    handle = half_ring(a["reach"], half, bar).translate((radius - 0.4 * a["taper"] * radius - wall / 2, 0, middle))
    inside = lathe(
        [(0, base), (foot - wall, base), (radius - wall, height), (radius - wall, 2 * height), (0, 2 * height)], 48
    )
    return union([cup, handle - inside])


MUG = Kind(
    _mug,
    (
        Attribute("height", 0.9, 1.45, ("low", "", "tall")),
        Attribute("radius", 0.45, 0.62, ("narrow", "", "wide")),
        Attribute("reach", 0.33, 0.48, ("with a small handle", "", "with a large handle")),
        Attribute("taper", 0.0, 0.22, ("straight", "", "tapered")),
        Attribute("wall", 0.03, 0.06),
        Attribute("handle", 0.06, 0.12),
    ),
)


def _bottle(a: Mapping[str, float]) -> Manifold:
    body, neck, shoulder, length = a["body"], a["neck"], a["shoulder"], 1.8
    top = shoulder + a["slope"]
    blend = np.linspace(0, 1, 9)
    # A cubic from the body to the neck, level at both ends.
    curve = [(body + (neck - body) * u * u * (3 - 2 * u), shoulder + (top - shoulder) * u) for u in blend]
    lip = 1.25 * neck
    outline = [
        (0, 0),
        (0.94 * body, 0),
        (body, 0.06 * body),
        *curve,
        (neck, length - 0.2),
        (lip, length - 0.17),
        (lip, length),
    ]
    return lathe([*outline, (0, length)])


BOTTLE = Kind(
    _bottle,
    (
        Attribute("body", 0.26, 0.55, ("slim", "", "wide")),
        Attribute("shoulder", 0.6, 1.1, ("with low shoulders", "", "with high shoulders")),
        Attribute("neck", 0.08, 0.2, ("with a narrow neck", "", "with a wide neck")),
        Attribute("slope", 0.15, 0.4, ("with square shoulders", "", "with sloping shoulders")),
    ),
)


def _airplane(a: Mapping[str, float]) -> Manifold:
    radius, span, chord, sweep, thick = a["radius"], a["span"] / 2, a["chord"], a["sweep"], a["thickness"]
    outline = [
        (0, -0.9),
        (0.55 * radius, -0.84),
        (0.9 * radius, -0.7),
        (radius, -0.5),
        (radius, 0.35),
        (max(0.45 * radius, thick / 2), 0.9),
        (0, 0.9),
    ]
    # Turned about z, then laid along y with its nose to the front.
    parts = [lathe(outline).rotate((-90.0, 0.0, 0.0))]

    def panel(span: float, chord: float, sweep: float, start: float, height: float, side: float) -> Manifold:
        def section(x: float, chord: float, y: float, thick: float) -> list[tuple[float, float, float]]:
            edge = 0.3 * thick
            return [
                (x, y, height - edge), (x, y, height + edge), (x, y + 0.35 * chord, height - thick / 2),
                (x, y + 0.35 * chord, height + thick / 2), (x, y + chord, height - edge), (x, y + chord, height + edge),
            ]  # fmt: skip

        return blade(section(0, chord, start, thick), section(side * span, 0.6 * chord, start + sweep, thick))

    for side in (-1.0, 1.0):
        parts.append(panel(span, chord, sweep, -0.3, -0.2 * radius, side))
        parts.append(panel(0.38 * span, 0.62 * chord, 0.4 * sweep + 0.05, 0.9 - 0.62 * chord - 0.12, 0.0, side))
        if a["engines"]:
            x, y = side * 0.42 * span, -0.3 + 0.42 * sweep
            pod = 0.55 * radius
            parts.append(
                rod(
                    (x, y - 0.12, -0.2 * radius - pod),
                    (x, y + 0.28, -0.2 * radius - pod),
                    pod,
                    0.75 * pod,
                    SEGMENTS // 2,
                )
            )
    fin = [
        (-thick / 2, 0.9 - 0.6 * chord - 0.1, 0.0),
        (thick / 2, 0.9 - 0.6 * chord - 0.1, 0.0),
        (-thick / 2, 0.9, 0.0),
        (thick / 2, 0.9, 0.0),
    ]
    tip = [(s * thick / 2, y, radius + a["fin"]) for s in (-1, 1) for y in (0.9 - 0.3 * chord, 0.92)]
    return union([*parts, blade(fin, tip)])


AIRPLANE = Kind(
    _airplane,
    (
        Attribute("span", 1.2, 1.8, ("short-winged", "", "long-winged")),
        Attribute("sweep", 0.0, 0.45, ("with straight wings", "", "with swept wings")),
        Attribute("radius", 0.08, 0.15, ("slender", "", "stout")),
        Attribute("chord", 0.24, 0.42, ("", "", "with broad wings")),
        Attribute("fin", 0.2, 0.38, ("", "", "with a tall fin")),
        Attribute("thickness", 0.03, 0.06),
        Attribute("engines", 0, 1, ("", "with two engines"), whole=True),
    ),
)


def _gear(a: Mapping[str, float]) -> Manifold:
    teeth, outer, depth, width, bore = round(a["teeth"]), 0.9, a["tooth"], a["width"], a["bore"]
    steps = np.array([0.0, 0.22, 0.34, 0.66, 0.78])[None] + np.arange(teeth)[:, None]
    angles = 2 * math.pi * steps.ravel() / teeth
    radii = np.tile([outer - depth, outer - depth, outer, outer, outer - depth], teeth)
    disc = prism(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), width)
    rim, hub = outer - depth - a["rim"], bore + a["rim"]
    cut = Manifold.cylinder(width, bore, bore, SEGMENTS)
    if a["holes"]:
        middle, room = (rim + hub) / 2, (rim - hub) / 2
        for x, y in polygon(round(a["holes"]), middle):
            cut += Manifold.cylinder(width, room, room, 20).translate((x, y, 0))
    return (disc - cut).rotate((90.0, 0.0, 0.0))


GEAR = Kind(
    _gear,
    (
        Attribute("bore", 0.14, 0.3, ("with a small bore", "", "with a large bore")),
        Attribute("width", 0.12, 0.5, ("thin", "", "thick")),
        Attribute("tooth", 0.1, 0.22, ("with short teeth", "", "with long teeth")),
        Attribute("rim", 0.06, 0.12),
        Attribute("teeth", 8, 16, ("with few teeth", "", "with many teeth"), whole=True),
        Attribute("holes", 4, 6, ("with four holes", "with five holes", "with six holes"), whole=True),
    ),
)


def _lamp(a: Mapping[str, float]) -> Manifold:
    base, pole, height, wall = a["base"], a["pole"], 1.8, a["wall"]
    low, high, tall = a["shade"], a["shade"] * a["cone"], a["shade_height"]
    start = height - tall
    shade = lathe([(low - wall, start), (low, start), (high, height), (high - wall, height)], 40)
    ring = start + 0.8 * tall
    reach = low + (high - low) * 0.8 - wall / 2
    spokes = [rod((0, 0, ring), (x, y, ring), pole * 0.9) for x, y in polygon(3, reach)]
    foot = lathe([(0, 0), (base, 0), (base, 0.6 * a["plate"]), (0.9 * base, a["plate"]), (0, a["plate"])])
    return union([foot, rod((0, 0, 0), (0, 0, ring + pole), pole), shade, *spokes])


LAMP = Kind(
    _lamp,
    (
        Attribute("base", 0.25, 0.42, ("with a small foot", "", "with a broad foot")),
        Attribute("shade", 0.28, 0.5, ("with a narrow shade", "", "with a wide shade")),
        Attribute("shade_height", 0.35, 0.6, ("with a short shade", "", "with a tall shade")),
        Attribute("cone", 0.45, 1.0, ("with a conical shade", "", "with a drum shade")),
        Attribute("pole", 0.02, 0.04, ("thin", "", "")),
        Attribute("plate", 0.04, 0.1),
        Attribute("wall", 0.02, 0.035),
    ),
)


def _shelf(a: Mapping[str, float]) -> Manifold:
    width, depth, height, board = a["width"], a["depth"], 1.8, a["board"]
    sides = [box((board, depth, height), (i * (width - board) / 2, 0, height / 2)) for i in (-1, 1)]
    levels = np.linspace(board / 2 + a["plinth"], height - board / 2, round(a["boards"]))
    boards = [box((width, depth, board), (0, 0, z)) for z in levels]
    back = (
        [box((width, board, height - a["plinth"]), (0, (depth - board) / 2, (height + a["plinth"]) / 2))]
        if a["backed"]
        else []
    )
    return union([*sides, *boards, *back])


SHELF = Kind(
    _shelf,
    (
        Attribute("width", 0.6, 1.2, ("narrow", "", "wide")),
        Attribute("depth", 0.28, 0.5, ("shallow", "", "deep")),
        Attribute("plinth", 0.0, 0.2, ("", "", "on raised legs")),
        Attribute("board", 0.03, 0.06, ("thin", "", "sturdy")),
        Attribute(
            "boards", 3, 6, ("with three boards", "with four boards", "with five boards", "with six boards"), whole=True
        ),
        Attribute("backed", 0, 1, ("with an open back", "with a closed back"), whole=True),
    ),
)


def _bolt(a: Mapping[str, float]) -> Manifold:
    shaft, head, tall, length = a["shaft"], a["head"], a["head_height"], 1.8 - a["head_height"]
    crown = prism(polygon(6, head), tall) ^ lathe(
        [(0, 0), (1.05 * head, 0), (1.05 * head, 0.7 * tall), (0.8 * head, tall), (0, tall)], 48
    )
    plain = length * a["plain"]
    screw = thread(shaft, 0.09 * shaft, length - plain, (length - plain) / a["pitch"])
    neck = rod((0, 0, length - plain - 0.02), (0, 0, length + 0.02), shaft, segments=SEGMENTS)
    return union([screw, neck, crown.translate((0, 0, length))])


BOLT = Kind(
    _bolt,
    (
        Attribute("shaft", 0.13, 0.26, ("slim", "", "thick")),
        Attribute("plain", 0.06, 0.5, ("with a full thread", "", "with a short thread")),
        Attribute("head", 0.36, 0.5, ("with a small head", "", "with a large head")),
        Attribute("head_height", 0.2, 0.36, ("with a flat head", "", "with a tall head")),
        Attribute("pitch", 0.1, 0.16, ("with a fine thread", "", "with a coarse thread")),
    ),
)


def _goblet(a: Mapping[str, float]) -> Manifold:
    foot, stem, bowl, wall, height = a["foot"], a["stem"], a["bowl"], a["wall"], 1.8
    low = a["stem_height"]
    angles = np.linspace(0.0, 1.0, 12)
    swell = np.sin(math.pi / 2 * angles) ** 0.7 * (1 - (1 - a["mouth"]) * angles**3)
    rise = low + (height - low) * angles**1.3
    outer = [(max(stem, bowl * r), z) for r, z in zip(swell, rise, strict=True)]
    inner = [(max(bowl * r - wall, 0.0), max(z, low + 1.5 * wall)) for r, z in zip(swell, rise, strict=True)]
    inner = [point for point in inner if point[0] > 0.5 * wall]
    plate = [(0, 0), (foot, 0), (foot, 0.5 * wall), (stem, 0.16), (stem, low)]
    return lathe([*plate, *outer, *reversed(inner), (0, low + 1.5 * wall)], 40)


GOBLET = Kind(
    _goblet,
    (
        Attribute("bowl", 0.34, 0.56, ("narrow", "", "wide")),
        Attribute("stem_height", 0.55, 1.0, ("with a short stem", "", "with a long stem")),
        Attribute("mouth", 0.6, 1.0, ("with a closing mouth", "", "with an open mouth")),
        Attribute("foot", 0.3, 0.45, ("with a small foot", "", "with a broad foot")),
        Attribute("stem", 0.035, 0.07),
        Attribute("wall", 0.025, 0.04),
    ),
)

# Thinnest walls of 1.5 cells of a 32^3 grid (0.097) and more, with room for what a decoder blurs.
DEMO: dict[str, Kind] = {
    "airplane": AIRPLANE.ranging(
        Attribute("engines", 0, 0, whole=True), thickness=(0.13, 0.16), radius=(0.13, 0.18), chord=(0.34, 0.5)
    ),
    "bottle": BOTTLE.ranging(neck=(0.13, 0.2)),
    "chair": CHAIR.ranging(
        Attribute("openings", 0, 1, ("with a solid back", "with an open back"), whole=True),
        thickness=(0.15, 0.19),
        back=(0.65, 0.85),
    ),
    "gear": GEAR.ranging(
        Attribute("holes", 0, 0, whole=True), width=(0.26, 0.6), tooth=(0.18, 0.26), teeth=(7, 10), bore=(0.2, 0.38)
    ),
    "mug": MUG.ranging(wall=(0.13, 0.17), handle=(0.15, 0.19)),
    "table": TABLE.ranging(top=(0.13, 0.18), leg=(0.14, 0.2)),
}
WIDE: dict[str, Kind] = {
    "airplane": AIRPLANE,
    "bolt": BOLT,
    "bottle": BOTTLE,
    "chair": CHAIR,
    "gear": GEAR,
    "goblet": GOBLET,
    "lamp": LAMP,
    "mug": MUG,
    "shelf": SHELF,
    "table": TABLE,
}
