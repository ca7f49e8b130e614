"""Questions from a causal language model on this machine: a folder, a hub id, or one of the registered small ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlm_ablate.docmatix.prompted import PromptedQuestioner
from vlm_ablate.docmatix.prompts import Messages
from vlm_ablate.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from vlm_ablate.models.language.base import LanguageModel

_OPENING = "Q1:"
"""What a model without a chat template is left to continue."""


class LocalQuestioner(PromptedQuestioner):
    """Greedy (or sampled) answers in left-padded batches, on the GPU if there is one."""

    def check(self) -> None:
        """
        Raises:
            AssetMissing: the model is not on this machine.
            ModelError: the model leaves no room for pages beside its answer.
        """
        _ = self._room, self._tokenizer
        del self.language  # the processes that ask load their own

    @cached_property
    def language(self) -> LanguageModel:
        """The model with its tokeniser, ready to generate."""
        import torch

        from vlm_ablate.registry import language_models

        wanted = self.settings.model or ""
        registered = wanted != "hf" and wanted in language_models
        config = language_models[wanted if registered else "hf"].config.model_validate(
            {"name": wanted} if registered else {"name": "hf", "id": wanted}
        )
        gpu = torch.cuda.is_available()
        language: LanguageModel = language_models.build(config, dtype=torch.bfloat16 if gpu else torch.float32)
        return language.to("cuda" if gpu else "cpu").eval()

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.language.tokenizer is None:
            raise ModelError(f"{self.settings.model} has no tokeniser on this machine, so that it cannot be asked")
        return self.language.tokenizer

    @property
    def _room(self) -> int:
        """Tokens of a prompt that leave room for the answer."""
        length = getattr(self.language.model.config, "max_position_embeddings", None) or 1 << 20
        room = length - self.settings.max_new_tokens
        if room < 64:
            raise ModelError(
                f"{self.settings.model} takes {length} tokens; answers of {self.settings.max_new_tokens} leave too few "
                "for the pages", hint=f"--max-new-tokens {length // 4}",
            )
        return room

    def complete(self, prompts: Sequence[Messages]) -> Iterator[tuple[int, str | None]]:
        # What is drawn by chance is drawn for each prompt alone: beside which others it is asked decides nothing.
        size = 1 if self.settings.temperature > 0 else self.settings.batch
        for start in range(0, len(prompts), size):
            batch = list(prompts[start : start + size])
            # One by one in a failing batch would hide a model that never works; errors go up.
            for offset, text in enumerate(self._generate(batch)):
                yield start + offset, text

    def _generate(self, batch: list[Messages]) -> list[str]:
        import torch

        s, tokenizer = self.settings, self._tokenizer
        model: Any = self.language.model  # generate() comes from a mix-in that the class does not show
        tokenizer.padding_side = "left"
        # The end of the prompt says what is wanted, its beginning who asks; text that is too long loses its middle.
        rows = [_shortened(tokenizer(self._written(m), add_special_tokens=False)["input_ids"], self._room)
                for m in batch]
        padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
        torch.manual_seed(int(hashlib.sha256(f"{s.seed} {rows}".encode()).hexdigest()[:15], 16))
        with torch.inference_mode():
            made = model.generate(
                **padded, max_new_tokens=s.max_new_tokens, do_sample=s.temperature > 0,
                temperature=s.temperature or None, pad_token_id=tokenizer.pad_token_id,
            )
        texts: list[str] = tokenizer.batch_decode(made[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts if self._has_template else [f"{_OPENING}{text}" for text in texts]

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self.language.tokenizer, "chat_template", None))

    def _written(self, prompt: Messages) -> str:
        """The conversation in the model's own chat template, or in plain words if it has none."""
        tokenizer = self._tokenizer
        if self._has_template:
            return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        text = "\n\n".join(message["content"] for message in prompt)
        return f"{tokenizer.bos_token or ''}{text}\n\n{_OPENING}"


def _shortened(ids: list[int], room: int) -> list[int]:
    if len(ids) <= room:
        return ids
    tail = min(room // 4, 64)
    return ids[: room - tail] + ids[-tail:]
