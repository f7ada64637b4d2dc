"""Where single sounds come from: the generator, a pool of it that is drawn from quickly, and the protocol they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError
from rectiflow.training.randomness import stream_seed
from rectiflow_audio import generator as _generator
from rectiflow_audio import synthesis, voices
from rectiflow_audio.captions import SYNTHETIC, SYNTHETIC_PARAPHRASES
from rectiflow_audio.kept import kept_tensors
from rectiflow_audio.synthesis import RATE

SPLITS = ("train", "validation", "test")
_FULL_SCALE = 32767.0


class Sounds(Protocol):
    """Single sounds of several kinds, in three splits that share no recording."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds."""
        ...

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """A random excerpt (samples,) float32 in [-1, 1] at 16 kHz, not silent."""
        ...

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """Phrases that ask for a kind: to train on, or `held_out` from training."""
        ...


class SyntheticSounds:
    """Endless sounds of the built-in generator.

    kinds: some of `generator.KINDS`; by default all.

    Raises:
        ConfigError: an unknown kind, or none.
    """

    def __init__(self, kinds: Sequence[str] | None = None) -> None:
        self.kinds = tuple(_generator.KINDS if kinds is None else kinds)
        unknown = [kind for kind in self.kinds if kind not in _generator.KINDS]
        if unknown or not self.kinds:
            raise ConfigError(
                f"synthetic sounds were asked for of kinds {', '.join(map(repr, unknown)) or '()'}; "
                f"there are {', '.join(_generator.KINDS)}: name some of them"
            )

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """A new sound (samples,); equal generators give unrelated sounds in different splits."""
        seed = int(torch.randint(1 << 62, (), generator=generator))
        own = torch.Generator().manual_seed(stream_seed(seed, checked_split(split)))
        return _generator.synthesise(kind, samples, own)

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """Phrases that ask for a kind."""
        return (SYNTHETIC_PARAPHRASES if held_out else SYNTHETIC)[kind]


class PooledSounds:
    """Synthetic sounds, of which those to train on are rendered once into a cache and cut anew at every draw.

    A draw costs microseconds instead of milliseconds. `seconds` of each kind are rendered as clips of `clip` seconds;
    longer excerpts than a clip, and other splits than "train", come straight from the generator.

    Raises:
        ConfigError: fewer seconds than one clip.
        StorageError: the cache cannot be written.
    """

    def __init__(self, sounds: SyntheticSounds, seconds: float, clip: float = 2.0, seed: int = 0) -> None:
        if not 0 < clip <= seconds:
            raise ConfigError(
                f"a pool of {seconds} s in clips of {clip} s was asked for; it must hold at least one clip: set data.pool higher"
            )
        self.sounds = sounds
        self.kinds = sounds.kinds
        self.pools = {kind: _pool(kind, int(seconds / clip), round(clip * RATE), seed) for kind in self.kinds}

    def draw(self, kind: str, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """A random excerpt (samples,) of a random clip, its polarity random."""
        if kind not in self.pools or checked_split(split) != "train" or samples > self.pools[kind].shape[1]:
            return self.sounds.draw(kind, samples, split, generator)
        return self._cut(kind, int(torch.randint(len(self.pools[kind]), (), generator=generator)), samples, generator)

    def different(self, kind: str, count: int, samples: int, split: str, generator: torch.Generator) -> Tensor:
        """Random excerpts (count, samples) of different clips of a kind."""
        if split != "train" or samples > self.pools[kind].shape[1] or count > len(self.pools[kind]):
            return torch.stack([self.sounds.draw(kind, samples, split, generator) for _ in range(count)])
        clips = torch.randperm(len(self.pools[kind]), generator=generator)[:count].tolist()
        return torch.stack([self._cut(kind, clip, samples, generator) for clip in clips])

    def _cut(self, kind: str, clip: int, samples: int, generator: torch.Generator) -> Tensor:
        """A random excerpt of a clip; a new sound, should it be silent."""
        pool = self.pools[kind]
        start = int(torch.randint(pool.shape[1] - samples + 1, (), generator=generator))
        excerpt = pool[clip, start : start + samples].float() / _FULL_SCALE
        if audible(excerpt):
            return excerpt if chance_sign(generator) else -excerpt
        return self.sounds.draw(kind, samples, "train", generator)

    def captions(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """Phrases that ask for a kind."""
        return self.sounds.captions(kind, held_out)


def checked_split(split: str) -> str:
    """The split itself.

    Raises:
        ConfigError: it is none of train, validation, test.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}; there are {', '.join(SPLITS)}: name one of them")
    return split


def audible(wave: Tensor) -> bool:
    """Whether the root mean square of a wave (samples,) is above -50 dBFS."""
    return float(wave.square().mean()) > 1e-5


def chance_sign(generator: torch.Generator) -> bool:
    """True in half of the cases."""
    return bool(torch.randint(2, (), generator=generator))


def _pool(kind: str, clips: int, samples: int, seed: int) -> Tensor:
    """Clips (clips, samples) int16 of a kind, from the cache if they were rendered before by the same code."""
    digest = hashlib.sha256(json.dumps([kind, clips, samples, seed]).encode())
    for module in (_generator, voices, synthesis):
        digest.update(Path(str(module.__file__)).read_bytes())
    path = cache_folder("audio", "pools") / f"{kind}-{digest.hexdigest()[:16]}.safetensors"

    def render() -> dict[str, Tensor]:
        rendered = torch.empty(clips, samples, dtype=torch.int16)
        for index in range(clips):
            own = torch.Generator().manual_seed(stream_seed(seed, "pool", kind, index))
            rendered[index] = (_generator.synthesise(kind, samples, own) * _FULL_SCALE).round().to(torch.int16)
        return {"clips": rendered}

    return kept_tensors(path, render)["clips"]
