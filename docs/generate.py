"""The reference pages that are written from the code: YAML, command line, parts, and the gallery of results."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KINDS = ("vision", "language", "connectors", "architectures", "sources", "benchmarks", "metrics", "launchers")


def write_reference(folder: Path, results: Path) -> None:
    """All pages, those of an earlier build replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = {"yaml": yaml_page(), "command-line": command_page(), "parts": parts_page(), "gallery": gallery(results)}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


# --- YAML ------------------------------------------------------------------------------------------------------------
def yaml_page() -> str:
    """Every field of an experiment and of a scale, from their JSON Schemas."""
    from vlm_ablate.config.json_schema import whole_schema

    parts = ["# YAML: experiments and scales", "Unknown keys are errors; `vlm-ablate validate FILE` names the nearest."]
    seen: set[str] = set()
    for kind in ("experiment", "scale"):
        schema = whole_schema(kind)  # type: ignore[arg-type]  # a literal
        parts += [f"## An {kind}" if kind == "experiment" else f"## A {kind}", *_object(schema)]
        for name, body in schema["$defs"].items():
            if name not in seen and "properties" in body:
                seen.add(name)
                parts += [f"## {name}", *_object(body)]
    return "\n\n".join(parts) + "\n"


def _object(body: dict[str, Any]) -> Iterable[str]:
    if told := body.get("description"):
        yield _line(told)
    needed = body.get("required", ())
    rows = [
        (
            f"`{name}`",
            _kind(field),
            "needed" if name in needed else _default(field),
            _line(field.get("description", "")),
        )
        for name, field in body.get("properties", {}).items()
    ]
    if rows:
        yield _table(("Field", "Type", "Default", "Meaning"), rows)


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    for several in ("anyOf", "oneOf"):
        if several in field:
            kinds = dict.fromkeys(_kind(each) for each in field[several])
            return " or ".join(kinds) if len(kinds) <= 4 else "a registered part"
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"name: {_kind(field['additionalProperties'])}"
    kind = field.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return f"`{value}`" if isinstance(value, (bool, int, float, str)) and value != "" else ""


# --- command line ----------------------------------------------------------------------------------------------------
def command_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from vlm_ablate.cli.app import app

    parts = ["# The command line", "`vlm-ablate COMMAND --help` says the same."]
    for name, command in _commands("vlm-ablate", typer.main.get_command(app)):
        parts += [f"## {name}", *_paragraphs(command.help or "")]
        rows = []
        for parameter in command.params:
            words = parameter.opts + parameter.secondary_opts
            told = _line(getattr(parameter, "help", "") or "")
            if not words[0].startswith("-"):
                words = [(parameter.metavar or parameter.name).upper()]
            shown = ", ".join(f"`{word}`" for word in words)
            rows.append((shown, told))
        if rows:
            parts.append(_table(("Argument or option", "Meaning"), rows))
    return "\n\n".join(parts) + "\n"


def _commands(name: str, command: Any) -> Iterable[tuple[str, Any]]:
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {word}", below)


def _paragraphs(text: str) -> Iterable[str]:
    for paragraph in text.split("\n\n"):
        one_line = " ".join(paragraph.split())
        example, command = one_line.partition("Example: ")[::2]
        if command and not example:
            yield f"```console\n{command}\n```"
        elif one_line:
            yield _line(one_line)


# --- parts -----------------------------------------------------------------------------------------------------------
def parts_page() -> str:
    """Every registered part with its fields."""
    from vlm_ablate.cli.list_ import KINDS as ROWS

    parts = ["# Registered parts", "`vlm-ablate list KIND` prints them, those of your plug-ins among them."]
    for kind in KINDS:
        parts += [f"## {kind.capitalize()}", _table(("Name", "What it is", "Fields"), [
            (f"`{name}`", _line(what), _line(fields)) for name, what, fields in ROWS[kind]()])]  # fmt: skip
    return "\n\n".join(parts) + "\n"


# --- gallery ---------------------------------------------------------------------------------------------------------
def gallery(results: Path) -> str:
    """The committed tables, as they were measured."""
    parts = ["# Results", "What the committed runs produced. `vlm-ablate report --out FOLDER` makes pages of it."]
    parts += [page.read_text(encoding="utf-8").replace("### ", "## ", 1) for page in sorted(results.glob("all-*.md"))]
    for table in sorted(results.rglob("table.md")):
        name = table.parent.relative_to(results)
        text = table.read_text(encoding="utf-8")
        heading = re.sub(r"^### ", "", text.partition("\n")[0])
        rows = [line for line in text.splitlines() if line.startswith("|")]
        parts += [f"## {heading}", f"`results/{name}`", "\n".join(rows[: _end_of_first(rows)])]
    return "\n\n".join(parts) + "\n"


def _end_of_first(rows: list[str]) -> int:
    """Where the second table's heading begins: a row before a second rule."""
    rules = [i for i, row in enumerate(rows) if re.fullmatch(r"[|: -]+", row)]
    return rules[1] - 1 if len(rules) > 1 else len(rows)


# --- Markdown --------------------------------------------------------------------------------------------------------
def _line(text: str) -> str:
    """On one line, with what a table or MyST would read as markup made literal."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_|<>\[\]{}$#])", r"\\\1", p) for p in pieces).replace(
        "`|`", "`\\|`"
    )


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(headings)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)[|]", r"\|", cell) for cell in line) + " |" for line in lines)
