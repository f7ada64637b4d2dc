"""States as FlowSep has them: codes of log-mel spectrograms, decoded by masking the mixture, so that phases are its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectiflow.batch import Cond
from rectiflow.cache import cache_folder
from rectiflow.errors import CheckpointCorrupt, ConfigError
from rectiflow.training.batches import Dataset
from rectiflow.training.checkpoint import load_weights
from rectiflow.training.loop import fit
from rectiflow.training.options import TrainingOptions
from rectiflow_audio.autoencoder import PATCH, AutoencoderTask, MelAutoencoder, padded
from rectiflow_audio.kept import kept_tensors
from rectiflow_audio.mel import Mel

_VERSION = 1
_PART = 64


class MelLatent:
    """Codes of an autoencoder of log-mel spectrograms, a channel brought to mean 0 and variance 1 over training sounds.

    The autoencoder is trained when it is first needed and kept in the cache, or taken from a run of `stage=autoencoder`. A
    state decodes to a mask on the mixture's own spectrum: powers of the bands of all stems share every frequency out.

    Args:
        size, hop, mels: see `Mel`; mels a multiple of 4.
        channels: C, numbers a patch of 4 bands by 4 frames.
        width, blocks, kl: see `MelAutoencoder`.
        run: folder of a run of `rectiflow train audio stage=autoencoder`; "" trains here.
        training: how, as in `TrainingOptions`.

    Raises:
        ConfigError: a value out of range.
    Source: arXiv 2409.07614 (FlowSep), which has a vocoder in place of the mask.
    """

    linear = False
    power = 1.0

    def __init__(
        self,
        size: int = 1024,
        hop: int = 160,
        mels: int = 64,
        channels: int = 8,
        width: int = 96,
        blocks: int = 2,
        kl: float = 1e-3,
        run: str = "",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        if mels % PATCH or min(channels, width, blocks) < 1 or kl < 0:
            raise ConfigError(
                f"mel latents got mels={mels}, channels={channels}, width={width}, blocks={blocks}, kl={kl}; allowed: mels that "
                f"{PATCH} divides, channels, width and blocks of at least 1, and kl of at least 0"
            )
        self.mel = Mel(size, hop, mels)
        self.hop = PATCH * hop
        self.channels = channels
        self.run = run
        self.training = TrainingOptions(**(training or {}))
        self.settings = [size, hop, mels, channels, width, blocks, kl]
        self.autoencoder = MelAutoencoder(channels, width, blocks, kl, generator=torch.Generator().manual_seed(0))
        self.statistics: dict[str, Tensor] = {}

    def shape(self, samples: int) -> tuple[int, ...]:
        """(C, M / 4, N)."""
        return self.channels, self.mel.mels // PATCH, 1 + samples // self.hop

    def encode(self, wave: Tensor) -> Tensor:
        """Codes (..., C, M / 4, N) of waveforms (..., T)."""
        codes = self._codes(wave.reshape(-1, wave.shape[-1]))
        found = (codes - self.statistics["mean"].to(wave)) / self.statistics["deviation"].to(wave)
        return found.reshape(*wave.shape[:-1], *found.shape[1:])

    def hear(self, mixture: Tensor) -> Cond:
        """`mixture`, codes (B, 1, C, M / 4, N), and `wave` (B, 1, T), which is what will be masked."""
        return {"mixture": self.encode(mixture)[:, None], "wave": mixture[:, None]}

    def heard(self, cond: Cond, length: int) -> Tensor:
        """The mixtures (B, length) themselves."""
        return cond["wave"][:, 0, :length]

    def waves(self, states: Tensor, cond: Cond, length: int) -> Tensor:
        """Waveforms (B, K, length) of codes (B, K, C, M / 4, N): the mixture, masked."""
        return self.mel.masked(self.levels(states, length), self.heard(cond, length))

    def levels(self, states: Tensor, length: int) -> Tensor:
        """Levels (B, K, M, frames) that codes (B, K, C, M / 4, N) of so many samples stand for."""
        codes = states.flatten(0, 1) * self.statistics["deviation"].to(states) + self.statistics["mean"].to(states)
        network = self.autoencoder.to(states.device)
        levels = torch.cat([network.decode(part) for part in torch.split(codes, _PART)])
        return levels[..., : self.mel.frames(length)].reshape(*states.shape[:2], self.mel.mels, -1)

    def stage(self, held_out: Dataset) -> AutoencoderTask:
        """The task of the training loop, with waveforms to judge it by; see `AutoencoderTask`."""
        return AutoencoderTask(self.autoencoder, self.mel, held_out)

    def fit(self, waves: Callable[[], Dataset], key: str) -> None:
        """Find or train the autoencoder on batches of waveforms; equal keys mean equal waveforms.

        Raises:
            CheckpointCorrupt: the run's weights are of another autoencoder.
            StorageError: the cache cannot be written.
        """
        if self.run:
            self._load(load_weights(Path(self.run)))
        told = [_VERSION, self.run and str(Path(self.run).resolve()), key, self.settings]
        told.append(dataclasses.asdict(self.training))
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        found = kept_tensors(cache_folder("audio", "autoencoders") / f"{name}.safetensors", lambda: self._find(waves()))
        self._load({name.removeprefix("weight."): value for name, value in found.items() if name.startswith("weight.")})
        self.statistics = {name: found[name] for name in ("mean", "deviation")}

    def _find(self, waves: Dataset) -> dict[str, Tensor]:
        if not self.run:
            print(f"training the autoencoder first: {self.training.steps} steps", flush=True)
            self._load(fit(self.stage(waves), waves, self.training).ema)
        return {f"weight.{name}": value for name, value in self.autoencoder.state_dict().items()} | self._measured(
            waves
        )

    def _measured(self, waves: Dataset) -> dict[str, Tensor]:
        """Mean and standard deviation (C, 1, 1) of the codes of a few hundred sounds and mixtures."""
        batch = waves.__getitems__(list(range(_PART)))
        if isinstance(batch.x1, dict):
            raise ConfigError("the autoencoder takes waveforms (B, K, T)")
        heard = torch.cat([batch.x1, batch.x1.sum(1, keepdim=True)], dim=1).flatten(0, 1)
        codes = self._codes(heard).movedim(1, 0).flatten(1)
        return {
            "mean": codes.mean(1)[:, None, None],
            "deviation": codes.std(1).clamp(min=1e-3)[:, None, None],
        }

    @torch.no_grad()
    def _codes(self, waves: Tensor) -> Tensor:
        """Codes (n, C, M / 4, N) of waveforms (n, T), not normalised."""
        parts = torch.split(padded(self.mel.levels(waves)), _PART)
        network = self.autoencoder.to(waves.device)
        return torch.cat([network.encode(part)[0] for part in parts])

    def _load(self, weights: dict[str, Tensor]) -> None:
        try:
            self.autoencoder.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointCorrupt(f"the weights are of another autoencoder: {reason}; check spectra.run") from error
        self.autoencoder.eval().requires_grad_(False)
