"""What a separation is asked for, by text or by example, and whether the answer sounds like it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.errors import ConfigError, DataError
from rectiflow.runs import CONFIG_FILE, read_config
from rectiflow_audio.encoder import STAGE, SoundTextEncoder, best_of, exemplar_query, load_encoder, presence
from rectiflow_audio.files import read_sound
from rectiflow_audio.layout import Layout
from rectiflow_audio.representation import SAMPLE_RATE
from rectiflow_audio.resampling import regrouped
from rectiflow_audio.separating import Extract
from rectiflow_audio.text import TextEncoder
from rectiflow_audio.transforms import resample

LONGEST_QUERY = 1000
UNASKED = "unasked"
LONGEST_PIECES = 255
_ARTICLES = {"a", "an", "the", "some"}
_LISTENING = 10 * SAMPLE_RATE


@dataclass(frozen=True)
class Request:
    """What is to be extracted: a name for files, a text for people, and the model's query (S, D), of each stem.

    Without queries these are the stems of a model that is asked nothing.
    """

    names: list[str]
    texts: list[str]
    queries: Tensor | None


def requested(
    texts: Sequence[str],
    exemplars: Sequence[Path],
    text: TextEncoder,
    encoder: SoundTextEncoder | None,
    unasked: bool = False,
) -> Request:
    """The queries of texts, after them of example sounds, and last, with `unasked`, none: a vector of zeros.

    Raises:
        ConfigError: none at all, one that is empty or too long, or an example without an encoder.
        DataError: an example that cannot be read, lasts over a minute or is silent.
        MissingDependency: the text encoder is not there.
    """
    if not texts and not exemplars and not unasked:
        raise ConfigError(
            'there is no query; say what to extract, once or several times: query="a dog barking" (or unasked=true)'
        )
    for one in texts:
        check_query("query", one)
    queries = []
    if texts:
        encoded = text.encode(list(texts))
        for one, pieces in zip(texts, encoded.mask.sum(dim=1).tolist(), strict=True):
            if pieces > LONGEST_PIECES:
                raise ConfigError(
                    f"query={one[:40]!r}… has more than {LONGEST_PIECES} word pieces, which are allowed: shorten it"
                )
        queries.append(encoded.pooled)
    for path in exemplars:
        if encoder is None:
            raise ConfigError(
                f"exemplar={path} needs a sound-text encoder and there is none under runs/; "
                "train one: rectiflow train audio stage=encoder name=encoder"
            )
        wave, rate = read_sound(path)
        try:
            queries.append(exemplar_query(encoder, resample(wave, rate, SAMPLE_RATE))[None])
        except DataError as error:
            raise DataError(f"exemplar={path}: {error}") from error
    if unasked:
        queries.append(torch.zeros(1, text.dim))
    nothing = [UNASKED] * unasked
    described = [*texts, *(f"like {path.name}" for path in exemplars), *nothing]
    names = file_names([*texts, *(path.stem for path in exemplars), *nothing])
    return Request(names, described, torch.cat(queries))


def all_parts(layout: Layout, texts: Sequence[str], exemplars: Sequence[Path], unasked: bool = False) -> Request:
    """All stems of a model that is asked nothing.

    Raises:
        ConfigError: it is asked something.
    """
    if texts or exemplars or unasked:
        raise ConfigError(
            f"this run is asked nothing, it takes a mixture apart into {', '.join(layout.names)}: "
            "leave out query, exemplar and unasked"
        )
    return Request([name.replace(" ", "_") for name in layout.names], list(layout.names), None)


def check_query(key: str, text: str) -> None:
    """Refuse a query that says nothing, or too much.

    Raises:
        ConfigError: it is empty or has over 1000 characters.
    """
    if not text.strip():
        raise ConfigError(f'{key}="" is empty; say what to extract in words: {key}="a dog barking"')
    if len(text) > LONGEST_QUERY:
        raise ConfigError(
            f"{key}={text[:40]!r}… has {len(text)} characters; at most {LONGEST_QUERY} are allowed: shorten it"
        )


def file_names(texts: Sequence[str]) -> list[str]:
    """What stems are called in file names: the words of their queries without articles, each name once."""
    names = ["residual"]
    for text in texts:
        words = re.findall(r"[^\W_]+", text.lower())
        name = "_".join([word for word in words if word not in _ARTICLES] or words)[:40].strip("_") or "stem"
        count = 1 + sum(re.fullmatch(re.escape(name) + r"(_\d+)?", other) is not None for other in names)
        names.append(name if count == 1 else f"{name}_{count}")
    return names[1:]


def find_run(root: Path, stage: str = "flow") -> Path | None:
    """The run of a stage under `root`/audio whose checkpoint is newest, None if there is none."""
    found = []
    for path in (root / "audio").rglob(CONFIG_FILE):
        saved = [checkpoint.stat().st_mtime for checkpoint in path.parent.glob("checkpoints/step-*")]
        if saved and read_config(path.parent).get("stage", "flow") == stage:
            found.append((max(saved), path.parent))
    return max(found)[1] if found else None


def find_encoder(folder: str, text: TextEncoder) -> SoundTextEncoder | None:
    """The sound-text encoder of a run; without one named, of the newest under runs/ that shares the text encoder, if any.

    Raises:
        ConfigError: a run that holds none, or one in the space of another text encoder.
        CheckpointCorrupt: no intact checkpoint.
    """
    found = Path(folder) if folder else find_run(Path("runs"), STAGE)
    if found is None:
        return None
    spoken = read_config(found).data.text
    if spoken == text.name:
        return load_encoder(found)
    if not folder:
        return None
    raise ConfigError(
        f"encoder={folder} was trained with texts by {spoken}, the model with texts by {text.name}; use one of the same"
    )


def best_extract(extract: Extract, encoder: SoundTextEncoder) -> Extract:
    """Of several attempts, the one of which the encoder finds that its target fits the query best.

    The result takes noise (B, attempts, K, 2, F, N).
    """

    def attempt(mixture: Tensor, query: Tensor | None, noise: Tensor) -> Tensor:
        if query is None:
            raise ConfigError("attempts are compared by a query, and there is none; use candidates=1")
        found = torch.stack([extract(mixture, query, one) for one in noise.unbind(1)])
        best = [best_of(encoder, found[:, item], query[item]) for item in range(len(mixture))]
        return torch.stack([found[choice, item] for item, choice in enumerate(best)])

    return attempt


def presences(encoder: SoundTextEncoder, stem: Iterator[Tensor], query: Tensor) -> float:
    """Probability that a stem in blocks (C, n) holds what a query (D,) names anywhere: the highest of its windows."""
    found = [float(presence(encoder, block.mean(dim=0)[None], query[None])) for block in regrouped(stem, _LISTENING)]
    return max(found, default=0.0)
