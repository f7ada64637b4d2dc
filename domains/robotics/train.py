"""Clone demonstrations: `python domains/robotics/train.py [key=value …]`, the same as `rectiflow train robotics …`."""

from __future__ import annotations

import sys

from rectiflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "robotics", *sys.argv[1:]]))
