"""Audio as the core sees it: mixtures, the separating network, files, pictures and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from rectiflow.batch import Batch, Cond, Shape, State
from rectiflow.conditions import take
from rectiflow.domain import Domain
from rectiflow.drawing import Drawn
from rectiflow.errors import ConfigError
from rectiflow.flow import Draw, Flow
from rectiflow.records import Metric, Reference
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.training.batches import Dataset
from rectiflow.training.loop import Task
from rectiflow_audio.captions import ambiguous
from rectiflow_audio.data import Captions, HeldOut, Mixes, TrainingMixtures, Waves, stems, told
from rectiflow_audio.encoder_training import encoder_stage
from rectiflow_audio.evaluating import false_extraction, figures, improvement, listed
from rectiflow_audio.files import write
from rectiflow_audio.flow import NULL, ConsistentStart, RegressionStart, Start
from rectiflow_audio.latent_network import LatentUNet
from rectiflow_audio.layout import layout_of
from rectiflow_audio.losses import Objective, distortion_loss
from rectiflow_audio.mel_latent import MelLatent
from rectiflow_audio.oracles import ideal_ratio_masks
from rectiflow_audio.permutations import UnorderedStems, best_arranged
from rectiflow_audio.pictures import strip
from rectiflow_audio.players import listening_page
from rectiflow_audio.representation import SAMPLE_RATE, Representation, Spectra
from rectiflow_audio.text import TextEncoder, text_encoder

SHOWN = 6
CONTROLS = 48
"""Mixtures that the controls are computed on."""


class Audio(Domain):
    """What a mixture is made of, conditioned on it: what a query names and what remains, or all of its parts.

    States are spectra (B, K, 2, F, N), or codes of them; K = 2 where a query is asked.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.predicts != "data":
            raise ConfigError(
                f"predicts={config.predicts} is not allowed for audio; the network estimates the stems: predicts=data"
            )
        self.layout = layout_of(config.data)
        self.start: Start = self.create(config.source)
        self.objective: Objective = self.create(config.objective)
        self._representation: Representation = self.create(config.spectra)
        if isinstance(self.start, ConsistentStart) and not self._representation.linear:
            raise ConfigError("source=consistent needs spectra that add up, and these do not: use spectra=linear")
        if isinstance(self.start, RegressionStart) and (self.objective.until < 1 or config.get("weight") == "velocity"):
            raise ConfigError(
                f"source=regression looks at no time, and weight={config.get('weight')} with objective.until="
                f"{self.objective.until:g} would train it by times: use recipe=regression, or weight=plain objective.until=1"
            )

    @cached_property
    def spectra(self) -> Representation:
        """What states are; an autoencoder in it is trained, or found."""
        if isinstance(self._representation, MelLatent):
            key = OmegaConf.to_yaml(self.config.data, sort_keys=True)
            self._representation.fit(lambda: Waves(self.mixes.train), key)
        return self._representation

    @property
    def stems(self) -> int:
        """Stems K of a state."""
        return len(self.layout.names)

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
        """The configured network.

        Raises:
            ConfigError: one for other states than `config.spectra`.
        """
        latent = self.config.model._target_.endswith(f".{LatentUNet.__name__}")
        if latent != isinstance(self._representation, MelLatent):
            raise ConfigError(
                f"model._target_={self.config.model._target_} is not for these states: use model=latent with "
                "spectra=mel_latent, and neither without the other"
            )
        network: nn.Module = self.create(
            self.config.model,
            stems=self.stems,
            spectra=self._representation,
            query_width=self.text.dim,
            generator=generator,
        )
        return network

    def flow(self, network: Callable[..., Any]) -> Flow:
        """The network's estimate of the stems as a flow from the configured start."""
        interpolant = self.create(self.config.interpolant)
        read = self.start.read(network, interpolant, stems=self.stems, power=self._representation.power)
        space = Euclidean() if self.layout.ordered else UnorderedStems()
        return self.flow_of(read, source=self.start, null=NULL, space=space)

    def conditions(self, count: int, generator: torch.Generator, **request: Any) -> Cond:
        """The first `count` held-out mixtures, over again where there are fewer; asked for `query` instead, if given.

        Raises:
            ConfigError: a query, where all parts are wanted.
        """
        cond = self.held_out.conditions(torch.arange(count) % len(self.mixes.held_out))
        if request.get("query") is not None:
            if not self.layout.asked:
                raise ConfigError(
                    f"this run is asked nothing: it gives {', '.join(self.layout.names)}; leave out query"
                )
            texts = [request["query"]] if isinstance(request["query"], str) else list(request["query"])
            asked = told(self.text, [str(text) for text in texts], self.told_words)
            cond |= take(asked, torch.arange(count) % len(texts))
        return cond

    def teaching_conditions(self, count: int, generator: torch.Generator) -> Cond:
        """New mixtures of training sounds."""
        numbers = torch.randint(1 << 62, (count,), generator=generator)
        chosen = [self.mixes.train[int(number)] for number in numbers]
        asked = self.captions([mixture.caption for mixture in chosen])
        return {**self.spectra.hear(stems(chosen).sum(1)), **asked, "item": numbers}

    def picture_conditions(self, generator: torch.Generator) -> tuple[int, Cond]:
        """The first few held-out mixtures."""
        return SHOWN, self.conditions(SHOWN, generator)

    def sample_shape(self, count: int, cond: Cond) -> Shape:
        """(count, K, 2, F, N), or that of codes."""
        return count, self.stems, *self._representation.shape(self.samples)

    @property
    def samples(self) -> int:
        """Samples T of a clip."""
        return self.mixes.train.samples

    def waves(self, x: State, cond: Cond) -> Tensor:
        """Waveforms (B, K, T) of states, which sum to the mixture."""
        if isinstance(x, dict):
            raise ConfigError(f"stems are one tensor; got components {sorted(x)}")
        return self.spectra.waves(x, cond, self.samples)

    def truth(self, cond: Cond, waves: Tensor) -> Tensor:
        """True waveforms (B, K, T) of held-out mixtures, in the order that suits estimates (B, K, T) where there is none."""
        truth = self.held_out.waves[cond["item"]]
        return truth if self.layout.ordered else best_arranged(truth, waves)

    def save(self, x: State, cond: Cond, folder: Path) -> list[Path]:
        """A WAV file of each mixture and one of each of its stems."""
        mixture = self.spectra.heard(cond, self.samples)
        files = []
        for number, (whole, parts) in enumerate(zip(mixture, self.waves(x, cond), strict=True)):
            for name, wave in zip(("mixture", *self.layout.names), (whole, *parts), strict=True):
                files.append(folder / f"{number:05d}-{name.replace(' ', '_')}.wav")
                write(files[-1], wave[None], SAMPLE_RATE)
        return files

    def picture(self, x: State, cond: Cond) -> Image.Image:
        """A column a sample: spectrograms of the mixture, then of what was wanted and what it should be, and of the rest."""
        waves, rows = self.waves(x, cond), [self.spectra.heard(cond, self.samples)]
        truth = self.truth(cond, waves)
        for stem in range(self.wanted):
            rows += [waves[:, stem], truth[:, stem]]
        rows += list(waves[:, self.wanted :].unbind(1))
        shown = Spectra()
        return strip(torch.stack([shown.magnitude(shown.encode(row)) for row in rows], dim=1))

    def view(self, x: State, cond: Cond) -> str:
        """A page to listen: the mixture, what was wanted and what it should be, and the rest."""
        mixture, waves = self.spectra.heard(cond, self.samples), self.waves(x, cond)
        names, rows = self.layout.names, []
        for number, (whole, parts, true) in enumerate(zip(mixture, waves, self.truth(cond, waves), strict=True)):
            item = self.held_out.items[int(cond["item"][number])]
            sounds = [("mixture", whole), *zip(names, parts, strict=True)]
            sounds += [(f"true {name}", wave) for name, wave in zip(names[: self.wanted], true, strict=False)]
            rows.append((f"{item.caption} (of {', '.join(item.kinds)})".strip(), sounds))
        return listening_page("Separated mixtures", rows, SAMPLE_RATE)

    @property
    def wanted(self) -> int:
        """Stems that are judged: the first, which was asked for, or all."""
        return 1 if self.layout.asked else self.stems

    @property
    def metrics(self) -> Sequence[Metric]:
        """Improvement of the distortion ratio first."""
        return listed(self.mixes.sounds.kinds, self.layout.asked)

    def evaluate(self, x: State, cond: Cond) -> dict[str, float]:
        """Figures of separated held-out mixtures."""
        return self._figures(self.waves(x, cond), cond["item"])

    def _figures(self, waves: Tensor, numbers: Tensor) -> dict[str, float]:
        """Figures of the wanted ones of stems (B, K, T) of the held-out mixtures with these numbers (B,)."""
        truth, count = self.truth({"item": numbers}, waves), self.wanted
        mixture = truth.sum(1, keepdim=True).expand(-1, count, -1)
        kinds = [kind for number in numbers.tolist() for kind in self._kinds(number)]
        levels = [self.held_out.items[number].snr for number in numbers.tolist()] if self.layout.asked else []
        return figures(
            waves[:, :count].flatten(0, 1), truth[:, :count].flatten(0, 1), mixture.flatten(0, 1), kinds, levels
        )

    def _kinds(self, number: int) -> tuple[str, ...]:
        """What the wanted stems of a held-out mixture are."""
        item = self.held_out.items[number]
        return (item.kind,) if self.layout.asked else item.kinds

    def measure(
        self, solve: Callable[[State, Cond], Drawn], x0: State, cond: Cond, seed: int
    ) -> tuple[Drawn, dict[str, float]]:
        """Figures, and on a few mixtures controls: asked in new words, for another of their sounds, for what is not there."""
        drawn, found = super().measure(solve, x0, cond, seed)
        if not self.layout.asked:
            return drawn, found
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
        """A caption of what nothing in a held-out mixture may be called; of another sound in it, where there is none."""
        item = self.held_out.items[number]
        absent = [
            kind
            for kind in self.mixes.sounds.kinds
            if kind not in item.kinds and not any(ambiguous(kind, heard) for heard in item.kinds)
        ]
        return self._caption(absent, number) if absent else self._other(number)

    def _caption(self, kinds: Sequence[str], number: int) -> str:
        phrases = self.mixes.sounds.captions(kinds[number % len(kinds)])
        return phrases[number % len(phrases)]

    def references(self, count: int, seed: int) -> list[Reference]:
        """The ideal ratio mask as the floor, the mixture itself as the baseline."""
        numbers = torch.arange(count) % len(self.mixes.held_out)
        truth = self.held_out.waves[numbers]
        mixture = truth.sum(1, keepdim=True).expand_as(truth)
        return [
            Reference("floor", "ideal ratio mask", count, self._figures(ideal_ratio_masks(truth), numbers)),
            Reference("baseline", "the mixture itself", count, self._figures(mixture, numbers)),
        ]

    def stage(self, name: str) -> tuple[Task, Dataset]:
        """What may be trained beside the flow: `encoder`, of sounds and texts into one space; `autoencoder`, of mel latents.

        Raises:
            ConfigError: another name, an autoencoder without mel latents, or an encoder where nothing is asked.
        """
        if name == "autoencoder" and isinstance(self._representation, MelLatent):
            return self._representation.stage(Waves(self.mixes.held_out)), Waves(self.mixes.train)
        if name != "encoder" or not self.layout.asked:
            raise ConfigError(
                f"stage {name!r} is unknown to audio with these settings; allowed: flow, encoder (where queries are asked), and "
                "autoencoder (with spectra=mel_latent)"
            )
        data = self.config.data
        return encoder_stage(self.mixes.sounds, self.text, data.seconds, data.seed)

    def extra_loss(self, flow: Flow, prediction: Any, draw: Draw, batch: Batch) -> dict[str, Tensor]:
        """Distortion of the estimates' waveforms at early times."""
        if not self.objective.si_sdr:
            return {}
        # Stored pairs bring no waveforms.
        reference = batch.extra["waves"] if "waves" in batch.extra else self.waves(draw.x1, draw.cond)
        waves = self.waves(prediction, draw.cond)
        if not self.layout.ordered:
            reference = best_arranged(reference, waves)
        early = draw.t <= self.objective.until
        return {"distortion": self.objective.si_sdr * distortion_loss(waves[early], reference[early])}
