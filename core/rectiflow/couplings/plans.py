"""Entropic optimal transport, balanced or with relaxed marginals, by Sinkhorn's iteration on the potentials.

minimise over P >= 0:  <P, C> + reg KL(P | a b^T) + tau_0 KL(P 1 | a) + tau_1 KL(P^T 1 | b);  tau = infinity fixes a marginal.
Solution P = a b^T exp((f + g - C) / reg) (arXiv 1306.0895; relaxed marginals 1607.05816).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.couplings.costs import as_float64
from rectiflow.errors import ConfigError, ConvergenceError

# Iterations on scalings between two sweeps on the potentials: cheap ones, of two matrix-vector products each.
_BURST = 50
_ANNEALING = 4.0


class Plan(NamedTuple):
    """A transport plan (n, m), what is left of the optimality conditions, and the iterations that it took."""

    matrix: Tensor
    error: float
    iterations: int


def sinkhorn(
    cost: Tensor,
    regularisation: float,
    *,
    source_weights: Tensor | None = None,
    data_weights: Tensor | None = None,
    source_penalty: float = math.inf,
    data_penalty: float = math.inf,
    tolerance: float = 1e-6,
    max_iterations: int = 20000,
) -> Plan:
    """The plan between two weighted point sets; potentials are kept as logarithms, so that no plan underflows.

    Args:
        cost: (n, m), at least 0; infinity forbids a pair.
        regularisation: reg > 0, in the cost's units.
        source_weights: a (n,), positive; uniform of total 1 by default.
        data_weights: b (m,), positive; uniform of total 1 by default.
        source_penalty: tau_0 > 0, in the cost's units.
        data_penalty: tau_1 > 0, in the cost's units.
        tolerance: largest allowed sum over rows of |P 1 - a exp(-f / tau_0)|, which for fixed marginals is the marginal error.
        max_iterations: limit of the last level; larger regularisations before it, which only warm it up, are short.

    Raises:
        ConfigError: a number out of range, or a forbidden row or column.
        ConvergenceError: the error stays above the tolerance.
    """
    for name, value in (("regularisation", regularisation), ("tolerance", tolerance)):
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} of a Sinkhorn plan is {value}; it must be positive and finite")
    for name, value in (("source_penalty", source_penalty), ("data_penalty", data_penalty)):
        if not value > 0:
            raise ConfigError(f"{name} of a Sinkhorn plan is {value}; allowed: above 0, infinity for a fixed marginal")
    problem = _Problem(
        as_float64(cost),
        _log_weights("source_weights", source_weights, cost.shape[0], cost),
        _log_weights("data_weights", data_weights, cost.shape[1], cost),
        source_penalty,
        data_penalty,
    )
    allowed = problem.cost.isfinite()
    if not bool(allowed.any(1).all() and allowed.any(0).all()):
        raise ConfigError(
            "a row or a column of the Sinkhorn cost is infinite throughout; allow every point one partner"
        )
    f, g = torch.zeros_like(problem.log_a), torch.zeros_like(problem.log_b)
    level = max(float(problem.cost[allowed].max()), regularisation)
    while level > regularisation:
        f, g, _, _ = _iterate(problem, level, f, g, math.inf, 1)
        level /= _ANNEALING
    f, g, error, iterations = _iterate(problem, regularisation, f, g, tolerance, max_iterations)
    if not error <= tolerance:
        raise ConvergenceError(
            f"Sinkhorn's marginal error is {error:.3g} after {iterations} iterations; tolerance {tolerance:g}: "
            "raise the regularisation, the tolerance or max_iterations, or use exact optimal transport"
        )
    return Plan(problem.plan(f, g, regularisation), error, iterations)


class _Problem(NamedTuple):
    cost: Tensor
    log_a: Tensor
    log_b: Tensor
    source_penalty: float
    data_penalty: float

    def plan(self, f: Tensor, g: Tensor, reg: float) -> Tensor:
        return torch.exp((f[:, None] + g - self.cost) / reg + self.log_a[:, None] + self.log_b)

    def sweep(self, g: Tensor, reg: float) -> tuple[Tensor, Tensor]:
        """One iteration from g, by log-sum-exp."""
        f = -_damping(self.source_penalty, reg) * reg * torch.logsumexp(self.log_b + (g - self.cost) / reg, 1)
        columns = torch.logsumexp(self.log_a[:, None] + (f[:, None] - self.cost) / reg, 0)
        return f, -_damping(self.data_penalty, reg) * reg * columns

    def burst(self, f: Tensor, g: Tensor, reg: float) -> tuple[Tensor, Tensor]:
        """Many iterations on u = exp((f' - f) / reg) and v = exp((g' - g) / reg) around the potentials (f, g)."""
        kernel = self.plan(f, g, reg)
        rows, columns = _damping(self.source_penalty, reg), _damping(self.data_penalty, reg)
        a, b = self.log_a.exp(), self.log_b.exp()
        u_offset, v_offset = torch.exp((rows - 1) * f / reg), torch.exp((columns - 1) * g / reg)
        v = torch.ones_like(b)
        for _ in range(_BURST):
            u = (a / (kernel @ v)).pow(rows) * u_offset
            v = (b / (kernel.mT @ u)).pow(columns) * v_offset
        return f + reg * u.log(), g + reg * v.log()

    def error(self, f: Tensor, g: Tensor, reg: float) -> float:
        """Distance of the plan's row sums from what optimality asks of them, given f; the columns are exact after a sweep."""
        wanted = torch.exp(self.log_a - f / self.source_penalty)
        return float((self.plan(f, g, reg).sum(1) - wanted).abs().sum())


def _iterate(
    problem: _Problem, reg: float, f: Tensor, g: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, float, int]:
    """Sweeps and bursts by turns, until the error is within the tolerance or the iterations are spent."""
    iterations = 0
    while True:
        f, g = problem.sweep(g, reg)
        iterations += 1
        error = problem.error(f, g, reg)
        if error <= tolerance or iterations >= max_iterations:
            return f, g, error, iterations
        new_f, new_g = problem.burst(f, g, reg)
        # Scalings can overflow where potentials cannot; then the sweeps alone carry on.
        if bool(new_f.isfinite().all() and new_g.isfinite().all()):
            f, g = new_f, new_g
            iterations += _BURST


def _damping(penalty: float, reg: float) -> float:
    """tau / (tau + reg), by which a relaxed marginal shortens the update of its potential; 1 for a fixed one."""
    return 1.0 if math.isinf(penalty) else penalty / (penalty + reg)


def _log_weights(name: str, weights: Tensor | None, count: int, cost: Tensor) -> Tensor:
    if weights is None:
        return torch.full((count,), -math.log(count), dtype=torch.float64, device=as_float64(cost[:0]).device)
    if weights.shape != (count,) or not bool((weights > 0).all()):
        raise ConfigError(
            f"{name} has shape {tuple(weights.shape)}, least value {float(weights.min()):g}; "
            f"allowed: ({count},), all above 0"
        )
    return as_float64(weights).log()
