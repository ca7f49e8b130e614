"""Stages: what trains, what adapters match, what a checkpoint keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.checkpoints import kin
from tests.checkpoints.kin import Kin
from tests.models.support import a_batch, a_vlm
from vlm_ablate.config.stages import LoraConfig, Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import apply_training, merge_adapters
from vlm_ablate.models.trained_state import load_trained, save_trained, trainable_state_dict
from vlm_ablate.models.vlm import VLM, build_vlm

ARCHITECTURES = ["autoregressive", "cross_attention"]
LORA = dict(r=2, alpha=4.0, dropout=0.0)


def stage(lora: dict | None = None, **fields) -> Stage:
    return Stage(steps=1, batch_size=1, lora=LoraConfig(**{**LORA, **(lora or {})}), **fields)


@pytest.fixture(params=ARCHITECTURES)
def vlm(request, llama, siglip) -> VLM:
    return a_vlm(siglip, llama, architecture=request.param)


def step(vlm: VLM, rate: float = 0.05) -> None:
    vlm.train()
    vlm.zero_grad()
    vlm(a_batch(vlm)).loss_sum.backward()
    with torch.no_grad():
        for parameter in vlm.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad.sign()
    vlm.eval()


def logits(vlm: VLM) -> torch.Tensor:
    batch = a_batch(vlm)
    with torch.no_grad():
        return vlm.logits(batch)


@pytest.mark.parametrize("kind", ["frozen", "lora", "dora", "full"])
def test_gradients_are_where_the_stage_says_and_nowhere_else(vlm: VLM, kind: str) -> None:
    report = apply_training(vlm, stage(vision=kind, language=kind))
    step(vlm)
    for name, parameter in vlm.named_parameters():
        new = name.startswith(("connector.", "architecture.")) or "trainable_tokens" in name
        adapter = "lora_" in name
        expected = new or (adapter if kind in ("lora", "dora") else kind == "full")
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None) == expected, name
    assert set(report.matched) == ({"vision", "language"} if kind in ("lora", "dora") else set())
    assert sum(report.trainable.values()) == sum(p.numel() for p in vlm.parameters() if p.requires_grad)


@pytest.mark.parametrize("images", [False, True])
def test_every_trained_parameter_has_a_gradient_with_and_without_images(vlm: VLM, images: bool) -> None:
    apply_training(vlm, stage(vision="lora", language="lora"))
    vlm.train()
    vlm(a_batch(vlm, texts=None if images else ["the dog says yes", "a cat"])).loss_sum.backward()
    assert [n for n, p in vlm.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_connector(vlm: VLM) -> None:
    report = apply_training(vlm, stage(language="lora", connector="frozen"))
    assert report.trainable["connector"] == report.trainable["architecture"] == 0
    assert report.trainable["language"] > 0


@pytest.mark.parametrize("layers", [2, r"model\.layers\.[23]\..*"])
def test_a_part_of_a_backbone_is_trained(vlm: VLM, layers: int | str) -> None:
    apply_training(vlm, stage(language="full", trained_layers={"language": layers}))
    trained = {n for n, p in vlm.language.model.named_parameters() if p.requires_grad and "trainable_tokens" not in n}
    last = ("model.layers.2.", "model.layers.3.")
    assert trained == {n for n, _ in vlm.language.model.named_parameters() if n.startswith(last)}
    apply_training(vlm, stage(language="full"))
    assert all(p.requires_grad for p in vlm.language.model.parameters()), "the next stage trains all of it"


@pytest.mark.parametrize(("layers", "told"), [(9, "has 4 layers, not 9"), ("layers", "matches no parameter")])
def test_a_part_that_is_not_there(vlm: VLM, layers: int | str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        apply_training(vlm, stage(language="full", trained_layers={"language": layers}))
    with pytest.raises(ValueError, match="only of a backbone trained in full"):
        stage(language="lora", trained_layers={"language": 1})


def test_all_linear_leaves_the_output_head_out(vlm: VLM) -> None:
    matched = apply_training(vlm, stage(language="lora")).matched["language"]
    assert len(matched) == 7 * 4
    assert not any("lm_head" in name for name in matched)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r"model\.layers\.\d+\.self_attn\.(q|v)_proj"])
def test_targets_by_suffix_and_by_expression(vlm: VLM, targets) -> None:
    matched = apply_training(vlm, stage(dict(language_targets=targets), language="lora")).matched["language"]
    assert len(matched) == 8


@pytest.mark.parametrize("targets", [["qkv"], r"no\.such\..*"])
def test_targets_that_match_nothing_are_an_error_before_anything_changes(vlm: VLM, targets) -> None:
    before = {n for n, _ in vlm.named_parameters()}
    with pytest.raises(ModelError, match="language"):
        apply_training(vlm, stage(dict(language_targets=targets), language="lora"))
    assert {n for n, _ in vlm.named_parameters()} == before


def test_a_model_of_convolutions_names_those_that_can_be_adapted(llama) -> None:
    vision = {"name": "efficientnet-lite0", "weights": "random", "resolution": 64}
    vlm = a_vlm(vision, llama, connector="linear")
    with pytest.raises(ModelError, match="match no module of EfficientNetLite") as error:
        apply_training(vlm, stage(vision="lora"))
    names = ["_conv_head", "_expand_conv", "_project_conv"]
    assert error.value.hint == f"write names of its convolutions in lora.vision_targets: [{', '.join(names)}]"
    pixels = torch.randn(1, 3, 32, 32)
    before = vlm.encode_images(pixels, None)
    assert len(apply_training(vlm, stage(dict(vision_targets=names), vision="lora")).matched["vision"]) == 1 + 15 + 16
    torch.testing.assert_close(vlm.eval().encode_images(pixels, None), before)
    vlm.train().encode_images(pixels, None).sum().backward()
    assert all(p.grad is not None for n, p in vlm.vision.named_parameters() if "lora_" in n)


def test_the_last_layers_of_an_encoder_of_two_stacks_are_those_of_the_second(tmp_path) -> None:
    case = Kin("mllama")
    vlm = kin.ours(case, tmp_path, kin.save(case, tmp_path))
    apply_training(vlm, stage(vision="full", trained_layers={"vision": 2}))
    paths = [n.split(".") for n, p in vlm.vision.named_parameters() if p.requires_grad]
    trained = {f"{path[1]}.{path[3]}" for path in paths}
    assert trained == {"transformer.2", "global_transformer.0"}
    with pytest.raises(ModelError, match="4 layers, not 5"):
        apply_training(vlm, stage(vision="full", trained_layers={"vision": 5}))


def loss_and_gradients(model: VLM, how: Stage) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of a step under autocast; what is trained is fp32."""
    apply_training(model, how)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(a_batch(model)).loss_sum
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in trained.items() if p.grad is not None}


