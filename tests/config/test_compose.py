"""Inheritance, deep merge, arms, settings and scales, and the RunSpecs that come out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_ablate.config.compose import load_document, merge, nest, parse_sets
from vlm_ablate.config.document import parse
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError
from vlm_ablate.runs.spec import RunSpec, seeds_from, specs_of

from .conftest import SCALE

Write = Callable[..., Path]

leaves = st.integers(0, 3) | st.sampled_from(["x", "y"])
inner = st.dictionaries(st.sampled_from("ab"), leaves, max_size=2)
mappings = st.dictionaries(st.sampled_from("abc"), leaves | inner, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings, mappings, mappings)
def test_merge_is_idempotent_and_leaves_its_arguments_alone(a: dict, b: dict, c: dict) -> None:
    before = repr((a, b))
    once = merge(a, b)
    assert merge(once, b) == once
    assert merge({}, a) == a and merge(a, {}) == a
    assert repr((a, b)) == before
    assert merge(merge(a, b), merge(b, c)) == merge(merge(a, b), c)


@pytest.mark.parametrize(
    "mine", ["model: {connector: {depth: 5}}", "model.connector.depth: 5", "model.connector: {depth: 5}"]
)
def test_a_file_overrides_its_base_however_either_writes_the_path(write: Write, mine: str) -> None:
    write(("set: {model.connector.depth: 1}", "set: {model: {extra_tokens: [x]}, model.connector.depth: 1}"))
    child = write(text=f"base: demo.yaml\nname: child\narms: {{one: {{set: {{{mine}}}}}}}\n", name="child.yaml")
    assert load_experiment(child, scale="paper").arms["one"].config.model.connector.depth == 5


@pytest.mark.parametrize("mine", ["model: {connector: {name: linear}}", "model.connector: linear"])
def test_another_part_in_a_files_arm_starts_without_the_bases_fields(write: Write, mine: str) -> None:
    write(("set: {model.connector.depth: 1}", "set: {model.connector: {name: mlp, bias: false}}"))
    child = write(text=f"base: demo.yaml\nname: child\narms: {{one: {{set: {{{mine}}}}}}}\n", name="child.yaml")
    assert load_experiment(child, scale="paper").arms["one"].config.model.connector.bias is True


@pytest.mark.parametrize("mine", ["stages: {pretrain: {steps: 3}}", "stages.pretrain.steps: 3"])
def test_a_scale_and_an_experiment_override_a_scale_however_either_writes_the_path(write: Write, mine: str) -> None:
    scale = SCALE.replace("overrides:", "overrides:\n  stages.pretrain.steps: 7")
    file = write(scale=scale)
    small = file.parent / "scales" / "small.yaml"
    small.write_text(f"base: tiny.yaml\nname: small\noverrides: {{{mine}}}\n")
    assert load_experiment(file, scale="tiny").base.stages["pretrain"].steps == 7
    assert load_experiment(file, scale="small").base.stages["pretrain"].steps == 3
    file.write_text(file.read_text() + f"scales: {{tiny: {{overrides: {{{mine}}}}}}}\n")
    assert load_experiment(file, scale="tiny").base.stages["pretrain"].steps == 3


def test_replace_stops_the_merge() -> None:
    below = {"data": {"mixture": {"web": {"weight": 1}}, "workers": 2}}
    above = {"data": {"mixture": {"replace": True, "pages": {"weight": 2}}}}
    assert merge(below, above) == {"data": {"mixture": {"pages": {"weight": 2}}, "workers": 2}}


def test_star_reaches_every_key_that_is_there() -> None:
    merged = merge({"stages": {"a": {"steps": 1}, "b": {"steps": 2, "x": 0}}}, {"stages": {"*": {"steps": 9}}})
    assert merged == {"stages": {"a": {"steps": 9}, "b": {"steps": 9, "x": 0}}}


def test_a_star_that_stands_for_nothing_is_told(write: Write) -> None:
    stage = "  pretrain: {steps: 6000, batch_size: 16}\n"
    star = "  '*': {weight_decay: 0.5}\n"
    with pytest.raises(ConfigError, match=r"demo.yaml:15: stages.\*: stands for the keys that are there already"):
        load_experiment(write((stage, star + stage)), scale="tiny")
    write((stage, stage + star))
    inherits = write(name="mine.yaml", text="base: demo.yaml\nstages:\n  '*': {weight_decay: 0.25}\n")
    for name, decay in {"demo.yaml": 0.5, "mine.yaml": 0.25}.items():
        loaded = load_experiment(inherits.with_name(name), scale="tiny")
        assert loaded.base.last_stage.weight_decay == decay


def test_a_star_does_not_bring_back_what_was_taken_out() -> None:
    """A scale takes benchmarks out that nothing stands for; a field of all benchmarks means the others."""
    below = {"benchmarks": {"a": {"limit": 1}, "b": None}}
    assert merge(below, {"benchmarks": {"*": {"split": "tune"}}})["benchmarks"] == {
        "a": {"limit": 1, "split": "tune"}, "b": None,
    }  # fmt: skip
    assert merge(below, {"benchmarks": {"*": None}})["benchmarks"] == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ({"name": "perceiver", "latents": 64}, {"depth": 1}, {"name": "perceiver", "latents": 64, "depth": 1}),
        ({"name": "perceiver", "latents": 64}, {"name": "linear"}, {"name": "linear"}),
        ({"name": "perceiver", "latents": 64}, "linear", {"name": "linear"}),
        ("linear", {"bias": False}, {"name": "linear", "bias": False}),
        ({"name": "hf", "id": "a", "revision": "r", "layer": -2}, {"id": "b"}, {"name": "hf", "id": "b", "layer": -2}),
    ],
)
def test_another_part_starts_empty(old: object, new: object, result: dict) -> None:
    assert merge({"model": {"connector": old}}, {"model": {"connector": new}}) == {"model": {"connector": result}}


def test_dotted_and_nested_keys_are_the_same() -> None:
    assert nest({"a.b": 1, "a": {"c.d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}


def test_settings_are_yaml() -> None:
    assert parse_sets(["a.b=1e-4", "a.c=[0, 1]", "d=null", "e=x=y"]).data == {
        "a": {"b": 1e-4, "c": [0, 1]}, "d": None, "e": "x=y",
    }  # fmt: skip


def test_numbers_with_an_exponent_are_numbers() -> None:
    assert parse("a: 1e-4\nb: 3E+2\nc: '1e-4'\nd: 1e4x\n", "f")[0] == {"a": 1e-4, "b": 300.0, "c": "1e-4", "d": "1e4x"}


def test_anchors_and_merge_keys(write: Write) -> None:
    data, lines = parse("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n", "f")
    assert data == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}
    assert lines[("b", "q")].line == 4


def test_base_is_relative_to_the_file_and_lies_below(write: Write) -> None:
    write(name="_base.yaml")
    child = write(
        text="base: _base.yaml\nname: demo/child\narms: {extra: {set: {model.connector.latents: 32}}}\n", name="c.yaml"
    )
    loaded = load_experiment(child, scale="tiny")
    assert loaded.experiment.name == "demo/child"
    assert list(loaded.arms) == ["one", "three", "extra"]
    assert load_document(child).where(("stages", "pretrain", "steps")).file == "experiments/_base.yaml"


def test_arm_is_a_diff_of_the_base(write: Write) -> None:
    loaded = load_experiment(write(), scale="paper")
    assert [loaded.arms[a].config.model.connector.depth for a in ("one", "three")] == [1, 3]
    assert loaded.arms["three"].config == loaded.base


def test_scale_is_applied_after_the_diff_and_told(write: Write) -> None:
    file = write(("set: {model.connector.depth: 1}", "set: {stages.pretrain.steps: 500, model.connector.latents: 128}"))
    loaded = load_experiment(file, scale="tiny")
    one, three = loaded.arms["one"], loaded.arms["three"]
    assert one.config.model.vision.name == "siglip-nano" and one.config.model.language.quality == "good"
    assert (one.config.stages["pretrain"].steps, three.config.stages["pretrain"].steps) == (10, 30)
    assert (one.config.model.connector.latents, three.config.model.connector.latents) == (128, 8)
    assert list(one.config.last_stage.data.mixture) == ["offline"]
    assert three.stand_ins == {
        "model.vision": "google/siglip-so400m-patch14-384 -> siglip-nano (small)",
        "model.language": "mistralai/Mistral-7B-v0.1 -> llama-nano, quality good",
        "evaluation.benchmarks.vqav2.benchmark": "lmms-lab/VQAv2 -> offline_vqa",
        "data.mixture": "laion/laion-coco -> offline (composed pictures)",
    }
    assert three.scaled == {
        "model.connector.latents": "64 -> 8",
        "stages.pretrain.steps": "6000 -> 30",
        "stages.pretrain.batch_size": "16 -> 4",
    }
    assert one.paper_config.model.vision.id == "google/siglip-so400m-patch14-384"


TUNED = """
tuned:
  - when: {model.connector.name: perceiver, model.connector.depth: [1, 2]}
    set: {stages.*.learning_rate: 0.5, stages.*.learning_rates.vision: 0.25}
