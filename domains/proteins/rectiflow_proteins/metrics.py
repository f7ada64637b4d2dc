"""Figures of backbones that need no trained weights, each beside what real or training chains get.

Chains are atoms N, CA, C and more, (N, 3 or 4, 3), in Angstrom. Shares are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import wasserstein_distance
from torch import Tensor

from rectiflow.records import Metric
from rectiflow_proteins.alignment import tm_scores
from rectiflow_proteins.secondary import secondary_structure
from rectiflow_proteins.torsions import ALPHA_CARBON_NITROGEN, CARBON_NITROGEN_ALPHA, PEPTIDE_BOND, angle, torsions_of

NEIGHBOURS, CIS_NEIGHBOURS = 3.80, 2.95
CLASH = 3.0
SAME_FOLD = 0.5
COMPARED = 24
NEAREST = 8
_CIRCLE_BINS = 180

METRICS = (
    Metric("ca_valid", "CA-CA", "higher", primary=True),
    Metric("peptide_valid", "C-N", "higher", primary=True),
    Metric("clash_free", "no clash", "higher"),
    Metric("ramachandran", "Ramachandran", "higher"),
    Metric("helix_error", "helix off by", "lower"),
    Metric("strand_error", "strand off by", "lower"),
    Metric("gyration_ratio", "size", "one"),
    Metric("w_phi", "W1 phi", "lower"),
    Metric("w_psi", "W1 psi", "lower"),
    Metric("w_ca4", "W1 CA i+4", "lower"),
    Metric("w_contact_order", "W1 contacts", "lower"),
    Metric("tm_pairwise", "TM of pairs", "lower"),
    Metric("novelty", "TM to data", "lower"),
)

# Degrees, (phi from, to, psi from, to): where residues, glycine included, are seen. Sheet, helix, left-handed, tight turns.
_ALLOWED = (
    (-180, -40, 50, 180),
    (-180, -40, -180, -150),
    (-160, -40, -80, 0),
    (-140, -50, 0, 50),
    (35, 110, -25, 95),
    (40, 100, -180, -100),
)


@dataclass(frozen=True)
class Summary:
    """What a set of chains is compared by: values by name, and its mean secondary structure."""

    values: dict[str, Tensor]
    helix: float
    strand: float


def summarise(chains: Sequence[Tensor], states: Sequence[Tensor]) -> Summary:
    """The distributions of chains with these secondary structures (N,): torsions, CA distances, size, contact order."""
    torsions = torch.cat([torsions_of(chain) for chain in chains])
    values = {name: torsions[torsions[:, i].isfinite(), i] for i, name in enumerate(("phi", "psi"))}
    for apart in (2, 3, 4):
        gaps = [torch.linalg.vector_norm(chain[apart:, 1] - chain[:-apart, 1], dim=-1) for chain in chains]
        values[f"ca{apart}"] = torch.cat(gaps)
    values["gyration"] = torch.stack([gyration_ratio(chain[:, 1]) for chain in chains])
    values["contact_order"] = torch.stack([contact_order(chain[:, 1]) for chain in chains])
    residues = torch.cat(list(states))
    return Summary(values, helix=_share(residues == 1), strand=_share(residues == 2))


def evaluate(chains: Sequence[Tensor], data: Summary, training: Sequence[Tensor]) -> dict[str, float]:
    """All figures of chains (N, 3 or 4, 3), against the summary of the data and, for novelty, the chains trained on."""
    states = secondary_structure([chain[:, 1] for chain in chains])
    found = figures(chains, states) | compare(summarise(chains, states), data) | diversity(chains)
    return found | {"novelty": novelty(chains, training)}


def figures(chains: Sequence[Tensor], states: Sequence[Tensor]) -> dict[str, float]:
    """Geometry of the chains themselves, and their mean secondary structure (from `states`, (N,) each) and size.

    Keys: ca_valid and ca_strict (neighbouring CA 3.8 A apart, to 0.4 and 0.1), ca_cis (2.95 to 0.2, as before cis-proline),
    peptide_valid (C-N 1.33 to 0.3), peptide_mean, peptide_sd, bend_error (degrees, mean error of the two angles at that bond),
    clash_free (share of chains in which no CA three or more residues apart are closer than 3 A), ramachandran (share of residues
    in the allowed regions), positive_phi (a few percent; mirrored helices would show here), planar (omega within 30 degrees of
    trans or cis), helix, strand, gyration (radius over 2.2 N^0.38), contact_order.
    """
    links = [_links(chain) for chain in chains]
    steps, bonds, bends = (torch.cat(parts) for parts in zip(*links, strict=True))
    torsions = torch.cat([torsions_of(chain) for chain in chains])
    residues = torch.cat(list(states))
    inner = torsions[torsions[:, :2].isfinite().all(1), :2]
    omega = torsions[torsions[:, 2].isfinite(), 2].abs()
    return {
        "ca_valid": _share((steps - NEIGHBOURS).abs() <= 0.4),
        "ca_strict": _share((steps - NEIGHBOURS).abs() <= 0.1),
        "ca_cis": _share((steps - CIS_NEIGHBOURS).abs() <= 0.2),
        "peptide_valid": _share((bonds - PEPTIDE_BOND).abs() <= 0.3),
        "peptide_mean": float(bonds.mean()),
        "peptide_sd": float(bonds.std()),
        "bend_error": math.degrees(float(bends.abs().mean())),
        "clash_free": _share(torch.stack([smallest_gap(chain[:, 1]) >= CLASH for chain in chains])),
        "ramachandran": _share(allowed(inner)),
        "positive_phi": _share(inner[:, 0] > 0),
        "planar": _share(torch.minimum(omega, math.pi - omega) <= math.radians(30)),
        "helix": _share(residues == 1),
        "strand": _share(residues == 2),
        "gyration": float(torch.stack([gyration_ratio(chain[:, 1]) for chain in chains]).mean()),
        "contact_order": float(torch.stack([contact_order(chain[:, 1]) for chain in chains]).mean()),
    }


def compare(chains: Summary, data: Summary) -> dict[str, float]:
    """How the chains stand to those of the data.

    Keys: helix_error, strand_error (difference of the mean contents), gyration_ratio (1 is right), w_phi, w_psi (Wasserstein-1
    distance on the circle, degrees), w_ca2, w_ca3, w_ca4 (of CA distances two to four residues apart, Angstrom), w_gyration,
    w_contact_order.
    """
    found = {
        "helix_error": abs(chains.helix - data.helix),
        "strand_error": abs(chains.strand - data.strand),
        "gyration_ratio": float(chains.values["gyration"].mean() / data.values["gyration"].mean()),
    }
    for name, values in chains.values.items():
        distance = circular_wasserstein if name in ("phi", "psi") else wasserstein_distance
        found[f"w_{name}"] = float(distance(values, data.values[name]))
    return found


def diversity(chains: Sequence[Tensor], most: int = COMPARED) -> dict[str, float]:
    """Of the first `most` chains: tm_pairwise, the mean TM-score of pairs; folds, clusters (complete linkage, 0.5) a chain."""
    alphas = [chain[:, 1] for chain in chains[:most]]
    pairs = [(i, j) for i in range(len(alphas)) for j in range(i)]
    if not pairs:
        return {"tm_pairwise": math.nan, "folds": 1.0}
    scores = tm_scores(*_shorter_first([(alphas[i], alphas[j]) for i, j in pairs]))
    table = np.zeros((len(alphas), len(alphas)))
    for (i, j), score in zip(pairs, scores.tolist(), strict=True):
        table[i, j] = table[j, i] = 1 - min(score, 1.0)
    clusters = fcluster(linkage(squareform(table), "complete"), 1 - SAME_FOLD, "distance")
    return {"tm_pairwise": float(scores.mean()), "folds": len(set(clusters.tolist())) / len(alphas)}


def novelty(chains: Sequence[Tensor], data: Sequence[Tensor], most: int = COMPARED) -> float:
    """Mean over the first `most` chains of the largest TM-score to the data: near 1 is copying.

    Looked for among the eight chains of the data with the most similar distances along the chain; TM is over the chain's length.
    """
    ours, theirs = _profiles(chains[:most]), _profiles(data)
    nearest = torch.cdist(ours, theirs).topk(min(NEAREST, len(data)), largest=False).indices
    pairs = [(chains[i][:, 1], data[int(j)][:, 1]) for i, row in enumerate(nearest) for j in row]
    scores = tm_scores([one for one, _ in pairs], [other for _, other in pairs])
    return float(scores.reshape(nearest.shape).amax(1).mean())


def allowed(torsions: Tensor) -> Tensor:
    """Bool (...): whether phi and psi, (..., 2) in radians, lie in the allowed regions of the Ramachandran plot."""
    phi, psi = torch.rad2deg(torsions).unbind(-1)
    inside = torch.zeros_like(phi, dtype=torch.bool)
    for left, right, low, high in _ALLOWED:
        inside |= (phi >= left) & (phi <= right) & (psi >= low) & (psi <= high)
    return inside


def smallest_gap(alphas: Tensor) -> Tensor:
    """Smallest distance, Angstrom, of CA (N, 3) three or more residues apart."""
    residue = torch.arange(len(alphas))
    near = (residue[:, None] - residue).abs() < 3
    return _distances(alphas).masked_fill(near, math.inf).min()


def gyration_ratio(alphas: Tensor) -> Tensor:
    """Radius of gyration of CA (N, 3) over 2.2 N^0.38 A, that of compact proteins (Skolnick and Hu 1997)."""
    radius: Tensor = (alphas - alphas.mean(0)).square().sum(-1).mean().sqrt()
    return radius / (2.2 * math.pow(len(alphas), 0.38))


def contact_order(alphas: Tensor) -> Tensor:
    """Mean separation along the chain, over its length, of CA (N, 3) within 8 A and three or more residues apart."""
    residue = torch.arange(len(alphas))
    apart = (residue[:, None] - residue).abs()
    contact = (_distances(alphas) < 8) & (apart >= 3)
    order: Tensor = (apart * contact).sum() / contact.sum().clamp(min=1)
    return order / len(alphas)


def circular_wasserstein(first: Tensor, second: Tensor) -> float:
    """Wasserstein-1 distance, degrees, of two sets of angles in radians: distribution functions compared up to a constant.

    (Rabin, Delon and Gousseau 2011: the constant is the median of their difference.)
    """
    edges = np.linspace(-math.pi, math.pi, _CIRCLE_BINS + 1)
    gap = np.cumsum(_shares(first, edges) - _shares(second, edges))
    return float(np.abs(gap - np.median(gap)).sum() * 360 / _CIRCLE_BINS)


def _links(chain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances of neighbouring CA, of C and the next N, and errors of the angles there, radians."""
    nitrogen, alpha, carbon = chain[:, 0], chain[:, 1], chain[:, 2]
    steps = torch.linalg.vector_norm(alpha[1:] - alpha[:-1], dim=-1)
    bonds = torch.linalg.vector_norm(nitrogen[1:] - carbon[:-1], dim=-1)
    at_carbon = angle(alpha[:-1], carbon[:-1], nitrogen[1:]) - ALPHA_CARBON_NITROGEN
    at_nitrogen = angle(carbon[:-1], nitrogen[1:], alpha[1:]) - CARBON_NITROGEN_ALPHA
    return steps, bonds, torch.cat((at_carbon, at_nitrogen))


def _profiles(chains: Sequence[Tensor]) -> Tensor:
    """(C, 72): the CA distances at relative places of the chain, so that chains of different length can be compared."""
    grid = torch.linspace(0, 1, 9)
    first, second = torch.triu_indices(9, 9, 1).unbind(0)
    rows = []
    for chain in chains:
        places = chain[:, 1][(grid * (len(chain) - 1)).round().long()]
        apart = torch.linalg.vector_norm(places[first] - places[second], dim=-1)
        # Length counts too: a chain cannot be a copy of one much longer.
        rows.append(torch.cat((apart, 0.5 * torch.full((1,), float(len(chain))))))
    return torch.stack(rows)


def _shorter_first(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    ordered = [(one, other) if len(one) <= len(other) else (other, one) for one, other in pairs]
    return [one for one, _ in ordered], [other for _, other in ordered]


def _shares(angles: Tensor, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    counts, _ = np.histogram(angles.double().numpy(), edges)
    shares: NDArray[np.float64] = counts / max(1, counts.sum())
    return shares


def _distances(points: Tensor) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(points[:, None] - points, dim=-1)
    return distances


def _share(condition: Tensor) -> float:
    return float(condition.double().mean()) if condition.numel() else math.nan
