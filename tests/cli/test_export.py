"""`export` and `generate` as a person calls them, on runs of two steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from training.squares import STAGE, make_spec, save_parts
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.command import call, told
from tests.models.support import PERCEIVER, batch_of
from vlm_ablate.checkpoints import load_checkpoint
from vlm_ablate.errors import ModelError, StorageError, UnknownNameError
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.find import find_run, load_run
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.names import RunNotUsable
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.spec import RunSpec

LORA = {"train": STAGE | {"steps": 2, "language": "lora", "vision": "lora", "lora": {"r": 2, "alpha": 64.0}}}


def specs(parts: Path) -> list[RunSpec]:
    tuned = dict(stages=LORA, blind=False)
    return [
        make_spec(parts, arm="idefics2", connector=PERCEIVER, **tuned),
        make_spec(parts, arm="idefics3", connector="pixel_shuffle", **tuned),
        make_spec(parts, arm="crossing", architecture="cross_attention", **tuned),
        make_spec(parts, arm="frozen", connector=PERCEIVER, stages={"train": STAGE | {"steps": 2}}, blind=False),
        make_spec(parts, arm="frozen", connector=PERCEIVER, stages={"train": STAGE | {"steps": 2}}, seed=1),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> Home:
    """A home with finished runs of several assemblies."""
    folder = tmp_path_factory.mktemp("exports")
    save_parts(folder / "parts")
    home = Home(folder / "home").prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    for spec in specs(folder / "parts"):
        outcome = execute(spec, home=home)
        assert outcome.status == "finished", outcome.message
    return home


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), (220, 20, 20)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def copied(trained: Home, tmp_path: Path) -> Iterator[Home]:
    """The same home, to be damaged."""
    shutil.copytree(trained.root, tmp_path / "copied")
    yield Home(tmp_path / "copied")


@pytest.mark.parametrize(("arm", "cls"), [("idefics2", "Idefics2"), ("idefics3", "Idefics3")])
def test_an_export_is_the_run(arm: str, cls: str, trained: Home, photo: Path, tmp_path: Path) -> None:
    result = call("export", f"{arm} seed 0", tmp_path / "out", "--home", trained.root)
    assert result.exit_code == 0, result.output
    assert f"a {cls}ForConditionalGeneration" in result.stdout and "token ids equal, pixels equal" in result.stdout
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(images=[Image.open(photo)], text="<image>what colour", return_tensors="pt")
    vlm = load_run(find_run(arm, trained))
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, vlm.logits(batch_of(inputs)), rtol=1e-4, atol=1e-4)
    # The run, the folder and transformers answer alike.
    question = ("--image", photo, "what colour", "--max-new-tokens", "4")
    answers = [
        call("generate", arm, "--home", trained.root, *question).stdout,
        call("generate", tmp_path / "out", *question).stdout,
    ]
    assert answers[0] == answers[1] and answers[0].strip()
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o044, "others may read it"


def test_kept_adapters(trained: Home, tmp_path: Path) -> None:
    result = call("export", "idefics2/0", tmp_path / "out", "--keep-adapters", "--home", trained.root)
    assert result.exit_code == 0, result.output
    assert "the base weights do not contain them" in result.stdout and "token ids equal" in result.stdout
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    assert "PeftModel.from_pretrained" in (tmp_path / "out" / "README.md").read_text()
    result = call("export", "frozen seed 0", tmp_path / "none", "--keep-adapters", "--home", trained.root)
    assert result.exit_code == 1 and "has no adapters to keep" in told(result)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("keep", [(), ("--keep-adapters",)], ids=["merged", "kept"])
def test_an_assembly_without_a_class(keep: tuple[str, ...], trained: Home, photo: Path, tmp_path: Path) -> None:
    result = call("export", "crossing", tmp_path / "out", "--home", trained.root, *keep)
    assert result.exit_code == 0, result.output
    assert "transformers has no class for this model" in result.stdout and "load_checkpoint(" in result.stdout
    assert load_checkpoint(tmp_path / "out").architecture.config.name == "cross_attention"
    question = ("--image", photo, "--image", photo, "what colour", "--max-new-tokens", "4")
    answers = [call("generate", "crossing", "--home", trained.root, *question)]
    answers += [call("generate", tmp_path / "out", *question)]
    assert answers[0].exit_code == 0 and answers[0].stdout == answers[1].stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "load_checkpoint" in card and "'cross_attention' architecture" in card


def test_the_card_tells_the_run(trained: Home, tmp_path: Path) -> None:
    found = find_run("idefics2", trained)
    call("export", found.spec.id[:6], tmp_path / "out", "--home", trained.root)
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (found.spec.id, "init 0, data 0, dropout 0", "CC0-1.0", "exact_match", "2 steps of 4", "lora"):
        assert part in card, part


def test_demonstrations(trained: Home, photo: Path, tmp_path: Path) -> None:
    shots = tmp_path / "shots.jsonl"
    shots.write_text(json.dumps({"image": "photo.png", "question": "what colour", "answer": "red"}) + "\n\n")
    for run in ("crossing", "idefics2"):
        result = call("generate", run, "--home", trained.root, "--few-shot", shots, "--image", photo, "what colour")
        assert result.exit_code == 0, result.output
    call("export", "idefics2", tmp_path / "out", "--home", trained.root)
    result = call("generate", tmp_path / "out", "--few-shot", shots, "--image", photo, "what colour")
    assert result.exit_code == 0, result.output
    shots.write_text("{}\n")
    result = call("generate", "crossing", "--home", trained.root, "--few-shot", shots, "what colour")
    assert result.exit_code == 1 and "shots.jsonl:1 is no demonstration" in told(result)
    result = call("generate", "crossing", "--home", trained.root, "--image", tmp_path / "none.png", "what colour")
    assert result.exit_code == 1 and "none.png does not exist" in told(result)


@pytest.mark.parametrize("name", ["idefics2", "idefics2 · seed 0 · test", "idefics2 seed 0", "idefics2/0"])
def test_names_of_a_run(name: str, trained: Home) -> None:
    assert find_run(name, trained).spec.arm == "idefics2"


def test_ids_keys_and_folders_of_a_run(trained: Home) -> None:
    spec = find_run("frozen seed 1", trained).spec
    folder = run_folder(trained, spec.id).root
    for name in (spec.id, spec.id[:8], spec.stage_keys[-1].key, str(folder)):
        found = find_run(name, trained)
        assert found.spec == spec and found.record.scores


def test_runs_that_cannot_be_used(copied: Home) -> None:
    with pytest.raises(UnknownNameError, match="unknown run") as unknown:
        find_run("idefics22", copied)
    assert "did you mean 'idefics2 seed 0'" in unknown.value.hint
    with pytest.raises(RunNotUsable, match="'frozen' names 2 runs"):
        find_run("frozen", copied)
    found = find_run("frozen/0", copied)
    (stage,) = found.results.stages
    (stage.root / stage.outcome_name).unlink()
    with pytest.raises(RunNotUsable, match="has not ended yet") as unfinished:
        find_run("frozen/0", copied)
    assert "vlm-ablate run" in unfinished.value.hint
    note_attempt(found.spec, copied, "failed", "the disk is full")
    with pytest.raises(RunNotUsable, match="ended as failed: the disk is full; it has no trained model"):
        find_run("frozen/0", copied)
    stage.end({"status": "diverged", "message": "the loss is not finite"})
    with pytest.raises(RunNotUsable, match="ended as diverged: the loss is not finite; it has no trained model"):
        find_run("frozen/0", copied)


def test_weights_without_all_scores_are_a_model(copied: Home) -> None:
    found = find_run("frozen/0", copied)
    shutil.rmtree(found.results.stages[-1].scores)
    assert load_run(find_run("frozen/0", copied)).architecture.config.name == "autoregressive"


def test_deleted_weights(copied: Home) -> None:
    find_run("frozen/0", copied).weights.unlink()
    with pytest.raises(StorageError, match=r"the weights of 'frozen · seed 0 · test' are gone: .*weights\.safetensors"):
        find_run("frozen/0", copied)


def test_damaged_weights(copied: Home, tmp_path: Path) -> None:
    weights = find_run("idefics2", copied).weights
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelError, match="its checksum is not that of what was trained"):
        load_run(find_run("idefics2", copied))
    result = call("export", "idefics2", tmp_path / "out", "--home", copied.root)
    assert result.exit_code == 1 and "its checksum is not that of what was trained" in told(result)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


def test_folders_that_cannot_be_written(trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("export", "idefics2", "--home", trained.root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "full" / "model-00001-of-00002.safetensors").write_text("old")
    result = call(*command, tmp_path / "full")
    assert result.exit_code == 1 and "is not empty" in told(result) and "--force" in told(result)
    assert call(*command, tmp_path / "full", "--force").exit_code == 0
    names = {p.name for p in (tmp_path / "full").iterdir()}
    assert "model-00001-of-00002.safetensors" not in names and {"notes.txt", "model.safetensors"} <= names
    (tmp_path / "file").touch()
    result = call(*command, tmp_path / "file")
    assert result.exit_code == 1 and "is a file" in told(result)
    result = call(*command, tmp_path / "file" / "below")
    assert result.exit_code == 1 and "a file of that name is in the way" in told(result)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    result = call(*command, tmp_path / "new")
    assert result.exit_code == 1 and "the file system is read-only" in told(result)


def test_unknown_names_through_the_command(trained: Home, photo: Path, tmp_path: Path) -> None:
    result = call("export", "idefics4", tmp_path / "out", "--home", trained.root)
    assert result.exit_code == 2 and "did you mean" in told(result)
    result = call("generate", "idefics4", "--home", trained.root, "what colour")
    assert result.exit_code == 2 and "unknown run" in told(result)
    result = call("generate", "HuggingFaceM4/Idefics9", "--home", trained.root, "what colour")
    assert result.exit_code == 1 and "is not on this machine" in told(result) and "--allow-hub" in told(result)
    result = call("export", "idefics2", tmp_path / "out", "--home", trained.root, "--dtype", "int8")
    assert result.exit_code == 2 and "unknown dtype 'int8'" in told(result)
    (tmp_path / "empty").mkdir()
    result = call("generate", tmp_path / "empty", "what colour")
    assert result.exit_code == 1 and "holds no *.safetensors file" in told(result)


def test_half_precision(trained: Home, tmp_path: Path) -> None:
    result = call("export", "idefics2", tmp_path / "out", "--home", trained.root, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
