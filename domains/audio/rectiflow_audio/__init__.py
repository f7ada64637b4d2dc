"""Audio: language-queried source separation. Free of torch until a verb runs."""

from __future__ import annotations

from rectiflow.domain import DomainSpec, Verb
from rectiflow_audio.separate_settings import SeparateSettings
from rectiflow_audio.settings import DATA, MODELS, OBJECTIVES, SOURCES, SPECTRA, QuerySettings

SPEC = DomainSpec(
    name="audio",
    summary="pulls the sound that a text names out of a mixture: built-in sounds, or a library of your own",
    implementation="rectiflow_audio.domain:Audio",
    recipes="rectiflow_audio.conf",
    default_recipe="synthetic",
    groups={"data": DATA, "model": MODELS, "source": SOURCES, "spectra": SPECTRA, "objective": OBJECTIVES},
    conditions=QuerySettings,
    datasets={
        "minilm": "text encoder all-MiniLM-L6-v2, 91 MB (Apache-2.0)",
        "real-sounds": "seven kinds of real sound, four hours, out of Debian packages (licences by file)",
        "rendered-sounds": "six kinds of sound, rendered from notes and by a speech synthesiser, out of Python packages",
        "rendered-tracks": "120 tracks of music with four stems each, rendered from notes, in the layout of MUSDB18",
    },
    fetcher="rectiflow_audio.fetching:fetch",
    verbs={"separate": Verb("rectiflow_audio.separate:run", SeparateSettings, bare="mix")},
    peers={
        "separation": "rectiflow_audio.peers:separation",
    },
    requires={"torchaudio": "audio", "soundfile": "audio", "tokenizers": "audio"},
)
