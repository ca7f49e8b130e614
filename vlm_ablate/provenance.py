"""Where results come from: code revision, library versions, machine, material. Nothing that identifies a person."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "lightning", "mlflow", "numpy", "pillow")


@cache
def git_revision() -> str:
    """Commit of this checkout, with `+changes` when the package differs from it; else `release VERSION`."""
    package = Path(__file__).resolve().parent
    folder = package.parent
    if (folder / ".git").exists():
        try:
            commit = _git(folder, "rev-parse", "HEAD")
            changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", package.name)
            return commit + ("+changes" if changed else "")
        except (OSError, subprocess.SubprocessError):
            pass
    return f"release {_version('vlm-ablate')}"


@cache
def code_digest() -> str:
    """16 hex digits over this package's code as it lies here, changed or not."""
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Installed version of Python and of each library that can change a result."""
    found = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version()} | {name: number for name, number in found.items() if number}


def machine() -> str:
    """Processor, core count and, once torch has found any, accelerators."""
    text = f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        text += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return text


def threads() -> str:
    """Threads that one CPU operation may use: it changes the last bits of results."""
    torch = sys.modules.get("torch")
    return str(torch.get_num_threads()) if torch is not None else os.environ.get("OMP_NUM_THREADS", "default")


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


@dataclass(frozen=True)
class AssetRecord:
    """Provenance of one source of pictures, text, tables or weights, recorded in every run that uses it."""

    name: str
    package: str
    version: str
    licence: str
    attribution: str
    sha256: str
    """Of the named file, or of the sorted listing of names and sizes when the asset is many files."""

    def to_dict(self) -> dict[str, str]:
        """Plain data for a tag or a file."""
        return asdict(self)
