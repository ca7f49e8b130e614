"""What is trained in a stage: freezing, LoRA and DoRA (peft) in each backbone by itself, and what to keep of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import cast

from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from vlm_ablate.config.stages import BACKBONES, LoraConfig, Stage, Training
from vlm_ablate.errors import ModelError
from vlm_ablate.models.dora import in_closed_form, start_from_exact_norms
from vlm_ablate.models.language.base import trained_dtype
from vlm_ablate.models.seeding import seeded
from vlm_ablate.models.vlm import VLM, Adapter

ADAPTED = (Training.lora, Training.dora)
_NEW_ROWS = "trainable_tokens"
_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Embedding)


@dataclass(frozen=True)
class AdapterReport:
    """What a stage trains."""

    matched: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Backbone -> paths of its adapted modules; only backbones with adapters."""
    trainable: dict[str, int] = field(default_factory=dict)
    """Part -> trainable parameters: vision, connector, language, architecture, tokens (rows of new tokens)."""
    total: dict[str, int] = field(default_factory=dict)
    """Part -> all parameters, adapters included."""


def apply_training(vlm: VLM, stage: Stage, *, gradient_checkpointing: bool = False) -> AdapterReport:
    """Set what requires gradients as the stage says, and put adapters in where it wants them.

    Adapters that are already there stay when the stage asks for the same ones, stay frozen when it freezes the
    backbone, and are merged into the weights when it asks for others or for full training. Rows of new tokens are
    always trained.

    Raises:
        ModelError: LoRA targets match nothing, or the vision encoder cannot be trained.
    """
    matched = {}
    for name in BACKBONES:
        training: Training = getattr(stage, name)
        if name == "vision" and training is not Training.frozen and not vlm.vision.trainable:
            raise ModelError(f"the vision encoder {vlm.vision.config.name!r} cannot be trained; write `vision: frozen`")
        targets = stage.lora.vision_targets if name == "vision" else stage.lora.language_targets
        modules = _train_backbone(vlm, name, training, stage.lora, targets)
        if modules:
            matched[name] = modules
        _freeze_rest(vlm, name, getattr(stage.trained_layers, name))
    for part in (vlm.connector, vlm.architecture):
        part.requires_grad_(stage.connector == "full")
    vlm.neftune_alpha = stage.neftune_alpha
    vlm.set_gradient_checkpointing(gradient_checkpointing)
    vlm.touched |= {n for n, p in vlm.named_parameters() if p.requires_grad}
    return AdapterReport(matched, count_parameters(vlm, trainable=True), count_parameters(vlm))


def count_parameters(vlm: VLM, *, trainable: bool = False) -> dict[str, int]:
    """Parameters by part; shared ones count once."""
    counts = dict.fromkeys(("vision", "connector", "language", "architecture", "tokens"), 0)
    for name, parameter in vlm.named_parameters():
        part = "tokens" if _NEW_ROWS in name else name.split(".", 1)[0]
        counts[part] += parameter.numel() if parameter.requires_grad or not trainable else 0
    return counts


def backbone_of(vlm: VLM, name: str) -> nn.Module:
    """The module that is frozen, adapted or trained: `vision` or `language`."""
    return vlm.vision.backbone if name == "vision" else vlm.language.model


def _train_backbone(
    vlm: VLM, name: str, training: Training, lora: LoraConfig, targets: str | list[str]
) -> tuple[str, ...]:
    backbone, present = backbone_of(vlm, name), vlm.adapters.get(name)
    wanted = None
    if training in ADAPTED:
        modules = match_modules(backbone, targets, what=name)
        wanted = Adapter(training, lora.r, lora.alpha, lora.dropout, modules)
    if present and (training is Training.full or (wanted and wanted != present)):
        merge(vlm, name)
        present = None
    backbone.requires_grad_(training is Training.full)
    if wanted and not present:
        with seeded(vlm.seed, f"{name} adapter"):
            inject(vlm, name, wanted)
    for parameter_name, parameter in backbone.named_parameters():
        if "lora_" in parameter_name:
            parameter.requires_grad_(wanted is not None)
        elif _NEW_ROWS in parameter_name:
            parameter.requires_grad_(True)
        elif name == "vision" and parameter_name in vlm.vision.unused:
            parameter.requires_grad_(False)
    _set_dropout(backbone, lora.dropout if wanted else 0.0)
    return wanted.modules if wanted else ()


