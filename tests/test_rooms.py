"""The rooms of the package import only downwards, no files import each other in a circle, light rooms stay light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vlm_ablate

ROOT = Path(vlm_ablate.__file__).parent

# From the ground up. Rooms in one row may know each other.
FLOORS = [
    ["errors"],
    ["registry", "events", "storage", "lease", "lease_files", "sealed", "limits", "masking", "csv_text", "trust",
     "home", "hub", "provenance", "papers", "__init__"],
    ["config"],
    ["tracking"],
    ["models"],
    ["pdf"],
    ["data"],
    ["training"],
    ["evaluation"],
    ["testing", "checkpoints"],
    ["accounting"],
    ["docmatix"],
    ["offline"],
    ["runs"],
    ["launch"],
    ["reporting"],
    ["sweeps"],
    ["cli"],
    ["api"],
    ["__main__"],
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "lightning", "mlflow", "datasets", "accelerate", "optuna"}
LIGHT = ["errors", "registry", "events", "storage", "lease", "lease_files", "sealed", "limits", "masking", "csv_text",
         "trust", "home", "hub", "provenance", "papers", "config", "tracking", "launch", "reporting", "sweeps", "cli",
         "api"]  # fmt: skip


def room_of(module: str) -> str:
    """The room of a dotted name below the package."""
    return (module.split(".")[1:] or ["__init__"])[0]


def name_of(file: Path) -> str:
    """Dotted name of a file; of a package's face, the package's."""
    return ".".join(("vlm_ablate", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(file): file for file in FILES}


def imports(body: list[ast.stmt], *, inside: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what is imported: at once, or (`inside`) in functions and for type checkers too."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not inside:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name if name in MODULES else node.module) for name in inner)
        elif inside or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            below = [n for n in ast.iter_child_nodes(node) if isinstance(n, (ast.stmt, ast.excepthandler))]
            yield from imports(below, inside=inside)


def of_file(file: Path, *, inside: bool) -> list[tuple[int, str]]:
    return list(imports(ast.parse(file.read_text()).body, inside=inside))


def test_every_room_has_a_floor() -> None:
    assert {room_of(name) for name in MODULES} <= set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_only_go_down(file: Path) -> None:
    own = room_of(name_of(file))
    for line, module in of_file(file, inside=True):
        if module.split(".")[0] == "vlm_ablate":
            other = room_of(module)
            allowed = other == own or FLOOR.get(other, -1) <= FLOOR[own]
            assert allowed, f"{file.relative_to(ROOT)}:{line} imports {module}, which is above {own}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {
        name: {module for _, module in of_file(file, inside=True) if module in MODULES and module != name}
        for name, file in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " -> ".join(error.args[1]))


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_import_nothing_heavy(room: str) -> None:
    files = [file for name, file in MODULES.items() if room_of(name) == room]
    assert files
    for file in files:
        for line, module in of_file(file, inside=False):
            assert module.split(".")[0] not in HEAVY, f"{file.relative_to(ROOT)}:{line} imports {module} at once"
