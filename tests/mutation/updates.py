"""Optimisers."""

from __future__ import annotations

from mutant import Mutant

MUON = "training/muon.py"

MUTANTS = (
    Mutant(MUON, "alpha=rate * scale)", "alpha=-rate * scale)", "training/muon"),
    Mutant(MUON, "momentum.lerp_(gradient, 1 - MOMENTUM)", "momentum.lerp_(gradient, MOMENTUM)", "training/muon"),
    Mutant(MUON, "MATCH * max(direction.shape) ** 0.5", "MATCH * min(direction.shape) ** 0.5", "training/muon"),
    Mutant(MUON, "(1 - rate * decay)", "(1 + rate * decay)", "training/muon"),
    Mutant(MUON, "(b * square + c * square @ square)", "(c * square + b * square @ square)", "training/muon"),
    Mutant(MUON, "parameter.grad = None  #", "pass  #", "training/muon"),
)
