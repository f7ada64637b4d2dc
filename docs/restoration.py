"""Make docs/restoration.png, digits of which the left half is known: `python docs/restoration.py runs/images/demo/base`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rectiflow.control import Measurement, inpainting, sample_posterior, solve_inverse
from rectiflow.domain import load_spec
from rectiflow.trained import open_run

COUNT, PARTICLES, NOISE, SCALE, MARGIN = 12, 32, 0.2, 6, 190


def restorations(run: Path) -> dict[str, Tensor]:
    """Held-out digits, what is measured of them, and what each method makes of that without knowing the digit."""
    trained = open_run(load_spec("images"), run)
    truth = trained.domain.dataset("validation").__getitems__(list(range(COUNT))).x1
    if not isinstance(truth, Tensor):
        raise TypeError("pictures are tensors")
    generator = torch.Generator().manual_seed(0)
    known = torch.zeros(truth.shape[1:], dtype=torch.bool)
    known[..., : truth.shape[-1] // 2] = True
    keep = inpainting(known)
    y = keep(truth) + NOISE * torch.randn(COUNT, int(known.sum()), generator=generator)
    seen = torch.zeros_like(truth)
    seen[:, known] = y
    rows = {"held-out digits": truth, f"half of them, noise {NOISE:g}": seen}
    nobody = {"label": torch.full((COUNT,), int((trained.flow.null or {})["label"]))}
    x0 = torch.randn(truth.shape, generator=generator)
    for method in ("flow_chef", "dps", "pigdm"):
        found = solve_inverse(trained.flow, x0, Measurement(keep, y, NOISE), method=method, steps=50, cond=nobody)
        rows[method] = found.x
    ensemble = sample_posterior(
        trained.flow,
        torch.randn(COUNT * PARTICLES, *truth.shape[1:], generator=generator),
        Measurement(keep, y.repeat_interleave(PARTICLES, 0), NOISE).potential,
        particles=PARTICLES,
        steps=100,
        cond=nobody,
        generator=generator,
    )
    best = torch.arange(COUNT) * PARTICLES + ensemble.log_weights.argmax(1)
    return rows | {"sample_posterior": ensemble.x[best], "its mean": ensemble.mean()}


def main(run: Path) -> None:
    """Stack the rows under their labels, and print how far the hidden half is off."""
    rows = restorations(run)
    truth = rows["held-out digits"]
    side = truth.shape[-1]
    canvas = Image.new("L", (MARGIN + COUNT * (side + 1) * SCALE, len(rows) * (side + 1) * SCALE), 255)
    draw = ImageDraw.Draw(canvas)
    for number, (name, pictures) in enumerate(rows.items()):
        error = (pictures - truth)[..., side // 2 :].square().mean()
        print(f"{name:24} squared error of the hidden half {float(error):.3f}")
        top = number * (side + 1) * SCALE
        draw.text((8, top + side * SCALE / 2), name, fill=40, anchor="lm", font=ImageFont.load_default(14))
        for column, picture in enumerate(pictures[:, 0]):
            grey = ((picture.clamp(-1, 1) + 1) * 127.5).byte().numpy()
            tile = Image.fromarray(grey).resize((side * SCALE, side * SCALE), Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + column * (side + 1) * SCALE, top))
    canvas.save(Path(__file__).with_name("restoration.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
