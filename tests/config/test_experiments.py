"""Every YAML that is shipped under experiments/ is valid at every scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlm_ablate.config.expand import experiment_files, load_experiment
from vlm_ablate.config.json_schema import file_schema
from vlm_ablate.config.scales import read_scale, scale_files
from vlm_ablate.papers import find_row
from vlm_ablate.runs.spec import specs_of
from vlm_ablate.tracking.record_file import load_records

ROOT = Path(__file__).parents[2] / "experiments"
SCALES = scale_files(ROOT)
FILES = experiment_files(ROOT)


def test_there_are_experiments_and_scales() -> None:
    assert FILES and {"paper", "workstation", "laptop"} <= set(SCALES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_experiment_is_valid_and_fair(file: Path, scale: str) -> None:
    loaded = load_experiment(file, scale=scale)
    assert specs_of(loaded), "it expands to runs"
    assert loaded.warnings == []
    assert loaded.experiment.name == str(file.relative_to(ROOT).with_suffix(""))
    weights = [spec.stage_keys[-1].key for spec in specs_of(loaded, seeds=[0])]
    assert len(set(weights)) == len(weights), "a scale must not make two arms the same"


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
    experiment = load_experiment(file, scale="paper").experiment
    for claim in experiment.table.claims:
        if experiment.paper is None or claim.paper_gain is None or claim.metric != "mean":
            continue
        cells = [find_row(experiment.paper.key, experiment.arms[arm].cell) for arm in claim.arms]
        gain = cells[0][experiment.table.score] - cells[1][experiment.table.score]
        assert claim.paper_gain == pytest.approx(gain, abs=0.051), claim.text


@pytest.mark.parametrize("scale", ["laptop", "workstation"])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_pictures_are_composed_at_the_size_at_which_they_are_shown(file: Path, scale: str) -> None:
    base = load_experiment(file, scale=scale).base
    parts = [entry.source for stage in base.stages.values() for entry in stage.data.mixture.values()]
    parts += [entry.benchmark for entry in base.evaluation.benchmarks.values()]
    (side,) = {part.side for part in parts if part.name.startswith("offline")}
    patch = {"laptop": 1, "workstation": 14}[scale]
    image = base.last_stage.data.image
    assert image.size == (side // patch) * patch or image.split == "tiles"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_views_at_workstation_scale_are_whole_patches(file: Path) -> None:
    """Its encoder drops pixels that fill no patch."""
    for arm in load_experiment(file, scale="workstation").arms.values():
        assert arm.config.model.vision.name == "vit-s14"
        sides = [side for image in arm.config.images() for side in (image.size, image.shortest, image.tile)]
        assert [side for side in sides if side is not None and side % 14] == []


@pytest.mark.parametrize("name", SCALES)
def test_nothing_of_the_hub_is_left_below_paper_scale(name: str) -> None:
    scale = read_scale(SCALES[name]).scale
    if name == "paper":
        assert not scale.vision and not scale.overrides
        return
    for file in FILES:
        for arm in load_experiment(file, scale=name).arms.values():
            assert not [p for p in json.dumps(arm.config.model_dump(mode="json")).split('"') if p.startswith("google/")]


def test_json_schema_knows_the_parts() -> None:
    schema = json.dumps(file_schema())
    for word in ("latents", "neftune_alpha", "siglip-native", "offline_vqa", "base"):
        assert f'"{word}"' in schema
    json.dumps(file_schema("scale"))