"""


def test_what_is_tuned_reaches_the_arms_of_its_kind_and_makes_them_no_less_alike(write: Write) -> None:
    loaded = load_experiment(write(scale=SCALE + TUNED), scale="tiny")
    rates = {name: arm.config.last_stage for name, arm in loaded.arms.items()}
    assert (rates["one"].learning_rate, rates["one"].learning_rates.vision) == (0.5, 0.25)
    assert rates["three"] == load_experiment(write(), scale="tiny").arms["three"].config.last_stage
    assert loaded.arms["one"].scaled["stages.pretrain.learning_rate"] == "0.0001 -> 0.5"
    assert loaded.warnings == []


def test_what_is_tuned_for_a_kind_of_stage_reaches_each_by_itself(write: Write) -> None:
    tuned = """
tuned:
  - when: {stages.*.learning_rate: 1.0e-5, model.connector.depth: 1}
    set: {stages.*.weight_decay: 0.5}
"""
    short = "pretrain: {steps: 6000, batch_size: 16}\n  finetune: {steps: 6000, batch_size: 16, learning_rate: 1.0e-5}"
    file = write(("pretrain: {steps: 6000, batch_size: 16}", short), scale=SCALE + tuned)
    decay = {
        arm: {stage: c.weight_decay for stage, c in run.config.stages.items()}
        for arm, run in load_experiment(file, scale="tiny").arms.items()
    }
    assert decay == {"one": {"pretrain": 0.0, "finetune": 0.5}, "three": {"pretrain": 0.0, "finetune": 0.0}}


def test_a_scale_reaches_fields_that_stand_at_the_default_they_joined_with(write: Write) -> None:
    values = "  data.packing: {none: rows}\n  stages.*.learning_rates.vision: {null: 0.5}\noverrides:"
    tuned = "tuned: [{when: {stages.*.trained_layers.language: null}, set: {stages.*.weight_decay: 0.25}}]\n"
    loaded = load_experiment(write(scale=SCALE.replace("overrides:", values) + tuned), scale="tiny")
    for arm in loaded.arms.values():
        stage = arm.config.last_stage
        assert (stage.data.packing, stage.learning_rates.vision, stage.weight_decay) == ("rows", 0.5, 0.25)
        assert arm.scaled["data.packing"] == "none -> rows"


@pytest.mark.parametrize("asked", ["lora.alpha: 16", "weight_decay: 0", "lora.r: 64.0", "gradient_clip: [2, 1]"])
def test_what_is_tuned_for_a_number_is_so_however_it_is_written(write: Write, asked: str) -> None:
    tuned = f"tuned:\n  - {{when: {{stages.*.{asked}}}, set: {{stages.*.learning_rate: 0.5}}}}\n"
    loaded = load_experiment(write(scale=SCALE + tuned), scale="tiny")
    assert {arm.config.last_stage.learning_rate for arm in loaded.arms.values()} == {0.5}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("stages.*.learning_rate:", "model.connector.depth:"), "how an arm is trained is tuned, not what it is"),
        (("model.connector.name:", "modell.connector.name:"), "is not below `model` or `stages`"),
        (("stages.*.learning_rate:", "stages.*.learning_rat:"), "learning_rate"),
    ],
)
def test_what_is_tuned_wrongly_is_told(write: Write, edit: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_experiment(write(scale=SCALE + TUNED.replace(*edit)), scale="tiny")


def test_a_stand_in_may_be_for_a_part_with_certain_values(write: Write) -> None:
    scale = (
        SCALE
        + "sources:\n"
        + "".join(
            f"  laion/laion-coco{asked}: {{use: {{name: offline, rows: {rows}}}}}\n"
            for asked, rows in (("", 1), ("[text=TEXT]", 2), ("[text=TEXT,image=URL]", 3))
        )
    )
    scale = scale.replace("  data: {mixture: {replace: true, offline: {source: offline}}}\n", "")
    for source, rows in (("", 1), (", text: TEXT", 2), (", text: TEXT, image: URL", 3)):
        file = write(("id: laion/laion-coco", f"id: laion/laion-coco{source}"), scale=scale)
        (entry,) = load_experiment(file, scale="tiny").base.last_stage.data.mixture.values()
        assert entry.source.rows == rows


def test_an_experiment_may_say_what_it_needs_at_a_scale(write: Write) -> None:
    own = "\nscales:\n  tiny: {values: {model.connector.latents: {64: 9}}, overrides: {stages: {'*': {steps: 5}}}}\n"
    base = load_experiment(write(("\ntable:", own + "table:")), scale="tiny").base
    assert (base.model.connector.latents, base.last_stage.steps, base.last_stage.batch_size) == (9, 5, 4)
    paper = load_experiment(write(("\ntable:", own + "table:")), scale="paper").base
    assert (paper.model.connector.latents, paper.last_stage.steps) == (64, 6000)


def test_what_an_experiment_says_wrongly_of_a_scale_is_told_where_it_stands(write: Write) -> None:
    own = "\nscales:\n  tiny:\n    valuess: {model.connector.latents: {64: 9}}\n"
    with pytest.raises(ConfigError, match=r"demo\.yaml:\d+: valuess: unknown key \(did you mean 'values'"):
        load_experiment(write(("\ntable:", own + "table:")), scale="tiny")


TWO_STAGES = ("  pretrain: {", "  sft: {steps: 20, batch_size: 16}\n  pretrain: {")


def test_a_stage_that_is_null_is_left_out(write: Write) -> None:
    def stages(*edits: tuple[str, str]) -> dict[str, list[str]]:
        arms = load_experiment(write(TWO_STAGES, *edits), scale="tiny").arms
        return {name: list(arm.config.stages) for name, arm in arms.items()}

    assert stages() == {"one": ["sft", "pretrain"], "three": ["sft", "pretrain"]}
    assert stages(("{model.connector.depth: 1}", "{stages.sft: null}")) == {
        "one": ["pretrain"],
        "three": ["sft", "pretrain"],
    }
    assert stages(("sft: {steps: 20, batch_size: 16}", "sft: null")) == {"one": ["pretrain"], "three": ["pretrain"]}


def test_fields_of_a_stage_that_is_not_there_are_told_as_such(write: Write) -> None:
    """And not as fields that the scale forgot."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(), scale="tiny", sets=["stages.pretain.learning_rate=1"])
    (found,) = caught.value.problems
    assert (found.file, found.path) == ("--set stages.pretain.learning_rate=1", "stages.pretain")
    assert found.message == "there is no stage 'pretain'; known: pretrain" and found.nearest == "pretrain"
    without = write(TWO_STAGES, ("{model.connector.depth: 1}", "{stages.sft: null}"))
    with pytest.raises(ConfigError) as caught:
        load_experiment(without, scale="tiny", sets=["stages.sft.learning_rate=1"])
    (found,) = caught.value.problems
    assert found.message == "does not fit one: there is no stage 'sft'; known: pretrain"
    assert caught.value.hint == "--arms restricts a setting to the arms that it fits: --arms three"
    whole = ["stages.new.steps=3", "stages.new.batch_size=2"]
    assert "new" in load_experiment(write(), scale="tiny", sets=whole).arms["one"].config.stages


