"""One sample through a model that a stage has set up: what each part costs, forward and backward."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlm_ablate.accounting.meter import Meter
from vlm_ablate.accounting.plans import IN_LANGUAGE, SampleShape, sides
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.models.architectures.base import Reading
from vlm_ablate.models.architectures.cross_attention import CrossAttention, Sight
from vlm_ablate.models.vlm import VLM


@dataclass
class Measurement:
    """Costs of one sample. Parts are vision, connector, cross_attention and language (with the output head)."""

    views: int
    """Views of one image."""
    visual_tokens: int
    """Of one view."""
    placeholders: int
    """`<image>` tokens in the text of one view."""
    sequence: int
    """Tokens in the text stream."""
    supervised: int
    feature_bytes: int = 0
    """Of the encoder's output for the sample's images."""
    forward: dict[str, float] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)
    causal: float = 0.0
    """Operations of causal attention, forward and backward, with every key: of the language model's stretch."""
    saved: dict[str, int] = field(default_factory=dict)
    """Segment (vision, connector, language, loss) -> bytes that autograd keeps, nothing being checkpointed."""
    meter: Meter = field(default_factory=Meter)
    graded: dict[str, bool] = field(default_factory=dict)
    """Whether gradients pass through a backbone."""
    loose_weights: int = 0
    """Matrix weights, not in bf16 already, outside the layers that can be checkpointed, where gradients pass."""


def measure(
    vlm: VLM,
    image: ImageConfig,
    sample: SampleShape,
    *,
    backward: bool = True,
    autocast: bool = False,
    half: frozenset[int] = frozenset(),
) -> Measurement:
    """Run one sample through a model on the meta device, which is left as it was.

    Args:
        vlm: the model, set up for a stage.
        image: how the sample's images are prepared.
        sample: shape of the sample.
        backward: whether to run the backward pass, too.
        autocast: to bf16, as mixed precision does on a GPU.
        half: ids of parameters that are in bf16 already, so that autocast makes no copy.
    """
    views, size = views_of(image, *sides(image, sample))
    tokens = vlm.visual_tokens(*size)
    placeholders = vlm.architecture.placeholders(tokens)
    sequence = sample.text_tokens + sample.images * views * placeholders
    cost = Measurement(views, tokens, placeholders, sequence, sample.text_tokens)
    cost.meter.half = half
    pixels = torch.empty(sample.images * views, 3, *size, device="meta")
    with ExitStack() as stack:
        for part, layers in layers_of(vlm).items():
            stack.enter_context(cost.meter.watching(part, layers))
        stack.enter_context(cost.meter.running(vlm, autocast=autocast))
        stack.enter_context(torch.set_grad_enabled(backward))
        _pass(vlm, cost, pixels, backward=backward)
    for parameter in vlm.parameters():
        parameter.grad = None
    return cost


def views_of(image: ImageConfig, width: int, height: int) -> tuple[int, tuple[int, int]]:
    """Number of views of an image of that size, and the (height, width) to which they are padded."""
    from vlm_ablate.data.images import views_of_size

    sizes = views_of_size(width, height, image)
    return len(sizes), (max(h for h, _ in sizes), max(w for _, w in sizes))


def _pass(vlm: VLM, cost: Measurement, pixels: Tensor, *, backward: bool) -> None:
    """Forward part by part, then backward part by part, the graph being cut at the seams."""
    meter, trained = cost.meter, any(p.requires_grad for p in vlm.vision.parameters())
    with _Segment(cost, "vision"), torch.set_grad_enabled(backward and trained):
        seen = vlm.vision(pixels, None)
        meter.uncounted += len(pixels) * _untracked_flops(vlm)
    features = _seam(seen.features)
    cost.feature_bytes = features.numel() * features.element_size()
    with _Segment(cost, "connector"):
        states = vlm.connect(features, seen.mask, seen.grid)
    visual = _seam(states)
    with _Segment(cost, "language"):
        logits = _logits(vlm, cost, visual)
    with _Segment(cost, "loss"):
        loss = cross_entropy(logits.float(), torch.empty(len(logits), dtype=torch.long, device="meta"), reduction="sum")
    blocks = sum(block.flops for block in meter.layers["cross_attention"])
    cost.forward["language"] += cost.forward.pop("loss") - blocks
    cost.forward["cross_attention"] = blocks
    cost.graded = {"vision": seen.features.requires_grad} | dict.fromkeys(IN_LANGUAGE, loss.requires_grad)
    cost.causal = meter.causal
    if not backward:
        return
    cost.loose_weights = _loose_weights(vlm, cost, loss, states)
    stretches = (("language", loss, None), ("connector", states, visual), ("vision", seen.features, features))
    for part, output, seam in stretches:
        before = meter.flops
        if output.requires_grad and (seam is None or seam.grad is not None):
            output.backward(None if seam is None else seam.grad)
        cost.backward[part] = meter.flops - before
    cost.causal = meter.causal
    _split_blocks(vlm, cost)


