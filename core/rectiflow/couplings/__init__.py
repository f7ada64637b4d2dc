"""Couplings: which source goes with which data point of a batch.

Stored pairs need no coupling object: a batch that brings its own x0 (`rectiflow.Batch`, `rectiflow.rectify`) keeps its pairing.
"""

from rectiflow.couplings.aligned import AlignedOT
from rectiflow.couplings.bridge import SchroedingerBridge
from rectiflow.couplings.coupling import Coupled, Coupling
from rectiflow.couplings.entropic import EntropicOT
from rectiflow.couplings.independent import Independent
from rectiflow.couplings.optimal_transport import MinibatchOT
from rectiflow.couplings.partial import PartialOT
from rectiflow.couplings.permutation import RowPermutation
from rectiflow.couplings.plans import Plan, sinkhorn
from rectiflow.couplings.unbalanced import UnbalancedOT

__all__ = [
    "AlignedOT",
    "Coupled",
    "Coupling",
    "EntropicOT",
    "Independent",
    "MinibatchOT",
    "PartialOT",
    "Plan",
    "RowPermutation",
    "SchroedingerBridge",
    "UnbalancedOT",
    "sinkhorn",
]
