"""What `vlm-ablate evaluate` scores: a released checkpoint, an exported folder or a run, as a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlm_ablate.checkpoints.own import located, read_description
from vlm_ablate.checkpoints.released import assembly_of, processor_unlike
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.loading import ResolvedArm
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import AssetMissing, ConfigError, Problem, UnknownNameError
from vlm_ablate.home import Home
from vlm_ablate.models.pretrained import is_own_checkpoint, read_config, resolve, tensor_files
from vlm_ablate.runs.find import find_run
from vlm_ablate.runs.keys import StageKey


@dataclass(frozen=True)
class Subject:
    """A model to be scored, and how it wants its pictures."""

    name: str
    """Of the table's row."""
    model: ModelConfig
    image: ImageConfig
    """How its processor, or its run, prepares pictures."""
    run: RunConfig | None = None
    """The run that trained it; None: a checkpoint, scored as it is."""
    weights: StageKey | None = None
    """Of the run, if it trained anything: its last stage."""
    seed: int = 0
    plugins: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    scaled: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    """How its pictures are prepared otherwise than by its own processor; "": as by that."""

    def config(
        self,
        base: RunConfig,
        *,
        image: Mapping[str, Any] | None = None,
        precision: Literal["fp32", "bf16"] | None = None,
        batch_size: int | None = None,
    ) -> RunConfig:
        """What scores it as the table's `base` is scored.

        Where it splits pictures into tiles as large as the table's, it sees them at the table's sizes; else as it was
        made to see them.

        Args:
            image: fields of the preparation of pictures that are set by hand, for every benchmark.
            precision: None: the table's; of a run, where the table names none, that of the run's last stage.
            batch_size: prompts answered together; None: the table's.

        Raises:
            ValueError: the preparation is none.
        """
        evaluation = base.evaluation.model_dump(mode="json") | {"curve": None}
        asked = {name: entry.image or base.evaluation.image for name, entry in base.evaluation.benchmarks.items()}
        evaluation["image"] = self._prepared(base.evaluation.image, image)
        for name, entry in evaluation["benchmarks"].items():
            entry["image"] = self._prepared(asked[name], image)
        if not precision and base.scoring_precision == "bf16" and not (self.run and self.run.stages):
            precision = "bf16"  # where nothing is trained, no word is fp32
        if precision:
            evaluation["precision"] = precision
        execution = (self.run or base).execution.model_dump(mode="json")
        if batch_size:
            execution["evaluation_batch_size"] = batch_size
        stages = self.run.model_dump(mode="json")["stages"] if self.run else {}
        model = self.model.model_dump(mode="json")
        body = {"model": model, "stages": stages, "evaluation": evaluation, "execution": execution}
        return RunConfig.model_validate(body)

    def _prepared(self, asked: ImageConfig, image: Mapping[str, Any] | None) -> dict[str, Any]:
        tiled = self.image.split == asked.split == "tiles" and self.image.tile == asked.tile
        return {**(asked if tiled else self.image).model_dump(mode="json"), **(image or {})}

    def check_weights_of(self, stages: Sequence[StageKey], *, option: str) -> None:
        """Whether the stages of what scores it are those that the run has trained, so that nothing is trained.

        Args:
            option: what says how pictures are prepared, for the message.

        Raises:
            ConfigError: pictures are prepared so that the run's model would be another.
        """
        if self.weights is None or stages[-1].key == self.weights.key:
            return
        asked, built = (_views(stage.inputs["views"]) for stage in (stages[-1], self.weights))
        told = f"needs a model for {asked}, and the run {self.name!r} trained one for {built}"
        hint = f"export the run and evaluate the folder, or prepare pictures for {built}"
        raise ConfigError([Problem(option, "image", told)], hint=hint)

    def arm(self, config: RunConfig, *, name: str, label: str, cell: dict[str, Any] | None) -> ResolvedArm:
        """The table's row that it becomes."""
        return ResolvedArm(name, label, cell, None, config, config, dict(self.stand_ins), dict(self.scaled))


def _views(said: Mapping[str, Any]) -> str:
    kinds = [", in tiles" if said["tiled"] else "", ", of any aspect ratio" if said["padded"] else ""]
    return f"views of at most {said['side']} px{''.join(kinds)}"


def subject_of(name: str, home: Home) -> Subject:
    """What a name stands for: a folder, a run of the home, or a checkpoint of the hub.

    Raises:
        UnknownNameError: none of these.
        AssetMissing: a hub id that is not on this machine; a folder without weights.
        ModelError: a checkpoint of no family that is known, or damaged.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / "run.json").is_file():
        return _checkpoint(str(folder.resolve()), folder)
    try:
        found = find_run(name, home)
    except UnknownNameError as unknown:
        try:
            return _checkpoint(name, resolve(name))
        except AssetMissing as missing:
            if "/" in name and not name.startswith(("/", ".", "~")):
                raise  # a hub id: how to get it is what helps
            unknown.hint = f"{unknown.hint}; and as a checkpoint: {missing.message}"
            raise unknown from missing
    spec = found.spec
    return Subject(
        spec.arm,
        spec.config.model,
        spec.config.evaluation.image,
        spec.config,
        spec.stage_keys[-1] if spec.config.stages else None,
        spec.seed,
        spec.plugins,
        spec.stand_ins,
        spec.scaled,
    )


def _checkpoint(id: str, folder: Path) -> Subject:
    name = id.rstrip("/").rpartition("/")[2]
    if is_own_checkpoint(folder):
        told = read_description(folder)
        model = located(told.model, Path(id)).model_copy(update={"init_from": id})
        return Subject(name, model, told.image, plugins=told.plugins)
    config = read_config(str(folder), planning=False)
    model, image = assembly_of(config, folder, id=id)
    tensor_files(folder)  # one without weights is told now, not after the benchmarks are opened
    unlike = processor_unlike(config, folder)
    return Subject(name, model, image, remark=f"the image processor of {name} {unlike}" if unlike else "")
