"""A model as a checkpoint folder for others: weights, tokeniser, processor, and a card that says what it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from vlm_ablate.checkpoints.card import CARD, model_card
from vlm_ablate.checkpoints.exported import Check, Exported, Origin
from vlm_ablate.checkpoints.own import save_checkpoint
from vlm_ablate.checkpoints.peft_folder import save_adapters
from vlm_ablate.checkpoints.processor import Prepared, generation_config, processor_for
from vlm_ablate.checkpoints.to_transformers import fit, to_transformers
from vlm_ablate.config.data import Preparation
from vlm_ablate.errors import ModelError, StorageError
from vlm_ablate.models.adapters import merge_adapters
from vlm_ablate.models.pretrained import OWN_DESCRIPTION, quietly
from vlm_ablate.models.released import ADAPTER, ADAPTER_CONFIG
from vlm_ablate.storage import storage_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlm_ablate.models.vlm import VLM

TOLERANCE = 1e-4
"""Largest difference of logits between a float32 export and its run, relative to the largest logit."""
_STALE = ("*.safetensors", "*.safetensors.index.json", "*.bin", "vlm_ablate.json", "config.json",
          "processor_config.json", "preprocessor_config.json", "chat_template.jinja")  # fmt: skip
_PARTS = {ADAPTER: ADAPTER_CONFIG, "language": "config.json", "vision": "config.json"}
"""Folder in an export -> the file in it that says so."""


def export(
    vlm: VLM,
    origin: Origin,
    folder: Path,
    *,
    keep_adapters: bool = False,
    force: bool = False,
    check: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Exported:
    """Write a model into `folder`, all at once or not at all.

    Args:
        vlm: the model; its precision may change, and adapters may be folded in.
        origin: where it comes from.
        folder: new, empty, or (with `force`) anything: files of an earlier export in it are replaced.
        keep_adapters: leave LoRA and DoRA beside the weights they belong to instead of folding them in.
        force: write into a folder that is not empty; weights in it are replaced only where they are an export's.
        check: load what was written with transformers and compare it with the model.
        dtype: of the written weights.

    Raises:
        StorageError: the folder is not empty or cannot be written.
        ModelError: there are no adapters to keep, or transformers' class computes something else.
    """
    with _taking_the_place_of(folder, force) as partial:
        if keep_adapters and not vlm.adapters:
            raise ModelError(f"the run {origin.name!r} has no adapters to keep", hint="leave out --keep-adapters")
        fitting = fit(vlm)
        prepared, reason = None, fitting.reason
        if fitting.family:
            try:
                prepared = processor_for(vlm, origin.data.image, origin.data.prompt, fitting.family)
            except ModelError as error:
                reason = error.message
        if prepared:
            made = _write_transformers(vlm, prepared, origin, partial, folder, keep_adapters, check, dtype)
        else:
            if not keep_adapters:
                merge_adapters(vlm)  # before its precision changes: the sum is rounded once
            save_checkpoint(
                vlm.to(dtype),
                partial,
                origin.data.image,
                prompt=origin.data.prompt,
                plugins=origin.plugins,
                run=origin.run,
                keep_adapters=keep_adapters,
            )
            made = Exported(folder, None, reason, adapters=keep_adapters)
        with storage_errors("write", folder):
            (partial / CARD).write_text(model_card(origin, made))
    return made


def _write_transformers(
    vlm: VLM,
    prepared: Prepared,
    origin: Origin,
    partial: Path,
    folder: Path,
    keep_adapters: bool,
    check: bool,
    dtype: torch.dtype,
) -> Exported:
    model = to_transformers(vlm, merged=not keep_adapters)
    model.to(dtype)  # type: ignore[arg-type]  # transformers' wrapper loses its self
    model.generation_config = generation_config(vlm)
    model.name_or_path = str(folder.absolute())
    with storage_errors("write", folder), quietly():
        model.save_pretrained(partial)
        prepared.processor.save_pretrained(partial)
        prepared.processor.image_processor.save_pretrained(partial)  # readers older than transformers 5 look there
        if keep_adapters:
            save_adapters(vlm, model, partial / ADAPTER)
    result = None
    if check:
        result = check_export(vlm, partial, origin.data, prepared)
        if dtype is torch.float32 and not result.logits <= TOLERANCE * max(1.0, result.scale):  # nan is not, either
            raise ModelError(
                f"{type(model).__name__} gives other logits than the run's own model: {result.logits:.2g} apart"
            )
    return Exported(folder, type(model).__name__, adapters=keep_adapters, remarks=prepared.remarks, check=result)


@torch.no_grad()
def check_export(vlm: VLM, folder: Path, data: Preparation, prepared: Prepared) -> Check:
    """Load a folder as anyone would and compare token ids, pixels and logits with the run's own.

    Raises:
        ModelError: the processor's token ids or views are not those of the data room.
    """
    from PIL import Image as Pillow
    from transformers import AutoProcessor

    from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
    from vlm_ablate.evaluation.ask import Prompts

    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    words = "What is shown in this picture?"
    plain = data.model_copy(update={"prompt": "plain", "image": data.image.model_copy(update={"fast": False})})
    sample = Sample("noise", (Image(ImageRef(noise)), Text(words)), "check")
    batch = Prompts(vlm, plain).batch([sample])
    with quietly():
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = load_as_told(folder)
    theirs = processor(images=[Pillow.fromarray(noise)], text=prepared.picture + words, return_tensors="pt")
    pixels, own = theirs["pixel_values"], batch.pixel_values
    pixels = pixels[0] if pixels.dim() == 5 else pixels  # by sample and view, or by view
    assert own is not None  # there is one image
    if not torch.equal(theirs["input_ids"], batch.input_ids):
        raise ModelError("transformers' processor gives other token ids than the run was trained on")
    if pixels.shape != own.shape:
        raise ModelError(f"transformers' processor gives views {tuple(pixels.shape)}, the run {tuple(own.shape)}")
    if not prepared.token_types:
        theirs.pop("token_type_ids", None)
    theirs = {name: v.to(model.dtype) if v.is_floating_point() else v for name, v in theirs.items()}
    found = model(**theirs).logits.float()
    ours = vlm.logits(batch)
    return Check(
        pixels=float((pixels.float() - own).abs().max()),
        logits=float((found - ours).abs().max()),
        scale=float(ours.abs().max()),
    )


def load_as_told(folder: Path) -> nn.Module:
    """What the card's lines give: transformers' model, and peft's around it where adapters stand beside the weights."""
    from transformers import AutoModelForImageTextToText

    with quietly():
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
        model.eval()
        if not (folder / ADAPTER).is_dir():
            return model
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(folder / ADAPTER))


