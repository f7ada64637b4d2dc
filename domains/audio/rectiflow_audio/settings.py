"""What may be set for audio: sounds, networks, starts, representations and losses, with their defaults. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rectiflow.training.options import TrainingOptions


@dataclass
class MixingSettings:
    """How sounds are mixed, whatever they are.

    Clips of `seconds`; `voices` sounds of different kinds (at least, at most), the target `snr` dB (from, to) above the others
    together. `targets` are the kinds that are asked for, by default all. A share `absent` of the queries names a kind that is
    not there: the target is silence. Without `overlap` no two kinds are mixed of which one query may mean both, such as music and
    a guitar. `text` is the encoder of the queries, `held_out` mixtures are kept for evaluation.
    """

    seconds: float = 1.016
    voices: list[int] = field(default_factory=lambda: [2, 3])
    snr: list[float] = field(default_factory=lambda: [-5.0, 5.0])
    targets: list[str] = field(default_factory=list)
    absent: float = 0.05
    overlap: bool = True
    text: str = "hashed"
    held_out: int = 256
    seed: int = 0


@dataclass
class SyntheticSettings(MixingSettings):
    """The built-in generator; `pool` seconds of each kind are rendered once, kept in the cache and cut anew at every step."""

    _target_: str = "rectiflow_audio.data.synthetic"
    pool: float = 240.0


@dataclass
class LibrarySettings(MixingSettings):
    """A folder with one sub-folder a class, or a manifest (csv) of files; sounds are split by file.

    Those to train on are played up to `speed` semitones faster or slower, and coloured by up to `tone` dB at any frequency.
    """

    _target_: str = "rectiflow_audio.data.library"
    path: str = MISSING
    speed: float = 2.0
    tone: float = 6.0
    text: str = "minilm"


@dataclass
class RealSettings(MixingSettings):
    """Seven kinds of real sound; `rectiflow fetch audio real-sounds` and `rectiflow fetch audio minilm` first."""

    _target_: str = "rectiflow_audio.data.real"
    speed: float = 2.0
    tone: float = 6.0
    overlap: bool = False
    text: str = "minilm"


@dataclass
class TracksSettings(MixingSettings):
    """Music with its parts, in folders as those of MUSDB18; each of `stems` is a kind that may be asked for."""

    _target_: str = "rectiflow_audio.data.tracks"
    path: str = MISSING
    stems: list[str] = field(default_factory=lambda: ["vocals", "drums", "bass", "other"])
    voices: list[int] = field(default_factory=lambda: [2, 4])


@dataclass
class SeriesSettings:
    """How many mixtures are held out, and how long all are, where nothing is asked for and every part is wanted."""

    seconds: float = 1.016
    held_out: int = 256
    seed: int = 0
    text: str = "none"


@dataclass
class SpeakersSettings(SeriesSettings):
    """Mixtures of `speakers` voices, to be told apart without a query.

    Synthetic ones by default, `pool` seconds of them; with `path`, a folder or manifest, those of its `kind`, whose `group` is
    the speaker. Each further voice lies `snr` dB (from, to) above the first.
    """

    _target_: str = "rectiflow_audio.data.speakers"
    path: str = ""
    kind: str = "speech"
    speakers: int = 2
    pool: float = 1200.0
    snr: list[float] = field(default_factory=lambda: [-5.0, 5.0])


@dataclass
class FixedStemsSettings(SeriesSettings):
    """Music into all of its `stems` at once, from folders as those of MUSDB18.

    A share `shuffled` of the mixtures to train on takes every stem from a track of its own.
    """

    _target_: str = "rectiflow_audio.data.fixed_stems"
    path: str = MISSING
    stems: list[str] = field(default_factory=lambda: ["vocals", "drums", "bass", "other"])
    shuffled: float = 0.5
    seconds: float = 2.032


@dataclass
class UNetSettings:
    """Convolutional U-Net over patches of the spectrogram, steered by time and query in every block."""

    _target_: str = "rectiflow_audio.network.SpectralUNet"
    patch: list[int] = field(default_factory=lambda: [4, 4])
    widths: list[int] = field(default_factory=lambda: [64, 128, 192])
    blocks: int = 1
    heads: int = 4
    until: bool = False


@dataclass
class NarrowSettings(UNetSettings):
    """The same, narrower, 1.4 M parameters: for more steps in the same minutes."""

    widths: list[int] = field(default_factory=lambda: [48, 96, 160])


@dataclass
class TinySettings(UNetSettings):
    """The same, small enough for tests."""

    widths: list[int] = field(default_factory=lambda: [32, 64])


@dataclass
class LatentSettings:
    """The same U-Net over the codes of mel latents, 3.0 M parameters; with spectra=mel_latent."""

    _target_: str = "rectiflow_audio.latent_network.LatentUNet"
    widths: list[int] = field(default_factory=lambda: [96, 160, 224])
    blocks: int = 1
    heads: int = 4
    until: bool = False


@dataclass
class BandSettings:
    """Transformer over bands and frames in turn, 49 M parameters, which listens to every word: for a GPU."""

    _target_: str = "rectiflow_audio.bands.BandTransformer"
    bands: int = 32
    frames: int = 2
    width: int = 384
    depth: int = 8
    heads: int = 8
    until: bool = False
    tokens: bool = True


@dataclass
class ConvTasNetSettings:
    """Conv-TasNet on the waveform, a baseline; with recipe=regression."""

    _target_: str = "rectiflow_audio.baselines.QueriedConvTasNet"
    features: int = 256
    kernel: int = 32
    hidden: int = 128
    layers: int = 6
    stacks: int = 2


@dataclass
class MixtureStartSettings:
    """Start from the mixture, with noise of standard deviation `sigma` where spectra have about 0.5."""

    _target_: str = "rectiflow_audio.flow.MixtureStart"
    sigma: float = 0.3


@dataclass
class NoiseStartSettings:
    """Start from noise alone."""

    _target_: str = "rectiflow_audio.flow.NoiseStart"
    sigma: float = 0.5


@dataclass
class ConsistentStartSettings:
    """Start from equal shares of the mixture plus noise that sums to nothing, and never leave the mixture (spectra=linear)."""

    _target_: str = "rectiflow_audio.flow.ConsistentStart"
    sigma: float = 0.3


@dataclass
class RegressionStartSettings:
    """No flow: the network estimates the stems from the mixture, once."""

    _target_: str = "rectiflow_audio.flow.RegressionStart"


@dataclass
class SpectraSettings:
    """Short-time spectra, their magnitudes raised to `exponent`."""

    _target_: str = "rectiflow_audio.representation.Spectra"
    n_fft: int = 510
    hop: int = 170
    exponent: float = 0.5
    scale: float = 0.4


@dataclass
class LinearSpectraSettings(SpectraSettings):
    """Spectra as they are, in which the stems sum to the mixture."""

    exponent: float = 1.0
    scale: float = 0.35


@dataclass
class MelLatentSettings:
    """Codes of log-mel spectrograms by a small autoencoder, decoded by masking the mixture (FlowSep's states).

    Its training comes first: `stage=autoencoder` and `run`, its folder, or by itself when it is needed.
    """

    _target_: str = "rectiflow_audio.mel_latent.MelLatent"
    size: int = 1024
    hop: int = 160
    mels: int = 64
    channels: int = 8
    width: int = 96
    blocks: int = 2
    kl: float = 1e-3
    run: str = ""
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(
            steps=1000, batch=4, optimizer="muon", learning_rate=2e-3, warmup=50, ema=0.99, precision="bf16-mixed"
        )
    )


@dataclass
class ObjectiveSettings:
    """Weights of what is asked of the estimate beside the flow's own loss: `si_sdr`, a dB of the sound's distortion ratio.

    It is asked for at times up to `until`; later estimates are to be means, which lead to samples.
    """

    _target_: str = "rectiflow_audio.losses.Objective"
    si_sdr: float = 0.005
    until: float = 0.05


@dataclass
class QuerySettings:
    """What to pull out of the held-out mixtures: a text, or a list of them; by default what each mixture was made for."""

    query: Any = None


DATA: dict[str, type] = {
    "synthetic": SyntheticSettings,
    "real": RealSettings,
    "library": LibrarySettings,
    "tracks": TracksSettings,
    "speakers": SpeakersSettings,
    "fixed_stems": FixedStemsSettings,
}
MODELS: dict[str, type] = {
    "small": UNetSettings,
    "narrow": NarrowSettings,
    "tiny": TinySettings,
    "latent": LatentSettings,
    "base": BandSettings,
    "conv_tasnet": ConvTasNetSettings,
}
SOURCES: dict[str, type] = {
    "mixture": MixtureStartSettings,
    "noise": NoiseStartSettings,
    "consistent": ConsistentStartSettings,
    "regression": RegressionStartSettings,
}
SPECTRA: dict[str, type] = {
    "compressed": SpectraSettings,
    "linear": LinearSpectraSettings,
    "mel_latent": MelLatentSettings,
}
OBJECTIVES: dict[str, type] = {"waveform": ObjectiveSettings}
