"""`rectiflow doctor`: versions, devices, disk, and what is missing for which domain."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rectiflow.cache import cache_folder
from rectiflow.domain import installed, load_spec
from rectiflow.errors import RectiflowError

PACKAGES = ("rectiflow", "torch", "lightning-fabric", "hydra-core", "numpy", "scipy", "einops", "safetensors")
PROBE_BYTES = 32 * 2**20


def run() -> bool:
    """Print the findings; False when something that a domain needs is missing."""
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for package in PACKAGES:
        print(f"  {package} {_version(package)}")
    print(f"devices: {', '.join(_devices())}")
    _disk("cache", cache_folder())
    _disk("here", Path.cwd())
    findings = [_domain(name) for name in installed()]  # a list: every domain is looked at, also after a missing one
    return all(findings)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


def _devices() -> list[str]:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        found += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.distributed.is_available() and torch.distributed.is_gloo_available():
        found.append("gloo for several processes")
    return found


def _disk(label: str, folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 2**30
    started = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
        speed = f"{PROBE_BYTES / 2**20 / (time.perf_counter() - started):.0f} MB/s written"
    except OSError as error:
        speed = f"cannot be written ({error.strerror})"
    print(f"{label}: {folder}, {free:.1f} GB free, {speed}")


def _domain(name: str) -> bool:
    try:
        spec = load_spec(name)
    except RectiflowError as error:
        print(f"domain {name}: {error}")
        return False
    missing = {extra: module for module, extra in spec.requires.items() if importlib.util.find_spec(module) is None}
    if not missing:
        print(f"domain {name}: ready")
        return True
    for extra, module in missing.items():
        print(f"domain {name}: {module} is missing; pip install 'rectiflow[{extra}]'")
    return False
