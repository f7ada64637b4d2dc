"""Speech by eSpeak NG, whose shared library and voices a Python package carries."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow_audio.transforms import resample

_SYNCHRONOUS, _UTF8 = 2, 1
_RATE_PARAMETER, _PITCH_PARAMETER = 1, 3
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaking:
    """A loaded synthesiser.

    folder: of the package `espeakng_loader`, with the library and its data.

    Raises:
        DataError: the library cannot be loaded on this system, or does not start.
    """

    def __init__(self, folder: Path, rate: int = 16000) -> None:
        names = ("libespeak-ng.so", "libespeak-ng.dylib", "espeak-ng.dll")
        found = [folder / name for name in names if (folder / name).is_file()]
        if not found:
            raise DataError(f"{folder} holds none of {', '.join(names)}; fetch the package again")
        try:
            self._library = ctypes.CDLL(str(found[0]))
        except OSError as error:
            raise DataError(f"{found[0].name} cannot be loaded on this system: {error}") from error
        self._own_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), 0)
        if self._own_rate <= 0:
            raise DataError(f"{found[0].name} does not start with the data in {folder}; fetch the package again")
        self._blocks: list[np.ndarray] = []
        self._listen = _Callback(self._hear)  # kept, for the library holds on to it
        self._library.espeak_SetSynthCallback(self._listen)
        self.rate = rate

    def say(self, text: str, voice: str, pace: int = 160, pitch: int = 50) -> Tensor:
        """A text in a voice, (T,) in [-1, 1] at `rate`.

        Args:
            text: what is said.
            voice: a language and a variant, as "en+f2".
            pace: words a minute.
            pitch: 0 to 100.

        Raises:
            DataError: no such voice, or nothing was said.
        """
        self._blocks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError(f"eSpeak NG has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE_PARAMETER, pace, 0)
        self._library.espeak_SetParameter(_PITCH_PARAMETER, pitch, 0)
        content = text.encode() + b"\0"
        self._library.espeak_Synth(content, ctypes.c_size_t(len(content)), 0, 0, 0, _UTF8, None, None)
        if not self._blocks:
            raise DataError(f"eSpeak NG said nothing to {text!r}")
        wave = torch.from_numpy(np.concatenate(self._blocks).astype(np.float32) / 32768)
        return resample(wave, self._own_rate, self.rate)

    def close(self) -> None:
        """Let the library go."""
        self._library.espeak_Terminate()

    def _hear(self, samples: Sequence[int], count: int, events: int) -> int:
        if count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
