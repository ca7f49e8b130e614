"""What a plan says of a run, and how its figures are written. No torch here: plans are kept, and read without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vlm_ablate.accounting.gpus import GPUS
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import ModelError

IN_LANGUAGE = ("language", "cross_attention")
"""Parts that run in the language model's stretch of a pass."""


@dataclass(frozen=True)
class SampleShape:
    """The sample that operations are counted for: its images stand first, every text token is supervised."""

    images: int = 1
    text_tokens: int = 128
    """Tokens beside the image placeholders."""
    width: int | None = None
    """Pixels of an image; None: the side that the data section asks for."""
    height: int | None = None


class Sharding(StrEnum):
    """What the devices of a group hold a share of instead of the whole (ZeRO, arXiv:1910.02054)."""

    zero1 = "zero1"
    """The optimiser's moments."""
    zero2 = "zero2"
    """Moments and gradients."""
    zero3 = "zero3"
    """Moments, gradients and weights: FSDP."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device at the peak of a training step.

    step = activations + transient + copies + gathered; peak = weights + moments + max(gradients, step), or, when a
    step of the optimiser has several micro-batches, weights + moments + gradients + step.

    The backward pass starts with everything kept and no gradient yet, and ends with all gradients and nothing kept;
    but the gradients of a first micro-batch are there all the time.
    """

    weights: int
    """Parameters and buffers, in fp32 or (of backbones that no stage trains in full) in bf16; a share of them."""
    moments: int
    """Two fp32 moments of every trained parameter, as AdamW keeps (Muon keeps one of a matrix); a share of them."""
    gradients: int
    """fp32 gradients of every trained parameter; a share of them."""
    activations: int
    """Tensors that autograd keeps for one micro-batch; of checkpointed layers their inputs."""
    transient: int
    """The larger of two: logits, their logarithm and its gradient at supervised positions; or the gradients inside the
    widest layer (half of what it keeps), if checkpointed its recomputed tensors and a quarter as much. Both shares
    were fitted to measured steps of tiny models, where plans are 13 % low to 13 % high."""
    copies: int
    """Copies of weights that autograd keeps: autocast's in bf16 (not under FSDP, which gathers in bf16), DoRA's."""
    gathered: int
    """Whole weights under FSDP, in what is computed in: all outside the layers, the running and the next layer, and the
    gradients of a layer."""
    accumulates: bool
    """Whether a step has several micro-batches on a device."""

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        step = self.activations + self.transient + self.copies + self.gathered
        moving = step + self.gradients if self.accumulates else max(step, self.gradients)
        return self.weights + self.moments + moving


@dataclass(frozen=True)
class StagePlan:
    """What one stage trains and costs."""

    name: str
    total: dict[str, int]
    """Part -> parameters, adapters included, those that the stage has frozen as well."""
    trainable: dict[str, int]
    """Part -> parameters that require gradients."""
    matched: dict[str, tuple[str, ...]]
    """Backbone -> modules that carry adapters."""
    training_flops: dict[str, float]
    """Part -> operations per sample, forward and backward, recomputation under checkpointing included, attention with
    every key; where images grow within the stage, the mean over its steps. What runs add up as `seen/flops`."""
    views: float
    """Views of one image, as well a mean."""
    sequence: float
    """Tokens of the sample in the text stream, as well a mean."""
    memory: MemoryPlan
    """At the steps that need most."""
    checkpoint_bytes: int
    """A resumable checkpoint: trained parameters in fp32 and two moments (Muon keeps one of a matrix)."""
    samples: int
    """Steps times batch size, times the samples of a packed row."""
    row_samples: float = 1.0
    """Samples like the plan's that a packed row holds, where images grow the mean over the steps; 1 without packing."""
    row_tokens: int = 0
    """Tokens that a row may have: the stage's sequence length."""
    recomputed: dict[str, float] = field(default_factory=dict)
    """Part -> the operations of `training_flops` that checkpointing does a second time."""
    causal: float = 0.0
    """Of the language model's operations, those done once in causal attention, with every key: half of it is masked."""
    causal_recomputed: float = 0.0
    """As well of those that are done a second time."""
    token_pairs: float = 0.0
    """The square of the sample's tokens, where images grow within the stage: as well a mean; 0: `sequence` squared."""
    sample_images: int = 1
    """Images of the sample."""
    feature_bytes: float = 0.0
    """Of the encoder's output for the sample's images, as well a mean."""
    features_refused: str = ""
    """Why the encoder's output cannot be kept, whatever it costs; "" where it can."""
    weights_bytes: int = 0
    """The stage's file of weights: new parameters and what was trained up to its end, in fp32; and what adapters were
    merged into, as a GPU holds it."""
    image_tokens: dict[int, int] = field(default_factory=dict)
    """`data.image.size` -> tokens in the text stream that an image of the sample takes at it, all views together."""
    least_image_tokens: int = 0
    """Placeholders of an image that takes the fewest, at the steps that need most."""

    @property
    def total_parameters(self) -> int:
        """All parameters, adapters included."""
        return sum(self.total.values())

    @property
    def trainable_parameters(self) -> int:
        """All parameters that require gradients."""
        return sum(self.trainable.values())

    @property
    def flops(self) -> float:
        """Operations per sample in training, as `training_flops` counts them."""
        return sum(self.training_flops.values())

    @property
    def model_flops(self) -> float:
        """The model's own operations per sample in training, which MFU counts: without what checkpointing does a second
        time, and with half of causal attention."""
        return self.flops - sum(self.recomputed.values()) - self.causal / 2

    @property
    def model_rates(self) -> tuple[float, float, float]:
        """`model_flops` by what a batch has: of a view, of a token, and of a pair of tokens of one document (a document
        of n tokens has n * n). The first is encoder and connector, the last causal attention."""
        own = {part: spent - self.recomputed.get(part, 0.0) for part, spent in self.training_flops.items()}
        text = sum(own[part] for part in IN_LANGUAGE) - self.causal
        views = max(self.sample_images * self.views, 1e-9)
        return (own["vision"] + own["connector"]) / views, text / self.sequence, self.causal / 2 / self._pairs

    @property
    def _pairs(self) -> float:
        return self.token_pairs or self.sequence**2

    @property
    def hardware_share(self) -> float:
        """Operations that are done, over the model's own: above 1 where checkpointing does some twice (HFU / MFU)."""
        own = self._of_row()
        return (own + self._of_row(again=True)) / own if own else 1.0

    def gpu_hours(self, *, mfu: float = 0.4, peak: float = GPUS["h100"].flops) -> float:
        """Device-hours of the stage when `mfu` of a device's `peak` operations a second are the model's own.

        Every row is taken to be as long as the stage lets it be (`row_tokens`), with the images of the plan's sample,
        or of as many as are packed into it. What is computed twice under checkpointing is no work of the model's, and
        of causal attention half is.
        """
        return self._of_row() * self.samples / self.row_samples / (mfu * peak) / 3600

    def _of_row(self, *, again: bool = False) -> float:
        """The model's operations on a full row; `again`: those that checkpointing does a second time.

        Those of the text stream grow with its tokens, and causal attention with the square of a document's.
        """
        longer = max(self.row_tokens / self.sequence, self.row_samples)
        once = {part: spent - self.recomputed.get(part, 0.0) for part, spent in self.training_flops.items()}
        spent, causal = (self.recomputed, self.causal_recomputed) if again else (once, self.causal)
        linear = sum(n * (longer if part in IN_LANGUAGE else self.row_samples) for part, n in spent.items())
        packed = self.row_samples != 1
        squared = longer**2 / self.row_samples if packed else max(self.row_tokens**2 / self._pairs, 1.0)
        return linear - causal * longer + causal / 2 * squared


