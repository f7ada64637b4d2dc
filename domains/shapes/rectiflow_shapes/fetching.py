"""The meshes that `rectiflow fetch shapes <name>` takes out of package registries, sorted into folders, with their licences."""

from __future__ import annotations

import csv
import io
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from rectiflow.cache import cache_folder
from rectiflow.errors import ConfigError, DataError
from rectiflow.fetch import Package, fetch_package, place, provenance, say
from rectiflow_shapes.reading import READABLE

PYBULLET = Package(
    registry="pip",
    name="pybullet",
    version="3.2.7",
    sha256="5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff",
    licence="zlib (package); models that come with a licence of their own are left out",
    attribution="Bullet physics, Erwin Coumans and contributors; random objects of pybullet_data",
    wanted=("pybullet_data/*.obj", "pybullet_data/*.stl", "pybullet_data/*.STL", "pybullet-*/LICENSE.txt"),
    options=("--python-version", "3.11", "--platform", "manylinux2014_x86_64"),
)
SWEETHOME3D = Package(
    registry="apt",
    name="sweethome3d-furniture",
    version="1.8-1",
    sha256="3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    licence="CC0-1.0, CC-BY-3.0 and CC-BY-3.0-US, a model each: see attribution.csv",
    attribution="Sweet Home 3D's additional furniture: Emmanuel Puybaret (eTeks), BlendSwap contributors, Scopia, "
    "Andrew Kator and Jennifer Legaz, Reallusion",
    wanted=("usr/share/sweethome3d/furniture/*.sh3f", "usr/share/doc/sweethome3d-furniture/copyright"),
)
CGAL = Package(
    registry="apt",
    name="libcgal-demo",
    version="5.5.1-2",
    sha256="78b09b23d4d6d1bf15552a1060b419ab3fc09918486462faed197e5fc6ac3735",
    licence="mixed: meshes of several authors that CGAL hands on; the package states no licence for each of them",
    attribution="CGAL, the Computational Geometry Algorithms Library, data/meshes; authors of the single models",
    wanted=("usr/share/doc/libcgal-dev/data.tar.gz",),
)

_OWN_LICENCE = ("bicycle", "franka_panda", "domino", "laikago")
_LARGEST = 256 << 20
_CATALOGUE_LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}


def fetch_pybullet() -> Path:
    """Place 1000 random objects and about 200 parts of robots and things in the cache; `Raises` as `fetch_package`."""

    def fill(folder: Path) -> dict[str, str]:
        source = fetch_package(PYBULLET) / "pybullet_data"
        count = 0
        for path in sorted(source.rglob("*")):
            parts = path.relative_to(source).parts
            if path.suffix.lower() not in READABLE or parts[0] in _OWN_LICENCE:
                continue
            random = parts[0] == "random_urdfs"
            target = folder / ("random" if random else "thing") / (path.name if random else "-".join(parts))
            _copy(path, target)
            count += 1
        return _record(PYBULLET, count)

    return place(cache_folder("shapes") / "pybullet-objects", fill)


def fetch_sweethome3d() -> Path:
    """Place 820 pieces of furniture in the cache, a folder a category, with `attribution.csv`; `Raises` as `fetch_package`."""

    def fill(folder: Path) -> dict[str, str]:
        source = fetch_package(SWEETHOME3D) / "usr/share/sweethome3d/furniture"
        rows: list[dict[str, str]] = []
        for catalogue in sorted(source.glob("*.sh3f")):
            rows.extend(_unpack_catalogue(catalogue, folder))
        with (folder / "attribution.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, ["file", "name", "category", "creator", "catalogue", "licence"])
            table.writeheader()
            table.writerows(rows)
        shutil.copyfile(source.parents[1] / "doc/sweethome3d-furniture/copyright", folder / "copyright.txt")
        return _record(SWEETHOME3D, len(rows))

    return place(cache_folder("shapes") / "sweethome3d", fill)


def fetch_cgal() -> Path:
    """Place the example meshes of CGAL in the cache; `Raises` as `fetch_package`."""

    def fill(folder: Path) -> dict[str, str]:
        archive = fetch_package(CGAL) / CGAL.wanted[0]
        count, left = 0, _LARGEST
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None or path.suffix.lower() not in READABLE or path.parent.name != "meshes":
                        continue
                    left -= member.size
                    if left < 0:
                        raise DataError(f"{archive.name} unpacks to more than {_LARGEST} bytes: do not trust it")
                    # The last part of the path only, so nothing leaves the folder.
                    _write(content.read(), folder / "mesh" / path.name)
                    count += 1
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive} cannot be opened: {error}; delete its folder and fetch again") from error
        return _record(CGAL, count)

    return place(cache_folder("shapes") / "cgal", fill)


