"""DoRA (arXiv:2402.09353) with the norms of its rows in closed form, in peft's layer: same parameters, same values.

peft multiplies an identity matrix through A and B in every forward pass to have B A, adds it to W, and takes the norms
of the rows. They follow from products with r columns and the norms of the rows of W, which does not change:

    |W + s B A|^2 = |W|^2 + 2 s rows(W A^T . B) + s^2 rows(B (A A^T) . B)

(`.` elementwise, `rows` the sum over a row.) All else is as peft computes it, dropout included.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any, cast
from weakref import ref

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from vlm_ablate.models.language.base import trained_dtype


class _Adapted(torch.autograd.Function):
    """The output of a frozen linear layer with DoRA as one operation, which keeps x, x A^T and one output.

    The base layer's product belongs to it, so that the gradient of x is written once and the scale's gradient needs
    nothing but what is kept. Without dropout the base layer's output of x serves as that product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        result: Tensor,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        dropped: bool,
    ) -> Tensor:
        """See `ClosedFormVariant.forward`; everything is computed in the precision of `result`, scale as it is.

        Args:
            ctx: autograd's.
            x: (..., in).
            result: (..., out) of the base layer, bias included.
            a: (r, in).
            b: (out, r).
            scale: (out,), magnitude over norm.
            weight: (out, in) of the base layer.
            bias: (out,) of the base layer.
            scaling: alpha / r.
            dropped: whether x is what dropout left of the input.
        """
        like = result.dtype
        rows, flat = x.to(like).reshape(-1, x.shape[-1]), result.reshape(-1, result.shape[-1])
        plain = linear(rows, weight.to(like)) if dropped else flat
        low = linear(rows, a.to(like))
        adapted = torch.addmm(plain, low, b.to(like).T, alpha=scaling)
        out = torch.empty_like(adapted)
        if dropped:
            torch.addcmul(flat - plain, adapted, scale, out=out)
        elif bias is not None:
            torch.addcmul(bias * (1 - scale), adapted, scale, out=out)
        else:
            torch.mul(adapted, scale, out=out)
        ctx.save_for_backward(rows, low, adapted, a, b, scale, weight, bias)
        ctx.scaling, ctx.dropped, ctx.x = scaling, dropped, (x.shape, x.dtype)
        return out.view(result.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, result, a, b and scale."""
        rows, low, adapted, a, b, scale, weight, bias = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        products = g * adapted
        of_scale = products.sum(0, dtype=scale.dtype)
        if bias is not None and not ctx.dropped:
            of_scale -= bias * g.sum(0, dtype=scale.dtype)
        inner = torch.mul(g, scale, out=products)
        of_low = (inner @ b.to(g.dtype)).mul_(ctx.scaling)
        of_a, of_b = of_low.T @ rows, (inner.T @ low).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            through = inner.sub_(g) if ctx.dropped else inner
            of_x = (through @ weight.to(g.dtype)).addmm_(of_low, a.to(g.dtype)).view(ctx.x[0]).to(ctx.x[1])
        of_result = grad if ctx.dropped else None
        return of_x, of_result, of_a.to(a.dtype), of_b.to(b.dtype), of_scale, None, None, None, None


class ClosedFormVariant(DoraLinearVariant):
    """How peft's linear layer computes with a `ClosedFormDora`; merging and unmerging are peft's own."""

    @staticmethod
    def forward(  # type: ignore[override]  # peft's own subclasses spell their arguments out, too
        module: Linear, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """scale * (x W^T + s x A^T B^T) + bias, scale = magnitude / norm of the row; see `DoraLinearVariant.forward`.

        As the bias is in `result` already, it is scaled with it and (1 - scale) times the bias added. With dropout, as
        in peft, the base layer's own output is of the whole x and all the rest of the dropped one. A base layer that is
        trained itself is left to peft.

        Args:
            module: peft's layer.
            active_adapter: name of the adapter.
            x: (..., in).
            result: (..., out), what the base layer gave for x.
        """
        base, scaling = cast(nn.Linear, module.get_base_layer()), cast(float, module.scaling[active_adapter])
        if any(p.requires_grad for p in base.parameters()):
            return DoraLinearVariant.forward(module, active_adapter, x, result)
        a, b = (cast(nn.Linear, layers[active_adapter]) for layers in (module.lora_A, module.lora_B))
        dora = cast(ClosedFormDora, module.lora_magnitude_vector[active_adapter])
        scale = dora.weight / dora.row_norms(base.weight, a.weight, b.weight, scaling)
        dropout = module.lora_dropout[active_adapter]
        dropped = module.training and not isinstance(dropout, nn.Identity)
        x, result = (dropout(x), result) if dropped else (x, result.detach())
        out: Tensor = _Adapted.apply(x, result, a.weight, b.weight, scale, base.weight, base.bias, scaling, dropped)  # type: ignore[no-untyped-call]  # torch gives it none
        return out


class ClosedFormDora(DoraLinearLayer):
    """peft's DoRA of a linear layer; the norms are exact to rounding and, as there, constants to the gradient."""

    def __init__(self, of: DoraLinearLayer) -> None:
        super().__init__(fan_in_fan_out=False)  # type: ignore[no-untyped-call]  # peft gives it no types
        self.weight = of.weight
        self._squares: tuple[ref[Tensor], tuple[object, ...], Tensor] | None = None

    @torch.no_grad()
    def row_norms(self, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        """Norms of the rows of weight + scaling * b a, (out,), in fp32 or more.

        Args:
            weight: (out, in). In bf16 its product with `a` is one of bf16, summed in fp32.
            a: (r, in).
            b: (out, r).
            scaling: alpha / r.
        """
        exact = torch.promote_types(weight.dtype, torch.float32)
        with nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False):
            across = linear(weight, a.to(weight.dtype)).to(exact)
            a, b = a.to(exact), b.to(exact)
            low_rank = across.mul_(2 * scaling).add_(b @ (a @ a.T), alpha=scaling**2)
            return (self._squared_rows(weight, exact) + (low_rank * b).sum(1)).clamp_(min=0).sqrt_()

    def _squared_rows(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """|W|^2 by row, computed again when W is another tensor, elsewhere, or was changed."""
        state = (weight.data_ptr(), weight._version, weight.dtype, weight.device, weight.shape)
        if self._squares is None or self._squares[0]() is not weight or self._squares[1] != state or weight.is_meta:
            squares = torch.linalg.vector_norm(weight, dim=1, dtype=dtype).square_()
            self._squares = ref(weight), state, squares
        return self._squares[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_squares": None}


@cache
def opaque_to_compilers() -> None:
    """Have torch.compile leave adapted layers as they are: whether a weight has changed cannot be traced."""
    ClosedFormVariant.forward = staticmethod(torch.compiler.disable(ClosedFormVariant.forward))  # type: ignore[method-assign]  # for good


@torch.no_grad()
def start_from_exact_norms(backbone: nn.Module) -> None:
    """Of new adapters beside weights in bf16: magnitudes in fp32, which peft rounds to bf16 as it takes them.

    A row's scale would be off by up to 0.4 % before any step, as its norm is not rounded (`row_norms`).
    """
    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            weight = cast(Tensor, cast(BaseTunerLayer, module).get_base_layer().weight)
            layers: list[Any] = [*module.lora_magnitude_vector.values()]
            for layer in layers if weight.dtype != (exact := trained_dtype(weight.dtype)) else ():
                layer.weight.data = layer.get_weight_norm(weight.to(exact), 0.0, 1.0)


def in_closed_form(backbone: nn.Module) -> None:
    """Put `ClosedFormDora` in the place of peft's layer wherever that is around a linear one."""
    for module in backbone.modules():
        if not isinstance(module, Linear):
            continue
        for name, layer in module.lora_magnitude_vector.items():
            if type(layer) is DoraLinearLayer and not layer.fan_in_fan_out:
                module.lora_magnitude_vector[name] = ClosedFormDora(layer)
                module.lora_variant[name] = ClosedFormVariant()