@dataclass(frozen=True)
class ModelPlan:
    """What an arm builds and costs. `stages` stand in the order in which they are trained."""

    parameters: dict[str, int]
    """Part -> parameters without adapters."""
    views_per_image: int
    visual_tokens_per_image: int
    """Tokens out of the connector."""
    placeholders_per_image: int
    """Placeholders that an image takes in the text stream (position tokens and the like not counted)."""
    sample: SampleShape
    sequence: int
    """Tokens of the sample in the text stream."""
    forward_flops: dict[str, float]
    """Part (vision, connector, cross_attention, language) -> operations per sample without adapters."""
    stages: dict[str, StagePlan] = field(default_factory=dict)

    @property
    def last(self) -> StagePlan:
        """The last stage: what a one-stage experiment's table shows."""
        return list(self.stages.values())[-1]

    @property
    def trainable_parameters(self) -> int:
        """Parameters that the last stage trains; none without a stage."""
        return self.last.trainable_parameters if self.stages else 0

    @property
    def total_parameters(self) -> int:
        """All parameters without adapters, as the papers count."""
        return sum(self.parameters.values())

    @property
    def final_parameters(self) -> int:
        """All parameters of what comes out of training, the last stage's adapters included."""
        return self.last.total_parameters if self.stages else self.total_parameters

    @property
    def flops(self) -> float:
        """Operations per sample of a forward pass."""
        return sum(self.forward_flops.values())


def sides(image: ImageConfig, sample: SampleShape) -> tuple[int, int]:
    """(width, height) in pixels of the sample's images."""
    return sample.width or image.size, sample.height or image.size


def short_count(number: float) -> str:
    """A count as papers print it, with three significant digits: 7.66B, 743M, 4.74M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            value = number / size
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{number:.0f}"


def check_lengths(plan: ModelPlan, config: RunConfig) -> None:
    """Whether the sequences of every stage hold one image at all, were it as thin as can be.

    Raises:
        ModelError: one does not; training would leave out every sample that has one.
    """
    for name, stage in plan.stages.items():
        data, tokens = config.stages[name].data, stage.least_image_tokens
        if tokens >= data.sequence_length:
            raise ModelError(
                f"stage {name!r}: one image takes {tokens:,} tokens or more, and data.sequence_length is"
                f" {data.sequence_length:,}",
                hint=f"raise data.sequence_length above {tokens:,}, or lower data.image.size or the connector's tokens",
            )


def cut_images(plan: ModelPlan, config: RunConfig) -> list[str]:
    """Stages whose sequences do not hold the plan's image, at one of its sizes: what becomes of samples, and what to
    change."""
    told = []
    for name, stage in plan.stages.items():
        limit = config.stages[name].data.sequence_length
        long = {size: tokens for size, tokens in stage.image_tokens.items() if tokens >= limit}
        if not long:
            continue
        size, most = max(long.items(), key=lambda pair: pair[1])
        sample = plan.sample
        width, height = sample.width or size, sample.height or size
        told.append(
            f"stages.{name}.data.sequence_length is {limit:,}, and an image of {width}x{height} px takes {most:,}"
            f" tokens at data.image.size {size}: a sample ends before such an image, and is left out where no answer is"
            f" left; raise sequence_length above {most:,}, or lower the size"
        )
    return told
