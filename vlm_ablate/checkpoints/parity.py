"""A checkpoint loaded twice, with transformers and as our assembly: do both compute the same?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, PretrainedConfig, PreTrainedModel, ProcessorMixin

from vlm_ablate.checkpoints.families.known import FAMILIES, inputs_for
from vlm_ablate.checkpoints.released import assembly_of
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.config.data import ImageConfig, Preparation
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import ModelError
from vlm_ablate.evaluation.ask import Prompts
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.pretrained import is_own_checkpoint, quietly, read_config, resolve, tensor_names
from vlm_ablate.models.released import read_model
from vlm_ablate.models.tokens import GLOBAL_IMAGE, IMAGE
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 5e-2, torch.float16: 5e-3}
"""Largest difference of logits over the largest logit."""
_SIZES = ((97, 61), (50, 120), (64, 64), (150, 40))
"""(width, height) of the pictures of noise, over and over."""
_WORDS = "what is shown here ? answer yes or no"


@dataclass(frozen=True)
class Case:
    """A batch that both are fed: how many images each sample has, and how it is padded."""

    name: str
    images: tuple[int, ...]
    left: bool = False


@dataclass(frozen=True)
class Compared:
    """One case, compared."""

    case: Case
    tokens: int
    """Positions compared (padding left out)."""
    views: int
    difference: float
    """Largest difference of a logit."""
    scale: float
    """Largest logit of transformers'."""
    prepared: str
    """The released processor against our data room: "equal", what differs, or "" where there is no processor."""

    @property
    def relative(self) -> float:
        """Difference over the largest logit."""
        return self.difference / max(self.scale, 1e-12)


def cases(images: int = 3) -> list[Case]:
    """No image, one, many, and batches that mix them, padded on either side."""
    mixed = (0, 1, images)
    return [
        Case("no image", (0,)),
        Case("one image", (1,)),
        Case(f"{images} images", (images,)),
        Case("mixed, padded right", mixed),
        Case("mixed, padded left", mixed, left=True),
    ]


@dataclass
class Parity:
    """Both models of one checkpoint."""

    folder: Path
    config: ModelConfig
    image: ImageConfig
    theirs: PreTrainedModel
    ours: VLM
    processor: ProcessorMixin | None

    @property
    def tolerance(self) -> float:
        """For the relative difference, in this precision."""
        return TOLERANCE[self.theirs.dtype]

    def compare(self, todo: Sequence[Case]) -> Iterator[Compared]:
        """The cases, one by one."""
        for case in todo:
            yield self._compare(case)

    @torch.no_grad()
    def _compare(self, case: Case) -> Compared:
        samples = self._samples(case)
        family = FAMILIES[self.theirs.config.model_type]
        laid_out = family.laid_out
        batch = self._encoded(samples, case.left) if laid_out else self._bare(case)
        alone = [batch.row(number) for number in range(len(batch.input_ids))] if family.row_by_row else [batch]
        expected = torch.cat([self.theirs(**inputs_for(self.theirs, self.ours, b)).logits.float() for b in alone])
        pixels, found = batch.pixel_values, self.ours.logits(batch).float()
        shared, real = min(found.shape[-1], expected.shape[-1]), batch.attention_mask
        difference = (found[real][:, :shared] - expected[real][:, :shared]).abs().max()
        views = 0 if pixels is None else len(pixels)
        prepared = self._prepared(samples, batch) if laid_out and not case.left else ""
        return Compared(case, int(real.sum()), views, float(difference), float(expected[real].abs().max()), prepared)

    def _samples(self, case: Case) -> list[Sample]:
        number, samples = 0, []
        for row, count in enumerate(case.images):
            segments: list[Text | Image] = [Text("the picture")] if row % 2 else []
            for _ in range(count):
                width, height = _SIZES[number % len(_SIZES)]
                noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
                segments += [Image(ImageRef(noise)), Text(f" {_WORDS[: 9 + 6 * number]}")]
                number += 1
            samples.append(Sample(str(row), (*segments, Text(f" {_WORDS}")), "parity"))
        return samples

    def _encoded(self, samples: Sequence[Sample], left: bool) -> Batch:
        data = Preparation(image=self.image, prompt="plain")
        return Prompts(self.ours, data, side="left" if left else "right").batch(samples)

    def _bare(self, case: Case) -> Batch:
        """Placeholders without tokens around them, and random squares."""
        vlm, tokenizer, side = self.ours, self.ours.tokenizer, self.ours.views.side
        tokenizer.padding_side = "left" if case.left else "right"
        around = FAMILIES[self.theirs.config.model_type].around
        block = around + IMAGE * vlm.placeholders(side, side) + around
        texts = [block.join([""] + [f" {_WORDS[: 9 + 6 * i]} " for i in range(n)]) + f" {_WORDS}" for n in case.images]
        images = list(case.images)
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
        count = sum(images)
        pixels = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)) if count else None
        labels = torch.full_like(encoded.input_ids, IGNORE)
        rows = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
        ids = [str(row) for row in range(len(images))]
        return Batch(encoded.input_ids, encoded.attention_mask, labels, pixels, None, rows, ids, count)

    def _prepared(self, samples: Sequence[Sample], batch: Batch) -> str:
        if self.processor is None:
            return ""
        for row, sample in enumerate(samples):
            text = "".join(s.text if isinstance(s, Text) else IMAGE for s in sample.segments)
            pictures = [ref.load() for ref in sample.images]
            made = self.processor(images=pictures or None, text=text, return_tensors="pt")
            ours = batch.input_ids[row][batch.attention_mask[row]]
            if made["input_ids"][0].tolist() != ours.tolist():
                return "token ids differ"
            own = batch.row(row).pixel_values
            if own is not None and (apart := self._pixels_apart(made["pixel_values"][0], own)) > 1e-5:
                return f"pixels differ by {apart:.2g}"
        return "equal"

    @staticmethod
    def _pixels_apart(theirs: Tensor, own: Tensor) -> float:
        height, width = theirs.shape[-2:]
        if len(own) != len(theirs) or own.shape[-2] < height or own.shape[-1] < width:
            return float("inf")
        return float((own[..., :height, :width] - theirs.float()).abs().max())


