"""`evaluate`: a checkpoint is scored as a run is, once, and becomes a row of a table beside the paper's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from PIL import Image
from training.squares import STAGE, make_spec

from tests.checkpoints.test_parity import CASES, save_reference
from tests.command import call
from tests.models.support import PERCEIVER
from vlm_ablate.cli.evaluate import asked, fields, table_settings
from vlm_ablate.cli.records import build_report, recorded
from vlm_ablate.config.expand import EVALUATIONS, load_experiment
from vlm_ablate.errors import AssetMissing, ConfigError, ModelError, UnknownNameError
from vlm_ablate.home import Home
from vlm_ablate.runs.evaluated import with_evaluated
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.export import export_run
from vlm_ablate.runs.find import find_run
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.subject import subject_of
from vlm_ablate.tracking.read import read_records


@pytest.fixture
def squares(parts: Path, tmp_path: Path) -> Path:
    """A table of one trained arm, asked about squares."""
    spec = make_spec(parts, connector=PERCEIVER, stages={"train": STAGE | {"steps": 2}}, blind=False)
    body = spec.config.model_dump(mode="json", exclude={"execution"})
    file = tmp_path / "squares.yaml"
    told = {"name": spec.experiment, "title": "Squares", "plugins": ["training.squares"], "seeds": [0], **body}
    file.write_text(yaml.safe_dump(told | {"arms": {"mlp": {"label": "trained"}}}, sort_keys=False))
    return file


def ask(checkpoint: str | Path, table: Path, home: Home, sets: tuple[str, ...] = (), **options: Any) -> RunSpec:
    told = dict(image={}, precision="fp32", batch_size=None, name=None, label=None, row={}) | options
    return asked(str(checkpoint), home, table, "paper", sets, **told)[1]


def test_a_run_and_its_export_get_the_runs_own_score_and_stand_beside_it(
    squares: Path, tmp_path: Path, home: Home
) -> None:
    from vlm_ablate.runs.spec import specs_of

    (trained,) = specs_of(load_experiment(squares, scale="paper"))
    own = execute(trained, home=home)
    assert own.status == "finished", own.message
    export_run(find_run(trained.id, home), tmp_path / "exported")
    specs = [ask(tmp_path / "exported", squares, home, image={"size": 16}), ask("mlp seed 0", squares, home)]
    outcomes = [execute(spec, home=home) for spec in specs]
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"], outcomes
    assert [dict(outcome.scores) for outcome in outcomes] == [dict(own.scores)] * 2
    assert [outcome.trained for outcome in outcomes] == [(), ()], "nothing is trained"
    assert execute(specs[0], home=home).reused
    rows = with_evaluated(load_experiment(squares, scale="paper"), home)
    report = build_report(rows.loaded, recorded(rows.loaded, home))
    assert {row.arm for row in report.rows} == {"mlp", "exported", "mlp (evaluated)"} and not rows.left_out
    records = {record.arm: record for record in read_records(home.tracking_uri, trained.experiment)}
    assert json.loads(records["exported"].tags["vlm.init_from"])["type"] == "idefics2"
    assert find_results(specs[0], home).stages[0].root.parent == home.stages
    assert find_run("exported", home).spec == specs[0], "`generate` and `export` find it too"
    with pytest.raises(ConfigError, match="for views of at most 32 px, and the run 'mlp' trained one for"):
        ask("mlp seed 0", squares, home, image={"size": 32})


def test_a_checkpoint_is_scored_in_the_precision_of_the_table_that_names_none(
    squares: Path, tmp_path: Path, home: Home
) -> None:
    save_reference(CASES["idefics2"], tmp_path / "model")
    base = load_experiment(squares, scale="paper", sets=["stages.train.precision=bf16"]).base
    assert base.evaluation.precision is None and base.scoring_precision == "bf16"
    subject = subject_of(str(tmp_path / "model"), home)
    assert subject.config(base).scoring_precision == "bf16"
    assert subject.config(base, precision="fp32").scoring_precision == "fp32"


def test_another_checkpoint_in_the_same_folder_is_scored_anew(squares: Path, tmp_path: Path, home: Home) -> None:
    folder = tmp_path / "model"
    save_reference(CASES["idefics2"], folder)
    spec = ask(folder, squares, home)
    assert execute(spec, home=home).status == "finished"
    save_reference(CASES["idefics2-tied"], folder)
    assert not find_results(ask(folder, squares, home), home).stages


def copies(folder: Path) -> tuple[str, ...]:
    """Two benchmarks in their official schemas, and where they are as settings."""
    picture = Image.new("RGB", (60, 40), (200, 30, 30))
    text = [
        {"question_id": i, "image_id": i, "question": "What?", "answers": ["red"] * 10, "image": picture}
        for i in (1, 2)
    ]
    page = [
        {"questionId": str(i), "question": "Who?", "answers": ["A"], "ucsf_document_id": f"d{i}",
         "ucsf_document_page_no": "1", "image": picture} for i in (1, 2)
    ]  # fmt: skip
    for name, rows in (("textvqa", text), ("docvqa", page)):
        (folder / name).mkdir(parents=True)
        datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(
            folder / name / "validation.parquet"
        )
    return tuple(f"evaluation.benchmarks.{name}.benchmark.id={folder / name}" for name in ("textvqa", "docvqa"))


def test_a_checkpoint_becomes_a_row_of_the_papers_figure(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "mine"
    save_reference(CASES["idefics3"], folder)
    sets = [part for text in copies(tmp_path / "data") for part in ("--set", text)]
    result = call(
        "evaluate", folder, "--benchmarks", "textvqa,docvqa", "--limit", "2", "--image", "size=32", *sets,
        "--jobs", "1", "--home", home.root,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = result.stdout.splitlines()
    assert any(line.split()[:3] == ["docvqa", "report", "2"] for line in told), result.output
    (command,) = [line for line in told if line.startswith("the table: vlm-ablate ")]
    import shlex

    shown = call(*shlex.split(command)[3:])
    assert shown.exit_code == 0, shown.output
    assert "mine" in shown.stdout and "Idefics2-70B" in shown.stdout
    other = call("table", "figure5", "--scale", "paper", "--home", home.root)
    assert "asked" not in other.stdout and "left out: mine" in " ".join(other.output.split())


def test_packaged_tables_are_valid_and_ask_as_the_papers_do() -> None:
    files = sorted(EVALUATIONS.glob("*.yaml"))
    assert {file.stem for file in files} == {"figure5", "table8", "table9"}
    for file in files:
        loaded = load_experiment(file.stem, scale="paper")
        assert loaded.warnings == [] and loaded.experiment.name == f"evaluate/{file.stem}"
    figure = load_experiment("figure5", scale="paper").arms["idefics3_8b"].config.evaluation
    sizes = {name: figure.preparation(name).image.size for name in figure.benchmarks}
    assert sizes == {"mmmu": 1456, "mathvista": 1456, "mmstar": 1456, "docvqa": 1820, "textvqa": 1456}
    assert figure.shots == 0


def test_a_row_of_the_tables_own_file_is_asked_as_the_options_say(tmp_path: Path, home: Home) -> None:
    save_reference(CASES["idefics3"], tmp_path / "mine")
    body = yaml.safe_load((EVALUATIONS / "figure5.yaml").read_text())
    own = {f"model.{part}": str(tmp_path / "mine") for part in ("init_from", "vision.id", "language.id")}
    file = tmp_path / "table.yaml"
    image = {"split": "tiles", "tile": 32, "size": 64}
    body["evaluation"] |= {"image": image, "benchmarks": {"mmstar": {"benchmark": "mmstar"}}}
    file.write_text(yaml.safe_dump(body | {"arms": {"mine": {"set": own}}, "paper": None, "table": {}}))
    spec = ask(tmp_path / "mine", file, home, precision="auto", batch_size=3)
    assert spec.arm == "mine" and not spec.evaluated and spec.config.execution.evaluation_batch_size == 3
    assert spec.config.evaluation.precision == "bf16", "as the file has it"
    with pytest.raises(ConfigError, match=r"--image: sise: unknown key \(did you mean 'size'\?\)"):
        ask(tmp_path / "mine", file, home, image={"sise": 8})
    with pytest.raises(ConfigError, match="--image: size: must be a whole number, not 'abc'"):
        ask(tmp_path / "mine", file, home, image={"size": "abc"})
    with pytest.raises(ConfigError, match="50 px is no multiple of the tile of 32 px; write 32 or 64"):
        ask(tmp_path / "mine", file, home, image=image | {"size": 50})
    other = ask(tmp_path / "mine", file, home, precision="fp32")
    assert other.arm == "mine (evaluated)" and other.config.evaluation.precision == "fp32"


def test_benchmarks_that_the_table_lacks_are_added_and_the_others_left_out() -> None:
    sets = table_settings(Path("figure5"), "paper", [], "textvqa,chartqa", 5, None, "tune", None)
    evaluation = load_experiment("figure5", scale="paper", sets=sets).base.evaluation
    assert set(evaluation.benchmarks) == {"textvqa", "chartqa"}
    assert {(entry.limit, entry.split) for entry in evaluation.benchmarks.values()} == {(5, "tune")}


def test_shots_are_those_of_every_benchmark_also_of_one_that_says_its_own() -> None:
    own = ["evaluation.benchmarks.docvqa.shots=2"]
    for before in ([], own):
        sets = table_settings(Path("figure5"), "paper", before, "docvqa,textvqa,chartqa", None, 4, None, None)
        evaluation = load_experiment("figure5", scale="paper", sets=sets).base.evaluation
        assert {evaluation.shots if e.shots is None else e.shots for e in evaluation.benchmarks.values()} == {4}
    assert table_settings(Path("figure5"), "paper", [], None, None, 4, None, None) == ["evaluation.shots=4"]


def test_what_cannot_be_evaluated_is_told(squares: Path, parts: Path, home: Home) -> None:
    with pytest.raises(ModelError, match="is a 'llama' checkpoint; known"):
        ask(parts / "lm", squares, home)
    (parts / "bare").mkdir()
    (parts / "bare" / "config.json").write_text('{"model_type": "idefics3"}')
    with pytest.raises(AssetMissing, match=r"bare holds no \*\.safetensors file"):
        ask(parts / "bare", squares, home)
    with pytest.raises(UnknownNameError, match="figur5"):
        load_experiment("figur5", scale="paper")
    with pytest.raises(UnknownNameError, match="textvq'"):
        table_settings(Path("figure5"), "paper", [], "textvq", None, None, None, None)
    with pytest.raises(ConfigError, match="--image"):
        fields(["size"], "--image")
    without = yaml.safe_load(squares.read_text())
    squares.write_text(yaml.safe_dump({**without, "stages": {}}))
    with pytest.raises(ConfigError, match="no stage: write one, or score a checkpoint as it is"):
        load_experiment(squares, scale="paper")