@pytest.mark.parametrize("training", ["frozen", "lora"])
def test_a_language_model_in_bf16_keeps_what_is_trained_in_fp32(vlm: VLM, training: str) -> None:
    half = build_vlm(vlm.config, vlm.views, half=["language"])
    results = []
    for model in (vlm, half):
        results.append(loss_and_gradients(model, stage(language=training)))
        batch = a_batch(model, left=True)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert len(model.eval().generate(batch, max_new_tokens=3)) == 3
    assert {p.dtype for n, p in half.language.named_parameters() if not p.requires_grad} == {torch.bfloat16}
    (loss, gradients), (half_loss, half_gradients) = results
    torch.testing.assert_close(half_loss, loss, rtol=0.02, atol=0.0)
    assert gradients.keys() == half_gradients.keys()
    for name, gradient in gradients.items():
        distance = (half_gradients[name] - gradient).norm()
        assert distance <= 0.1 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("training", ["frozen", "lora", "dora"])
def test_a_frozen_encoder_in_bf16_gives_the_digits_of_one_in_fp32(vlm: VLM, training: str) -> None:
    half = build_vlm(vlm.config, vlm.views, half=["vision"])
    (loss, gradients), (half_loss, half_gradients) = (
        loss_and_gradients(model, stage(vision=training)) for model in (vlm, half)
    )
    kept = {n for n, p in half.vision.named_parameters() if p.dtype == torch.float32 and "lora_" not in n}
    matrices = {n for n, p in half.vision.named_parameters() if p.ndim > 1 and "lora_" not in n}
    assert not kept & matrices - {"backbone.embeddings.position_embedding.weight"} and any("norm" in n for n in kept)
    assert gradients.keys() == half_gradients.keys()
    if training == "frozen":
        assert torch.equal(half_loss, loss) and all(torch.equal(half_gradients[n], g) for n, g in gradients.items())
        return
    torch.testing.assert_close(half_loss, loss, rtol=0.02, atol=0.0)
    for name, gradient in gradients.items():
        assert (half_gradients[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("part", ["vision", "language"])
def test_magnitudes_beside_weights_in_bf16_start_as_their_exact_norms(vlm: VLM, part: str) -> None:
    half = build_vlm(vlm.config, vlm.views, half=[part])
    everything = {"vision_targets": r".*(proj|patch_embedding)"}
    apply_training(half, stage(**{part: "dora", "lora": everything}))
    found = {n: m for n, m in half.named_modules() if len(getattr(m, "lora_magnitude_vector", ()))}
    kinds = {type(m.get_base_layer()) for m in found.values()}
    assert kinds == ({nn.Linear, nn.Conv2d} if part == "vision" else {nn.Linear})
    for module in found.values():
        magnitude, weight = module.lora_magnitude_vector["default"].weight, module.get_base_layer().weight
        assert weight.dtype == torch.bfloat16 and magnitude.dtype == torch.float32
        torch.testing.assert_close(magnitude.flatten(), weight.detach().float().flatten(1).norm(dim=1))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_start_at_the_base_and_merge_back_into_it(vlm: VLM, kind: str) -> None:
    base, names = logits(vlm), {n for n, _ in vlm.named_parameters()}
    apply_training(vlm, stage(vision=kind, language=kind))
    torch.testing.assert_close(logits(vlm), base, rtol=1e-5, atol=1e-5)
    step(vlm)
    trained = logits(vlm)
    assert (trained - base).abs().max() > 1e-3
    merge_adapters(vlm)
    assert {n for n, _ in vlm.named_parameters()} == names
    torch.testing.assert_close(logits(vlm), trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kinds", [["lora"], ["dora"], ["full"], ["frozen"], ["lora", "full"], ["lora", "dora"], ["lora", "frozen"]]
)
def test_trained_state_goes_into_a_fresh_model(kinds, request, llama, siglip, tmp_path) -> None:
    vlm = a_vlm(siglip, llama)
    for kind in kinds:
        apply_training(vlm, stage(vision=kind, language=kind))
        step(vlm)
    save_trained(vlm, tmp_path / "trained.safetensors")
    fresh = a_vlm(siglip, llama)
    load_trained(fresh, tmp_path / "trained.safetensors")
    assert torch.equal(logits(fresh.eval()), logits(vlm))
    if kinds == ["frozen"]:
        assert not any(n.startswith("vision") for n in trainable_state_dict(vlm))
    if kinds == ["lora"]:
        assert not any("base_layer" in n for n in trainable_state_dict(vlm))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_statistics_of_an_encoder_that_was_trained_go_into_a_fresh_model(kind, llama, siglip, tmp_path) -> None:
    """Those of batch norms follow from no parameter; without them a model that is read back gives other logits."""

    def with_batch_norm() -> VLM:
        vlm = a_vlm(siglip, llama)
        vlm.vision.backbone.norm = nn.BatchNorm1d(vlm.vision.width)
        vlm.vision.register_forward_hook(
            lambda part, _, seen: replace(seen, features=part.backbone.norm(seen.features.mT).mT)
        )
        return vlm.eval()

    vlm, fresh = with_batch_norm(), with_batch_norm()
    assert not any(name.startswith("vision.") for name in trainable_state_dict(vlm))
    apply_training(vlm, stage(vision=kind))
    step(vlm)
    save_trained(vlm, tmp_path / "trained.safetensors")
    load_trained(fresh, tmp_path / "trained.safetensors")
    assert torch.equal(logits(fresh.eval()), logits(vlm))


def test_same_adapters_continue_and_other_ones_start_from_the_merged_weights(vlm: VLM) -> None:
    apply_training(vlm, stage(language="lora"))
    step(vlm)
    adapters, trained = dict(vlm.adapters), logits(vlm)
    apply_training(vlm, stage(language="lora"))
    assert vlm.adapters == adapters and torch.equal(logits(vlm), trained)
    apply_training(vlm, stage(dict(r=3), language="dora"))
    assert vlm.adapters["language"].r == 3
    torch.testing.assert_close(logits(vlm), trained, rtol=1e-4, atol=1e-4)


def test_adapters_stay_but_do_not_train_when_a_stage_freezes_the_backbone(vlm: VLM) -> None:
    apply_training(vlm, stage(dict(dropout=0.5), language="lora"))
    step(vlm)
    trained = logits(vlm)
    apply_training(vlm, stage(dict(dropout=0.5), language="frozen"))
    assert not any(p.requires_grad for n, p in vlm.named_parameters() if "lora_" in n)
    vlm.train()
    assert torch.equal(logits(vlm), trained)


def test_state_of_another_configuration_is_refused(llama, siglip, tmp_path) -> None:
    save_trained(a_vlm(siglip, llama), tmp_path / "trained.safetensors")
    with pytest.raises(ModelError, match="another configuration"):
        load_trained(a_vlm(siglip, llama, architecture="cross_attention"), tmp_path / "trained.safetensors")


@pytest.mark.parametrize(
    "told",
    ["{", "[]", '{"language": {}}', '{"language": 5}', '{"ears": {"kind": "lora"}}', '{"language": {"kind": "x"}}'],
)
def test_adapters_that_a_file_does_not_tell_of_in_order_are_refused(llama, siglip, tmp_path, told: str) -> None:
    file = tmp_path / "trained.safetensors"
    save_file(trainable_state_dict(a_vlm(siglip, llama)), file, metadata={"adapters": told})
    with pytest.raises(ModelError, match=r"trained\.safetensors does not say what adapters it has"):
        load_trained(a_vlm(siglip, llama), file)


def test_adapter_initialisation_depends_on_the_seed_alone(llama, siglip) -> None:
    states = []
    for noise, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(noise)
        vlm = a_vlm(siglip, llama, seed=seed)
        apply_training(vlm, stage(language="lora"))
        states.append(trainable_state_dict(vlm))
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    name = next(n for n in states[0] if "lora_A" in n)
    assert not torch.equal(states[0][name], states[2][name])
