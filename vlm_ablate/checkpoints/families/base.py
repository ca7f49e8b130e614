"""What is known of a family of released checkpoints, and what families have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vlm_ablate.checkpoints.families.processors import resampling
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vlm import VLM

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Parts = dict[str, Any]
"""Fields of a `ModelConfig`."""
Inputs = dict[str, Tensor]
"""Arguments of a class of transformers."""

POSITIONS = "vision.backbone.embeddings.position_embedding.weight"


class Family:
    """Base of all families. Subclasses say what differs."""

    model_types: ClassVar[tuple[str, ...]]
    """Values of a configuration's `model_type`."""
    own_placeholder: ClassVar[bool] = False
    """The placeholder of an image is another token than `<image>`; its embedding is copied to ours."""
    laid_out: ClassVar[bool] = False
    """The data room writes its image blocks and prepares its pictures; the others get squares and bare placeholders."""
    row_by_row: ClassVar[bool] = False
    """In transformers' class text may see what pads the images of neighbours: a row computes the same only alone."""
    around: ClassVar[str] = ""
    """Token on either side of a bare placeholder."""

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        """Vision, connector and architecture of the checkpoint `id`.

        Raises:
            ModelError: it is a variant that is no assembly of ours.
        """
        raise NotImplementedError

    def names(self, config: PretrainedConfig) -> Renaming:
        """Names of its tensors here."""
        raise NotImplementedError

    def images(self, config: PretrainedConfig, said: dict[str, Any]) -> ImageConfig:
        """How its processor prepares images.

        Args:
            config: of the checkpoint.
            said: of the image processor; empty where there is none.

        Raises:
            ModelError: it prepares them in a way that is none of ours.
        """
        size = said.get("size") or {}
        size = size if isinstance(size, dict) else {"height": size, "width": size}  # a number, in old files
        side = size.get("height") if size.get("height") == size.get("width") else None
        found = ImageConfig(size=side or config.vision_config.image_size)
        how = resampling(said, f"the image processor of the {config.model_type!r}")["resample"]
        return found if how in ("auto", "bicubic") else found.model_copy(update={"resample": how})  # else by default

    def unlike(self, said: dict[str, Any]) -> str:
        """What the processor does to pictures that `images` does not reproduce, in words; "" where that is nothing."""
        if said.get("do_center_crop"):
            return "cuts the middle out of a picture, which is stretched to a square here"
        if (tiles := said.get("max_image_tiles", 1)) > 1:
            return f"cuts a picture into up to {tiles} tiles, which is one view here"
        return ""

    def inputs(self, model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
        """What the family's class is given beside ids, attention and positions; may replace these."""
        raise NotImplementedError


class ExportFamily(Family):
    """A family that assemblies of ours can be written as."""

    cls: ClassVar[type[PreTrainedModel]]
    """transformers' class."""
    connector: ClassVar[str]
    """Name of the connector that makes an assembly one of this family."""

    text_module: ClassVar[str] = "text_model"
    """Name of the decoder inside the class."""
    token_types: ClassVar[bool] = False
    """Whether the class must be told which tokens are the prompt's: a tokeniser's type ids, all 0, say that all are."""

    def refusal(self, vlm: VLM) -> str | None:
        """Why it does not compute what `vlm` computes; None when it may: names and shapes are compared afterwards."""
        raise NotImplementedError

    def config(self, vlm: VLM) -> PretrainedConfig:
        """The configuration of `vlm` as one of this family."""
        raise NotImplementedError


def scales_logits(text: PretrainedConfig) -> bool:
    """Whether a language model does something to its logits after the output head."""
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(text, name, None) not in (None, 1, 1.0) for name in names)


def resampler(perceiver: PretrainedConfig) -> Parts:
    """What the resamplers of both Idefics families are described by."""
    return {
        "name": "perceiver",
        "latents": perceiver.resampler_n_latents,
        "depth": perceiver.resampler_depth,
        "heads": perceiver.resampler_n_heads,
        "head_dim": perceiver.resampler_head_dim,
    }


def slots(batch: Batch, dtype: torch.dtype) -> tuple[Tensor, list[tuple[int, int]]]:
    """(samples, most views of a sample, 3, height, width), zeros where there is none; and where each view went."""
    assert batch.pixel_values is not None
    counts = torch.bincount(batch.view_sample, minlength=len(batch.input_ids))
    filled = torch.zeros(len(counts), max(1, int(counts.max())), *batch.pixel_values.shape[1:], dtype=dtype)
    places, seen = [], [0] * len(counts)
    for row, view in zip(batch.view_sample.tolist(), batch.pixel_values, strict=True):
        filled[row, seen[row]] = view.to(dtype)
        places.append((row, seen[row]))
        seen[row] += 1
    return filled, places