class _Segment:
    """Adds the operations and saved bytes of a stretch of the forward pass to a part."""

    def __init__(self, cost: Measurement, part: str) -> None:
        self.cost, self.part = cost, part

    def __enter__(self) -> None:
        self.flops, self.saved = self.cost.meter.flops, self.cost.meter.saved

    def __exit__(self, *_: object) -> None:
        self.cost.forward[self.part] = self.cost.meter.flops - self.flops
        self.cost.saved[self.part] = self.cost.meter.saved - self.saved


def _seam(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _logits(vlm: VLM, cost: Measurement, visual: Tensor) -> Tensor:
    """(supervised, vocabulary) of one sequence, as in `VLM.forward`: the images first, then text."""
    model, ids = vlm.language.model, torch.empty(1, cost.sequence, dtype=torch.long, device="meta")
    embeds, places = model.get_input_embeddings()(ids), cost.sequence - cost.supervised
    if isinstance(vlm.architecture, CrossAttention):
        keys = visual.reshape(1, -1, visual.shape[-1])
        visible = torch.empty(1, cost.sequence, keys.shape[1], dtype=torch.bool, device="meta")
        seeing = vlm.architecture._set(Sight(keys, visible))  # `seeing` itself would look into the ids
    else:
        everywhere = torch.ones_like(ids)
        seeing = vlm.architecture.seeing(Reading(ids == 0, everywhere, everywhere == 1, None))
        if places == visual.shape[0] * visual.shape[1]:
            embeds = torch.cat([visual.reshape(1, places, -1).to(embeds.dtype), embeds[:, places:]], dim=1)
    # The token before the first text token predicts it; the last one predicts nothing.
    scored = slice(max(places - 1, 0), max(places - 1, 0) + cost.supervised)
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, x: (x[0][:, scored], *x[1:]))
    mask = torch.ones(1, cost.sequence, dtype=torch.bool, device="meta")
    try:
        with seeing:
            out = model(inputs_embeds=embeds, attention_mask=mask, position_ids=ids, use_cache=False)
            logits: Tensor = out.logits[0]
            return logits
    finally:
        hook.remove()


def _untracked_flops(vlm: VLM) -> float:
    """Operations on a view that torch does not see (ONNX graphs)."""
    count = getattr(vlm.vision.backbone, "untracked_flops", None)
    side = getattr(vlm.vision.config, "resolution", 0)
    return count(side, side) if count else 0.0


def _split_blocks(vlm: VLM, cost: Measurement) -> None:
    """The blocks' share of the backward pass: once for their inputs, once more for their weights if trained."""
    times = 2 if any(p.requires_grad for p in vlm.architecture.parameters()) else 1
    share = cost.forward["cross_attention"] * times if cost.backward["language"] else 0.0
    cost.backward["cross_attention"] = share
    cost.backward["language"] -= share


def _loose_weights(vlm: VLM, cost: Measurement, loss: Tensor, states: Tensor) -> int:
    head: nn.Module = vlm.language.model.get_output_embeddings()
    weights = cost.meter.copied_weights
    beside = weights(vlm.architecture) - sum(map(weights, blocks_of(vlm)))
    in_language = weights(head) + beside if loss.requires_grad else 0
    return in_language + (weights(vlm.connector) if states.requires_grad else 0)


def layers_of(vlm: VLM) -> dict[str, list[nn.Module]]:
    """Part -> its layers, which can be checkpointed and sharded one by one."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    backbones = {"vision": vlm.vision.backbone, "language": vlm.language.model}
    layers: dict[str, list[nn.Module]] = {
        p: [m for m in b.modules() if isinstance(m, GradientCheckpointingLayer)] for p, b in backbones.items()
    }
    return {**layers, "cross_attention": blocks_of(vlm)}


def blocks_of(vlm: VLM) -> list[nn.Module]:
    """The architecture's own blocks between the decoder layers."""
    return list(getattr(vlm.architecture, "blocks", []))
