"""Audio as the core sees it: mixtures, the separating network, files, pictures and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond, Shape, State
from rectiflow.conditions import take
from rectiflow.domain import Domain
from rectiflow.drawing import Drawn
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.records import Metric, Reference
from rectiflow.training.batches import Dataset
from rectiflow.training.loop import Task
from rectiflow_audio.data import Captions, HeldOut, Mixes, TrainingMixtures, encoded, stems, told
from rectiflow_audio.encoder_training import encoder_stage
from rectiflow_audio.evaluating import false_extraction, figures, improvement, listed
from rectiflow_audio.files import write
from rectiflow_audio.flow import NULL, ConsistentStart, Start, consistent
from rectiflow_audio.losses import Objective, distortion_loss
from rectiflow_audio.oracles import ideal_ratio_mask, mixture_baseline
from rectiflow_audio.pictures import strip
from rectiflow_audio.players import listening_page
from rectiflow_audio.representation import SAMPLE_RATE, Spectra
from rectiflow_audio.text import TextEncoder, text_encoder

STEMS = ("target", "residual")
SHOWN = 6
CONTROLS = 48
"""Mixtures that the controls are computed on."""


class Audio(Domain):
    """What a query names in a mixture, and what remains: spectra (B, 2, 2, F, N), conditioned on mixture and query."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.predicts != "data":
            raise ConfigError(
                f"predicts={config.predicts} is not allowed for audio; the network estimates the stems: predicts=data"
            )
        self.spectra: Spectra = self.create(config.spectra)
        self.start: Start = self.create(config.source)
        self.objective: Objective = self.create(config.objective)
        if isinstance(self.start, ConsistentStart) and not self.spectra.linear:
            raise ConfigError(
                f"source=consistent needs spectra that add up; spectra.exponent is {self.spectra.exponent}: use spectra=linear"
            )

    @property
    def stems(self) -> int:
        """Stems K of a state."""
        return len(STEMS)

    @cached_property
    def text(self) -> TextEncoder:
        """The encoder of the queries."""
        return text_encoder(self.config.data.text)

    @cached_property
    def mixes(self) -> Mixes:
        """Mixtures to train on, and held out."""
        mixes: Mixes = self.create(self.config.data)
        return mixes

    @cached_property
    def captions(self) -> Captions:
        """Queries of the sounds' captions."""
        return Captions(self.text, self.mixes.sounds, tokens=self.told_words)

    @property
    def told_words(self) -> bool:
        """Whether the network is told the words of a query beside its one vector."""
        return bool(self.config.model.get("tokens", False))

    @cached_property
    def held_out(self) -> HeldOut:
        """The mixtures that figures are computed on."""
        return HeldOut(self.mixes.held_out, self.spectra, self.captions)

    def dataset(self, split: str) -> TrainingMixtures:
        """Endless mixtures for training, those held out for validation."""
        if split not in ("train", "validation"):
            raise ConfigError(f"split {split!r} is unknown; allowed: train, validation")
        mixtures = self.mixes.train if split == "train" else self.mixes.held_out
        return TrainingMixtures(mixtures, self.spectra, self.captions)

    def network(self, generator: torch.Generator) -> nn.Module:
        """The configured network."""
        network: nn.Module = self.create(
            self.config.model,
            stems=self.stems,
            spectra=self.spectra,
            query_width=self.text.dim,
            generator=generator,
        )
        return network

    def flow(self, network: Callable[..., Any]) -> Flow:
        """The network's estimate of the stems as a flow from the configured start."""
        interpolant = self.create(self.config.interpolant)
        return self.flow_of(self.start.read(network, interpolant), source=self.start, null=NULL)

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """The first `count` held-out mixtures, over again where there are fewer; asked for `query` instead, if given."""
        cond = self.held_out.conditions(torch.arange(count) % len(self.mixes.held_out))
        if "query" in request:
            texts = [request["query"]] if isinstance(request["query"], str) else list(request["query"])
            asked = told(self.text, [str(text) for text in texts], self.told_words)
            cond |= take(asked, torch.arange(count) % len(texts))
        return cond

    def teaching_conditions(self, count: int, generator: torch.Generator) -> Cond:
        """New mixtures of training sounds."""
        numbers = torch.randint(1 << 62, (count,), generator=generator)
        chosen = [self.mixes.train[int(number)] for number in numbers]
        _, mixture = encoded(stems(chosen), self.spectra)
        asked = self.captions([mixture.caption for mixture in chosen])
        return {"mixture": mixture, **asked, "item": numbers}

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """The first few held-out mixtures."""
        return SHOWN, self.conditions(SHOWN, generator)

    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """(count, K, 2, F, N)."""
        return count, self.stems, 2, self.spectra.bins, self.spectra.frames(self.samples)

    @property
    def samples(self) -> int:
        """Samples T of a clip."""
        return self.mixes.train.samples

    def waves(self, x: State, cond: Cond) -> Tensor:
        """Waveforms (B, K, T) of states, which sum to the mixture."""
        if isinstance(x, dict):
            raise ConfigError(f"stems are one tensor; got components {sorted(x)}")
        return consistent(self.spectra.decode(x, self.samples), self.spectra.decode(cond["mixture"], self.samples))

    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """Three WAV files a sample: the mixture, what was asked for, and the rest."""
        mixture = self.spectra.decode(cond["mixture"][:, 0], self.samples)
        files = []
        for number, (whole, parts) in enumerate(zip(mixture, self.waves(x, cond), strict=True)):
            for name, wave in zip(("mixture", *STEMS), (whole, *parts), strict=True):
                files.append(folder / f"{number:05d}-{name}.wav")
                write(files[-1], wave[None], SAMPLE_RATE)
        return files

    def picture(self, x: State, cond: Cond) -> Image.Image:
        """A column a sample: spectrograms of the mixture, of what was asked for, of the rest, and of what it should be."""
        truth, _ = encoded(self.held_out.waves[cond["item"]], self.spectra)
        states = x if isinstance(x, Tensor) else truth
        rows = [cond["mixture"][:, 0], states[:, 0], truth[:, 0], states[:, 1]]
        return strip(torch.stack([self.spectra.magnitude(row) for row in rows], dim=1))

    def view(self, x: State, cond: Cond) -> str:
        """A page to listen: the mixture, what was asked for, the rest, and what it should be."""
        mixture = self.spectra.decode(cond["mixture"][:, 0], self.samples)
        truth = self.held_out.waves[cond["item"]]
        rows = []
        for number, (whole, parts, true) in enumerate(zip(mixture, self.waves(x, cond), truth, strict=True)):
            item = self.held_out.items[int(cond["item"][number])]
            sounds = [("mixture", whole), (STEMS[0], parts[0]), (STEMS[1], parts[1]), ("true target", true[0])]
            rows.append((f"{item.caption} (of {', '.join(item.kinds)})", sounds))
        return listening_page("Separated mixtures", rows, SAMPLE_RATE)

    @property
    def metrics(self) -> Sequence[Metric]:
        """Improvement of the distortion ratio first."""
        return listed(self.mixes.sounds.kinds)

    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Figures of separated held-out mixtures."""
        numbers = cond["item"]
        kinds = [self.held_out.items[number].kind for number in numbers.tolist()]
        return figures(self.waves(x, cond), self.held_out.waves[numbers], kinds)

    def measure(
        self, solve: Callable[[State, Cond], Drawn], x0: State, cond: Cond, seed: int
    ) -> tuple[Drawn, dict[str, float]]:
        """Figures, and on a few mixtures controls: asked in new words, for another of their sounds, for what is not there."""
        drawn, found = super().measure(solve, x0, cond, seed)
        few = torch.arange(min(CONTROLS, len(cond["item"])))
        part, truth = take(cond, few), self.held_out.waves[cond["item"][:CONTROLS]]
        start = x0[: len(few)] if isinstance(x0, Tensor) else x0
        for name, query, figure in (
            ("si_sdri_paraphrase", self._paraphrase, improvement),
            ("si_sdri_wrong_query", self._other, improvement),
            ("false_extraction", self._absent, false_extraction),
        ):
            asked = self.captions([query(number) for number in part["item"].tolist()])
            found[name] = figure(self.waves(solve(start, {**part, **asked}).x, part), truth)
        return drawn, found

    def _paraphrase(self, number: int) -> str:
        """A caption of a held-out mixture's target that was not in training."""
        return self.mixes.paraphrased[number].caption

    def _other(self, number: int) -> str:
        """A caption of another sound in a held-out mixture."""
        item = self.held_out.items[number]
        return self._caption([kind for kind in item.kinds if kind != item.kind], number)

    def _absent(self, number: int) -> str:
        """A caption of what is not in a held-out mixture; of another sound in it, where nothing is absent."""
        item = self.held_out.items[number]
        absent = [kind for kind in self.mixes.sounds.kinds if kind not in item.kinds]
        return self._caption(absent, number) if absent else self._other(number)

    def _caption(self, kinds: Sequence[str], number: int) -> str:
        phrases = self.mixes.sounds.captions(kinds[number % len(kinds)])
        return phrases[number % len(phrases)]

    def references(self, count: int, seed: int) -> list[Reference]:
        """The ideal ratio mask as the floor, the mixture itself as the baseline."""
        numbers = torch.arange(count) % len(self.mixes.held_out)
        truth = self.held_out.waves[numbers]
        kinds = [self.held_out.items[number].kind for number in numbers.tolist()]
        best, least = ideal_ratio_mask(truth[:, 0], truth[:, 1]), mixture_baseline(truth.sum(1))
        return [
            Reference("floor", "ideal ratio mask", count, figures(best, truth, kinds)),
            Reference("baseline", "the mixture itself", count, figures(least, truth, kinds)),
        ]

    def stage(self, name: str) -> tuple[Task, Dataset]:
        """What may be trained beside the flow: `encoder`, of sounds and texts into one space.

        Raises:
            ConfigError: another name.
        """
        if name != "encoder":
            raise ConfigError(f"stage {name!r} is unknown to audio; allowed: flow, encoder")
        data = self.config.data
        return encoder_stage(self.mixes.sounds, self.text, data.seconds, data.seed)

    def extra_loss(self, flow: Flow, prediction: Any, draw: Draw, batch: Batch) -> dict[str, Tensor]:
        """Distortion of the estimate's waveforms."""
        if not self.objective.si_sdr:
            return {}
        # Stored pairs bring no waveforms.
        reference = batch.extra["waves"] if "waves" in batch.extra else self.waves(draw.x1, draw.cond)
        return {"distortion": self.objective.si_sdr * distortion_loss(self.waves(prediction, draw.cond), reference)}
