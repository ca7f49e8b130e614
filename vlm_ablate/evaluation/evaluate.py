"""Scoring a model on one benchmark: few-shot prompts, images encoded once, greedy batches of like length, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vlm_ablate.config.data import ImageConfig, Preparation
from vlm_ablate.config.evaluation import BenchmarkEntry, EvaluationConfig
from vlm_ablate.data.encode import Layout
from vlm_ablate.data.sample import ImageRef, Sample
from vlm_ablate.evaluation.ask import Prompts
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split
from vlm_ablate.evaluation.demonstrations import Demonstrator
from vlm_ablate.evaluation.features import VisualCache
from vlm_ablate.evaluation.predictions import Prediction, PredictionFile
from vlm_ablate.evaluation.prompts import Template, build_prompt, get_template
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.evaluation.text_answers import TextAnswers
from vlm_ablate.events import remark
from vlm_ablate.models.beginnings import Beginnings
from vlm_ablate.registry import benchmarks

if TYPE_CHECKING:
    from vlm_ablate.models.vlm import VLM

Progress = Callable[[int, int], None]

_MORE_IN_COMMON = 0.3
"""Of a prompt: what prompts must share more with their neighbours when they stand by picture, or they stand by length,
which pads less."""
_WINDOW = 16
"""Batches whose prompts are laid out together before they are sorted by length; bounds memory on large benchmarks."""


@dataclass(frozen=True)
class _Request:
    """One prompt, ready for a batch."""

    item: BenchmarkItem
    shots: tuple[str, ...]
    images: tuple[tuple[str, ImageRef], ...]
    """(cache key, image) in reading order."""
    layout: Layout


@dataclass(frozen=True)
class Sharing:
    """What the prompts of an evaluation have in common, computed once (`execution.shared_prompts`)."""

    beginnings: Beginnings
    """Of the prompts of a batch."""
    pictures: VisualCache
    """Of all benchmarks whose pictures are prepared alike."""

    @classmethod
    def of(cls, vlm: VLM, image: ImageConfig) -> Sharing:
        """For a model as it is now, and pictures prepared in one way."""
        return cls(Beginnings(), VisualCache(vlm, image, by_content=True))


@torch.no_grad()
def evaluate(
    vlm: VLM,
    column: str,
    entry: BenchmarkEntry,
    cfg: EvaluationConfig,
    data_cfg: Preparation,
    *,
    batch_size: int = 32,
    blind: bool,
    out: Path,
    described: bool = False,
    progress: Progress | None = None,
    state: str = "",
    precision: Literal["fp32", "bf16"] = "fp32",
    benchmark: Benchmark | None = None,
    texts: TextAnswers | None = None,
    sharing: Sharing | None = None,
) -> ScoreRecord:
    """Score a model on one benchmark; the predictions stand in `out` (see `predictions.py`) as they come.

    An evaluation that was killed continues from `out`, in the same batches, as if it had not been. A finished `out`
    is not computed again.

    Args:
        vlm: the model; its mode is put back afterwards.
        data_cfg: how the benchmark's images and prompts are prepared.
        batch_size: prompts generated together.
        column: the table's column, i.e. the name of `entry` in the experiment file.
        blind: withhold every image.
        described: put the items' descriptions in the place of the images.
        progress: called with (items done, items) after every batch.
        state: identity of the weights (e.g. hash and step); an `out` of another state is started anew.
        precision: "bf16" runs the model under autocast.
        benchmark: the entry's benchmark, if it was built already.
        texts: gives answers to prompts without images that cannot differ from those of other arms; None: all are
            computed.
        sharing: computes what prompts have in common once; None: every prompt is computed whole, and pictures once in
            this benchmark.

    Raises:
        DataError: the benchmark cannot be scored (no items, no references, unreadable image, too few demonstrations).
        AssetMissing: its material is not on this machine.
        StorageError: `out` cannot be written.
    """
    benchmark = benchmark or benchmarks.build(entry.benchmark)
    items = benchmark.checked_items(entry.split, entry.limit)
    shots = cfg.shots if entry.shots is None else entry.shots
    template = get_template(benchmark.template)
    demonstrator = Demonstrator(benchmark, shots, cfg.demonstrations, vlm.vision, data_cfg.image)
    metric = benchmark.metric
    record = ScoreRecord(
        benchmark=entry.benchmark.name,
        column=column,
        split=entry.split,
        split_hash=benchmark.split_hash(entry.split, entry.limit),
        template=f"{template.id}+{data_cfg.prompt}",
        shots=shots,
        demonstration_seed=cfg.demonstrations.seed,
        scorer=metric.name,
        scorer_version=metric.version,
        items=len(items),
        unparsed=0,
        score=0.0,
        blind=blind,
        demonstrations=demonstrator.description,
        described=described,
    )
    report = progress or (lambda done, total: None)
    shared = sharing is not None
    with PredictionFile(out, _protocol(record, benchmark, cfg, batch_size, state, shared=shared)) as file:
        if len(file.done) < len(items):
            requests = _Requests(vlm, template, demonstrator, data_cfg, blind, described, entry.split, column)
            asking = _Asking(requests.prompts, benchmark, texts, sharing)
            with _inference(vlm, precision):
                _answer_all(asking, items, requests, batch_size, file, report)
            requests.tell_of_long(column, benchmark.max_new_tokens)
        report(len(items), len(items))
        ids = [item.id for item in items]
        result = metric.corpus([file.done[i].prediction for i in ids], [file.done[i].references for i in ids])
        file.finish(ids, result.per_item)
    return replace(record, score=result.mean, unparsed=result.unparsed)


def _protocol(
    record: ScoreRecord, benchmark: Benchmark, cfg: EvaluationConfig, batch_size: int, state: str, *, shared: bool
) -> dict[str, Any]:
    """Everything that a predictions file must agree in before it is continued."""
    extra = {"stop": benchmark.stop, "max_new_tokens": benchmark.max_new_tokens, "batch_size": batch_size}
    extra |= {"shared_prompts": True} if shared else {}
    return {**record.protocol(), **extra, "pool": cfg.demonstrations.pool, "state": state}


@contextmanager
def _inference(vlm: VLM, precision: str) -> Iterator[None]:
    """Evaluation mode, and autocast if asked for."""
    training = vlm.training
    device = vlm.device.type
    vlm.eval()
    try:
        with torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
            yield
    finally:
        vlm.train(training)


class _Requests:
    """Makes requests of items: demonstrations, prompt, token layout."""

    def __init__(
        self,
        vlm: VLM,
        template: Template,
        demonstrator: Demonstrator,
        data: Preparation,
        blind: bool,
        described: bool,
        split: Split,
        column: str,
    ) -> None:
        self.prompts, self._column = Prompts(vlm, data), column
        self._template, self._demonstrator, self._data = template, demonstrator, data
        self._withheld, self._split = {"blind": blind, "described": described}, split
        self._lengths: list[int] = []

    def make(self, items: Sequence[BenchmarkItem]) -> list[_Request]:
        """Requests of some items, in their order."""
        shots = self._demonstrator.draw(items)
        made = [self._request(item, drawn) for item, drawn in zip(items, shots, strict=True)]
        self._lengths += [len(request.layout.input_ids) for request in made]
        return made

    def tell_of_long(self, column: str, answer: int) -> None:
        """Say how many prompts were longer than the language model was made for, its answer included.

        Args:
            answer: tokens of an answer at most.
        """
        known = getattr(self.prompts.vlm.language.model.config, "max_position_embeddings", None)
        if known and (long := sum(length + answer > known for length in self._lengths)):
            remark(
                f"{column}: {long} of {len(self._lengths)} prompts are longer, with their answers, than the {known:,}"
                f" positions of the language model (the longest: {max(self._lengths):,} tokens)"
            )

    def _request(self, item: BenchmarkItem, shots: Sequence[BenchmarkItem]) -> _Request:
        sample = build_prompt(item, shots, self._template, self._data.prompt, **self._withheld)
        layout = self.prompts.layout(sample)
        shown = [*((shot.picture_key("train"), shot) for shot in shots), (item.picture_key(self._split), item)]
        return _Request(item, tuple(s.id for s in shots), _keyed_images(sample, shown, self._column), layout)


def _keyed_images(
    sample: Sample, shown: Sequence[tuple[str, BenchmarkItem]], column: str
) -> tuple[tuple[str, ImageRef], ...]:
    """The prompt's images with the keys under which their features are kept."""
    keys = {id(ref): f"{column} {key}/{i}" for key, item in shown for i, ref in enumerate(item.images)}
    return tuple((keys[id(ref)], ref) for ref in sample.images)


