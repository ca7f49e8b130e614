"""An evaluation is a function of its items: where it was stopped, how many are asked, what is kept move no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import Squares, SquaresConfig
from tests.evaluation.test_evaluate import answers, config, entry
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem, Split
from vlm_ablate.evaluation.evaluate import Sharing, evaluate
from vlm_ablate.evaluation.features import VisualCache, chunks_of_size, pooled_features, rank_by_similarity
from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.models.vlm import VLM


class Stopped(Exception):
    """The process ends here."""


def test_stopped_before_a_batch_it_goes_on_in_the_same_batches(
    vlm: VLM, data_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked, stop_at = vlm.generate, [], [10**6]

    def generate(batch, **options):
        if len(asked) == stop_at[0]:
            raise Stopped
        asked.append(batch.input_ids.tolist())
        return whole(batch, **options)

    def run(out: Path) -> None:
        sharing = Sharing.of(vlm, data_config.image)
        evaluate(vlm, "s", entry(), config(shots=1), data_config, batch_size=5, blind=False, out=out, sharing=sharing)

    monkeypatch.setattr(vlm, "generate", generate)
    run(tmp_path / "whole.jsonl")
    batches = [*asked]
    assert len(batches) == 3
    for stopped in (0, 2):
        asked.clear()
        stop_at[0] = stopped
        with pytest.raises(Stopped):
            run(tmp_path / f"{stopped}.jsonl")
        assert len(read_predictions(tmp_path / f"{stopped}.jsonl")) == sum(map(len, batches[:stopped]))
        stop_at[0] = 10**6
        run(tmp_path / f"{stopped}.jsonl")
        assert asked == batches, "nothing is asked twice"
        assert (tmp_path / f"{stopped}.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_first_items_are_answered_as_among_all_and_the_score_is_the_mean_of_what_is_written(
    vlm: VLM, data_config: DataConfig, tmp_path: Path
) -> None:
    found = {}
    for limit in (1, 7, 12, None):
        out = tmp_path / f"{limit}.jsonl"
        record = evaluate(vlm, "s", entry(limit=limit), config(), data_config, batch_size=4, blind=False, out=out)
        predictions = read_predictions(out)
        assert record.items == len(predictions) == (limit or 12)
        scores = [prediction.score for prediction in predictions]
        assert record.score == pytest.approx(100 * sum(s for s in scores if s is not None) / len(scores))
        assert record.unparsed == scores.count(None)
        found[limit] = answers(out)
    assert all(found[limit].items() <= found[None].items() for limit in found)
    assert found[12] == found[None]


class ToldSquares(Squares):
    """Squares with their colour in words."""

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        return [replace(item, description=f"red green {'cat' if i % 2 else 'dog'}")
                for i, item in enumerate(super().items(split))]  # fmt: skip


class OtherPictures(ToldSquares):
    """The same in other colours."""

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        pictures = [(ImageRef(np.full((20, 24, 3), 9 * i, np.uint8), item.id),) for i, item in enumerate(
            super().items(split))]  # fmt: skip
        return [replace(item, images=own) for item, own in zip(super().items(split), pictures, strict=True)]


def test_floor_and_ceiling_hang_on_no_pixel_and_the_ceiling_on_the_words(
    vlm: VLM, data_config: DataConfig, tmp_path: Path
) -> None:
    def asked(kind: type[Squares], **how: bool) -> dict[str, str]:
        out = tmp_path / f"{kind.__name__} {how}.jsonl"
        how = {"blind": False, **how}
        record = evaluate(vlm, "s", entry(), config(shots=1), data_config, out=out, benchmark=kind(SquaresConfig()),
                          **how)  # fmt: skip
        assert (record.blind, record.described) == (how["blind"], how.get("described", False))
        return answers(out)

    for how in ({"blind": True}, {"described": True}):
        assert asked(ToldSquares, **how) == asked(OtherPictures, **how)
    assert asked(ToldSquares, described=True) != asked(ToldSquares, blind=True)
    with pytest.raises(DataError, match="has no description"):
        asked(Squares, described=True)


@pytest.mark.parametrize("seed", range(4))
def test_views_are_encoded_in_groups_of_one_size_each_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [(16, 16), (2000, 3000), (400, 900)][: 1 + seed]
    views = [np.broadcast_to(np.uint8(0), (*sizes[rng.integers(len(sizes))], 3)) for _ in range(rng.integers(0, 200))]
    chunks = chunks_of_size(views)
    assert sorted(place for chunk in chunks for place in chunk) == list(range(len(views)))
    for chunk in chunks:
        shapes = {views[place].shape for place in chunk}
        assert len(shapes) == 1 and chunk == sorted(chunk)
        height, width, _ = shapes.pop()
        assert len(chunk) == 1 or (len(chunk) <= 64 and len(chunk) * height * width <= 64 * 384 * 384)


@pytest.mark.parametrize("by_content", [False, True])
def test_a_cache_of_any_size_gives_what_is_encoded_and_stays_below_its_budget(
    by_content: bool, vlm: VLM, data_config: DataConfig
) -> None:
    rng = np.random.default_rng(0)
    shown = {f"k{i}": i % 7 for i in range(10)}  # three pictures under two keys
    colours = rng.integers(0, 255, (7, 3), dtype=np.uint8)
    refs = {key: ImageRef(np.broadcast_to(colours[i], (20, 24, 3)).copy(), key) for key, i in shown.items()}
    direct = VisualCache(vlm, data_config.image).get(refs)
    one = sum(state.nbytes for state in direct["k0"])
    for budget in (1, 3 * one, 100 * one):
        cache = VisualCache(vlm, data_config.image, budget=budget, by_content=by_content)
        for _ in range(12):
            chosen = rng.choice(sorted(refs), rng.integers(1, 6), replace=False).tolist()
            found = cache.get({key: refs[key] for key in chosen})
            assert sorted(found) == sorted(chosen)
            assert all(torch.equal(*pair) for key in chosen for pair in zip(found[key], direct[key], strict=True))
            assert cache._bytes == sum(state.nbytes for states in cache._kept.values() for state in states) <= budget
        cache.get(refs)
    assert cache.encoded == (7 if by_content else 10), "with room for all, each once"
    names = {key: cache.name(key) for key in refs}
    assert all((names[a] == names[b]) == (shown[a] == shown[b] if by_content else a == b) for a in refs for b in refs)


def test_likeness_is_that_of_mean_features_and_the_nearest_come_first(vlm: VLM) -> None:
    rng, image = np.random.default_rng(0), ImageConfig(size=16)
    refs = [ImageRef(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), str(i)) for i in range(5)]
    features = pooled_features(vlm.vision, refs, image)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    order = [3, 0, 4]
    torch.testing.assert_close(pooled_features(vlm.vision, [refs[i] for i in order], image), features[order])
    assert pooled_features(vlm.vision, [], image).shape == (0, vlm.vision.width)
    pool = torch.cat([features, features[1:2]])
    for query, ranked in enumerate(rank_by_similarity(features, pool).tolist()):
        likeness = (pool @ features[query]).tolist()
        assert sorted(ranked) == list(range(6))
        assert all(likeness[a] >= likeness[b] - 2e-5 for a, b in pairwise(ranked))
        assert ranked[0] == query and ranked.index(1) + 1 == ranked.index(5), "of equals the first of the pool"


class MeanColours(VisionEncoder):
    """Patches of 8 px by their mean colour: nothing is learned, and there are no parameters."""

    width, trainable = 3, False

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // 8, width // 8

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> VisionFeatures:
        cells = torch.nn.functional.avg_pool2d(pixel_values, 8)
        return VisionFeatures(cells.flatten(2).mT, None, self.grid(*pixel_values.shape[-2:]))


def test_an_encoder_without_parameters_ranks_pictures_too() -> None:
    refs = [ImageRef(np.full((16, 16, 3), colour, np.uint8), str(colour)) for colour in ([250, 0, 0], [0, 250, 0])]
    features = pooled_features(MeanColours(SquaresConfig()), [*refs, refs[0]], ImageConfig(size=16))
    assert torch.equal(features[0], features[2]) and features[0] @ features[1] < 0


@pytest.mark.parametrize("width", [16, 384])
def test_a_ranking_does_not_hang_on_how_many_are_ranked_at_once(width: int) -> None:
    """Pictures that stand several times in a pool, as several questions on one do, keep its order."""
    generator = torch.Generator().manual_seed(width)
    pictures = torch.nn.functional.normalize(torch.randn(40, width, generator=generator), dim=1)
    shown = torch.randint(0, 40, (333,), generator=generator)
    ranking = rank_by_similarity(pictures, pictures[shown])
    for query, row in enumerate(ranking):
        assert torch.equal(row, rank_by_similarity(pictures[query : query + 1], pictures[shown])[0])
        for picture in range(40):
            alike = row[shown[row] == picture]
            assert torch.equal(alike, alike.sort().values)
