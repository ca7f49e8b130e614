"""From a sample to token ids, labels and views.

The prompt is tokenised once as a whole with one `<image>` marker an image, exactly as the released processors'
strings tokenise; each marker is then replaced by the ids of its image block:

- Idefics2, whole image:  fake, N x image, fake
- Idefics2, crops:        the same five times (four crops, then the whole); neighbouring fakes are merged
- Idefics3, tiles:        per tile fake, row_r_col_c, N x image; "\\n" after each row; then
                          "\\n", fake, global-img, N x image, fake (only this last part when the image is one tile)

Truncation: a sequence longer than the limit is cut at the limit; if that falls inside an image block, the cut moves
before the block, so trailing images go as a whole with all that follows them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from vlm_ablate.config.data import DataConfig, ImageConfig, Preparation
from vlm_ablate.data.control import MarkedTokenizer, control, unmarked
from vlm_ablate.data.images import Size, load_views, tile_grid, views_of_size
from vlm_ablate.data.prompts import Prompt, prompt_format
from vlm_ablate.data.sample import Sample, UnusableSample
from vlm_ablate.errors import DataError
from vlm_ablate.models.batch import IGNORE
from vlm_ablate.models.tokens import FAKE, GLOBAL_IMAGE, IMAGE, position_tokens, row_column

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Layout:
    """What a sample becomes, before any pixel is decoded."""

    input_ids: np.ndarray
    """(sequence,) int64."""
    labels: np.ndarray
    """(sequence,) int64, IGNORE where nothing is predicted."""
    view_sizes: list[Size]
    """(height, width) of the views whose tokens are in `input_ids`, in reading order."""
    images: int
    """Images kept."""
    truncated: bool


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready for a batch."""

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    views: list[np.ndarray]
    """Each uint8 (height, width, 3), in reading order."""
    views_per_image: tuple[int, ...]
    """How many consecutive views each image gives: 1, or more when it is cut into crops or tiles."""
    truncated: bool
    skipped: int = 0
    """Unusable samples whose place it took."""

    @property
    def images(self) -> int:
        """Images whose views are there."""
        return len(self.views_per_image)


