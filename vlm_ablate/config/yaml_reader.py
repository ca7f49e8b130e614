"""YAML text to plain data and the line of every key (plain values as in YAML 1.2, no key twice, all within bounds), and
back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from vlm_ablate.errors import ConfigError, Problem

Path_ = tuple[str, ...]

MAX_DEPTH = 50
"""Mappings and lists inside each other."""
MAX_VALUES = 100_000
"""Values of a file, those of aliases counted wherever they stand."""


@dataclass(frozen=True)
class Location:
    """Where a key stands; prints as `file:line`."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the class depends on the build
    """Resolves plain values as the core schema of YAML 1.2 does (section 10.3.2)."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Puts texts in quotes that YAML 1.1 or 1.2 would read as something else."""


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str, shown: str) -> tuple[Any, dict[Path_, Location]]:
    """Plain data of YAML `text` and the location of each key path.

    Differs from `yaml.safe_load`: plain values are those of YAML 1.2 (`yes` and `1:30` are texts, `010` is ten,
    `1e-4` is a number), and what is written twice, in two spellings of a path too, is an error.

    Raises:
        ConfigError: the text is not YAML, a key is repeated, or it is without bounds.
    """
    reader = _Reader(shown)
    try:
        _check_depth(text, shown)
        node = yaml.compose(text, Loader=_Loader)
        data = reader.read(node, ()) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}:{mark.column + 1}" if mark else shown
        raise ConfigError([Problem(where, "", f"not valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(shown, "", f"not valid YAML: {error}")]) from error
    except UnicodeEncodeError as error:  # of a command line's bytes
        raise ConfigError([Problem(shown, "", "not UTF-8 text")]) from error
    if reader.problems:
        raise ConfigError(list(dict.fromkeys(reader.problems)))
    return data, reader.lines


def to_yaml(data: Any, *, width: int = 110) -> str:
    """Plain data as YAML that `parse` reads back as it was: a text such as `1e-4`, which YAML 1.1 takes for one as it
    stands, in quotes."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
    return text


def _check_depth(text: str, shown: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            where = f"{shown}:{event.start_mark.line + 1}" if event.start_mark else shown
            raise ConfigError([Problem(where, "", f"more than {MAX_DEPTH} mappings and lists inside each other")])


class _Reader:
    """Turns a node graph into plain data."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.lines: dict[Path_, Location] = {}
        self.problems: list[Problem] = []
        self._safe = yaml.constructor.SafeConstructor()
        self._open: list[yaml.Node] = []
        self._values = 0
        self._leaves: dict[Path_, int] = {}
        self._holders: dict[Path_, int] = {}

    def read(self, node: yaml.Node, path: Path_, *, merged: bool = False) -> Any:
        """The value of a node; `merged`: it came by `<<` and may be written over."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise ConstructorError(None, None, f"more than {MAX_VALUES:,} values, aliases included", node.start_mark)
        if any(node is each for each in self._open):
            raise ConstructorError(None, None, "an alias of what it stands in", node.start_mark)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path, merged)
            if isinstance(node, yaml.SequenceNode):
                return [self._item(child, (*path, str(i))) for i, child in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        try:
            if kind == "int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            if kind == "float":
                return float(re.sub(r"\.(?=inf|nan)", "", text, flags=re.IGNORECASE))
            if kind == "bool" and text.lower() in ("true", "false"):
                return text.lower() == "true"
        except ValueError as error:
            raise ConstructorError(None, None, f"no number: {text[:40]}", node.start_mark) from error
        try:
            return self._safe.construct_object(node)
        except (KeyError, AttributeError, ValueError) as error:  # so `!!bool x` ends in PyYAML
            raise ConstructorError(None, None, f"no {kind}: {text[:40]}", node.start_mark) from error

    def _item(self, node: yaml.Node, path: Path_) -> Any:
        self.lines[path] = self._location(node)
        return self.read(node, path, merged=True)  # a place in a list has one spelling

    def _mapping(self, node: yaml.MappingNode, path: Path_, merged: bool) -> dict[Any, Any]:
        first: dict[Any, int] = {}
        data: dict[Any, Any] = {}
        for key, value, by_merge in self._pairs(node, []):
            name = self._key(key)
            here, line = (*path, *str(name).split(".")), key.start_mark.line + 1
            if not by_merge and name in first:
                message = f"key {name!r} is written twice (first on line {first[name]})"
                self.problems.append(Problem(str(self._location(key)), ".".join((*path, str(name))), message))
            elif not (by_merge or merged):
                self._note(here, line, leaf=not isinstance(value, yaml.MappingNode))
            if not by_merge:
                first.setdefault(name, line)
            self.lines[here] = self._location(key)
            data[name] = self.read(value, here, merged=merged or by_merge)
        return data

    def _pairs(self, node: yaml.MappingNode, above: list[yaml.Node]) -> list[tuple[yaml.Node, yaml.Node, bool]]:
        """(key, value, whether it came by `<<`), what may be written over first."""
        if any(node is each for each in above):
            raise ConstructorError(None, None, "a mapping that is merged into itself", node.start_mark)
        own, merged = [], []
        for key, value in node.value:
            if not key.tag.endswith(":merge"):
                own.append((key, value, False))
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not all(isinstance(part, yaml.MappingNode) for part in parts):
                raise ConstructorError(None, None, "<< takes mappings", value.start_mark)
            for part in reversed(parts):
                merged += [(k, v, True) for k, v, _ in self._pairs(part, [*above, node])]
                if len(merged) > MAX_VALUES:
                    raise ConstructorError(None, None, f"more than {MAX_VALUES:,} merged keys", node.start_mark)
        return merged + own

    def _note(self, path: Path_, line: int, *, leaf: bool) -> None:
        """Remember what is written at a path; the same path written in another spelling is a problem."""
        ends = [self._leaves[path[:end]] for end in range(1, len(path)) if path[:end] in self._leaves]
        earlier = [*ends, *([self._leaves[path]] if path in self._leaves else [])]
        if leaf:
            earlier += [self._holders[path]] if path in self._holders else []
        if earlier:
            message = f"is written twice, in two spellings (the other on line {earlier[0]})"
            self.problems.append(Problem(f"{self.shown}:{line}", ".".join(path), message))
        (self._leaves if leaf else self._holders).setdefault(path, line)
        for end in range(1, len(path)):
            self._holders.setdefault(path[:end], line)

    def _key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise ConstructorError(None, None, "a key must be a plain value", node.start_mark)
        return self._scalar(node)

    def _location(self, node: yaml.Node) -> Location:
        return Location(self.shown, node.start_mark.line + 1)
