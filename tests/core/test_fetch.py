"""Fetching with fake clients on the PATH: what they deliver is made here, so no test uses the network."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from rectiflow import fetch
from rectiflow.errors import DataError, MissingDependency, StorageError
from rectiflow.fetch import Package, fetch_package, provenance

CONTENT = {"package/data/a.txt": b"alpha", "package/readme.md": b"words"}


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds nothing but fake clients, and an empty cache."""
    folder = tmp_path / "clients"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("RECTIFLOW_CACHE", str(tmp_path / "cache"))
    return folder


def client(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport shutil, sys, pathlib\narguments = sys.argv[1:]\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def tgz(path: Path, content: dict[str, bytes], link: tuple[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo(link[0])
            member.type, member.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(member)
    return path


def delivering(archive: Path, name: str | None = None) -> str:
    """The body of a client that counts its calls and puts the archive into its working folder."""
    counter = archive.with_suffix(".calls")
    return (
        f"open({str(counter)!r}, 'a').write(' '.join(arguments) + chr(10))\n"
        f"shutil.copy({str(archive)!r}, {name or archive.name!r})"
    )


def pinned(archive: Path, **changes: object) -> Package:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    settings = {"registry": "npm", "name": "pack", "version": "1.0.0", "sha256": digest, "licence": "MIT"}
    return Package(**(settings | {"attribution": "somebody"} | changes))  # type: ignore[arg-type]


def leftovers(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "packages").rglob("*") if path.is_file()]


def test_provenance_names_every_package() -> None:
    first = Package("npm", "bells", "1.0", "ab", "MIT", "somebody")
    second = Package("pip", "horns", "2.1", "cd", "CC0-1.0", "nobody")
    assert provenance(first, second) == {
        "package": "bells 1.0, horns 2.1",
        "sha256": "ab, cd",
        "licence": "MIT; CC0-1.0",
        "attribution": "somebody; nobody",
    }


def test_npm_package_is_placed_with_its_manifest_and_fetched_once(
    clients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)
    client(clients, "npm", delivering(archive))
    folder = fetch_package(pinned(archive, wanted=("package/data/*",)))
    assert (folder / "package/data/a.txt").read_bytes() == b"alpha"
    assert not (folder / "package/readme.md").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: manifest[name] for name in ("package", "registry", "archive", "licence", "attribution")} == {
        "package": "pack 1.0.0",
        "registry": "npm",
        "archive": archive.name,
        "licence": "MIT",
        "attribution": "somebody",
    }
    assert manifest["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert len(manifest["date"]) == 10
    captured = capsys.readouterr()
    assert "fetching pack 1.0.0 with npm" in captured.err
    assert captured.out == ""
    assert fetch_package(pinned(archive, wanted=("package/data/*",))) == folder
    assert archive.with_suffix(".calls").read_text().splitlines() == ["pack pack@1.0.0 --ignore-scripts"]
    assert capsys.readouterr().err == ""


def test_a_wrong_hash_keeps_nothing(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)
    client(clients, "npm", delivering(archive))
    with pytest.raises(DataError, match="sha256 is"):
        fetch_package(pinned(archive, sha256="0" * 64))
    assert leftovers(tmp_path) == []


def test_a_wrong_file_hash_keeps_nothing(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)
    client(clients, "npm", delivering(archive))
    for name in ("package/data/a.txt", "package/absent"):
        with pytest.raises(DataError, match=f"sha256 of {name}"):
            fetch_package(pinned(archive, files={name: "0" * 64}))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "package/../../outside"])
def test_paths_that_leave_the_folder(clients: Path, tmp_path: Path, name: str) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT | {name: b"x"})
    client(clients, "npm", delivering(archive))
    with pytest.raises(DataError, match="must stay inside"):
        fetch_package(pinned(archive))
    assert leftovers(tmp_path) == []
    assert not list(tmp_path.rglob("outside"))


def test_links_are_refused(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT, link=("package/link", "/etc/passwd"))
    client(clients, "npm", delivering(archive))
    with pytest.raises(DataError, match="link or device"):
        fetch_package(pinned(archive))
    assert fetch_package(pinned(archive, wanted=("package/data/*",))).is_dir()


def test_too_much_content(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", {"bomb": bytes(1 << 20)})
    client(clients, "npm", delivering(archive))
    with pytest.raises(DataError, match="more than 1000 bytes"):
        fetch_package(pinned(archive, largest=1000))


def test_a_truncated_archive(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", {"a": bytes(range(256)) * 40})
    archive.write_bytes(archive.read_bytes()[:-40])
    client(clients, "npm", delivering(archive))
    with pytest.raises(DataError, match="cannot be opened"):
        fetch_package(pinned(archive))


def test_an_absent_client(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)
    with pytest.raises(MissingDependency, match="install npm"):
        fetch_package(pinned(archive))
    with pytest.raises(MissingDependency, match="install apt"):
        fetch_package(pinned(archive, registry="apt"))


def test_offline_says_what_the_client_said(clients: Path, tmp_path: Path) -> None:
    client(clients, "npm", "sys.exit('starting\\nnpm error code EAI_AGAIN\\nsee the log')")
    with pytest.raises(DataError, match=r"npm could not fetch pack@1\.0\.0: npm error code EAI_AGAIN; .*network"):
        fetch_package(pinned(tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)))


def test_a_cache_that_cannot_be_written(clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)
    client(clients, "npm", delivering(archive))

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match="No space left"):
        fetch_package(pinned(archive))
    assert leftovers(tmp_path) == []


