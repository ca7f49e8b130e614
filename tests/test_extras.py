"""A dependency is a promise: what is installed is used, and what the README calls an extra is one."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LINES = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
PACKAGES = sorted({re.split(r"[=<>~!\[; ]", line)[0].lower() for line in LINES})
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "types-pyyaml": "yaml",
           "types-requests": "requests"}  # fmt: skip
"""Package -> what is imported of it, or with it, where the names differ."""
TOOLS = {
    "ruff": ("Makefile", "$(BIN)/ruff"),
    "mypy": ("Makefile", "$(BIN)/mypy"),
    "pytest-xdist": ("Makefile", "pytest -n"),
    "pytest-timeout": ("pyproject.toml", "\ntimeout = "),
    "sphinx": ("Makefile", "$(BIN)/sphinx-build"),
    "myst-parser": ("docs/conf.py", '"myst_parser"'),
    "furo": ("docs/conf.py", 'html_theme = "furo"'),
    "gguf": ("vlm_ablate/offline/language/smollm2.py", "gguf_file=GGUF"),  # transformers reads the file with it
}
"""Package that nothing imports -> a file, and the words in it that use the package."""


def imported_and_named() -> set[str]:
    """Modules that package, tests and notebooks import, and packages that they name to read them as data."""
    sources = [path.read_text() for room in ("vlm_ablate", "tests") for path in (ROOT / room).rglob("*.py")
               if path != Path(__file__)]
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        sources += [re.sub(r"^[%!].*$", "", text, flags=re.MULTILINE) for text in code]
    found: set[str] = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


FOUND = imported_and_named()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_that_is_installed_is_used(package: str) -> None:
    if package in TOOLS:
        file, words = TOOLS[package]
        assert words in (ROOT / file).read_text()
    else:
        assert {package, package.replace("-", "_"), MODULES.get(package, package)} & FOUND


def test_the_extras_of_the_readme_are_those_there_are() -> None:
    (written,) = re.findall(r"Extras: ([^.]*)\.", (ROOT / "README.md").read_text())
    assert sorted(re.findall(r"`([^`]+)`", written)) == sorted(EXTRAS)
