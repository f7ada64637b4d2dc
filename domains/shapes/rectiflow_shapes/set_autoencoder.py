"""The network of latent sets: points to codes by cross-attention, and back to signed distances at any point."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow.nn.layers import linear
from rectiflow.nn.transformer import FeedForward
from rectiflow_shapes.farthest_points import farthest_points
from rectiflow_shapes.grids import BAND, RESOLUTION
from rectiflow_shapes.network import PlainBlock
from rectiflow_shapes.turning_features import TurningFeatures

HEADS = 4
_OCTAVES = 6
_FALLOFF = (4.0, 16.0, 32.0, 64.0)
_SPACING = 0.25  # of tokens on a surface: what offsets are measured in
_READ, _NEAR, _FAR = 512, 256, 64


def waves(points: Tensor) -> Tensor:
    """(..., 39): coordinates, and sines and cosines of them at pi, 2 pi, ... 32 pi."""
    angles = (points[..., None] * (math.pi * 2.0 ** torch.arange(_OCTAVES, device=points.device))).flatten(-2)
    return torch.cat([points, angles.sin(), angles.cos()], -1)


class CrossAttention(nn.Module):
    """Queries gather from keys and pass through a feed-forward network, with residuals.

    Where both lie at points, the logits of head h fall by b_h |x - p|^2, b = 4, 16, 32, 64: a query listens to what is around
    it. When `affine`, what a key at p says to a query at x is affine in x - p, as a distance near a piece of surface is.
    """

    falloff: Tensor

    def __init__(self, width: int, affine: bool = False, *, generator: torch.Generator) -> None:
        super().__init__()
        self.affine = affine
        self.query = linear(width, width, generator=generator)
        self.key = linear(width, width, generator=generator)
        self.value = linear(width, 4 * width if affine else width, generator=generator)
        self.output = linear(width, width, generator=generator)
        self.mlp = FeedForward(width, ratio=2.0, generator=generator)
        self.register_buffer("falloff", torch.tensor(_FALLOFF, dtype=torch.float32), persistent=False)

    def forward(self, queries: Tensor, keys: Tensor, at: Tensor | None = None, of: Tensor | None = None) -> Tensor:
        """Return new queries (B, Q, width), of queries at points `at` (B, Q, 3) and keys at `of` (B, K, 3)."""
        keys = _normal(keys)
        query = self.query(_normal(queries)).unflatten(2, (HEADS, -1)).transpose(1, 2)
        key = self.key(keys).unflatten(2, (HEADS, -1)).permute(0, 2, 3, 1)
        value = self.value(keys).unflatten(2, (HEADS, -1)).transpose(1, 2)
        # The plain formula: the normals of a field need a gradient of its gradient, which fused attention lacks.
        logits = query @ key / math.sqrt(query.shape[-1])
        if at is None or of is None:
            gathered = logits.softmax(-1) @ value
        else:
            gaps = [(at[:, :, None, axis] - of[:, None, :, axis]).square() for axis in range(3)]
            weights = (logits - self.falloff[:, None, None] * (gaps[0] + gaps[1] + gaps[2])[:, None]).softmax(-1)
            gathered = _affine(weights, value, at, of) if self.affine else weights @ value
        queries = queries + self.output(gathered.transpose(1, 2).flatten(2))
        result: Tensor = queries + self.mlp(_normal(queries))
        return result


def _affine(weights: Tensor, value: Tensor, at: Tensor, of: Tensor) -> Tensor:
    """sum_k w_qk (v_k + A_k (x_q - p_k) / spacing), of values (B, heads, K, 4 c) that hold v, A_x, A_y and A_z."""
    at, of = at[:, None] / _SPACING, of[:, None] / _SPACING
    constant, *slopes = value.chunk(4, -1)
    for axis, slope in enumerate(slopes):
        constant = constant - slope * of[..., axis, None]
    constant, *slopes = (weights @ torch.cat([constant, *slopes], -1)).chunk(4, -1)
    for axis, slope in enumerate(slopes):
        constant = constant + slope * at[..., axis, None]
    return constant


class SetAutoencoder(nn.Module):
    """Tokens at points spread over the surface gather from the points around them, pass a narrow code, and give distances.

    Anchored decoders know where each token's point is, and a query listens to the tokens around it (see `CrossAttention`). The
    loss is |error| + error^2 of distances in units of the band (arXiv 2502.06608), with those of normals (1 - cosine), the
    eikonal equation and KL.

    Args:
        tokens, channels: of the set.
        width: of the transformer.
        depth: self-attention blocks of the decoder.
        anchored: whether the decoder knows the points.
        turning: whether the encoder sees features of neighbourhoods that turn with the shape too (e3nn, `TurningFeatures`).
        kl, normal, eikonal: weights; with `normal` and `eikonal` zero no gradient is taken in training.
    """

    def __init__(
        self,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        anchored: bool,
        kl: float,
        normal: float,
        eikonal: float,
        turning: bool = False,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.count, self.anchored = tokens, anchored
        self.kl, self.normal, self.eikonal = kl, normal, eikonal
        embedded = 3 + 6 * _OCTAVES
        self.point = linear(embedded + 3, width, generator=generator)
        self.gather = CrossAttention(width, generator=generator)
        self.code = linear(width, 2 * channels, generator=generator)
        self.expand = linear(channels, width, generator=generator)
        self.place = linear(embedded, width, generator=generator)
        self.blocks = nn.Sequential(
            *(PlainBlock(width, HEADS, qk_norm=True, generator=generator) for _ in range(depth))
        )
        self.ask = linear(embedded, width, generator=generator)
        self.answer = CrossAttention(width, affine=anchored, generator=generator)
        self.distance = linear(width, 1, generator=generator)
        self.around = TurningFeatures(width, generator=generator) if turning else None
        self.join = linear(self.around.outputs, width, generator=generator) if self.around else None

    def encode(self, cloud: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Mean codes (B, tokens, channels) and their points (B, tokens, 3), of surface points and normals (B, P, 3)."""
        mean, _, positions = self._codes(cloud, normals)
        return mean, positions

    def tokens(self, codes: Tensor, positions: Tensor) -> Tensor:
        """Decoder tokens (B, tokens, width), to be asked any number of times."""
        tokens = self.expand(codes)
        if self.anchored:
            tokens = tokens + self.place(waves(positions))
        result: Tensor = self.blocks(tokens)
        return result

    def distances(self, tokens: Tensor, positions: Tensor, points: Tensor) -> Tensor:
        """Signed distances (B, Q), in units of the band, at points (B, Q, 3)."""
        places = (points, positions) if self.anchored else ()
        answers: Tensor = self.distance(_normal(self.answer(self.ask(waves(points)), tokens, *places)))
        return answers[..., 0].float()

    def forward(self, arrays: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Terms of the loss: "distance", "kl", and "normal" and "eikonal" where they have weight."""
        cloud, normals = arrays["cloud"], arrays["normals"]
        chosen = _some(cloud.shape[1], _READ, generator)
        mean, log_variance, positions = self._codes(cloud[:, chosen], normals[:, chosen])
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        tokens = self.tokens(mean + (log_variance / 2).exp() * noise, positions)
        near = _some(arrays["near"].shape[1], _NEAR, generator)
        far, told = _nodes(arrays["grid"], generator)
        points = torch.cat([arrays["near"][:, near], far], 1)
        target = torch.cat([(arrays["distance"][:, near] / BAND).clamp(-1, 1), told], 1)
        error = self.distances(tokens, positions, points).clamp(-2, 2) - target
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        terms = {"distance": (error.abs() + error.square()).mean(), "kl": self.kl * divergence}
        if self.normal or self.eikonal:
            on = _some(cloud.shape[1], _FAR, generator)
            terms |= self._gradient_terms(tokens, positions, cloud[:, on], normals[:, on])
        return terms

    def _codes(self, cloud: Tensor, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedded = self.point(torch.cat([waves(cloud), normals], -1))
        rows = torch.stack([farthest_points(one, self.count) for one in cloud])[..., None]
        positions = cloud.gather(1, rows.expand(-1, -1, 3))
        queries = embedded.gather(1, rows.expand(-1, -1, embedded.shape[-1]))
        if self.around is not None and self.join is not None:
            queries = queries + self.join(self.around(positions, cloud, normals))
        gathered = self.gather(queries, embedded, positions, cloud)
        mean, log_variance = self.code(_normal(gathered)).chunk(2, -1)
        return mean, log_variance.clamp(-12, 4), positions

    def _gradient_terms(self, tokens: Tensor, positions: Tensor, points: Tensor, normals: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            values = self.distances(tokens, positions, points)
            (slope,) = torch.autograd.grad(values.sum(), points, create_graph=self.training)
        slope = slope * BAND
        return {
            "normal": self.normal * (1 - F.cosine_similarity(slope, normals, dim=-1)).mean(),
            "eikonal": self.eikonal * (slope.norm(dim=-1) - 1).square().mean(),
        }


def _some(length: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(length, (count,), generator=generator, device=generator.device)


def _nodes(grids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some nodes (B, 64, 3) of grids (B, R, R, R), and their values: what is far from the surface must be known too."""
    index = torch.randint(RESOLUTION, (3, _FAR), generator=generator, device=generator.device)
    points = (index.T.to(grids.dtype) * 2 / (RESOLUTION - 1) - 1).expand(len(grids), -1, -1)
    return points, grids[:, index[0], index[1], index[2]]


def _normal(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
