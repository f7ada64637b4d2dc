"""Mixtures of single sounds whose parts are known: what separation is trained and judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rectiflow.errors import ConfigError
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.captions import ambiguous
from rectiflow_audio.sounds import Sounds, checked_split
from rectiflow_audio.synthesis import RATE, levelled

_LEVEL = 0.1  # root mean square of the louder part before the peak is limited


class MixtureItem(Protocol):
    """A mixture whose parts are known."""

    @property
    def parts(self) -> Tensor:
        """Its stems (K, samples), which sum to it."""
        ...

    @property
    def caption(self) -> str:
        """The phrase that asks for the first part; "" where nothing is asked."""
        ...

    @property
    def kind(self) -> str:
        """What the first part is."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Everything in the mixture."""
        ...

    @property
    def snr(self) -> float:
        """dB of the first part above the others; NaN where it does not stand out."""
        ...


class MixtureSeries(Protocol):
    """Mixtures by number, each of `samples`, endlessly many or `count`; number i is a function of (seed, split, i)."""

    seed: int
    samples: int
    count: int | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> MixtureItem: ...


class Mixture(NamedTuple):
    """A mixture and its parts: waveforms (samples,) in [-1, 1] at 16 kHz, mixture == target + residual to the last bit.

    kind and caption: what the target is and a phrase that asks for it; kinds: everything in the mixture;
    snr: dB of the target above the residual; minus infinity where the kind asked for is absent and the target silent.
    """

    mixture: Tensor
    target: Tensor
    residual: Tensor
    kind: str
    caption: str
    snr: float
    kinds: tuple[str, ...]

    @property
    def parts(self) -> Tensor:
        """Target and residual (2, samples)."""
        return torch.stack([self.target, self.residual])


def mix(
    sounds: Sounds,
    kinds: Sequence[str],
    samples: int,
    snr_range: tuple[float, float],
    generator: torch.Generator,
    *,
    split: str = "train",
    absent: bool = False,
    held_out: bool = False,
) -> Mixture:
    """Draw one sound of each kind and mix them: the first kind is the target, the others together are the residual.

    snr_range: dB of the target above the residual, drawn evenly; the residual's sounds are equally loud. absent: ask for the
    first kind but leave it out. held_out: ask with a phrase that is not trained on. One gain on everything keeps peaks below 1.

    Raises:
        ConfigError: fewer than two kinds, a kind twice, or a range that runs backwards.
    """
    if len(kinds) < 2 or len(set(kinds)) < len(kinds) or not snr_range[0] <= snr_range[1]:
        raise ConfigError(
            f"a mixture of {', '.join(kinds) or 'nothing'} at {snr_range[0]} to {snr_range[1]} dB was asked for; "
            "it needs two or more different kinds and a range that rises: check data.voices and data.snr"
        )
    kind = kinds[0]
    others = sum((levelled(sounds.draw(other, samples, split, generator)) for other in kinds[1:]), torch.zeros(samples))
    residual = levelled(others, _LEVEL)
    snr = snr_range[0] + (snr_range[1] - snr_range[0]) * float(torch.rand((), generator=generator, dtype=torch.float64))
    if absent:
        target, snr = torch.zeros(samples), float("-inf")
    else:
        target = levelled(sounds.draw(kind, samples, split, generator), _LEVEL)
        loud, quiet = min(1.0, 10 ** (snr / 20)), min(1.0, 10 ** (-snr / 20))
        target, residual = target * loud, residual * quiet
    phrases = sounds.captions(kind, held_out)
    caption = phrases[int(torch.randint(len(phrases), (), generator=generator))]
    peak = float(torch.stack([target, residual, target + residual]).abs().amax())
    gain = min(1.0, 0.99 / max(peak, 1e-9))
    target, residual = target * gain, residual * gain
    present = tuple(kinds[1:]) if absent else tuple(kinds)
    return Mixture(target + residual, target, residual, kind, caption, snr, present)


