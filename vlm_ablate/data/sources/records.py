"""What the sources of public record schemas share: opening, checking columns, and cells that hold pictures."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

from vlm_ablate.data.sample import Image, ImageRef, Sample, Segment, Text, UnusableSample
from vlm_ablate.data.sources.base import Source
from vlm_ablate.data.sources.configs import RecordsConfig
from vlm_ablate.data.sources.files import base_folder, reached
from vlm_ablate.data.sources.rows import Row, Rows, open_rows
from vlm_ablate.data.sources.streams import StreamRows
from vlm_ablate.data.values import cells_of
from vlm_ablate.errors import DataError
from vlm_ablate.provenance import AssetRecord


class RecordSource(Source):
    """A source over rows of one schema. Subclasses name the columns they need and turn a row into segments.

    Raises:
        DataError: a column is missing; the message names it and what was found.
    """

    required: tuple[str, ...] = ()
    dialogue = False

    def __init__(self, config: RecordsConfig) -> None:
        super().__init__(config)
        self.config: RecordsConfig = config
        self.rows: Rows = open_rows(config)
        if isinstance(self.rows, StreamRows):
            self.sequential, self.window = True, self.rows.window
        self._folder = base_folder(config.id)
        if len(self.rows):
            self.check(self.rows.columns)

    def columns(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return self.required

    def check(self, found: list[str]) -> None:
        """Refuse rows that lack a column."""
        missing = [column for column in self.columns() if column not in found]
        if missing:
            raise DataError(
                f"source {self.config.name!r} over {self.config.id!r}: column {', '.join(map(repr, missing))} "
                f"is missing; found: {', '.join(found) or 'none'}"
            )

    def __len__(self) -> int:
        return min(len(self.rows), self.config.rows or len(self.rows))

    def __getitem__(self, index: int) -> Sample:
        row = dict.fromkeys(self.rows.columns) | self.rows[index]
        name = f"{self.config.subset or Path(self.config.id).name}:{row.get('__key__', index)}"
        try:
            segments = tuple(self.segments(row, name))
        except UnusableSample:
            raise
        except DataError as error:
            raise UnusableSample(name, "wrong record", error.message) from error
        if not any(isinstance(s, Text) and s.supervised and s.text.strip() for s in segments):
            raise UnusableSample(name, "empty record", "it has no text to learn")
        return Sample(name, segments, self.config.name, self.dialogue)

    @abstractmethod
    def segments(self, row: Row, name: str) -> list[Segment]:
        """The row's segments in reading order.

        Raises:
            UnusableSample: the row cannot be used, for a reason of its own.
            DataError: a value is not what the schema says.
        """

    @property
    def fingerprint(self) -> str:
        body = self.config.model_dump_json(exclude={"id"}) + self.rows.fingerprint
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    @property
    def licences(self) -> list[AssetRecord]:
        version = self.config.revision or ""
        return [AssetRecord(self.config.id, "", version, self.rows.licence, self.config.id, self.rows.fingerprint)]

    def cells(self, value: Any, name: str) -> list[Any]:
        """Cells of the row's pictures; a list of None alone is none.

        Raises:
            UnusableSample: one of several is None: which one a text means could no longer be told.
        """
        found = cells_of(value)
        there = [cell for cell in found if cell is not None]
        if there and len(there) < len(found):
            raise UnusableSample(name, "no image", f"of its {len(found)} pictures {len(found) - len(there)} are None")
        return there

    def picture(self, cell: Any, row: Row, name: str) -> Image:
        """A picture from a cell: bytes, `{"bytes", "path"}`, the name of a shard member, or a path beside the data.

        Raises:
            UnusableSample: there is no picture, or only its address.
            DataError: the path leads out of the data's folder.
        """
        label = f"of {name}"
        if isinstance(cell, dict):
            if cell.get("bytes"):
                return Image(ImageRef(cell["bytes"], f"{cell.get('path') or 'image'} {label}"))
            cell = cell.get("path")
        if isinstance(cell, bytes):
            return Image(ImageRef(cell, f"image {label}"))
        if not isinstance(cell, str) or not cell:
            raise UnusableSample(name, "no image", f"its image is {type(cell).__name__}, not bytes or a path")
        if cell in (members := row.get("__files__", {})):
            return Image(ImageRef(members[cell], f"{cell} {label}"))
        if "://" in cell:
            advice = "download the data set's images first (img2dataset writes shards that can be read)"
            if isinstance(row.get("image"), dict):
                advice = "the picture itself stands in the column 'image'"
            raise UnusableSample(name, "image by address", f"its image is an address ({cell}), not a picture; {advice}")
        return Image(ImageRef(reached(self._folder, cell, "its image"), f"{cell} {label}"))
