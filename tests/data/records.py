"""A few rows of every schema, written in every format that the sources read."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
from PIL import Image as PilImage

Row = dict[str, Any]


def png(color: str, width: int = 12, height: int = 10) -> bytes:
    buffer = io.BytesIO()
    PilImage.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def tiff(*colors: str) -> bytes:
    frames = [PilImage.new("RGB", (12, 10), color) for color in colors]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def turn(user: str | None, assistant: str | None) -> dict[str, str | None]:
    return {"user": user, "assistant": assistant, "source": "made"}


CAULDRON: list[Row] = [
    {"images": [png("red")], "texts": [turn("What colour?", "Red."), turn("Sure?", "Yes.")]},
    {"images": [png("green"), png("blue", 20)], "texts": [turn("Same?", "No."), turn("", "dropped"), turn("x", None)]},
]
OBELICS: list[Row] = [
    {"images": [None, png("red"), None], "texts": ["A story. ", None, " The end."]},
    {"images": [png("green"), png("blue")], "texts": [None, None]},
    {"images": [None, png("blue"), png("red"), None], "texts": ["Two: ", None, None, "done"]},
]
PAIRS: list[Row] = [
    {"image": png("red"), "text": " IMG_001 ", "top_caption": "a red square"},
    {"image": png("blue"), "text": "", "top_caption": "a blue square"},
]
WEBSIGHT: list[Row] = [{"image": png("red"), "text": "<html>red</html>"}]
RENDERED: list[Row] = [{"image": png("red"), "ocr_annotation": {"text": ["hello", "", "world"]}}]
PAGES: list[Row] = [
    {"images": [png("red"), png("blue")], "pages": [{"text": ["line 1", "line 2"]}, {"text": ["page two"]}]},
]
MESSAGES: list[Row] = [
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
]
SHAREGPT: list[Row] = [
    {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"},
                       {"from": "gpt", "value": "Hello"}]},
]
ALPACA: list[Row] = [{"instruction": "Add.", "input": "2, 2", "output": "4"}]


def write(rows: list[Row], kind: str, folder: Path) -> Path:
    """The rows in one format; returns what a source's `id` should be."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"parquet": _parquet, "saved": _saved, "jsonl": _jsonl, "webdataset": _tar}[kind](rows, folder)


def _dataset(rows: list[Row]) -> datasets.Dataset:
    kinds = {"image": datasets.Image(), "images": datasets.List(datasets.Image())}
    data = datasets.Dataset.from_list([{k: v for k, v in row.items() if k not in kinds} for row in rows])
    features = datasets.Features({**data.features, **{k: v for k, v in kinds.items() if k in rows[0]}})

    def cell(value: Any) -> Any:
        if isinstance(value, list):
            return [cell(v) for v in value]
        return {"bytes": value, "path": None} if isinstance(value, bytes) else value

    full = [{k: cell(v) if k in kinds else v for k, v in row.items()} for row in rows]
    return datasets.Dataset.from_list(full, features=features)


def _parquet(rows: list[Row], folder: Path) -> Path:
    _dataset(rows).to_parquet(folder / "train-00000.parquet")
    return folder


def _saved(rows: list[Row], folder: Path) -> Path:
    _dataset(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def _jsonl(rows: list[Row], folder: Path) -> Path:
    (folder / "pictures").mkdir()
    written = 0

    def cell(value: Any) -> Any:
        nonlocal written
        if isinstance(value, list):
            return [cell(v) for v in value]
        if not isinstance(value, bytes):
            return value
        written += 1
        (folder / f"pictures/{written}.png").write_bytes(value)
        return f"pictures/{written}.png"

    lines = [json.dumps({k: cell(v) for k, v in row.items()}) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _tar(rows: list[Row], folder: Path) -> Path:
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for number, row in enumerate(rows):
            members, body = {}, {}
            for key, value in row.items():
                if isinstance(value, bytes):
                    members["png"] = value
                elif key == "images" and None in value:  # positions matter: the JSON names the members
                    body[key] = [None if v is None else f"{i}.png" for i, v in enumerate(value)]
                    members |= {f"{i}.png": v for i, v in enumerate(value) if v is not None}
                elif key == "images":
                    members |= {f"{i}.png": v for i, v in enumerate(value)}
                else:
                    body[key] = value
            members["json"] = json.dumps(body).encode()
            for ending, data in members.items():
                info = tarfile.TarInfo(f"shard/{number:05d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder
