"""The network's symmetries: turns, shifts, signs of quaternions and padding change nothing that they should not."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from e3nn import o3
from e3nn.util.test import equivariance_error
from scipy.spatial.transform import Rotation
from torch import Tensor

from rectiflow.errors import ConfigError, MissingDependency
from rectiflow.spaces import quaternions
from rectiflow.spaces.so3 import SO3
from rectiflow_proteins.frames import atoms_from_frames, frames_from_atoms
from rectiflow_proteins.geometry import chain_geometry, link_geometry, pair_geometry, pair_harmonics, rotation_matrices
from rectiflow_proteins.ipa import PointAttention
from rectiflow_proteins.network import BackboneNetwork, path_scales
from rectiflow_proteins.torsions import atoms_from_torsions, torsions_of

SHIFT = 5.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(dtype: torch.dtype = torch.float32, **settings: object) -> BackboneNetwork:
    """A small network none of whose layers is zero, so that no symmetry holds for lack of a signal."""
    made = BackboneNetwork(width=32, pair_width=8, blocks=3, heads=2, **settings, generator=generator())  # type: ignore[arg-type]
    draw = generator(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return made.to(dtype)


def state(batch: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 2) -> dict[str, Tensor]:
    draw = generator(seed)
    places = 10 * torch.randn(batch, size, 3, generator=draw, dtype=dtype)
    turns = SO3().sample_prior((batch, size, 4), draw, dtype=dtype)
    return {"translations": places - places.mean(1, keepdim=True), "rotations": turns}


def cond(batch: int, size: int) -> dict[str, Tensor]:
    return {
        "mask": torch.ones(batch, size, dtype=torch.bool),
        "content": torch.tensor([[0.4, 0.2]]).expand(batch, 2),
        "labels": torch.arange(size).remainder(4).expand(batch, size),
    }


def moved(x: dict[str, Tensor], q: Tensor, shift: Tensor) -> dict[str, Tensor]:
    return {
        "translations": quaternions.rotate(q.expand_as(x["rotations"]), x["translations"]) + shift,
        "rotations": quaternions.multiply(q.expand_as(x["rotations"]), x["rotations"]),
    }


def angles(q: Tensor, p: Tensor) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(SO3().log(q, p), dim=-1)
    return result


@pytest.mark.parametrize(("dtype", "places", "turns"), [(torch.float32, 1e-3, 1e-4), (torch.float64, 1e-9, 1e-9)])
@pytest.mark.parametrize(("shift", "harmonics"), [(0.0, 1), (SHIFT, 1), (SHIFT, 3)])
def test_turning_and_shifting_the_input_turns_the_estimate(
    dtype: torch.dtype, places: float, turns: float, shift: float, harmonics: int
) -> None:
    made, x, last = network(dtype, harmonics=harmonics), state(2, 30, dtype), state(2, 30, dtype, seed=3)
    g = torch.tensor(Rotation.random(random_state=4).as_quat(scalar_first=True), dtype=dtype)
    offset = shift * torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    t = torch.tensor([0.3, 0.8], dtype=dtype)
    given = {name: value.to(dtype) if name == "content" else value for name, value in cond(2, 30).items()}
    straight = made(x, t, **given, self_condition=last)
    turned = made(moved(x, g, offset), t, **given, self_condition=moved(last, g, offset))
    expected = moved(straight, g, torch.zeros(3, dtype=dtype))
    assert (turned["translations"] - expected["translations"]).abs().max() < places
    assert angles(turned["rotations"], expected["rotations"]).max() < turns
    # The estimate is one: it differs from the input by more than it may differ from its turned self.
    assert (straight["translations"] - x["translations"]).abs().mean() > 0.5
    assert angles(straight["rotations"], x["rotations"]).mean() > 0.02


def test_signs_of_quaternions_do_not_matter() -> None:
    made, x, last = network(), state(2, 20), state(2, 20, seed=3)
    signs = torch.randint(2, (2, 20, 1), generator=generator(5)) * 2.0 - 1
    t = torch.tensor([0.1, 0.9])
    plain = made(x, t, **cond(2, 20), self_condition=last)
    flipped = made(
        x | {"rotations": signs * x["rotations"]},
        t,
        **cond(2, 20),
        self_condition=last | {"rotations": signs * last["rotations"]},
    )
    assert (plain["translations"] - flipped["translations"]).abs().max() < 1e-6
    assert (plain["rotations"] - signs * flipped["rotations"]).abs().max() < 1e-6


def test_a_mirror_image_gets_another_estimate() -> None:
    """Frames of a mirrored backbone are not mirrored frames: the network can tell left from right."""
    x = state(1, 20, torch.float64)
    mirror = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    atoms = atoms_from_frames(x["rotations"], x["translations"])
    torsions, mirrored = torsions_of(atoms), torsions_of(atoms * mirror)
    defined = torsions[..., 1:-1, :2]
    torch.testing.assert_close(mirrored[..., 1:-1, :2], -defined)
    made = network(torch.float64)
    given = {name: value.double() if name == "content" else value for name, value in cond(1, 20).items()}
    nothing = {name: torch.zeros_like(part) for name, part in x.items()}
    t = torch.tensor([0.5], dtype=torch.float64)
    plain = made(x, t, **given, self_condition=nothing)
    # The reflection through the plane z = 0 as it acts on frames, keeping them rotations: M R M.
    reflected = {
        "translations": x["translations"] * mirror,
        "rotations": x["rotations"] * torch.tensor([1.0, -1, -1, 1]),
    }
    other = made(reflected, t, **given, self_condition=nothing)
    assert (other["translations"] * mirror - plain["translations"]).abs().max() > 1e-2


def test_padding_changes_nothing() -> None:
    made, x = network(), state(2, 20)
    nothing = {name: torch.zeros_like(part) for name, part in x.items()}
    t = torch.tensor([0.2, 0.7])
    alone = made(x, t, **cond(2, 20), self_condition=nothing)
    filler = state(2, 5, seed=9)
    longer = {name: torch.cat([x[name], filler[name]], 1) for name in x}
    given = {
        "mask": torch.arange(25).expand(2, 25) < 20,
        "content": cond(2, 20)["content"],
        "labels": cond(2, 25)["labels"],
    }
    nothing = {name: torch.zeros_like(part) for name, part in longer.items()}
    padded = made(longer, t, **given, self_condition=nothing)
    torch.testing.assert_close(padded["translations"][:, :20], alone["translations"], rtol=0, atol=1e-4)
    torch.testing.assert_close(padded["rotations"][:, :20], alone["rotations"], rtol=0, atol=1e-5)
    assert padded["translations"][:, 20:].abs().max() == 0


def test_untrained_network_keeps_rotations_and_shrinks_places() -> None:
    """Zero at first: the estimate is the best linear one, t s1^2 / D^2 x_t, with the rotations as they are."""
    made, x = BackboneNetwork(width=16, pair_width=4, blocks=1, heads=1, generator=generator()), state(1, 16)
    nothing = {name: torch.zeros_like(part) for name, part in x.items()}
    estimate = made(x, torch.tensor([0.5]), **cond(1, 16), self_condition=nothing)
    spread = 2.2 * 16**0.38 / 3**0.5
    kept = 0.5 * spread**2 / (0.25 * spread**2 + 0.25 * 100)
    torch.testing.assert_close(estimate["translations"], kept * x["translations"], rtol=1e-5, atol=1e-5)
    assert angles(estimate["rotations"], x["rotations"]).max() < 1e-5


def test_preconditioning_is_the_regression_of_gaussians() -> None:
    """kept is the slope of E[x1 | x_t] and moved its residual's spread, by sampling."""
    t, count, draws = 0.3, 64, 400_000
    draw = generator(6)
    s1 = 0.22 * 64**0.38 / 3**0.5
    x1, x0 = s1 * torch.randn(draws, generator=draw), torch.randn(draws, generator=draw)
    xt = t * x1 + (1 - t) * x0
    scales = path_scales(torch.tensor([t]), torch.tensor([float(count)]))
    slope = (x1 * xt).mean() / xt.square().mean()
    assert abs(float(scales.kept) - float(slope)) < 4 * float(x1.std() / xt.std()) / draws**0.5
    assert abs(float(scales.moved) / float((x1 - slope * xt).std()) - 1) < 4 / (2 * draws) ** 0.5
    assert abs(float(scales.shown) * float(xt.std()) / s1 - 1) < 4 / (2 * draws) ** 0.5


