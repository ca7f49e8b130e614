"""Fetching: from a folder, from a mirror, from apt-get; checked, kept whole, done once."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from offline.debian.debs import write_deb
from vlm_ablate.cli import console
from vlm_ablate.cli.app import app
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.home import Home
from vlm_ablate.offline.debian import catalogue as listed
from vlm_ablate.offline.debian.catalogue import COLLECTIONS, MANIFEST, Package, catalogue
from vlm_ablate.offline.debian.fetch import fetch
from vlm_ablate.storage import file_sha256

FILES = {"usr/share/kgeography/a.kgm": b"<map/>", "usr/share/kgeography/a.png": b"png", "usr/share/doc/x": b"no"}


@pytest.fixture
def debs(tmp_path: Path) -> Path:
    """A folder with the package of the maps, in another version than the catalogue's."""
    folder = tmp_path / "debs"
    folder.mkdir()
    write_deb(folder / "kgeography-data_9.9_all.deb", "kgeography-data", "9.9", FILES)
    return folder


@pytest.fixture
def maps() -> Package:
    return catalogue()["kgeography-data"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_every_package_states_version_checksum_licence_and_files() -> None:
    assert {p.collection for p in catalogue().values()} == set(COLLECTIONS)
    for package in catalogue().values():
        assert re.fullmatch(r"[0-9a-f]{64}", package.sha256) and package.bytes > 10_000, package.name
        assert package.licence and package.attribution and package.keep
        assert package.pool.startswith("pool/main/") and package.pool.endswith("_all.deb")
        assert f"/{package.name}_" in package.pool and package.version.partition(":")[2] in package.pool


def test_from_a_folder(maps: Package, home: Home, debs: Path) -> None:
    found = fetch(maps, home=home, debs=debs)
    folder = maps.folder(home)
    assert (found.version, found.files, found.fresh, found.as_tried) == ("9.9", 2, True, False)
    assert (folder / "usr/share/kgeography/a.kgm").read_bytes() == b"<map/>"
    assert not (folder / "usr/share/doc").exists()
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["sha256"] == file_sha256(debs / "kgeography-data_9.9_all.deb")


def test_what_is_here_is_not_fetched_again(maps: Package, home: Home, debs: Path, tmp_path: Path) -> None:
    fetch(maps, home=home, debs=debs)
    before = {p: p.stat().st_mtime_ns for p in home.root.rglob("*")}
    again = fetch(maps, home=home, debs=tmp_path / "nowhere")
    assert (again.version, again.files, again.fresh) == ("9.9", 2, False)
    assert {p: p.stat().st_mtime_ns for p in home.root.rglob("*")} == before


def test_the_remains_of_a_kill_are_replaced(maps: Package, home: Home, debs: Path) -> None:
    half = maps.folder(home) / "usr/share/kgeography"
    half.mkdir(parents=True)
    (half / "old.png").write_bytes(b"old")
    scratch = maps.folder(home).with_name(".kgeography-data.x1.partial")
    scratch.mkdir()
    (scratch / "kgeography-data.deb").write_bytes(b"half")
    assert maps.manifest(home) is None
    fetch(maps, home=home, debs=debs)
    assert not (half / "old.png").exists() and (half / "a.png").exists() and not scratch.exists()


def test_what_another_process_is_fetching_is_waited_for(maps: Package, home: Home, debs: Path) -> None:
    folder = maps.folder(home)
    folder.parent.mkdir(parents=True)
    heard: list[str] = []

    def other_ends(what: str, done: int) -> None:
        heard.append(what)
        folder.mkdir()
        (folder / MANIFEST).write_text(json.dumps({"version": "8", "files": 3}))
        fcntl.flock(lock, fcntl.LOCK_UN)

    with (folder.parent / ".kgeography-data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = fetch(maps, home=home, debs=debs, progress=other_ends)
    assert (found.version, found.files, found.fresh) == ("8", 3, False)
    assert heard == ["waiting for another process that fetches it"]


def test_a_known_version_with_another_checksum_is_refused(maps: Package, home: Home, debs: Path) -> None:
    with pytest.raises(DataError, match="SHA-256"):
        fetch(replace(maps, version="9.9"), home=home, debs=debs)
    assert maps.manifest(home) is None and [p.name for p in home.assets.glob("debian/*")] == [".kgeography-data.lock"]


def test_a_known_version_with_its_checksum_is_taken(maps: Package, home: Home, debs: Path) -> None:
    digest = file_sha256(debs / "kgeography-data_9.9_all.deb")
    assert fetch(replace(maps, version="9.9", sha256=digest), home=home, debs=debs).as_tried


def test_another_package_is_refused(maps: Package, home: Home, debs: Path) -> None:
    write_deb(debs / "kgeography-data_9.9_all.deb", "kgeography", "9.9", FILES)
    with pytest.raises(DataError, match="'kgeography', not 'kgeography-data'"):
        fetch(maps, home=home, debs=debs)


def test_a_package_without_the_wanted_files_is_refused(maps: Package, home: Home, debs: Path) -> None:
    write_deb(debs / "kgeography-data_9.9_all.deb", "kgeography-data", "9.9", {"usr/share/moved.png": b""})
    with pytest.raises(DataError, match="holds none of"):
        fetch(maps, home=home, debs=debs)
    assert maps.manifest(home) is None


@pytest.fixture
def mirror(tmp_path: Path, debs: Path) -> Iterator[str]:
    """A web server over a folder laid out like a mirror."""
    root = tmp_path / "mirror"
    (root / "pool").mkdir(parents=True)
    (root / "pool/maps.deb").write_bytes((debs / "kgeography-data_9.9_all.deb").read_bytes())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_from_a_mirror(maps: Package, home: Home, mirror: str) -> None:
    heard: list[tuple[str, int]] = []
    found = fetch(replace(maps, pool="pool/maps.deb"), home=home, mirror=mirror, progress=lambda *a: heard.append(a))
    assert found.files == 2 and ("unpacking", maps.bytes) in heard
    assert heard[0][0] == "downloading" and heard[0][1] > 0


def test_a_mirror_without_the_package_is_named(maps: Package, home: Home, mirror: str) -> None:
    with pytest.raises(AssetMissing, match=r"127\.0\.0\.1.*has it no more"):
        fetch(maps, home=home, mirror=mirror)
    with pytest.raises(AssetMissing, match=r"cannot be fetched from http://127\.0\.0\.1:9/.*: there is no connection"):
        fetch(maps, home=home, mirror="http://127.0.0.1:9")


def _program(folder: Path, body: str) -> None:
    """An apt-get of the test's own."""
    folder.mkdir(exist_ok=True)
    program = folder / "apt-get"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


def test_apt_get_is_asked_to_download_and_nothing_else(
    maps: Package, home: Home, debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin", f'echo "$@" > {tmp_path}/asked; cp {debs}/kgeography-data_9.9_all.deb .')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert fetch(maps, home=home).files == 2
    assert (tmp_path / "asked").read_text().split() == ["download", "kgeography-data"]


def test_what_apt_get_says_is_passed_on(
    maps: Package, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin", "echo 'E: Unable to locate package kgeography-data' >&2; exit 100")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AssetMissing, match="Unable to locate package") as error:
        fetch(maps, home=home)
    assert "apt-get update" in str(error.value) and "--mirror" in str(error.value)


def test_a_machine_without_apt_get_is_told_what_to_do(
    maps: Package, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetMissing, match="no apt-get") as error:
        fetch(maps, home=home)
    assert "--debs" in str(error.value)


def test_what_was_not_fetched_is_missing_with_the_command(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(home.root))
    with pytest.raises(AssetMissing, match="debian-policy, developers-reference, debian-faq, gnuplot-doc") as error:
        listed.folders("documents")
    assert "vlm-ablate data fetch documents" in str(error.value)


def test_the_command(home: Home, debs: Path) -> None:
    def told(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["data", "fetch", *words, "--home", str(home.root)])
        assert result.exit_code == code, result.output + str(result.exception)
        return " ".join((result.output + str(result.exception or "")).split())

    assert "fetched kgeography-data 9.9 2 files GPL-2+" in told("maps", "--debs", str(debs))
    assert "tried with 4:22.12.3-1" in told("maps")
    shown = told("--list")
    assert all(name in shown for name in catalogue()) and "9.9" in shown


def test_stopped_it_says_that_it_goes_on(home: Home, debs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlm_ablate.offline.debian.archive.unpack", stop)
    result = CliRunner().invoke(app, ["data", "fetch", "maps", "--debs", str(debs), "--home", str(home.root)])
    assert result.exit_code == 130 and "the same command goes on from there" in " ".join(result.output.split())
    assert [p.name for p in home.assets.glob("debian/*")] == [".kgeography-data.lock"]


def test_names_are_whole_in_80_columns(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Console(width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "out", lambda: narrow)
    with narrow.capture() as captured:
        CliRunner().invoke(app, ["data", "fetch", "--list", "--home", str(home.root)])
    shown = captured.get()
    assert all(name in shown for name in catalogue())


def test_a_package_that_cannot_be_had_does_not_stop_the_others(home: Home, debs: Path) -> None:
    result = CliRunner().invoke(app, ["data", "fetch", "stamps", "maps", "--debs", str(debs), "--home", str(home.root)])
    said = " ".join(f"{result.output} {result.exception}".split())
    assert result.exit_code != 0 and "fetched kgeography-data 9.9" in said
    assert "has no tuxpaint-stamps-default_*.deb" in said and "1 of 2 packages not fetched" in said


def test_an_unknown_collection_is_named_with_the_nearest(home: Home) -> None:
    result = CliRunner().invoke(app, ["data", "fetch", "map", "--home", str(home.root)])
    assert result.exit_code != 0 and "did you mean 'maps'?" in f"{result.output}{result.exception}"
