"""The benchmark tables of README.md, from the stored results in benchmarks/results: `python benchmarks/readme_table.py`.

Writes them between the markers; with --check it only says whether they are what the results give, by its exit code. Folders of
studies, such as runs/bench/domains, are stored as results first.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from marked_block import markers, write_block

from rectiflow.benchmarking.contest import OURS
from rectiflow.benchmarking.domains_table import DomainResults, by_domain
from rectiflow.benchmarking.measurement import FILE, Measurement, read_measurements, write_measurements
from rectiflow.report_table import number

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ENDS = markers("benchmarks", "readme_table.py")
ABSENT = number(math.nan)
ARROWS = {"lower": "↓", "higher": "↑", "one": "→ 1"}


def tables(results: Path = RESULTS) -> str:
    """Markdown of everything stored."""
    parts = [
        domains_table(read_measurements(results / "domains.jsonl")),
        peers_table(read_measurements(results / "peers.jsonl")),
    ]
    return "\n".join(part for part in parts if part)


def domains_table(measurements: Sequence[Measurement]) -> str:
    """A line a domain: its own sampler at few and many evaluations, before and after rectification."""
    domains = [domain for domain in by_domain(measurements) if domain.model is not None]
    if not domains:
        return ""
    lines = [
        "| domain | metric | n | floor | baseline | before: 2 | before: 32 | before: best | after: 1 | after: 2 | lost "
        "| ms/evaluation |",
        "|" + "---|" * 12,
        *(_line(domain) for domain in domains),
    ]
    machine = domains[0].measurements[0].machine
    others = [d for d in domains if d.run("rectified") != "rectified"]
    names = "".join(f" ({d.name}: {d.run('base')} and {d.run('rectified')})" for d in others)
    note = (
        f"The numbers over the columns are network evaluations a sample by the domain's own solver, before and after "
        f"rectification{names}, from the same noise, n samples; the best before is by any solver, with its evaluations; "
        "*lost* is normalised quality (floor 1, baseline 0) between 32 "
        "evaluations before and 2 after, negative for a gain; milliseconds are processor time of one thread. "
        f"`rectiflow bench domains` on {machine.get('cpu')}, torch {machine.get('torch')}; stored in "
        "`benchmarks/results/domains.jsonl`."
    )
    return "\n".join(lines) + "\n\n" + textwrap.fill(note, 128, break_on_hyphens=False) + "\n"


def _line(domain: DomainResults) -> str:
    wanted = (("base", 2), ("base", 32), ("rectified", 1), ("rectified", 2))
    cells = [domain.own_cell(flow, nfe) for flow, nfe in wanted]
    values = [number(cell.figures.get(domain.metric, math.nan)) if cell else ABSENT for cell in cells]
    best = domain.best("base")
    values.insert(2, f"{number(best.figures[domain.metric])} ({best.figures['nfe']:g})" if best else ABSENT)
    verdict = domain.verdict
    lost = ABSENT if verdict is None or math.isnan(verdict.lost) else f"{100 * verdict.lost:.0f} %"
    last = domain.line("base", domain.own("base"))[-1:]
    each = number(last[0].figures["ms"] / last[0].figures["nfe"]) if last else ABSENT
    ends = [f"{domain.model.count if domain.model else 0}", number(domain.floor), number(domain.baseline)]
    return (
        "| " + " | ".join([domain.name, f"{domain.title} {ARROWS[domain.better]}", *ends, *values, lost, each]) + " |"
    )


PEERS = {
    "sampling": "overhead of a step: {}",
    "training": "an update: {}",
    "transport": "minibatch transport: {}",
    "adaptive": "evaluations of dopri5 at {}",
    "domains": "{}",
}


def peers_table(measurements: Sequence[Measurement]) -> str:
    """A line a contest: the peer that comes nearest, and ours over theirs with its interval."""
    lines = []
    for part, title in PEERS.items():
        found = [entry for entry in measurements if entry.cell["part"] == part and "ratio" in entry.figures]
        if (
            part == "domains"
        ):  # two networks, or two policies, are not the same work: the study's page has them with what they are
            found = [entry for entry in found if not math.isnan(entry.figures["difference"])]
        for case in dict.fromkeys(str(entry.cell["case"]) for entry in found):
            # The adaptive solver's one ratio stands under our own name; elsewhere that is the 1 of ours over ours.
            rivals = [
                entry
                for entry in found
                if entry.cell["case"] == case and (part == "adaptive" or entry.cell["peer"] != OURS)
            ]
            if rivals:
                lines.append(_peer_line(title.format(case), max(rivals, key=lambda entry: entry.figures["ratio"])))
    if not lines:
        return ""
    loads = [entry.load for entry in measurements if entry.load is not None]
    peers = measurements[0].machine.get("peers", {})
    note = (
        "Ours over theirs in processor time on one thread, medians over rounds in which runs take turns, with bootstrap "
        "intervals of 95 % (dopri5: the range over the errors measured); below 1 we are ahead. *Equal* compares the results. "
        f"Machine load {min(loads, default=0):.0f} to {max(loads, default=0):.0f} while measuring. "
        f"`rectiflow bench peers`; {', '.join(f'{name} {number}' for name, number in peers.items())}."
    )
    head = ["| same work, same run | nearest peer | ours / theirs | 95 % | equal |", "|" + "---|" * 5]
    return "\n".join([*head, *lines]) + "\n\n" + textwrap.fill(note, 128, break_on_hyphens=False) + "\n"


def _peer_line(title: str, entry: Measurement) -> str:
    low, high = entry.intervals.get("ratio", (math.nan, math.nan))
    differs = entry.figures.get("difference", math.nan)
    equal = ABSENT if math.isnan(differs) else "yes" if differs <= entry.figures["tolerance"] else "no"
    peer = "torchdiffeq" if entry.cell["part"] == "adaptive" else entry.cell["peer"]
    return f"| {title} | {peer} | {number(entry.figures['ratio'])} | {number(low)} to {number(high)} | {equal} |"


def main(arguments: Sequence[str]) -> int:
    """Write the README, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="studies to store first")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        write_measurements(RESULTS / f"{folder.name}.jsonl", read_measurements(folder / FILE))
    return write_block(ROOT / "README.md", tables(), ENDS, check=options.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
