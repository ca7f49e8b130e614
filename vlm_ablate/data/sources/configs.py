"""Configuration of the data sources that read records of a public schema: from the hub, a folder or a file."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vlm_ablate.config.base import ComponentConfig, added
from vlm_ablate.registry import sources


class RecordsConfig(ComponentConfig):
    """Where records are: what all of these sources share."""

    id: str
    """Hub id, or local folder, file or glob: Parquet, JSON lines with image paths, tar shards, or a saved data set."""
    subset: str | None = None
    """Configuration of the hub data set, e.g. one of The Cauldron's data sets."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    split: str = "train"
    """Split on the hub; of a local folder, the files whose name or folder starts with it, or all where none has the
    name of a split."""
    format: Literal["auto", "parquet", "jsonl", "webdataset", "saved", "hub"] = "auto"
    """What `id` holds; "auto" tells by its existence and the files' endings."""
    streaming: bool = False
    """Read in order instead of downloading first; rows are then shuffled within a window only."""
    rows: int | None = Field(None, gt=0)
    """Rows to use: the first so many. Must be given for a stream of unknown length."""
    window_bytes: int = added(64 << 20, gt=0)
    """Bytes of the rows of a stream that are shuffled among themselves (1,024 rows at most); a loader process keeps two
    such windows. How many rows that is follows from the first ones."""
    encoding: str = added("utf-8")
    """Of captions and JSON lines; a text that is not in it is an error."""
    hub_subset: ClassVar[str | None] = None
    """What `subset` stands for on the hub when it is not given; a local copy need not have such a folder."""
    hub_whole: ClassVar[bool] = False
    """Whether all subsets of the hub together are meant when none is given."""


class CauldronConfig(RecordsConfig):
    """Visual questions in The Cauldron's schema: `images`, and turns of user and assistant in `texts`. On the hub
    `subset` is one of its fifty data sets (`vqav2`, `docvqa`, ...); without it all of them are meant, each by
    its size."""

    name: Literal["cauldron"] = "cauldron"
    id: str = "HuggingFaceM4/the_cauldron"
    hub_whole: ClassVar[bool] = True


class DocmatixConfig(RecordsConfig):
    """Questions on document pages in Docmatix's schema (The Cauldron's, with a document's pages as `images`)."""

    name: Literal["docmatix"] = "docmatix"
    id: str = "HuggingFaceM4/Docmatix"
    hub_subset: ClassVar[str | None] = "images"  # "pdf" holds documents that are not drawn
    max_pages: int | None = Field(None, gt=0)
    """Documents of more pages are left out, because a turn does not say on which page it is answered; None: all."""


class ObelicsConfig(RecordsConfig):
    """Interleaved web documents in OBELICS' schema: parallel lists `images` and `texts`, one of each pair None."""

    name: Literal["obelics"] = "obelics"
    id: str = "HuggingFaceM4/OBELICS"
    max_images: int | None = Field(None, gt=0)
    """Images kept a document; None: all that fit the sequence."""


class PairsConfig(RecordsConfig):
    """Pictures with alt text and, where there is one, a synthetic caption (LAION COCO, PMD). LAION COCO's own columns
    are URL (addresses: download first), TEXT and top_caption."""

    name: Literal["pairs"] = "pairs"
    image: str = "image"
    """Column of the picture."""
    text: str = "text"
    """Column of the alt text."""
    synthetic: str | None = None
    """Column of the synthetic caption (LAION COCO: top_caption)."""
    caption: Literal["alt_text", "synthetic"] = "alt_text"
    """Which of the two is learned; both stay in the record."""

    @model_validator(mode="after")
    def _synthetic_has_a_column(self) -> PairsConfig:
        if self.caption == "synthetic" and not self.synthetic:
            raise ValueError("`caption: synthetic` needs `synthetic`, the column of the synthetic captions")
        return self


class PagesConfig(RecordsConfig):
    """Transcribed pages (OCR-IDL, PDFA): page pictures, TIFF or PDF, and their words or lines."""

    name: Literal["pages"] = "pages"
    max_pages: int = Field(4, gt=0)
    """Pages kept of a document."""
    dpi: int = Field(150, gt=0)
    """Resolution at which PDF pages are drawn."""


class RenderedTextConfig(RecordsConfig):
    """Pictures of rendered text and what they say (Rendered Text)."""

    name: Literal["rendered_text"] = "rendered_text"
    id: str = "wendlerc/RenderedText"


class WebSightConfig(RecordsConfig):
    """Screenshots and the HTML they came from (WebSight)."""

    name: Literal["websight"] = "websight"
    id: str = "HuggingFaceM4/WebSight"
    hub_subset: ClassVar[str | None] = "v0.2"


class TextInstructionsConfig(RecordsConfig):
    """Instructions, most without images: `messages`, `conversations`, or instruction and output columns."""

    name: Literal["text_instructions"] = "text_instructions"


_PKG = "vlm_ablate.data.sources"

sources.declare("cauldron", CauldronConfig, f"{_PKG}.cauldron:Cauldron")
sources.declare("docmatix", DocmatixConfig, f"{_PKG}.cauldron:Docmatix")
sources.declare("obelics", ObelicsConfig, f"{_PKG}.obelics:Obelics")
sources.declare("pairs", PairsConfig, f"{_PKG}.pairs:Pairs")
sources.declare("pages", PagesConfig, f"{_PKG}.pages:Pages")
sources.declare("rendered_text", RenderedTextConfig, f"{_PKG}.rendered_text:RenderedText")
sources.declare("websight", WebSightConfig, f"{_PKG}.websight:WebSight")
sources.declare("text_instructions", TextInstructionsConfig, f"{_PKG}.text_instructions:TextInstructions")
