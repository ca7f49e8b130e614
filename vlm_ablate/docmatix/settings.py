"""What a build is told. Two builds with equal `identity` make the same rows; `identity` is recorded beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vlm_ablate.errors import DataError

ImageFormat = Literal["png", "jpeg"]
QuestionerName = Literal["rules", "endpoint", "local"]

_NOT_IDENTITY = (
    "pdfs", "out", "max_pdfs", "rows_per_shard", "licence",  # can be changed without asking anything again
    "jobs", "endpoint", "key_variable", "concurrency", "timeout", "retries", "batch",  # where and how fast, not what
)
_BOUNDS = {
    "dpi": (10, 1_200), "pages_per_row": (1, 1_000), "max_pages": (1, 10**9), "max_pdfs": (1, 10**9),
    "rows_per_shard": (1, 10**9), "styles": (1, 5), "jobs": (1, 1_024), "concurrency": (1, 4_096),
    "retries": (0, 1_000), "batch": (1, 4_096), "pairs_per_page": (1, 1_000), "max_new_tokens": (1, 100_000),
    "temperature": (0, 100), "timeout": (0.001, 86_400), "seed": (0, 2**32 - 1),
}  # fmt: skip


@dataclass(frozen=True)
class BuildSettings:
    """Settings of one build."""

    pdfs: Path
    """Folder that is searched for PDFs, or one file."""
    out: Path
    """Folder of the data set."""
    dpi: int = 150
    """Resolution of the drawn pages (Docmatix: 150)."""
    pages_per_row: int = 4
    """Consecutive pages that form a row (Docmatix: up to 4)."""
    max_pages: int | None = None
    """Pages used of a PDF, from its first; None: all."""
    max_pdfs: int | None = None
    """PDFs used, in order of their paths; None: all."""
    image_format: ImageFormat = "png"
    rows_per_shard: int = 500
    """Rows in a Parquet file."""
    licence: str = "other"
    """Licence of the documents, for the data card."""
    seed: int = 0

    model: str | None = None
    """Name of the endpoint's model, or id or folder of the local one; None: rules."""
    endpoint: str | None = None
    """Base address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."""
    pairs_per_page: int = 4
    """Pairs kept a page from the rules (Docmatix has about 4 a page)."""
    styles: int = 1
    """Prompt styles asked for each row, of the five; which ones is drawn from the seed."""
    support: float = 0.75
    """Share of an answer's content words that must stand on the row's pages."""
    temperature: float = 0.0
    max_new_tokens: int = 1024
    max_characters: int = 12_000
    """Page text given to a model, in characters; longer text is cut at the end."""

    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    jobs: int = 1
    """Processes, each with one PDF at a time."""
    concurrency: int = 8
    """Requests to the endpoint at a time, all processes together."""
    timeout: float = 120.0
    """Seconds to wait for an answer of the endpoint."""
    retries: int = 5
    """Times that a failed request is repeated, with growing pauses."""
    batch: int = 4
    """Rows that the local model answers at a time."""

    @property
    def questioner(self) -> QuestionerName:
        """Who asks the questions."""
        if self.endpoint:
            return "endpoint"
        return "local" if self.model else "rules"

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide what the rows are."""
        body = {k: v for k, v in asdict(self).items() if k not in _NOT_IDENTITY}
        unused = ("pairs_per_page",) if self.model else ("styles", "support", "temperature", "max_new_tokens",
                                                          "max_characters")
        return {"questioner": self.questioner} | {k: v for k, v in body.items() if k not in unused}

    def check(self) -> None:
        """
        Raises:
            DataError: settings that contradict each other.
        """
        if self.endpoint and not self.model:
            raise DataError("--endpoint needs --model, the name of the model to ask", hint="e.g. --model my-model")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise DataError(f"{name} must be at least {least:,} and at most {most:,}, not {value}")
        if not 0 <= self.support <= 1:
            raise DataError(f"support is a share from 0 to 1, not {self.support}")
