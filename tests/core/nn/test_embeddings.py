from __future__ import annotations

import math

import pytest
import torch

from rectiflow.errors import ConfigError
from rectiflow.nn.embeddings import (
    ConditionEmbedding,
    grid_coordinates,
    sincos_positions,
    take_over_times,
    timestep_embedding,
)


def test_timestep_embedding_entries() -> None:
    wave = timestep_embedding(torch.tensor([0.0, 0.25, 1.0]), 8)
    assert wave.shape == (3, 8)
    for k, frequency in enumerate((1.0, 0.1, 0.01, 0.001)):
        assert wave[1, k].item() == pytest.approx(math.cos(250 * frequency), abs=1e-12)
        assert wave[1, 4 + k].item() == pytest.approx(math.sin(250 * frequency), abs=1e-12)
    assert wave[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_timestep_embedding_keeps_precision_for_half_precision_times() -> None:
    wave = timestep_embedding(torch.tensor([0.5], dtype=torch.bfloat16), 8)
    assert wave.dtype == torch.float32
    torch.testing.assert_close(wave, timestep_embedding(torch.tensor([0.5], dtype=torch.float32), 8))


def test_timestep_embedding_tells_close_times_apart() -> None:
    """Unscaled times would leave neighbours on a grid of 1000 nearly the same vector."""
    near, nearer = timestep_embedding(torch.tensor([0.500, 0.501]), 256)
    assert (near - nearer).norm() > 1.0


@pytest.mark.parametrize("width", [0, 7])
def test_timestep_embedding_refuses_odd_widths(width: int) -> None:
    with pytest.raises(ConfigError, match=str(width)):
        timestep_embedding(torch.zeros(1), width)


def test_sincos_positions_split_rows_from_columns() -> None:
    table = sincos_positions(grid_coordinates(3, 5), 16).reshape(3, 5, 16)
    rows, columns = table[..., :8], table[..., 8:]
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1].expand_as(columns))
    frequencies = (1.0, 0.1, 0.01, 0.001)
    assert rows[2, 0].tolist() == pytest.approx(
        [*map(math.sin, (2 * f for f in frequencies)), *map(math.cos, (2 * f for f in frequencies))], abs=1e-12
    )
    assert columns[0, 4, 1].item() == pytest.approx(math.sin(0.4), abs=1e-12)


def test_grid_coordinates_run_row_by_row() -> None:
    assert grid_coordinates(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_coordinates(1, 1).tolist() == [[0, 0]]


def test_sincos_positions_refuse_widths_off_four() -> None:
    with pytest.raises(ConfigError, match="6"):
        sincos_positions(grid_coordinates(2, 2), 6)


def test_condition_adds_the_row_of_the_label(generator: torch.Generator) -> None:
    embed = ConditionEmbedding(16, classes=3, generator=generator)
    assert embed.table is not None
    assert embed.table.weight.shape == (4, 16)
    t = torch.tensor([0.3, 0.3])
    first, null = embed(t, torch.tensor([1, 3]))
    torch.testing.assert_close(first - null, embed.table.weight[1] - embed.table.weight[3])


def test_condition_depends_on_time(generator: torch.Generator) -> None:
    early, late = ConditionEmbedding(16, generator=generator)(torch.tensor([0.1, 0.9]))
    assert (early - late).abs().max() > 1e-2


def test_condition_errors(generator: torch.Generator) -> None:
    t = torch.tensor([0.3, 0.4])
    with pytest.raises(ConfigError, match="-1"):
        ConditionEmbedding(8, classes=-1, generator=generator)
    with pytest.raises(ConfigError, match="classes=0"):
        ConditionEmbedding(8, generator=generator)(t, torch.tensor([0, 0]))
    conditional = ConditionEmbedding(8, classes=2, generator=generator)
    with pytest.raises(ConfigError, match="missing"):
        conditional(t)
    with pytest.raises(ConfigError, match=r"\(2, 1\)"):
        conditional(t, torch.tensor([[0], [1]]))


def test_condition_adds_waves_of_the_log_of_the_scale(generator: torch.Generator) -> None:
    """The pre-activation is that of timestep_embedding at log(1 + w), ten times stretched; 1 stands for no scale."""
    embed = ConditionEmbedding(16, guidance=True, generator=generator)
    assert embed.scale is not None
    with torch.no_grad():
        embed.scale[2].load_state_dict({"weight": torch.eye(16), "bias": torch.zeros(16)})
    t, w = torch.full((3,), 0.4), torch.tensor([0.0, 1.0, 3.0])
    added = embed(t, guidance=w) - ConditionEmbedding.forward(embed, t)
    assert torch.equal(added[1], torch.zeros(16))
    k = torch.arange(128) / 128
    angle = 10 * torch.log(1 + w)[:, None] * 10000.0**-k
    hidden = torch.nn.functional.silu(embed.scale[0](torch.cat([angle.cos(), angle.sin()], 1)))
    torch.testing.assert_close(added, hidden - hidden[1], atol=1e-9, rtol=0)
    with pytest.raises(ConfigError, match="guidance=True"):
        ConditionEmbedding(8, generator=generator)(t, guidance=w)


@pytest.mark.parametrize("kind", ["smooth", "fast"])
def test_slower_waves_take_over_what_is_smooth(kind: str, generator: torch.Generator) -> None:
    """What a slow wave of the teacher says stays; of its fastest one, 160 turns over [0, 1], a student keeps 3 % at most."""
    teacher = torch.nn.ModuleDict({"time": ConditionEmbedding(8, frequencies=64, generator=generator)})
    student = torch.nn.ModuleDict({"time": ConditionEmbedding(8, frequencies=64, time_scale=10, generator=generator)})
    theirs, own = teacher["time"], student["time"]
    assert isinstance(theirs, ConditionEmbedding)
    assert isinstance(own, ConditionEmbedding)
    weight = torch.zeros(8, 64)
    weight[:, 16 if kind == "smooth" else 0] = 1.0  # wave k is cos(1000 10000^(-k / 32) t): 16 is cos(10 t)
    theirs.first.load_state_dict({"weight": weight, "bias": torch.zeros(8)})
    before = own.second.weight.clone()
    take_over_times(student, teacher)
    t = torch.linspace(0, 1, 777)
    fitted = own.first(timestep_embedding(t, 64, scale=10))
    expected = torch.cos(10 * t)[:, None].expand(-1, 8) if kind == "smooth" else torch.zeros(777, 8)
    assert (fitted - expected)[20:-20].abs().max() < 0.03
    assert torch.equal(own.second.weight, before)
    same = theirs.first.weight.clone()
    take_over_times(teacher, teacher)
    assert torch.equal(theirs.first.weight, same)


def test_time_scale_is_the_speed_of_the_fastest_wave(generator: torch.Generator) -> None:
    """du/dt of the embedding grows as the scale does."""
    speeds = []
    for scale in (10.0, 1000.0):
        embed = ConditionEmbedding(16, time_scale=scale, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0.1, 0.9, 50)
        _, speed = torch.func.jvp(embed, (t,), (torch.ones(50),))
        speeds.append(float(speed.detach().norm()))
    assert speeds[1] > 20 * speeds[0]
    with pytest.raises(ConfigError, match="time_scale is 0"):
        ConditionEmbedding(8, time_scale=0.0, generator=generator)
