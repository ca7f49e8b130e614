"""Benchmarks: items, prompt template, metric; one each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import Registry

benchmarks: Registry = Registry("benchmark")

_PKG = "vlm_ablate.evaluation.benchmarks"


class HubBenchmarkConfig(ComponentConfig):
    """A benchmark read from the hub or from a local copy."""

    id: str
    """Hub id or local folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    splits: dict[Literal["train", "tune", "report"], str] = Field(
        default_factory=lambda: {"train": "train", "tune": "train", "report": "validation"}
    )
    """Our splits (named by use) -> the data set's."""


class VqaV2Config(HubBenchmarkConfig):
    """VQAv2: open-ended questions on photos, VQA accuracy."""

    name: Literal["vqav2"] = "vqav2"
    id: str = "HuggingFaceM4/VQAv2"


class OkVqaConfig(HubBenchmarkConfig):
    """OK-VQA: questions that need outside knowledge, VQA accuracy."""

    name: Literal["okvqa"] = "okvqa"
    id: str = "HuggingFaceM4/OK-VQA"


class TextVqaConfig(HubBenchmarkConfig):
    """TextVQA: questions about text in photos, VQA accuracy."""

    name: Literal["textvqa"] = "textvqa"
    id: str = "facebook/textvqa"


class CocoCaptionsConfig(HubBenchmarkConfig):
    """COCO captions, CIDEr."""

    name: Literal["coco_captions"] = "coco_captions"
    id: str = "HuggingFaceM4/COCO"


class OfflineConfig(ComponentConfig):
    """What the benchmarks on composed pictures share."""

    items: int = Field(400, ge=1)
    """Items of each split."""
    side: int = Field(64, ge=32)
    """Side in pixels of the composed pictures (pages: twice as tall)."""


class OfflineVqaConfig(OfflineConfig):
    """Open-ended questions on composed scenes, VQA accuracy. Mirrors VQAv2."""

    name: Literal["offline_vqa"] = "offline_vqa"


class OfflineKnowledgeConfig(OfflineConfig):
    """Questions that need a fact beside the picture (whose flag, then its capital). Mirrors OK-VQA."""

    name: Literal["offline_knowledge"] = "offline_knowledge"


class OfflineReadingConfig(OfflineConfig):
    """Questions on signs, charts and tables that must be read. Mirrors TextVQA."""

    name: Literal["offline_reading"] = "offline_reading"


class OfflineCaptionsConfig(OfflineConfig):
    """Captions of composed scenes, CIDEr. Mirrors COCO."""

    name: Literal["offline_captions"] = "offline_captions"


class OfflinePagesConfig(OfflineConfig):
    """Fact sheets with several lines of small print, ANLS. Mirrors DocVQA."""

    name: Literal["offline_pages"] = "offline_pages"


benchmarks.declare("vqav2", VqaV2Config, f"{_PKG}.vqav2:VqaV2")
benchmarks.declare("okvqa", OkVqaConfig, f"{_PKG}.okvqa:OkVqa")
benchmarks.declare("textvqa", TextVqaConfig, f"{_PKG}.textvqa:TextVqa")
benchmarks.declare("coco_captions", CocoCaptionsConfig, f"{_PKG}.coco_captions:CocoCaptions")
benchmarks.declare("offline_vqa", OfflineVqaConfig, f"{_PKG}.offline:OfflineVqa")
benchmarks.declare("offline_knowledge", OfflineKnowledgeConfig, f"{_PKG}.offline:OfflineKnowledge")
benchmarks.declare("offline_reading", OfflineReadingConfig, f"{_PKG}.offline:OfflineReading")
benchmarks.declare("offline_captions", OfflineCaptionsConfig, f"{_PKG}.offline:OfflineCaptions")
benchmarks.declare("offline_pages", OfflinePagesConfig, f"{_PKG}.offline:OfflinePages")
