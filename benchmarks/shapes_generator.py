"""How many built-in solids of each kind one core draws a second.

    python benchmarks/shapes_generator.py [--count 50] [--families demo wide]

Processor time of drawing alone; whether they are closed single bodies is tested, not measured.
"""

from __future__ import annotations

import argparse
import json
import time

from rectiflow_shapes.solids import draw, family_kinds


def rate(family: str, label: int, count: int) -> float:
    """Solids a second of one kind."""
    kinds = len(family_kinds(family))
    begun = time.process_time()
    for place in range(count):
        draw(family, label + place * kinds)
    return count / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--families", nargs="+", default=["demo", "wide"])
    options = parser.parse_args()
    for family in options.families:
        draw(family, 0)
        rates = {kind: round(rate(family, label, options.count)) for label, kind in enumerate(family_kinds(family))}
        print(family, json.dumps(rates))


if __name__ == "__main__":
    main()
