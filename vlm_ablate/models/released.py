"""Checkpoint folders that transformers loads, with all that is in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from vlm_ablate.config.model import WHOLE, ModelConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import quietly, tensor_names

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "adapter"
"""Name of the folder of peft adapters inside an exported checkpoint."""
ADAPTER_CONFIG = "adapter_config.json"
"""What makes a folder one of peft adapters."""


def adapter_folder(folder: Path) -> Path | None:
    """The peft adapters that stand beside the weights of a checkpoint; None where there are none."""
    return next((place for place in (folder / ADAPTER, folder) if (place / ADAPTER_CONFIG).is_file()), None)


def check_parts(config: ModelConfig) -> None:
    """Parts read the base weights of a folder; adapters that stand beside them are read with the whole checkpoint only.

    Raises:
        ModelError: a part's folder has adapters, and is not where the model starts from.
    """
    for part in ("vision", "language"):
        folder = Path(getattr(getattr(config, part), "id", None) or "").expanduser()
        starts = [Path(id).expanduser() for at, id in config.starts.items() if at in (part, WHOLE)]
        if adapter_folder(folder) and folder not in starts:
            raise ModelError(
                f"model.{part}: {folder} holds adapters beside its weights, which a part alone does not read",
                hint=f"start from the whole (model.init_from: {folder}), or export it without --keep-adapters",
            )


def read_model(folder: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The vision-language model in a folder, adapters beside its weights folded into them, in evaluation mode.

    Raises:
        AssetMissing: the folder holds no weights.
        ModelError: transformers has no class for it, or it is damaged or incomplete.
    """
    tensor_names(folder)  # damaged files are named before anything is built
    adapters = adapter_folder(folder)
    try:
        with quietly():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
            model: PreTrainedModel = loaded[0]
            report: dict[str, Any] = loaded[1]
            if report["missing_keys"]:
                raise ModelError(f"{folder} lacks tensors: {sorted(report['missing_keys'])[:4]}")
            if adapters:
                model = with_adapters(model, adapters).merge_and_unload()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {folder}: {error}") from error
    model.eval()
    return model


def with_adapters(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A model with the adapters of a peft folder, all of them: peft itself goes on with what it drew in their place.

    Raises:
        ModelError: the folder has no tensors for some of the modules that its configuration names.
        ValueError: the model has no such modules; and whatever else peft raises.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, str(folder))
        except UserWarning as warning:
            lacking = str(warning).partition("checkpoint: ")[2]
            raise ModelError(
                f"{folder} has no tensors for adapters of {type(model).__name__}: {lacking[:160]}",
                hint=f"its tensors must be named as the modules of {type(model).__name__} are: it is perhaps of another"
                " model, or was saved by another version of transformers",
            ) from warning
