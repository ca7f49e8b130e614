"""A checkpoint folder of this package's own, for assemblies that transformers has no class for, and its loader.

```
vlm_ablate.json        the assembly, the image preparation, the prompt format, the run it came from
assembly.safetensors   connector, architecture, adapters, and encoders that are no transformers model
language/              the language model and its tokeniser: a plain transformers checkpoint
vision/                the vision tower, where it is a model of transformers: likewise
```

The folder is whole by itself: nothing else is needed to load it, but the package of an encoder that is an ONNX graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModel, PreTrainedModel

from vlm_ablate.checkpoints.to_transformers import plain_tensors
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.adapters import merge_adapters
from vlm_ablate.models.language.vocabulary import short_head, shorten_head
from vlm_ablate.models.pretrained import OWN_DESCRIPTION, opened_tensors, quietly, read_json, resolve
from vlm_ablate.models.trained_state import adapter_metadata, fill, restore_adapters
from vlm_ablate.models.views import Views
from vlm_ablate.models.vision.hf import HubVisionEncoder
from vlm_ablate.models.vision.mllama import MllamaVisionEncoder
from vlm_ablate.models.vision.siglip import NativeSiglip
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.storage import storage_errors
from vlm_ablate.trust import load_plugins_of

TENSORS = "assembly.safetensors"
FORMAT = 1
_LANGUAGE, _VISION = "language.model.", "vision.backbone."


@dataclass(frozen=True)
class Description:
    """What the folder says of itself."""

    model: ModelConfig
    """The assembly; `id` of the parts are names of folders inside."""
    image: ImageConfig
    prompt: str
    """Prompt format that it was trained on: plain, chat or template."""
    plugins: tuple[str, ...] = ()
    run: Mapping[str, Any] | None = None
    """`RunSpec.to_dict()` of the run it came from."""
    head: tuple[int, int, int] | None = None
    """What `short_head` tells of the output head; in the folder its missing rows are zeros."""


def save_checkpoint(
    vlm: VLM,
    folder: Path,
    image: ImageConfig,
    *,
    prompt: str = "plain",
    plugins: tuple[str, ...] = (),
    run: Mapping[str, Any] | None = None,
    keep_adapters: bool = False,
) -> None:
    """Write a model into an existing folder. Without `keep_adapters` they are folded into `vlm`'s weights.

    `image` and `prompt` say how to ask it: as it was trained.

    Raises:
        StorageError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    if not keep_adapters:
        merge_adapters(vlm)
    tensors = plain_tensors(vlm)
    parts = {"language": _save_language(vlm, folder / "language", tensors)}
    if isinstance(vlm.vision, NativeSiglip | HubVisionEncoder | MllamaVisionEncoder):
        parts["vision"] = _save_vision(vlm, folder / "vision", tensors)
    elif "weights" in type(vlm.config.vision).model_fields:
        # Its tensors are all here: the loader need not find the package that they came from.
        parts["vision"] = {**vlm.config.vision.model_dump(mode="json"), "weights": "random"}
    tensors |= {name: tensor for name, tensor in vlm.state_dict().items() if "lora_" in name}
    body = {
        "format": FORMAT,
        "model": {**vlm.config.model_dump(mode="json"), **parts, "init_from": None},
        "image": image.model_dump(mode="json"),
        "prompt": prompt,
        "plugins": list(plugins),
        "run": run,
        "head": short_head(vlm.language),
    }
    with storage_errors("write", folder):
        (folder / OWN_DESCRIPTION).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
        own = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        save_file(own, folder / TENSORS, metadata={"format": "pt", **adapter_metadata(vlm)})


def read_description(folder: Path) -> Description:
    """What a checkpoint folder of this package holds.

    Raises:
        AssetMissing: it is none.
        ModelError: it is of a later format, damaged, or names code to run that the user did not allow.
    """
    file = folder / OWN_DESCRIPTION
    if not file.is_file():
        raise AssetMissing(f"{folder} is no checkpoint of this package: it has no {OWN_DESCRIPTION}")
    body = read_json(file)
    if body.get("format") != FORMAT:
        raise ModelError(f"{folder} is a checkpoint of format {body.get('format')}; this version reads {FORMAT}")
    plugins, prompt, run = (body.get(name) for name in ("plugins", "prompt", "run"))
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise ModelError(f"{file} cannot be read: `plugins` is no list of names")
    if not isinstance(prompt, str) or not isinstance(run, dict | None):
        raise ModelError(f"{file} cannot be read: `prompt` or `run` is of another kind than was written")
    head = body.get("head")
    if head is not None and not (isinstance(head, list) and len(head) == 3 and all(type(n) is int for n in head)):
        raise ModelError(f"{file} cannot be read: `head` is no list of three numbers")
    load_plugins_of(file, plugins, body.get("model"))
    try:
        model = ModelConfig.model_validate(body.get("model"))
        image = ImageConfig.model_validate(body.get("image"))
    except ValueError as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    return Description(model, image, prompt, tuple(plugins), run, (head[0], head[1], head[2]) if head else None)


