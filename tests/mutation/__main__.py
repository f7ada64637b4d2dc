"""Does the fast suite notice when the core's mathematics is wrong?

Every mutant is one changed piece of text in a temporary copy of core/, judged by the test files that it names; the working tree
is never touched. Ends non-zero when fewer than 95 % are killed, or when a text to change is no longer there exactly once.

    python tests/mutation [--jobs 2] [--only solvers/] [--least 0.95]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

import averages
import comparing
import controlling
import densities
import ensembles
import geometry
import measuring
import noise
import pairing
import paths
import solving
import students
import updates
from judging import PRELOAD, ROOT, judge, test_files
from mutant import Mutant

CATALOGUE = (
    *paths.MUTANTS,
    *solving.MUTANTS,
    *noise.MUTANTS,
    *geometry.MUTANTS,
    *measuring.MUTANTS,
    *pairing.MUTANTS,
    *densities.MUTANTS,
    *controlling.MUTANTS,
    *ensembles.MUTANTS,
    *students.MUTANTS,
    *averages.MUTANTS,
    *updates.MUTANTS,
    *comparing.MUTANTS,
)


def missing(mutants: list[Mutant]) -> list[str]:
    """What of the catalogue no longer fits the sources, one line each."""
    lines = []
    for mutant in mutants:
        path = ROOT / "core" / "rectiflow" / mutant.file
        count = path.read_text().count(mutant.source) if path.is_file() else 0
        if count != 1:
            lines.append(f"{mutant.file}: {count} times, not once: {mutant.source!r}")
        lines.extend(f"{mutant.file}: no {name}" for name in test_files(mutant) if not (ROOT / name).is_file())
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="only files whose path contains this")
    parser.add_argument("--least", type=float, default=0.95, help="share that must be killed")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    mutants = [mutant for mutant in CATALOGUE if options.only in mutant.file]
    wrong = missing(mutants)
    if wrong or not mutants:
        print("\n".join(wrong) or f"no mutant's file contains {options.only!r}")
        return 2
    began = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    # Judges are forked from a process that has imported what is slow to import, and nothing of the library.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    survivors = []
    with context.Pool(options.jobs, maxtasksperchild=1) as pool:
        files = sorted({file for mutant in mutants for file in test_files(mutant)})
        for file, verdict in zip(files, pool.imap(judge, [(None, [file]) for file in files]), strict=True):
            if not verdict.passed:
                print(f"{file} fails without any mutant:\n{verdict.output}")
                return 2
        print(f"{len(files)} test files pass without any mutant; {len(mutants)} mutants", flush=True)
        tasks = [(mutant, test_files(mutant)) for mutant in mutants]
        for mutant, verdict in zip(mutants, pool.imap(judge, tasks), strict=True):
            if not verdict.decided:
                print(f"pytest ended with {verdict.code} for {mutant}:\n{verdict.output}")
                return 2
            if verdict.passed:
                survivors.append(mutant)
            fate = "SURVIVED" if verdict.passed else "killed"
            change = f"{mutant.source!r} -> {mutant.mutated!r}"
            print(f"{fate:9}{verdict.seconds:5.1f} s  {mutant.file}: {change}", flush=True)
    share = 1 - len(survivors) / len(mutants)
    killed = f"{len(mutants) - len(survivors)} of {len(mutants)} mutants killed ({share:.1%})"
    print(f"\n{killed} in {time.monotonic() - began:.0f} s")
    for mutant in survivors:
        print(f"survivor {mutant.file}: {mutant.source!r} -> {mutant.mutated!r}: {mutant.equivalent or 'UNEXPLAINED'}")
    return 0 if share >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
