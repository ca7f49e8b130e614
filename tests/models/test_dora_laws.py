"""DoRA in closed form over random shapes and ranks, and where a layer is left to peft."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from vlm_ablate.models.dora import ClosedFormDora, in_closed_form


def pair(width: int, out: int, r: int, *, alpha: float = 8.0, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A trained adapter around a layer in float64: peft's, and ours."""
    torch.manual_seed(seed)
    config = LoraConfig(r=r, lora_alpha=alpha, use_dora=True, target_modules=["0"])
    theirs = inject_adapter_in_model(config, nn.Sequential(nn.Linear(width, out))).double()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    ours = deepcopy(theirs)
    in_closed_form(ours)
    return theirs, ours


def gradients(model: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Summed over several passes, as micro-batches are."""
    model.zero_grad()
    for x in inputs:
        model(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 1), (3, 5, 8), (16, 7, 4), (7, 16, 16)], ids=str)
def test_norms_are_those_of_the_whole_matrix(sizes: tuple[int, int, int]) -> None:
    """Also of a rank above the widths, of rows that cancel, and after any of the three has changed."""
    width, out, r = sizes
    layer = pair(width, out, r)[1][0].lora_magnitude_vector["default"]
    assert isinstance(layer, ClosedFormDora)
    generator = torch.Generator().manual_seed(width)
    weight, a, b = (torch.randn(shape, generator=generator, dtype=torch.float64)
                    for shape in ((out, width), (r, width), (out, r)))  # fmt: skip
    for scaling in (0.0, 0.5, -2.0):
        for change in range(3):
            (weight, a, b)[change].mul_(1.5)
            found = layer.row_norms(weight, a, b, scaling)
            torch.testing.assert_close(found, (weight + scaling * b @ a).norm(dim=1), rtol=1e-9, atol=1e-9)
    cancelled = -(0.5 * b @ a)
    found = layer.row_norms(cancelled, a, b, 0.5)
    assert found.isfinite().all() and (found <= 1e-6 * cancelled.norm(dim=1) + 1e-12).all()
    half = layer.row_norms(weight.bfloat16(), a.float(), b.float(), 0.5)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), (weight + 0.5 * b @ a).norm(dim=1), rtol=0.03, atol=0.05)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (0, 6)], ids=str)
@pytest.mark.parametrize("wanted", [True, False])
def test_inputs_of_any_shape_with_or_without_a_gradient(shape: tuple[int, ...], wanted: bool) -> None:
    theirs, ours = pair(6, 5, 2)
    found = []
    for model in (theirs, ours):
        torch.manual_seed(1)
        inputs = [torch.randn(shape, dtype=torch.float64).requires_grad_(wanted) for _ in range(2)]
        found.append((gradients(model, inputs), [x.grad for x in inputs]))
    (expected, of_inputs), (given, ours_of_inputs) = found
    assert given.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(given[name], gradient, rtol=1e-9, atol=1e-9)
    for one, other in zip(of_inputs, ours_of_inputs, strict=True):
        assert (one is None) == (other is None) == (not wanted)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_a_base_layer_that_is_trained_itself_is_left_to_peft() -> None:
    theirs, ours = pair(6, 5, 2)
    x = torch.randn(4, 6, dtype=torch.float64)
    for model in (theirs, ours):
        model[0].base_layer.requires_grad_(True)
    expected, found = gradients(theirs, [x]), gradients(ours, [x])
    assert found.keys() == expected.keys() and any("base_layer.weight" in name for name in found)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_what_is_no_linear_layer_and_what_has_no_dora_stay_pefts() -> None:
    for kind, use_dora in ((nn.Conv2d(3, 4, 1), True), (nn.Linear(3, 4), False)):
        config = LoraConfig(r=2, use_dora=use_dora, target_modules=["0"])
        model = inject_adapter_in_model(config, nn.Sequential(kind))
        before = [type(module) for module in model.modules()]
        in_closed_form(model)
        assert [type(module) for module in model.modules()] == before
    _, ours = pair(6, 5, 2)
    layer = ours[0].lora_magnitude_vector["default"]
    in_closed_form(ours)
    assert ours[0].lora_magnitude_vector["default"] is layer, "once is enough"
