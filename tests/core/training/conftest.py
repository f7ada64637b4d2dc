"""Training is tested in float32, the dtype it runs in, on the network and data of tiny.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).with_name("tiny.py")


@pytest.fixture(autouse=True)
def float32_training(float64_default: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_training", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_training"] = module
    spec.loader.exec_module(module)
    return module