def _freeze_rest(vlm: VLM, name: str, layers: int | str | None) -> None:
    """Of a backbone that is trained in full, freeze all but the last so many layers, or what an expression matches.

    Raises:
        ModelError: it has fewer layers, or the expression matches no parameter.
    """
    if layers is None:
        return
    backbone = backbone_of(vlm, name)
    own = [path for path, p in backbone.named_parameters() if p.requires_grad and _NEW_ROWS not in path]
    if isinstance(layers, int):
        whole = _layers(vlm, name)
        if layers > len(whole):
            raise ModelError(f"trained_layers.{name}: the model has {len(whole)} layers, not {layers}")
        last = tuple(f"{path}." for path in whole[-layers:])
        kept = {path for path in own if path.startswith(last)}
    else:
        kept = {path for path in own if re.fullmatch(layers, path)}
    if not kept:
        told = ", ".join([*own[:2], *own[-1:]])
        raise ModelError(f"trained_layers.{name}: {layers!r} matches no parameter", hint=f"paths are like {told}")
    parameters = dict(backbone.named_parameters())
    for path in set(own) - kept:
        parameters[path].requires_grad_(False)


def _layers(vlm: VLM, name: str) -> list[str]:
    """Paths of a backbone's layers, first to last: of an encoder, those of all lists of the longest one's kind."""
    backbone = backbone_of(vlm, name)
    lists = [m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m)]
    lists = [vlm.language.layers] if name == "language" else lists
    longest = max(lists, key=len, default=nn.ModuleList())
    own = {id(layer) for found in lists if type(found[0]) is type(longest[0]) for layer in found}
    return [path for path, module in backbone.named_modules() if id(module) in own]


def match_modules(backbone: nn.Module, targets: str | list[str], *, what: str) -> tuple[str, ...]:
    """Paths of the modules that adapters go into.

    Args:
        backbone: the model.
        targets: "all-linear" (all linear layers but the output head), a list of module-name suffixes, or a regular
            expression over whole paths.
        what: name of the backbone, for the message.

    Raises:
        ModelError: nothing matches, or a table of the vocabulary does, or the expression is not valid.
    """
    head = getattr(backbone, "get_output_embeddings", lambda: None)()
    candidates = [(_clean(n), m) for n, m in backbone.named_modules() if _adaptable(n, m)]
    if targets == "all-linear":
        found = [n for n, m in candidates if isinstance(_base(m), nn.Linear) and m is not head]
    elif isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise ModelError(f"the {what} targets {targets!r} are not a regular expression: {error}") from error
        found = [n for n, _ in candidates if pattern.fullmatch(n)]
    else:
        found = [n for n, _ in candidates if any(n == t or n.endswith(f".{t}") for t in targets)]
    tables = [m for m in (head, getattr(backbone, "get_input_embeddings", lambda: None)()) if m is not None]
    named = [n for n, m in candidates if n in found and any(_base(m) is _base(table) for table in tables)]
    if what == "language" and named:
        raise ModelError(
            f"the language LoRA targets {targets!r} match {named[0]}, a table of the vocabulary, which takes no"
            " adapter: rows of new tokens are trained by themselves",
            hint="leave embeddings and the output head out of lora.language_targets, or train the model in full",
        )
    if not found:
        raise ModelError(
            f"the {what} LoRA targets {targets!r} match no module of {type(backbone).__name__}",
            hint=_names_to_write(candidates, head, f"lora.{what}_targets"),
        )
    return tuple(found)


