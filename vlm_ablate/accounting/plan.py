"""The plan of a run: what it builds, trains and costs, computed on the meta device from configurations alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from vlm_ablate.accounting.measure import Measurement, layers_of, measure, views_of
from vlm_ablate.accounting.memory import BF16, FP32, Units, plan_memory
from vlm_ablate.accounting.parameters import parameters_by_part
from vlm_ablate.accounting.plans import ModelPlan, SampleShape, Sharding, StagePlan
from vlm_ablate.accounting.unfilled import Unfilled
from vlm_ablate.accounting.weights_files import Kept, file_sizes, kept_of
from vlm_ablate.config.data import MAX_TILES, ImageConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunConfig, RunStage
from vlm_ablate.config.stages import BACKBONES, Stage, Training
from vlm_ablate.models.adapters import ADAPTED, AdapterReport, apply_training, take_out_adapters
from vlm_ablate.models.features import refusal
from vlm_ablate.models.half import rounded_by_autocast
from vlm_ablate.models.released import check_parts
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm


class Planner:
    """Plans runs without weights or an accelerator; what several runs share is worked out once.

    Args:
        sample: what operations are counted for; None: one image of the data section's size and 128 text tokens.
        shards: devices of a group that shares what `sharding` says.
        sharding: moments (ZeRO-1), gradients (ZeRO-2), weights (ZeRO-3, FSDP).
    """

    def __init__(
        self, *, sample: SampleShape | None = None, shards: int = 1, sharding: Sharding = Sharding.zero3
    ) -> None:
        self.sample, self.shards, self.sharding = sample or SampleShape(), shards, sharding
        self._models: dict[str, tuple[dict[str, int], Measurement]] = {}
        self._stages: dict[str, tuple[StagePlan, Kept]] = {}
        self._built: tuple[str, VLM] | None = None

    def plan(self, config: RunConfig) -> ModelPlan:
        """The plan of one run.

        Raises:
            AssetMissing: a configuration is not on this machine.
            ModelError: the parts do not fit, or adapters match nothing.
        """
        parameters, cost = self._model(config)
        made = [self._stage(name, config) for name in config.stages]
        files = file_sizes([kept for _, kept in made])
        stages = {plan.name: replace(plan, weights_bytes=size) for (plan, _), size in zip(made, files, strict=True)}
        return ModelPlan(
            parameters=parameters,
            views_per_image=cost.views,
            visual_tokens_per_image=cost.views * cost.visual_tokens,
            placeholders_per_image=cost.views * cost.placeholders,
            sample=self.sample,
            sequence=cost.sequence,
            forward_flops=cost.forward,
            stages=stages,
        )

    def _model(self, config: RunConfig) -> tuple[dict[str, int], Measurement]:
        image = config.shown_image
        key = f"{_named(config)} {image.model_dump_json()}"
        if key not in self._models:
            check_parts(config.model)
            vlm = self._bare(config).requires_grad_(False)
            if config.model.init_from:
                from vlm_ablate.checkpoints.start_from import check_starts

                check_starts(vlm, config.model)
            self._models[key] = parameters_by_part(vlm), measure(vlm, image, self.sample, backward=False)
        return self._models[key]

    def _stage(self, name: str, config: RunConfig) -> tuple[StagePlan, Kept]:
        stage, execution, frozen = config.stages[name], config.execution.of_stage(name), _frozen_adapters(config, name)
        own = stage.model_dump_json(exclude={"data": {"mixture"}})
        before = [each.model_dump_json(exclude={"data"}) for each in frozen]
        key = " ".join([_named(config), execution.model_dump_json(), own, *before, *config.held_in_bf16])
        if key not in self._stages:
            shares = _shares(stage)
            vlm = self._bare(config)
            with Unfilled():
                for earlier in frozen:
                    apply_training(vlm, _without_noise(earlier))
                report = apply_training(vlm, _without_noise(stage))
            with _in_bf16(_held_in_bf16(vlm, config)) as small:
                plans = [self._plan_stage(name, stage, execution, image, vlm, report, small) for image in shares]
                kept = kept_of(vlm)
            self._stages[key] = _weighed(plans, list(shares.values())), kept
        plan, kept = self._stages[key]
        return replace(plan, name=name), kept

    def _bare(self, config: RunConfig) -> VLM:
        """The model of a configuration without adapters; the last one that was built is kept."""
        key = _named(config)
        if self._built is None or self._built[0] != key:
            self._built = None  # its memory is not needed while the next one is built
            with Unfilled():
                self._built = key, build_vlm(config.model, Views.of(config.images()), load_weights=False)
        vlm = self._built[1]
        take_out_adapters(vlm)
        return vlm

    def _plan_stage(
        self,
        name: str,
        stage: RunStage,
        execution: Execution,
        image: ImageConfig,
        vlm: VLM,
        report: AdapterReport,
        half: dict[int, int],
    ) -> StagePlan:
        total, trainable = parameters_by_part(vlm), parameters_by_part(vlm, trainable=True)
        buffers = sum(b.numel() * b.element_size() for b in vlm.buffers())
        cost = measure(vlm.train(), image, self.sample, autocast=stage.precision == "bf16", half=frozenset(half))
        again, causal_again = _recomputed(execution, cost)
        trained, together = sum(trainable.values()), self._row_samples(stage, cost)
        return StagePlan(
            name=name,
            total=total,
            trainable=trainable,
            matched=report.matched,
            training_flops={part: cost.forward[part] + cost.backward[part] + n for part, n in again.items()},
            recomputed=again,
            causal=cost.causal,
            causal_recomputed=causal_again,
            views=cost.views,
            sequence=cost.sequence,
            memory=plan_memory(
                stage,
                execution,
                cost,
                fixed_bytes=FP32 * sum(total.values()) - (FP32 - BF16) * sum(half.values()) + buffers,
                trained=trained,
                units=_units(vlm),
                sequence=stage.data.sequence_length,
                vocabulary=vlm.language.vocabulary,
                shards=self.shards,
                sharding=self.sharding,
                samples=together,
            ),
            checkpoint_bytes=3 * FP32 * trained,
            samples=stage.steps * stage.batch_size * together,
            row_samples=together,
            row_tokens=stage.data.sequence_length,
            sample_images=self.sample.images,
            feature_bytes=cost.feature_bytes,
            features_refused=refusal(vlm.vision, padded=Views.of([image]).padded),
            image_tokens={image.size: cost.views * cost.placeholders},
            least_image_tokens=_least_tokens(vlm, image),
        )

    def _row_samples(self, stage: RunStage, cost: Measurement) -> int:
        """Samples of equal size that a packed row holds."""
        data = stage.data
        if data.packing == "none":
            return 1
        limits = [data.sequence_length // cost.sequence]
        views = self.sample.images * cost.views
        if data.row_views is not None and views:
            limits.append(data.row_views // views)
        return max(1, min(limits))


def plan_model(
    config: RunConfig,
    *,
    sample: SampleShape | None = None,
    shards: int = 1,
    sharding: Sharding = Sharding.zero3,
) -> ModelPlan:
    """Plan one run; see `Planner`."""
    return Planner(sample=sample, shards=shards, sharding=sharding).plan(config)


def visual_tokens_of(config: RunConfig, width: int, height: int) -> int:
    """Visual tokens of an image of that size in pixels in the last stage, all its views together."""
    views, size = views_of(config.last_stage.data.image if config.stages else config.evaluation.image, width, height)
    return views * build_vlm(config.model, Views.of(config.images()), load_weights=False).visual_tokens(*size)


def _least_tokens(vlm: VLM, image: ImageConfig) -> int:
    """Of a picture as wide as can be and next to nothing high, which is cut into the fewest tiles; or of a small one,
    where none is enlarged beyond `shortest`."""
    low = max(1, image.size // MAX_TILES)
    side = image.shortest or max(2, low)
    pictures = [(image.size, low), *([(side, side)] if image.resize == "native" else [])]
    of_each = [views_of(image, *picture) for picture in pictures]
    return min(views * vlm.architecture.placeholders(vlm.visual_tokens(*size)) for views, size in of_each)


def _named(config: RunConfig) -> str:
    """What the structure of a model follows from."""
    return f"{config.model.model_dump_json()} {Views.of(config.images())}"


def _held_in_bf16(vlm: VLM, config: RunConfig) -> list[nn.Parameter]:
    """The parameters that a GPU holds in bf16: the backbones' own, as far as no stage trains them in full."""
    held = {"vision": rounded_by_autocast(vlm.vision), "language": list(vlm.language.parameters())}
    adapters = {id(p) for name, p in vlm.named_parameters() if ".lora_" in name}
    return [p for part in config.held_in_bf16 for p in held[part] if not p.requires_grad and id(p) not in adapters]


