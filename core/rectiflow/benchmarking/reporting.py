"""`rectiflow bench report`: the combined page of all studies, and the baseline of later ones."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from rectiflow.benchmarking.catalogue import FOLDER, PAGES
from rectiflow.benchmarking.measurement import FILE, read_measurements
from rectiflow.benchmarking.page import write_combined, write_page
from rectiflow.benchmarking.regression import keep_baseline


def run(config: DictConfig) -> Path:
    """Write every study's page again and the combined one, from what is stored, and return the latter.

    Raises:
        ConfigError: no study was run.
        DataError: measurements or a baseline are damaged.
        StorageError: a file cannot be written.
    """
    root = Path(str(config.out), FOLDER)
    for path in sorted(root.glob(f"*/{FILE}")):
        if config.keep:
            measurements = read_measurements(path)
            kept = Path(str(config.keep), f"{path.parent.name}.json")
            count = keep_baseline(kept, measurements, PAGES[measurements[0].study].watched)
            print(f"baseline: {kept}, {count} figures")
        print(f"report: {write_page(path.parent, baselines=Path(str(config.baseline)))}")
    page = write_combined(root, baselines=Path(str(config.baseline)))
    print(f"all studies: {page}")
    return page
