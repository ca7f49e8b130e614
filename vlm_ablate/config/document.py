"""Reading one YAML file into plain data, remembering on which line every key stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from vlm_ablate.errors import ConfigError, Problem

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+")

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Location:
    """Where a key stands; prints as `file:line`."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Document:
    """Plain data of a file and, for every key path (dotted keys split), where it was written."""

    data: dict[str, Any]
    lines: dict[Path_, Location] = field(default_factory=dict)

    def where(self, path: Path_) -> Location | None:
        """Location of the longest prefix of `path` that was written."""
        return self.lines.get(path[: self.depth(path)])

    def depth(self, path: Path_) -> int:
        """Length of the longest prefix of `path` that was written; 0 where none was."""
        return next((end for end in range(len(path), 0, -1) if path[:end] in self.lines), 0)


def read_document(file: Path) -> Document:
    """Parse a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing or unreadable, is not YAML, repeats a key, or is not a mapping.
    """
    shown = display(file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(shown, "", f"cannot be read: {reason}")]) from error
    data, lines = parse(text, shown)
    if not isinstance(data, dict):
        raise ConfigError([Problem(shown, "", f"holds {_kind(data)}, not a mapping of keys")])
    return Document(data, lines)


def parse(text: str, shown: str) -> tuple[Any, dict[Path_, Location]]:
    """Plain data of YAML `text` and the location of each key path.

    Differs from `yaml.safe_load` in two ways: a repeated key is an error, and `1e-4` is a number.

    Raises:
        ConfigError: the text is not YAML, or a key is repeated.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        reader = _Reader(shown)
        data = reader.read(node, ()) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}:{mark.column + 1}" if mark else shown
        raise ConfigError([Problem(where, "", f"not valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(shown, "", f"not valid YAML: {error}")]) from error
    if reader.problems:
        raise ConfigError(reader.problems)
    return data, reader.lines


class _Reader:
    """Turns a node graph into plain data."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.lines: dict[Path_, Location] = {}
        self.problems: list[Problem] = []
        self._safe = yaml.constructor.SafeConstructor()

    def read(self, node: yaml.Node, path: Path_) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(child, (*path, str(i))) for i, child in enumerate(node.value)]
        if node.tag.endswith(":str") and not node.style and _EXPONENT.fullmatch(node.value):
            return float(node.value)
        return self._safe.construct_object(node)

    def _item(self, node: yaml.Node, path: Path_) -> Any:
        self.lines[path] = self._location(node)
        return self.read(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[Any, Any]:
        first: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag.endswith(":merge"):
                continue
            name = self._key(key)
            if name in first:
                message = f"key {name!r} is written twice (first on line {first[name]})"
                self.problems.append(Problem(str(self._location(key)), ".".join((*path, str(name))), message))
            first.setdefault(name, key.start_mark.line + 1)
        self._safe.flatten_mapping(node)  # resolves `<<: *anchor`
        data: dict[Any, Any] = {}
        for key, value in node.value:
            name = self._key(key)
            here = (*path, *str(name).split("."))
            self.lines[here] = self._location(key)
            data[name] = self.read(value, here)
        return data

    def _key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise ConstructorError(None, None, "a key must be a plain value", node.start_mark)
        return self.read(node, ())

    def _location(self, node: yaml.Node) -> Location:
        return Location(self.shown, node.start_mark.line + 1)


def display(file: Path) -> str:
    """The path as a person would type it: relative to the working directory where it lies below it."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
