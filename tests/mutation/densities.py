"""Likelihoods, divergences, diagnostics and closed forms."""

from __future__ import annotations

from mutant import Mutant

LIKELIHOOD, JACOBIANS, DIAGNOSTICS, ANALYTIC = "likelihood.py", "jacobians.py", "diagnostics.py", "analytic.py"

MUTANTS = (
    Mutant(
        LIKELIHOOD,
        "return _log_source(flow, x0, cond) + change",
        "return _log_source(flow, x0, cond) - change",
        "likelihood",
    ),
    Mutant(LIKELIHOOD, "return Sampled(x1, start - change)", "return Sampled(x1, start + change)", "likelihood"),
    Mutant(LIKELIHOOD, "grid = time_grid(steps).flip(0)", "grid = time_grid(steps)", "likelihood"),
    Mutant(LIKELIHOOD, "width * (noise - 0.5)", "width * noise", "likelihood"),
    Mutant(
        LIKELIHOOD,
        "(dimensions * math.log(2)) - math.log2(width)",
        "(dimensions * math.log(2)) + math.log2(width)",
        "likelihood",
    ),
    Mutant(LIKELIHOOD, "-log_prob / (dimensions * math.log(2))", "-log_prob / dimensions", "likelihood"),
    Mutant(
        LIKELIHOOD, "flow.space.tangent(x, flow.velocity(x, t, **cond))", "flow.velocity(x, t, **cond)", "likelihood"
    ),
    Mutant(
        JACOBIANS,
        "return at.pull(rows[:, None].expand(-1, len(at.point), -1)).transpose(0, 1)",
        "return at.pull(rows[:, None].expand(-1, len(at.point), -1)).transpose(0, 1).mT",
        "jacobians",
    ),
    Mutant(JACOBIANS, "[:, :, start : start + count]", "[:, :, :count]", "jacobians"),
    Mutant(
        JACOBIANS,
        "return _quadratic(at, _rows(self.probes, at)).mean(0)",
        "return _quadratic(at, _rows(self.probes, at)).sum(0)",
        "jacobians",
    ),
    Mutant(JACOBIANS, "rest = probes - basis @ (basis.mT @ probes)", "rest = probes", "jacobians"),
    Mutant(
        JACOBIANS,
        "_quadratic(at, rest.permute(2, 0, 1)).mean(0)",
        "_quadratic(at, rest.permute(2, 0, 1)).sum(0)",
        "jacobians",
    ),
    Mutant(
        JACOBIANS,
        "return 2 * torch.randint(0, 2, shape, **options) - 1",
        "return torch.randint(0, 2, shape, **options)",
        "jacobians",
    ),
    Mutant(JACOBIANS, "create_graph=self.differentiable", "create_graph=False", "jacobians likelihood"),
    Mutant(DIAGNOSTICS, "matrix_norm(matrix - matrix.mT)", "matrix_norm(matrix + matrix.mT)", "diagnostics"),
    Mutant(DIAGNOSTICS, "(values[:, None] + values)", "(2 * values)", "diagnostics"),
    Mutant(DIAGNOSTICS, "needed @ vectors.mT @ covariance", "needed @ vectors.mT", "diagnostics"),
    Mutant(
        DIAGNOSTICS,
        "coefficients(t.to(time_dtype(x))).a * jacobian_trace",
        "coefficients(t.to(time_dtype(x))).s * jacobian_trace",
        "diagnostics",
    ),
    Mutant(
        DIAGNOSTICS,
        "fraction / (variances * (1 - fraction**2)).sqrt()",
        "fraction / (variances * (1 - fraction)).sqrt()",
        "diagnostics",
    ),
    Mutant(
        DIAGNOSTICS,
        "displacement = space.log(x0, end)",
        "displacement = space.log(end, x0)",
        "diagnostics",
    ),
    Mutant(
        ANALYTIC,
        "rate = (c.a * c.da * self._eigenvalues + c.s * c.ds)",
        "rate = (c.a * c.da * self._eigenvalues - c.s * c.ds)",
        "analytic",
    ),
    Mutant(ANALYTIC, "self._scale(spread[1] / spread[0],", "self._scale(spread[0] / spread[1],", "analytic"),
    Mutant(
        ANALYTIC,
        "return c.da * self.data(x, t) + c.ds * self.noise(x, t)",
        "return c.da * self.data(x, t) - c.ds * self.noise(x, t)",
        "analytic",
    ),
)