def test_a_stage_that_is_left_out_must_be_there(write: Write) -> None:
    """A name that is spelled wrongly would leave the stage where it is, without a word."""
    misspelled = write(TWO_STAGES, ("{model.connector.depth: 1}", "{stages.sftt: null}"))
    with pytest.raises(ConfigError, match="there is no stage 'sftt' to leave out; known: sft, pretrain") as caught:
        load_experiment(misspelled, scale="tiny")
    (found,) = caught.value.problems
    assert found.path == "arms.one.set.stages.sftt" and found.nearest == "sft"
    one_has_it = write(TWO_STAGES, ("{model.connector.depth: 1}", "{stages.more: {steps: 1, batch_size: 1}}"))
    assert load_experiment(one_has_it, scale="tiny", sets=["stages.more=null"])
    with pytest.raises(ConfigError, match="there is no stage 'pretrian' to leave out") as caught:
        load_experiment(write(), scale="tiny", sets=["stages.pretrian=null"])
    assert caught.value.problems[0].file == "--set stages.pretrian=null"


def test_other_numbers_of_steps_are_a_warning_unless_stages_are_what_is_compared(write: Write) -> None:
    without = ("{model.connector.depth: 1}", "{stages.sft: null}")
    found = load_experiment(write(TWO_STAGES, without), scale="tiny").warnings
    assert any("optimiser steps" in warning for warning in found)
    meant = ("factor: [model.connector.depth]", "factor: [stages]")
    assert load_experiment(write(TWO_STAGES, without, meant), scale="tiny").warnings == []