def test_rotation_matrices_agree_with_scipy() -> None:
    q = SO3().sample_prior((50, 4), generator(), dtype=torch.float64)
    expected = Rotation.from_quat(q.numpy(), scalar_first=True).as_matrix()
    torch.testing.assert_close(rotation_matrices(q), torch.from_numpy(expected), rtol=0, atol=1e-14)


def test_pair_geometry_is_what_residue_i_sees_of_residue_j() -> None:
    x = state(1, 6, torch.float64)
    matrices, places = rotation_matrices(x["rotations"]), x["translations"] / 10
    distance, numbers = pair_geometry(matrices, places)
    i, j = 1, 4
    local = matrices[0, i].T @ (places[0, j] - places[0, i])
    torch.testing.assert_close(distance[0, i, j, 0], local.norm(), rtol=0, atol=1e-6)
    torch.testing.assert_close(numbers[0, i, j, :3], local / (local.norm() + 0.5), rtol=0, atol=1e-6)
    torch.testing.assert_close(numbers[0, i, j, 3:].reshape(3, 3), matrices[0, i].T @ matrices[0, j])


def test_harmonics_of_pairs_obey_the_addition_theorem_in_the_frame_of_the_first() -> None:
    x = state(1, 9, torch.float64)
    matrices, positions = rotation_matrices(x["rotations"]), x["translations"] / 10
    found = pair_harmonics(matrices, positions, 3)
    assert found.shape == (1, 9, 9, 5 + 7)
    apart = positions[:, None] - positions[:, :, None]
    length = apart.norm(dim=-1).clamp(min=1e-4)
    # Seen from one residue, sum over m of Y_lm(u) Y_lm(v) is (2 l + 1) P_l(u.v); directions need no frame for that.
    cosine = torch.einsum("bijc,bikc->bijk", apart, apart) / (length[..., None] * length[:, :, None])
    envelope = length / (length + 0.5)
    for part, order in ((found[..., :5], 2), (found[..., 5:], 3)):
        products = torch.einsum("bijm,bikm->bijk", part, part) / (envelope[..., None] * envelope[:, :, None])
        legendre = (3 * cosine**2 - 1) / 2 if order == 2 else (5 * cosine**3 - 3 * cosine) / 2
        others = ~torch.eye(9, dtype=torch.bool)
        seen = others[:, :, None] & others[:, None, :]
        torch.testing.assert_close(products[0][seen], (2 * order + 1) * legendre[0][seen], rtol=1e-5, atol=1e-5)
    # A turn of the first residue's frame alone changes what it sees, a turn of the second's does not.
    turned = matrices.clone()
    turned[:, 0] = matrices[:, 0].roll(1, -1)
    changed = (pair_harmonics(turned, positions, 3) - found).abs().amax(-1)[0]
    assert changed[0, 1:].min() > 1e-3
    assert changed[1:].max() == 0


