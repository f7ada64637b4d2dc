"""Sounds in html pages."""

from __future__ import annotations

import base64
import io
import math
import re

import pytest
import soundfile
import torch

from rectiflow_audio.players import encoded, listening_page


@pytest.mark.parametrize(("rate", "gain"), [(16_000, 0.5), (44_100, 3.0)])
def test_what_is_embedded_is_the_sound(rate: int, gain: float) -> None:
    wave = gain * torch.sin(2 * math.pi * 440 * torch.arange(rate) / rate)
    kind, _, data = encoded(wave, rate).partition(";base64,")
    assert kind == "data:audio/mpeg"
    samples, found = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert (found, len(data) < 40_000) == (rate, True)
    middle = samples[rate // 4 : rate // 2]
    assert (middle**2).mean() == pytest.approx(min(gain, 1) ** 2 / 2, rel=0.05)


def test_a_page_is_whole_in_itself_and_escapes_captions() -> None:
    wave = torch.zeros(1600)
    rows = [
        ("<b>dog</b> & rain", [("mixture", wave), ("target", wave)]),
        ("two", [("mixture", wave), ("target", wave)]),
    ]
    text = listening_page("a < b", rows, 16_000)
    assert len(re.findall("<audio ", text)) == 4
    assert "&lt;b&gt;dog&lt;/b&gt; &amp; rain" in text
    assert "a &lt; b" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
