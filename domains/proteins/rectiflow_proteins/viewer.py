"""Backbones to turn with the mouse: one html page without outside requests, and small enough to stand inside a report."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_proteins.ribbons import COLOURS, paint, ribbon

_TEMPLATE = Path(__file__).with_name("viewer.html")
_SIDES, _STEPS = 4, 4
_COLUMNS, _TILE = 4, 200


def viewer_page(
    chains: Sequence[Tensor],
    captions: Sequence[str],
    title: str = "Protein backbones",
    pictures: Mapping[str, Image.Image] | None = None,
) -> str:
    """The page that shows chains N, CA, C, O, (N, 4, 3), one at a time: drag to turn, wheel to zoom, arrow keys for the next.

    `pictures`, by caption, stand below. Where scripts do not run, the chains are seen as a picture.

    Raises:
        ConfigError: no chain, or not one caption a chain.
    """
    if not chains or len(chains) != len(captions):
        raise ConfigError(
            f"{len(chains)} chains with {len(captions)} captions; give one chain at least and a caption each"
        )
    ribbons = [ribbon(chain, sides=_SIDES, steps=_STEPS) for chain in chains]
    shown = []
    for one, caption in zip(ribbons, captions, strict=True):
        hundredths = np.rint(one.corners * 100).astype(int)
        shown.append(
            {
                "caption": caption,
                "sides": _SIDES,
                "reach": round(float(np.linalg.norm(one.corners, axis=2).max()), 2),
                "corners": hundredths.ravel().tolist(),
                "states": one.states.tolist(),
            }
        )
    page = _TEMPLATE.read_text(encoding="utf-8")
    # "</" would end the script that holds the data.
    data = json.dumps(shown, separators=(",", ":")).replace("</", "<\\/")
    figures = "\n".join(_figure(caption, picture) for caption, picture in (pictures or {}).items())
    still = paint(ribbons, min(_COLUMNS, len(ribbons)), _TILE)
    values = {
        "title": html.escape(title),
        "still": _address(still),
        "pictures": figures,
        "colours": json.dumps(COLOURS),
    }
    values["chains"] = data
    for name, value in values.items():
        page = page.replace("{{ " + name + " }}", value)
    return page


def _figure(caption: str, picture: Image.Image) -> str:
    text = html.escape(caption, quote=True)
    return f'<figure><img src="{_address(picture)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _address(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.quantize(64).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
