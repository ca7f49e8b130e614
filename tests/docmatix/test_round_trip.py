"""What the builder writes is what the Docmatix source reads: rows, encoded samples, and `data show`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PilImage
from typer.testing import CliRunner

from tests.data.conftest import data_config, make_tokenizer
from vlm_ablate.cli.app import app
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.encode import Encoder
from vlm_ablate.data.sample import UnusableSample
from vlm_ablate.data.sources.cauldron import Cauldron, Docmatix
from vlm_ablate.data.sources.configs import CauldronConfig, DocmatixConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def built(pdfs: Path) -> Path:
    """A data set built through the command line."""
    out = pdfs.parent / "out"
    result = CliRunner().invoke(
        app, ["data", "build-docmatix", str(pdfs), "-o", str(out), "--dpi", "40", "--licence", "gpl-2.0"]
    )
    assert result.exit_code == 0, result.output
    assert "skipped locked.pdf: encrypted" in result.stderr
    assert "3 read" in result.stdout and "dropped" in result.stdout and "pages a second" in result.stdout
    return out


def test_source_reads_it(built: Path) -> None:
    source = Docmatix(DocmatixConfig(id=str(built)))
    assert len(source) == 5 and source.licences[0].licence == "gpl-2.0"
    sample = source[0]
    assert sample.dialogue and len(sample.images) == 4 and sample.images[0].load().size == (167, 223)
    texts = [s for s in sample.segments if hasattr(s, "text")]
    assert [t.supervised for t in texts] == [False, True] * (len(texts) // 2) and len(texts) > 10
    assert "Alpha Handbook" in {t.text for t in texts if t.supervised}
    with pytest.raises(UnusableSample, match="4 pages, above max_pages = 1"):
        Docmatix(DocmatixConfig(id=str(built), max_pages=1))[0]
    assert len(Cauldron(CauldronConfig(id=str(built)))) == 5, "The Cauldron's schema is the same"


def test_samples_are_encoded(built: Path) -> None:
    source = Docmatix(DocmatixConfig(id=str(built)))
    tokenizer = make_tokenizer()
    config = data_config(image=ImageConfig(size=32, tile=16, split="none"), sequence_length=8192, prompt="chat")
    encoder = Encoder(tokenizer, config, 4)
    image = tokenizer.convert_tokens_to_ids("<image>")
    for index in range(len(source)):
        sample = source[index]
        layout = encoder.layout(sample)
        assert list(layout.input_ids).count(image) == 4 * len(sample.images)
        pairs = zip(layout.input_ids, layout.labels, strict=True)
        learned = tokenizer.decode([token for token, label in pairs if label != -100])
        for segment in sample.segments:
            if getattr(segment, "supervised", False):
                assert segment.text in learned


def test_data_show_draws_it(built: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(
        f"base: {ROOT / 'experiments/idefics2/_base.yaml'}\nname: mine/pages\ntitle: Pages\n"
        "question: Do they show?\nfactor: [data]\narms:\n  pages:\n    set:\n"
        f"      data.mixture: {{pages: {{source: {{name: docmatix, id: '{built}'}}}}}}\n"
    )
    picture = tmp_path / "show.png"
    mixture = f"data.mixture={{pages: {{source: {{name: docmatix, id: '{built}'}}}}}}"
    result = CliRunner().invoke(
        app, ["data", "show", str(experiment), "-n", "2", "--draw", str(picture), "--set", mixture,
              "--set", "data.sequence_length=2048"],
    )
    assert result.exit_code == 0, result.output
    assert "Handbook" in result.stdout or "Part" in result.stdout
    with PilImage.open(picture) as drawn:
        assert drawn.width > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder", "-o", "{out}"], "does not exist"),
        (["{pdfs}", "-o", "{out}", "--endpoint", "http://127.0.0.1:9/v1"], "--endpoint needs --model"),
        (["{pdfs}", "-o", "{out}", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x"], "cannot be used"),
        (["{pdfs}", "-o", "{out}", "--image-format", "gif"], "unknown image format 'gif'"),
        (["{pdfs}", "-o", "{out}", "--dpi", "0"], "dpi must be at least"),
        (["{pdfs}", "-o", "{out}", "--model", "no/such-model"], "no/such-model"),
    ],
)
def test_one_clear_message(pdfs: Path, arguments: list[str], message: str) -> None:
    given = [a.format(pdfs=pdfs, out=pdfs.parent / "out") for a in arguments]
    result = CliRunner().invoke(app, ["data", "build-docmatix", *given])
    assert result.exit_code in (1, 2) and message in result.stderr and "Traceback" not in result.output
