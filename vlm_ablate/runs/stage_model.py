"""A run's model brought to where a stage begins, and the stage's data: the same on every rank that trains it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.errors import StorageError
from vlm_ablate.home import Home
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.compiled import compile_layers, release
from vlm_ablate.models.documents import choose
from vlm_ablate.models.trained_state import load_trained
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.results import check_weights
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.starts import placed
from vlm_ablate.training.counters import Seen
from vlm_ablate.training.fit import training_device
from vlm_ablate.training.ranks import Ranks
from vlm_ablate.training.stages import prepare


class StageModel:
    """The one model of a run.

    Args:
        home: where the runs are that it may start from.
        notice: hears what the user should know.
    """

    def __init__(self, spec: RunSpec, home: Home, notice: Callable[[str], None] = lambda message: None) -> None:
        self.spec, self.config, self._home, self._notice = spec, spec.config, home, notice
        self._stages = list(spec.config.stages.items())
        self._vlm: VLM | None = None
        self._holds: str | None = None
        """Name of the folder whose weights the model has."""
        self._told_of_padding = False

    def of(self, stage: StageFolder, ranks: Ranks = Ranks()) -> VLM:
        """The model with the weights of a finished stage.

        Args:
            ranks: see `ready`.

        Raises:
            ModelError: they are damaged.
        """
        if self._vlm is None:
            self._vlm = self._build(ranks)
        if self._holds != stage.root.name:
            if self._vlm.device.type != "meta":
                check_weights(stage)
            load_trained(self._vlm, stage.weights)
            self._holds = stage.root.name
        return self._vlm if ranks.sharded else self._vlm.to(training_device())

    def released(self) -> VLM:
        """The model as a checkpoint brings it, of a run that trains nothing."""
        if self._vlm is None:
            self._vlm = self._build()
        return self._vlm

    def ready(self, index: int, before: StageFolder | None, ranks: Ranks = Ranks()) -> VLM:
        """The model as a stage begins with it: with the weights of the stage before, and what it trains chosen.

        Args:
            ranks: that train it. When they hold a share each, the first has the model in host memory, and the others
                its structure on the meta device; `parallel.shard` gives each its share.
        """
        name, stage = self._stages[index]
        vlm = self.of(before, ranks) if before else self._fresh(ranks)
        checkpointing = self.config.execution.of_stage(name).gradient_checkpointing
        prepare(vlm, stage, index, self.spec.seeds.init, partial(apply_training, gradient_checkpointing=checkpointing))
        self._attend(vlm, stage)
        if self.config.execution.compile:
            compile_layers(vlm)
        return vlm

    def trained(self, stage: StageFolder | None) -> None:
        """It has the weights of this stage now; None: only a share of them, and it is built again when it is needed."""
        if self._vlm is not None:
            release(self._vlm)
        self._holds = stage.root.name if stage else None
        if stage is None:
            self._vlm = None

    def data(self, index: int, vlm: VLM, mixture: Mixture, start: int) -> VLMDataModule:
        """Of a stage, from its first sample on.

        Args:
            start: sequences that the stages before have seen.
        """
        name, stage = self._stages[index]
        return VLMDataModule(
            stage,
            execution=self.config.execution.of_stage(name),
            mixture=mixture,
            tokenizer=vlm.tokenizer,
            tokens_per_view=vlm.placeholders,
            mean=vlm.vision.mean,
            std=vlm.vision.std,
            start=start,
            ragged=vlm.attention != "padded",
            expect=None if vlm.features is None else vlm.features.ahead(stage.precision),
        )

    def _build(self, ranks: Ranks = Ranks()) -> VLM:
        device = training_device()
        half = self.config.held_in_bf16 if device.type == "cuda" else ()
        model, views, seed = placed(self.config.model, self._home), Views.of(self.config.images()), self.spec.seeds.init
        if ranks.sharded and not ranks.first:
            return build_vlm(model, views, load_weights=False, seed=seed, half=half)
        vlm = started_vlm(model, views, seed=seed, half=half)
        return vlm if ranks.sharded else vlm.to(device)

    def _fresh(self, ranks: Ranks) -> VLM:
        """The model as it was built. A first stage finds none that another stage has changed."""
        if self._vlm is None or self._holds is not None:
            self._vlm, self._holds = self._build(ranks), None
        return self._vlm

    def _attend(self, vlm: VLM, stage: RunStage) -> None:
        """Choose what computes attention, and say if it cannot be what was asked for."""
        wanted = self.config.execution.attention
        kernel = choose(wanted, training_device(), half=stage.precision == "bf16")
        if not vlm.attend_by(kernel) and kernel != "padded" and not self._told_of_padding:
            self._told_of_padding = True
            name = self.config.model.language.name
            self._notice(f"the language model {name!r} cannot read documents without padding: batches are padded")


def seen_before(stage: StageFolder | None) -> Seen:
    """What the stages up to this one have seen; None: there is none before.

    Raises:
        StorageError: its folder is gone.
    """
    if stage is None:
        return Seen()
    ended = stage.outcome()
    if ended is None:
        raise StorageError(f"{stage.root} was removed while the run went on", hint="run it again")
    return Seen(**ended["seen"])
