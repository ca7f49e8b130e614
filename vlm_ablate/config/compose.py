"""Composition: `base:` inheritance, deep merge, and dotted `path=value` settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from vlm_ablate.config.document import Document, Location, Path_, display, parse, read_document
from vlm_ablate.config.places import is_component
from vlm_ablate.errors import ConfigError, Problem


def load_document(file: Path, _below: tuple[Path, ...] = ()) -> Document:
    """A file with everything its `base:` names merged beneath it; `base` is a path or a list, relative to the file.

    Raises:
        ConfigError: a file cannot be read, the files inherit from each other in a circle, or a `*` stands for nothing.
    """
    file = file.resolve()
    if file in _below:
        ring = " -> ".join(display(f) for f in (*_below[_below.index(file) :], file))
        raise ConfigError([Problem(display(_below[-1]), "base", f"the files inherit in a circle: {ring}")])
    document = read_document(file)
    own = _nested(document.data)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(b, str) for b in bases):
        where = str(document.where(("base",)) or display(file))
        raise ConfigError([Problem(where, "base", "must be a path or a list of paths")])
    data: dict[str, Any] = {}
    lines: dict[Path_, Location] = {}
    inherited: dict[str, str] = {}
    for base in bases:
        parent = file.parent / base
        if not parent.is_file():
            where = str(document.where(("base",)) or display(file))
            raise ConfigError([Problem(where, "base", f"no such file: {display(parent)}")])
        below = load_document(parent, (*_below, file))
        inherited |= _added_to(below, own, display(parent))
        data, lines = merge_documents(data, below.data), {**lines, **below.lines}
    if idle := list(_reaching_nothing(data, own, ())):
        told = "stands for the keys that are there already, in what the file inherits or above it, and there are none"
        raise ConfigError([Problem(str(document.where(at) or display(file)), ".".join(at), told) for at in idle])
    return Document(merge_documents(data, own), {**lines, **document.lines}, inherited)


def _reaching_nothing(below: Mapping[str, Any], above: Mapping[str, Any], path: Path_) -> Iterator[Path_]:
    """The `*` that stand for no key at all when `above` is merged over `below` as a file."""
    there = set() if above.get("replace") is True else set(below)
    for key, value in above.items():
        old = below.get(key) if key in there else None
        if key == "*" and not there and not _is_diff(path):
            yield (*path, "*")
        elif isinstance(value, dict) and not _is_diff((*path, str(key))):
            yield from _reaching_nothing(old if isinstance(old, dict) else {}, value, (*path, str(key)))
        there.add(key)


_DIFFS = (("arms", "*", "set"), ("arms", "*", "tuned", "set"), ("overrides",), ("scales", "*", "overrides"))
"""Where a file has diffs, whose keys may be dotted."""


def _nested(data: Mapping[str, Any]) -> dict[str, Any]:
    """A file's data with its diffs as nested mappings: files merge key by key, whichever way each is written."""

    def below(value: Any, pattern: Path_) -> Any:
        if not isinstance(value, dict):
            return value
        if not pattern:
            return nest(value)
        return {k: below(v, pattern[1:]) if pattern[0] in ("*", k) else v for k, v in value.items()}

    result = dict(data)
    for pattern in _DIFFS:
        result = below(result, pattern)
    return result


def merge(below: Mapping[str, Any], above: Mapping[str, Any], path: Path_ = ()) -> dict[str, Any]:
    """Deep merge of plain data that stands at `path` of a run's configuration; neither argument is changed.

    Mappings merge key by key, anything else is replaced. In a mapping, `replace: true` replaces instead of merging,
    and the key `*` stands for every key that is already there and was not taken out by null. A part that changes its
    `name` starts empty, since the old part's fields mean nothing to the new one.
    """
    return _merge(below, above, path, document=False)


def _added_to(below: Document, own: Mapping[str, Any], shown: str) -> dict[str, str]:
    """Arms of a base that stand beside the file's own without being written in it."""
    theirs, ours = below.data.get("arms"), own.get("arms")
    if not isinstance(theirs, dict) or not isinstance(ours, dict) or ours.get("replace") is True:
        return {}
    return {name: below.inherited_arms.get(name, shown) for name in map(str, theirs) if name not in map(str, ours)}


