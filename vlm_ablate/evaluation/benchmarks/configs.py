"""Benchmarks: items, prompt template, metric; one each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import benchmarks

_PKG = "vlm_ablate.evaluation.benchmarks"


Use = Literal["train", "tune", "report"]
PART = re.compile(r"(?:(?P<id>[^\[\]:]+):)?(?P<name>[^\[\]:]+)(?:\[(?P<start>\d+):(?P<stop>\d+)\])?")
"""How a benchmark's `splits` writes one."""


class HubBenchmarkConfig(ComponentConfig):
    """A benchmark read from the hub or from a local copy in the same schema."""

    id: str
    """Hub id, or a local folder (`SPLIT.parquet`, `SPLIT-*.parquet`, `data/SPLIT-*.parquet`, `SPLIT.jsonl`, ...)."""
    subset: str | None = None
    """Configuration name on the hub; of a local copy, the folder below `id` that is looked into first."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    splits: dict[Use, str] = Field(default_factory=dict)
    """Our splits, named by use -> the data set's. `name[90:100]`: pictures whose hash is in that percentage.
    `other/id:name`: of another hub data set; a local copy is expected to hold the split itself, as `name`."""
    template: str | None = None
    """Prompt template; None: the benchmark's own."""

    def elsewhere(self, split: Use) -> str | None:
        """The other data set of the hub that a split is read from; None: it is read from `id`."""
        part = PART.fullmatch(self.splits.get(split, ""))
        other: str | None = part["id"] if part else None
        return None if other is None or Path(self.id).expanduser().exists() else other


# Ids, splits and columns below are those of the data sets' cards on the hub. Data sets that are loading scripts
# (HuggingFaceM4/VQAv2, OK-VQA and COCO) cannot be read by today's `datasets`: copies of their rows stand in.
_NO_TUNE: dict[Use, str] = {"train": "train[0:95]", "tune": "train[95:100]", "report": "validation"}
"""For data sets whose test answers are not public: tune is cut off train, by picture."""


class VqaV2Config(HubBenchmarkConfig):
    """VQAv2: open-ended questions on photos, VQA accuracy."""

    name: Literal["vqav2"] = "vqav2"
    id: str = "lmms-lab/VQAv2"
    splits: dict[Use, str] = {
        "train": "Multimodal-Fatima/VQAv2_train:train[0:95]",
        "tune": "Multimodal-Fatima/VQAv2_train:train[95:100]",
        "report": "validation",
    }


class OkVqaConfig(HubBenchmarkConfig):
    """OK-VQA: questions that need outside knowledge, VQA accuracy."""

    name: Literal["okvqa"] = "okvqa"
    id: str = "lmms-lab/OK-VQA"
    splits: dict[Use, str] = {
        "train": "Multimodal-Fatima/OK-VQA_train:train[0:95]",
        "tune": "Multimodal-Fatima/OK-VQA_train:train[95:100]",
        "report": "val2014",
    }


class TextVqaConfig(HubBenchmarkConfig):
    """TextVQA: questions about text in photos, VQA accuracy."""

    name: Literal["textvqa"] = "textvqa"
    id: str = "lmms-lab/textvqa"
    splits: dict[Use, str] = _NO_TUNE


class CocoCaptionsConfig(HubBenchmarkConfig):
    """COCO captions in the Karpathy split, CIDEr."""

    name: Literal["coco_captions"] = "coco_captions"
    id: str = "patomp/thai-mscoco-2014-captions"
    splits: dict[Use, str] = {"train": "train", "tune": "validation", "report": "test"}


class DocVqaConfig(HubBenchmarkConfig):
    """DocVQA: questions on scanned pages, ANLS."""

    name: Literal["docvqa"] = "docvqa"
    id: str = "HuggingFaceM4/DocumentVQA"
    splits: dict[Use, str] = _NO_TUNE


class ChartQaConfig(HubBenchmarkConfig):
    """ChartQA: questions on charts, relaxed accuracy."""

    name: Literal["chartqa"] = "chartqa"
    id: str = "HuggingFaceM4/ChartQA"
    splits: dict[Use, str] = {"train": "train", "tune": "val", "report": "test"}


class MmmuConfig(HubBenchmarkConfig):
    """MMMU: college-level questions with several images, lettered choices."""

    name: Literal["mmmu"] = "mmmu"
    id: str = "lmms-lab/MMMU"
    splits: dict[Use, str] = {"train": "dev", "report": "validation"}


class MathVistaConfig(HubBenchmarkConfig):
    """MathVista: mathematical questions, lettered choices or open."""

    name: Literal["mathvista"] = "mathvista"
    id: str = "AI4Math/MathVista"
    splits: dict[Use, str] = {"report": "testmini"}


class MmStarConfig(HubBenchmarkConfig):
    """MMStar: questions that need the image, lettered choices."""

    name: Literal["mmstar"] = "mmstar"
    id: str = "Lin-Chen/MMStar"
    splits: dict[Use, str] = {"report": "val"}


class MmBenchConfig(HubBenchmarkConfig):
    """MMBench (English), lettered choices; each question once, not in all rotations of its choices."""

    name: Literal["mmbench"] = "mmbench"
    id: str = "lmms-lab/MMBench"
    subset: str | None = "en"
    splits: dict[Use, str] = {"report": "dev"}


benchmarks.declare("vqav2", VqaV2Config, f"{_PKG}.vqav2:VqaV2")
benchmarks.declare("okvqa", OkVqaConfig, f"{_PKG}.okvqa:OkVqa")
benchmarks.declare("textvqa", TextVqaConfig, f"{_PKG}.textvqa:TextVqa")
benchmarks.declare("coco_captions", CocoCaptionsConfig, f"{_PKG}.coco_captions:CocoCaptions")
benchmarks.declare("docvqa", DocVqaConfig, f"{_PKG}.docvqa:DocVqa")
benchmarks.declare("chartqa", ChartQaConfig, f"{_PKG}.chartqa:ChartQa")
benchmarks.declare("mmmu", MmmuConfig, f"{_PKG}.mmmu:Mmmu")
benchmarks.declare("mathvista", MathVistaConfig, f"{_PKG}.mathvista:MathVista")
benchmarks.declare("mmstar", MmStarConfig, f"{_PKG}.mmstar:MmStar")
benchmarks.declare("mmbench", MmBenchConfig, f"{_PKG}.mmbench:MmBench")