class Encoder:
    """Encodes samples for one tokenizer, one way of preparing images and one prompt format.

    `tokens_per_view` is how many `<image>` placeholders one view takes in the text: a number, or a function of the
    view's (height, width). A sequence is as long as a stage's data allow; where there are none, as it is.

    Raises:
        DataError: the tokenizer lacks a token that the image blocks need, or is not a fast one.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: Preparation,
        tokens_per_view: int | Callable[[int, int], int],
    ) -> None:
        self.config, self.image = config, config.image
        self.limit = config.sequence_length if isinstance(config, DataConfig) else None
        """Tokens of a sequence in training."""
        self._tokenizer = MarkedTokenizer(tokenizer)
        self._write = prompt_format(config.prompt, tokenizer)
        self._tokens_per_view = tokens_per_view
        self._counts: dict[Size, int] = {}
        self.eos, self.bos = tokenizer.eos_token_id, tokenizer.bos_token
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (self.eos or 0)
        self.image_id, self._fake = self._id(IMAGE), self._id(FAKE)
        if self.image.split == "tiles":
            self._global = self._id(GLOBAL_IMAGE)
            self._newline, self._gap = self._between("\n"), self._between("\n\n")
        self._blocks: dict[tuple[tuple[int, int], tuple[int, ...]], np.ndarray] = {}

    @property
    def image_tokens(self) -> frozenset[int]:
        """Ids of the tokens that stand in image blocks only (not of the line ends between tiles)."""
        names = [IMAGE, FAKE, *(position_tokens() if self.image.split == "tiles" else ())]
        return frozenset(i for i in map(self._tokenizer.id, names) if i is not None)

    def at(self, index: int) -> Encoder:
        """The encoder of the sample at a global index of training; see `ClimbingEncoder`."""
        return self

    def at_step(self, step: int) -> Encoder:
        """The encoder of an optimiser step of the stage."""
        return self

    def __call__(self, sample: Sample, *, generate: bool = False) -> EncodedSample:
        """Token ids, labels and pixels of a sample; with `generate`, a prompt to be answered (never truncated).

        Raises:
            UnusableSample: undecodable image, image tokens that do not match the images, or nothing to learn.
        """
        layout = self.layout(sample, generate=generate)
        try:
            cut = [load_views(ref, self.image)[0] for ref in sample.images[: layout.images]]
        except UnusableSample:
            raise
        except DataError as error:
            raise UnusableSample(sample.id, "undecodable image", error.message) from error
        views = [view for image in cut for view in image]
        sizes = [view.shape[:2] for view in views]
        if sizes != layout.view_sizes:
            raise UnusableSample(
                sample.id, "image tokens",
                f"its text is laid out for views {layout.view_sizes}, its images give {sizes}"
            )
        counts = tuple(len(image) for image in cut)
        return EncodedSample(sample.id, layout.input_ids, layout.labels, views, counts, layout.truncated)

    def layout(self, sample: Sample, *, generate: bool = False) -> Layout:
        """As calling the encoder, but reads only the headers of images.

        Raises:
            UnusableSample: as above, as far as it shows without pixels.
        """
        written = self._write(sample, generate)
        known = tuple((self._tokenizer.known(text), learned) for text, learned in written.runs)
        prompt = self._spaced(Prompt(known, written.eos))
        ids, learned = self._tokenise(prompt)
        try:
            sizes = [ref.size() for ref in sample.images]
            plans = [(tile_grid(w, h, self.image), views_of_size(w, h, self.image)) for w, h in sizes]
        except DataError as error:
            raise UnusableSample(sample.id, "undecodable image", error.message) from error
        markers = np.flatnonzero(ids == self.image_id)
        if len(markers) != len(plans):
            raise UnusableSample(
                sample.id, "image tokens", f"its text has {len(markers)} {IMAGE} tokens for {len(plans)} images"
            )
        layout = self._expand(ids, learned, markers, plans, None if generate else self.limit)
        if not generate and not (layout.labels[1:] != IGNORE).any():
            told = "no supervised token is left"
            hint: str | None = None
            if layout.truncated:
                told += f" after truncation to data.sequence_length = {self.limit:,}"
                hint = "raise data.sequence_length, or lower data.image.size or the connector's tokens"
            raise UnusableSample(sample.id, "nothing to learn", told, hint=hint)
        return layout

    def _expand(
        self,
        ids: np.ndarray,
        learned: np.ndarray,
        markers: np.ndarray,
        plans: list[tuple[tuple[int, int], list[Size]]],
        limit: int | None,
    ) -> Layout:
        pieces, labels, sizes = [], [], []
        kept = at = length = 0
        end = None  # of the sequence, where it must be cut before a block
        for i, (marker, (grid, views)) in enumerate(zip(markers, plans, strict=True)):
            text = ids[at:marker]
            block = self._block(grid, views)
            if i and not len(text) and self.image.split != "tiles":
                block = block[1:]  # neighbouring images share the fake token between them
            pieces.append(text)
            labels.append(np.where(learned[at:marker], text, IGNORE))
            length += len(text)
            if limit is not None and length + len(block) > limit:
                end = min(length, limit)
                break
            pieces.append(block)
            labels.append(np.full(len(block), IGNORE, np.int64))
            length, at, kept = length + len(block), marker + 1, i + 1
            sizes += views
        else:
            pieces.append(ids[at:])
            labels.append(np.where(learned[at:], ids[at:], IGNORE))
            length += len(ids) - at
            if limit is not None and length > limit:
                end = limit
        input_ids, targets = np.concatenate(pieces)[:end], np.concatenate(labels)[:end]
        return Layout(input_ids, targets, sizes, kept, truncated=end is not None)

    def _tokenise(self, prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
        """Ids, and whether each is learned: whether its last character is in a learned run."""
        text = "".join(run for run, _ in prompt.runs)
        special = not (self.bos and text.startswith(control(self.bos)))
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        ids = encoding.ids
        ends = list(accumulate(len(run) for run, _ in prompt.runs))
        flags = np.array([flag for _, flag in prompt.runs] + [False])
        last = np.array([end for _, end in encoding.offsets], np.int64) - 1
        learned = flags[np.searchsorted(np.array(ends), last, side="right")] & (last >= 0)
        # Some tokenizers append the end of sequence themselves, also to a prompt that is to go on.
        ended = len(ids) > 1 and ids[-1] == self.eos and last[-1] < 0
        if ended and not prompt.eos:
            ids, learned = ids[:-1], learned[:-1]
        if prompt.eos and self.eos is not None:
            if ended:
                learned[-1] = prompt.runs[-1][1]
            else:
                ids, learned = [*ids, self.eos], np.append(learned, bool(prompt.runs) and prompt.runs[-1][1])
        return np.array(ids, np.int64), learned

    def _spaced(self, prompt: Prompt) -> Prompt:
        """A space between an image and a word that follows directly, as transformers' Idefics2 processor puts it."""
        if self.image.split == "tiles":
            return prompt
        marker = control(IMAGE)
        runs, after_image = [], False
        for text, flag in prompt.runs:
            if after_image:
                text = _after_image(text)
            first, *others = text.split(marker)
            text = marker.join([first, *map(_after_image, others)])
            after_image = text.endswith(marker) if text else after_image
            runs.append((text, flag))
        return Prompt(tuple(runs), prompt.eos)

    def _block(self, grid: tuple[int, int], views: list[Size]) -> np.ndarray:
        """Token ids that stand for one image."""
        counts = tuple(self.placeholders(*view) for view in views)
        key = (grid, counts)
        if key not in self._blocks:
            tiled = self.image.split == "tiles"
            self._blocks[key] = np.array(self._tiles(grid, counts) if tiled else self._views(counts))
        return self._blocks[key]

    def placeholders(self, height: int, width: int) -> int:
        """`<image>` tokens for one view of that size."""
        if isinstance(self._tokens_per_view, int):
            return self._tokens_per_view
        if (height, width) not in self._counts:
            self._counts[height, width] = self._tokens_per_view(height, width)
        return self._counts[height, width]

    def _views(self, counts: tuple[int, ...]) -> list[int]:
        ids = [self._fake]
        for count in counts:
            ids += [self.image_id] * count + [self._fake]
        return ids

    def _tiles(self, grid: tuple[int, int], counts: tuple[int, ...]) -> list[int]:
        rows, cols = grid
        ids: list[int] = []
        for row in range(rows):
            for col in range(cols):
                ids += [self._fake, self._id(row_column(row + 1, col + 1))] + [self.image_id] * counts[row * cols + col]
            ids += self._newline if row + 1 < rows else self._gap
        return [*ids, self._fake, self._global, *[self.image_id] * counts[-1], self._fake]

    def _between(self, text: str) -> list[int]:
        """Ids of a text that stands between special tokens."""
        fake = control(FAKE)
        return self._tokenizer.encode(f"{fake}{text}{fake}", add_special_tokens=False).ids[1:-1]

    def _id(self, token: str) -> int:
        found = self._tokenizer.id(token)
        if found is None:
            hint = "take the tokenizer from the built model, which adds the image tokens"
            raise DataError(f"the tokenizer has no token {token!r}", hint=hint)
        return found


