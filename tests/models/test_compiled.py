"""Layers that are compiled give what they gave before: while a model trains, with adapters, checkpointing and without
padding. What a compiler makes of them is traced here and computed as it stands (`aot_eager`)."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from tests.models.conftest import TEXT, save_lm
from tests.models.ragged import a_ragged_batch, joined
from tests.models.support import a_vlm, assert_equal_gradients
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import LoraConfig, Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models import compiled
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.compiled import compile_layers, release
from vlm_ablate.models.vlm import VLM


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_lm(tmp_path_factory.mktemp("llama"), LlamaConfig(**TEXT))


@pytest.fixture
def traced(monkeypatch):
    """Functions that ran compiled; what torch knows of others is forgotten."""
    called: list[str] = []
    told = compiled._told

    def noted(fast, args, kwargs):
        called.append(getattr(fast, "__qualname__", str(fast)))
        return told(fast, args, kwargs)

    monkeypatch.setattr(compiled, "_told", noted)
    torch._dynamo.reset()
    yield called
    torch._dynamo.reset()


def a_model(siglip, folder, training: str, *, checkpointing: bool = False) -> VLM:
    vlm = a_vlm(siglip, folder).double()
    stage = Stage(steps=1, batch_size=1, vision=training, language=training, lora=LoraConfig(r=2, dropout=0.0))
    apply_training(vlm, stage, gradient_checkpointing=checkpointing)
    torch.manual_seed(1)
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return vlm.double().train()


def gradients(vlm: VLM, batch) -> tuple[float, dict[str, torch.Tensor]]:
    vlm.zero_grad()
    loss = vlm(batch).loss_sum
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("training", "checkpointing", "backend"),
    [("full", False, "aot_eager"), ("lora", True, "eager"), ("dora", True, "eager")],
)
def test_compiled_layers_train_as_they_did(siglip, llama, traced, training, checkpointing, backend) -> None:
    vlm = a_model(siglip, llama, training, checkpointing=checkpointing)
    names, batch = list(vlm.state_dict()), a_ragged_batch(vlm)
    loss, expected = gradients(vlm, batch)
    assert vlm.attend_by("documents")
    layers = len(vlm.language.layers) + len(vlm.vision.backbone.encoder.layers)
    assert compile_layers(vlm, backend) == layers and not traced
    assert list(vlm.state_dict()) == names
    for form in (batch, joined(batch)):
        own, found = gradients(vlm, form)
        assert own == pytest.approx(loss, rel=1e-10)
        assert_equal_gradients(found, expected)
    assert {name.partition(".")[0] for name in traced} >= {"LlamaAttention", "LlamaMLP", "LlamaRMSNorm"}
    traced.clear()
    vlm.eval()
    with torch.no_grad():
        vlm(batch)
    assert not traced, "scores are computed without"
    release(vlm.train())
    assert gradients(vlm, batch)[0] == loss and not traced


def test_what_is_stored_of_an_encoder_is_computed_without(siglip, llama, traced) -> None:
    vlm = a_model(siglip, llama, "lora")
    compile_layers(vlm, "eager")
    vlm.features = object()  # type: ignore[assignment]  # a store; it is not asked here
    with torch.no_grad():
        vlm.vision(torch.randn(1, 3, 32, 32).double(), None)
    assert not traced


def test_a_forward_that_was_put_on_a_module_is_there_again_afterwards(siglip, llama) -> None:
    vlm = a_model(siglip, llama, "full")
    one, other = (layer.mlp for layer in vlm.language.layers[:2])
    one.forward = own = lambda *args, **kwargs: torch.zeros(1)  # as a plug-in or a library may do
    compile_layers(vlm, "eager")
    assert one.forward is not own
    release(vlm)
    assert one.forward is own and not [name for name in vars(other) if "forward" in name and "hook" not in name]


def test_where_nothing_can_be_compiled_it_is_refused(siglip, llama, monkeypatch) -> None:
    vlm = a_vlm(siglip, llama)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ModelError, match=r"no C\+\+ compiler"):
        compile_layers(vlm)
    monkeypatch.setattr(compiled, "GradientCheckpointingLayer", type("Other", (torch.nn.Module,), {}))
    with pytest.raises(ModelError, match="nothing can be compiled"):
        compile_layers(vlm, "eager")


def test_a_compiler_that_fails_is_told_by_name(siglip, llama, traced) -> None:
    def failing(graph, inputs):
        raise ValueError("no such register")

    vlm = a_model(siglip, llama, "full")
    compile_layers(vlm, failing)  # type: ignore[arg-type]  # torch takes functions, too
    with pytest.raises(ModelError, match="the compiler failed"):
        vlm(a_ragged_batch(vlm))


def test_it_is_off_and_decides_no_result() -> None:
    from vlm_ablate.config.decides import dump

    assert not Execution().compile and "compile" not in dump(Execution(), "execution")
    assert not dump(Execution(compile=True), "training") and not dump(Execution(compile=True), "score")