class _Asking:
    """Asks a model for greedy answers of one benchmark."""

    def __init__(
        self, prompts: Prompts, benchmark: Benchmark, texts: TextAnswers | None, sharing: Sharing | None
    ) -> None:
        self._prompts, self._benchmark, self._texts = prompts, benchmark, texts
        self._beginnings = sharing.beginnings if sharing else None
        self._pictures = sharing.pictures if sharing else VisualCache(prompts.vlm, prompts.encoder.image)

    @property
    def begins_alike(self) -> bool:
        """Whether what prompts of a batch begin with in common is computed once."""
        return self._beginnings is not None

    def answer(self, batch: Sequence[_Request]) -> list[str]:
        """Answers of one batch."""
        states = self._pictures.get(dict(chain.from_iterable(r.images for r in batch)))
        images = [[states[key] for key, _ in r.images] for r in batch]
        names = [[self._pictures.name(key) for key, _ in r.images] for r in batch]
        asked = self._prompts.encoded([r.layout for r in batch], images, names)
        answerer = self._prompts.vlm if self._texts is None or asked.images else self._texts
        return answerer.generate(
            asked, max_new_tokens=self._benchmark.max_new_tokens, stop=self._benchmark.stop,
            beginnings=self._beginnings,
        )  # fmt: skip