def load_checkpoint(folder: str | Path, *, device: torch.device | str = "cpu") -> VLM:
    """The model in a folder that `vlm-ablate export` wrote for an assembly of this package's own.

    Returns:
        The model in evaluation mode; adapters that were kept are in it.

    Raises:
        AssetMissing: the folder is no such checkpoint.
        ModelError: it is damaged.
    """
    folder = resolve(str(folder))
    description = read_description(folder)
    vlm = _built(description, folder)
    tensors, metadata = _read(folder)
    restore_adapters(vlm, metadata, folder / TENSORS)
    parts = (_LANGUAGE, *((_VISION,) if (folder / "vision").is_dir() else ()))
    kept = vlm.state_dict().keys()
    needed = {n for n in kept if "lora_" in n or not n.startswith(parts)}
    fill(vlm, tensors, needed, fault=f"{folder / TENSORS} does not fit {OWN_DESCRIPTION}")
    return vlm.to(device).eval().requires_grad_(False)


def merged_tensors(vlm: VLM) -> dict[str, Tensor]:
    """All tensors under this package's names, adapters folded in, to start another model from. Changes `vlm`."""
    merge_adapters(vlm)
    return plain_tensors(vlm)


def planned_checkpoint(folder: Path) -> VLM:
    """The folder's model on the meta device, without adapters: nothing but configurations is read."""
    return _built(read_description(folder), folder, load_weights=False)


def _built(description: Description, folder: Path, *, load_weights: bool = True) -> VLM:
    views = Views.of([description.image])
    vlm = build_vlm(located(description.model, folder), views, load_weights=load_weights)
    if description.head:
        shorten_head(vlm.language, *description.head)
    return vlm


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with opened_tensors(folder / TENSORS) as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata() or {}


def located(model: ModelConfig, folder: Path) -> ModelConfig:
    """The assembly with the folders of its parts in full."""
    parts = {}
    for name in ("vision", "language"):
        part = getattr(model, name)
        if (folder / name).is_dir():
            parts[name] = part.model_copy(update={"id": str(folder / name)})
    return model.model_copy(update=parts)


def _save_language(vlm: VLM, folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write the language model; its tensors are taken out of `tensors`. Returns the part as the loader builds it."""
    own = _taken(tensors, _LANGUAGE)
    model = vlm.language.model
    config = type(model.config).from_dict(model.config.to_dict() | {"vocab_size": vlm.language.vocabulary})
    config.architectures = [type(model).__name__]
    if config.tie_word_embeddings:
        own = {n: t for n, t in own.items() if not n.startswith("lm_head.")}
    elif short_head(vlm.language):
        path = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
        head = own[f"{path}.weight"]
        own[f"{path}.weight"] = pad(head, (0, 0, 0, vlm.language.vocabulary - len(head)))
    _write_part(folder, config, own)
    with storage_errors("write", folder):
        model.generation_config.save_pretrained(folder)
        vlm.tokenizer.save_pretrained(folder)
    trust = getattr(vlm.config.language, "trust_remote_code", False)
    return {"name": "hf", "id": "language", "trust_remote_code": trust}


def _save_vision(vlm: VLM, folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write the tower; layers and heads that the encoder cut off are zeros, and are cut off again when it is read."""
    own, backbone = _taken(tensors, _VISION), cast(PreTrainedModel, vlm.vision.backbone)
    config = type(backbone.config).from_dict(backbone.config.to_dict())
    config.architectures = [type(backbone).__name__]
    part = vlm.config.vision
    if isinstance(vlm.vision, NativeSiglip):
        described: dict[str, Any] = {"name": "siglip-native", "id": "vision", "patches": vlm.vision.patches}
    else:
        if isinstance(vlm.vision, HubVisionEncoder):
            with torch.device("meta"):
                whole = AutoModel.from_config(config, trust_remote_code=part.trust_remote_code).state_dict()
            own |= {name: torch.zeros(t.shape) for name, t in whole.items() if name not in own}
        described = {**part.model_dump(mode="json"), "id": "vision", "revision": None}
    _write_part(folder, config, own)
    pixels = {"image_mean": list(vlm.vision.mean), "image_std": list(vlm.vision.std)}
    with storage_errors("write", folder):
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=1) + "\n")
    return described


def _write_part(folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    config.dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
    with storage_errors("write", folder), quietly():
        folder.mkdir(exist_ok=True)
        config.save_pretrained(folder)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if n.startswith(prefix)}
