"""Steps that cost what was asked for, and what a meter reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch

from rectiflow.benchmarking.cells import Meter, check_solvers, steps_for
from rectiflow.errors import ConfigError
from rectiflow.flow import Flow
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate


@pytest.mark.parametrize("predicts", ["velocity", "data"])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "ab2", "ddim", "rk4", "fireflow", "reversible_heun"])
def test_steps_are_those_that_cost_so_many_evaluations(method: str, predicts: Prediction) -> None:
    """Counted at the network of another flow than the one that was used to find them."""
    calls: list[float] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(float(t[0]))
        return torch.ones_like(x)

    for nfe in range(1, 14):
        steps = steps_for(method, nfe, predicts)
        if steps is None:
            continue
        calls.clear()
        integrate(Flow(network, predicts=predicts), torch.zeros(2, 1), steps=steps, method=method)
        assert len(calls) == nfe


def test_numbers_of_evaluations_that_a_solver_can_spend() -> None:
    possible = {
        method: [nfe for nfe in range(1, 9) if steps_for(method, nfe, "velocity")]
        for method in ("euler", "midpoint", "rk4")
    }
    assert possible == {"euler": [1, 2, 3, 4, 5, 6, 7, 8], "midpoint": [2, 4, 6, 8], "rk4": [4, 8]}
    assert [nfe for nfe in range(1, 9) if steps_for("heun", nfe, "data")] == [2, 4, 6, 8]
    assert [nfe for nfe in range(1, 9) if steps_for("rk4", nfe, "data")] == [3, 7]
    assert steps_for("euler", 7, "data") == 7
    assert steps_for("midpoint", 8, "data") == 4
    assert steps_for("boss", 4, "data") == 4
    assert steps_for("boss", 1, "data") is None  # one step has no time to choose
    assert steps_for("boss", 65, "data") is None


def test_meter_reads_the_networks_share_of_a_solve() -> None:
    """A clock that ticks once whenever it is looked at: N evaluations of one tick each in a solve of 2 N + 1."""
    ticks: Iterator[int] = count()
    meter = Meter(lambda: float(next(ticks)))
    flow = meter.around(Flow(lambda x, t: -x))
    how = {"method": "euler", "steps": 4, "batch": 5}
    first = meter.solve(flow, torch.ones(10, 2), {}, how)  # two batches of four evaluations
    assert first.nfe == 4
    assert meter.figures()["network_share"] == pytest.approx(8 / 17)
    assert meter.figures()["ms"] == pytest.approx(1000 * 17 / 10)
    meter.solve(flow, torch.ones(10, 2), {}, how)
    assert meter.figures()["ms"] == pytest.approx(1000 * 17 / 10)  # a sample, whatever their number
    assert torch.equal(first.x, 0.75**4 * torch.ones(10, 2))


@pytest.mark.parametrize(("name", "message"), [("eular", "did you mean 'euler'"), ("euler_maruyama", "draws noise")])
def test_what_is_no_solver_of_the_study_is_refused(name: str, message: str) -> None:
    check_solvers(["own", "boss", "heun", "dopri5"])
    with pytest.raises(ConfigError, match=message):
        check_solvers(["euler", name])