@contextmanager
def _in_bf16(parameters: Sequence[nn.Parameter]) -> Iterator[dict[int, int]]:
    """Within the block these parameters are in bf16; gives id -> size of each."""
    before = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.bfloat16)
    try:
        yield {id(parameter): parameter.numel() for parameter in parameters}
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


def _frozen_adapters(config: RunConfig, name: str) -> list[RunStage]:
    """Earlier stages whose adapters stay in a backbone that a stage freezes, each with that backbone alone."""
    stages = list(config.stages.items())
    earlier = [stage for _, stage in stages[: list(config.stages).index(name)]]
    found = []
    for backbone in BACKBONES:
        if getattr(config.stages[name], backbone) is not Training.frozen:
            continue
        last = next((s for s in reversed(earlier) if getattr(s, backbone) is not Training.frozen), None)
        if last is not None and getattr(last, backbone) in ADAPTED:
            others = {other: Training.frozen for other in BACKBONES if other != backbone}
            found.append(last.model_copy(update=others))
    return found


def _units(vlm: VLM) -> Units:
    layers = [layer for part in layers_of(vlm).values() for layer in part]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    trained = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers]
    outside = sum(p.numel() for p in vlm.parameters()) - sum(sizes)
    return Units(outside, max(sizes, default=0), max(trained, default=0))


