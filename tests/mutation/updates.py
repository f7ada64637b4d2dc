"""Optimisers."""

from __future__ import annotations

from mutant import Mutant

MUON = "training/muon.py"

MUTANTS = (
    Mutant(MUON, "alpha=rate)", "alpha=-rate)", "training/muon"),
    Mutant(MUON, "momentum.lerp_(gradient, 1 - MOMENTUM)", "momentum.lerp_(gradient, MOMENTUM)", "training/muon"),
    Mutant(MUON, "MATCH * max(direction.shape) ** 0.5", "MATCH * min(direction.shape) ** 0.5", "training/muon"),
    Mutant(MUON, "mul_(1 - group", "mul_(1 + group", "training/muon"),
    Mutant(MUON, "beta=b, alpha=c", "beta=c, alpha=b", "training/muon"),
    Mutant(MUON, "parameter.grad = None  #", "pass  #", "training/muon"),
)
