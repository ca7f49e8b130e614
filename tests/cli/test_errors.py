"""Every error that a user can meet: it comes out of other processes whole, and ends a command with its own status."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import pickle
import re
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import Result

import vlm_ablate
from tests.command import call
from vlm_ablate import errors
from vlm_ablate.cli.console import print_error
from vlm_ablate.cli.faults import message_of
from vlm_ablate.errors import ConfigError, Problem, StorageError, UnknownNameError, VlmAblateError
from vlm_ablate.launch.base import LaunchInterrupted
from vlm_ablate.runs.outcome import RunOutcome

PACKAGE = Path(vlm_ablate.__file__).parent
LINES = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" []/"), min_size=1, max_size=30).map(
    lambda text: " ".join(text.split()) or "-"
)


def kinds() -> list[type[VlmAblateError]]:
    """Every class of these errors that any file of the package defines."""
    found: dict[str, type[VlmAblateError]] = {name: each for name, each in vars(errors).items() if _is_one(each)}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) in found for base in node.bases):
                module = ".".join(("vlm_ablate", *file.relative_to(PACKAGE).with_suffix("").parts))
                found[node.name] = getattr(import_module(module), node.name)
    return list(found.values())


def _is_one(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, VlmAblateError)


def example(kind: type[VlmAblateError]) -> VlmAblateError:
    """One of these errors with all that it can say."""
    if issubclass(kind, ConfigError):
        return kind([Problem("a.yaml:3", "arms.one", "unknown key", "on"), Problem("b.yaml", "", "x")], hint="look")
    if issubclass(kind, UnknownNameError):
        return kind("arm", "ar_linea", ["ar_linear", "other"])
    if issubclass(kind, LaunchInterrupted):
        return kind([RunOutcome("1", "a", "finished")], 3, killed=1)
    needed = [p for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    error = kind(*(f"this {parameter.name} is wrong" for parameter in needed))
    error.hint = "do that"
    return error


KINDS = kinds()


def ended_by(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A command in whose middle it is raised."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("vlm_ablate.cli.list_._print", fail)
    return call("list", "scales")


def test_they_are_found() -> None:
    assert {"LeaseLost", "CellError", "StudyDiffers", "EndpointError", "Diverged"} < {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_of_another_process_says_there_what_it_says_here(kind: type[VlmAblateError]) -> None:
    error = example(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and vars(again) == vars(error) and again.args == error.args
    assert (str(again), again.exit_code) == (str(error), error.exit_code)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_its_status_is_one_of_those_that_are_documented(
    kind: type[VlmAblateError], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = example(kind)
    result = ended_by(error, monkeypatch)
    assert result.exit_code == kind.exit_code and kind.exit_code in (1, 2, 130), "failed, asked wrongly, interrupted"
    assert result.stdout == "" and "Traceback" not in result.stderr and "report" not in result.stderr
    told = result.stderr.splitlines()
    assert error.hint and told[-1] == f"hint: {error.hint}"
    if not isinstance(error, ConfigError):
        assert told[:-1] == [f"error: {error.message}"]


@settings(max_examples=40, deadline=None)
@given(
    problems=st.lists(st.builds(Problem, LINES, LINES | st.just(""), LINES, st.none() | LINES), min_size=1, max_size=4)
)
def test_every_problem_of_a_file_is_shown_in_its_order_letter_by_letter(problems: list[Problem]) -> None:
    with redirect_stderr(StringIO()) as written:
        print_error(ConfigError(problems))
    told = written.getvalue().splitlines()
    count = len(problems)
    expected = [f"{count} problem{'s' if count > 1 else ''} found"]
    for each in problems:
        near = f"  did you mean {each.nearest!r}?" if each.nearest else ""
        expected += [each.file + (f"  {each.path}" if each.path else ""), f"    {each.message}{near}"]
    assert told == expected


@pytest.mark.parametrize("name", ["/a/file", b"/a/\xfffile", 99, None], ids=repr)
@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO, errno.ENOSPC, errno.EBADF])
def test_what_the_machine_refuses_is_told_with_what_it_is_about(
    number: int, name: str | bytes | int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = OSError(number, os.strerror(number), name)
    told = message_of(error)
    assert os.strerror(number).lower() in str(told).lower() and told.exit_code == 1
    if name is not None:
        shown = f"file {name}" if isinstance(name, int) else os.fsdecode(name)
        assert isinstance(told, StorageError) and told.message.startswith(f"{shown}: ")
        assert not any(tmp_path.iterdir()), "a refusal is no fault to report"


def test_a_name_without_known_ones_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(UnknownNameError("arm", "one", []))
    assert re.sub(r"\s+", " ", capsys.readouterr().err) == "error: unknown arm 'one' hint: known: none registered "


def test_a_module_in_c_whose_import_is_interrupted_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(*given: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ImportError("initialization failed") from stop

    monkeypatch.setattr("vlm_ablate.cli.home.open_home", imported)
    result = call("status")
    assert (result.exit_code, "fault" in result.stderr) == (130, False), result.stderr