def _unpack_catalogue(catalogue: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Write the models of a catalogue, turned upright, and yield their rows of the table of attributions."""
    try:
        with zipfile.ZipFile(catalogue) as archive:
            text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
            for entry in _entries(text):
                model = entry["model"].lstrip("/")
                kind = _word(entry.get("category", "other"))
                target = folder / kind / f"{_word(catalogue.stem)}-{_word(PurePosixPath(model).stem)}.obj"
                if archive.getinfo(model).file_size > _LARGEST:
                    raise DataError(f"{catalogue.name}: {model} is larger than {_LARGEST} bytes: do not trust it")
                content = archive.read(model)
                rotation = [float(number) for number in entry.get("modelRotation", "").split()]
                _write(_turned(content, rotation) if len(rotation) == 9 else content, target)
                yield {
                    "file": str(target.relative_to(folder)),
                    "name": entry.get("name", ""),
                    "category": entry.get("category", ""),
                    "creator": entry.get("creator", ""),
                    "catalogue": catalogue.stem,
                    "licence": _CATALOGUE_LICENCES.get(catalogue.stem, "see copyright.txt"),
                }
    except (zipfile.BadZipFile, KeyError, ValueError, zlib.error) as error:
        raise DataError(f"{catalogue} cannot be read: {error}; delete its folder and fetch again") from error


def _entries(text: str) -> list[dict[str, str]]:
    """What the properties say of each model: `key#number=value` lines, gathered by number."""
    gathered: dict[str, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)\s*=[ \t]*(.*)$", text, re.MULTILINE):
        plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), value.strip())
        gathered.setdefault(number, {})[key] = plain
    return [entry for entry in gathered.values() if entry.get("model", "").lower().endswith(".obj")]


def _turned(content: bytes, rotation: list[float]) -> bytes:
    """An OBJ with its vertices turned by a matrix of nine numbers, row by row."""
    out = io.BytesIO()
    for line in content.splitlines():
        words = line.split()
        if words[:1] == [b"v"]:
            point = [float(word) for word in words[1:4]]
            turned = (sum(rotation[3 * row + i] * point[i] for i in range(3)) for row in range(3))
            line = b"v " + b" ".join(f"{number:.7g}".encode() for number in turned)
        out.write(line + b"\n")
    return out.getvalue()


def _word(text: str) -> str:
    """A name that is safe as a file's: letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "other"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(content: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _record(package: Package, count: int) -> dict[str, str]:
    say(f"{package.attribution}. Licence: {package.licence}.")
    return provenance(package) | {"count": str(count)}


DATASETS: dict[str, Callable[[], Path]] = {
    "pybullet-objects": fetch_pybullet,
    "sweethome3d": fetch_sweethome3d,
    "cgal": fetch_cgal,
}


def fetch(name: str) -> Path:
    """Place the meshes `name` in the cache, if they are not there yet, and return their folder.

    Raises:
        ConfigError: an unknown name.
        MissingDependency: the registry's client is not installed.
        DataError: they cannot be fetched, or do not match their pins.
        StorageError: the cache cannot be written.
    """
    if name not in DATASETS:
        raise ConfigError(f"there are no meshes {name!r} to fetch; there are {', '.join(DATASETS)}: name one of them")
    return DATASETS[name]()
