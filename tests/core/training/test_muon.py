"""Muon: what a matrix's update is, what stays AdamW's, and that a run with it resumes to the same bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rectiflow.training.muon import Muon, orthogonalised


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def network(generator: torch.Generator) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(6, 12), nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 5, 3, padding=1), nn.LayerNorm(2)
    ).float()
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


def pushed(net: nn.Module, generator: torch.Generator) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def test_singular_values_become_alike_and_directions_stay(generator: torch.Generator) -> None:
    """Also where matrices of one shape, upright and lying, go together."""
    shapes = [(8, 40), (40, 8), (16, 16), (8, 40)]
    bases = [torch.randn(m, min(m, n), generator=generator).double() for m, n in shapes]
    lefts = [torch.linalg.qr(basis)[0] for basis in bases]
    rights = [torch.linalg.qr(torch.randn(n, min(m, n), generator=generator).double())[0] for m, n in shapes]
    spectra = [torch.logspace(-1, 0, min(shape), dtype=torch.float64) for shape in shapes]
    matrices = [(left * values @ right.T).float() for left, values, right in zip(lefts, spectra, rights, strict=True)]
    for left, found, right in zip(lefts, orthogonalised(matrices), rights, strict=True):
        in_basis = left.T @ found.double() @ right
        assert float(in_basis.diagonal().min()) > 0.65
        assert float(in_basis.diagonal().max()) < 1.25
        assert (in_basis - in_basis.diagonal().diag()).abs().max() < 0.1


def test_an_update_of_a_matrix(generator: torch.Generator) -> None:
    """The second: 0.2 sqrt(max(m, n)) of the orthogonal factor of g + 19 m against it, m the momentum, weights decayed first."""
    net = network(generator)
    kernel = net[2].weight
    optimizer = Muon(net, 0.01, (0.9, 0.99), 0.5)
    momentum = torch.zeros_like(kernel)
    for _ in range(2):
        pushed(net, generator)
        momentum = 0.95 * momentum + 0.05 * kernel.grad
        direction = kernel.grad + 19 * momentum
        before = kernel.detach().clone()
        optimizer.step()
    left, _, right = torch.linalg.svd(direction.flatten(1).double(), full_matrices=False)
    moved = (kernel - (1 - 0.005) * before).detach().flatten(1).double()
    expected = -0.01 * 0.2 * 27**0.5 * left @ right
    assert float((moved * expected).sum() / moved.norm() / expected.norm()) > 0.97
    assert float(moved.norm() / expected.norm()) == pytest.approx(1, abs=0.2)


def test_the_rest_moves_as_adamw_moves_it(generator: torch.Generator) -> None:
    net = network(generator)
    twin = copy.deepcopy(net)
    ours = Muon(net, 0.01, (0.9, 0.99), 0.1)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(3):
        pushed(net, generator)
        for own, other in zip(net.parameters(), twin.parameters(), strict=True):
            other.grad = own.grad
        ours.step()
        theirs.step()
    for name, own in net.named_parameters():
        other = twin.get_parameter(name)
        matrix = own.ndim > 1
        assert torch.allclose(own, other, atol=1e-6) is not matrix, name


def test_momentum_is_taken_up_again(generator: torch.Generator) -> None:
    net = network(generator)
    first = Muon(net, 0.01, (0.9, 0.99), 0.0)
    pushed(net, generator)
    first.step()
    twin = copy.deepcopy(net)
    second = Muon(twin, 0.01, (0.9, 0.99), 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    gradients: list[Tensor] = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in net.parameters()]
    for model, optimizer in ((net, first), (twin, second)):
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
