"""What one run leaves in the tracking store: origins, plan, metrics against what was seen, results, files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from vlm_ablate.checkpoints.released import started_from
from vlm_ablate.data.dataset import Skips
from vlm_ablate.data.module import run_fingerprint
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import RunFolder
from vlm_ablate.runs import artifacts
from vlm_ablate.runs.find import WEIGHTS_FILE
from vlm_ablate.runs.score import Scoring
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.logger import RunTracker
from vlm_ablate.training.callbacks import StepMetrics
from vlm_ablate.training.counters import BatchFlops, Seen, flops_by_rates

if TYPE_CHECKING:
    from vlm_ablate.data.mixture import Mixture


class Recording:
    """Writes the record of one run.

    Args:
        spec: of the run.
        folder: where its files are.
        tracker: the open run in the store.
        notice: hears one line that a person should see.
    """

    def __init__(
        self, spec: RunSpec, folder: RunFolder, tracker: RunTracker, notice: Callable[[str], None]
    ) -> None:
        self._spec, self._folder, self._tracker, self._notice = spec, folder.artifacts, tracker, notice
        self._steps = sum(stage.steps for stage in spec.config.stages.values())
        self._sizes: dict[str, float] = {}

    def config(self) -> None:
        """The resolved configuration."""
        artifacts.write_config(self._spec, self._folder / schema.CONFIG_FILE)
        self._tracker.log_artifact(self._folder / schema.CONFIG_FILE)

    def origins(self, mixtures: Iterable[Mixture], scoring: Scoring) -> None:
        """Licences and checksums of the material, and fingerprints of the data of all stages."""
        mixtures = list(mixtures)
        sources = {name: s for mixture in mixtures for name, s in zip(mixture.names, mixture.sources, strict=True)}
        records = [r for source in sources.values() for r in source.licences] + scoring.licences
        licences = {str(r.to_dict()): r.to_dict() for r in records}
        fingerprint = run_fingerprint(mixtures)
        self._tracker.set_tags({schema.DATA_FINGERPRINT: fingerprint, schema.LICENCES: list(licences.values())})
        for name, source in sources.items():
            self._tracker.log_dataset(name, source.fingerprint)

    def plan(self) -> dict[str, BatchFlops]:
        """The plan; returns what a batch costs in each stage, by the plan's rates.

        Raises:
            VlmAblateError: parts that do not fit together.
        """
        from vlm_ablate.accounting import plan_model

        try:
            plan = plan_model(self._spec.config)
        except VlmAblateError:
            raise
        except Exception as error:  # parts that cannot be built on the meta device may still train
            self._notice(f"no plan, and FLOPs are not counted: {type(error).__name__}: {error}")
            return {}
        artifacts.write_plan(plan, self._folder / schema.PLAN_FILE)
        self._tracker.log_artifact(self._folder / schema.PLAN_FILE)
        self._sizes = {
            schema.PARAMS_TOTAL: float(plan.last.total_parameters),
            schema.PARAMS_TRAINABLE: float(plan.last.trainable_parameters),
            schema.VISUAL_TOKENS: float(plan.visual_tokens_per_image),
            schema.FLOPS_PER_SAMPLE: float(plan.last.flops),
        }
        images = plan.sample.images
        return {
            name: flops_by_rates(
                (stage.training_flops["vision"] + stage.training_flops["connector"]) / (images * stage.views),
                (stage.training_flops["language"] + stage.training_flops["cross_attention"]) / stage.sequence,
            )
            for name, stage in plan.stages.items()
        }

    def start(self) -> None:
        """The weights that the run starts from, if they are a checkpoint's."""
        if self._spec.config.model.init_from:
            self._tracker.set_tags({schema.INIT_FROM: started_from(self._spec.config.model.init_from)})

    def step(self, metrics: StepMetrics) -> None:
        """Metrics of training since the last call."""
        values = {
            schema.TRAIN_LOSS: metrics.loss,
            schema.TRAIN_GRAD_NORM: metrics.grad_norm,
            schema.TRAIN_LR: metrics.learning_rate,
            schema.TRAIN_TOKENS_PER_S: metrics.tokens_per_s,
        }
        self._tracker.log_metrics(values | _seen_metrics(metrics.seen), metrics.step)
        self.sizes()

    def curve(self, step: int, scores: dict[str, float], seen: Seen) -> None:
        """A point of the curve: scores after `step` optimiser steps."""
        self._tracker.log_metrics(scores | _seen_metrics(seen), step)

    def sizes(self) -> None:
        """Once, after the first training metrics: the UI compares runs by the metric that was recorded first."""
        self._tracker.log_metrics(self._sizes, 0)
        self._sizes = {}

    def results(self, scoring: Scoring, seen: Seen, skips: Sequence[Skips], seconds: float) -> None:
        """Scores, predictions, examples and weights of a run that took `seconds`."""
        tracker = self._tracker
        self.sizes()
        tracker.log_metrics(_seen_metrics(seen) | {schema.WALL_SECONDS: seconds}, self._steps)
        self._skipped(skips)
        tracker.log_scores(scoring.scores, self._steps)
        tracker.log_metrics(scoring.ceilings, self._steps)
        table = self._folder / schema.PREDICTIONS_DIR / "predictions.csv"
        table.parent.mkdir(exist_ok=True)
        artifacts.write_predictions(scoring.answered, table)
        tracker.log_artifact(table, schema.PREDICTIONS_DIR)
        examples = self._folder / schema.EXAMPLES_FILE
        title = f"{self._spec.label or self._spec.arm} · seed {self._spec.seed}"
        artifacts.write_examples(scoring.answered, examples, title)
        if examples.exists():
            tracker.log_artifact(examples)
        tracker.log_artifact(self._folder / schema.WEIGHTS_DIR / WEIGHTS_FILE, schema.WEIGHTS_DIR)

    def _skipped(self, skips: Sequence[Skips]) -> None:
        """Rows that this execution could not use and replaced by others."""
        skipped, read = (sum(getattr(s, name) for s in skips) for name in ("skipped", "read"))
        self._tracker.log_metrics({schema.DATA_SKIPPED: float(skipped)}, self._steps)
        if skipped:
            self._notice(f"{self._spec.run_name}: {skipped} of {read} samples cannot be used; others took their place")


def _seen_metrics(seen: Seen) -> dict[str, float]:
    return {
        schema.SEEN_IMAGES: float(seen.images),
        schema.SEEN_TEXT_TOKENS: float(seen.text_tokens),
        schema.SEEN_VISUAL_TOKENS: float(seen.visual_tokens),
        schema.SEEN_FLOPS: seen.flops,
    }
