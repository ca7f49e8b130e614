"""The files `.lease-N` of a folder, and the processes that they name. No torch here.

Whoever makes the file with the next number has the lease (see `lease.py`). It is made by linking, or by exclusive
creation where there are no links: of several takers exactly one gets a number.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

LONG_SECONDS = 600.0
"""Age at which what a waiting process has left is rubbish, unless leases last for longer."""

_FILE = re.compile(r"\.lease-(\d+)(-free)?")
_CANDIDATE = re.compile(r"\.lease-[0-9a-f]{16}\.new")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


def lease_file(folder: Path, number: int) -> Path:
    """The file of that number."""
    return folder / f".lease-{number}"


def candidate_file(folder: Path) -> Path:
    """A file for who waits, to be linked to the next number."""
    return folder / f".lease-{secrets.token_hex(8)}.new"


@dataclass(frozen=True)
class Owner:
    """Who holds a lease, as its file tells."""

    host: str
    pid: int
    started: int | None
    """Start of the process in clock ticks since boot, where the system tells: numbers of processes are used again."""
    system: str
    """Tells the running system, and the numbering of processes in it, from any other."""
    id: str
    """Random: one acquisition."""
    ttl: float
    """Seconds without renewal after which it may be taken."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def dead(self) -> bool:
        """Whether it is a process of this machine that has ended. False where that cannot be known."""
        return self.system == this_system() and process_start(self.pid) != (self.started, True)


def this_owner(ttl: float) -> Owner:
    """This process, as it takes one lease."""
    pid = os.getpid()
    return Owner(socket.gethostname(), pid, process_start(pid)[0], this_system(), secrets.token_hex(8), ttl)


def claim(candidate: Path, file: Path, owner: Owner) -> bool:
    """Make `file` ours unless it is another's; what lower numbers left is removed."""
    folder = file.parent
    try:
        os.utime(candidate)
        os.link(candidate, file)
    except FileExistsError:
        if (found := read_owner(file)) is None or found.id != owner.id:  # a network may repeat what was done already
            return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            if error.errno == errno.ENOENT:
                return False
            raise
        try:
            write_owner(file, owner)
        except FileExistsError:
            return False
    token = _number(file)
    highest, free = highest_of(folder)
    if (highest, free) != (token, False):  # we were slow: others have had this number, and are beyond it
        file.unlink(missing_ok=True)
        return False
    for name in os.listdir(folder):
        below = (named := _FILE.fullmatch(name)) and int(named[1]) < token
        if below or (_CANDIDATE.fullmatch(name) and _forgotten(folder / name, owner.ttl)):
            (folder / name).unlink(missing_ok=True)
    return True


def _forgotten(candidate: Path, ttl: float) -> bool:
    """Whether a waiting process was killed: those that wait write theirs anew all the time."""
    try:
        return time.time() - candidate.stat().st_mtime > max(10 * ttl, LONG_SECONDS)
    except OSError:
        return False


def write_owner(path: Path, owner: Owner) -> float:
    """Write an owner to a new file, or show again that it is there; returns the file system's time, s.

    Raises:
        FileExistsError: the file of another.
    """
    if _CANDIDATE.fullmatch(path.name) and path.exists():
        os.utime(path)
        return path.stat().st_mtime
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        os.write(handle, json.dumps(asdict(owner)).encode())
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def read_owner(file: Path) -> Owner | None:
    """The owner that a file names; None when it is gone or tells none (it may be in the making)."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as opened:
            body = json.loads(opened.read(4096))
        owner = Owner(**body)
        texts = all(isinstance(text, str) for text in (owner.host, owner.system, owner.id))
        numbers = isinstance(owner.pid, int) and isinstance(owner.ttl, (int, float))
        return owner if texts and numbers and isinstance(owner.started, int | None) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            return None
        raise


def highest_of(folder: Path) -> tuple[int, bool]:
    """The highest number in a folder, and whether it was given back; 0 without any."""
    try:
        found = [named for name in os.listdir(folder) if (named := _FILE.fullmatch(name))]
    except (FileNotFoundError, NotADirectoryError):
        return 0, True
    return max(((int(named[1]), named[2] is not None) for named in found), default=(0, True))


def _number(file: Path) -> int:
    named = _FILE.fullmatch(file.name)
    assert named is not None
    return int(named[1])


@cache
def this_system() -> str:
    """This boot of this machine, and this numbering of processes: containers of one machine have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> tuple[int | None, bool]:
    """When a process of this system started, in clock ticks since boot (None: not known), and whether it lives."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rpartition(")")[2].split()
        return int(fields[18]), state not in "ZX"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None, False
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None, False
    except OSError:
        pass
    return None, True
