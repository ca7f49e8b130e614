"""Tiny .deb files, written byte by byte as deb(5) says."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def write_deb(path: Path, package: str, version: str, files: Mapping[str, bytes], compression: str = "xz") -> Path:
    """A package whose data archive holds `files` (path -> content), a folder entry and a link."""
    control = f"Package: {package}\nVersion: {version}\nDescription: a test\n with a second line\n".encode()
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar.{compression}": _tar({"./control": control}, compression),
        f"data.tar.{compression}": _tar({f"./{name}": body for name, body in files.items()}, compression, link=True),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, body in members.items():
            header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n"
            file.write(header.encode() + body + b"\n" * (len(body) % 2))
    return path


def _tar(files: Mapping[str, bytes], compression: str, link: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        if link:
            folder = tarfile.TarInfo("./usr")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            alias = tarfile.TarInfo("./usr/share/alias.png")
            alias.type, alias.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(alias)
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return buffer.getvalue()