def _arranged(requests: Sequence[_Request], *, alike: bool) -> list[_Request]:
    """By length, so that a batch is padded little; or where they begin `alike` with the same pictures side by side, if
    that puts more in common beside each other by `_MORE_IN_COMMON`, as several questions on one picture do."""
    by_length = sorted(requests, key=lambda r: (len(r.layout.input_ids), r.item.id))
    if not alike:
        return by_length
    by_picture = sorted(by_length, key=lambda r: [key for key, _ in r.images])
    return by_picture if _in_common(by_picture) > _in_common(by_length) + _MORE_IN_COMMON else by_length


def _in_common(requests: Sequence[_Request]) -> float:
    """Mean share of a prompt that the one before it begins with as well, about: by tokens and leading pictures."""
    shares = []
    for one, other in pairwise(requests):
        keys = [key for key, _ in one.images]
        equal = sum(1 for _ in takewhile(bool, (a == b for a, (b, _) in zip(keys, other.images, strict=False))))
        size = min(len(one.layout.input_ids), len(other.layout.input_ids))
        differs = one.layout.input_ids[:size] != other.layout.input_ids[:size]
        tokens = int(differs.argmax()) if differs.any() else size
        shares.append(equal / len(keys) * tokens / len(one.layout.input_ids) if keys else 0.0)
    return sum(shares) / len(shares) if shares else 0.0


def _answer_all(
    asking: _Asking,
    items: Sequence[BenchmarkItem],
    requests: _Requests,
    batch_size: int,
    file: PredictionFile,
    report: Progress,
) -> None:
    """Answer what is not in the file yet. Batches depend on the items alone, not on what is there already."""
    report(len(file.done), len(items))
    for start in range(0, len(items), window := _WINDOW * batch_size):
        part = items[start : start + window]
        if all(item.id in file.done for item in part):
            continue
        prompts = _arranged(requests.make(part), alike=asking.begins_alike)
        for first in range(0, len(prompts), batch_size):
            batch = prompts[first : first + batch_size]
            if all(r.item.id in file.done for r in batch):
                continue
            answers = asking.answer(batch)
            file.add(
                Prediction(r.item.id, r.item.question, answer.strip(), r.item.references, r.shots)
                for r, answer in zip(batch, answers, strict=True)
            )
            report(len(file.done), len(items))