def test_harmonics_need_e3nn_and_a_degree_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="harmonics=9"):
        network(harmonics=9)
    monkeypatch.setitem(sys.modules, "e3nn.o3", None)
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(MissingDependency, match="e3nn"):
        network(harmonics=2)


def test_chain_geometry_is_what_a_residue_sees_of_its_neighbours() -> None:
    x, reach, i = state(1, 8, torch.float64), 2, 3
    matrices, places = rotation_matrices(x["rotations"]), x["translations"] / 10
    seen = chain_geometry(matrices, places, torch.ones(1, 8, dtype=torch.bool), reach).reshape(1, 8, 4, 4, 3)
    for slot, offset in enumerate((-2, -1, 1, 2)):
        place = matrices[0, i].T @ (places[0, i + offset] - places[0, i])
        torch.testing.assert_close(seen[0, i, slot, 0], 2.5 * place)
        # Rows are the neighbour's axes, in the axes of residue i.
        torch.testing.assert_close(seen[0, i, slot, 1:], matrices[0, i + offset].T @ matrices[0, i])
    assert seen[0, 0, :2].abs().max() == 0
    assert seen[0, 7, 2:].abs().max() == 0


def test_ideal_links_have_no_fault_and_faults_are_lengths() -> None:
    torsions = torch.deg2rad(torch.tensor([-63.0, -43.0, 180.0], dtype=torch.float64)).expand(1, 8, 3)
    q, places = frames_from_atoms(atoms_from_torsions(torsions))
    mask = torch.ones(1, 8, dtype=torch.bool)
    ideal = link_geometry(rotation_matrices(q), places / 10, mask)
    # 3.80 A between CA is rounded.
    assert ideal.abs().max() < 2e-3
    along = places[0, 4] - places[0, 3]
    carbon, nitrogen = (atoms_from_frames(q, places)[0, i, j] for i, j in ((3, 2), (4, 0)))
    bond = (nitrogen - carbon) / (nitrogen - carbon).norm()
    apart = places.clone()
    apart[0, 4:] += 0.5 * bond
    faults = (link_geometry(rotation_matrices(q), apart / 10, mask) - ideal)[0]
    torch.testing.assert_close(faults[3, 5], torch.tensor(0.05, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(faults[3, 6], ((along + 0.5 * bond).norm() - along.norm()) / 10, rtol=1e-5, atol=0)
    # A longer bond at the same angle: its projection on CA-C grows by -cos of the angle, 116.6 degrees.
    torch.testing.assert_close(faults[3, 7], torch.tensor(-0.05 * math.cos(math.radians(116.6)), dtype=torch.float64))
    torch.testing.assert_close(faults[4, :5], faults[3, 5:])
    assert faults[[0, 1, 2, 5, 6, 7]].abs().max() < 1e-12
    turned = torsions.clone()
    turned[0, 3, 2] = math.pi - 0.2
    q, places = frames_from_atoms(atoms_from_torsions(turned))
    twist = link_geometry(rotation_matrices(q), places / 10, mask)[0, 3, 9]
    sines = math.sin(math.radians(116.6)) * math.sin(math.radians(121.7))
    torch.testing.assert_close(twist.abs(), torch.tensor(0.1329 * sines * math.sin(0.2), dtype=torch.float64))


def test_point_attention_is_the_published_sum_over_pairs_of_points() -> None:
    """Against the direct form, with its tensor over pairs of points (Jumper et al. 2021, supplement algorithm 22)."""
    batch, size, heads, c, points, values = 2, 7, 3, 5, 4, 6
    layer = PointAttention(16, 8, heads, c, points, values, generator=generator()).double()
    draw = generator(7)
    with torch.no_grad():
        layer.reach.add_(torch.randn(heads, generator=draw))
    s = torch.randn(batch, size, 16, generator=draw, dtype=torch.float64)
    pair = torch.randn(batch, size, size, 8, generator=draw, dtype=torch.float64)
    bias = torch.randn(batch, heads, size, size, generator=draw, dtype=torch.float64)
    x = state(batch, size, torch.float64)
    matrices, places = rotation_matrices(x["rotations"]), x["translations"] / 10

    q, k, v = layer.scalars(s).reshape(batch, size, heads, 3 * c).chunk(3, -1)
    local = layer.points(s).reshape(batch, size, heads, 2 * points + values, 3)
    world = torch.einsum("bnij,bnhpj->bnhpi", matrices, local) + places[:, :, None, None]
    qp, kp, vp = torch.split(world, [points, points, values], 3)
    square = (qp[:, :, None] - kp[:, None]).square().sum((-1, -2))
    gamma = torch.nn.functional.softplus(layer.reach) * (2 / (9 * points)) ** 0.5
    scalar = torch.einsum("bihc,bjhc->bijh", q, k) / c**0.5
    logits = (1 / 3) ** 0.5 * (scalar - gamma / 2 * square) + bias.permute(0, 2, 3, 1)
    a = logits.softmax(2)
    gathered_points = torch.einsum("bijh,bjhpx->bihpx", a, vp)
    inner = torch.einsum("bnji,bnhpj->bnhpi", matrices, gathered_points - places[:, :, None, None])
    parts = [
        torch.einsum("bijh,bjhc->bihc", a, v).flatten(2),
        inner.flatten(2),
        (inner.square().sum(-1) + 1e-8).sqrt().flatten(2),
        torch.einsum("bijh,bijc->bihc", a, pair).flatten(2),
    ]
    torch.testing.assert_close(layer(s, pair, bias, matrices, places), layer.output(torch.cat(parts, -1)))


def test_motif_pairs_are_seen_only_by_a_network_told_of_motifs() -> None:
    x, size = state(1, 16), 16
    nothing = {name: torch.zeros_like(part) for name, part in x.items()}
    motif = {
        "motif": torch.arange(size)[None] < 6,
        "motif_translations": x["translations"],
        "motif_rotations": x["rotations"],
    }
    t = torch.tensor([0.5])
    told = network(told=("content", "motif"))
    free = told(x, t, **cond(1, size), self_condition=nothing)
    held = told(x, t, **cond(1, size), self_condition=nothing, **motif)
    g = torch.tensor(Rotation.random(random_state=4).as_quat(scalar_first=True), dtype=torch.float32)
    elsewhere = moved(x, g, torch.tensor([40.0, 0, 0]))
    shifted = motif | {"motif_translations": elsewhere["translations"], "motif_rotations": elsewhere["rotations"]}
    again = told(x, t, **cond(1, size), self_condition=nothing, **shifted)
    assert (free["translations"] - held["translations"]).abs().max() > 1e-2
    torch.testing.assert_close(again["translations"], held["translations"], rtol=0, atol=1e-3)


def test_half_precision_keeps_the_geometry() -> None:
    """bfloat16 activations: the estimate stays near that of float32, since positions and distances never leave it."""
    made, x = network(), state(2, 24)
    nothing = {name: torch.zeros_like(part) for name, part in x.items()}
    t = torch.tensor([0.4, 0.95])
    exact = made(x, t, **cond(2, 24), self_condition=nothing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = made(x, t, **cond(2, 24), self_condition=nothing)
    assert rounded["translations"].dtype == torch.float32
    scale = (exact["translations"] - x["translations"]).abs().mean()
    assert (exact["translations"] - rounded["translations"]).abs().mean() < 0.03 * scale
    assert angles(exact["rotations"], rounded["rotations"]).max() < 0.03


def test_e3nn_finds_the_estimate_equivariant() -> None:
    """By the representations of e3nn: places and body axes of all residues are vectors, and so are those of the estimate."""
    size = 12
    made, x = network(torch.float64), state(1, size, torch.float64)
    nothing = {name: torch.zeros_like(part) for name, part in x.items()}
    given = {name: value.double() if name == "content" else value for name, value in cond(1, size).items()}

    def estimate(vectors: Tensor) -> Tensor:
        places, axes = torch.split(vectors.reshape(1, size, 4, 3), [1, 3], 2)
        frames = {"translations": places[:, :, 0], "rotations": quaternions.from_matrix(axes.mT)}
        found = made(frames, torch.tensor([0.6], dtype=torch.float64), **given, self_condition=nothing)
        turned = rotation_matrices(found["rotations"]).mT
        return torch.cat((found["translations"][:, :, None], turned), 2).reshape(1, -1)

    vectors = torch.cat((x["translations"][:, :, None], rotation_matrices(x["rotations"]).mT), 2).reshape(1, -1)
    irreps = o3.Irreps([(4 * size, (1, 1))])
    errors = equivariance_error(
        estimate, [vectors], irreps_in=irreps, irreps_out=irreps, ntrials=4, do_parity=False, do_translation=False
    )
    assert max(float(error) for error in errors.values()) < 1e-8