class ClimbingEncoder(Encoder):
    """The encoder of a stage whose images grow: what it does to a sample depends on the sample's place alone.

    Args:
        config: of the stage.
        start: sequences that earlier stages consume.
        batch_size: sequences of an optimiser step.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: DataConfig,
        tokens_per_view: int | Callable[[int, int], int],
        *,
        start: int,
        batch_size: int,
    ) -> None:
        super().__init__(tokenizer, config, tokens_per_view)
        self._start, self._batch_size = start, batch_size
        self._steps = list(config.image_by_step())
        self._encoders = [self._with_image(image, tokenizer) for image in config.image_by_step().values()]

    def at(self, index: int) -> Encoder:
        """The encoder of the sample at a global index of training."""
        return self.at_step((index - self._start) // self._batch_size)

    def at_step(self, step: int) -> Encoder:
        """The encoder of an optimiser step of the stage."""
        return self._encoders[max(bisect_right(self._steps, step) - 1, 0)]

    def _with_image(self, image: ImageConfig, tokenizer: PreTrainedTokenizerBase) -> Encoder:
        return Encoder(tokenizer, self.config.model_copy(update={"image": image}), self._tokens_per_view)


def stage_encoder(
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    tokens_per_view: int | Callable[[int, int], int],
    *,
    start: int,
    batch_size: int,
) -> Encoder:
    """The encoder of a stage that begins after `start` sequences and takes `batch_size` a step."""
    if not config.climb:
        return Encoder(tokenizer, config, tokens_per_view)
    return ClimbingEncoder(tokenizer, config, tokens_per_view, start=start, batch_size=batch_size)


def _after_image(text: str) -> str:
    first = unmarked(text[:2])[:1]
    return " " + text if first and not first.isspace() and first != "<" else text
