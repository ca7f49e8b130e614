"""What a user can write wrong: each gives one message that names the file, the path and the nearest valid thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import ConfigError, UnknownNameError
from vlm_ablate.runs.spec import specs_of

from .conftest import SCALE

Write = Callable[..., Path]


def problems(file: Path, scale: str = "tiny", sets: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, scale=scale, sets=sets)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


GOLDEN = [
    pytest.param(
        ("steps: 6000", "stpes: 6000"),
        ["experiments/demo.yaml:15: stages.pretrain.steps: is missing",
         "experiments/demo.yaml:15: stages.pretrain.stpes: unknown key (did you mean 'steps'?)"],
        id="unknown key",
    ),
    pytest.param(
        ("depth: 3}", "dept: 3}"),
        ["experiments/demo.yaml:9: model.connector.dept: unknown key (did you mean 'depth'?)"],
        id="unknown key of a part",
    ),
    pytest.param(
        ("title:", "tilte:"),
        ["experiments/demo.yaml: title: is missing",
         "experiments/demo.yaml:2: tilte: unknown key (did you mean 'title'?)"],
        id="unknown key at the top",
    ),
    pytest.param(
        ("steps: 6000", "steps: many"),
        ["experiments/demo.yaml:15: stages.pretrain.steps: must be a whole number, not 'many'"],
        id="wrong type",
    ),
    pytest.param(
        ("batch_size: 16", "batch_size: 0"),
        ["experiments/demo.yaml:15: stages.pretrain.batch_size: must be greater than 0, not 0"],
        id="out of range",
    ),
    pytest.param(
        ("name: perceiver", "name: percever"),
        ["experiments/demo.yaml:9: model.connector: unknown connector 'percever'; known: linear, mapping_network, mlp, "
         "perceiver, pixel_shuffle (did you mean 'perceiver'?)"],
        id="unknown part",
    ),
    pytest.param(
        ("architecture: autoregressive", "architecture: {gate: scalar}"),
        ["experiments/demo.yaml:10: model.architecture: must be a mapping with a `name`, one of: "
         "autoregressive, cross_attention"],
        id="part without a name",
    ),
    pytest.param(
        ("connector: {name: perceiver, latents: 64, depth: 3}", "connector: {name: [perceiver]}"),
        ["experiments/demo.yaml:9: model.connector: must be a mapping with a `name`, one of: linear, "
         "mapping_network, mlp, perceiver, pixel_shuffle"],
        id="part whose name is a list",
    ),
    pytest.param(
        ("batch_size: 16", "batch_size: 16, vision: lorra"),
        ["experiments/demo.yaml:15: stages.pretrain.vision: must be one of frozen, lora, dora, full, not 'lorra' "
         "(did you mean 'lora'?)"],
        id="unknown choice",
    ),
    pytest.param(
        ("    vqav2: {benchmark", "    mean: {benchmark"),
        ['experiments/demo.yaml:16: evaluation: no column can have the name "mean": so the mean of all columns is '
         'called'],
        id="a column called mean",
    ),
    pytest.param(
        ("    vqav2: {benchmark", "    vqa (2): {benchmark"),
        ["experiments/demo.yaml:16: evaluation: column 'vqa (2)': a name cannot end in (blind) or in a number in "
         "brackets"],
        id="a column called as answers are",
    ),
    pytest.param(
        ("evaluation:\n", "execution: {micro_batch_size: 5}\nevaluation:\n"),
        ["experiments/demo.yaml:16: execution.micro_batch_size: 5 does not divide batch_size 16 of stage 'pretrain'"],
        id="values that do not fit",
    ),
    pytest.param(
        ("key: idefics2_t12", "key: idefic2_t12"),
        ["experiments/demo.yaml:3: paper.key: no table 'idefic2_t12' in the paper files "
         "(did you mean 'idefics2_t12'?)"],
        id="unknown paper table",
    ),
    pytest.param(
        ("perceiver_layers: 1}", "perceiver_layers: 2}"),
        ["experiments/demo.yaml:20: arms.one.cell: Table 12, appendix (idefics2_t12) has no row perceiver_layers: 2 "
         "(did you mean 'perceiver_layers: 3'?)"],
        id="cell that does not exist",
    ),
    pytest.param(
        ("{perceiver_layers: 1}", "{perceiver_layer: 1}"),
        ["experiments/demo.yaml:20: arms.one.cell.perceiver_layer: Table 12, appendix (idefics2_t12) has no column "
         "'perceiver_layer'; it has perceiver_layers, avg_score (did you mean 'perceiver_layers'?)"],
        id="column that does not exist",
    ),
    pytest.param(
        ("worse: three", "worse: tree"),
        ["experiments/demo.yaml:24: table.claims[0].worse: no arm 'tree'; the arms are one, three "
         "(did you mean 'three'?)"],
        id="claim about a missing arm",
    ),
    pytest.param(
        ("better: one, worse: three, relation: similar", "order: [one, tree]"),
        ["experiments/demo.yaml:24: table.claims[0].order[1]: no arm 'tree'; the arms are one, three "
         "(did you mean 'three'?)"],
        id="order with a missing arm",
    ),
    pytest.param(
        ("better: one, worse: three, relation: similar", "better: one"),
        ["experiments/demo.yaml:24: table.claims[0]: a claim has `better` and `worse`, or `order`: two arms or more, "
         "the best first"],
        id="half a claim",
    ),
    pytest.param(
        ("better: one, worse: three, relation: similar", "order: [one, one]"),
        ["experiments/demo.yaml:24: table.claims[0].order: two different arms or more, the best first"],
        id="order of one arm",
    ),
    pytest.param(
        ("table:\n", "table:\n  paired: {vqav2: vqa}\n"),
        ["experiments/demo.yaml:23: table.paired.vqav2: the paper's table has no column 'vqa'; it has "
         "perceiver_layers, avg_score"],
        id="our column beside one that the paper does not have",
    ),
    pytest.param(
        ("relation: similar", "metric: vqa"),
        ["experiments/demo.yaml:24: table.claims[0].metric: no column 'vqa'; the columns are mean, vqav2 "
         "(did you mean 'vqav2'?)"],
        id="claim about a missing column",
    ),
    pytest.param(
        ("model.connector.depth: 1", "model.connector.deep: 1"),
        ["experiments/demo.yaml:20: arms.one.set.model.connector.deep: unknown key (did you mean 'depth'?)"],
        id="arm with an unknown key",
    ),
    pytest.param(
        ("factor: [model.connector.depth]", "factor: [modle.connector]"),
        ["experiments/demo.yaml:4: factor[0]: 'modle.connector' is no field of a run; they start with model, data, "
         "stages, evaluation, execution (did you mean 'model'?)"],
        id="factor that is no field",
    ),
    pytest.param(
        ("factor: [model.connector.depth]", "factor: [model.connector.dpeth]"),
        ["experiments/demo.yaml:4: factor[0]: 'model.connector.dpeth' is no field of a run: 'dpeth' is unknown (did "
         "you mean 'depth'?)"],
        id="factor that is no field of the part",
    ),
    pytest.param(
        ("seeds: [0, 1]", "seeds: [0, 1, 0]"),
        ["experiments/demo.yaml:5: seeds: 0 is there twice; each seed is one run"],
        id="seed that is there twice",
    ),
    pytest.param(
        ("arms:", "scales: {tyni: {values: {model.connector.latents: {64: 4}}}}\narms:"),
        ["experiments/demo.yaml:19: scales.tyni: no scale 'tyni'; known: gpu, laptop, paper, tiny, workstation (did "
         "you mean 'tiny'?)"],
        id="scale that there is not",
    ),
    pytest.param(
        ("relation: similar", "relation: similar, untested: {tyni: alike}"),
        ["experiments/demo.yaml:24: table.claims[0].untested.tyni: no scale 'tyni'; known: gpu, laptop, paper, tiny, "
         "workstation (did you mean 'tiny'?)"],
        id="claim untested at a scale that there is not",
    ),
    pytest.param(
        ("table:\n", "table:\n  paired: {vqav3: avg_score}\n"),
        ["experiments/demo.yaml:23: table.paired.vqav3: no column 'vqav3'; the columns are vqav2 (did you mean "
         "'vqav2'?)"],
        id="column beside the paper's that there is not",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "expected"), GOLDEN)
def test_one_mistake_gives_its_message(write: Write, edit: tuple[str, str], expected: list[str]) -> None:
    assert sorted(problems(write(edit))) == sorted(expected)


def test_all_mistakes_are_reported_at_once(write: Write) -> None:
    file = write(
        ("name: perceiver", "name: percever"), ("steps: 6000", "steps: many"), ("worse: three", "worse: tree"),
        ("perceiver_layers: 1}", "perceiver_layers: 2}"), ("title:", "tilte:"), ("benchmark: vqav2", "benchmark: vqa2"),
    )  # fmt: skip
    found = "\n".join(problems(file))
    for part in (
        "title",
        "model.connector",
        "stages.pretrain.steps",
        "claims[0].worse",
        "arms.one.cell",
        "benchmarks.vqav2",
    ):
        assert part in found
    assert found.count("percever") == 1, "a mistake of the base is not repeated for every arm"


def test_yaml_that_does_not_parse_names_line_and_column(write: Write) -> None:
    (found,) = problems(write(("title: Depth", "title: [Depth")))
    assert found.startswith("experiments/demo.yaml:3:6: not valid YAML: ")


def test_key_written_twice(write: Write) -> None:
    (found,) = problems(write(("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]")))
    assert found == "experiments/demo.yaml:6: seeds: key 'seeds' is written twice (first on line 5)"


@pytest.mark.parametrize(("text", "what"), [("", "nothing"), ("- a\n", "a list"), ("hello\n", "a str")])
def test_file_that_is_no_mapping(write: Write, text: str, what: str) -> None:
    assert problems(write(text=text)) == [f"experiments/demo.yaml: holds {what}, not a mapping of keys"]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (("pretrain: {steps", "1: {steps"), "15: stages[1]: the key 1 is read as a number; put it in quotes"),
        (("vqav2: {", "yes: {}\n    null: {"), "19: evaluation.benchmarks.None: the key None is read as nothing; put"),
        (("seeds: [0, 1]", "1.5: [0, 1]"), "1.5: the key 1.5 is read as a number; put it in quotes"),
    ],
)
def test_a_key_that_is_no_text(write: Write, edit: tuple[str, str], told: str) -> None:
    assert any(told in problem for problem in problems(write(edit)))


def test_a_name_with_a_dot_is_shown_as_it_is(write: Write) -> None:
    file = write(("one: {cell: {perceiver_layers: 1}, set: {model.connector.depth: 1}}",
                  "v1.5: {set: {model.connector.dpth: 1}}"), ("better: one", "better: v1.5"))  # fmt: skip
    (found,) = problems(file)
    assert found.endswith(": arms.v1.5.set.model.connector.dpth: unknown key (did you mean 'depth'?)")


def test_file_that_is_no_text(write: Write) -> None:
    file = write()
    file.write_bytes(b"name: \xff\xfe")
    assert problems(file) == ["experiments/demo.yaml: cannot be read: not UTF-8 text"]


def test_missing_file_lists_what_exists(write: Write) -> None:
    write()
    with pytest.raises(UnknownNameError, match=r"demoo.*\n.*did you mean 'experiments/demo.yaml'"):
        load_experiment("experiments/demoo.yaml", scale="tiny")


def test_unknown_scale(write: Write) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown scale 'tinny'\n.*did you mean 'tiny'\? known: .*paper, tiny"):
        load_experiment(write(), scale="tinny")


def test_unknown_arm(write: Write) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown arm 'two'.*\n.*known: one, three"):
        specs_of(load_experiment(write(), scale="tiny"), arms=["two"])
    with pytest.raises(UnknownNameError, match=r"unknown arm 'tree'\n.*did you mean 'three'\? known: one, three"):
        load_experiment(write(), scale="tiny", sets=["model.connector.no_such_key=1"], arms=["one", "tree"])


def test_arms_of_a_file_that_has_none(write: Write) -> None:
    file = write(("arms:\n  one: {cell", "arms: none\nother:\n  one: {cell"))
    with pytest.raises(ConfigError, match="arms: must be a mapping"):
        load_experiment(file, scale="tiny", arms=["one"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.connector.latent=3", "model.connector.latent: unknown key (did you mean 'latents'?)"),
        ("stages.pretrain.steps=x", "stages.pretrain.steps: must be a whole number, not 'x'"),
        ("stages.*.steps=0", "stages.pretrain.steps: must be greater than 0, not 0"),
        ("stages.pretrain.steps", "write it as path.to.key=value"),
        ("=3", "write it as path.to.key=value"),
        ("seeds=[", "not valid YAML"),
        ("seed=[0]", "seed: unknown key (did you mean 'seeds'?)"),
        ("arms.oen.set.model.connector.latents=8", "no arm 'oen' in the file (did you mean 'one'?)"),
        ("scales.tiny.overrides.stages.pretrain.steps=8", "what a scale says stands in files; set the field"),
        ("stages.pretrain.steps=\udcff", "not UTF-8 text"),
        ("execution.stages.*.micro_batch_size=2", "execution.stages.*.micro_batch_size: nothing is there that `*`"),
        ("stages.*.data.climb.*=64", "stages.*.data.climb.*: nothing is there that `*` could stand for"),
    ],
)
def test_bad_setting_is_named(write: Write, setting: str, message: str) -> None:
    (found,) = problems(write(), sets=(setting,))
    assert found.startswith(f"--set {setting}")
    assert message in found


def test_a_star_may_stand_for_nothing_where_the_section_is_set_too(write: Write) -> None:
    sets = ("execution.micro_batch_size=2", "execution.stages.*.micro_batch_size=2")
    assert load_experiment(write(), scale="tiny", sets=sets).base.execution.micro_batch_size == 2


def test_setting_that_fits_some_arms_only_names_the_others(write: Write) -> None:
    file = write(("set: {model.connector.depth: 1}", "set: {model.connector: linear}"))
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, scale="tiny", sets=("model.connector.latents=4",))
    (found,) = caught.value.problems
    assert str(found).startswith("--set model.connector.latents=4: model.connector.latents: does not fit one: unknown")
    assert caught.value.hint == "--arms restricts a setting to the arms that it fits: --arms three"


def test_setting_that_fits_no_arm_names_none(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(), scale="tiny", sets=("model.connector.latents=none",))
    assert "does not fit" not in str(caught.value) and caught.value.hint is None


def test_value_that_a_setting_makes_unfit_is_the_settings(write: Write) -> None:
    (found,) = problems(write(), sets=("execution.micro_batch_size=3",))
    assert found.startswith("--set execution.micro_batch_size=3: execution.micro_batch_size: 3 does not")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            ("note: composed", "nota: composed"),
            "experiments/scales/tiny.yaml:14: nota: unknown key (did you mean 'note'?)",
        ),
        (("{64: 8}", "{64: zero}"), "values"),
        (("batch_size: 4", "batch_size: four"), "stages.pretrain.batch_size: must be a whole number, not 'four'"),
        (("name: llama-nano", "name: lama-nano"), "unknown language model 'lama-nano'"),
    ],
)
def test_mistake_in_a_scale_names_the_scale_file(write: Write, edit: tuple[str, str], message: str) -> None:
    found = problems(write(scale=SCALE.replace(*edit)))
    assert all(p.startswith("experiments/scales/tiny.yaml") for p in found), found
    assert message in found[0] or message == "values"


def test_plugin_that_cannot_be_imported(write: Write) -> None:
    (found,) = problems(write(("seeds: [0, 1]", "plugins: [no_such_module]")))
    assert found.startswith("experiments/demo.yaml: plugins[0]: cannot import 'no_such_module': No module named")
    assert "no no_such_module.py is in" in found


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("5", "plugins: must be a list of modules, like [my.parts], not 5"),
        ("json", "plugins: must be a list of modules, like [my.parts], not 'json'"),
        ("{json: 1}", "plugins: must be a list of modules, like [my.parts], not {'json': 1}"),
        ("[[json]]", "plugins[0]: ['json'] is not the name of a module, like my.parts"),
        ("[json, 5]", "plugins[1]: 5 is not the name of a module, like my.parts"),
    ],
)
def test_plugins_that_are_no_names(write: Write, written: str, told: str) -> None:
    assert problems(write(("seeds: [0, 1]", f"plugins: {written}"))) == [f"experiments/demo.yaml: {told}"]


def test_circle_of_bases(write: Write) -> None:
    write(text="base: b.yaml\n", name="a.yaml")
    file = write(text="base: a.yaml\n", name="b.yaml")
    (found,) = problems(file)
    assert "experiments/b.yaml -> experiments/a.yaml -> experiments/b.yaml" in found


def test_base_that_does_not_exist(write: Write) -> None:
    assert problems(write(text="base: gone.yaml\n")) == [
        "experiments/demo.yaml:1: base: no such file: experiments/gone.yaml"
    ]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            ("model.connector.latents", "model.conector.latents"),
            "9: values.model.conector.latents: 'model.conector.latents' is no field of a run: 'conector' is unknown "
            "(did you mean 'connector'?)",
        ),
        (
            ("model.connector.latents", "model.connector.latent"),
            "9: values.model.connector.latent: 'model.connector.latent' is no field of a run: 'latent' is unknown (did "
            "you mean 'latents'?)",
        ),
        (
            ("overrides:", "  data.image.sides: {384: 64}\noverrides:"),
            "11: values.data.image.sides: 'data.image.sides' is no field of a run: 'sides' is unknown (did you mean "
            "'size'?)",
        ),
        (
            ("note: composed", "tuned: [{when: {model.conector.name: mlp}, set: {stages.*.steps: 2}}]\nnote: composed"),
            "14: tuned[0].when.model.conector.name: 'model.conector.name' is no field of a run: 'conector' is unknown "
            "(did you mean 'connector'?)",
        ),
        (
            ("model.connector.latents: {64: 8}", "model.connector: {latents: {64: 8}}"),
            "9: values.model.connector: 'model.connector' is a mapping, which no value equals; write the dotted path "
            "of a field in it",
        ),
        (
            ("note: composed", "tuned: [{when: {stages.*.lora: {r: 64}}, set: {stages.*.steps: 2}}]\nnote: composed"),
            "14: tuned[0].when.stages.*.lora: 'stages.*.lora' is a mapping, which no value equals; write the dotted "
            "path of a field in it",
        ),
    ],
)
def test_a_path_of_a_scale_that_leads_nowhere_is_told(write: Write, edit: tuple[str, str], told: str) -> None:
    assert problems(write(scale=SCALE.replace(*edit))) == [f"experiments/scales/tiny.yaml:{told}"]


def test_a_scale_may_have_a_field_of_a_part_that_is_not_loaded(write: Write) -> None:
    file = write(scale=SCALE.replace("model.connector.latents", "model.connector.rank_of_mine"))
    assert load_experiment(file, scale="tiny").base.model.connector.latents == 64


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ("steps: many", "stages.pretrain.steps: must be a whole number, not 'many'"),
        ('"*": null', "stages: no stage: write one, or score a checkpoint as it is: model.init_from"),
        (None, "stages: must be a mapping of keys, not None"),
    ],
)
def test_what_a_scale_makes_of_stages_is_checked(write: Write, edit: str | None, told: str) -> None:
    """Also where images grow along a stage, whose steps the scale shortens."""
    climbing = ("data:\n", "data:\n  climb: {100: 224}\n  image: {size: 112}\n")
    stages = "stages: null" if edit is None else f"stages: {{{edit if '*' in edit else f'pretrain: {{{edit}}}'}}}"
    scale = SCALE.replace('stages: {"*": {batch_size: 4}}', stages)
    (problem,) = problems(write(climbing, scale=scale))
    assert problem.startswith("experiments/scales/tiny.yaml:") and problem.endswith(told)


def test_what_must_not_be_empty_is_told_in_words(write: Write) -> None:
    assert problems(write(), sets=("seeds=[]",)) == ["--set seeds=[]: seeds: must have at least 1, and has none"]


@pytest.mark.parametrize("sets", [(), ("data.mixture={}",)])
def test_an_empty_mapping_that_would_leave_all_that_is_there_is_told(write: Write, sets: tuple[str, ...]) -> None:
    told = "{} leaves all that is there; write {replace: true} for none, or null for a key to go"
    if sets:
        assert problems(write(), sets=sets) == [f"--set data.mixture={{}}: data.mixture: {told}"]
        return
    file = write(("set: {model.connector.depth: 1}", "set: {stages: {}, model.connector.depth: 1}"))
    assert problems(file) == [f"experiments/demo.yaml:20: arms.one.set.stages: {told}"]
    none = write(("set: {model.connector.depth: 1}", "set: {stages: {replace: true}, model.init_from: some/model}"))
    assert load_experiment(none, scale="paper").arms["one"].config.stages == {}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("size: 1000", "1000 px is no multiple of the tile of 364 px; write 728 or 1092"),
        ("tile: 300, size: 728", "728 px is no multiple of the tile of 300 px; write 600 or 900"),
    ],
)
def test_pictures_are_asked_at_sizes_that_tiles_fill(written: str, told: str, write: Write) -> None:
    trained = ("data:\n", "data:\n  image: {split: tiles, size: 1456, tile: 364}\n")
    section = ("evaluation:\n", f"evaluation:\n  image: {{{written}}}\n")
    assert problems(write(trained, section)) == [f"experiments/demo.yaml:18: evaluation.image.size: {told}"]
    own = ("{benchmark: vqav2}", f"{{benchmark: vqav2, image: {{{written}}}}}")
    at = "experiments/demo.yaml:19: evaluation.benchmarks.vqav2.image.size"
    assert problems(write(trained, own)) == [f"{at}: {told}"]
    setting = f"evaluation.image={{{written}}}"
    assert problems(write(trained), sets=(setting,))[0].endswith(f"evaluation.image.size: {told}")
    load_experiment(write(trained, ("{benchmark: vqav2}", "{benchmark: vqav2, image: {size: 1820}}")), scale="tiny")


def test_a_size_that_a_stage_is_too_short_to_climb_to_is_told(write: Write) -> None:
    climbing = write(("data:\n", "data:\n  climb: {0: 128, 3000: 256, 7000: 384}\n"))
    told = "stages.pretrain.data.climb.7000: images never grow to 384 px, for the stage ends after 6,000 steps"
    assert told in load_experiment(climbing, scale="paper").warnings
    assert any("stages.pretrain.data.climb.35: " in text for text in load_experiment(climbing, scale="tiny").warnings)
    reached = write(("data:\n", "data:\n  climb: {0: 128, 5999: 384}\n"))
    assert not [text for text in load_experiment(reached, scale="paper").warnings if "climb" in text]
