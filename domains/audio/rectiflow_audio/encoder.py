"""A small network that puts sounds where their captions are: exemplar queries, scores of likeness and presence, distances.

Figures computed on it carry its name: `score_soundtext`, `fad_soundtext`. They compare with each other on one set of weights
only, never with CLAP scores or Frechet distances of other networks.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import CheckpointCorrupt, ConfigError, DataError
from rectiflow.metrics import frechet_distance
from rectiflow.nn.layers import convolution, linear
from rectiflow.runs import read_config
from rectiflow.training.checkpoint import load_weights
from rectiflow_audio.representation import to_level
from rectiflow_audio.synthesis import RATE
from rectiflow_audio.transforms import mel_filters, power_spectrogram

NAME = "soundtext"
STAGE = "encoder"
MELS, WINDOW, HOP = 64, 512, 160
WIDTHS = (24, 48, 96, 160)
FEATURES = 128
_SHORTEST = WINDOW + 16 * HOP  # samples, below which a sound is padded
_FLOOR = 1e-6  # power in a band, 60 dB below a full-scale sine


class SoundTextEncoder(nn.Module):
    """Log-mel spectrogram, four strided convolutions, an average and a maximum over time; unit vectors in a text space.

    Sounds are brought to one level first, so that loudness changes nothing. The probability that a sound holds what a text
    names is sigmoid(scale * cosine + offset); both are learnt (arXiv 2303.15343, equation 1).

    Args:
        dim: D of the text encoder.
        generator: of the first weights.
    """

    filters: Tensor

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("filters", mel_filters(WINDOW // 2 + 1, MELS, RATE), persistent=False)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *WIDTHS), WIDTHS, strict=False):
            layer = convolution(inputs, outputs, 3, generator=generator)
            layer.stride = (2, 2)
            layers += [layer, nn.GroupNorm(8, outputs), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        width = WIDTHS[-1] * (MELS >> len(WIDTHS))
        self.frame = linear(width, 2 * FEATURES, generator=generator)
        self.summary = linear(4 * FEATURES, FEATURES, generator=generator)
        self.head = linear(FEATURES, dim, generator=generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.offset = nn.Parameter(torch.tensor(-5.0))

    def features(self, waves: Tensor) -> Tensor:
        """Features (B, 128) of sounds (B, T) at 16 kHz: what Frechet distances are computed on.

        Raises:
            DataError: another shape.
        """
        if waves.ndim != 2 or not waves.shape[-1]:
            raise DataError(
                f"sounds have shape {tuple(waves.shape)}; they must be (B, T) with T at least 1: one channel each"
            )
        waves = F.pad(waves, (0, max(0, _SHORTEST - waves.shape[-1])))
        power = power_spectrogram(waves * to_level(waves), WINDOW, HOP)
        mels = torch.einsum("bft,fm->bmt", power, self.filters.to(power.dtype))
        level = ((mels * 1e3).clamp_min(_FLOOR).log() + 7) / 4  # about zero mean and unit variance
        maps = self.body(level[:, None]).flatten(1, 2)
        frames = F.silu(self.frame(maps.transpose(1, 2)))
        pooled = torch.cat([frames.mean(dim=1), frames.amax(dim=1)], dim=1)
        found: Tensor = F.silu(self.summary(pooled))
        return found

    def forward(self, waves: Tensor) -> Tensor:
        """Unit vectors (B, D) in the text space of sounds (B, T) at 16 kHz."""
        return F.normalize(self.head(self.features(waves)), dim=-1)

    def logits(self, sounds: Tensor, texts: Tensor) -> Tensor:
        """Log-odds (B, N) that sounds, as vectors (B, D), hold what texts (N, D) name."""
        scores: Tensor = self.log_scale.exp() * (sounds @ F.normalize(texts, dim=-1).T) + self.offset
        return scores


def load_encoder(run: Path) -> SoundTextEncoder:
    """The encoder that a run with stage=encoder trained, its averaged weights, ready to use.

    Raises:
        ConfigError: no run there, one of another stage, or no checkpoint yet.
        CheckpointCorrupt: no intact checkpoint, or one of another network.
    """
    config = read_config(run)
    if config.get("stage") != STAGE:
        raise ConfigError(
            f"run {run} was trained with stage={config.get('stage')}; an encoder comes out of stage=encoder: name such a run"
        )
    weights = load_weights(run)
    network = SoundTextEncoder(len(weights.get("head.bias", ())), torch.Generator())
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointCorrupt(f"{run} holds no encoder of this version: {reason}; train it again") from error
    return network.eval().requires_grad_(False)


@torch.no_grad()
def embed(encoder: SoundTextEncoder, waves: Tensor, seconds: float = 1.0) -> Tensor:
    """Vectors (B, W, D) of every window of sounds (B, T): `seconds` long, half of that apart; one of all if shorter."""
    size = max(1, round(seconds * RATE))
    size = min(size, waves.shape[-1])
    windows = waves.unfold(-1, size, max(1, size // 2))
    parts = [encoder(part) for part in torch.split(windows.reshape(-1, size), 64)]
    return torch.cat(parts).reshape(len(waves), windows.shape[1], -1)


def exemplar_query(encoder: SoundTextEncoder, waves: Tensor) -> Tensor:
    """The query (D,) that stands for example sounds (B, T): the mean direction of all their windows.

    Raises:
        DataError: they are silent.
    """
    if not float(waves.abs().amax()) > 0:
        raise DataError("the example sound is silent; a query needs one that sounds: give another")
    mean: Tensor = embed(encoder, waves).flatten(0, 1).mean(dim=0)
    return F.normalize(mean, dim=0)


def presence(encoder: SoundTextEncoder, waves: Tensor, queries: Tensor) -> Tensor:
    """Probability (B, N) that sounds (B, T) hold somewhere what queries (N, D) name: the highest of all windows.

    0 for silence.
    """
    vectors = embed(encoder, waves)
    with torch.no_grad():
        odds = encoder.logits(vectors.flatten(0, 1), queries).reshape(*vectors.shape[:2], -1).amax(dim=1)
    return odds.sigmoid() * (waves.abs().amax(dim=-1) > 0)[:, None]


def likeness(encoder: SoundTextEncoder, waves: Tensor, queries: Tensor) -> Tensor:
    """Cosine (B,) between sounds (B, T) and the query of each (B, D), a mean over windows: `score_soundtext`."""
    return F.cosine_similarity(embed(encoder, waves).mean(dim=1), queries, dim=-1)


def likeness_of_sounds(encoder: SoundTextEncoder, waves: Tensor, references: Tensor) -> Tensor:
    """Cosine (B,) between sounds (B, T) and reference sounds (B, T), means over windows."""
    return F.cosine_similarity(embed(encoder, waves).mean(dim=1), embed(encoder, references).mean(dim=1), dim=-1)


@torch.no_grad()
def frechet_audio_distance(encoder: SoundTextEncoder, waves: Tensor, references: Tensor) -> float:
    """Frechet distance between the encoder's features of sounds (B, T) and of others (N, T): `fad_soundtext`.

    As arXiv 1812.08466, on these features. Use several hundred sounds, more than the 128 features, and quote how many.

    Raises:
        DataError: fewer than two sounds, or values that are not finite.
    """
    features = [
        torch.cat([encoder.features(part) for part in torch.split(sounds, 64)]) for sounds in (waves, references)
    ]
    return frechet_distance(*features)


def best_of(encoder: SoundTextEncoder, candidates: Tensor, query: Tensor) -> int:
    """Which of several separations (C, K, T) of one mixture fits a query (D,) best.

    The target, stem 0, should hold what is asked for and the other stems should not: log-odds of the one minus the highest of
    the others.
    """
    count, stems, _ = candidates.shape
    with torch.no_grad():
        odds = encoder.logits(embed(encoder, candidates.flatten(0, 1)).mean(dim=1), query[None]).reshape(count, stems)
    rest = odds[:, 1:].amax(dim=1) if stems > 1 else torch.zeros(count)
    return int((odds[:, 0] - rest).argmax())