def test_a_value_that_is_set_back_to_the_papers_is_not_scaled(write: Write) -> None:
    sets = ["model.connector.latents=64", "stages.*.steps=7"]
    three = load_experiment(write(), scale="tiny", sets=sets).arms["three"]
    assert three.scaled == {"stages.pretrain.steps": "6000 -> 7", "stages.pretrain.batch_size": "16 -> 4"}


def test_settings_win_over_the_scale(write: Write) -> None:
    loaded = load_experiment(write(), scale="tiny", sets=["stages.*.steps=7", "model.connector.latents=3", "seeds=[5]"])
    for arm in loaded.arms.values():
        assert arm.config.stages["pretrain"].steps == 7
        assert arm.config.model.connector.latents == 3
    assert {spec.seed for spec in specs_of(loaded)} == {5}


def test_part_without_stand_in_is_warned_about(write: Write) -> None:
    loaded = load_experiment(write(("google/siglip-so400m-patch14-384", "openai/clip")), scale="tiny")
    assert loaded.warnings == ["scale 'tiny' has no stand-in for model.vision: openai/clip; it is used as written"]


def test_nothing_stands_in_for_a_folder_of_one_s_own(write: Write, tmp_path: Path) -> None:
    for id in (str(tmp_path / "questions"), "./questions", "~/questions", "data/my/questions"):
        file = write(
            ("{benchmark: vqav2}", f"{{benchmark: {{name: vqav2, id: {id}}}}}"), ("mistralai/Mistral-7B-v0.1", id)
        )
        loaded = load_experiment(file, scale="tiny")
        assert loaded.arms["one"].config.evaluation.benchmarks["vqav2"].benchmark.id == id
        assert loaded.arms["one"].config.model.language.id == id and not loaded.warnings