def _without_noise(stage: Stage) -> Stage:
    return stage.model_copy(update={"neftune_alpha": None})


def _shares(stage: RunStage) -> dict[ImageConfig, float]:
    """Preparation of images -> share of the stage's steps that it holds for."""
    images = stage.data.image_by_step()
    begins = [min(step, stage.steps) for step in images]
    shares: dict[ImageConfig, float] = {}
    for image, begin, end in zip(images.values(), begins, [*begins[1:], stage.steps], strict=True):
        if end > begin:
            shares[image] = shares.get(image, 0.0) + (end - begin) / stage.steps
    return shares


def _weighed(plans: Sequence[StagePlan], shares: Sequence[float]) -> StagePlan:
    """One plan of a stage from those for the sizes of its images: means over the steps, and the largest memory."""

    def mean(values: Iterable[float]) -> float:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    if len(plans) == 1:
        return plans[0]
    # What holds of a sample is a mean over samples, of which a packed row holds the fewer the larger they are.
    rows = mean(p.row_samples for p in plans)
    if any(p.row_samples != 1 for p in plans):
        shares = [share * p.row_samples / rows for share, p in zip(shares, plans, strict=True)]
    return replace(
        plans[-1],
        training_flops={part: mean(p.training_flops[part] for p in plans) for part in plans[-1].training_flops},
        recomputed={part: mean(p.recomputed[part] for p in plans) for part in plans[-1].recomputed},
        causal=mean(p.causal for p in plans),
        causal_recomputed=mean(p.causal_recomputed for p in plans),
        views=mean(p.views for p in plans),
        sequence=mean(p.sequence for p in plans),
        token_pairs=mean(p.sequence**2 for p in plans),
        samples=round(plans[-1].samples / plans[-1].row_samples * rows),
        row_samples=rows,
        feature_bytes=mean(p.feature_bytes for p in plans),
        memory=max((plan.memory for plan in plans), key=lambda memory: memory.peak),
        image_tokens={size: count for plan in plans for size, count in plan.image_tokens.items()},
        least_image_tokens=max(plan.least_image_tokens for plan in plans),
    )


def _recomputed(execution: Execution, cost: Measurement) -> tuple[dict[str, float], float]:
    """What checkpointing does again, and of it causal attention, from the layers, which are measured without it."""
    again, causal = dict.fromkeys(cost.forward, 0.0), 0.0
    if execution.gradient_checkpointing:
        for part, layers in cost.meter.layers.items():
            if cost.graded[part]:
                again[part] = sum(layer.again for layer in layers)
                causal += sum(layer.causal for layer in layers if layer.again)
    return again, causal
