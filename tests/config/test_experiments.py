"""Every YAML that is shipped under experiments/ is valid at every scale."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from vlm_ablate.config.expand import LoadedExperiment, experiment_files, load_experiment
from vlm_ablate.config.json_schema import file_schema
from vlm_ablate.config.scales import read_scale, scale_files
from vlm_ablate.papers import find_row
from vlm_ablate.runs.spec import specs_of
from vlm_ablate.tracking.record_file import load_records

ROOT = Path(__file__).parents[2] / "experiments"
SCALES = scale_files(ROOT)
FILES = experiment_files(ROOT)


@cache
def at_scale(file: Path, scale: str) -> LoadedExperiment:
    return load_experiment(file, scale=scale)


def test_there_are_experiments_and_scales() -> None:
    assert FILES and {"paper", "gpu", "workstation", "laptop"} <= set(SCALES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_experiment_is_valid_and_fair(file: Path, scale: str) -> None:
    loaded = at_scale(file, scale)
    assert specs_of(loaded), "it expands to runs"
    assert loaded.warnings == []
    assert loaded.experiment.name == str(file.relative_to(ROOT).with_suffix(""))
    results = [tuple(key.key for key in spec.score_keys) for spec in specs_of(loaded, seeds=[0])]
    assert len(set(results)) == len(results), "a scale must not make two arms the same"


def test_the_list_of_experiments_says_what_the_files_say() -> None:
    rows = dict(re.findall(r"^\| \[\w+\]\((\S+)\) \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert rows.keys() == {str(file.relative_to(ROOT)) for file in FILES}
    for name, row in rows.items():
        experiment = at_scale(ROOT / name, "paper").experiment
        *_, question, arms, claims, _, _ = (cell.strip() for cell in row.split("|"))
        assert question == experiment.question or "(for `plan`)" in question, name
        assert (int(arms), int(claims or 0)) == (len(experiment.arms), len(experiment.table.claims)), name


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_results_that_are_shipped_are_of_the_experiment_as_it_is(file: Path) -> None:
    folder = ROOT.parent / "results" / file.relative_to(ROOT).with_suffix("")
    for records in folder.glob("*/records.json"):
        loaded = load_experiment(file, scale=records.parent.name)
        shown = load_records(records)
        ids = {spec.id for spec in specs_of(loaded, seeds=sorted({record.seed for record in shown.records}))}
        assert {record.id for record in shown.records} <= ids, "a new field of a model is `config.base.added`"
        assert shown.histories.keys() == {record.run_id for record in shown.records}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_claims_agree_with_the_papers_own_numbers(file: Path) -> None:
    experiment = at_scale(file, "paper").experiment
    for claim in experiment.table.claims:
        assert set(claim.untested) <= set(SCALES)
        if experiment.paper is None or claim.paper_gain is None or claim.metric != "mean":
            continue
        cells = [find_row(experiment.paper.key, experiment.arms[arm].cell) for arm in claim.arms]
        gain = cells[0][experiment.table.score] - cells[1][experiment.table.score]
        assert claim.paper_gain == pytest.approx(gain, abs=0.051), claim.text


@pytest.mark.parametrize("scale", ["laptop", "workstation"])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_pictures_are_composed_at_the_size_at_which_they_are_shown_or_enlarged(file: Path, scale: str) -> None:
    base = at_scale(file, scale).base
    parts = [entry.source for stage in base.stages.values() for entry in stage.data.mixture.values()]
    parts += [entry.benchmark for entry in base.evaluation.benchmarks.values()]
    (side,) = {part.side for part in parts if part.name.startswith("offline")}
    image = base.last_stage.data.image
    assert image.size + 16 >= side or image.split == "tiles", "at most a patch or so is lost"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_views_at_workstation_scale_are_whole_patches(file: Path) -> None:
    """Its encoder drops pixels that fill no patch; where encoders are compared, the others take any side."""
    for arm in at_scale(file, "workstation").arms.values():
        if arm.config.model.vision.name != "vit-s14":
            assert "model.vision" in at_scale(file, "workstation").experiment.factor
            continue
        sides = [side for image in arm.config.images() for side in (image.size, image.shortest, image.tile)]
        assert [side for side in sides if side is not None and side % 14] == []


def keys_at_laptop(name: str, arm: str) -> list[str]:
    """Keys of an arm's stages at laptop scale with seed 0."""
    specs = specs_of(at_scale(ROOT / f"{name}.yaml", "laptop"), seeds=[0])
    (spec,) = [spec for spec in specs if spec.arm == arm]
    return [key.key for key in spec.stage_keys]


@pytest.mark.parametrize(
    "same",
    [
        ["idefics2/t03_architecture ar_perceiver_frozen", "idefics2/t06_captions synthetic",
         "idefics2/t11_connector perceiver"],
        ["idefics2/t03_architecture cross_attention_frozen", "idefics2/t01_language_model mistral",
         "idefics2/t02_vision_encoder siglip"],
        ["idefics2/t03_architecture cross_attention_lora", "idefics2/f04_training cross_attention_lora"],
        ["idefics2/t03_architecture ar_perceiver_lora", "idefics2/f04_training ar_perceiver_lora",
         "idefics2/t04_visual_tokens tokens_64", "idefics2/t12_depth layers_3", "idefics2/t13_projection without_mlp",
         "idefics3/connector perceiver", "questions/vision_training lora", "questions/connector_parameters perceiver",
         "idefics2/t07_ocr_data high", "idefics3/t02_docmatix none", "questions/document_kinds both",
         "questions/unseen_script half"],
        ["idefics2/t04_visual_tokens tokens_128", "questions/connector_tokens perceiver"],
        ["idefics3/connector pixel_shuffle", "questions/connector_tokens pixel_shuffle"],
        ["idefics3/t02_docmatix fifth", "questions/document_amount fifth"],
        ["idefics2/t08_base_models idefics2_base", "idefics2/t15_splitting split", "idefics2/t15_splitting whole"],
        ["idefics3/stages all", "idefics3/stages without_sft", "idefics3/idefics3_8b idefics3_8b"],
    ],
    ids=lambda same: same[0],
)  # fmt: skip
def test_what_tables_share_is_trained_once(same: list[str]) -> None:
    """All of these arms begin with the same stages at laptop scale."""
    keys = [keys_at_laptop(*place.split()) for place in same]
    common = min(map(len, keys))
    assert len({tuple(found[:common]) for found in keys}) == 1


@pytest.mark.parametrize("name", SCALES)
def test_nothing_of_the_hub_is_left_at_scales_that_need_none(name: str) -> None:
    scale = read_scale(SCALES[name]).scale
    if name == "paper":
        assert not scale.vision and not scale.overrides
    if name in ("paper", "gpu"):
        return
    for file in FILES:
        for arm in at_scale(file, name).arms.values():
            assert not [p for p in json.dumps(arm.config.model_dump(mode="json")).split('"') if p.startswith("google/")]


def test_json_schema_knows_the_parts() -> None:
    schema = json.dumps(file_schema())
    for word in ("latents", "neftune_alpha", "siglip-native", "offline_vqa", "base"):
        assert f'"{word}"' in schema
    json.dumps(file_schema("scale"))
