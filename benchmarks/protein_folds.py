"""Synthetic backbones a second, by number of residues, all cores at hand and of processor time.

python benchmarks/protein_folds.py [--residues 64] [--count 96]
"""

from __future__ import annotations

import argparse
import time

import torch

from rectiflow_proteins.grammar import generate_folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--residues", type=int, default=64)
    parser.add_argument("--count", type=int, default=96)
    options = parser.parse_args()
    generate_folds([24], torch.Generator().manual_seed(0))
    wall, processor = time.perf_counter(), time.process_time()
    generate_folds([options.residues] * options.count, torch.Generator().manual_seed(0))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(
        f"{options.count} backbones of {options.residues} residues: {options.count / wall:.1f} a second, "
        f"{options.count / processor:.1f} a second of processor time, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
