"""What may be set for `rectiflow separate audio`. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class SeparateSettings:
    """`rectiflow separate audio mix.wav query="a dog barking" query=rain`: a file for each query, and one for what remains.

    A run of speakers or of fixed stems is asked nothing, and gives a file for each of them.

    `run` is by default the newest audio run under runs/, and `encoder` the newest of stage=encoder: it says whether the stems
    hold what was asked for, chooses the best of `candidates` attempts at each segment (of two or more `steps`, before which
    all are the same), and finds more of the like of `exemplar`, a sound file, as a query of its own. `unasked` adds what the
    model pulls out where nothing is asked. `negative` is a text to steer away from (guidance above 1), `span` the seconds
    (2.0-5.5,8-9) outside of which the stems are silent. `reference` files, one a query in their order, are what the stems
    should be. Segments of `segment` seconds overlap by `overlap` of their length. `format` is wav or flac, `encoding` pcm16,
    pcm24 or float.
    """

    mix: str = MISSING
    query: list[str] = field(default_factory=list)
    exemplar: list[str] = field(default_factory=list)
    unasked: bool = False
    negative: str = ""
    span: str = ""
    reference: list[str] = field(default_factory=list)
    run: str = ""
    encoder: str = ""
    weights: str = "ema"
    steps: int = 1
    method: str = "euler"
    guidance: float = 1.0
    candidates: int = 1
    seed: int = 0
    segment: float = 4.0
    overlap: float = 0.25
    format: str = "wav"
    encoding: str = "pcm16"
    out: str = ""
