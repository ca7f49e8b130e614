"""Two hundred bad command lines, drawn from the commands' own options and their types: none ends in a traceback.

A command line is a whole one with one value broken. What is broken by its type alone must be refused; a text may turn
out to be harmless. Nothing here trains, downloads or serves: the rest of each command line leads to an end before that.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from vlm_ablate.cli.app import app

ROOT = Path(__file__).parents[2]
CASES = 200
SECONDS = 90
"""For one command line; the slowest has to import torch."""

_T03 = str(ROOT / "experiments/idefics2/t03_architecture.yaml")
_NOWHERE = ("--home", "{file}/home")
WHOLE: dict[str, tuple[str, ...]] = {
    "list": ("scales",),
    "validate": (_T03, "--scale", "laptop"),
    "plan": (_T03, "--arms", "ar_linear_frozen"),
    "run": (_T03, "--seeds", "0", "--tracking-uri", "file:///a/folder", *_NOWHERE),
    "table": (_T03, *_NOWHERE),
    "explain": (_T03, "--arms", "ar_linear_frozen", "--seeds", "0", *_NOWHERE),
    "ui": _NOWHERE,
    "schema": ("scale",),
    "score": ("anls", "{none}"),
    "export": ("no_such_run", "{out}", *_NOWHERE),
    "generate": ("no_such_run", "what?", *_NOWHERE),
    "parity": ("{none}",),
    "data show": (_T03, "--arm", "no_such_arm"),
    "data stats": (_T03, "--arm", "no_such_arm"),
    "data build-docmatix": ("{empty}", "--out", "{out}"),
    "data fetch": ("maps", "--debs", "{empty}", *_NOWHERE),
    "home migrate": _NOWHERE,
    "home import": ("{none}", *_NOWHERE),
    "pretrain language": ("--wordnet", "{none}", "--out", "{file}/out"),
    "pretrain vision": ("--language", "{none}", "--out", "{file}/out"),
    "evaluate": ("no_such_run", *_NOWHERE),
    "home features": _NOWHERE,
    "new": ("mine", "--out", "{file}/mine.yaml"),
    "prefetch": (_T03, "--scale", "gpu", "--check"),
    "report": (_T03, "--out", "{out}", "--results", "{none}", *_NOWHERE),
    "reproduce": ("--experiments", "idefics2/t03_architecture", "--seeds", "0", "--plan", *_NOWHERE),
    "status": _NOWHERE,
    "sweep apply": ("{sweep}", "{file}/tuned.yaml", *_NOWHERE),
    "sweep plan": ("{none}", *_NOWHERE),
    "sweep plots": ("{sweep}", "--out", "{out}", *_NOWHERE),
    "sweep run": ("{sweep}", "--storage", "ftp://studies", *_NOWHERE),
    "sweep show": ("{sweep}", *_NOWHERE),
}
"""A whole command line of each command."""
SWEEP = f"""\
name: mine
experiment: {{file: {_T03}, arms: ar_linear_frozen}}
space: {{stages.pretrain.learning_rate: {{low: 1.0e-6, high: 1.0, log: true}}}}
budget: {{trials: 1}}
"""

_NUMBERS = ("", "x", "1e", "0x10", "--", "1,5", "9" * 5000 + "x", "½")
_WHOLE_NUMBERS = (*_NUMBERS, "1.5", "nan", "inf", "-99999999999999999999", "99999999999999999999")
_PATHS = ("", "{none}", "{file}/x", "{binary}", "{deep}", "{empty}", "{long}", "..", "/dev/null", "/proc/self/mem",
          "{odd}", "a\nb", "~nobody_here/x", "{list}", "[bold]x[/nothing]")  # fmt: skip
_TEXTS = ("", " ", "..", "{long}", "\x1b[31m", "[bold]x[/nothing]", "💥", "{odd}", "a\nb", "=", ",", "'", "-", "%s",
          "{{}}", "../../evil", "9" * 5000, "~nobody_here/x")  # fmt: skip
_OF_OPTION: dict[str, tuple[str, ...]] = {
    "--seeds": ("0-99999999999", "99999999999999999999", "3-1", "-1", "0,,x", "0-" + "9" * 5000, "٣-٤x", "0-5000"),
    "--tracking-uri": ("http://[::1", "http://h:99999", "http://", "http://127.0.0.1:1", "ftp://x", "://", "sqlite://",
                       "file:///x", "sqlite:////dev/null", "postgresql://me:s3cret@[::1/x?password=s3cret"),
    "--image": ("99999999x99999999", "x", "0x0", "12", "-1x5", "9" * 5000 + "x1", "1x2x3", "size=", "size=x", "=1",
                "size=[[[[", "size=-1"),
    "--set": ("=", "a", "a=b=c", "stages.*.steps=[[[[", "=1", "model..x=1", "stages.*.steps=yes",
              "stages.*.steps=1e400", "x" * 5000 + "=1", "a=" + "[" * 3000, "a=&a [*a,*a]", "model=null"),
    "--row": ("=", "model", "model=", "x=1", "model=[[[", "model=Idefics3-8B", "{long}=1"),
    "--launcher-set": ("=", "threads", "threads=[[[", "nothing=1", "jobs=-1", "jobs=1e400", "a=" + "[" * 3000),
    "--storage": ("ftp://x", "sqlite://", "sqlite:///{binary}", "sqlite:///{long}", "sqlite:////dev/null", "://", "x",
                  "postgresql://me:s3cret@[::1/x", "postgresql://me:s3cret@127.0.0.1:1/x?password=s3cret"),
    "--factor": ("", "..", "model", "model.connector", "stages.*.steps", "model.connector.latents.x", "seeds", "{long}",
                 "evaluation.blind", "{odd}", "a\nb", "a: b"),
    "--values": (",", "1,1", "x", "[[[", "{{}}", "a b, c#d", "'", "null,null", "9" * 5000, "{odd}", "a\nb", "-1,1e400"),
    "--plugin": ("..", "", ".", "a b", "no.such.module", "x.py", "/tmp"),
    "--mirror": ("http://[::1", "nothing", "http://127.0.0.1:1", "file:///etc"),
    "--endpoint": ("http://[::1", "nothing", "http://127.0.0.1:1"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One command line; names in braces stand for files of the test."""

    arguments: tuple[str, ...]
    must_fail: bool


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(`data show`, command) of all commands."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def kinds(annotation: Any) -> set[Any]:
    """The plain types in an annotation: `list[Path] | None` -> {Path}; a Literal stays one."""
    if get_origin(annotation) in (Union, UnionType, list):
        return {kind for inner in get_args(annotation) for kind in kinds(inner)} - {NoneType}
    return {annotation}


