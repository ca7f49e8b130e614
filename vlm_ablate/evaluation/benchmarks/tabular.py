"""Benchmarks read through `datasets`: from the hub, or from a local copy in the very same schema.

Where a local copy has its splits: see `local_files.py`. In JSON an image is a path beside the file. Nothing is decoded
here; rows and image bytes are read when used.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

from vlm_ablate.data.sample import ImageRef
from vlm_ablate.data.sources.files import base_folder, reached
from vlm_ablate.data.sources.rows import first_reason, found_nothing
from vlm_ablate.data.values import cells_of, text_of
from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split
from vlm_ablate.evaluation.benchmarks.configs import PART, HubBenchmarkConfig
from vlm_ablate.evaluation.benchmarks.local_files import json_table, split_files
from vlm_ablate.evaluation.prompts import get_template
from vlm_ablate.hub import DOWNLOAD_HINT, offline_unless_allowed, surely_absent

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]


class HubBenchmark(Benchmark):
    """Base of benchmarks with one row an item.

    A subclass names the columns it needs and turns a row into an item. `text` reads the columns without images.
    """

    columns: ClassVar[tuple[str, ...]]
    """Needed besides the images."""
    image_columns: tuple[str, ...] = ("image",)
    """The first must be there; the others may be."""
    renamed: Mapping[str, str] = {}
    """Other spelling -> the official column, for copies of the data set that differ in names alone."""
    config: HubBenchmarkConfig

    def __init__(self, config: HubBenchmarkConfig) -> None:
        super().__init__(config)
        self.template = get_template(config.template or self.template).name
        self._tables = lru_cache(maxsize=None)(self._table)

    @abstractmethod
    def text(self, row: Row) -> BenchmarkItem:
        """A row, without its images, as an item. Raises DataError if it cannot be asked or scored."""

    def key(self, row: Row) -> str:
        """Identity of the row's pictures; "" where the data set has none."""
        return ""

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        table = self._tables(split)
        return _LazyItems(len(table), lambda i: self._with_images(table[i]))

    def texts(self, split: Split) -> Sequence[BenchmarkItem]:
        table = self._without_images(self._tables(split))
        return _LazyItems(len(table), lambda i: self._item(table[i]))

    def _without_images(self, table: Dataset) -> Dataset:
        return table.remove_columns([c for c in self.image_columns if c in table.column_names])

    def _with_images(self, row: Row) -> BenchmarkItem:
        item = self._item(row)
        cells = [cell for column in self.image_columns for cell in cells_of(row.get(column)) if cell is not None]
        refs = [self._image(cell, f"{self.config.name}/{item.id}") for cell in cells]
        if not refs:
            raise DataError(f"benchmark {self.config.name!r}: item {item.id!r} has no image")
        return replace(item, images=tuple(refs))

    def _item(self, row: Row) -> BenchmarkItem:
        try:
            return replace(self.text(row), image_key=self.key(row))
        except DataError as error:
            first = self.columns[0]
            where = f"benchmark {self.config.name!r}, row with {first} {row.get(first)!r}"
            raise DataError(f"{where}: {error.message}", hint=error.hint) from error

    def _image(self, value: Any, name: str) -> ImageRef:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return ImageRef(reached(self._base, value, f"the image of {name}"), f"{value} of {name}")
        if isinstance(value, bytes):
            return ImageRef(value, name)
        raise DataError(f"the image of {name} is neither bytes nor a path but {type(value).__name__}")

    @cached_property
    def _local(self) -> bool:
        return Path(self.config.id).expanduser().exists()

    @cached_property
    def _base(self) -> Path | None:
        return base_folder(self.config.id)

    def _table(self, split: Split) -> Dataset:
        written = self.config.splits.get(split)
        if written is None:
            raise DataError(
                f"benchmark {self.config.name!r} has no {split!r} split",
                hint="score it with shots: 0" if split == "train" else "name one under `splits`",
            )
        part = PART.fullmatch(written)
        if part is None:
            raise DataError(
                f"benchmark {self.config.name!r}: split {written!r} is not `name`, `name[from:to]` or `other/id:name`"
            )
        id = self.config.id if self._local else part["id"] or self.config.id
        table = self._checked(self._load(part["name"], id), part["name"], id)
        if part["start"] is None:
            return table
        span = range(int(part["start"]), int(part["stop"]))
        items = map(self._item, self._without_images(table))
        keys = (item.image_key or item.id for item in items)
        return table.select([i for i, key in enumerate(keys) if _percentile(key) in span])

    def _load(self, name: str, id: str) -> Dataset:
        where = f"benchmark {self.config.name!r}: split {name!r} of {id!r}"
        if not self._local and surely_absent(id):
            raise AssetMissing(f"{where} is not on this machine", hint=DOWNLOAD_HINT)
        import datasets

        try:
            with offline_unless_allowed():
                if self._local:
                    kind, files = split_files(self.config, name)
                    if kind == "json":
                        return json_table(files, self.image_columns, Path(id).expanduser())
                    return datasets.load_dataset(kind, data_files=list(map(str, files)), split="train")
                own = id == self.config.id
                subset, revision = (self.config.subset, self.config.revision) if own else (None, None)
                return datasets.load_dataset(id, subset, split=name, revision=revision)
        except DataError:
            raise
        except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
            raise AssetMissing(f"{where} is not on this machine", hint=DOWNLOAD_HINT) from error
        except Exception as error:  # readers raise errors of pyarrow, pandas and their own
            if found_nothing(error):
                raise DataError(f"{where} is empty") from error
            raise DataError(f"{where} cannot be read: {first_reason(error)}") from error

    def _checked(self, table: Dataset, name: str, id: str) -> Dataset:
        import datasets

        found = table.column_names
        old_names = {old: new for old, new in self.renamed.items() if old in found and new not in found}
        table = table.rename_columns(old_names)
        missing = [c for c in (*self.columns, *self.image_columns[:1]) if c not in table.column_names]
        if missing:
            raise DataError(
                f"benchmark {self.config.name!r}: split {name!r} of {id!r} has no column "
                f"{', '.join(map(repr, missing))}; found: {', '.join(found)}"
            )
        for column in self.image_columns:
            if isinstance(table.features.get(column), datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
        return table


class _LazyItems(Sequence[BenchmarkItem]):
    """Items made when asked for."""

    def __init__(self, size: int, make: Callable[[int], BenchmarkItem]) -> None:
        self._positions, self._make = range(size), make

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> BenchmarkItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BenchmarkItem]: ...
    def __getitem__(self, index: int | slice) -> BenchmarkItem | Sequence[BenchmarkItem]:
        if isinstance(index, int):
            return self._make(self._positions[index])
        part = _LazyItems(0, self._make)
        part._positions = self._positions[index]
        return part


def most_common(answers: Sequence[str]) -> str:
    """The answer given most often, the first of equals; "" without answers."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def required(row: Row, column: str) -> str:
    """The text of a cell that every row must have.

    Raises:
        DataError: it is absent or no text.
    """
    if text := text_of(row[column], column):
        return text
    raise DataError(f"it has no {column}")


def choice_item(name: str, question: str, choices: Sequence[str], right: str) -> BenchmarkItem:
    """A multiple-choice item. References: the right letter, then `A. text` for each choice.

    Args:
        choices: by letter; "" where a letter has no choice, which moves no other.
        right: letter of the right choice; "" where it is not known.

    Raises:
        DataError: the right letter has no choice.
    """
    while choices and not choices[-1]:
        choices = choices[:-1]
    lettered = {chr(65 + i): choice for i, choice in enumerate(choices) if choice}
    if right and right not in lettered:
        raise DataError(f"the right answer {right!r} is not among the choices {', '.join(lettered) or '(none)'}")
    references = (right, *(f"{letter}. {choice}" for letter, choice in lettered.items())) if right else ()
    return BenchmarkItem(name, (), question, references, right, choices=tuple(choices))


def _percentile(key: str) -> int:
    """0..99, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") * 100 >> 64
