"""One generic registry: an exact name -> a pydantic config and the class it configures; and the registries there are.

Built-in parts are *declared* with an import path in a `configs.py` of their room, so that listing and validating them
needs no torch. A plug-in, or a new file in a room, *registers* its class with a decorator: one file with one class and
one config is enough. All are found on the first look into a registry: the rooms' `configs.py`, files of the rooms that
register something themselves (their names are read there, the files imported when a part of theirs is asked for), and
installed packages with an entry point in the group `vlm_ablate.plugins`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

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
        cls: type[T] = getattr(import_module(module), attribute)
        return cls

    @property
    def module(self) -> str:
        """Dotted name of the module that holds the class."""
        return self.target.partition(":")[0] if isinstance(self.target, str) else self.target.__module__


class Registry(Generic[T]):
    """Maps exact names to entries. A duplicate raises; an unknown name lists what exists and the nearest match.

    Args:
        kind: what the parts are, in messages.
        room: package whose `configs.py` declares the built-in ones; None: there are none.
    """

    def __init__(self, kind: str, room: str | None = None) -> None:
        self.kind, self.room = kind, room
        self._entries: dict[str, Entry[T]] = {}
        self._waiting: dict[str, str] = {}
        """Name of a part -> the module that registers it when it is imported, which it has not been yet."""

    def declare(self, name: str, config: type[BaseModel], target: str | type[T], summary: str = "") -> None:
        """Add an entry; `target` is a class or `package.module:Class`.

        Raises:
            ValueError: the name is taken.
        """
        summary = summary or (config.__doc__ or "").strip().partition("\n")[0]
        entry: Entry[T] = Entry(name, config, target, summary)
        if name in self._entries or self._waiting.get(name, entry.module) != entry.module:
            there = self._entries[name].target if name in self._entries else self._waiting[name]
            raise ValueError(f"{self.kind} {name!r} is registered twice: {there} and {target}")
        self._waiting.pop(name, None)
        self._entries[name] = entry

    def expect(self, name: str, module: str) -> None:
        """Know a part by name that `module` registers; it is imported when more than the name is asked for.

        Raises:
            ValueError: the name is taken.
        """
        there = self._entries[name].module if name in self._entries else self._waiting.get(name, module)
        if there != module:
            raise ValueError(f"{self.kind} {name!r} is registered twice: {there} and {module}")
        if name not in self._entries:
            self._waiting[name] = module

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
        load_parts()
        if name in self._waiting:
            import_module(self._waiting[name])
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self.names()) from None

    def __contains__(self, name: object) -> bool:
        load_parts()
        return name in self._entries or name in self._waiting

    def __iter__(self) -> Iterator[Entry[T]]:
        load_parts()
        for module in list(self._waiting.values()):
            import_module(module)
        return iter(self._entries.values())

    def names(self) -> list[str]:
        """All registered names, in order of registration."""
        load_parts()
        return [*self._entries, *self._waiting]

    def configures(self, config: type[object]) -> bool:
        """Whether the class configures a part of this registry. What is not imported has no configuration yet."""
        load_parts()
        return any(entry.config is config for entry in self._entries.values())

    def configs(self) -> list[type[BaseModel]]:
        """Configurations of the parts; of those that are not imported there are none, and none is imported here."""
        load_parts()
        return [entry.config for entry in self._entries.values()]

    def build(self, config: BaseModel, **context: object) -> T:
        """Make the part that `config` configures; `config.name` selects it, `context` goes to its constructor."""
        make: Callable[..., T] = self[getattr(config, "name")].load()  # noqa: B009 - every part's configuration has one
        return make(config, **context)


vision_encoders: Registry[Any] = Registry("vision encoder", "vlm_ablate.models.vision")
language_models: Registry[Any] = Registry("language model", "vlm_ablate.models.language")
connectors: Registry[Any] = Registry("connector", "vlm_ablate.models.connectors")
architectures: Registry[Any] = Registry("architecture", "vlm_ablate.models.architectures")
sources: Registry[Any] = Registry("data source", "vlm_ablate.data.sources")
benchmarks: Registry[Any] = Registry("benchmark", "vlm_ablate.evaluation.benchmarks")
launchers: Registry[Any] = Registry("launcher", "vlm_ablate.launch")

REGISTRIES = (vision_encoders, language_models, connectors, architectures, sources, benchmarks, launchers)

_loaded: set[str] = set()
_reached: set[str] = set()
"""Top modules of plug-ins that were found beside a file or in the working directory."""
_state = {"parts": False}
broken_plugins: dict[str, str] = {}
"""Installed plug-in -> why it could not be imported. It is left out; commands say so."""


def load_parts() -> None:
    """Make every built-in part and every installed plug-in known, once a process. Imports no torch by itself."""
    if _state["parts"]:
        return
    _state["parts"] = True  # before the imports: what they import may look into a registry
    for registry in REGISTRIES:
        if registry.room:
            import_module(f"{registry.room}.configs")
            _expect_parts(registry.room)
    for point in entry_points(group=PLUGIN_GROUP):
        if point.value in _loaded:
            continue
        _loaded.add(point.value)
        try:
            point.load()
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything; the others must go on
            broken_plugins[f"{point.name} ({point.value})"] = f"{type(error).__name__}: {error}"


_REGISTERS = re.compile(r"^@\w+\.register\(", re.MULTILINE)


def _expect_parts(room: str) -> None:
    """Read which parts the files of a room register by themselves. A file whose parts cannot be read is imported."""
    known = {name: value for name, value in globals().items() if isinstance(value, Registry)}
    spec = find_spec(room)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.py")):
            text = file.read_text(encoding="utf-8")
            if not _REGISTERS.search(text):
                continue
            parts = list(_registered(ast.parse(text)))
            if all(registry in known and part for registry, part in parts):
                for registry, part in parts:
                    known[registry].expect(part, f"{room}.{file.stem}")
            else:
                import_module(f"{room}.{file.stem}")


def _registered(module: ast.Module) -> Iterator[tuple[str, str]]:
    """(registry, name) of each `@registry.register("name", ...)` of a file; a name that is not written out is ""."""
    for node in module.body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "register":
                name = call.args[0] if call.args else None
                written = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
                yield ast.unparse(call.func.value), written


def load_plugins(modules: Sequence[str] = (), *, file: str = "plugins", beside: Path | None = None) -> None:
    """Import the named modules, once each, after everything that is built in or installed.

    Args:
        modules: their names. One that is not installed is looked for in `beside`, then in the working directory.
        file: that names them, in messages.
        beside: folder of that file.

    Raises:
        ConfigError: they are no list of names, a named module cannot be imported, or another of its name lies beside
            the file.
    """
    load_parts()
    if not isinstance(modules, list | tuple):  # what a file says may be anything
        raise ConfigError([Problem(file, "plugins", f"must be a list of modules, like [my.parts], not {modules!r}")])
    for i, module in enumerate(modules):
        place = f"plugins[{i}]"
        if not isinstance(module, str) or not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError([Problem(file, place, f"{module!r} is not the name of a module, like my.parts")])
        if module not in _loaded:
            _load_plugin(module, file, place, beside)
        if unlike := _unlike(module, beside):
            raise ConfigError([Problem(file, place, unlike)])


def _load_plugin(module: str, file: str, place: str, beside: Path | None) -> None:
    top, folders = module.partition(".")[0], [*([beside] if beside else []), Path.cwd()]
    try:
        _reach(top, folders)
        import_module(module)
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        where = ""
        if isinstance(error, ModuleNotFoundError) and error.name == top:
            where = f"; it is not installed, and no {top}.py is in {' or '.join(map(str, dict.fromkeys(folders)))}"
        raise ConfigError([Problem(file, place, f"cannot import {module!r}: {kind}{error}{where}")]) from error
    _loaded.add(module)


def _unlike(module: str, beside: Path | None) -> str:
    """Why a module that is not installed is another than the one beside the file that names it; "" where it is that."""
    name = module.partition(".")[0]
    places = (beside / f"{name}.py", beside / name / "__init__.py") if beside and name in _reached else ()
    own = next((place for place in places if place.is_file()), None)
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if own is None or not loaded or own.samefile(loaded):
        return ""
    return f"{module!r} was loaded from {loaded}, and not from {own}: give one of them another name"


def _reach(name: str, folders: Sequence[Path]) -> None:
    """Have a module found that lies in one of the folders and nowhere else. Workers get the search path with it."""
    if name in sys.modules or find_spec(name) is not None:
        return
    for folder in folders:
        if (folder / f"{name}.py").is_file() or (folder / name).is_dir():
            sys.path.append(str(folder))
            _reached.add(name)
            return
