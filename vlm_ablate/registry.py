"""One generic registry: an exact name -> a pydantic config and the class it configures.

Built-in parts are *declared* with an import path, so that listing and validating them needs no torch.
A plug-in *registers* its class with a decorator; one file with one class and one config is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from pydantic import BaseModel

from vlm_ablate.errors import ConfigError, Problem, UnknownNameError

T = TypeVar("T")

PLUGIN_GROUP = "vlm_ablate.plugins"


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered part: its config class, a one-line summary, and where its class is (or the class itself)."""

    name: str
    config: type[BaseModel]
    target: str | type[T]
    summary: str

    def load(self) -> type[T]:
        """The class itself, imported now if it was declared by path."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


class Registry(Generic[T]):
    """Maps exact names to entries. A duplicate raises; an unknown name lists what exists and the nearest match."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def declare(self, name: str, config: type[BaseModel], target: str | type[T], summary: str = "") -> None:
        """Add an entry; `target` is a class or `package.module:Class`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice: {self._entries[name].target} and {target}")
        summary = summary or (config.__doc__ or "").strip().partition("\n")[0]
        self._entries[name] = Entry(name, config, target, summary)

    def register(self, name: str, config: type[BaseModel], summary: str = "") -> Callable[[type[T]], type[T]]:
        """Class decorator for plug-ins: `@connectors.register("mine", MyConfig)`."""

        def add(cls: type[T]) -> type[T]:
            self.declare(name, config, cls, summary or (cls.__doc__ or "").strip().partition("\n")[0])
            return cls

        return add

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry of that exact name.

        Raises:
            UnknownNameError: no entry has it.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())

    def names(self) -> list[str]:
        """All registered names, in order of registration."""
        return list(self._entries)

    def build(self, config: BaseModel, **context: object) -> T:
        """Make the part that `config` configures; `config.name` selects it, `context` goes to its constructor."""
        return self[config.name].load()(config, **context)  # type: ignore[attr-defined]


_loaded: set[str] = set()


def load_plugins(modules: list[str] | tuple[str, ...] = (), *, file: str = "plugins") -> None:
    """Import the installed plug-ins (entry-point group `vlm_ablate.plugins`) and the named modules, once each.

    Raises:
        ConfigError: a named module cannot be imported.
    """
    for point in entry_points(group=PLUGIN_GROUP):
        if point.value not in _loaded:
            point.load()
            _loaded.add(point.value)
    for i, module in enumerate(modules):
        if module in _loaded:
            continue
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError([Problem(file, f"plugins[{i}]", f"cannot import {module!r}: {error}")]) from error
        _loaded.add(module)
