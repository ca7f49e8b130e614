"""A model whose frozen encoder's output is kept gives what it gives without; what is read is what was computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.support import PERCEIVER, a_batch, a_vlm, open_gates
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.stages import Stage
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.encode import EncodedSample
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.features import StoredFeatures, refusal, state_digest, view_key
from vlm_ablate.models.vision.base import VisionFeatures

COMBINATIONS = [
    ("siglip", "linear", "autoregressive"),
    ("siglip", PERCEIVER, "autoregressive"),
    ("clip", "mlp", "cross_attention"),
    ("dinov2", {"name": "pixel_shuffle", "factor": 2}, "autoregressive"),
]


def keyed(batch, fresh: str = ""):
    """A batch whose views have names by content."""
    assert batch.pixel_values is not None
    names = [view_key(np.frombuffer(v.numpy().tobytes() + fresh.encode(), np.uint8)) for v in batch.pixel_values]
    return replace(batch, view_keys=tuple(names))


def stored(vlm, root, limit: int = 2**30) -> StoredFeatures:
    vlm.features = StoredFeatures(vlm.vision, root, limit=limit)
    return vlm.features


@pytest.mark.parametrize(("vision", "connector", "architecture"), COMBINATIONS)
def test_logits_loss_gradients_and_texts(vision, connector, architecture, llama, tmp_path, request):
    folder = request.getfixturevalue(vision)
    vlm = open_gates(a_vlm({"name": "hf", "id": str(folder)}, llama, connector=connector, architecture=architecture))
    apply_training(vlm, Stage(steps=1, batch_size=1))
    vlm.eval()
    batch, prompts = keyed(a_batch(vlm)), keyed(a_batch(vlm, left=True, seed=1))

    def everything():
        vlm.zero_grad()
        output = vlm(batch)
        output.loss_sum.backward()
        gradients = [p.grad for p in vlm.parameters() if p.requires_grad]
        texts = vlm.generate(prompts, max_new_tokens=5)
        return [output.loss_sum, output.logits, vlm.logits(prompts), *gradients], texts

    without, texts = everything()
    first = None
    for stores in range(2):
        counts = stored(vlm, tmp_path).store.counts
        for _ in range(2):
            kept, said = everything()
            assert said == texts
            first = kept if first is None else first
            for before, now, usual in zip(first, kept, without, strict=True):
                assert now is before is None or torch.equal(now, before)
                torch.testing.assert_close(now, usual, rtol=1e-4, atol=1e-4)
        assert (counts.written > 0) == (stores == 0)  # the second store reads what the first wrote
        assert counts.read > 0


@pytest.fixture
def native(siglip, llama):
    """A model of padded views, with the features of its frozen encoder to be asked for."""
    image = ImageConfig(resize="native", size=32, shortest=8)
    return a_vlm({"name": "siglip-native", "id": str(siglip)}, llama, image=image, connector=PERCEIVER)


def views_of(sizes: list[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def collated(vlm, views: list[np.ndarray], expect=None):
    ids = [np.full(vlm.placeholders(*view.shape[:2]), vlm.image_token_id) for view in views]
    samples = [
        EncodedSample(str(n), np.array(i), np.array(i), [view], (1,), False)
        for n, (i, view) in enumerate(zip(ids, views, strict=True))
    ]
    return Collator(0, vlm.vision.mean, vlm.vision.std, expect=expect)(samples)


def test_padded_views_agree_and_do_not_depend_on_their_neighbours(native, tmp_path):
    views = views_of([(32, 32), (16, 32), (24, 8), (16, 32)])
    expected: list[bytes] = []
    with torch.no_grad():
        without = native.encode(collated(native, views)).states
        features = stored(native, tmp_path)
        batch = collated(native, views, expected.extend)
        assert expected == list(batch.view_keys)
        kept = native.encode(batch).states
        torch.testing.assert_close(kept, without, rtol=1e-5, atol=1e-5)
        again = native.encode(batch).states
        assert torch.equal(again, kept)
        for view, key in zip(views, batch.view_keys, strict=True):
            pixels = collated(native, [view]).pixel_values
            seen = features.see(native.vision, pixels, None, [key])
            assert torch.equal(seen.features, native.vision(pixels, None).features)


class Counted(torch.nn.Module):
    """An encoder whose digits depend on how many views it sees together."""

    def __init__(self, vision) -> None:
        super().__init__()
        self.inner, self.config, self.mean, self.std = vision, vision.config, vision.mean, vision.std
        self.backbone, self.width, self.grid, self.seen = vision.backbone, vision.width, vision.grid, []

    def forward(self, pixels, mask):
        self.seen.append(len(pixels))
        found = self.inner(pixels, mask)
        return VisionFeatures(found.features * (1 + 1e-6 * len(pixels)), found.mask, found.grid)


def test_views_are_computed_alone_where_company_changes_their_digits(siglip, llama, tmp_path):
    vlm = a_vlm({"name": "hf", "id": str(siglip)}, llama)
    pixels = torch.randn(4, 3, 32, 32)
    keys = [bytes([n] * 16) for n in range(4)]
    same, other = vlm.vision, Counted(vlm.vision)
    with torch.no_grad():
        kept = StoredFeatures(other, tmp_path, limit=2**30).see(other, pixels, None, keys)
        assert other.seen[-4:] == [1, 1, 1, 1]
        alone = torch.cat([other(view[None], None).features for view in pixels])
        assert torch.equal(kept.features, alone)
        later = StoredFeatures(other, tmp_path, limit=2**30)  # knows it from the store
        other.seen.clear()
        later.see(other, pixels[:2] + 1, None, [bytes([n] * 16) for n in (8, 9)])
        assert other.seen == [1, 1]
        stored_together = StoredFeatures(same, tmp_path / "same", limit=2**30).see(same, pixels, None, keys)
        assert torch.equal(stored_together.features, same(pixels, None).features)


def test_other_weights_numbers_and_configurations_have_stores_of_their_own(siglip, llama, tmp_path):
    vlm = a_vlm({"name": "hf", "id": str(siglip)}, llama)
    first = StoredFeatures(vlm.vision, tmp_path, limit=1).store.folder
    assert StoredFeatures(vlm.vision, tmp_path, limit=1).store.folder == first
    with torch.autocast("cpu", torch.bfloat16):
        assert StoredFeatures(vlm.vision, tmp_path, limit=1).store.folder != first
    assert StoredFeatures(vlm.vision, tmp_path, limit=1, files="another plug-in").store.folder != first
    before = state_digest(vlm.vision)
    with torch.no_grad():
        next(vlm.vision.parameters()).view(-1)[0] += 1e-7
    assert state_digest(vlm.vision) != before
    assert StoredFeatures(vlm.vision, tmp_path, limit=1).store.folder != first


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_read_ahead_is_what_a_step_looks_up(siglip, llama, tmp_path, monkeypatch, precision):
    vlm = a_vlm({"name": "hf", "id": str(siglip)}, llama)
    vlm.eval()
    batch = keyed(a_batch(vlm))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vlm, batch = vlm.to(device), batch.to(device)
    features = stored(vlm, tmp_path)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        vlm(batch)
        assert features.store.counts.written == len(set(batch.view_keys))
    told: list[int] = []
    monkeypatch.setattr("os.posix_fadvise", lambda handle, offset, length, advice: told.append(offset), raising=False)
    ahead = features.ahead(precision)
    monkeypatch.setattr("torch.get_num_threads", lambda: 99)  # as in a process of a loader
    ahead(batch.view_keys)
    assert len(told) == len(batch.view_keys)


def test_a_trained_encoder_is_never_looked_up(siglip, llama, tmp_path):
    vlm = a_vlm({"name": "hf", "id": str(siglip)}, llama)
    apply_training(vlm, Stage(steps=1, batch_size=1, vision="full"))
    counts = stored(vlm, tmp_path).store.counts
    vlm(keyed(a_batch(vlm))).loss_sum.backward()
    assert next(vlm.vision.backbone.parameters()).grad is not None
    assert (counts.read, counts.written) == (0, 0)


def test_padding_that_an_encoder_sees_is_refused(siglip, native, llama):
    assert "padding" in refusal(a_vlm({"name": "hf", "id": str(siglip)}, llama).vision, padded=True)
    assert not refusal(native.vision, padded=True)
    anything = {"name": "siglip-native", "id": str(siglip), "patches": "any"}
    assert "padding" in refusal(a_vlm(anything, llama).vision, padded=True)
    assert not refusal(a_vlm(anything, llama).vision, padded=False)
