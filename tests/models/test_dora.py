"""DoRA's norms in closed form give what peft's layer gives: output, gradients, names, with and without dropout."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from vlm_ablate.models.dora import ClosedFormDora, in_closed_form

ADAPTER = "lora_magnitude_vector.default"


def peft_layer(*, dropout: float = 0.0, bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Module:
    """48 -> 40 with adapters that have trained a while: B is not zero, magnitudes are not the norms."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 40, bias=bias))
    config = LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, use_dora=True, target_modules=["0"])
    model = inject_adapter_in_model(config, model).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def both(**options) -> tuple[nn.Module, nn.Module]:
    theirs = peft_layer(**options)
    ours = deepcopy(theirs)
    in_closed_form(ours)
    assert isinstance(ours.get_submodule(f"0.{ADAPTER}"), ClosedFormDora)
    return theirs, ours


def passed(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and all gradients of one pass, the same dropout each time."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    return {"out": out, "x": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_values_and_gradients_are_pefts(dtype, close, dropout, bias, training) -> None:
    theirs, ours = both(dropout=dropout, bias=bias, dtype=dtype)
    x = torch.randn(2, 7, 48, dtype=dtype)
    expected, found = (passed(model.train(training), x) for model in (theirs, ours))
    assert found.keys() == expected.keys() and any(ADAPTER in name for name in found)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= close * value.abs().max(), name


def test_names_and_files_are_pefts() -> None:
    theirs, ours = both()
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(peft_layer(dropout=0.5).state_dict())


@pytest.mark.parametrize("change", ["in place", "in its storage", "another tensor"])
def test_norms_follow_a_changed_base_weight(change: str) -> None:
    theirs, ours = both()
    x = torch.randn(3, 48, dtype=torch.float64)
    ours(x)
    for model in (theirs, ours):
        layer = model[0].base_layer
        with torch.no_grad():
            if change == "in place":
                layer.weight.mul_(2)
            elif change == "in its storage":
                layer.weight.data = layer.weight.data * 2
            else:
                layer.weight = nn.Parameter(layer.weight * 2, requires_grad=False)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_merging_and_unmerging_give_the_same_weights() -> None:
    theirs, ours = both()
    x = torch.randn(3, 48, dtype=torch.float64)
    before = ours(x)
    for model in (theirs, ours):
        model[0].merge()
    assert torch.equal(ours[0].base_layer.weight, theirs[0].base_layer.weight)
    torch.testing.assert_close(ours(x), before, rtol=1e-10, atol=1e-10)
    ours[0].unmerge()
    torch.testing.assert_close(ours(x), before, rtol=1e-10, atol=1e-10)


def test_a_base_in_bf16_under_autocast_is_nearer_to_exact_norms_than_peft() -> None:
    theirs, ours = both(dtype=torch.float32)
    x = torch.randn(64, 48)
    for model in (theirs, ours):
        model[0].base_layer.to(torch.bfloat16)
    exact = deepcopy(theirs).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = [(model(x) - exact).abs().max() for model in (ours, theirs)]
    assert found[0] <= 1.1 * found[1]
    assert found[0] <= 0.03 * exact.abs().max()


def test_a_copy_keeps_norms_of_its_own() -> None:
    _, ours = both()
    x = torch.randn(3, 48, dtype=torch.float64)
    before = ours(x)
    copy = deepcopy(ours)
    with torch.no_grad():
        ours[0].base_layer.weight.mul_(3)
    torch.testing.assert_close(copy(x), before)
