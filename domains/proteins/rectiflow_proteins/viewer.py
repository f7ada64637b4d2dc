"""Backbones to turn with the mouse: one html page without outside requests, and small enough to stand inside a report."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow_proteins.ribbons import COLOURS, ribbon

_TEMPLATE = Path(__file__).with_name("viewer.html")
_SIDES, _STEPS = 4, 4


def viewer_page(chains: Sequence[Tensor], captions: Sequence[str], title: str = "Protein backbones") -> str:
    """The page that shows chains N, CA, C, O, (N, 4, 3), one at a time: drag to turn, wheel to zoom, arrow keys for the next.

    Raises:
        ConfigError: no chain, or not one caption a chain.
    """
    if not chains or len(chains) != len(captions):
        raise ConfigError(
            f"{len(chains)} chains with {len(captions)} captions; give one chain at least and a caption each"
        )
    shown = []
    for chain, caption in zip(chains, captions, strict=True):
        one = ribbon(chain, sides=_SIDES, steps=_STEPS)
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
    for name, value in (("title", html.escape(title)), ("chains", data), ("colours", json.dumps(COLOURS))):
        page = page.replace("{{ " + name + " }}", value)
    return page
