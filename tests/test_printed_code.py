"""The code of the pages for people with parts, models and data of their own: it runs as it is printed."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.models.conftest import llama, siglip  # noqa: F401 - fixtures
from vlm_ablate import registry
from vlm_ablate.accounting import plan_model
from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.evaluation.metrics import metrics
from vlm_ablate.testing import check_benchmark, check_source

DOCS = Path(__file__).parents[1] / "docs"
PLUG_INS = (DOCS / "how-to/plug-ins.md").read_text()
OWN = (DOCS / "how-to/own-data.md").read_text()
LAYOUTS = (DOCS / "reference/layouts.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PLUG_INS, re.DOTALL))
RECORDS = dict(re.findall(r"^### (\w+)\n.*?```json\n(.*?)```", LAYOUTS, re.DOTALL | re.MULTILINE))
KINDS = {"sources": registry.sources, "benchmarks": registry.benchmarks}


def yaml_block(page: str, containing: str) -> str:
    (found,) = [b for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if containing in b]
    return found


def with_id(kind: str) -> list[str]:
    """The parts of a kind that read files."""
    return [entry.name for entry in KINDS[kind] if "id" in entry.config.model_fields]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files, which nothing outside of the test sees."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    for each in registry.REGISTRIES:
        monkeypatch.setattr(each, "_entries", dict(each._entries))
    monkeypatch.setattr(metrics, "_targets", dict(metrics._targets))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_each_part_of_the_page_passes_the_check_that_stands_below_it(written: Path) -> None:
    parts = [name.removesuffix(".py") for name in FILES if not name.startswith("test_")]
    assert {f"test_{part}.py" for part in parts} == {name for name in FILES if name.startswith("test_")}
    registry.load_plugins(parts)
    for part in parts:
        space: dict[str, Any] = {}
        exec(compile(FILES[f"test_{part}.py"], f"test_{part}.py", "exec"), space)
        (check,) = [value for name, value in space.items() if name.startswith("test_")]
        (written / part).mkdir()
        check(**({"tmp_path": written / part} if "tmp_path" in inspect.signature(check).parameters else {}))


def test_the_experiment_with_all_of_them_validates_and_plans(written: Path) -> None:
    (written / "parts.yaml").write_text(yaml_block(PLUG_INS, "name: mine/parts"))
    result = CliRunner().invoke(app, ["validate", "parts.yaml", "--scale", "paper"])
    assert result.exit_code == 0, result.output
    arms = load_experiment(written / "parts.yaml", scale="paper").arms
    tokens = {name: plan_model(arm.config).visual_tokens_per_image for name, arm in arms.items()}
    assert tokens == {"mean": 1, "mean_gain": 1, "each_patch": 16}


def test_the_smallest_file_validates_with_checkpoints_and_records_of_one_s_own(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record, question = re.findall(r"^(\{.*\})$", OWN, re.MULTILINE)
    for name, line in {"train.jsonl": record, "questions/report.jsonl": question}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(line + "\n")
        _draw(json.loads(line), (tmp_path / name).parent)
    text = yaml_block(OWN, "name: mine/first").replace("/data", str(tmp_path))
    for printed, made in {"/models/siglip-base": "siglip", "/models/my-llm": "llama"}.items():
        text = text.replace(printed, str(request.getfixturevalue(made)))
    (tmp_path / "first.yaml").write_text(text)
    for scale in ("paper", "laptop"):
        loaded = load_experiment(tmp_path / "first.yaml", scale=scale)
        config = loaded.arms["latents_64"].config
        assert not loaded.warnings and config.evaluation.benchmarks["mine"].benchmark.id == str(tmp_path / "questions")
    check_source(config.stages["pretrain"].data.mixture["mine"].source)
    check_benchmark(config.evaluation.benchmarks["mine"].benchmark)
    shown = CliRunner().invoke(app, ["data", "show", "first.yaml", "--scale", "paper"])
    assert shown.exit_code == 0 and " red " in shown.output, shown.output


def test_a_file_with_a_base_leaves_the_others_arms_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS.parent)
    text = yaml_block(OWN, "name: mine/second").replace("experiments/", f"{DOCS.parent}/experiments/")
    (tmp_path / "second.yaml").write_text(text)
    assert list(load_experiment(tmp_path / "second.yaml", scale="paper").arms) == ["frozen", "lora"]


def test_questions_of_one_s_own_are_asked_at_the_laptop_scale(tmp_path: Path) -> None:
    text = yaml_block(OWN, "name: mine/questions").replace("experiments/", f"{DOCS.parent}/experiments/")
    (tmp_path / "questions.yaml").write_text(text)
    config = load_experiment(tmp_path / "questions.yaml", scale="laptop").arms["few"].config
    assert config.evaluation.benchmarks["mine"].benchmark.id == "/data/questions"
    assert not config.evaluation.ceiling and config.evaluation.curve is None


def test_every_source_and_benchmark_that_reads_files_has_a_record_on_the_page() -> None:
    assert sorted(RECORDS) == sorted([*with_id("sources"), *with_id("benchmarks")])


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in with_id(kind)])
def test_the_record_of_the_page_is_read(kind: str, name: str, tmp_path: Path) -> None:
    records = [json.loads(line) for line in RECORDS[name].splitlines()]
    config = KINDS[kind][name].config
    if kind == "sources":
        (tmp_path / "train.jsonl").write_text(RECORDS[name])
        _draw(records, tmp_path)
        return check_source(config(id=str(tmp_path)))
    split = config.model_fields["splits"].default["report"]
    assert re.search(rf"^\|[^|]*`{name}`[^|]*\| `{split}`", LAYOUTS, re.MULTILINE), split
    (tmp_path / f"{split}.jsonl").write_text(RECORDS[name])
    _draw(records, tmp_path)
    check_benchmark(config(id=str(tmp_path)))


def _draw(value: Any, folder: Path) -> None:
    """Make the pictures that a record names."""
    if isinstance(value, str) and value.endswith((".png", ".jpg")):
        (folder / value).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (220, 20, 20)).save(folder / value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _draw(inner, folder)
