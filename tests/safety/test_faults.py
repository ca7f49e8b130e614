"""The end of every command: one line, the right status, whatever happens; nothing secret in what is kept."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vlm_ablate import registry
from vlm_ablate.cli import app as app_module
from vlm_ablate.cli.app import app
from vlm_ablate.cli.faults import message_of
from vlm_ablate.errors import StorageError, VlmAblateError

ROOT = Path(__file__).parents[2]


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Result:
    """`list scales` in whose middle something fails."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("vlm_ablate.cli.list_._print", fail)
    return CliRunner().invoke(app, ["list", "scales"])


def test_an_error_that_nobody_foresaw_is_one_line_and_a_private_file_without_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["vlm-ablate", "run", "x", "--tracking-uri", "http://me:s3cret@host"])
    result = broken(monkeypatch, ValueError("no such thing\nat http://me:s3cret@host/?token=s3cret"))
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert said[0] == ("error: a fault of vlm-ablate, not of what you asked: ValueError: no such thing at "
                       "http://***@host/?token=***")  # fmt: skip
    (kept,) = tmp_path.iterdir()
    assert said[1] == f"hint: please report it with the file {kept}" and len(said) == 2
    text = kept.read_text()
    assert "Traceback" in text and "ValueError: no such thing" in text and "vlm-ablate run x" in text
    assert "s3cret" not in text and stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_where_no_file_can_be_kept_the_line_is_there_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    result = broken(monkeypatch, KeyError("x"))
    assert result.exit_code == 1 and "--debug shows where it happened" in result.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/root/x"), "error: /root/x: permission denied"),
        (IsADirectoryError(21, "Is a directory", b"/tmp"), "error: /tmp: is a directory"),
        (OSError(28, "No space left on device"), "error: the output cannot be written: no space left on device"),
        (MemoryError(), "error: the memory of this machine does not suffice"),
        (VlmAblateError("as it says"), "error: as it says"),
    ],
)
def test_what_is_of_the_machine_says_so_and_asks_for_no_report(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    result = broken(monkeypatch, error)
    assert result.exit_code == 1 and result.stderr.splitlines()[0] == message and "report" not in result.stderr


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken(monkeypatch, KeyboardInterrupt()).exit_code == 130


def test_foreseen_errors_pass_unchanged() -> None:
    error = StorageError("full")
    assert message_of(error) is error


def test_a_plugin_that_is_installed_and_broken_is_named_once_and_the_command_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_module, "_warned", set())
    registry.load_parts()
    monkeypatch.setitem(registry.broken_plugins, "mine (my_parts)", "ImportError: no module named torchx")
    for told in (1, 0):
        result = CliRunner().invoke(app, ["list", "connectors"])
        assert result.exit_code == 0 and "perceiver" in result.stdout
        assert result.stderr.count("mine (my_parts) is left out: ImportError: no module named torchx") == told


# --- streams ----------------------------------------------------------------------------------------------------------


def call(*arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m vlm_ablate {' '.join(arguments)} {shell}"
    told = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=told, capture_output=True, timeout=240)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_of_the_terminal_will_do(encoding: str) -> None:
    told = call("list", "papers", PYTHONIOENCODING=encoding)
    assert told.returncode == 0 and b"Traceback" not in told.stderr
    assert b"idefics2_t03" in told.stdout


def test_output_that_cannot_be_written_is_one_line_and_status_1() -> None:
    told = call("list", "papers", shell="> /dev/full")
    assert told.returncode == 1
    assert re.fullmatch(rb"error: the output cannot be written: .*no space left on device\n", told.stderr)


def test_a_reader_that_leaves_ends_the_command_without_a_word() -> None:
    told = call("list", shell="| head -n 1 > /dev/null; exit ${PIPESTATUS[0]}")
    assert told.stderr == b"" and told.returncode in (0, 141)  # 0: it was done before the reader left
    told = call("schema", shell="| true; exit ${PIPESTATUS[0]}")
    assert told.stderr == b"" and told.returncode in (0, 141)


def test_output_that_nobody_opened_is_no_error() -> None:
    told = call("list", "scales", shell=">&-")
    assert told.returncode == 0 and b"Traceback" not in told.stderr
