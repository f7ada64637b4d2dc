"""Train on proteins: `python domains/proteins/train.py [key=value …]`, the same as `rectiflow train proteins …`."""

from __future__ import annotations

import sys

from rectiflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "proteins", *sys.argv[1:]]))
