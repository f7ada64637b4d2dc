"""The autoencoder of mel levels: its divergence against torch's, its shapes, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rectiflow.batch import Batch
from rectiflow_audio.autoencoder import AutoencoderTask, MelAutoencoder, gaussian_divergence, padded
from rectiflow_audio.mel import SILENT, Mel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_divergence_is_torchs_and_zero_only_at_the_standard_normal() -> None:
    mean = torch.randn(200, generator=seeded(), dtype=torch.float64)
    log_variance = torch.randn(200, generator=seeded(1), dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), expected)
    assert (expected > 0).all()
    assert float(gaussian_divergence(torch.zeros(()), torch.zeros(()))) == 0


def test_the_loss_draws_codes_to_the_standard_normal() -> None:
    """The sign of the divergence: a step down its slope makes codes smaller."""
    network = MelAutoencoder(4, 16, 1, 1.0, generator=seeded())
    with torch.no_grad():
        network.code.bias[:4] = 2.0
    terms = network(torch.randn(2, 64, 8, generator=seeded(1)), seeded(2))
    assert set(terms) == {"levels", "kl"}
    assert float(terms["kl"].detach()) > 1
    torch.autograd.backward(terms["kl"])
    assert network.code.bias.grad is not None
    assert (network.code.bias.grad[:4] > 0).all()


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_codes_are_a_sixteenth_of_the_places(frames: int) -> None:
    network = MelAutoencoder(6, 16, 1, 1e-3, generator=seeded())
    levels = torch.randn(3, 64, frames, generator=seeded(1))
    whole = padded(levels)
    assert torch.equal(whole[..., :frames], levels)
    assert (whole[..., frames:] == SILENT).all()
    mean, log_variance = network.encode(whole)
    assert mean.shape == log_variance.shape == (3, 6, 16, -(-frames // 4))
    assert network.decode(mean).shape == whole.shape


def test_a_few_sounds_are_learnt() -> None:
    network, mel = MelAutoencoder(8, 32, 1, 1e-3, generator=seeded()), Mel()
    time = torch.arange(4000) / 16000
    waves = 0.2 * torch.stack([torch.sin(2 * torch.pi * pitch * time) for pitch in (200.0, 900.0, 3000.0, 6000.0)])
    batch = Batch(x1=waves.reshape(2, 2, 4000))

    class Held:
        def __len__(self) -> int:
            return 1

        def __getitems__(self, indices: list[int]) -> Batch:
            return batch

    task = AutoencoderTask(network, mel, Held())
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator, losses = seeded(3), []
    for _ in range(60):
        loss, terms = task.loss(network, batch, generator)
        losses.append(float(terms["levels"]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]
    assert task.preview(network, 1, None)["level_error_db"] < 8  # type: ignore[arg-type]  # the folder is not written to
