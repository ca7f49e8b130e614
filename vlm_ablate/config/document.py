"""Reading one YAML file into plain data, remembering on which line every key stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_ablate.config.yaml_reader import Location, Path_, parse
from vlm_ablate.errors import ConfigError, Problem

__all__ = ["Document", "Location", "Path_", "display", "parse", "read_document"]


@dataclass(frozen=True)
class Document:
    """Plain data of a file and, for every key path (dotted keys split), where it was written."""

    data: dict[str, Any]
    lines: dict[Path_, Location] = field(default_factory=dict)
    inherited_arms: dict[str, str] = field(default_factory=dict)
    """Arm of a file's `base` that stands among the file's own -> the base."""

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


def display(file: Path) -> str:
    """The path as a person would type it: relative to the working directory where it lies below it."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
