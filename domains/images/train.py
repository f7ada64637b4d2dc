"""Train on images: `python domains/images/train.py [key=value …]`, the same as `rectiflow train images …`."""

from __future__ import annotations

import sys

from rectiflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "images", *sys.argv[1:]]))
