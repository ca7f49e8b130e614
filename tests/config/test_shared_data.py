"""One `data` for all stages: how it gets into each of them, what a diff of it means, and how readers see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.diff import Change, arm_diff
from vlm_ablate.config.expand import LoadedExperiment, load_experiment
from vlm_ablate.config.moved import MOVED, recorded, upgraded
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.shared_data import short
from vlm_ablate.errors import ConfigError
from vlm_ablate.models.views import Views
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import load_records

Write = Callable[..., Path]
ROOT = Path(__file__).parents[2]

TWO = (
    "stages:\n  pretrain: {steps: 6000, batch_size: 16}",
    "stages:\n  pretrain: {steps: 6000, batch_size: 16, data: {image: {size: 364}, climb: {3000: 728}}}\n"
    "  sft:\n    steps: 100\n    batch_size: 8\n"
    "    data: {mixture: {replace: true, talk: {source: cauldron}}, prompt: chat, image: {size: 980}}",
)


def sizes(loaded: LoadedExperiment, arm: str = "three") -> list[int]:
    return [stage.data.image.size for stage in loaded.arms[arm].config.stages.values()]


def test_a_stage_has_the_files_data_where_it_says_nothing_else(write: Write) -> None:
    pretrain, sft = load_experiment(write(TWO), scale="paper").base.stages.values()
    assert (list(pretrain.data.mixture), pretrain.data.prompt, pretrain.data.image.size) == (["web"], "plain", 364)
    assert (list(sft.data.mixture), sft.data.prompt, sft.data.image.size) == (["talk"], "chat", 980)
    assert pretrain.data.sequence_length == sft.data.sequence_length == 2048


def test_data_of_a_diff_means_every_stage_and_a_stages_data_one(write: Write) -> None:
    assert sizes(load_experiment(write(TWO), scale="paper", sets=["data.image.size=70"])) == [70, 70]
    assert sizes(load_experiment(write(TWO), scale="paper", sets=["stages.sft.data.image.size=70"])) == [364, 70]
    both = ["data.image.size=70", "stages.sft.data.image.size=71"]
    assert sizes(load_experiment(write(TWO), scale="paper", sets=both)) == [70, 71]
    file = write(TWO, ("model.connector.depth: 1", "data.image.size: 70"))
    assert sizes(load_experiment(file, scale="paper"), "one") == [70, 70]


def test_a_stage_that_an_arm_brings_has_the_files_data(write: Write) -> None:
    more = "data.image.size: 70, stages: {replace: true, only: {steps: 5, batch_size: 8}}"
    stages = load_experiment(write(TWO, ("model.connector.depth: 1", more)), scale="paper").arms["one"].config.stages
    assert {name: stage.data.image.size for name, stage in stages.items()} == {"only": 70}


def test_values_of_a_scale_reach_every_stage_and_the_climb_keeps_its_share_of_the_steps(write: Write) -> None:
    scale = 'name: tiny\nvalues:\n  data.image.size: {364: 32, 728: 64, 980: 96}\n  stages.*.steps: {6000: 60}\n'
    arm = load_experiment(write(TWO, scale=scale), scale="tiny").arms["three"]
    assert sizes(load_experiment(write(TWO, scale=scale), scale="tiny")) == [32, 96]
    assert arm.config.stages["pretrain"].data.climb == {30: 64}
    assert arm.scaled["stages.pretrain.data.climb"] == "3000: 728 -> 30: 64"
    assert arm.scaled["stages.sft.data.image.size"] == "980 -> 96"


def test_the_evaluation_prepares_as_the_last_stage_where_it_says_nothing_else(write: Write) -> None:
    base = load_experiment(write(TWO), scale="paper").base
    assert (base.evaluation.image, base.evaluation.prompt) == (base.last_stage.data.image, "chat")
    own = ("benchmarks:\n    vqav2: {benchmark: vqav2}",
           "image: {split: crops}\n  benchmarks:\n    vqav2: {benchmark: vqav2, image: {size: 70}}")  # fmt: skip
    loaded = load_experiment(write(TWO, own), scale="paper", sets=["data.image.resize=native"])
    evaluation = loaded.arms["three"].config.evaluation
    assert evaluation.image == ImageConfig(resize="native", size=980, split="crops")
    assert evaluation.preparation("vqav2").image == ImageConfig(resize="native", size=70, split="crops")


def test_where_images_grow_the_evaluation_prepares_as_the_last_stage_does_at_its_end(write: Write) -> None:
    grown = ("image: {size: 980}", "image: {size: 980, split: crops}, climb: {0: 70, 40: 140, 80: 280, 100: 560}")
    config = load_experiment(write((TWO[0], TWO[1].replace(*grown))), scale="paper").base
    assert config.evaluation.image == config.shown_image == ImageConfig(size=280, split="crops"), "560 is never reached"
    assert load_experiment(write(TWO), scale="paper").base.shown_image.size == 980, "the first stage's growth is over"
    own = ("benchmarks:\n    vqav2: {benchmark: vqav2}",
           "image: {size: 35}\n  benchmarks:\n    vqav2: {benchmark: vqav2}")  # fmt: skip
    asked = load_experiment(write((TWO[0], TWO[1].replace(*grown)), own), scale="paper").base.evaluation.image
    assert asked == ImageConfig(size=35, split="crops")


def test_a_climb_of_a_scale_shows_the_evaluation_its_last_size(write: Write) -> None:
    grown = ("image: {size: 980}", "image: {size: 364}, climb: {50: 728}")
    scale = "name: tiny\nvalues:\n  data.image.size: {364: 32, 728: 64}\n  stages.*.steps: {100: 10}\n"
    config = load_experiment(write((TWO[0], TWO[1].replace(*grown)), scale=scale), scale="tiny").base
    assert config.last_stage.data.climb == {5: 64} and config.evaluation.image.size == 64


def test_images_are_all_preparations_of_a_run_once_each(write: Write) -> None:
    config = load_experiment(write(TWO), scale="paper").base
    assert [image.size for image in config.images()] == [364, 728, 980]
    assert Views.of(config.images()) == Views(side=980)


def test_readers_see_once_what_all_stages_share(write: Write) -> None:
    loaded = load_experiment(
        write(TWO, ("model.connector.depth: 1", "data.sequence_length: 99, stages.sft.data.prompt: plain")),
        scale="paper",
    )
    assert arm_diff(loaded.base, loaded.arms["one"].config) == [
        Change("data.sequence_length", 2048, 99),
        Change("stages.sft.data.prompt", "chat", "plain"),
    ]
    assert loaded.warnings == [
        "data.sequence_length differs between arms, outside the declared factor: 99 (one) against 2048 (three)",
        "stages.sft.data.prompt differs between arms, outside the declared factor: plain (one) against chat (three)",
    ]
    told = short(loaded.base)
    assert told["data"]["sequence_length"] == 2048 and told["stages"]["sft"]["data"]["image"] == {"size": 980}
    assert "image" not in told["evaluation"] and "image" not in told["evaluation"]["benchmarks"]["vqav2"]


def test_a_factor_below_data_covers_every_stage_and_what_follows_from_it(write: Write) -> None:
    file = write(TWO, ("[model.connector.depth]", "[data.prompt]"),
                 ("model.connector.depth: 1", "stages.sft.data.prompt: plain"))  # fmt: skip
    assert load_experiment(file, scale="paper").warnings == []


def test_a_mistake_in_shared_data_is_told_once_where_it_was_written(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(TWO, ("  mixture:", "  sequence_length: none\n  mixture:")), scale="paper")
    (problem,) = caught.value.problems
    assert str(problem) == "experiments/demo.yaml:12: data.sequence_length: must be a whole number, not 'none'"


@pytest.mark.parametrize("path", [".".join(path).replace("*", "pretrain") for path in MOVED])
def test_a_field_at_its_old_place_is_told_the_new_one(write: Write, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(), scale="tiny", sets=[f"{path}=1"])
    (problem,) = caught.value.problems
    assert problem.message.startswith("stands at execution.") and problem.file == f"--set {path}=1"


def test_what_a_stage_does_otherwise_goes_before_the_section(write: Write) -> None:
    sets = ["execution.micro_batch_size=4", "execution.stages.sft.micro_batch_size=2"]
    execution = load_experiment(write(TWO), scale="paper", sets=sets).arms["one"].config.execution
    assert execution.of_stage("pretrain").micro_batch_size == 4
    assert execution.of_stage("sft").micro_batch_size == 2
    for wrong, message in (("sft.micro_batch_size=3", "3 does not divide batch_size 8 of stage 'sft'"),
                           ("stf.micro_batch_size=2", "no stage 'stf'; the stages are pretrain, sft")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            load_experiment(write(TWO), scale="paper", sets=[f"execution.stages.{wrong}"])


def test_an_earlier_runs_configuration_is_the_same_run_in_the_present_shape(write: Write) -> None:
    config = load_experiment(write(), scale="tiny", sets=["execution.micro_batch_size=2"]).base
    old = recorded(config)
    assert old is not None and old["stages"]["pretrain"]["micro_batch_size"] == 2 and "workers" in old["data"]
    assert RunConfig.model_validate(upgraded(old)) == config
    assert recorded(load_experiment(write(TWO), scale="paper").base) is None, "its stages differ in their data"


MOVED_PARAMS = {"stages.pretrain.micro_batch_size", "stages.pretrain.gradient_checkpointing", "data.workers",
                "stages.pretrain.checkpoint_every", "stages.pretrain.log_every", "data.max_skipped",
                "evaluation.batch_size"}  # fmt: skip


def test_table_3_is_told_as_its_committed_records_tell_it() -> None:
    file = ROOT / "experiments" / "idefics2" / "t03_architecture.yaml"
    loaded = load_experiment(file, scale="laptop")
    for record in load_records(ROOT / "results" / "idefics2" / "t03_architecture" / "laptop" / "records.json").records:
        arm = loaded.arms[record.arm]
        assert arm.stand_ins == record.stand_ins
        assert arm.scaled == {k: v for k, v in record.scaled.items() if k not in MOVED_PARAMS}
        told = {k: v for k, v in schema.flatten(short(arm.config)).items() if not k.startswith("execution.")}
        sections = ("model.", "data.", "stages.", "evaluation.")
        assert told == {k: v for k, v in record.params.items() if k.startswith(sections) and k not in MOVED_PARAMS}
