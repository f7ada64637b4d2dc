"""Entropic optimal transport, balanced or with relaxed marginals, by Sinkhorn's iteration on the potentials.

minimise over P >= 0:  <P, C> + reg KL(P | a b^T) + tau_0 KL(P 1 | a) + tau_1 KL(P^T 1 | b);  tau = infinity fixes a marginal.
Solution P = a b^T exp((f + g - C) / reg) (arXiv 1306.0895; relaxed marginals 1607.05816). Where Sinkhorn's iteration is slow,
for little entropy, Newton's method on the dual takes over (arXiv 1710.06635), warmed up by plans of more entropy.
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
_BURSTS = 8
_ANNEALING = 2.0


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
    max_iterations: int = 1000,
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
        max_iterations: limit of Sinkhorn and Newton iterations together.

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
    f, g, error, iterations = _iterate(problem, regularisation, tolerance, max_iterations)
    if error > tolerance and iterations < max_iterations:
        f, g, error, iterations = _anneal(problem, regularisation, tolerance, max_iterations, iterations)
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

    def wanted_rows(self, f: Tensor) -> Tensor:
        """Row sums that optimality asks for, given f."""
        return torch.exp(self.log_a - f / self.source_penalty)

    def best_g(self, f: Tensor, reg: float) -> Tensor:
        """The g that is optimal for f, by log-sum-exp."""
        columns = torch.logsumexp(self.log_a[:, None] + (f[:, None] - self.cost) / reg, 0)
        return -_damping(self.data_penalty, reg) * reg * columns

    def best_f(self, g: Tensor, reg: float) -> Tensor:
        """The f that is optimal for g, by log-sum-exp."""
        rows = torch.logsumexp(self.log_b + (g - self.cost) / reg, 1)
        return -_damping(self.source_penalty, reg) * reg * rows

    def burst(self, f: Tensor, g: Tensor, reg: float, count: int) -> tuple[Tensor, Tensor]:
        """`count` iterations on u = exp((f' - f) / reg) and v = exp((g' - g) / reg) around the potentials (f, g)."""
        kernel = self.plan(f, g, reg)
        rows, columns = _damping(self.source_penalty, reg), _damping(self.data_penalty, reg)
        a, b = self.log_a.exp(), self.log_b.exp()
        u_offset, v_offset = torch.exp((rows - 1) * f / reg), torch.exp((columns - 1) * g / reg)
        v = torch.ones_like(b)
        for _ in range(count):
            u = (a / (kernel @ v)).pow(rows) * u_offset
            v = (b / (kernel.mT @ u)).pow(columns) * v_offset
        return f + reg * u.log(), g + reg * v.log()

    def newton_step(self, f: Tensor, g: Tensor, reg: float) -> Tensor:
        """Newton's change of f on the dual, with g = best_g(f) eliminated."""
        plan = self.plan(f, g, reg)
        rows, wanted = plan.sum(1), self.wanted_rows(f)
        curvature = torch.diag(rows + wanted * (reg / self.source_penalty))
        curvature = curvature - plan / (plan.sum(0) * (1 + reg / self.data_penalty)) @ plan.mT
        # Fixed marginals leave a null direction, f up and g down by a constant, which moves nothing: any step along it will do.
        ridge = 1e-14 * rows.mean() * torch.eye(len(f), dtype=f.dtype, device=f.device)
        step: Tensor = torch.linalg.solve_ex(curvature + ridge, reg * (wanted - rows)).result
        return step

    def dual(self, f: Tensor, reg: float) -> float:
        """Value of the dual, up to a constant, at f and best_g(f)."""
        g = self.best_g(f, reg)
        mass = torch.exp(self.log_b - g / self.data_penalty).sum()
        value = (
            _dual_term(self.log_a, f, self.source_penalty) + _dual_term(self.log_b, g, self.data_penalty) - reg * mass
        )
        return float(value)

    def error(self, f: Tensor, g: Tensor, reg: float) -> float:
        """Distance of the plan's row sums from the wanted ones; its columns are exact for g = best_g(f)."""
        return float((self.plan(f, g, reg).sum(1) - self.wanted_rows(f)).abs().sum())


def _iterate(problem: _Problem, reg: float, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, float, int]:
    """Sinkhorn's iteration from zero, for as long as it is likely to be the fastest."""
    f = torch.zeros_like(problem.log_a)
    g = problem.best_g(f, reg)
    iterations = 0
    for _ in range(_BURSTS):
        f = problem.best_f(g, reg)
        g = problem.best_g(f, reg)
        iterations += 1
        error = problem.error(f, g, reg)
        if error <= tolerance or iterations >= max_iterations:
            break
        burst = min(_BURST, max_iterations - iterations)
        new_f, new_g = problem.burst(f, g, reg, burst)
        # Scalings can overflow where potentials cannot.
        if not bool(new_f.isfinite().all() and new_g.isfinite().all()):
            break
        f, g = new_f, new_g
        iterations += burst
    return f, g, error, iterations


def _anneal(
    problem: _Problem, reg: float, tolerance: float, max_iterations: int, iterations: int
) -> tuple[Tensor, Tensor, float, int]:
    """Newton's method along falling regularisations, down to the one that is wanted."""
    f = torch.zeros_like(problem.log_a)
    largest = float(problem.cost[problem.cost.isfinite()].max())
    levels = max(0, math.ceil(math.log(largest / reg, _ANNEALING))) if largest > 0 else 0
    for level in (reg * _ANNEALING**power for power in range(levels, -1, -1)):
        last = level == reg
        f, g, error, used = _newton(problem, level, f, tolerance if last else 1e-2, max_iterations - iterations)
        iterations += used
    return f, g, error, iterations


def _newton(
    problem: _Problem, reg: float, f: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, float, int]:
    """Newton steps on the dual, each as long as it pays, with a Sinkhorn sweep after each."""
    iterations = 0
    while True:
        f = problem.best_f(problem.best_g(f, reg), reg)
        g = problem.best_g(f, reg)
        error = problem.error(f, g, reg)
        if error <= tolerance or iterations >= max_iterations:
            return f, g, error, iterations
        iterations += 1
        step = problem.newton_step(f, g, reg)
        residual = problem.wanted_rows(f) - problem.plan(f, g, reg).sum(1)
        start, slope, length = problem.dual(f, reg), float(residual @ step), 1.0
        while length > 1e-4 and not problem.dual(f + length * step, reg) >= start + 1e-4 * length * slope:
            length /= 2
        if length > 1e-4:
            f = f + length * step


def _damping(penalty: float, reg: float) -> float:
    """tau / (tau + reg), by which a relaxed marginal shortens the update of its potential; 1 for a fixed one."""
    return 1.0 if math.isinf(penalty) else penalty / (penalty + reg)


def _dual_term(log_weights: Tensor, potential: Tensor, penalty: float) -> Tensor:
    """What a marginal adds to the dual: <w, f> when it is fixed, tau <w, 1 - exp(-f / tau)> when it is relaxed."""
    weights = log_weights.exp()
    if math.isinf(penalty):
        return weights @ potential
    return -penalty * (weights @ torch.expm1(-potential / penalty))


def _log_weights(name: str, weights: Tensor | None, count: int, cost: Tensor) -> Tensor:
    if weights is None:
        return torch.full((count,), -math.log(count), dtype=torch.float64, device=as_float64(cost[:0]).device)
    if weights.shape != (count,) or not bool((weights > 0).all()):
        raise ConfigError(
            f"{name} has shape {tuple(weights.shape)}, least value {float(weights.min()):g}; "
            f"allowed: ({count},), all above 0"
        )
    return as_float64(weights).log()
