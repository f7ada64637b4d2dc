"""Ensembles of particles and the spread that measurements are weighed by."""

from __future__ import annotations

from mutant import Mutant

POSTERIOR, RESAMPLING, STEERING = "control/posterior.py", "control/resampling.py", "control/steering.py"
INVERSE = "control/inverse.py"

MUTANTS = (
    Mutant(POSTERIOR, "(1.0, -b)", "(1.0, b)", "control/posterior"),
    Mutant(POSTERIOR, "(1.0, -b)", "(1.0, -1.0)", "control/posterior"),
    Mutant(POSTERIOR, "+ rise * value)", "- rise * value)", "control/posterior"),
    Mutant(POSTERIOR, "h * b * _inner(look.velocity, slope)", "h * _inner(look.velocity, slope)", "control/posterior"),
    Mutant(
        POSTERIOR,
        "evidence + before - log_weights.logsumexp(1)",
        "evidence - before + log_weights.logsumexp(1)",
        "control/posterior",
    ),
    Mutant(
        RESAMPLING,
        "torch.logsumexp(2 * log_weights.log_softmax(-1), -1)",
        "torch.logsumexp(log_weights.log_softmax(-1), -1)",
        "control/posterior",
    ),
    Mutant(RESAMPLING, "first = count * torch.arange(groups", "first = 0 * torch.arange(groups", "control/posterior"),
    Mutant(STEERING, "strength * (value - previous).reshape", "strength * value.reshape", "control/posterior"),
    Mutant(
        STEERING,
        "log_weights = strength * previous.reshape(size, count)",
        "log_weights = 0 * previous.reshape(size, count)",
        "control/posterior",
    ),
    Mutant(INVERSE, "push = s * determinant / a * ascent", "push = s * determinant * ascent", "control/inverse"),
    Mutant(
        INVERSE,
        "spread = variance * s**2 / (a**2 * variance + s**2)",
        "spread = s**2 / (a**2 * variance + s**2)",
        "control/inverse",
    ),
    Mutant(INVERSE, "push = determinant * spread / s *", "push = determinant * spread *", "control/inverse"),
    Mutant(INVERSE, "step_size * (1 - t_next) ** decay", "step_size * t_next**decay", "control/inverse"),
)
