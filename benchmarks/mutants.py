"""Faults put into the code on purpose, one at a time: the tests that are named with each must notice.

    python benchmarks/mutants.py [--only runs/] [--minutes 30] [--out mutants.json]

Works on a copy of the repository. Tests run in processes that are forked from one in which the large libraries are
imported already. They stand in `mutants.yaml`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SECONDS = 300
"""For the tests of one mutant; what takes longer counts as noticed."""


PRELOADED = ("torch", "transformers.models.llama.modeling_llama", "transformers.models.siglip.modeling_siglip", "peft",
             "lightning.pytorch", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure",
             "datasets", "scipy.stats", "pytest", "hypothesis", "PIL.Image", "typer.testing", "rich.table")  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A replacement of text in a file of the package, and arguments of pytest that should then fail."""

    file: str
    old: str
    new: str
    tests: str

    @property
    def name(self) -> str:
        """File and the text that is replaced, in short."""
        return f"{self.file}: {' '.join(self.old.split())[:60]} -> {' '.join(self.new.split())[:40] or 'nothing'}"

    def apply(self, root: Path) -> None:
        """Change the file below a copy of the repository.

        Raises:
            ValueError: the text is not there exactly once.
        """
        path = root / "vlm_ablate" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text is there {text.count(self.old)} times")
        path.write_text(text.replace(self.old, self.new))


def mutants() -> list[Mutant]:
    """All, in the order of `mutants.yaml`."""
    return [Mutant(**row) for row in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())]


def copy_of_repository(folder: Path) -> Path:
    """What tests need, in a folder."""
    for name in ("vlm_ablate", "tests", "experiments", "results", "benchmarks", "pyproject.toml", "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
        elif source.exists():
            shutil.copyfile(source, folder / name)
    return folder


def noticed_by(root: Path, tests: str) -> str | None:
    """The test that fails in that copy, of these, run in a process of their own; None: all pass."""
    log = root / "pytest.log"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(root)
        sys.path[:0] = [str(root), str(root / "tests")]
        os.environ["PYTHONPATH"] = str(root)
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        import pytest

        os._exit(min(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *shlex.split(tests)])), 100))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2):
                print(f"    pytest ended with {code}: {tests}", flush=True)
            if code == 2:
                return "interrupted"  # as by a signal that nobody held
            said = re.search(r"^(?:FAILED|ERROR) (.*)", log.read_text(errors="replace"), re.MULTILINE)
            return (said[1][:200] if said else "failed") if code == 1 else None
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"not done after {SECONDS} s"


def main() -> int:
    """Try each mutant; print the share that was noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="mutants whose name holds this")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    known = {mutant.name: mutant for mutant in mutants()}
    before = json.loads(args.out.read_text())["noticed_by"] if args.out.exists() else {}
    done: dict[str, str | None] = {name: by for name, by in before.items() if name in known}
    chosen = [mutant for name, mutant in known.items() if args.only in name and name not in done]
    begun = time.monotonic()
    for module in PRELOADED:
        __import__(module)
    for number, mutant in enumerate(chosen, 1):
        if time.monotonic() - begun > 60 * args.minutes:
            print("time is up", flush=True)
            break
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            root = copy_of_repository(Path(folder))
            mutant.apply(root)
            by = done[mutant.name] = noticed_by(root, mutant.tests)
        seconds = time.monotonic() - started
        print(f"{number:3}/{len(chosen)} {seconds:5.1f} s  {mutant.name}: {by or 'LIVES'}", flush=True)
        noticed = sum(by is not None for by in done.values())
        told = {"mutants": len(known), "tried": len(done), "noticed": noticed, "noticed_by": done}
        args.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    lives = [name for name, by in done.items() if by is None]
    print(f"{len(done) - len(lives)} of {len(done)} mutants noticed ({1 - len(lives) / max(1, len(done)):.0%})")
    return 1 if lives else 0


if __name__ == "__main__":
    sys.exit(main())
