"""Packages are unpacked without dpkg: what is kept, what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from offline.debian.debs import write_deb
from vlm_ablate.errors import DataError
from vlm_ablate.offline.debian import archive

FILES = {"usr/share/x/a.png": b"a" * 3001, "usr/share/x/deep/b.png": b"b", "usr/share/x/c.ogg": b"c"}


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_only_the_files_that_are_wanted_are_written(tmp_path: Path, compression: str) -> None:
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1:2-3", FILES, compression)
    assert archive.unpack(deb, tmp_path / "out", ["usr/share/x/*.png"]) == 2
    written = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes()
               for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {name: body for name, body in FILES.items() if name.endswith(".png")}


def test_links_are_left_out_even_where_the_pattern_names_them(tmp_path: Path) -> None:
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1", FILES)
    assert archive.unpack(deb, tmp_path / "out", ["*"]) == 3
    assert not (tmp_path / "out/usr/share/alias.png").is_symlink()


def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1", {"../../evil.png": b"x"})
    with pytest.raises(DataError, match="cannot be unpacked"):
        archive.unpack(deb, tmp_path / "deep/out", ["*"])
    assert not (tmp_path / "evil.png").exists()


def test_control_fields(tmp_path: Path) -> None:
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1:2-3", FILES)
    fields = archive.control(deb)
    assert (fields["Package"], fields["Version"], fields["Description"]) == ("x", "1:2-3", "a test")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")
def test_the_test_packages_are_what_dpkg_takes_for_one(tmp_path: Path) -> None:
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1:2-3", FILES)
    told = subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1:2-3"
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path / "out"], check=True)
    assert (tmp_path / "out/usr/share/x/a.png").read_bytes() == FILES["usr/share/x/a.png"]


@pytest.mark.parametrize("keep", [4, 200, 0.9])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1", FILES)
    whole = deb.read_bytes()
    deb.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(DataError, match=r"x_1_all\.deb"):
        archive.control(deb)
        archive.unpack(deb, tmp_path / "out", ["*"])


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "x.deb"
    other.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(DataError, match=r"not a \.deb file"):
        archive.control(other)


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_a_small_package_that_unpacks_to_very_much_is_refused_before_the_disk_is_full(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_ablate.limits.ALWAYS_ALLOWED", 2**20)
    deb = write_deb(tmp_path / "x_1_all.deb", "x", "1", {f"usr/share/{i}.png": bytes(2**20) for i in range(8)},
                    compression)
    with pytest.raises(DataError, match=r"x_1_all\.deb: data\.tar unpacks to more than 1 MiB"):
        archive.unpack(deb, tmp_path / "out", ["*"])
    written = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written <= 2 * 2**20


def test_texts_in_a_package_that_claim_more_than_texts_hold_are_refused_unread(tmp_path: Path) -> None:
    control = write_deb(tmp_path / "x_1_all.deb", "x", "1" * 2**21, FILES)
    with pytest.raises(DataError, match="its control file holds 2,097"):
        archive.control(control)
    name = write_deb(tmp_path / "y_1_all.deb", "y", "1", {"usr/share/" + "a" * 2**21: b""})
    with pytest.raises(DataError, match="a name in the archive claims 2,097"):
        archive.unpack(name, tmp_path / "out", ["*"])