class Mixtures:
    """A numbered series of random mixtures: number i depends on (seed, split, i) alone, in whichever process it is made.

    voices: how many kinds are mixed, at least and at most; targets: kinds that are asked for, none for all; absent: share of
    mixtures that are asked for a kind they lack; overlap: mix kinds too of which one query may mean both (`captions.COVERS`:
    music and a guitar), fewer than `voices` otherwise if need be; the other arguments are those of `mix`. Iterating without
    `count` never ends.

    Raises:
        ConfigError: values that are not allowed, or more voices than kinds.
    """

    def __init__(
        self,
        sounds: Sounds,
        seconds: float,
        count: int | None = None,
        *,
        seed: int = 0,
        split: str = "train",
        voices: tuple[int, int] = (2, 3),
        snr_range: tuple[float, float] = (-5.0, 5.0),
        targets: tuple[str, ...] = (),
        absent: float = 0.0,
        held_out: bool = False,
        overlap: bool = True,
    ) -> None:
        if not 2 <= voices[0] <= voices[1] <= len(sounds.kinds):
            raise ConfigError(
                f"mixtures of {voices[0]} to {voices[1]} voices were asked for; allowed is 2 to {len(sounds.kinds)}, the number "
                "of kinds of sound, and the range must rise: set data.voices"
            )
        if not seconds * RATE >= 1 or not 0 <= absent <= 1 or (count is not None and count < 1):
            raise ConfigError(
                f"mixtures of {seconds} s, count {count}, a share of {absent} with an absent target were asked for; "
                "they must last a sample at least, the count be 1 or more and the share in [0, 1]: check the data settings"
            )
        unknown = [kind for kind in targets if kind not in sounds.kinds]
        if unknown:
            raise ConfigError(
                f"there is no sound of kind {unknown[0]!r} to ask for; there are {', '.join(sounds.kinds)}: set data.targets"
            )
        self.sounds = sounds
        self.targets = targets
        self.samples = round(seconds * RATE)
        self.count = count
        self.seed = seed
        self.split = checked_split(split)
        self.voices = voices
        self.snr_range = snr_range
        self.absent = absent
        self.held_out = held_out
        self.overlap = overlap
        alone = [kind for kind in targets or sounds.kinds if len(self._apart([kind, *sounds.kinds])) < 2]
        if alone:
            raise ConfigError(
                f"{alone[0]!r} can be mixed with none of {', '.join(sounds.kinds)}, of which its name may be said too: "
                "add kinds, or allow it with data.overlap=true"
            )

    def __len__(self) -> int:
        if self.count is None:
            raise ConfigError("endless mixtures have no length; give a count to have one")
        return self.count

    def __getitem__(self, index: int) -> Mixture:
        if self.count is not None and not 0 <= index < self.count:
            raise IndexError(f"mixture {index} of {self.count}")
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "mixture", self.split, index))
        count = int(torch.randint(self.voices[0], self.voices[1] + 1, (), generator=generator))
        absent = float(torch.rand((), generator=generator)) < self.absent
        # One more kind is drawn for an absent target, so that as many are heard.
        count = min(count + absent, len(self.sounds.kinds))
        order = torch.randperm(len(self.sounds.kinds), generator=generator).tolist()
        kinds = [self.sounds.kinds[place] for place in order]
        if self.targets and kinds[0] not in self.targets:
            kinds.insert(0, self.targets[int(torch.randint(len(self.targets), (), generator=generator))])
        kinds = self._apart(kinds)[:count]
        return mix(
            self.sounds,
            kinds,
            self.samples,
            self.snr_range,
            generator,
            split=self.split,
            absent=absent,
            held_out=self.held_out,
        )

    def _apart(self, kinds: Sequence[str]) -> list[str]:
        """Kinds in their order, each once; without `overlap`, none of which a query for one before it may mean."""
        kept: list[str] = []
        for kind in kinds:
            if kind not in kept and (self.overlap or not any(ambiguous(kind, other) for other in kept)):
                kept.append(kind)
        return kept

    def __iter__(self) -> Iterator[Mixture]:
        index = 0
        while self.count is None or index < self.count:
            yield self[index]
            index += 1