def test_specs_come_seed_by_seed_with_shared_data_seeds(write: Write) -> None:
    specs = specs_of(load_experiment(write(), scale="tiny"))
    assert [(s.arm, s.seed) for s in specs] == [("one", 0), ("three", 0), ("one", 1), ("three", 1)]
    assert specs[0].seeds == specs[1].seeds != specs[2].seeds
    assert len({s.id for s in specs}) == len({s.stage_keys[-1].key for s in specs}) == 4
    assert specs[0].run_name == "one · seed 0 · tiny"
    assert (specs[0].paper, specs[0].cell) == ("idefics2_t12", {"perceiver_layers": 1})


def test_seeds_of_one_number_are_separate_streams() -> None:
    values = [v for n in range(50) for v in seeds_from(n).model_dump().values()]
    assert len(set(values)) == 150 and all(0 <= v < 2**31 for v in values)


def test_spec_survives_the_way_to_another_process(write: Write) -> None:
    import json

    for spec in specs_of(load_experiment(write(), scale="tiny")):
        copy = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert copy == spec and copy.id == spec.id


def test_labels_decide_nothing(write: Write) -> None:
    plain = specs_of(load_experiment(write(), scale="tiny"))[0]
    named = specs_of(load_experiment(write(("one: {", "one: {label: One layer, ")), scale="tiny"))[0]
    assert named.label == "One layer" and named.id == plain.id and named.stage_keys == plain.stage_keys