@contextmanager
def _taking_the_place_of(folder: Path, force: bool) -> Iterator[Path]:
    """A folder to write to, whose files are moved into `folder` when the block ends well."""
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file", hint="name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise StorageError(
            f"the folder {folder} is not empty", hint="name another folder, or replace an earlier export with --force"
        )
    if foreign := _foreign(folder):
        raise StorageError(
            f"the folder {folder} holds {foreign[0].name}, and no earlier export that it is of",
            hint="name another folder",
        )
    partial = folder.absolute().parent / f".{folder.absolute().name}.{os.getpid()}.partial"
    with storage_errors("write", folder):
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    try:
        yield partial
        with storage_errors("write", folder):
            _readable(partial)
            folder.mkdir(exist_ok=True)
            _clear(folder)
            for item in sorted(partial.iterdir()):
                os.replace(item, folder / item.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _foreign(folder: Path) -> list[Path]:
    """What stands in the way of an export and is not of an earlier one."""
    named = any((folder / name).is_file() for name in ("config.json", OWN_DESCRIPTION))
    named = named or any(folder.glob("model*.safetensors"))
    parts = [folder / name for name in _PARTS if (folder / name).is_dir() and folder / name not in _parts(folder)]
    return parts + ([] if named else _stale(folder))


def _parts(folder: Path) -> list[Path]:
    """Folders in an earlier export that are parts of it."""
    own = (folder / OWN_DESCRIPTION).is_file()
    return [folder / n for n, mark in _PARTS.items() if (folder / n / mark).is_file() and (own or n == ADAPTER)]


def _stale(folder: Path) -> list[Path]:
    return [file for pattern in _STALE for file in sorted(folder.glob(pattern))]


def _clear(folder: Path) -> None:
    """Take out what an earlier export left: weights of another form must not lie beside the new ones."""
    for part in _parts(folder):
        shutil.rmtree(part, ignore_errors=True)
    for file in _stale(folder):
        file.unlink()


def _readable(folder: Path) -> None:
    """The usual mode: safetensors writes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)
