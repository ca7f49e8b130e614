"""What every language model is: a transformers causal LM with its tokeniser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel(nn.Module):
    """Base of all language models.

    Subclasses set `model` (a transformers `*ForCausalLM`) and `tokenizer` (None when only the structure was built
    and no tokeniser is on this machine).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    image_token_id: int | None = None
    """Id of `<image>` where the configuration is a vision-language model's: its tokeniser has all image tokens."""

    def __init__(
        self, config: ComponentConfig, *, load_weights: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        """
        Args:
            config: the language model's own configuration.
            load_weights: False builds the structure only, on the meta device.
            dtype: of the weights. bf16 is for models that are not trained in full and run under autocast.

        Raises:
            AssetMissing: the weights or the configuration are not on this machine.
        """
        super().__init__()
        self.config = config

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def intermediate(self) -> int:
        """Width of the MLPs (four times `hidden` where the configuration does not say)."""
        width = getattr(self.model.config, "intermediate_size", None)
        return width or 4 * self.hidden

    @property
    def decoder(self) -> PreTrainedModel:
        """The decoder without its output head."""
        return cast("PreTrainedModel", self.model.base_model)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, first to last."""
        return find_layers(self.decoder, self.model.config.num_hidden_layers)

    @contextmanager
    def scoring(self, positions: Tensor) -> Iterator[None]:
        """Within the block the output head sees only the marked positions: logits are (1, marked, vocabulary).

        Everything that a model does around its head (soft-capping, scaling) stays as it is.

        Args:
            positions: (batch, sequence) bool.
        """

        def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0][positions].unsqueeze(0), *inputs[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(select)
        try:
            yield
        finally:
            hook.remove()

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table."""
        return cast(nn.Embedding, self.model.get_input_embeddings()).num_embeddings

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokeniser.

        Raises:
            ModelError: there is none, as only the structure was built.
        """
        if self.tokenizer is None:
            raise ModelError("the language model was built for planning, and its tokeniser is not on this machine")
        return self.tokenizer


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block a model does without dropout; its modules are then in the modes that they were in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def trained_dtype(dtype: torch.dtype) -> torch.dtype:
    """What trained parameters beside weights of `dtype` are kept in: fp32 or more."""
    return torch.promote_types(dtype, torch.float32)


def find_layers(decoder: nn.Module, count: int) -> nn.ModuleList:
    """The decoder layers of any transformers causal LM: `layers` or, failing that, the one list of `count` modules.

    Raises:
        ModelError: there is no such list.
    """
    layers = getattr(decoder, "layers", None)
    if isinstance(layers, nn.ModuleList):
        return layers
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        raise ModelError(f"cannot find the decoder layers of {type(decoder).__name__}")
    return lists[0]
