"""What `data show` and `data stats` say about samples agrees with what the model is fed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as PilImage
from transformers import PreTrainedTokenizerFast

from tests.data.conftest import Drawn, data_config
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.draw import COLOURS, draw
from vlm_ablate.data.encode import Encoder
from vlm_ablate.data.inspect import Inspector
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.pack import padded_share
from vlm_ablate.data.sample import Sample, Text
from vlm_ablate.errors import StorageError


def inspector(tokenizer: PreTrainedTokenizerFast, split: str = "none", length: int = 4096) -> Inspector:
    config = data_config(image=ImageConfig(size=32, tile=16, split=split), sequence_length=length)
    sources = {"good": Drawn("good", 30, images=2), "bad": Drawn("bad", 10, broken=frozenset(range(5)))}
    mixture = Mixture(sources, {"good": 3.0, "bad": 1.0}, 0)
    return Inspector(mixture, Encoder(tokenizer, config, 4), tokenizer)


@pytest.mark.parametrize("split", ["none", "crops", "tiles"])
def test_shown_runs_cover_the_sequence(tokenizer: PreTrainedTokenizerFast, split: str) -> None:
    seen = inspector(tokenizer, split)
    for shown, (_, sample) in zip(seen.show(3, 20), seen.samples(3, 20), strict=True):
        if shown.problem:
            assert shown.id.startswith("bad") and "not an image" in shown.problem and not shown.runs
            continue
        assert shown.tokens == len(seen.encoder.layout(sample).input_ids)
        answer = next(run.text for run in shown.runs if run.kind == "supervised")
        assert answer.strip().startswith(sample.id.split(":")[1])
        assert "<image>×4" in "".join(run.text for run in shown.runs if run.kind == "image")
        assert all("<image>" not in run.text for run in shown.runs if run.kind != "image")


def test_stats_count_by_source(tokenizer: PreTrainedTokenizerFast) -> None:
    seen = inspector(tokenizer)
    stats = seen.stats(0, 256)
    assert stats["good"].samples == 192 and stats["bad"].samples == 64
    assert stats["good"].images == stats["good"].views == 384 and stats["good"].visual_tokens == 4 * 384
    shown = list(seen.show(0, 256))
    broken = sum(bool(s.problem) for s in shown)
    assert 30 <= broken <= 34  # 64 draws from ten rows of which half are broken
    assert stats["bad"].dropped == {"undecodable image": broken} and stats["bad"].images == 64 - broken
    good = [s for s in shown if s.source == "good"]
    assert stats["good"].tokens == sum(shown.tokens for shown in good)
    assert stats["good"].supervised_tokens == sum(shown.supervised for shown in good)


def test_the_first_token_is_not_shown_as_supervised(tokenizer: PreTrainedTokenizerFast) -> None:
    class Words(Drawn):
        def __getitem__(self, index: int) -> Sample:
            return Sample(f"words:{index}", (Text("only words, all learned", True),), "words")

    seen = Inspector(Mixture({"words": Words("words", 4)}, {"words": 1.0}, 0), inspector(tokenizer).encoder, tokenizer)
    (shown,), stats = seen.show(0, 1), seen.stats(0, 1)["words"]
    assert shown.supervised == stats.supervised_tokens == shown.tokens - 1


def test_stats_tell_truncation(tokenizer: PreTrainedTokenizerFast) -> None:
    stats = inspector(tokenizer, length=9).stats(0, 40)["good"]
    assert stats.dropped == {"nothing to learn": stats.samples}
    lengths = [shown.tokens for shown in inspector(tokenizer).show(0, 40) if shown.source == "good"]
    cut = inspector(tokenizer, length=max(lengths) - 1).stats(0, 40)["good"]
    assert cut.truncated == lengths.count(max(lengths)) > 0 and cut.images_cut == 0 and not cut.dropped


def test_drawing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    draw(list(inspector(tokenizer).show(0, 12)), tmp_path / "a/b.png")
    with PilImage.open(tmp_path / "a/b.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert set(COLOURS.values()) <= colours and image.height > 500
    with pytest.raises(StorageError, match="cannot write"):
        draw([], tmp_path)


def test_sizes_are_given_in_the_order_of_training(tokenizer) -> None:
    seen, sizes = inspector(tokenizer), []
    stats = seen.stats(0, 40, sizes=sizes)
    assert sum(tokens for tokens, _ in sizes) == sum(s.tokens for s in stats.values())
    assert sum(views for _, views in sizes) == sum(s.views for s in stats.values())
    assert 0 < padded_share(sizes, 4) <= padded_share(sizes, 1) == 1.0
