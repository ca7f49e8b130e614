"""Evaluation of a tiny real model: the same answers whatever the batch, resumed after a kill, blind without images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlm_ablate.config.data import DataConfig
from vlm_ablate.config.evaluation import BenchmarkEntry, Demonstrations, EvaluationConfig
from vlm_ablate.errors import DataError, StorageError
from vlm_ablate.evaluation.ask import Prompts
from vlm_ablate.evaluation.evaluate import Sharing, evaluate
from vlm_ablate.evaluation.features import VisualCache
from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.evaluation.prompts import build_prompt, get_template
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.models.vlm import VLM

from .conftest import Squares, SquaresConfig, tiny_vlm

HERE = Path(__file__).parent


def entry(**changes: object) -> BenchmarkEntry:
    return BenchmarkEntry.model_validate({"benchmark": "test_squares", **changes})


def config(**changes: object) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"benchmarks": {"squares": entry()}, "shots": 2, **changes})


def answers(path: Path) -> dict[str, str]:
    return {p.id: p.prediction for p in read_predictions(path)}


def test_record_says_how_it_was_made(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    seen = []
    record = evaluate(
        vlm, "squares", entry(limit=5), config(), data_config, blind=False, out=tmp_path / "p.jsonl",
        progress=lambda *p: seen.append(p),
    )
    assert (record.benchmark, record.column, record.split, record.shots) == ("test_squares", "squares", "report", 2)
    assert (record.items, record.template, record.scorer) == (5, "vqa/1+plain", "exact_match")
    assert seen[0] == (0, 5) and seen[-1] == (5, 5)
    assert ScoreRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    predictions = read_predictions(tmp_path / "p.jsonl")
    assert [p.id for p in predictions] == [f"report/{i}" for i in range(5)]
    assert all(len(p.shots) == 2 and p.score in (0.0, 1.0) for p in predictions)
    assert record.score == pytest.approx(20 * sum(p.score for p in predictions))


def test_prompts_beyond_the_positions_of_the_language_model_are_told(
    vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch, caplog
) -> None:
    lengths = []
    monkeypatch.setattr(Prompts, "layout", lambda *a, own=Prompts.layout: (lengths.append(own(*a)), lengths[-1])[1])

    def told(name: str, positions: int) -> list[str]:
        caplog.clear()
        monkeypatch.setattr(vlm.language.model.config, "max_position_embeddings", positions)
        out = tmp_path / name
        evaluate(vlm, "squares", entry(limit=5), config(), data_config, batch_size=2, blind=False, out=out)
        return [message for message in caplog.messages if "positions" in message]

    assert told("known", 4096) == []
    tokens = sorted(len(layout.input_ids) for layout in lengths)
    (message,) = told("told", tokens[2] + Squares.max_new_tokens)
    over = sum(length > tokens[2] for length in tokens)
    assert message.startswith(f"squares: {over} of 5 prompts are longer")
    assert f"the longest: {tokens[-1]} tokens" in message


def test_answers_do_not_depend_on_the_batch(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    for size in (1, 5, 32):
        evaluate(vlm, "s", entry(), config(), data_config, batch_size=size, blind=False, out=tmp_path / f"{size}.jsonl")
    assert answers(tmp_path / "1.jsonl") == answers(tmp_path / "5.jsonl") == answers(tmp_path / "32.jsonl")
    assert len(set(answers(tmp_path / "1.jsonl").values())) > 1, "a model that always says the same proves nothing"


def test_batched_answers_equal_generation_of_one_prompt(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:

    from vlm_ablate.registry import benchmarks

    evaluate(vlm, "s", entry(), config(), data_config, blind=False, out=tmp_path / "p.jsonl")
    benchmark = benchmarks.build(entry().benchmark)
    train = {i.id: i for i in benchmark.items("train")}
    items = {i.id: i for i in benchmark.items("report")}
    prompts = Prompts(vlm, data_config)
    vlm.eval()
    for prediction in read_predictions(tmp_path / "p.jsonl")[:4]:
        sample = build_prompt(items[prediction.id], [train[s] for s in prediction.shots], get_template("vqa"), "plain")
        text = vlm.generate(prompts.batch([sample]), max_new_tokens=4, stop=benchmark.stop)
        assert text[0].strip() == prediction.prediction


def test_images_matter_and_blind_withholds_them(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    seen = evaluate(vlm, "s", entry(), config(), data_config, blind=False, out=tmp_path / "a.jsonl")
    blind = evaluate(vlm, "s", entry(), config(), data_config, blind=True, out=tmp_path / "b.jsonl")
    assert blind.blind and not seen.blind
    assert answers(tmp_path / "a.jsonl") != answers(tmp_path / "b.jsonl")
    shots = [[p.shots for p in read_predictions(tmp_path / f"{f}.jsonl")] for f in "ab"]
    assert shots[0] == shots[1], "the floor has the same demonstrations"


def test_blind_answers_ignore_the_images(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    """Without shots, items with one question have one answer, however different their pictures."""
    evaluate(vlm, "s", entry(shots=0), config(), data_config, blind=True, out=tmp_path / "b.jsonl")
    by_question: dict[str, list[str]] = {}
    for p in read_predictions(tmp_path / "b.jsonl"):
        by_question.setdefault(p.question, []).append(p.prediction)
    assert any(len(found) > 1 for found in by_question.values())
    assert all(len(set(found)) == 1 for found in by_question.values())


def test_each_image_is_encoded_once(vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch) -> None:
    views = []
    whole = vlm.encode_images
    monkeypatch.setattr(vlm, "encode_images", lambda pixels, *more: views.append(len(pixels)) or whole(pixels, *more))
    evaluate(vlm, "s", entry(), config(shots=4), data_config, batch_size=3, blind=False, out=tmp_path / "p.jsonl")
    shown = {s for p in read_predictions(tmp_path / "p.jsonl") for s in (*p.shots, p.id)}
    assert sum(views) == len(shown) < 12 * 5


@pytest.mark.parametrize("shots", [0, 2])
def test_pictures_without_an_identity_are_encoded_one_by_one(
    vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shots: int
) -> None:
    views = []
    whole = vlm.encode_images
    monkeypatch.setattr(vlm, "encode_images", lambda pixels, *more: views.append(len(pixels)) or whole(pixels, *more))
    for split in ("train", "validation"):
        for i in range(3):
            Image.new("RGB", (16, 16), (80 * i, 10, 10 if split == "train" else 200)).save(tmp_path / f"{split}{i}.png")
        rows = [{"question_id": i, "image_id": None, "question": "which colour", "answers": ["red"],
                 "image": f"{split}{i}.png"} for i in range(3)]  # fmt: skip
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark = {"name": "vqav2", "id": str(tmp_path), "splits": {"train": "train", "report": "validation"}}
    asked = BenchmarkEntry.model_validate({"benchmark": benchmark, "shots": shots})
    evaluate(
        vlm, "q", asked, config(), data_config, blind=False, out=tmp_path / "p.jsonl", batch_size=3
    )
    assert sum(views) == (3 if shots == 0 else 6), "ids of the train split are given again in the scored one"


def test_small_cache_gives_the_same_tokens(vlm: VLM, data_config: DataConfig) -> None:
    from vlm_ablate.registry import benchmarks

    refs = {i.id: i.images[0] for i in benchmarks.build(entry().benchmark).items("report")}
    with torch.no_grad():
        large, small = VisualCache(vlm, data_config.image), VisualCache(vlm, data_config.image, budget=1)
        for _ in range(2):
            one, two = large.get(refs), small.get(refs)
            assert all(torch.equal(*pair) for key in refs for pair in zip(one[key], two[key], strict=True))
    assert large.encoded == len(refs) and small.encoded == 2 * len(refs)


def test_an_image_is_named_in_a_few_bytes_by_what_it_shows(vlm: VLM, data_config: DataConfig) -> None:
    crops = data_config.image.model_copy(update={"split": "crops"})
    cache = VisualCache(vlm, crops, by_content=True)
    refs = {i.id: i.images[0] for i in Squares(SquaresConfig(items=3)).items("report")}
    first = next(iter(refs))
    with torch.no_grad():
        found = cache.get({**refs, "again": refs[first]})
    assert {len(views) for views in found.values()} == {5} and cache.encoded == len(refs)
    names = [cache.name(key) for key in found]
    assert all(isinstance(name, bytes) and len(name) == 16 for name in names)
    assert len(set(names)) == len(refs) and cache.name("again") == cache.name(first)


def test_a_finished_file_is_not_computed_again(vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "p.jsonl"
    first = evaluate(vlm, "s", entry(), config(), data_config, blind=False, out=out, state="a")
    monkeypatch.setattr(vlm, "generate", lambda *a, **k: pytest.fail("generated again"))
    assert evaluate(vlm, "s", entry(), config(), data_config, blind=False, out=out, state="a") == first
    with pytest.raises(pytest.fail.Exception):
        evaluate(vlm, "s", entry(), config(), data_config, blind=False, out=out, state="b")


def test_torn_line_is_dropped_and_the_rest_kept(vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "p.jsonl"
    cfg = config()
    first = evaluate(vlm, "s", entry(), cfg, data_config, batch_size=3, blind=False, out=out)
    whole = out.read_bytes()
    lines = whole.split(b"\n")
    out.write_bytes(b"\n".join(lines[:5]) + b"\n" + lines[5][:20])
    rows = []
    generate = vlm.generate
    monkeypatch.setattr(vlm, "generate", lambda batch, **k: rows.append(len(batch.input_ids)) or generate(batch, **k))
    assert evaluate(vlm, "s", entry(), cfg, data_config, batch_size=3, blind=False, out=out) == first
    assert out.read_bytes() == whole
    assert 0 < sum(rows) <= 12


def test_killed_evaluation_continues(checkpoints: Path, data_config: DataConfig, tmp_path: Path) -> None:
    """A process killed with SIGKILL half-way, then the same call: the file of an undisturbed evaluation."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    out, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    process = subprocess.Popen([sys.executable, str(HERE / "run_evaluation.py"), str(checkpoints), str(out)], env=env)
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and (not out.exists() or out.read_bytes().count(b"\n") < 4):
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len(read_predictions(out)) < 12
    model = tiny_vlm(checkpoints, data_config.image)
    for path in (out, whole):
        evaluate(model, "s", entry(), config(), data_config, batch_size=2, blind=False, out=path)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("shots", [0, 1, 4])
