"""Stochastic solvers, laws on rotations and their series, couplings that draw, and closed forms of bridges."""

from __future__ import annotations

from mutant import Mutant

MARUYAMA, HEUN = "solvers/euler_maruyama.py", "solvers/stochastic_heun.py"
NOISE, DIFFUSION = "solvers/noise.py", "solvers/diffusion.py"
THIRD, UNIPC = "solvers/dpmpp_3m.py", "solvers/unipc.py"
SERIES, IGSO3 = "spaces/series.py", "spaces/igso3.py"
UNBALANCED, BRIDGE = "couplings/unbalanced.py", "analytic_couplings.py"
RIEMANNIAN = "spaces/riemannian.py"

MUTANTS = (
    Mutant(MARUYAMA, "(2 * amount * abs(h)) ** 0.5", "(amount * abs(h)) ** 0.5", "solvers/stochastic"),
    Mutant(MARUYAMA, "x = space.step(x, slope, h)", "x = space.step(x, slope, abs(h))", "solvers/stochastic"),
    Mutant(MARUYAMA, "final = len(times) - 2", "final = len(times) - 1", "solvers/stochastic"),
    Mutant(HEUN, "(2 * middle[i] * abs(h)) ** 0.5", "(2 * eps[i] * abs(h)) ** 0.5", "solvers/stochastic"),
    Mutant(HEUN, "else eps[i + 1], space)", "else eps[i], space)", "solvers/stochastic"),
    Mutant(HEUN, "end = end if noise is None else space.step(end, noise, spread)", "", "solvers/stochastic"),
    Mutant(HEUN, "drift(field, end, t_next, h,", "drift(field, end, t, h,", "solvers/stochastic"),
    Mutant(NOISE, "amount = amount if h > 0 else -amount", "amount = -amount", "solvers/stochastic"),
    Mutant(
        NOISE, "(amount * weights[0], 1 + amount * weights[1])", "(weights[0], 1 + weights[1])", "solvers/stochastic"
    ),
    Mutant(DIFFUSION, "m.s * m.determinant / m.a if m.a > 0", "m.determinant / m.a if m.a > 0", "solvers/stochastic"),
    Mutant(
        DIFFUSION, "0.25 * (math.cos(math.pi * m.t) + 1)", "0.25 * (math.cos(math.pi * m.t) - 1)", "solvers/stochastic"
    ),
    Mutant(THIRD, "path.polynomial(0, 1, 2)", "path.polynomial(0, 0, 2)", "solvers/exponential"),
    Mutant(
        THIRD,
        "known = [field.predict(x, t, path.kind), *known[:2]]",
        "known = [field.predict(x, t, path.kind), *known[:1]]",
        "solvers/exponential",
    ),
    Mutant(UNIPC, "path.polynomial(i - 1, i, count)", "path.polynomial(i - 1, i - 1, count)", "solvers/exponential"),
    Mutant(SERIES, "1 - square / 6 * (1 - square / 20", "1 - square / 6 * (1 - square / 12", "spaces/series"),
    Mutant(SERIES, "1 / 6 + square * (7 / 360", "1 / 6 + square * (7 / 180", "spaces/series"),
    Mutant(SERIES, "1 / 12 + square * (1 / 720", "1 / 12 - square * (1 / 720", "spaces/series"),
    Mutant(
        IGSO3,
        "-orders * (orders + 1) * self.sigma**2 / 2",
        "-orders * (orders + 1) * self.sigma**2",
        "spaces/rotations",
    ),
    Mutant(IGSO3, "signs = 1 - 2 * (turns.abs() % 2)", "signs = 1 + 0 * turns", "spaces/rotations"),
    Mutant(IGSO3, "math.exp(self.sigma**2 / 8)", "math.exp(-(self.sigma**2) / 8)", "spaces/rotations"),
    Mutant(
        UNBALANCED, "data_penalty=self.data_penalty * unit", "data_penalty=self.data_penalty", "couplings/unbalanced"
    ),
    Mutant(UNBALANCED, "matrix = matrix[rows.to(matrix.device)]", "", "couplings/unbalanced"),
    Mutant(BRIDGE, "sigma**4) ** 0.5 - sigma**2) / 2", "sigma**4) ** 0.5 + sigma**2) / 2", "analytic_couplings"),
    Mutant(BRIDGE, "+ (1 - 2 * t) * cross", "+ (1 - t) * cross", "analytic_couplings"),
    Mutant(
        BRIDGE,
        "self.matrix = inverse @ middle @ inverse",
        "self.matrix = inverse @ middle @ root",
        "analytic_couplings",
    ),
    Mutant(
        RIEMANNIAN,
        "interpolant.coefficients(t.clamp(min=interpolant.standstill)).expand_to(x)",
        "interpolant.coefficients(t).expand_to(x)",
        "properties",
    ),
)
