"""Train on audio: `python domains/audio/train.py [key=value …]`, the same as `rectiflow train audio …`."""

from __future__ import annotations

import sys

from rectiflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "audio", *sys.argv[1:]]))
