"""Sounds to listen to inside an html page: each in a player of the browser's, and nothing asked of the network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import soundfile
from torch import Tensor

STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;color:#1f2933;margin:1.5em auto;max-width:64em;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #e3e7ec}"
    "td:first-child,th:first-child{text-align:left}audio{width:17em;height:2.2em;vertical-align:middle}img{max-width:100%}"
)


def encoded(wave: Tensor, rate: int) -> str:
    """A sound (T,) or (C, T) as a `data:` address: MP3, about 8 kB a second of 16 kHz mono, which every browser plays.

    What goes beyond full scale is turned down as a whole. `rate` is one that MP3 has (8 to 48 kHz).
    """
    samples = np.atleast_2d(wave.detach().cpu().double().numpy()).T
    samples = samples / max(1.0, float(np.abs(samples).max(initial=0.0)))
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="MP3")
    return "data:audio/mpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def player(address: str) -> str:
    """The html element that plays what is at an address: `encoded`, or a file beside the page."""
    return f'<audio controls preload="metadata" src="{html.escape(address, quote=True)}"></audio>'


def listening_page(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, Tensor]]]], rate: int) -> str:
    """A self-contained page with a row for each sample: its caption, and its sounds (T,) by name, a column a name."""
    names = [name for name, _ in rows[0][1]] if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names])
    lines = []
    for caption, sounds in rows:
        cells = "".join(f"<td>{player(encoded(wave, rate))}</td>" for _, wave in sounds)
        lines.append(f"<tr><td>{html.escape(caption)}</td>{cells}</tr>")
    return page(title, f"<table><tr>{head}</tr>{''.join(lines)}</table>")


def page(title: str, body: str) -> str:
    """An html page around a body that is html already."""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style></head>'
        f"<body><h1>{name}</h1>{body}</body></html>"
    )
