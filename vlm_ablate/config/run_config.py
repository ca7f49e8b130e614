"""The configuration of one run: a model, its stages with their data, how it is scored, and how all is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ValidationError, model_validator

from vlm_ablate.config.base import FieldError, Marked, Strict
from vlm_ablate.config.data import DataConfig, ImageConfig, PromptFormat
from vlm_ablate.config.evaluation import EvaluationConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.stages import Stage, Training, held_in_bf16


class RunStage(Stage, decides="training"):
    """One stage of training and its data."""

    data: DataConfig
    """What it trains on; in a file, what is not written here is the file's `data`."""

    @property
    def image_at_end(self) -> ImageConfig:
        """How its last steps prepare images."""
        return [image for step, image in self.data.image_by_step().items() if step < self.steps][-1]

    @model_validator(mode="after")
    def _trains_something(self) -> RunStage:
        if (self.vision, self.language, self.connector) == (Training.frozen, Training.frozen, "frozen"):
            raise FieldError(
                ("connector",),
                "this stage trains nothing: vision, language and connector are frozen; write `connector: full`, or"
                " lora, dora or full for a backbone, or leave the stage out (NAME: null)",
            )
        return self

    @model_validator(mode="after")
    def _tiles_fill_the_picture(self) -> RunStage:
        for step, image in self.data.image_by_step().items():
            if image.unfilled:
                path = ("data", "climb", str(step)) if step in self.data.climb else ("data", "image", "size")
                raise FieldError(path, image.unfilled)
        return self


