"""Backbones of PP-OCRv4 (mobile detection and recognition), run by onnxruntime: a real encoder that knows text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.offline.configs import PaddleOcrConfig
from vlm_ablate.offline.encoders.efficientnet import as_patches, resize
from vlm_ablate.offline.encoders.packaged import PackagedFile

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Part:
    """One network of the OCR pipeline and where its backbone ends."""

    weights: PackagedFile
    output: str
    """Tensor of the ONNX graph that holds the backbone's last feature map."""
    width: int
    stride: tuple[int, int]
    """Pixels per cell, down and across."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int
    """Constants of the cut graph (no torch parameters: it is never trained)."""
    flops_per_pixel: float
    """Floating-point operations of the convolutions over one input pixel, 2 a multiply-add."""


def _weights(path: str, sha256: str) -> PackagedFile:
    return PackagedFile(
        package="rapidocr_onnxruntime",
        path=f"models/{path}",
        sha256=sha256,
        requirement="rapidocr-onnxruntime==1.4.4",
        licence="Apache-2.0",
    )


# The networks take BGR; means and deviations stand in our order, RGB.
PARTS = {
    "detection": Part(
        weights=_weights(
            "ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
        ),
        output="conv2d_468.tmp_0",
        width=384,
        stride=(32, 32),
        mean=(0.406, 0.456, 0.485),
        std=(0.225, 0.224, 0.229),
        parameters=854_816,
        flops_per_pixel=4_116.5,
    ),
    "recognition": Part(
        weights=_weights(
            "ch_PP-OCRv4_rec_infer.onnx", "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
        ),
        output="conv2d_203.tmp_0",
        width=480,
        stride=(16, 4),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        parameters=1_320_860,
        flops_per_pixel=84_288.7,
    ),
}


class PaddleOcrEncoder(VisionEncoder):
    """Views are resized to `resolution` and every cell of the last feature map is one patch. Always frozen."""

    config: PaddleOcrConfig
    trainable = False

    def __init__(
        self,
        config: PaddleOcrConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        part = PARTS[config.part]
        side = config.resolution
        if any(side % s for s in part.stride):
            raise ModelError(f"ppocr-v4 {config.part}: resolution {side} does not fit strides {part.stride}")
        self.part = part
        self.width, self.mean, self.std = part.width, part.mean, part.std
        self.backbone = OnnxBackbone(cut(part) if load_weights else None, part)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if self.config.pool:
            return self.config.pool, self.config.pool
        down, across = self.part.stride
        return self.config.resolution // down, self.config.resolution // across

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        size = (self.config.resolution, self.config.resolution)
        cells = self.backbone(resize(pixel_values, size).flip(1))  # RGB -> BGR
        return as_patches(cells, pixel_mask, self.config.pool)


class OnnxBackbone(nn.Module):
    """An ONNX graph as a module without parameters. On meta tensors it only answers with the right shape."""

    def __init__(self, graph: bytes | None, part: Part) -> None:
        super().__init__()
        self._graph, self._part = graph, part
        self._session = _session(graph) if graph is not None else None

    @property
    def untracked_parameters(self) -> int:
        """Weights that `parameters()` does not show."""
        return self._part.parameters

    def untracked_flops(self, height: int, width: int) -> float:
        """Operations of one forward over an input of that size, which torch does not see."""
        return self._part.flops_per_pixel * height * width

    def forward(self, x: Tensor) -> Tensor:
        """(views, 3, H, W) BGR -> (views, width, H/stride, W/stride), on the input's device."""
        if x.is_meta:
            rows, columns = (side // stride for side, stride in zip(x.shape[-2:], self._part.stride, strict=True))
            return x.new_empty(x.shape[0], self._part.width, rows, columns)
        if self._session is None:
            raise ModelError("this encoder was built for planning only, without weights")
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        (cells,) = self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        return torch.from_numpy(cells).to(x.device, x.dtype)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]  # torch gives it none
        return state | {"_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch gives it none
        self._session = _session(self._graph) if self._graph is not None else None


def cut(part: Part) -> bytes:
    """The serialised graph that ends at the backbone's last feature map.

    Raises:
        AssetMissing: the weights or the onnx package are not installed.
    """
    file = part.weights.find()
    try:
        import onnx
    except ImportError as error:
        raise AssetMissing("package onnx is not installed", hint="pip install onnx onnxruntime") from error
    model = onnx.load(file)
    needed, kept = {part.output}, []
    for node in reversed(model.graph.node):
        if any(o in needed for o in node.output):
            kept.append(node)
            needed |= set(node.input)
    weights = [w for w in model.graph.initializer if w.name in needed]
    del model.graph.node[:], model.graph.output[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(weights)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(part.output))
    return bytes(model.SerializeToString())


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    """One thread: several runs share the cores, and features must not depend on how many there are."""
    try:
        import onnxruntime
    except ImportError as error:
        raise AssetMissing("package onnxruntime is not installed", hint="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
