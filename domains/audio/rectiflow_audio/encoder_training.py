"""How the sound-text encoder is trained: sounds alone and mixed, against the captions of every kind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.batch import Batch
from rectiflow.errors import DataError
from rectiflow.training.randomness import stream_seed
from rectiflow_audio.encoder import SoundTextEncoder
from rectiflow_audio.mixing import mix
from rectiflow_audio.sounds import Sounds
from rectiflow_audio.synthesis import RATE
from rectiflow_audio.text import TextEncoder

EPOCH = 1 << 20
_MIXED = 0.5  # share of the training sounds that are mixtures
_SNR = (-5.0, 10.0)
_ALIGNMENT = 1.0  # weight of 1 - cosine beside the log-likelihood
_CLIPS = 20  # a kind, in the figures


class LabelledSounds:
    """Numbered random sounds with what is in them: half of them alone, half mixtures of two kinds.

    A batch has x1 (B, T), cond text (B, D), a caption of the first kind each, and in extra present (B, kinds) bool and texts
    (kinds, D), one random caption a kind.
    """

    def __init__(self, sounds: Sounds, text: TextEncoder, seconds: float, seed: int, split: str = "train") -> None:
        self.sounds = sounds
        self.samples = round(seconds * RATE)
        self.seed = seed
        self.split = split
        self.tables = [text.encode(sounds.captions(kind)).pooled for kind in sounds.kinds]

    def __len__(self) -> int:
        return EPOCH

    def __getitems__(self, indices: list[int]) -> Batch:
        """The sounds with these numbers."""
        items = [self._item(index) for index in indices]
        own = torch.Generator().manual_seed(stream_seed(self.seed, "captions", *indices))
        texts = torch.stack([_random_row(table, own) for table in self.tables])
        captions = torch.stack([_random_row(self.tables[first], own) for _, first, _ in items])
        present = torch.stack([heard for _, _, heard in items])
        alone = present.sum(dim=1) == 1
        extra = {"present": present, "alone": alone, "texts": texts}
        return Batch(x1=torch.stack([wave for wave, _, _ in items]), cond={"text": captions}, extra=extra)

    def _item(self, index: int) -> tuple[Tensor, int, Tensor]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "labelled", self.split, index))
        first, second = torch.randperm(len(self.sounds.kinds), generator=generator)[:2].tolist()
        kinds = [self.sounds.kinds[first], self.sounds.kinds[second]]
        heard = torch.zeros(len(self.sounds.kinds), dtype=torch.bool)
        heard[first] = True
        if float(torch.rand((), generator=generator)) < _MIXED:
            heard[second] = True
            found = mix(self.sounds, kinds, self.samples, _SNR, generator, split=self.split)
            return found.mixture, first, heard
        return self.sounds.draw(kinds[0], self.samples, self.split, generator), first, heard


def encoder_loss(encoder: SoundTextEncoder, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of which kinds are heard, and how far sounds are from their own captions.

    A logistic loss on every pair of sound and text (arXiv 2303.15343), any number of which may be true; and, for sounds heard
    alone, 1 - cosine to their caption, without which they would only be near it in comparison and of no use as queries.
    """
    if isinstance(batch.x1, dict):
        raise DataError("the encoder is trained on waveforms (B, T), not on a product of states")
    vectors = encoder(batch.x1)
    present, alone = batch.extra["present"], batch.extra["alone"]
    likelihood = F.binary_cross_entropy_with_logits(encoder.logits(vectors, batch.extra["texts"]), present.to(vectors))
    cosine = (vectors * batch.cond["text"]).sum(dim=1)
    alignment = ((1 - cosine) * alone).sum() / alone.sum().clamp_min(1)
    return likelihood + _ALIGNMENT * alignment, {"likelihood": likelihood.detach(), "alignment": alignment.detach()}


class EncoderTask:
    """What the training loop needs to train a sound-text encoder; figures are of held-out sounds."""

    network: nn.Module

    def __init__(self, network: SoundTextEncoder, sounds: Sounds, text: TextEncoder, seconds: float) -> None:
        self.network = network
        self.sounds = sounds
        self.text = text
        self.samples = round(seconds * RATE)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See `encoder_loss`."""
        return encoder_loss(network, batch)  # type: ignore[arg-type]  # Fabric's wrapper forwards all of it

    @torch.no_grad()
    def preview(self, network: nn.Module, step: int, folder: Path) -> dict[str, float]:
        """Share of held-out sounds whose nearest kind is right, by the captions of training and by held-out ones."""
        generator = torch.Generator().manual_seed(0)
        kinds = self.sounds.kinds
        waves = [self.sounds.draw(kind, self.samples, "validation", generator) for kind in kinds for _ in range(_CLIPS)]
        vectors = torch.cat([network(part) for part in torch.split(torch.stack(waves), 64)])
        truth = torch.arange(len(kinds)).repeat_interleave(_CLIPS)
        figures = {}
        for name, held_out in (("kind_accuracy", False), ("paraphrase_accuracy", True)):
            texts = torch.stack(
                [self.text.encode(self.sounds.captions(kind, held_out)).pooled.mean(dim=0) for kind in kinds]
            )
            nearest = (vectors @ F.normalize(texts, dim=1).T).argmax(dim=1)
            figures[name] = float((nearest == truth).double().mean())
        return figures


def encoder_stage(sounds: Sounds, text: TextEncoder, seconds: float, seed: int) -> tuple[EncoderTask, LabelledSounds]:
    """Task and data of `stage=encoder` for the sounds and the text encoder of a run."""
    network = SoundTextEncoder(text.dim, torch.Generator().manual_seed(stream_seed(seed, "encoder")))
    return EncoderTask(network, sounds, text, seconds), LabelledSounds(sounds, text, seconds, seed)


def _random_row(table: Tensor, generator: torch.Generator) -> Tensor:
    return table[int(torch.randint(len(table), (), generator=generator))]
