"""The encoder of BERT in plain torch, on weights as they are published: MiniLM, and the text half of CLAP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from rectiflow.errors import DataError, MissingDependency


@dataclass(frozen=True)
class Bert:
    """Post-norm transformer encoder of Devlin et al. 2018 (arXiv 1810.04805), or RoBERTa's (arXiv 1907.11692).

    weights: tensors by their published names without a prefix; first_position: row of the first word's place in the table of
    positions, 0 for BERT and 2 for RoBERTa.
    """

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    epsilon: float
    first_position: int = 0

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Last hidden states (N, D) of the word pieces ids (N,) of one text."""
        table = {
            name: self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        }
        first = self.first_position
        x = table["word"][ids] + table["position"][first : first + len(ids)] + table["token_type"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            x = self._norm(x + self._attended(x, layer), f"{layer}.attention.output.LayerNorm")
            wide = F.gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return x

    def _attended(self, x: Tensor, layer: str) -> Tensor:
        query, key, value = (
            self._linear(x, f"{layer}.attention.self.{name}").reshape(len(x), self.heads, -1).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        return self._linear(mixed, f"{layer}.attention.output.dense")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.epsilon)


def read_bert(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Bert:
    """The encoder that a published configuration describes, on weights without a prefix."""
    return Bert(
        weights,
        int(config["num_hidden_layers"]),
        int(config["num_attention_heads"]),
        float(config["layer_norm_eps"]),
        first_position=0 if config["model_type"] == "bert" else int(config["pad_token_id"]) + 1,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a model directory.

    Raises:
        DataError: `config.json` is missing or damaged.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_directory(folder, error) from error
    return config


def read_directory(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights (float32) of a model directory with `config.json` and `model.safetensors`.

    Raises:
        DataError: a file is missing or damaged.
    """
    config = read_config(folder)
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    except (OSError, SafetensorError) as error:
        raise _no_directory(folder, error) from error
    return config, weights


def _no_directory(folder: Path, error: Exception) -> DataError:
    return DataError(
        f"{folder} is not a model directory: {error}; it must hold config.json, tokenizer.json and model.safetensors: "
        "fetch it again, or check the path"
    )


class WordPieces:
    """The tokenizer of a model directory: text to ids, special tokens included, cut at `longest` pieces.

    Raises:
        MissingDependency: `tokenizers` is not installed.
        DataError: tokenizer.json is missing or damaged.
    """

    def __init__(self, folder: Path, longest: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependency(
                "text encoders need tokenizers, which is not installed: pip install 'rectiflow[audio]'"
            ) from error
        path = folder / "tokenizer.json"
        try:
            content = path.read_text(encoding="utf-8")
            json.loads(content)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}; fetch the model again, or check the path") from error
        self.tokenizer = Tokenizer.from_str(content)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(longest)

    def __call__(self, text: str) -> Tensor:
        """Ids (N,) of a text."""
        return torch.tensor(self.tokenizer.encode(text).ids)