def bad_values(parameter: Any) -> tuple[tuple[str, ...], bool]:
    """Values that do not fit a parameter, and whether its type alone says so."""
    for option in parameter.opts:
        if option in _OF_OPTION:
            return _OF_OPTION[option], False
    (kind,) = kinds(parameter.type_descriptor.annotation)
    if get_origin(kind) is Literal:
        return ("nonsense", "", "{long}", "\x1b[31m"), True
    if kind in (int, float):
        values = _WHOLE_NUMBERS if kind is int else (*_NUMBERS, "nan", "inf")
        ends = [(parameter.min, -1), (parameter.max, 1)]
        return (*values, *(str(end + step) for end, step in ends if end is not None)), True
    return (_PATHS if kind is Path else _TEXTS), False


def draw(number: int) -> Case:
    """Case `number`: every command in turn, then a parameter and a value by chance."""
    rng = random.Random(f"bad input {number}")
    known = list(commands())
    name, command = known[number % len(known)]
    whole = list(WHOLE[name])
    parameters = [p for p in command.params if p.name != "help" and not getattr(p, "is_bool_flag", False)]
    broken = rng.choice(parameters)
    values, must_fail = bad_values(broken)
    value = rng.choice(values)
    if broken.param_type_name == "argument":
        place = [p.name for p in parameters if p.param_type_name == "argument"].index(broken.name)
        whole[place : place + 1] = [value]
        return Case((*name.split(), *whole), must_fail)
    option = rng.choice(broken.opts)
    if option in whole:
        place = whole.index(option)
        del whole[place : place + 2]
    return Case((*name.split(), *whole, f"{option}={value}" if option.startswith("--") else option + value), must_fail)


def make_places(folder: Path) -> dict[str, str]:
    """Files and folders that command lines name in braces."""
    (folder / "file").write_text("a file")
    (folder / "binary").write_bytes(bytes(range(256)) * 64)
    (folder / "deep").write_text("[" * 3000)
    (folder / "list").write_text("- 1\n- 2\n")
    (folder / "sweep").write_text(SWEEP)
    (folder / "empty").mkdir()
    made = {name: str(folder / name) for name in ("file", "binary", "deep", "list", "sweep", "empty", "none", "out")}
    return made | {"long": "a" * 5000, "odd": f"{folder}/name\udcff"}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "places").mkdir()
    return make_places(tmp_path / "places")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of the test's own, with nothing of the caller's environment."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "home"))


def test_every_command_has_a_whole_command_line_here() -> None:
    assert {name for name, _ in commands()} == set(WHOLE)


def problem_of(case: Case, places: dict[str, str]) -> str:
    """What is wrong with how a command line ends; "" when nothing is."""
    arguments = [_filled(argument, places) for argument in case.arguments]
    shown = [a if len(a) < 80 else f"{a[:77]}..." for a in arguments]

    def late(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still going after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = result.stderr
    faults = {
        "it raised": result.exception is not None and not isinstance(result.exception, SystemExit),
        "it did not expect that, or hung": any(
            word in said for word in ("Traceback", "a fault of vlm-ablate", "TimeoutError")
        ),
        "its status is wrong": result.exit_code not in ((1, 2) if case.must_fail else (0, 1, 2)),
        "it failed without a word": not said.strip() and result.exit_code != 0,
        "it told a secret": "s3cret" in result.output,
    }
    found = ", ".join(fault for fault, there in faults.items() if there)
    return f"{found}: {shown} ended with {result.exit_code} {result.exception!r}: {said[-500:]}" if found else ""


@pytest.mark.parametrize("number", range(CASES))
def test_a_bad_command_line_ends_with_one_message_and_the_right_status(number: int, places: dict[str, str]) -> None:
    assert problem_of(draw(number), places) == ""


def _filled(argument: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        argument = argument.replace(f"{{{name}}}", value)
    return argument
