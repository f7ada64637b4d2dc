"""Stems out of mixtures by a trained flow: waveforms and queries in, waveforms out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.control.guidance import Guidance
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.sampling import integrate
from rectiflow.trained import open_run
from rectiflow_audio.flow import Start
from rectiflow_audio.layout import ASKED, Layout
from rectiflow_audio.representation import Representation, consistent
from rectiflow_audio.text import TextEncoder


@dataclass(frozen=True)
class Extractor:
    """A trained flow that pulls what a query asks for out of mixtures.

    Attributes:
        flow: over stems (B, K, ...), conditioned on mixture and query; its source is a `Start`.
        spectra: what its states are.
        text: the encoder that its queries come from.
        layout: what the stems are.
        device: where it computes.
    """

    flow: Flow
    spectra: Representation
    text: TextEncoder
    layout: Layout = ASKED
    device: torch.device | str = "cpu"

    @property
    def period(self) -> int:
        """Frames by which a mixture may move for its stems to move with it, as the network cuts time into places."""
        network = self.flow.model
        modules = network.modules() if isinstance(network, torch.nn.Module) else ()
        return math.lcm(*(getattr(module, "period", 1) for module in modules))

    def queries(self, texts: Sequence[str]) -> Tensor:
        """The queries (B, D) that texts stand for."""
        return self.text.encode(list(texts)).pooled

    def noise_shape(self, batch: int, samples: int) -> tuple[int, ...]:
        """Shape of the noise behind so many mixtures of so many samples: (B, K, ..., N), one frame a hop."""
        return batch, len(self.layout.names), *self.spectra.shape(samples)

    @torch.no_grad()
    def extract(
        self,
        mixture: Tensor,
        query: Tensor | None,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int = 4,
        method: str = "euler",
        guidance: float = 1.0,
        negative: Tensor | None = None,
    ) -> Tensor:
        """Stems (B, K, T) of mixtures, which sum to them.

        Args:
            mixture: (B, T) at 16 kHz, its root mean square over the whole recording about `representation.LEVEL`.
            query: (B, D), see `queries`; None asks for nothing in particular.
            noise: standard normal, of `noise_shape`; None draws it from `generator`.
            generator: source of the noise, on the CPU.
            steps: of the solver.
            method: a solver of fixed steps.
            guidance: w in v_without + w (v_with - v_without).
            negative: queries (B, D) or (D,) of what to steer away from, which take the place of none; needs guidance above 1.

        Raises:
            ConfigError: shapes that do not fit, a negative query without guidance, or see `integrate`.
        """
        if query is None:
            query = torch.zeros(len(mixture), self.text.dim)
        if mixture.ndim != 2 or query.ndim != 2 or len(mixture) != len(query) or mixture.shape[1] < 1:
            raise ConfigError(
                f"mixtures {tuple(mixture.shape)} and queries {tuple(query.shape)} were given; they must be (B, T) and (B, D)"
            )
        if negative is not None and guidance == 1:
            raise ConfigError(
                "a negative query was given with guidance 1, where it has no effect; use guidance=1.5 or so"
            )
        shape = self.noise_shape(*mixture.shape)
        if noise is None:
            noise = torch.randn(shape, generator=generator)
        elif tuple(noise.shape) != shape:
            raise ConfigError(f"noise has shape {tuple(noise.shape)}; these mixtures need {shape}")
        heard = self.spectra.hear(mixture.to(self.device))
        start: Start = self.flow.source  # type: ignore[assignment]  # what `separation_flow` was given
        flow = self.flow if negative is None else replace(self.flow, null={"query": negative.to(self.device)})
        solution = integrate(
            flow,
            start.place(noise.to(self.device), heard["mixture"]),
            steps=steps,
            method=method,
            cond={**heard, "query": query.to(self.device)},
            guidance=Guidance(float(guidance)),
        )
        return consistent(self.spectra.waves(solution.x, heard, mixture.shape[1]).cpu(), mixture[:, None])


def load_extractor(run: Path, weights: str = "ema") -> Extractor:
    """The extractor of a trained run, with averaged ("ema") or raw ("model") weights.

    Raises:
        ConfigError: no audio run there, or no checkpoint yet.
        CheckpointCorrupt: no intact checkpoint.
        MissingDependency: the run's text encoder is not there.
    """
    from rectiflow_audio import SPEC
    from rectiflow_audio.domain import Audio

    trained = open_run(SPEC, run, weights)
    domain = trained.domain
    if not isinstance(domain, Audio):
        raise ConfigError(f"run={run} is not a run of the audio domain")
    return Extractor(trained.flow, domain.spectra, domain.text, domain.layout, trained.device)
