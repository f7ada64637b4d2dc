"""Make docs/digits.png, the README's picture, from the strips of a demo run: `python docs/picture.py runs/images/demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROWS = (
    ("base flow, 1 step", "base/samples/strip-euler-1.png"),
    ("base flow, 10 steps", "base/samples/strip-euler-10.png"),
    ("rectified flow, 1 step", "rectified/samples/strip-euler-1.png"),
)
MARGIN = 190


def main(demo: Path) -> None:
    """Stack the strips of a demo folder under their labels."""
    strips = [(label, Image.open(demo / path).convert("L")) for label, path in ROWS]
    width, height = strips[0][1].size
    canvas = Image.new("L", (MARGIN + width, (height + 12) * len(strips)), 255)
    draw = ImageDraw.Draw(canvas)
    for number, (label, strip) in enumerate(strips):
        top = number * (height + 12)
        draw.text((8, top + height / 2), label, fill=40, anchor="lm", font=ImageFont.load_default(16))
        canvas.paste(strip, (MARGIN, top))
    canvas.save(Path(__file__).with_name("digits.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