def _names_to_write(candidates: list[tuple[str, nn.Module]], head: nn.Module | None, field: str) -> str:
    """What a list of targets may name: linear layers, in models without any convolutions."""
    for called, kind in (("linear layers", nn.Linear), ("convolutions", nn.Conv2d)):
        names = sorted({n.rpartition(".")[2] for n, m in candidates if isinstance(_base(m), kind) and m is not head})
        if names:
            return f"write names of its {called} in {field}: [{', '.join(names)}]"
    return f"it has no layer that can be adapted; leave {field.rpartition('.')[2].removesuffix('_targets')} frozen"


def _adaptable(path: str, module: nn.Module) -> bool:
    base = _base(module)
    inside = "base_layer" in path.split(".") or "lora_" in path
    if isinstance(base, nn.Conv2d) and (base.groups > 1 or type(base).forward is not nn.Conv2d.forward):
        return False  # peft's convolution beside it would not give the same shape
    return isinstance(base, _ADAPTABLE) and not inside


def _base(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _clean(path: str) -> str:
    return path.replace(".base_layer", "")


def inject(vlm: VLM, name: str, adapter: Adapter) -> None:
    """Put new adapters into a backbone. Their A matrices come from torch's generator, B is zero: the output stays."""
    backbone = backbone_of(vlm, name)
    config = PeftLoraConfig(
        r=adapter.r,
        lora_alpha=cast(int, adapter.alpha),  # peft takes fractions too
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind is Training.dora,
        target_modules=list(adapter.modules),
    )
    planning = next(backbone.parameters()).is_meta
    try:
        inject_adapter_in_model(config, backbone, low_cpu_mem_usage=planning)  # else peft draws what a plan drops
    except ValueError as error:
        raise ModelError(f"peft cannot adapt the {name} model: {error}", hint=f"narrow lora.{name}_targets") from error
    start_from_exact_norms(backbone)
    in_closed_form(backbone)
    for parameter_name, parameter in backbone.named_parameters():
        if "lora_" in parameter_name:  # peft gives adapters the dtype of the weight they are beside
            parameter.data = parameter.data.to(trained_dtype(parameter.dtype))
    backbone.train(backbone.training)  # new modules start in training mode, and would drop
    vlm.adapters[name] = adapter


def merge(vlm: VLM, name: str) -> None:
    """Fold a backbone's adapters into its weights and take them out; module classes and paths are restored."""
    backbone, adapter = backbone_of(vlm, name), vlm.adapters.pop(name, None)
    if adapter is None:
        return
    for path, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            _put_back(backbone, path, module)
    _forget_adapters(vlm, name)
    vlm.touched |= {f"{_prefix(name)}{module}.weight" for module in adapter.modules}


def _put_back(backbone: nn.Module, path: str, module: BaseTunerLayer) -> None:
    """The layer that an adapter was put around, into its place."""
    parent, _, child = path.rpartition(".")
    setattr(backbone.get_submodule(parent), child, module.get_base_layer())


def _forget_adapters(vlm: VLM, name: str) -> None:
    backbone, prefix = backbone_of(vlm, name), _prefix(name)
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config
    vlm.touched = {n for n in vlm.touched if not (n.startswith(prefix) and "lora_" in n)}


def take_out_adapters(vlm: VLM) -> None:
    """Take all adapters out without folding them in: the backbones are again what they were before."""
    for name in list(vlm.adapters):
        backbone = backbone_of(vlm, name)
        del vlm.adapters[name]
        for path, module in list(backbone.named_modules()):
            if isinstance(module, BaseTunerLayer):
                _put_back(backbone, path, module)
        _forget_adapters(vlm, name)


def merge_adapters(vlm: VLM) -> None:
    """Fold all adapters into the weights, e.g. before an export."""
    for name in BACKBONES:
        merge(vlm, name)


def _prefix(name: str) -> str:
    return "vision.backbone." if name == "vision" else "language.model."


def _set_dropout(backbone: nn.Module, p: float) -> None:
    """Adapters that a stage freezes must not drop anything."""
    for module in backbone.modules():
        if isinstance(module, BaseTunerLayer):
            for dropout in cast(nn.ModuleDict, module.lora_dropout).values():
                if isinstance(dropout, nn.Dropout):
                    dropout.p = p