def load_parity(
    id: str, *, dtype: torch.dtype = torch.float32, on: Callable[[str], None] = lambda what: None
) -> Parity:
    """Both models of a checkpoint (local folder or hub id), on the CPU.

    Args:
        id: the checkpoint.
        dtype: of both.
        on: told what is being done.

    Raises:
        AssetMissing: the checkpoint is not on this machine.
        ModelError: it is damaged, or of a family that is no assembly of ours.
    """
    folder = resolve(id)
    if is_own_checkpoint(folder):
        raise ModelError(f"{folder} is a checkpoint of this package: transformers has no class to compare it with")
    on("reading the configuration")
    config = read_config(str(folder), planning=False)
    tensor_names(folder)  # damaged files are named before anything is built
    model, image = assembly_of(config, folder)
    with quietly():
        processor = _processor(folder)
        image = _expressible(image, config, processor)
        on("loading our assembly")
        vlm = started_vlm(model, Views.of([image])).eval().requires_grad_(False)
        _hold_in(dtype, vlm)
        on("loading transformers' model")
        theirs = read_model(folder, dtype=dtype).requires_grad_(False)
    return Parity(folder, model, image, theirs, vlm, processor)


def _hold_in(dtype: torch.dtype, vlm: VLM) -> None:
    """What a checkpoint keeps, as transformers reads it: frequencies of positions, which none keeps, stay in fp32."""
    for tensor in vlm.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _processor(folder: Path) -> ProcessorMixin | None:
    """The folder's processor; None when it has none, or none that can be loaded here."""
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        return None
    try:
        processor: ProcessorMixin = AutoProcessor.from_pretrained(folder, local_files_only=True)
        return processor
    except (OSError, ValueError, ImportError):
        return None


def _expressible(image: ImageConfig, config: PretrainedConfig, processor: ProcessorMixin | None) -> ImageConfig:
    """Without a tokeniser that knows their places, tiles cannot be written: whole squares instead."""
    if image.split != "tiles" or (processor is not None and GLOBAL_IMAGE in processor.tokenizer.get_vocab()):
        return image
    return ImageConfig(size=config.vision_config.image_size)


def within(results: Sequence[Compared], tolerance: float) -> bool:
    """Whether all differences are no larger than the tolerance, and processors agree where they were compared."""
    return all(r.relative <= tolerance and r.prepared in ("", "equal") for r in results)
