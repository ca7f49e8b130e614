"""Any Hugging Face causal language model, alone or as the text part of a vision-language checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.language.configs import HubLanguageConfig
from vlm_ablate.models.language.inside import WELDED, fit_tables, text_config, welded_tensors
from vlm_ablate.models.pretrained import (
    config_folder,
    load_pretrained,
    read_config,
    read_json,
    read_tensors,
    tensor_names,
)

GENERATION = "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")


class HubLanguageModel(LanguageModel):
    """A causal language model of transformers with its tokeniser, by hub id or local folder.

    Of a vision-language checkpoint (Idefics2, Idefics3, SmolVLM, LLaVA, ...) the text part is taken; of Idefics and
    Mllama their decoder without its cross-attention layers, a Llama.
    """

    def __init__(
        self, config: HubLanguageConfig, *, load_weights: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(config, load_weights=load_weights, dtype=dtype)
        folder = config_folder(config.id, config.revision, planning=not load_weights)
        trust = config.trust_remote_code
        full = read_config(config.id, config.revision, planning=not load_weights, trust_remote_code=trust)
        text = text_config(full)
        generation = own_generation(folder) if load_weights else None
        if not load_weights:
            with torch.device("meta"):
                self.model = AutoModelForCausalLM.from_config(text or full, trust_remote_code=trust, dtype=dtype)
                fit_tables(self.model, full)
        elif text is not None:
            self.model = text_part(folder, full, dtype)
            if generation is not None:  # the whole checkpoint's, which its text part alone does not read
                self.model.generation_config = generation
        else:
            self.model, missing = load_pretrained(AutoModelForCausalLM, folder, trust_remote_code=trust, dtype=dtype)
            if missing:
                raise ModelError(f"{folder} lacks tensors of its language model: {missing[:3]}")
        self.image_token_id = getattr(full, "image_token_id", None)
        self.tokenizer = read_tokenizer(folder, needed=load_weights, trust_remote_code=trust)


def own_generation(folder: Path) -> GenerationConfig | None:
    """What a checkpoint says of how texts are continued, and where they end; None where it does not say.

    Raises:
        ModelError: it is damaged, which transformers passes over in silence with all that ends a text.
    """
    file = folder / GENERATION
    if not file.is_file():
        return None
    ends = read_json(file).get("eos_token_id")
    if not all(end is None or type(end) is int for end in (ends if isinstance(ends, list) else [ends])):
        raise ModelError(f"{file}: eos_token_id must be a whole number or a list of them, not {ends!r}")
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def text_part(folder: Path, full: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The language model inside a vision-language checkpoint of configuration `full`.

    Raises:
        ModelError: the checkpoint's text tensors are not those of the configuration.
    """
    config = text_config(full)
    if config is None:
        raise ModelError(f"{folder} is no vision-language checkpoint: {full.model_type} has no text part")
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    fit_tables(model, full)
    if full.model_type in WELDED:
        tensors = welded_tensors(folder, full)
    else:
        tensors = _tensors_of_text(folder, model.base_model_prefix)
    head, table = tensors.get("lm_head.weight"), tensors.get(f"{model.base_model_prefix}.embed_tokens.weight")
    if config.tie_word_embeddings and head is not None and table is not None and not torch.equal(head, table):
        raise ModelError(
            f"{folder}: the output head is another table than the embedding, and the configuration says they are one",
            hint="set tie_word_embeddings: false in its config.json",
        )
    missing, surplus = model.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if set(missing) - tied or surplus:
        raise ModelError(f"{folder}: text tensors missing {sorted(missing)[:3]}, surplus {sorted(surplus)[:3]}")
    model.tie_weights()
    model.eval()
    return model


def _tensors_of_text(folder: Path, prefix: str) -> dict[str, Tensor]:
    names = tensor_names(folder)
    suffix = "embed_tokens.weight"
    prefixes = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
    if len(prefixes) != 1:
        raise ModelError(f"{folder} holds {len(prefixes)} text embeddings, expected one")
    tensors = {f"{prefix}.{name}": tensor for name, tensor in read_tensors(folder, prefixes[0]).items()}
    for name in names:
        if name.endswith("lm_head.weight"):
            tensors["lm_head.weight"] = read_tensors(folder, name)[""]
    return tensors


def read_tokenizer(folder: Path, *, needed: bool, trust_remote_code: bool = False) -> PreTrainedTokenizerBase | None:
    """The tokeniser in a folder; None when there is none and it is not `needed`.

    Raises:
        AssetMissing: it is needed and not there.
    """
    # Without any of these transformers may make an empty tokeniser up from the configuration alone.
    present = any((folder / name).is_file() for name in TOKENIZER_FILES)
    if not present and not needed:
        return None
    try:
        if not present:
            raise OSError(f"none of {', '.join(TOKENIZER_FILES)}")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, ImportError, AttributeError, TypeError, KeyError) as error:
        if needed:
            raise AssetMissing(f"{folder} holds no tokeniser that transformers can read: {error}") from error
        return None
    if tokenizer.pad_token is None:
        # A padding id is never attended to nor scored; the end of text is in every vocabulary.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