def merge_documents(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As `merge`, of whole files. What is itself a diff, to be merged later, keeps its `replace` and `*`.

    Diffs are an arm's `set`, a scale's `overrides` and `values`, what an experiment says of a scale, and a stage's
    `data`, which is merged over the file's.
    """
    return _merge(below, above, (), document=True)


def merged(old: Any, new: Any, path: Path_) -> Any:
    """The value at `path` when `new` is put over `old`, which is None where nothing stands."""
    return _merged(old, new, path, document=False)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any], path: Path_, *, document: bool) -> dict[str, Any]:
    result = deepcopy(dict(below))
    is_diff = document and _is_diff(path)
    for key, value in above.items():
        if key == "replace" and isinstance(value, bool) and not is_diff:
            continue
        if key == "*" and not is_diff:
            for each in result:
                if result[each] is None and isinstance(value, dict):
                    continue  # taken out below: it has no fields to set
                result[each] = _merged(result[each], value, (*path, str(each)), document=document)
        else:
            result[key] = _merged(result.get(key), value, (*path, str(key)), document=document)
    return result


def _merged(old: Any, new: Any, path: Path_, *, document: bool) -> Any:
    if is_component(_of_run(path) if document else path):
        old, new = _named(old), _named(new)
        if isinstance(old, dict) and isinstance(new, dict):
            if new.get("name", old.get("name")) != old.get("name"):
                old = {}
            elif "id" in new and new["id"] != old.get("id"):
                old = {k: v for k, v in old.items() if k != "revision"}  # a commit belongs to its own repository
    if not isinstance(new, dict):
        return deepcopy(new)
    keep = isinstance(old, dict) and new.get("replace") is not True
    return _merge(old if keep else {}, new, path, document=document)


_LATER = {"arms": ("set", "tuned"), "stages": ("data",)}


def _is_diff(path: Path_) -> bool:
    later = (("overrides",), ("values",), ("scales",))
    return path[:1] in later or (len(path) > 2 and path[2] in _LATER.get(path[0], ()))


def _of_run(path: Path_) -> Path_:
    """A path of a file as one of a run's configuration."""
    if path[:1] == ("arms",):
        return path[4:] if path[2:3] == ("tuned",) else path[3:]
    return path[1:] if path[:1] == ("overrides",) else path


def _named(part: Any) -> Any:
    return {"name": part} if isinstance(part, str) else part


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings: `{"a.b": 1, "a": {"c": 2}}` -> `{"a": {"b": 1, "c": 2}}`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        value = nest(value) if isinstance(value, dict) else value
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = _join(result, value)
    return result


def _join(a: dict[str, Any], b: dict[str, Any], path: Path_ = ()) -> dict[str, Any]:
    """Union of two nested mappings without any rule of `merge`: `*` and `replace` survive to be applied later.

    A part that is named by one and has fields by the other keeps both.
    """
    result = dict(a)
    for key, value in b.items():
        here, old = (*path, str(key)), result.get(key)
        if is_component(here) and isinstance(value, dict) != isinstance(old, dict):
            old, value = _named(old), _named(value)
        result[key] = _join(old, value, here) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


def parse_sets(sets: Sequence[str]) -> Document:
    """`a.b=value` settings of the command line as one nested document; values are YAML.

    Raises:
        ConfigError: a setting has no `=`, no path, or a value that is not YAML.
    """
    problems: list[Problem] = []
    data: dict[str, Any] = {}
    lines: dict[Path_, Location] = {}
    for setting in sets:
        path, equals, text = setting.partition("=")
        parts = tuple(p.strip() for p in path.split("."))
        where = Location(f"--set {setting}")
        if not equals or not all(parts):
            problems.append(Problem(str(where), "", "write it as path.to.key=value"))
            continue
        try:
            value, _ = parse(text, str(where))
        except ConfigError as error:
            problems += error.problems
            continue
        for part in reversed(parts):
            value = {part: value}
        data = _join(data, value)
        lines[parts] = where
    if problems:
        raise ConfigError(problems)
    return Document(data, lines)


def flatten(data: Any, _path: Path_ = ()) -> dict[Path_, Any]:
    """Leaves of nested mappings by path; lists are leaves, and so are empty mappings."""
    if not isinstance(data, dict) or not data:
        return {_path: data}
    return {p: v for key, value in data.items() for p, v in flatten(value, (*_path, str(key))).items()}
