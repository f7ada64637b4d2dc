"""Text encoders in folders of the user's own: FLAN-T5 or T5, and the text half of CLAP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from rectiflow.errors import DataError
from rectiflow_audio.bert import WordPieces, read_bert, read_config, read_directory
from rectiflow_audio.t5 import read_t5

Reader = Callable[[str], tuple[Tensor, Tensor]]
"""Reads one text: pooled (D,) of unit length and tokens (N, D)."""
LONGEST = {"flan-t5": 50, "clap": 77}  # word pieces: what FlowSep and CLAP were trained with


def fingerprint(folder: Path) -> str:
    """What tells two model folders apart without reading all of their weights.

    Raises:
        DataError: it is not a model folder.
    """
    try:
        content = (folder / "config.json").read_bytes()
        size = (folder / "model.safetensors").stat().st_size
        with (folder / "model.safetensors").open("rb") as stream:
            content += stream.read(1 << 20)
    except OSError as error:
        raise DataError(
            f"{folder} is not a model directory: {error}; it must hold config.json, tokenizer.json and model.safetensors"
        ) from error
    return hashlib.sha256(content + str(size).encode()).hexdigest()[:12]


def width(kind: str, folder: Path) -> int:
    """Length D of the vectors of a folder's model, by its configuration.

    Raises:
        DataError: there is none, or it is that of another model.
    """
    config = read_config(folder)
    try:
        return int(config["d_model" if kind == "flan-t5" else "projection_dim"])
    except KeyError as error:
        raise _other(kind, folder, error) from error


def open_reader(kind: str, folder: Path) -> Reader:
    """The reader of a folder's model: "flan-t5" for the T5 family, "clap" for CLAP's text half.

    FLAN-T5 gives the mean of its hidden states, CLAP the point in the space it shares with audio; the tokens of CLAP are put
    through the same projection, so that all vectors have one length.

    Raises:
        DataError: a file is missing or damaged, or it is another model.
    """
    config, weights = read_directory(folder)
    pieces = WordPieces(folder, LONGEST[kind])
    try:
        return _t5(config, weights, pieces) if kind == "flan-t5" else _clap(config, weights, pieces)
    except KeyError as error:
        raise _other(kind, folder, error) from error


def _t5(config: dict[str, object], weights: dict[str, Tensor], pieces: WordPieces) -> Reader:
    if "shared.weight" not in weights:  # an encoder saved on its own
        weights = {**weights, "shared.weight": weights["encoder.embed_tokens.weight"]}
    model = read_t5(config, weights)

    def read(text: str) -> tuple[Tensor, Tensor]:
        tokens = model(pieces(text))
        return F.normalize(tokens.mean(dim=0), dim=0), tokens

    return read


def _clap(config: dict[str, object], weights: dict[str, Tensor], pieces: WordPieces) -> Reader:
    settings = config.get("text_config", config)
    prefix = "text_model."
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    defaults = {"num_hidden_layers": 12, "num_attention_heads": 12, "layer_norm_eps": 1e-12, "pad_token_id": 1}
    model = read_bert({**defaults, **settings, "model_type": "roberta"}, own)  # type: ignore[dict-item]
    dense, bias = own["pooler.dense.weight"], own["pooler.dense.bias"]
    first, second = ("text_projection.linear1", "text_projection.linear2")

    @torch.no_grad()
    def read(text: str) -> tuple[Tensor, Tensor]:
        pooled = torch.tanh(F.linear(model(pieces(text)), dense, bias))
        hidden = F.relu(F.linear(pooled, weights[f"{first}.weight"], weights[f"{first}.bias"]))
        tokens = F.normalize(F.linear(hidden, weights[f"{second}.weight"], weights[f"{second}.bias"]), dim=1)
        return tokens[0].clone(), tokens  # a view could not be kept on disk

    return read


def _other(kind: str, folder: Path, error: KeyError) -> DataError:
    return DataError(
        f"{folder} holds no {kind} model: {error} is missing; give the folder of one, or another text encoder"
    )
