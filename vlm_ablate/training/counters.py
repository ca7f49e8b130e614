"""What a model has seen, the axes against which the papers plot scores, and for how long a stage was worked on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from vlm_ablate.errors import DataError
from vlm_ablate.models.batch import Batch

BatchFlops = Callable[[Batch], float]
"""Training FLOPs (forward and backward) of a batch."""


@dataclass(frozen=True)
class Seen:
    """Totals over all stages and ranks."""

    sequences: int = 0
    images: int = 0
    text_tokens: int = 0
    """Real tokens of the text stream, without image placeholders."""
    visual_tokens: int = 0
    supervised_tokens: int = 0
    flops: float = 0.0
    skipped: int = 0
    """Samples that could not be used; others took their places."""

    @property
    def tokens(self) -> int:
        """Text and visual tokens."""
        return self.text_tokens + self.visual_tokens

    def to_dict(self) -> dict[str, float]:
        """Plain numbers, for a checkpoint."""
        return asdict(self)


class Stopwatch:
    """Seconds of work on a stage over all the processes that trained it.

    Of a process that was killed what came after its last checkpoint is not counted: it is done again.
    """

    def __init__(self) -> None:
        self._since, self._cpu_since = time.monotonic(), time.process_time()
        self.before = 0.0
        """Seconds of the processes before this one."""
        self._cpu_before: float | None = 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        return self.before + time.monotonic() - self._since

    def spent(self) -> dict[str, float]:
        """`seconds` until now, and `cpu_seconds` of these processes' own threads where all of them told."""
        told = {"seconds": self.seconds}
        if self._cpu_before is not None:
            told["cpu_seconds"] = self._cpu_before + time.process_time() - self._cpu_since
        return told

    def go_on(self, spent: Mapping[str, float]) -> None:
        """Add what processes before this one spent. Older versions did not tell of one or the other."""
        self.before = float(spent.get("seconds", 0.0))
        self._cpu_before = float(spent["cpu_seconds"]) if "cpu_seconds" in spent else None


def flops_by_rates(per_view: float, per_token: float, per_pair: float = 0.0) -> BatchFlops:
    """FLOPs from what one view costs in encoder and connector, and one real token of the text stream in the rest.

    Args:
        per_view: of a view.
        per_token: of a token.
        per_pair: of a pair of tokens of one document, which has as many as the square of its tokens.
    """

    def flops(batch: Batch) -> float:
        views = 0 if batch.pixel_values is None else batch.pixel_values.shape[0]
        spent = per_view * views + per_token * int(batch.attention_mask.sum())
        return spent + per_pair * sum(length**2 for length in document_lengths(batch)) if per_pair else spent

    return flops


def document_lengths(batch: Batch) -> list[int]:
    """Tokens of each document of a batch: in one row, in rows of their own, or several in a row."""
    if batch.documents is not None:
        return list(batch.documents)
    return [int(count) for row in batch.segment for count in row.bincount()[1:].tolist() if count]


class Counter:
    """Adds up batches. Reads the batch before it goes to a device, so that nothing waits for a GPU.

    `seen` holds the batches of steps that are done: those of all ranks, once they have been added up (`settle`).

    Args:
        visual_tokens: (height, width) of a view in pixels -> visual tokens of that view.
        image_token_id: id of the placeholders that stand for views in the text stream.
        flops: training FLOPs of a batch; None leaves FLOPs at zero.
        useful: the model's own FLOPs of a batch, see `useful`.
    """

    def __init__(
        self,
        visual_tokens: Callable[[int, int], int],
        image_token_id: int,
        flops: BatchFlops | None = None,
        seen: Seen | None = None,
        useful: BatchFlops | None = None,
    ) -> None:
        self._useful = useful
        self.useful = 0.0
        """FLOPs of the model's own that this rank has been given since the counter was made, for its rate."""
        self._visual_tokens, self._image_token_id, self._flops = visual_tokens, image_token_id, flops
        self.seen = seen or Seen()
        self._new, self._deals = Seen(), 0

    def settle(self, total: Callable[[Sequence[float]], list[float]]) -> None:
        """Take into `seen` what was counted since the last time.

        Args:
            total: numbers of this rank -> their sums over all ranks.

        Raises:
            DataError: ranks have dealt the step's samples by other sizes, told on all of them.
        """
        values = [float(value) for value in self._new.to_dict().values()]
        *new, ranks, deals, squares = total([*values, 1.0, float(self._deals), float(self._deals) ** 2])
        self._deals = 0
        if ranks * squares != deals**2:  # of equal numbers alone
            raise DataError(
                "ranks have read other samples for the same step, so that some would be trained twice and some never",
                hint="every machine needs the same files of all sources, and must be able to read them",
            )
        before = self.seen.to_dict()
        added = {name: type(value)(value + more) for (name, value), more in zip(before.items(), new, strict=True)}
        self.seen, self._new = Seen(**added), Seen()  # type: ignore[arg-type]  # whole numbers stay whole

    def add(self, batch: Batch) -> None:
        """Count one batch of this rank."""
        seen = self._new
        self.useful += self._useful(batch) if self._useful else 0.0
        self._deals += batch.deal
        self._new = replace(
            seen,
            sequences=seen.sequences + batch.sequences,
            images=seen.images + batch.images,
            text_tokens=seen.text_tokens
            + int((batch.attention_mask & (batch.input_ids != self._image_token_id)).sum()),
            visual_tokens=seen.visual_tokens + sum(self._visual_tokens(*size) for size in batch.view_sizes),
            supervised_tokens=seen.supervised_tokens + batch.supervised_tokens,
            flops=seen.flops + (self._flops(batch) if self._flops else 0.0),
            skipped=seen.skipped + batch.skipped,
        )
