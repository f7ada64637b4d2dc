"""Text encoders: words near in meaning are near as vectors, vectors are kept, and what is missing is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from rectiflow.errors import ConfigError, DataError, MissingDependency
from rectiflow_audio import text
from rectiflow_audio.bert import read_bert, read_directory
from rectiflow_audio.text import CachedEncoder, HashedEncoder, best_available, minilm_folder, text_encoder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path))
    return tmp_path


def cosines(encoder: text.TextEncoder, first: str, *others: str) -> list[float]:
    vectors = encoder.encode([first, *others]).pooled
    return (vectors[1:] @ vectors[0]).tolist()


@pytest.mark.parametrize("texts", [["a dog barking", "rain"], [""], ["the"], ["Ärger, 犬!"]])
def test_hashed_vectors_have_unit_length_and_no_company(texts: list[str]) -> None:
    encoder = HashedEncoder()
    found = encoder.encode(texts)
    assert found.pooled.shape == (len(texts), encoder.dim)
    torch.testing.assert_close(found.pooled.norm(dim=1), torch.ones(len(texts)))
    for row, single in enumerate(texts):
        alone = encoder.encode([single])
        assert torch.equal(alone.pooled[0], found.pooled[row])
        assert int(found.mask[row].sum()) == alone.tokens.shape[1]
        assert not found.tokens[row][~found.mask[row]].any()


def test_hashed_knows_shared_words_and_says_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    near, far = cosines(text_encoder("hashed"), "a dog barking", "dog bark", "violin")
    assert near - far > 0.2
    assert "hashed" in caplog.text


def test_missing_minilm_is_one_line_with_both_ways_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "minilm_folder", lambda: None)
    assert best_available() == "hashed"
    with pytest.raises(MissingDependency, match=r"rectiflow fetch audio minilm.*data\.text=hashed"):
        text_encoder("minilm")


@pytest.mark.parametrize("name", ["bert", "flan-t5", "clap:", "minilm:here"])
def test_unknown_encoders_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="there are minilm, hashed, flan-t5:FOLDER"):
        text_encoder(name)


def test_vectors_are_kept_and_damage_is_mended(cache: Path) -> None:
    asked: list[str] = []

    def load() -> text.Reader:
        def read(line: str) -> tuple[torch.Tensor, torch.Tensor]:
            asked.append(line)
            return torch.ones(3) * len(line), torch.ones(len(line.split()), 3)

        return read

    first = CachedEncoder("toy", 3, load, "toy-1").encode(["a b", "abcd"])
    again = CachedEncoder("toy", 3, load, "toy-1").encode(["abcd", "a b"])
    assert asked == ["a b", "abcd"]
    assert torch.equal(first.pooled, again.pooled.flip(0))
    assert first.mask.tolist() == [[True, True], [True, False]]
    CachedEncoder("toy", 3, load, "toy-2").encode(["abcd"])
    assert len(asked) == 3
    for file in cache.rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    CachedEncoder("toy", 3, load, "toy-1").encode(["abcd"])
    assert len(asked) == 4


def small_bert(folder: Path) -> None:
    """A directory with two layers of width 8, its weights random."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embeddings.word_embeddings": (20, 8), "embeddings.position_embeddings": (12, 8)}
    shapes |= {"embeddings.token_type_embeddings": (2, 8)}
    for layer in range(2):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes[f"encoder.layer.{layer}.{name}"] = (8, 8)
        shapes[f"encoder.layer.{layer}.intermediate.dense"] = (32, 8)
        shapes[f"encoder.layer.{layer}.output.dense"] = (8, 32)
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator)
        if "embeddings" not in name:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    norms = ["embeddings.LayerNorm"]
    norms += [f"encoder.layer.{n}.{part}output.LayerNorm" for n in range(2) for part in ("attention.", "")]
    for name in norms:
        weights[f"{name}.weight"] = torch.rand(8, generator=generator) + 0.5
        weights[f"{name}.bias"] = torch.randn(8, generator=generator)
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "bert", "num_hidden_layers": 2, "num_attention_heads": 2, "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps(config))


def test_bert_equals_torch_s_own_encoder(tmp_path: Path) -> None:
    small_bert(tmp_path)
    config, weights = read_directory(tmp_path)
    ids = torch.tensor([3, 7, 1, 19])
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][:4]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = F.layer_norm(x, (8,), weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"], 1e-12)
    for n in range(2):
        own = {
            name.removeprefix(f"encoder.layer.{n}."): tensor
            for name, tensor in weights.items()
            if f"layer.{n}." in name
        }
        with torch.random.fork_rng():
            layer = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
        parts = [own[f"attention.self.{name}.weight"] for name in ("query", "key", "value")]
        biases = [own[f"attention.self.{name}.bias"] for name in ("query", "key", "value")]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat(parts),
                "self_attn.in_proj_bias": torch.cat(biases),
                "self_attn.out_proj.weight": own["attention.output.dense.weight"],
                "self_attn.out_proj.bias": own["attention.output.dense.bias"],
                "linear1.weight": own["intermediate.dense.weight"],
                "linear1.bias": own["intermediate.dense.bias"],
                "linear2.weight": own["output.dense.weight"],
                "linear2.bias": own["output.dense.bias"],
                "norm1.weight": own["attention.output.LayerNorm.weight"],
                "norm1.bias": own["attention.output.LayerNorm.bias"],
                "norm2.weight": own["output.LayerNorm.weight"],
                "norm2.bias": own["output.LayerNorm.bias"],
            }
        )
        with torch.no_grad():
            x = layer(x[None])[0]
    torch.testing.assert_close(read_bert(config, weights)(ids), x, atol=1e-5, rtol=0)


def test_damaged_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a model directory"):
        read_directory(tmp_path)
    small_bert(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="not a model directory"):
        read_directory(tmp_path)


@pytest.mark.skipif(minilm_folder() is None, reason="rectiflow fetch audio minilm has not been run")
def test_minilm_knows_meaning() -> None:
    encoder = text_encoder("minilm")
    near, far = cosines(encoder, "a dog barking", "dog bark", "violin")
    assert near - far > 0.2
    puppy, rain = cosines(encoder, "a puppy woofing", "a dog barking", "rain falling")
    assert puppy - rain > 0.2
    found = encoder.encode(["a dog barking"])
    assert found.tokens.shape == (1, 5, 384)  # three words and two marks
    torch.testing.assert_close(found.pooled.norm(dim=1), torch.ones(1))
    # What transformers 5 makes of the same files.
    peer = torch.tensor([0.0231965464, -0.0159604419, 0.0431656912, 0.0765204206])
    torch.testing.assert_close(found.pooled[0, : len(peer)], peer, atol=1e-5, rtol=0)