class TestApt:
    @pytest.fixture
    def deb(self, tmp_path: Path, clients: Path) -> Path:
        """A fake package with a link, which the fake dpkg-deb opens by uncompressing it."""
        content = {"./usr/share/data.txt": b"alpha"}
        archive = tgz(tmp_path / "data_2_all.deb", content, link=("./usr/share/again.txt", "data.txt"))
        client(
            clients,
            "dpkg-deb",
            "import gzip\nsys.stdout.buffer.write(gzip.decompress(pathlib.Path(arguments[1]).read_bytes()))",
        )
        return archive

    def test_pinned_version(self, deb: Path, clients: Path) -> None:
        client(clients, "apt-get", delivering(deb))
        folder = fetch_package(pinned(deb, registry="apt", name="data", version="2"))
        assert (folder / "usr/share/data.txt").read_bytes() == b"alpha"
        assert not (folder / "usr/share/again.txt").is_symlink()  # links are ordinary there, and passed over
        assert deb.with_suffix(".calls").read_text() == "download data=2\n"

    def test_another_version_is_taken_when_its_files_are_the_pinned_ones(self, deb: Path, clients: Path) -> None:
        client(clients, "apt-get", f"if '=' in arguments[1]: sys.exit('E: Version not found')\n{delivering(deb)}")
        vouched = {"usr/share/data.txt": hashlib.sha256(b"alpha").hexdigest()}
        gone = {"registry": "apt", "name": "data", "version": "1", "sha256": "0" * 64}
        with pytest.raises(DataError, match="Version not found"):
            fetch_package(pinned(deb, **gone))
        with pytest.raises(DataError, match=r"sha256 of usr/share/data\.txt"):
            fetch_package(pinned(deb, **gone, files={"usr/share/data.txt": "1" * 64}))
        folder = fetch_package(pinned(deb, **gone, files=vouched))
        assert json.loads((folder / "manifest.json").read_text())["archive"] == "data_2_all.deb"

    def test_any_other_version_is_taken_where_the_package_allows_it(self, deb: Path, clients: Path) -> None:
        client(clients, "apt-get", f"if '=' in arguments[1]: sys.exit('E: Version not found')\n{delivering(deb)}")
        loose = {"registry": "apt", "name": "data", "sha256": "0" * 64, "any_version": True}
        folder = fetch_package(pinned(deb, **loose, version="1"))
        assert (folder / "usr/share/data.txt").read_bytes() == b"alpha"
        client(clients, "apt-get", delivering(deb))
        with pytest.raises(DataError, match="not the pinned"):  # this version, and yet another archive
            fetch_package(pinned(deb, **loose, version="2"))


class TestPip:
    def wheel(self, tmp_path: Path, link: bool = False) -> Path:
        path = tmp_path / "pack-1.0.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pack/data.txt", b"alpha")
            if link:
                entry = zipfile.ZipInfo("pack/link")
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, "/etc/passwd")
        return path

    def run_instead(self, monkeypatch: pytest.MonkeyPatch, archive: Path) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], cwd: Path, **settings: object) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            shutil.copy(archive, cwd / archive.name)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(fetch.subprocess, "run", run)
        return calls

    def test_wheel(self, clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = self.wheel(tmp_path)
        calls = self.run_instead(monkeypatch, archive)
        folder = fetch_package(pinned(archive, registry="pip"))
        assert (folder / "pack/data.txt").read_bytes() == b"alpha"
        assert calls[0][1:5] == ["-m", "pip", "download", "--no-deps"]
        assert calls[0][-1] == "pack==1.0.0"

    def test_source_archive_and_options(self, clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = tgz(tmp_path / "pack-1.0.0.tar.gz", CONTENT)
        calls = self.run_instead(monkeypatch, archive)
        options = ("--python-version", "3.12")
        folder = fetch_package(pinned(archive, registry="pip", source=True, options=options))
        assert (folder / "package/data/a.txt").read_bytes() == b"alpha"
        form, everything, *rest = calls[0][5:]
        assert (form, everything) == ("--no-binary", ":all:")
        assert tuple(rest[:2]) == options

    def test_link_in_a_wheel(self, clients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = self.wheel(tmp_path, link=True)
        self.run_instead(monkeypatch, archive)
        with pytest.raises(DataError, match="link or device"):
            fetch_package(pinned(archive, registry="pip"))


def test_an_unfinished_folder_is_filled_again(clients: Path, tmp_path: Path) -> None:
    archive = tgz(tmp_path / "pack-1.0.0.tgz", CONTENT)
    client(clients, "npm", delivering(archive))
    stale = tmp_path / "cache/packages/npm/pack-1.0.0"
    stale.mkdir(parents=True)
    (stale / "old").write_text("half")
    assert not (fetch_package(pinned(archive)) / "old").exists()
