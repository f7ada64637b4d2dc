"""Train on shapes: `python domains/shapes/train.py [key=value …]`, the same as `rectiflow train shapes …`."""

from __future__ import annotations

import sys

from rectiflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "shapes", *sys.argv[1:]]))
