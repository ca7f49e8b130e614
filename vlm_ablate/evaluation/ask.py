"""One question to a trained run, or to a checkpoint folder: the prompt of the evaluation, answered greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vlm_ablate.config.data import Preparation
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.control import control_names
from vlm_ablate.data.encode import Encoder, Layout
from vlm_ablate.data.sample import ImageRef, Sample
from vlm_ablate.data.values import stripped, texts_of
from vlm_ablate.errors import DataError, ModelError
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from vlm_ablate.evaluation.prompts import build_prompt, get_template
from vlm_ablate.limits import parse_json
from vlm_ablate.models.batch import Batch

if TYPE_CHECKING:
    from vlm_ablate.models.vlm import VLM


@dataclass(frozen=True)
class Shot:
    """A question with its pictures; with an answer, a demonstration."""

    question: str
    images: tuple[Path, ...] = ()
    answer: str = ""

    def item(self, number: int) -> BenchmarkItem:
        """As an item of a benchmark, for the prompt."""
        pictures = tuple(ImageRef(path) for path in self.images)
        return BenchmarkItem(f"question {number}", pictures, self.question, (self.answer,), self.answer)


_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Whatever a checkpoint's generation_config.json says."""

Answerer = Callable[[Shot, Sequence[Shot], int], str]
"""(question, demonstrations, tokens at most) -> answer."""


def read_shots(file: Path) -> list[Shot]:
    """Demonstrations of a JSONL file: {"image": path (or "images": [...]), "question": ..., "answer": ...} a line.

    Paths are relative to the file.

    Raises:
        DataError: the file or a line of it cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # not at U+2028, which JSON allows within a text
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the demonstrations {file} cannot be read: {error}") from error
    shots = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            names = texts_of(row.get("images") or row["image"], "image")
            shot = Shot(
                stripped(row["question"], "question"),
                tuple(file.parent / name for name in names),
                stripped(row["answer"], "answer"),
            )
            if not (shot.question and shot.answer and shot.images):
                raise ValueError("question, answer and image must not be empty")
            shots.append(shot)
        except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise DataError(
                f"{file}:{number} is no demonstration: {error!r}",
                hint='a line is {"image": "cat.png", "question": "What is this?", "answer": "cat"}',
            ) from error
    return shots


class Prompts:
    """Samples to be answered, as batches of one model: its tokens, its pixels, padded on the left.

    Whoever asks a model asks through this: `generate`, the evaluation, parity, and the check of an export.

    Args:
        vlm: the model.
        data: prompt format and image preparation.
        side: where sequences are padded; to be continued they need "left".
    """

    def __init__(self, vlm: VLM, data: Preparation, *, side: Literal["right", "left"] = "left") -> None:
        self.vlm = vlm
        self.encoder = Encoder(vlm.tokenizer, data, vlm.placeholders)
        self._collate = Collator(self.encoder.pad, vlm.vision.mean, vlm.vision.std, side=side)

    def layout(self, sample: Sample) -> Layout:
        """The token ids of a prompt, without its pixels; raises as `Encoder.layout`."""
        return self.encoder.layout(sample, generate=True)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Prompts with their pixels, on the model's device.

        Raises:
            UnusableSample: a sample that cannot be laid out, or an image that cannot be read.
        """
        return self._collate([self.encoder(sample, generate=True) for sample in samples]).to(self.vlm.device)

    def encoded(
        self,
        layouts: Sequence[Layout],
        images: Sequence[Sequence[Sequence[Tensor]]],
        names: Sequence[Sequence[str | bytes]],
    ) -> Batch:
        """Prompts whose images were encoded earlier: of each its images, of each image the tokens of its views.

        Args:
            names: of each prompt the names of its images, by which prompts that begin alike are known.
        """
        return self._collate.prompts(layouts, images, names).to(self.vlm.device)


def with_vlm(vlm: VLM, data: Preparation, *, template: str = "vqa") -> Answerer:
    """Answers of our own model, prompted as its benchmarks prompt it.

    Args:
        vlm: the model.
        data: prompt format and image preparation.
        template: name in `evaluation/prompts.py`.
    """
    prompts, form = Prompts(vlm, data), get_template(template)

    def answer(question: Shot, shots: Sequence[Shot], max_new_tokens: int) -> str:
        items = [shot.item(number) for number, shot in enumerate((*shots, question), 1)]
        sample = build_prompt(items[-1], items[:-1], form, data.prompt)
        (text,) = vlm.generate(prompts.batch([sample]), max_new_tokens=max_new_tokens, stop=Benchmark.stop)
        return text.strip()

    return answer


def with_transformers(folder: Path, device: torch.device | str = "cpu") -> Answerer:
    """Answers of a checkpoint that transformers loads, prompted with its own chat template.

    Raises:
        ModelError: transformers has no class for it, it is damaged, or it has no processor.
    """
    from transformers import AutoProcessor

    from vlm_ablate.models.pretrained import quietly, tensor_names
    from vlm_ablate.models.released import read_model

    tensor_names(folder)  # damaged files are named before anything is built
    try:
        with quietly():
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load the processor of {folder}: {error}") from error
    model = read_model(folder).to(device)  # type: ignore[arg-type]  # transformers' wrapper loses its self
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if not template:
        raise ModelError(
            f"{folder} has no chat template, so nothing says how its prompts are written",
            hint="put a chat_template.jinja of its family beside its tokeniser",
        )

    control, taken = control_names(processor.tokenizer), signature(model.forward).parameters

    def answer(question: Shot, shots: Sequence[Shot], max_new_tokens: int) -> str:
        _refuse_control((*shots, question), control)
        turns, pictures = [], []
        for shot in (*shots, question):
            pictures += [ImageRef(path).load() for path in shot.images]
            content = [*({"type": "image"} for _ in shot.images), {"type": "text", "text": shot.question}]
            turns.append({"role": "user", "content": content})
            if shot is not question:
                turns.append({"role": "assistant", "content": [{"type": "text", "text": shot.answer}]})
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        bos = processor.tokenizer.bos_token
        special = {} if not (bos and prompt.startswith(bos)) else {"add_special_tokens": False}
        inputs = processor(images=pictures or None, text=prompt, return_tensors="pt", **special).to(device)
        if "token_type_ids" not in taken:  # many tokenisers give them; PaliGemma's and Gemma 3's attention reads them
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, **_GREEDY)
        made: str = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        text = made.lstrip()  # some begin a line first
        places = [place for place in (text.find(stop) for stop in Benchmark.stop) if place > 0]
        return text[: min(places, default=len(text))].strip()

    return answer


def _refuse_control(shots: Sequence[Shot], control: Sequence[str]) -> None:
    """Refuse texts that the checkpoint's processor would read as control tokens.

    Raises:
        DataError: a question or an answer holds the name of one.
    """
    for shot in shots:
        for token in control:
            if token in f"{shot.question}\0{shot.answer}":
                raise DataError(f"{token!r} in {shot.question!r} is a control token of the checkpoint")
