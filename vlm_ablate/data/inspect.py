"""What the model will see: samples as runs of text, image and supervised tokens; and counts over many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.data.dataset import build_mixture
from vlm_ablate.data.deal import Size
from vlm_ablate.data.encode import Encoder, Layout, stage_encoder
from vlm_ablate.data.images import load_views
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.sample import Sample, UnusableSample
from vlm_ablate.errors import AssetMissing, DataError, UnknownNameError
from vlm_ablate.models.batch import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["text", "image", "supervised"]


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one kind."""

    kind: Kind
    text: str
    """Decoded; equal image tokens in a row are written once with their number."""
    tokens: int


@dataclass(frozen=True)
class Shown:
    """One sample as the model will see it, or why it will not."""

    id: str
    source: str
    runs: list[Run] = field(default_factory=list)
    views: list[np.ndarray] = field(default_factory=list)
    """Each uint8 (height, width, 3)."""
    images: int = 0
    truncated: bool = False
    problem: str = ""
    """Why the sample is skipped; empty if it is not."""

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return sum(run.tokens for run in self.runs)

    @property
    def supervised(self) -> int:
        """Tokens with loss."""
        return sum(run.tokens for run in self.runs if run.kind == "supervised")


@dataclass
class SourceStats:
    """Counts over the samples of one source."""

    samples: int = 0
    images: int = 0
    views: int = 0
    tokens: int = 0
    visual_tokens: int = 0
    supervised_tokens: int = 0
    truncated: int = 0
    images_cut: int = 0
    """Images lost to truncation."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> samples skipped."""

    def add(self, sample: Sample, layout: Layout, image_id: int) -> None:
        """Count one sample."""
        self.images += layout.images
        self.views += len(layout.view_sizes)
        self.tokens += len(layout.input_ids)
        self.visual_tokens += int((layout.input_ids == image_id).sum())
        self.supervised_tokens += int((layout.labels[1:] != IGNORE).sum())
        self.truncated += layout.truncated
        self.images_cut += len(sample.images) - layout.images


class Inspector:
    """Reads samples in the order of training without training."""

    def __init__(self, mixture: Mixture, encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> None:
        self.mixture, self.encoder, self.tokenizer = mixture, encoder, tokenizer

    def samples(self, start: int, count: int) -> Iterator[tuple[str, Sample | DataError]]:
        """(source, sample or why it cannot be read) at `count` global indices from `start` on."""
        for index in range(start, start + count):
            which, row = self.mixture[index]
            try:
                yield self.mixture.names[which], self.mixture.sources[which][row]
            except DataError as error:
                yield self.mixture.names[which], error

    def show(self, start: int, count: int) -> Iterator[Shown]:
        """Samples with their pixels, as they will reach the model."""
        for index, (name, sample) in enumerate(self.samples(start, count), start):
            encoder = self.encoder.at(index)
            if isinstance(sample, DataError):
                yield Shown(getattr(sample, "sample", "?"), name, problem=sample.message)
                continue
            try:
                encoded = encoder(sample)
            except DataError as error:
                views = _loadable(sample, encoder)
                yield Shown(sample.id, name, views=views, images=len(sample.images), problem=error.message)
                continue
            labels = np.append(IGNORE, encoded.labels[1:])  # nothing stands before the first token to predict it from
            runs = self._runs(encoded.input_ids, labels)
            yield Shown(sample.id, name, runs, encoded.views, encoded.images, encoded.truncated)

    def stats(
        self,
        start: int,
        count: int,
        progress: Callable[[int], None] = lambda done: None,
        sizes: list[Size] | None = None,
    ) -> dict[str, SourceStats]:
        """Counts by source over `count` samples. Reads the headers of images only, so broken pixels do not show.

        Args:
            start: first global index.
            count: of samples.
            progress: called with how many are done.
            sizes: takes the size of each usable sample, in order.
        """
        found = {name: SourceStats() for name in self.mixture.names}
        for done, (name, sample) in enumerate(self.samples(start, count)):
            stats = found[name]
            stats.samples += 1
            try:
                if isinstance(sample, DataError):
                    raise sample
                encoder = self.encoder.at(start + done)
                layout = encoder.layout(sample)
                stats.add(sample, layout, encoder.image_id)
                if sizes is not None:
                    sizes.append((len(layout.input_ids), len(layout.view_sizes)))
            except UnusableSample as error:
                stats.dropped[error.reason] += 1
            except DataError:
                stats.dropped["unreadable row"] += 1
            progress(done + 1)
        return found

    def _runs(self, ids: np.ndarray, labels: np.ndarray) -> list[Run]:
        special = self.encoder.image_tokens

        def kind(pair: tuple[int, int]) -> Kind:
            token, label = pair
            return "supervised" if label != IGNORE else "image" if token in special else "text"

        runs = []
        for name, pairs in groupby(zip(ids.tolist(), labels.tolist(), strict=True), kind):
            tokens = [token for token, _ in pairs]
            runs.append(Run(name, self._image_text(tokens) if name == "image" else self._text(tokens), len(tokens)))
        return runs

    def _image_text(self, tokens: list[int]) -> str:
        parts = []
        for token, same in groupby(tokens):
            count = len(list(same))
            parts.append(self._text([token]) + (f"×{count}" if count > 1 else ""))
        return "".join(parts)

    def _text(self, tokens: list[int]) -> str:
        return cast(str, self.tokenizer.decode(tokens))  # a list of texts only for several lists of tokens


def open_data(config: RunConfig, data_seed: int, stage: str | None = None) -> Inspector:
    """The data of one stage of a run; None: the first.

    The model's structure is built without weights, for its tokenizer and token counts.

    Raises:
        UnknownNameError: no stage of that name.
        DataError: a source cannot be read.
        AssetMissing: a source's material or the tokenizer is not on this machine.
    """
    from vlm_ablate.models.views import Views
    from vlm_ablate.models.vlm import build_vlm

    start = stage_start(config, stage)
    chosen = config.stages[stage or next(iter(config.stages))]
    mixture = build_mixture(chosen.data, data_seed)
    vlm = build_vlm(config.model, Views.of(config.images()), load_weights=False)
    if vlm.language.tokenizer is None:
        raise AssetMissing(f"the tokenizer of {config.model.language.name!r} is not on this machine")
    size = chosen.batch_size
    encoder = stage_encoder(vlm.tokenizer, chosen.data, vlm.placeholders, start=start, batch_size=size)
    return Inspector(mixture, encoder, vlm.tokenizer)


def stage_start(config: RunConfig, stage: str | None) -> int:
    """Sequences that the stages before `stage` consume; None: the first stage. Of a packed stage as many as it has
    rows: how many samples they hold is known when they are packed.

    Raises:
        UnknownNameError: no stage of that name.
    """
    if stage is not None and stage not in config.stages:
        raise UnknownNameError("stage", stage, config.stages)
    consumed = 0
    for name, settings in config.stages.items():
        if stage in (None, name):
            break
        consumed += settings.steps * settings.batch_size
    return consumed


def _loadable(sample: Sample, encoder: Encoder) -> list[np.ndarray]:
    """Views of those pictures of an unusable sample that can be read."""
    views: list[np.ndarray] = []
    for ref in sample.images:
        try:
            views += load_views(ref, encoder.image)[0]
        except DataError:
            continue
    return views
