"""Guidance by losses and measurements, probing, search and editing."""

from __future__ import annotations

from mutant import Mutant

MEASUREMENT, INVERSE, LOSS = "control/measurement.py", "control/inverse.py", "control/loss_guidance.py"
RESAMPLING, PROBING, SEARCH = "control/resampling.py", "control/probing.py", "control/search.py"
POSTERIOR, STEERING, EDITING = "control/posterior.py", "control/steering.py", "control/editing.py"

MUTANTS = (
    Mutant(MEASUREMENT, "(2 * width**2)", "(width**2)", "control/measurement"),
    Mutant(MEASUREMENT, "square().sum(1) / 2", "square().sum(1)", "control/measurement"),
    Mutant(
        MEASUREMENT,
        "return self.misfit(x) / self.noise**2",
        "return self.misfit(x) / self.noise",
        "control/measurement",
    ),
    Mutant(MEASUREMENT, "self.noise * math.sqrt(", "self.noise**2 * math.sqrt(", "control/measurement"),
    Mutant(MEASUREMENT, "+ self.noise**2 * z", "+ self.noise * z", "control/measurement"),
    Mutant(MEASUREMENT, "rest = rest - length * image", "rest = rest + length * image", "control/measurement"),
    Mutant(
        LOSS, "return space.tangent(x, ascent), value", "return space.tangent(x, -ascent), value", "control/inverse"
    ),
    Mutant(LOSS, "0 if t_next == end else corrections", "corrections", "control/loss_guidance"),
    Mutant(LOSS, "space.transport(estimate, x, g", "space.transport(x, estimate, g", "control/loss_guidance"),
    Mutant(LOSS, "v, x = space.transport(x, corrected, v), corrected", "x = corrected", "control/loss_guidance"),
    Mutant(INVERSE, "measurement.y - image.detach()", "image.detach() - measurement.y", "control/inverse"),
    Mutant(INVERSE, "z = estimate - step_size", "z = estimate + step_size", "control/inverse"),
    Mutant(INVERSE, "c = _coefficients(flow, t_next)", "c = _coefficients(flow, t)", "control/inverse"),
    Mutant(POSTERIOR, "log_weights - (h", "log_weights + (h", "control/posterior"),
    Mutant(RESAMPLING, "right=True).clamp(", "right=True).sub(1).clamp(min=0, ", "control/posterior"),
    Mutant(RESAMPLING, "torch.where(poor[:, None], 0.0, log_weights)", "log_weights", "control/posterior"),
    Mutant(RESAMPLING, "< threshold * count", "> threshold * count", "control/posterior"),
    Mutant(STEERING, "ancestors[rows], previous[rows]", "ancestors[rows], previous", "control/posterior"),
    Mutant(STEERING, "x, look.rows(rows), t", "x, look, t", "control/posterior"),
    Mutant(PROBING, "(1.0, eps), h)", "(1.0, -eps), h)", "control/posterior control/search"),
    Mutant(PROBING, "(2 * eps * h) ** 0.5", "(eps * h) ** 0.5", "control/posterior control/search"),
    Mutant(PROBING, "if t_next == 1 or eps == 0", "if eps == 0", "control/search"),
    Mutant(PROBING, "field.evaluations * len(groups)", "len(groups)", "control/search"),
    Mutant(SEARCH, "(-1, candidates).max(1)", "(-1, candidates).min(1)", "control/search"),
    Mutant(SEARCH, "best, which = rewards.max(1)", "best, which = rewards.min(1)", "control/search"),
    Mutant(SEARCH, "left = left + quotas[step]", "left = 0 * left + quotas[step]", "control/search"),
    Mutant(SEARCH, "goal = best if step", "goal = -best if step", "control/search"),
    Mutant(SEARCH, "(value <= goal[active])", "(value < goal[active])", "control/search"),
    Mutant(SEARCH, "max_nfe // cost - particles", "max_nfe - particles", "control/search"),
    Mutant(
        EDITING, "1 - strength * (1 - time_grid(steps, shift))", "strength * time_grid(steps, shift)", "control/editing"
    ),
    Mutant(EDITING, "method=method, cond=source)", "method=method, cond=target)", "control/editing"),
    Mutant(EDITING, "cond=target, guidance=guidance)", "cond=target)", "control/editing"),
)