@pytest.mark.parametrize("blind", [False, True])
def test_what_prompts_have_in_common_changes_no_answer(
    vlm: VLM, data_config: DataConfig, tmp_path: Path, shots: int, blind: bool
) -> None:
    """Two columns on the same pictures: beginnings are computed once a batch, pictures once in all."""
    columns = {"a": entry(shots=shots), "b": entry(shots=shots, limit=7)}
    cfg = config(benchmarks=columns, demonstrations=Demonstrations(selection="fixed"))
    found = []
    for sharing in (None, Sharing.of(vlm, data_config.image)):
        for column, asked in columns.items():
            out = tmp_path / f"{column} {sharing is None}.jsonl"
            evaluate(vlm, column, asked, cfg, data_config, blind=blind, batch_size=6, out=out, sharing=sharing)
            found.append(answers(out))
    assert found[:2] == found[2:]
    assert sharing.pictures.encoded == (0 if blind else 12 + shots)
    if shots == 4:
        assert sharing.beginnings.computed < 0.6 * sharing.beginnings.positions


def test_fixed_demonstrations_are_the_same_for_every_item(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    shown = {}
    for seed in (0, 1):
        cfg = config(demonstrations=Demonstrations(selection="fixed", seed=seed), shots=3)
        record = evaluate(vlm, "s", entry(), cfg, data_config, blind=True, out=tmp_path / f"{seed}.jsonl")
        assert (record.demonstrations, record.demonstration_seed) == ("fixed", seed)
        (shown[seed],) = {p.shots for p in read_predictions(tmp_path / f"{seed}.jsonl")}
        assert len(set(shown[seed])) == 3
    assert shown[0] != shown[1]
    cfg = config(demonstrations=Demonstrations(selection="fixed"), shots=3)
    evaluate(vlm, "s", entry(split="train"), cfg, data_config, blind=True, out=tmp_path / "train.jsonl")
    own = {p.id: p.shots for p in read_predictions(tmp_path / "train.jsonl")}
    assert all(item not in shots and len(set(shots)) == 3 for item, shots in own.items()), "nobody sees its own answer"
    assert sum(shots == shown[0] for shots in own.values()) == len(own) - 3


@pytest.mark.parametrize("selection", ["random", "nearest", "fixed"])
@pytest.mark.parametrize("shots", [0, 4, 8])
def test_shots_are_interleaved_with_their_images(
    vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch, shots: int, selection: str
) -> None:
    rows, whole = [], vlm.generate
    monkeypatch.setattr(vlm, "generate", lambda b, **k: rows.extend(b.input_ids.tolist()) or whole(b, **k))
    cfg = config(demonstrations=Demonstrations(selection=selection))
    out = tmp_path / "p.jsonl"
    record = evaluate(vlm, "s", entry(limit=3, shots=shots), cfg, data_config, blind=False, out=out)
    assert (record.shots, len(rows)) == (shots, 3)
    assert all(len(set(p.shots)) == shots for p in read_predictions(out))
    per_view = vlm.placeholders(16, 16)
    for ids in rows:
        blocks = [len(list(run)) for is_image, run in groupby(ids, lambda i: i == vlm.image_token_id) if is_image]
        assert blocks == [per_view] * (shots + 1), "a block a picture, with text between them"


def test_nearest_demonstrations_resemble_the_query(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    from vlm_ablate.evaluation.features import pooled_features
    from vlm_ablate.registry import benchmarks

    cfg = config(demonstrations=Demonstrations(selection="nearest"))
    record = evaluate(vlm, "s", entry(split="train"), cfg, data_config, blind=False, out=tmp_path / "p.jsonl")
    assert record.demonstrations == "nearest:hf"
    train = benchmarks.build(entry().benchmark).items("train")
    features = pooled_features(vlm.vision, [item.images[0] for item in train], data_config.image)
    likeness = features @ features.T
    likeness.fill_diagonal_(-1)  # never its own picture
    nearest = {item.id: train[int(row.argmax())].id for item, row in zip(train, likeness, strict=True)}
    assert {p.id: p.shots[-1] for p in read_predictions(tmp_path / "p.jsonl")} == nearest, "the nearest stands last"


def test_too_few_demonstrations_is_a_data_error(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="20 demonstrations asked for, the train split gives 12"):
        evaluate(vlm, "s", entry(shots=20), config(), data_config, blind=False, out=tmp_path / "p.jsonl")


def test_unwritable_predictions_are_a_storage_error(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write predictions"):
        evaluate(vlm, "s", entry(), config(), data_config, blind=False, out=tmp_path / "file" / "p.jsonl")


def test_mode_is_put_back(vlm: VLM, data_config: DataConfig, tmp_path: Path) -> None:
    for training in (True, False):
        vlm.train(training)
        evaluate(vlm, "s", entry(limit=1), config(), data_config, blind=False, out=tmp_path / f"{training}.jsonl")
        assert vlm.training is training
