"""T5 and CLAP in plain torch: what transformers makes of the same weights, and folders that hold something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from rectiflow.errors import DataError
from rectiflow_audio.t5 import T5
from rectiflow_audio.text import text_encoder

WORDS = ["<unk>", "<pad>", "a", "dog", "barks", "in", "the", "rain", "again", "and"]
TEXT = "a dog barks in the rain again and again and again in the rain"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))


def write_model(folder: Path, config: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> None:
    """A model folder with random weights, the same ones each time."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 1.0)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_t5(folder: Path, gated: bool) -> None:
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (12, 16), "encoder.final_layer_norm.weight": (16,)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (8, 4)
    for n in range(2):
        block = f"encoder.block.{n}.layer"
        shapes |= {f"{block}.0.SelfAttention.{part}.weight": (16, 16) for part in "qkvo"}
        shapes |= {f"{block}.{k}.layer_norm.weight": (16,) for k in (0, 1)}
        shapes |= {
            f"{block}.1.DenseReluDense.{part}.weight": (32, 16) for part in (("wi_0", "wi_1") if gated else ("wi",))
        }
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (16, 32)
    config = {
        "model_type": "t5",
        "architectures": ["T5EncoderModel"],
        "vocab_size": 12,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 32,
    }
    config |= {"num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu" if gated else "relu"}
    config |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "layer_norm_epsilon": 1e-6}
    write_model(folder, config, shapes)


def write_clap(folder: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "text_model.embeddings.word_embeddings.weight": (12, 16),
        "text_model.embeddings.position_embeddings.weight": (40, 16),
        "text_model.embeddings.token_type_embeddings.weight": (1, 16),
    }
    layers = [(f"text_model.encoder.layer.{n}", (16, 16)) for n in range(2)]
    dense = {f"{layer}.attention.self.{part}": size for layer, size in layers for part in ("query", "key", "value")}
    dense |= {f"{layer}.attention.output.dense": size for layer, size in layers}
    dense |= {f"{layer}.intermediate.dense": (32, 16) for layer, _ in layers}
    dense |= {f"{layer}.output.dense": (16, 32) for layer, _ in layers}
    dense |= {
        "text_model.pooler.dense": (16, 16),
        "text_projection.linear1": (8, 16),
        "text_projection.linear2": (8, 8),
    }
    norms = ["text_model.embeddings.LayerNorm"]
    norms += [f"{layer}.{part}output.LayerNorm" for layer, _ in layers for part in ("attention.", "")]
    shapes |= {f"{name}.weight": size for name, size in dense.items()} | {f"{name}.weight": (16,) for name in norms}
    shapes |= {f"{name}.bias": size[:1] for name, size in dense.items()} | {f"{name}.bias": (16,) for name in norms}
    config = {"model_type": "clap_text_model", "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 40, "projection_dim": 8}
    config |= {"layer_norm_eps": 1e-12, "pad_token_id": 1, "type_vocab_size": 1}
    write_model(folder, config, shapes)


# What transformers 5 makes of these weights: first numbers of the fourth token, or of the pooled vector.
T5_GATED = [0.496214, -0.688422, -0.284588, 0.593072, 0.315071]
T5_RELU = [0.274304, -0.519181, -0.74235, -0.28424, 0.349035]
CLAP = [-0.642509, -0.130795, -0.315593, -0.243184, 0.394868]


@pytest.mark.parametrize(("gated", "expected"), [(True, T5_GATED), (False, T5_RELU)])
def test_t5_equals_transformers(tmp_path: Path, gated: bool, expected: list[float]) -> None:
    write_t5(tmp_path / "t5", gated)
    encoder = text_encoder(f"flan-t5:{tmp_path / 't5'}")
    found = encoder.encode([TEXT])
    assert encoder.dim == found.pooled.shape[1] == 16
    torch.testing.assert_close(found.tokens[0, 3, :5], torch.tensor(expected), atol=1e-5, rtol=0)
    mean = found.tokens[0].mean(dim=0)
    torch.testing.assert_close(found.pooled[0], mean / mean.norm())


def test_clap_equals_transformers(tmp_path: Path) -> None:
    write_clap(tmp_path / "clap")
    encoder = text_encoder(f"clap:{tmp_path / 'clap'}")
    found = encoder.encode([TEXT, "a dog"])
    assert encoder.dim == 8
    torch.testing.assert_close(found.pooled[0, :5], torch.tensor(CLAP), atol=1e-5, rtol=0)
    assert found.tokens.shape == (2, 14, 8)


def test_t5_puts_distances_in_buckets() -> None:
    table = torch.arange(32.0)[:, None]
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    bias = T5({name: table}, 1, 1, 1e-6, True, 32, 128)._position_bias(200)[0]
    for distance, bucket in ((0, 0), (1, 1), (7, 7), (8, 8), (11, 8), (12, 9), (64, 14), (90, 14), (91, 15), (199, 15)):
        assert float(bias[distance, 0]) == bucket  # looking back
        assert float(bias[0, distance]) == bucket + (16 if distance else 0)


def test_other_models_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a model directory"):
        text_encoder(f"flan-t5:{tmp_path / 'gone'}")
    write_t5(tmp_path / "t5", True)
    with pytest.raises(DataError, match="no clap model"):
        text_encoder(f"clap:{tmp_path / 't5'}")
    write_clap(tmp_path / "clap")
    with pytest.raises(DataError, match="no flan-t5 model"):
        text_encoder(f"flan-t5:{tmp_path / 'clap'}")
    (tmp_path / "clap" / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
        text_encoder(f"clap:{tmp_path / 'clap'}").encode([TEXT])
