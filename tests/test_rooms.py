"""The rooms of the package import only downwards, and those that must answer at once import nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlm_ablate

ROOT = Path(vlm_ablate.__file__).parent

# From the ground up. Rooms in one row may know each other.
FLOORS = [
    ["errors"],
    ["registry", "events", "home", "hub_access", "papers", "__init__"],
    ["config"],
    ["models"],
    ["data"],
    ["accounting"],
    ["training"],
    ["evaluation", "pretrain"],
    ["artifacts"],
    ["tracking"],
    ["finished"],
    ["scoring"],
    ["recording"],
    ["run"],
    ["launch"],
    ["sweeps"],
    ["reporting"],
    ["answering", "exports", "model_card", "parity"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "lightning", "mlflow", "datasets", "accelerate"}
LIGHT = ["errors", "registry", "events", "home", "hub_access", "papers", "config", "launch", "reporting", "cli"]


def room_of(module: str) -> str:
    """The room of a dotted name below the package. The plan of a run looks at both models and data, from above."""
    parts = module.split(".")[1:] or ["__init__"]
    return "accounting" if parts[:2] == ["models", "accounting"] else parts[0]


def imports(body: list[ast.stmt], *, inside: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what is imported when the file runs; `inside`: in its functions too. Not types."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = node.module == "vlm_ablate"
            yield from ((node.lineno, f"vlm_ablate.{a.name}") for a in node.names if package)
            if not package:
                yield node.lineno, node.module
        elif inside or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports([n for n in ast.iter_child_nodes(node) if isinstance(n, (ast.stmt, ast.excepthandler))],
                               inside=inside)  # fmt: skip


def name_of(file: Path) -> str:
    return ".".join(("vlm_ablate", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_every_room_has_a_floor() -> None:
    assert {room_of(name_of(file)) for file in FILES} <= set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_only_go_down(file: Path) -> None:
    own = room_of(name_of(file))
    for line, module in imports(ast.parse(file.read_text()).body, inside=True):
        if module.split(".")[0] == "vlm_ablate":
            other = room_of(module)
            allowed = other == own or FLOOR.get(other, -1) <= FLOOR[own]
            assert allowed, f"{file.relative_to(ROOT)}:{line} imports {module}, which is above {own}"


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_import_nothing_heavy(room: str) -> None:
    files = [file for file in FILES if room_of(name_of(file)) == room]
    assert files
    for file in files:
        for line, module in imports(ast.parse(file.read_text()).body, inside=False):
            assert module.split(".")[0] not in HEAVY, f"{file.relative_to(ROOT)}:{line} imports {module} at once"
