"""Stages that would train nothing, or on nothing, are refused before weights are read, with what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from training.squares import STAGE, make_spec, save_parts

from vlm_ablate.accounting import SampleShape, check_lengths, cut_images, plan_model
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.rates import plan_run
from vlm_ablate.runs.spec import RunSpec


def config(parts: Path, *, stage: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    body = make_spec(parts, stages={"train": STAGE | {"steps": 2}}, blind=False).config.model_dump(mode="json")
    body["stages"]["train"] |= stage or {}
    body["stages"]["train"]["data"] |= data
    return RunConfig.model_validate(body)


def test_a_stage_that_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"this stage trains nothing: .* write `connector: full`"):
        config(tmp_path, stage={"connector": "frozen"})


@pytest.mark.parametrize(
    ("image", "climb", "message"),
    [
        ({"size": 100}, {}, "100 px is no multiple of the tile of 32 px; write 96 or 128"),
        ({"size": 20}, {}, "20 px is no multiple of the tile of 32 px; write 32"),
        ({"size": 64}, {1: 70}, "70 px is no multiple of the tile of 32 px; write 64 or 96"),
    ],
)
def test_a_size_that_tiles_do_not_fill(image: dict, climb: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        config(tmp_path, image={"split": "tiles", "tile": 32, **image}, climb=climb)


def test_a_sequence_shorter_than_one_image(tmp_path: Path, home: Home) -> None:
    save_parts(tmp_path)
    short = config(tmp_path, sequence_length=4)
    with pytest.raises(ModelError, match="stage 'train': one image takes 4 tokens or more") as told:
        check_lengths(plan_model(short), short)
    assert told.value.hint is not None and "raise data.sequence_length above 4" in told.value.hint
    spec = make_spec(tmp_path)
    whole = RunSpec.from_dict({**spec.to_dict(), "config": short.model_dump(mode="json")})
    outcome = execute(whole, home=home)
    assert outcome.status == "failed" and "one image takes 4 tokens or more" in outcome.message
    enough = config(tmp_path, sequence_length=5)
    check_lengths(plan_model(enough), enough)


def test_a_sequence_shorter_than_an_ordinary_image_is_told(tmp_path: Path, home: Home) -> None:
    save_parts(tmp_path)
    tiles = {"split": "tiles", "tile": 16, "size": 64}
    wide, square = (
        plan_model(config(tmp_path, image=tiles), sample=SampleShape(width=64, height=height)) for height in (16, 64)
    )
    tokens = square.stages["train"].image_tokens[64]
    short = config(tmp_path, image=tiles, sequence_length=tokens)
    check_lengths(square, short)
    (told,) = cut_images(square, short)
    assert told.startswith(
        f"stages.train.data.sequence_length is {tokens}, and an image of 64x64 px takes {tokens} tokens"
    )
    assert f"raise sequence_length above {tokens}" in told
    assert not cut_images(wide, short)
    assert not cut_images(square, config(tmp_path, image=tiles, sequence_length=tokens + 1))
    heard: list[str] = []
    plan_run(short, home, heard.append)
    assert heard == [told]