class RunConfig(Strict):
    """Everything that decides the outcome of one run, except its seeds; and how it is computed."""

    written_beside: ClassVar[tuple[str, ...]] = ("data",)
    """Sections that a file may have beside these fields; composition puts them into the fields."""

    model: ModelConfig
    stages: Annotated[dict[str, RunStage], Marked("training")]
    """Name -> stage, trained in the order written. None: the checkpoint of `model.init_from` is scored as it is."""
    evaluation: EvaluationConfig
    execution: Execution = Execution()

    @model_validator(mode="before")
    @classmethod
    def _scored_as_trained(cls, data: Any) -> Any:
        """The evaluation prepares images and prompts as the last stage does at its end, where it says nothing else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("evaluation"), Mapping):
            return data
        evaluation = dict(data["evaluation"])
        last = _last_data(data.get("stages"))
        evaluation["image"] = image = _over(last.get("image"), evaluation.get("image"))
        if "prompt" not in evaluation and last.get("prompt") in get_args(PromptFormat):
            evaluation["prompt"] = last["prompt"]
        entries = evaluation.get("benchmarks")
        if isinstance(entries, Mapping):
            evaluation["benchmarks"] = {name: _with_image(entry, image) for name, entry in entries.items()}
        return {**data, "evaluation": evaluation}

    @model_validator(mode="after")
    def _has_something_to_score(self) -> RunConfig:
        if self.stages:
            return self
        if not isinstance(self.model.init_from, str):
            parts = "; of single parts it makes no whole" if self.model.init_from else ""
            told = f"no stage: write one, or score a checkpoint as it is: model.init_from{parts}"
            raise FieldError(("stages",), told)
        if self.evaluation.curve is not None:
            raise FieldError(("evaluation", "curve"), "nothing is trained here, so nothing is scored along the way")
        return self

    @model_validator(mode="after")
    def _execution_fits(self) -> RunConfig:
        for name in self.execution.stages:
            if name not in self.stages:
                message = f"no stage {name!r}; the stages are {', '.join(self.stages)}"
                raise FieldError(("execution", "stages", name), message)
        for name, stage in self.stages.items():
            micro = self.execution.of_stage(name).micro_batch_size
            if micro and stage.batch_size % micro:
                own = name in self.execution.stages and self.execution.stages[name].micro_batch_size
                path = ("execution", *(("stages", name) if own else ()), "micro_batch_size")
                raise FieldError(path, f"{micro} does not divide batch_size {stage.batch_size} of stage {name!r}")
            if self.execution.of_stage(name).features == "on" and stage.vision is not Training.frozen:
                its_own = name in self.execution.stages and self.execution.stages[name].features
                path = ("execution", *(("stages", name) if its_own else ()), "features")
                told = f"stage {name!r} trains the vision encoder ({stage.vision}), whose output then never comes again"
                raise FieldError(path, f"{told}; write auto, or off for this stage")
        if problem := self.unfit_for_ranks(self.execution):
            raise FieldError(("execution", problem[0]), problem[1])
        return self

    def unfit_for_ranks(self, execution: Execution) -> tuple[str, str] | None:
        """(field, why): what cannot be computed by the ranks of an execution section; None: everything can."""
        ranks = execution.ranks
        if ranks > 1 and execution.strategy == "fsdp2":
            if execution.compile:
                return "compile", "what fsdp2 gathers layer by layer is not compiled; write ddp, or compile: false"
            if self.evaluation.curve:
                return "strategy", (
                    "a model that fsdp2 shares out answers nothing while it trains, and evaluation.curve asks; "
                    "write ddp, or curve: null"
                )
            muon = [name for name, stage in self.stages.items() if stage.optimizer == "muon"]
            if muon:
                return "strategy", (
                    f"fsdp2 holds shares of matrices, and muon in stage {muon[0]!r} needs whole ones; write ddp"
                )
        for name, stage in self.stages.items():
            micro = execution.of_stage(name).micro_batch_size
            if stage.batch_size % ((micro or 1) * ranks):
                each = f" in micro-batches of {micro}" if micro else ""
                fitting = [n for n in range(1, ranks) if stage.batch_size % ((micro or 1) * n) == 0]
                nearest = f"; {fitting[-1]} would do" if fitting else ""
                why = f"batch_size {stage.batch_size} of stage {name!r} cannot be dealt to {ranks} ranks{each}{nearest}"
                return "devices", why
        return None

    @property
    def last_stage(self) -> RunStage:
        """The stage that training ends with."""
        return list(self.stages.values())[-1]

    @property
    def scoring_precision(self) -> Literal["fp32", "bf16"]:
        """What scores are computed in: as the evaluation says, else as in the last stage."""
        return self.evaluation.precision or (self.last_stage.precision if self.stages else "fp32")

    @property
    def held_in_bf16(self) -> tuple[str, ...]:
        """The backbones that a GPU may hold in bf16: nothing that runs, scores included, computes in fp32."""
        return held_in_bf16(self.stages.values()) if self.scoring_precision == "bf16" else ()

    @property
    def shown_image(self) -> ImageConfig:
        """How the last stage prepares images at its end; without a stage, how the evaluation does."""
        if not self.stages:
            return self.evaluation.image
        return self.last_stage.image_at_end

    def images(self) -> list[ImageConfig]:
        """Every way in which the run prepares images, each once, those of training first."""
        trained = [image for stage in self.stages.values() for image in stage.data.image_by_step().values()]
        asked = [self.evaluation.preparation(column).image for column in self.evaluation.benchmarks]
        return list(dict.fromkeys([*trained, self.evaluation.image, *asked]))


def _last_data(stages: Any) -> Mapping[str, Any]:
    """The last stage's data as plain values, as far as they are there, with images as its last steps prepare them."""
    last = list(stages.values())[-1] if isinstance(stages, Mapping) and stages else None
    if isinstance(last, RunStage):
        return {"image": last.image_at_end.model_dump(), "prompt": last.data.prompt}
    data = last.get("data") if isinstance(last, Mapping) else None
    data = data.model_dump(include={"image", "prompt", "climb"}) if isinstance(data, DataConfig) else data
    return {**data, "image": _climbed(data, last)} if isinstance(last, Mapping) and isinstance(data, Mapping) else {}


def _climbed(data: Mapping[str, Any], stage: Mapping[str, Any]) -> Any:
    """The image preparation of a stage's last steps from plain values; what is wrong with them is told elsewhere."""
    image, climb, steps = data.get("image"), data.get("climb"), stage.get("steps")
    image = image.model_dump() if isinstance(image, ImageConfig) else image
    if not isinstance(climb, Mapping) or not isinstance(steps, int) or not isinstance(image, Mapping | None):
        return image
    sizes = {int(step): size for step, size in climb.items() if str(step).isdecimal() and int(step) < steps}
    return {**(image or {}), "size": sizes[max(sizes)]} if sizes else image


def _over(below: Any, own: Any) -> Any:
    """An image preparation as far as it is written, over the one below; what is wrong below is told there."""
    if own is not None and not isinstance(own, Mapping):
        return own
    try:
        whole = ImageConfig.model_validate({} if below is None else below).model_dump()
    except ValidationError:
        whole = {}
    return {**whole, **(own or {})}


def _with_image(entry: Any, image: Any) -> Any:
    return {**entry, "image": _over(image, entry.get("image"))} if isinstance(entry, Mapping) else entry
