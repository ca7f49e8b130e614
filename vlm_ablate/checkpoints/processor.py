"""transformers' own processors set up to give the token ids and pixels that a run was trained and scored on.

Of Idefics2 and Idefics3, which processor fits is decided by how images are cut, not by the model: `Idefics2Processor`
writes whole images and four crops (also squares, with any filter), `Idefics3Processor` writes tiles with their places.
LLaVA and PaliGemma take a flat list of pictures, as `LlavaProcessor` gives it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vlm_ablate.checkpoints.chat import chat_template
from vlm_ablate.checkpoints.families.base import ExportFamily
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.images import filter_of
from vlm_ablate.errors import ModelError
from vlm_ablate.models.tokens import FAKE, IMAGE
from vlm_ablate.models.views import view_side
from vlm_ablate.models.vlm import VLM

if TYPE_CHECKING:
    from transformers import GenerationConfig, ProcessorMixin


@dataclass(frozen=True)
class Prepared:
    """A processor, and what it cannot say of the run's image preparation."""

    processor: ProcessorMixin
    remarks: tuple[str, ...] = ()
    picture: str = IMAGE
    """What stands for a picture in a text that the processor is given."""
    token_types: bool = False
    """Whether the model reads the type ids that the processor gives."""


def processor_for(vlm: VLM, image: ImageConfig, prompt: str, family: ExportFamily | None = None) -> Prepared:
    """The processor of this model's images and text, with a chat template that writes the prompt format.

    Args:
        vlm: the model; its tokeniser is copied.
        image: how its images are prepared.
        prompt: "plain", "chat" or "template" (`DataConfig.prompt`).
        family: that the model is written as. None: Idefics2 or Idefics3.

    Raises:
        ModelError: no processor of transformers prepares images in this way.
    """
    from transformers import Idefics2Processor, Idefics3Processor
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    if family is not None and not family.laid_out:
        return _of_squares(vlm, image, prompt, family)
    if not hasattr(vlm.vision, "patches") and view_side(image) != vlm.views.side:
        raise ModelError(
            f"the tower interpolates its positions below {vlm.views.side} px, where Idefics2 and Idefics3 bucket them",
            hint=f"ask with views of {vlm.views.side} px, or write model.vision: siglip-native",
        )
    tokenizer, count = deepcopy(vlm.tokenizer), placeholders(vlm, image)
    template = chat_template(prompt, tokenizer)
    common: dict[str, Any] = {
        "resample": int(filter_of(image)),
        "image_mean": list(vlm.vision.mean),
        "image_std": list(vlm.vision.std),
    }
    processor: ProcessorMixin
    if image.split == "tiles":
        tiles = Idefics3ImageProcessorPil(
            do_image_splitting=True, size={"longest_edge": image.size}, max_image_size={"longest_edge": image.tile},
            **common,
        )
        processor = Idefics3Processor(tiles, tokenizer, image_seq_len=count, chat_template=template)
    else:
        size = {"shortest_edge": image.shortest or 1, "longest_edge": image.size}
        if image.resize == "square":
            size = {"height": image.size, "width": image.size}
        pixels = Idefics2ImageProcessorPil(do_image_splitting=image.split == "crops", size=size, **common)
        processor = Idefics2Processor(pixels, tokenizer, image_seq_len=count, chat_template=template)
    return Prepared(processor, tuple(_remarks(image)))


def _of_squares(vlm: VLM, image: ImageConfig, prompt: str, family: ExportFamily) -> Prepared:
    """A `LlavaProcessor`, which gives each picture's pixels by themselves and repeats `<image>` for its patches.

    It writes no tokens around a picture: the text has them, and so has what the chat template writes.
    """
    from transformers import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    side = vlm.views.side  # of its tower, or the family would have been refused
    if image.split != "none" or image.resize != "square" or image.size != side:
        raise ModelError(
            f"{family.cls.__name__} takes whole squares of {side} px, one view a picture",
            hint=f"train and ask with data.image: {{resize: square, split: none, size: {side}}}",
        )
    tokenizer, count = deepcopy(vlm.tokenizer), placeholders(vlm, image)
    if family.token_types:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved
    patch = cast(int, vlm.vision.patch_size)
    rows = side // patch
    pixels = SiglipImageProcessorPil(
        size={"height": side, "width": side},
        resample=int(filter_of(image)),
        image_mean=list(vlm.vision.mean),
        image_std=list(vlm.vision.std),
    )
    processor = LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="full",  # of counting alone; the model's own configuration says what is read
        num_additional_image_tokens=count - rows * rows,
        chat_template=chat_template(prompt, tokenizer, around=FAKE),
    )
    return Prepared(processor, tuple(_remarks(image)), f"{FAKE}{IMAGE}{FAKE}", family.token_types)


def placeholders(vlm: VLM, image: ImageConfig) -> int:
    """`<image>` tokens of any view.

    Raises:
        ModelError: their number depends on the size of the view.
    """
    side = view_side(image)
    count = vlm.placeholders(side, side)
    fixed = image.split == "tiles" or image.resize == "square" or vlm.connector.config.name in _ANY_SIZE
    if not fixed and vlm.architecture.config.name != "cross_attention":
        raise ModelError(
            f"images keep their aspect ratio and the connector {vlm.connector.config.name!r} gives more tokens to a"
            " larger view: no processor of transformers counts tokens by size",
            hint="train with data.image.resize: square, or with a connector that gives a fixed number of tokens",
        )
    return count


_ANY_SIZE = ("perceiver", "mapping_network")
"""Connectors that give the same number of tokens for views of any size."""


def _remarks(image: ImageConfig) -> list[str]:
    if not image.fast:
        return []
    return ["the run decoded JPEG at a reduced size (data.image.fast); the processor decodes in full: pixels differ"]


def generation_config(vlm: VLM) -> GenerationConfig:
    """Greedy, with the ends and the padding that this package generates with."""
    from transformers import GenerationConfig

    from vlm_ablate.models.generation import end_ids

    tokenizer, ends = vlm.tokenizer, end_ids(vlm.language)
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends or None,
        pad_token_id=pad if pad is not None else (ends or [0])[0],
    )
