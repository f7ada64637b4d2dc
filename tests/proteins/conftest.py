"""Two real backbones, read from the files beside the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectiflow_proteins.reading import Segment, read_structure

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def crambin() -> Segment:
    return read_structure(DATA / "crambin-1ejg.pdb")[0][0]


@pytest.fixture(scope="session")
def bpti() -> Segment:
    return read_structure(DATA / "bpti-5pti.cif")[0][0]
