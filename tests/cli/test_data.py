"""`vlm-ablate data show` and `data stats` over a mixture with something of everything that can happen to a sample."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console
from training.squares import STAGE, save_parts
from typer.testing import CliRunner, Result

from vlm_ablate.cli.app import app
from vlm_ablate.cli.data import _coloured
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.data.draw import COLOURS
from vlm_ablate.data.inspect import open_data
from vlm_ablate.runs.spec import specs_of

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows of questions on pictures (two undecodable, one too long), four of text; two stages."""
    folder = tmp_path_factory.mktemp("experiment")
    save_parts(folder)
    Image.new("RGB", (20, 16), "red").save(folder / "red.png")
    (folder / "broken.png").write_bytes(b"no picture")
    turns = lambda answer: [{"user": "what colour", "assistant": answer, "source": "made"}]  # noqa: E731
    rows: list[dict[str, Any]] = [{"images": ["red.png"], "texts": turns("red")} for _ in range(9)]
    rows += [{"images": ["broken.png"], "texts": turns("red")} for _ in range(2)]
    rows.append({"images": ["red.png"], "texts": turns(" ".join(["blue"] * 90))})
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [{"instruction": "what number", "output": "red"}] * 4
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, words)))
    experiment = {
        "name": "tests/data",
        "title": "Data",
        "plugins": ["training.squares"],
        "seeds": [0],
        "model": {
            "vision": {"name": "siglip-native", "id": str(folder / "vision")},
            "language": {"name": "hf", "id": str(folder / "lm")},
            "connector": "linear",
            "architecture": "autoregressive",
        },
        "data": {
            "mixture": {
                "talk": {"source": {"name": "cauldron", "id": str(folder / "talk.jsonl")}, "epochs": 1},
                "words": {"source": {"name": "text_instructions", "id": str(folder / "words.jsonl")}, "epochs": 1},
            },
            "image": {"size": 16},
            "sequence_length": 40,
        },
        "stages": {"align": STAGE | {"steps": 3}, "sft": STAGE | {"steps": 2}},
        "evaluation": {"benchmarks": {"colour": {"benchmark": "squares"}}, "shots": 0},
        "arms": {"one": {}},
    }
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return file


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments), "--scale", "paper"])
    assert result.exit_code == 0, result.output
    return result


def test_show_prints_and_draws_the_samples_of_a_stage(file: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "seen.png"
    first = call("data", "show", file, "-n", "16", "--draw", drawing).output
    assert first.count("(talk)") + first.count("(words)") == 16 and "(words)" in first
    assert 0 < first.count("SKIPPED") <= first.count("broken.png")
    assert ", truncated" in first
    assert "<image>×4" in first and "1 images in 1 views" in first
    with Image.open(drawing) as image:
        assert set(COLOURS.values()) <= {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    heads = re.findall(r"^\S+:\d+  \(.*\)", first, re.MULTILINE)
    second = call("data", "show", file, "--stage", "sft", "-n", "4", "--draw", drawing).output
    assert re.findall(r"^\S+:\d+  \(.*\)", second, re.MULTILINE) == heads[12:16], "align consumes 12 sequences"


def test_colours_are_those_of_the_kinds(file: Path) -> None:
    spec = specs_of(load_experiment(file, scale="paper"))[0]
    shown = next(s for s in open_data(spec.config, 0).show(0, 16) if s.source == "talk" and not s.problem)
    text = _coloured(shown)
    by_style = {str(span.style): text.plain[span.start : span.end] for span in text.spans}
    assert "what" in by_style["default"] and "<image>" in by_style["magenta"] and "red" in by_style["bold green"]


def test_stats_count_by_source_and_say_what_is_dropped_and_why(file: Path) -> None:
    out = call("data", "stats", file, "-n", "768").output
    table = ([cell.strip() for cell in re.split("[│┃]", line)] for line in out.splitlines())
    rows = {cells[1]: cells[2:-1] for cells in table if len(cells) > 2}
    head = rows.pop("source")
    talk, words = (dict(zip(head, rows[name], strict=True)) for name in ("talk", "words"))
    assert (talk["samples"], talk["share"], words["samples"], words["share"]) == ("576", "75.0%", "192", "25.0%")
    assert (talk["images"], talk["truncated"], talk["dropped"]) == ("480", "48", "96")
    assert (words["images"], words["truncated"], words["dropped"]) == ("0", "0", "0")
    assert words["supervised"] == "384", "one word and the end of the sequence each"
    assert "talk: 96 of 576 dropped: undecodable image" in out
    (share,) = re.findall(r"padded in micro-batches of 4, ([\d.]+)% of the tokens are real", out)
    assert 30 < float(share) < 100
    packed = call("data", "stats", file, "-n", "96", "--set", "data.packing=rows").output
    samples, rows, full = re.findall(r"packed: (\d+) samples in (\d+) rows of 40 tokens, ([\d.]+)% full", packed)[0]
    assert int(samples) == 84 > int(rows) and float(full) > 80


def test_stats_fit_a_narrow_terminal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=60, highlight=False, color_system=None)
    monkeypatch.setattr("vlm_ablate.cli.console.out", lambda: console)
    call("data", "stats", file, "-n", "16")
    found = " ".join(text.getvalue().split())
    assert re.search(r"talk: samples 12, share 75.0%, images \d+, .*, truncated \d+, images cut \d+, dropped \d", found)
    assert max(map(len, text.getvalue().partition("padded")[0].splitlines())) <= 60
