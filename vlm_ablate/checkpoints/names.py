"""Names of tensors in released checkpoints, and in this package's assembly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

IDEFICS = ("idefics2", "idefics3", "smolvlm")
"""Values of a configuration's `model_type` whose tensors are named by `PREFIXES`."""

PREFIXES = {
    "model.vision_model.": "vision.backbone.",
    "model.connector.": "connector.",
    "model.text_model.": "language.model.model.",
    "lm_head.": "language.model.lm_head.",
}
"""Prefix in transformers' Idefics2, Idefics3 and SmolVLM checkpoints -> prefix here."""

EMBEDDING, HEAD = "language.model.model.embed_tokens.weight", "language.model.lm_head.weight"
POSITIONS = "vision.backbone.embeddings.position_embedding.weight"


def to_ours(name: str) -> str | None:
    """Our name of transformers' Idefics2 or Idefics3 tensor `name`; None when we have no place for it."""
    return _rename(name, PREFIXES)


def to_theirs(name: str) -> str | None:
    """transformers' name of our tensor `name` in Idefics2 or Idefics3; None when they have no place for it."""
    return _rename(name, {ours: theirs for theirs, ours in PREFIXES.items()})


def _rename(name: str, prefixes: dict[str, str]) -> str | None:
    return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), None)


@dataclass(frozen=True)
class Family:
    """How the checkpoints of a family name their tensors, in memory and in files old and new."""

    rules: tuple[tuple[str, str], ...]
    """(pattern, replacement) of the start of a name; the first that matches counts."""
    own_placeholder: bool = False
    """The placeholder of an image is another token than `<image>`; its embedding is copied to ours."""

    def to_ours(self, name: str) -> str | None:
        """Our name of their tensor; None when we have no place for it. Rows of one table here may be two there."""
        for pattern, replacement in self.rules:
            if re.match(pattern, name):
                return re.sub(pattern, replacement, name, count=1)
        return None

    def group(self, names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Our name -> theirs, the base rows of a table before the additional ones; and those without a place."""
        placed: dict[str, list[str]] = {}
        homeless: list[str] = []
        for name in sorted(names, key=lambda name: ("additional" in name, name)):
            ours = self.to_ours(name)
            homeless.append(name) if ours is None else placed.setdefault(ours, []).append(name)
        return placed, homeless


_TEXT = r"(?:model\.)?language_model\.(?:model\.)?"
_LLAVA = (
    (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision.backbone."),
    (r"(?:language_model\.)?lm_head\.", "language.model.lm_head."),
    (_TEXT, "language.model.model."),
)
_PROJECTOR = r"(?:model\.)?multi_modal_projector\."


def _idefics2(config: PretrainedConfig) -> Family:
    return Family(tuple((re.escape(theirs), ours) for theirs, ours in PREFIXES.items()))


def _llava(config: PretrainedConfig) -> Family:
    return Family((*_LLAVA, (_PROJECTOR, "connector.modality_projection.")))


def _paligemma(config: PretrainedConfig) -> Family:
    return Family((*_LLAVA, (_PROJECTOR, "connector.")))


_RESAMPLER = {
    r"0\.context_layer_norm": "input_context_norm",
    r"0\.latents_layer_norm": "input_latents_norm",
    r"0\.q_layer_norm": "self_attn.q_norm",
    r"0\.k_layer_norm": "self_attn.k_norm",
    r"0\.output_proj": "self_attn.o_proj",
    r"0\.": "self_attn.",
    r"1\.ln": "post_attention_layernorm",
    r"1\.fc": "mlp.linear_1",
    r"1\.c_proj": "mlp.linear_2",
}


def _idefics(config: PretrainedConfig) -> Family:
    block, ours = r"model\.gated_cross_attn_layers\.(\d+)\.", r"architecture.blocks.\1."
    layer = r"model\.perceiver_resampler\.blocks\.(\d+)\."
    return Family(
        (
            (block + r"cross_attn\.([qk])_layer_norm\.", ours + r"\2_norm."),
            (block + r"(?:cross_attn\.|mlp\.)?", ours),
            *((layer + old, rf"connector.perceiver_resampler.layers.\1.{new}") for old, new in _RESAMPLER.items()),
            (r"model\.perceiver_resampler\.layer_norm\.", "connector.perceiver_resampler.norm."),
            (r"model\.perceiver_resampler\.", "connector.perceiver_resampler."),
            (r"model\.vision_model\.", "vision.backbone."),
            (r"model\.embed_tokens\.additional_embedding\.", "language.model.model.embed_tokens."),
            (r"lm_head\.additional_fc\.", "language.model.lm_head."),
            (r"lm_head\.", "language.model.lm_head."),
            (r"model\.", "language.model.model."),
        )
    )


def _mllama(config: PretrainedConfig) -> Family:
    crossing = sorted(config.text_config.cross_attention_layers)
    rules = []
    for index in range(config.text_config.num_hidden_layers):
        layer, before = rf"{_TEXT}layers\.{index}\.", sum(i < index for i in crossing)
        if index in crossing:
            ours = f"architecture.blocks.{before}."
            rules += [
                (layer + r"cross_attn_attn_gate", ours + "alpha_cross_attn"),
                (layer + r"cross_attn_mlp_gate", ours + "alpha_dense"),
                (layer + r"(?:cross_attn\.|mlp\.)?", ours),
            ]
        else:
            rules.append((layer, f"language.model.model.layers.{index - before}."))
    return Family(
        (
            *rules,
            (r"(?:model\.)?vision_model\.", "vision.backbone."),
            (_PROJECTOR, "connector.linear."),
            *_LLAVA[1:],
        ),
        own_placeholder=True,
    )


FAMILIES: dict[str, Callable[[PretrainedConfig], Family]] = {
    **dict.fromkeys(IDEFICS, _idefics2),
    "llava": _llava,
    "paligemma": _paligemma,
    "idefics": _idefics,
    "mllama": _mllama,
}
"""`model_type` of a configuration -> how its tensors are named."""
